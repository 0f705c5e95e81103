//! Nodes: processes that boot, take turns, stand still and die, and the devices that outlive them.
//!
//! A boot runs the real `wal::Recovery` over what the device holds and starts the real
//! `shard::Shard` from its verdict. Does not: carry out effects (`act`) or choose who dies
//! (`chaos`).

use core::time::Duration;
use std::collections::BTreeMap;

use super::act::EIO;
use super::checker::{ReplicaView, Watch};
use super::clients::CLUSTER;
use super::conns::CONN_BUDGET_BYTES;
use super::disk::Disk;
use super::doors::{Attic, Door};
use super::elections::Seat;
use super::medium::Medium;
use super::mirror::{Found, Mirror};
use super::plan::{Between, Plan};
use super::verdict::{Check, Failure, Fault, fail};
use super::world::{At, Event, World, node_id};
use crate::base::{Arena, BlockBuf, Moment, Prng};
use crate::model::{ConnId, GroupId, LogIndex, NodeId, ShardId, Span, StreamId};
use crate::raft::{self, RoleName, Timing};
use crate::shard::{
    Effect, Effects, Input, Inputs, NodeAddress, ReadSeq, RetentionLimits, Shard, ShardConfig,
    WorldFacts,
};
use crate::stats::Counters;
use crate::wal::{
    Identity, ReadFault, RecoverError, Recovered, Recovery, SegmentFile, SegmentNo, Step, WalMay,
};

/// How often a shard hears that time has passed.
const TICK: Duration = Duration::from_millis(20);
/// How long an operator's supervisor takes to start a process that stopped by itself.
pub(super) const SUPERVISOR: Duration = Duration::from_millis(100);
/// From the first input to the turn that takes it, on a core that somebody else uses too.
const SLOW_TURN: Between = Between::millis(1, 40);

/// A device read that was not answered yet.
pub(super) struct PendingRead {
    pub(super) segment: SegmentNo,
    pub(super) offset: u64,
    pub(super) buf: BlockBuf,
}

/// One shard of one run of a process.
pub(super) struct Live {
    pub(super) shard: Shard,
    pub(super) arena: Arena,
    pub(super) inputs: Inputs,
    pub(super) effects: Effects,
    pub(super) reads: BTreeMap<ReadSeq, PendingRead>,
    watches: BTreeMap<GroupId, Watch>,
    pub(super) seats: BTreeMap<GroupId, Seat>,
    /// What its clock showed when the process began.
    began: Moment,
    turn_scheduled: bool,
    streams: StreamId,
    conns: u64,
}

impl Live {
    /// The next stream's name.
    pub(super) fn next_stream(&mut self) -> StreamId {
        self.streams = self.streams.next();
        self.streams
    }

    /// The next client connection's name.
    pub(super) fn next_conn(&mut self) -> ConnId {
        self.conns += 1;
        ConnId::new(self.conns)
    }
}

/// One shard's place on a node.
pub(super) struct Core {
    pub(super) identity: Identity,
    pub(super) disk: Disk,
    pub(super) mirror: Mirror,
    pub(super) medium: Medium,
    live: Option<Live>,
    /// The memory of the run before, for the next one: fresh memory is what a boot costs most.
    memory: Option<Arena>,
}

impl Core {
    /// A file goes: nothing live may be in it alone (W-13).
    pub(super) fn gives_up(&mut self, segment: SegmentNo) -> Check {
        let Some(live) = &self.live else { return Ok(()) };
        let base_of = |group| live.shard.group(group).map(|raft| raft.base().index);
        self.medium.gives_up(segment, &self.mirror, base_of)
    }

    /// What is remembered of a replica's part in elections, if the process runs.
    pub(super) fn seat(&self, group: GroupId) -> Option<&Seat> {
        self.live.as_ref()?.seats.get(&group)
    }

    /// The commit index of a replica, if the process runs.
    pub(super) fn commit_of(&self, group: GroupId) -> Option<LogIndex> {
        self.live.as_ref()?.shard.group(group).map(raft::Group::commit)
    }

    /// What the living shard has counted.
    pub(super) fn counters(&self) -> Option<&Counters> {
        self.live.as_ref().map(|live| live.shard.counters())
    }
}

/// One node.
pub(super) struct Node {
    place: usize,
    /// Counts the runs of its process.
    pub(super) boot: u64,
    up: bool,
    /// It stands still: what arrives waits.
    pub(super) paused: bool,
    /// Recovery refused its log, as it must: it stays down.
    pub(super) refused: bool,
    /// Its stored bytes are not what was written, so that recovery may refuse.
    damaged: bool,
    /// It came back with another disk: nobody may let it in.
    pub(super) is_outsider: bool,
    /// What its data directory says of itself and of the others.
    pub(super) door: Door,
    /// An old image of its disk.
    pub(super) attic: Option<Attic>,
    /// A device of it answered with an error in this run: it must stop.
    pub(super) device_failed: bool,
    /// Shards that were asked to drain and have not.
    pub(super) undrained: usize,
    /// Its last run ended in peace: recovery has nothing to cut.
    pub(super) sealed: bool,
    pub(super) stalled_until: Moment,
    /// Its devices take long until then.
    pub(super) slow_disk_until: Moment,
    /// Its devices have no room for new segments until then.
    pub(super) disk_full_until: Moment,
    /// Its turns take long until then.
    pub(super) slow_core_until: Moment,
    /// What its clock showed when it was suspended.
    frozen_at: Option<Moment>,
    clock_offset_nanos: u64,
    clock_ppm: u64,
    pub(super) cores: Vec<Core>,
}

impl Node {
    /// A freshly formatted node at `place`, not started yet.
    pub(super) fn new(place: usize, plan: &Plan, prng: &mut Prng) -> Self {
        let door = Door::format(prng);
        let core = |shard: u16| Core {
            identity: Identity { cluster: CLUSTER, node: door.uuid(), shard: ShardId::new(shard) },
            disk: Disk::new(plan.geometry),
            mirror: Mirror::default(),
            medium: Medium::default(),
            live: None,
            memory: None,
        };
        Self {
            place,
            boot: 0,
            up: false,
            paused: false,
            refused: false,
            damaged: false,
            is_outsider: false,
            attic: None,
            device_failed: false,
            undrained: 0,
            sealed: false,
            stalled_until: Moment::ZERO,
            slow_disk_until: Moment::ZERO,
            disk_full_until: Moment::ZERO,
            slow_core_until: Moment::ZERO,
            frozen_at: None,
            // Never so small that what a suspended clock misses could take it below zero.
            clock_offset_nanos: (1 << 40) + prng.below(1 << 40),
            clock_ppm: prng.below(plan.clock_drift_ppm + 1),
            cores: (0..plan.shards).map(core).collect(),
            door,
        }
    }

    /// Whether its stored bytes are not what was written.
    pub(super) fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// Whether the healed cluster has to do without it.
    pub(super) fn is_lost(&self) -> bool {
        self.refused || self.is_outsider
    }

    /// Whether its process runs, paused or not.
    pub(super) fn is_up(&self) -> bool {
        self.up
    }

    /// Whether its process would answer a connection now.
    pub(super) fn answers(&self) -> bool {
        self.up && !self.paused
    }

    /// The present run of one of its shards.
    pub(super) fn at(&self, shard: usize) -> At {
        At { node: self.place, shard, boot: self.boot }
    }

    /// One of its shards, if the process runs.
    pub(super) fn live(&mut self, shard: usize) -> Option<&mut Live> {
        self.cores[shard].live.as_mut()
    }

    /// What its clock shows at `now`: another origin and another rate than the world's.
    fn clock(&self, now: Moment) -> Moment {
        let nanos = u128::from(now.as_nanos());
        let drifted = nanos + nanos * u128::from(self.clock_ppm) / 1_000_000;
        let shown = drifted + u128::from(self.clock_offset_nanos);
        Moment::from_nanos(u64::try_from(shown).expect("a run is short"))
    }

    /// Its clock jumps forward.
    pub(super) fn jump_clock(&mut self, by: Duration) {
        self.clock_offset_nanos += u64::try_from(by.as_nanos()).expect("jumps are short");
    }

    /// It is suspended, its clock with it, until it goes on.
    pub(super) fn freeze_clock(&mut self, now: Moment) {
        self.frozen_at = Some(self.clock(now));
    }

    /// Its clock goes on from where it stood.
    pub(super) fn thaw_clock(&mut self, now: Moment) {
        if let Some(frozen) = self.frozen_at.take() {
            let missed = self.clock(now).since(frozen);
            self.clock_offset_nanos -= u64::try_from(missed.as_nanos()).expect("freezes are short");
        }
    }
}

impl World {
    /// The present run of a shard, if it is the one meant.
    pub(super) fn core(&mut self, at: At) -> Option<&mut Core> {
        let node = &mut self.nodes[at.node];
        (node.up && node.boot == at.boot).then(|| &mut node.cores[at.shard])
    }

    /// The same as its living part.
    pub(super) fn live_at(&mut self, at: At) -> Option<&mut Live> {
        self.core(at)?.live.as_mut()
    }

    /// Gives a shard an input, if it still runs, and lets it take a turn soon.
    pub(super) fn give(&mut self, at: At, input: Input) {
        let Some(live) = self.live_at(at) else { return };
        live.inputs.push(input);
        self.turn_soon(at);
    }

    /// Lets a shard take a turn, if it has inputs and nobody is going to yet.
    pub(super) fn turn_soon(&mut self, at: At) {
        let paused = self.nodes[at.node].paused;
        let Some(live) = self.live_at(at) else { return };
        if paused || live.inputs.queue.is_empty() || live.turn_scheduled {
            return;
        }
        live.turn_scheduled = true;
        let slow = self.queue.now() < self.nodes[at.node].slow_core_until;
        let turn = if slow { SLOW_TURN } else { self.plan.turn };
        let delay = turn.draw(&mut self.prng.turn);
        self.queue.after(delay, Event::Turn(at));
    }

    /// Time has passed.
    pub(super) fn on_tick(&mut self, at: At) {
        if self.core(at).is_some() {
            self.queue.after(TICK, Event::Tick(at));
            if !self.nodes[at.node].paused {
                self.give(at, Input::Tick);
            }
        }
    }

    /// A shard takes a turn: the oracles look at it before the world acts on it.
    pub(super) fn on_turn(&mut self, at: At) -> Check {
        let (now, paused) = (self.queue.now(), self.nodes[at.node].paused);
        let clock = self.nodes[at.node].clock(now);
        let Some(live) = self.live_at(at) else { return Ok(()) };
        live.turn_scheduled = false;
        if paused {
            return Ok(());
        }
        let fails = |inputs: &Inputs| {
            inputs.queue.iter().any(|input| matches!(input, Input::WriteFailed { .. }))
        };
        let must_halt = fails(&live.inputs);
        let inputs = live.inputs.queue.len() as u64;
        live.shard.turn(clock, &mut live.inputs, &mut live.arena, &mut live.effects);
        let must_halt = must_halt && !fails(&live.inputs);
        let taken = live.shard.uncommitted_bytes();
        let effects = core::mem::take(&mut live.effects.list);
        if must_halt && !effects.iter().any(|effect| matches!(effect, Effect::Halt { .. })) {
            fail!(DeviceContract, "{at:?} goes on after a failed write (I-03)");
        }
        // A request above the whole budget gets its chance when it is alone.
        let bound = (self.plan.uncommitted_bytes_max as u64).max(self.batch_bytes_max());
        if taken as u64 > bound {
            fail!(Budget, "{at:?} has taken in {taken} bytes of appends, {bound} are its bound");
        }
        let facts = [at.node as u64, at.shard as u64, inputs, effects.len() as u64];
        self.note("turn", &facts);
        self.inspect(at, clock)?;
        for effect in effects {
            self.act(at, effect)?;
        }
        self.check_sealed(at)?;
        self.turn_soon(at);
        Ok(())
    }

    /// Holds every group of a shard against the truth.
    fn inspect(&mut self, at: At, clock: Moment) -> Check {
        let Some(mut live) = self.core(at).and_then(|core| core.live.take()) else {
            return Ok(());
        };
        let mirrors: Vec<&Mirror> =
            self.nodes.iter().map(|node| &node.cores[at.shard].mirror).collect();
        let mut result = Ok(());
        for id in live.shard.groups() {
            let group = live.shard.group(id).expect("just listed");
            let view = ReplicaView {
                node: node_id(at.node),
                group: id,
                term: group.term(),
                leads: group.role() == RoleName::Leader,
                commit: group.commit(),
                base: group.base().index,
                last: group.last(),
                term_at: &|index| group.term_at(index),
                span_at: &|index| group.span_at(index).map(|batch| batch.span),
            };
            let watch = live.watches.entry(view.group).or_default();
            result = self.checker.inspect(&view, watch, &mirrors);
            if result.is_err() {
                break;
            }
            let mirror = mirrors[at.node];
            let seat = live.seats.entry(id).or_default();
            let who = (node_id(at.node), live.began, clock);
            result = self.elections.turn(who, group, seat, mirror);
            if result.is_ok() {
                let lies = self.plan.disk.lost_ppm + self.plan.disk.misdirected_ppm > 0;
                let chaos = &self.plan.chaos;
                let is_kept = !lies && chaos.rot.is_none() && chaos.new_disk_percent == 0;
                result = check_durable(node_id(at.node), group, mirror, is_kept);
            }
            if result.is_err() {
                break;
            }
        }
        self.nodes[at.node].cores[at.shard].live = Some(live);
        result
    }

    /// Within 5 ms of going idle a log has a witness of its last block (W-06); a second is given,
    /// since a segment file may have to be made first.
    fn check_sealed(&mut self, at: At) -> Check {
        let now = self.queue.now();
        let (disk, chaos) = (&self.plan.disk, &self.plan.chaos);
        // Whatever keeps a device, a core or a clock from doing its part keeps the seal too.
        let slow = [chaos.stall, chaos.slow_disk, chaos.hang, chaos.disk_full];
        let slow = [slow.as_slice(), &[chaos.ambush, chaos.plot]].concat();
        let still = [chaos.freeze, chaos.pause, chaos.slow_core];
        let is_excused = disk.no_space_ppm > 0 || slow.iter().chain(&still).any(Option::is_some);
        let Some(core) = self.core(at) else { return Ok(()) };
        if !is_excused && core.mirror.lacks_witness(now) {
            fail!(Seal, "{at:?} is idle, and nothing on its device vouches for its last block");
        }
        Ok(())
    }

    /// The commit index of a node's replica of a group, if the node runs.
    pub(super) fn commit_of(&mut self, node: usize, group: GroupId) -> Option<LogIndex> {
        let shard = self.shard_of(group);
        let live = self.nodes[node].live(shard)?;
        live.shard.group(group).map(raft::Group::commit)
    }

    /// Starts a node: recovers every shard's log and boots the shards.
    pub(super) fn boot(&mut self, node: usize) -> Check {
        self.nodes[node].rolls_back();
        let mut recovered = Vec::new();
        for shard in 0..self.nodes[node].cores.len() {
            match self.recover(node, shard)? {
                Some(found) => recovered.push(found),
                None => {
                    if !self.nodes[node].refused {
                        self.restart_after(node, SUPERVISOR);
                    }
                    return Ok(());
                }
            }
        }
        let one = &mut self.nodes[node];
        one.sealed = false;
        one.boot += 1;
        one.door.starts(node, one.boot);
        one.up = true;
        self.summary.recoveries += u64::from(one.boot > 1);
        let boot = one.boot;
        self.note("boot", &[node as u64, boot]);
        for (shard, found) in recovered.into_iter().enumerate() {
            let live = self.boot_shard(node, shard, *found);
            self.nodes[node].cores[shard].live = Some(live);
            let at = At { node, shard, boot };
            self.give(at, Input::Tick);
            self.queue.after(TICK, Event::Tick(at));
        }
        Ok(())
    }

    fn boot_shard(&mut self, node: usize, shard: usize, recovered: Recovered) -> Live {
        let seed = self.prng.shard.next_u64();
        let clock = self.nodes[node].clock(self.queue.now());
        let config = self.shard_config(node, shard, seed);
        // Of a run before something may still be on its way to somewhere.
        let memory = self.nodes[node].cores[shard].memory.take();
        let memory = memory.and_then(|mut arena| arena.reclaim().then_some(arena));
        let fresh = || Arena::new(self.plan.arena_extents, self.plan.arena_extent_bytes);
        Live {
            shard: Shard::boot(config, recovered, clock),
            arena: memory.unwrap_or_else(fresh),
            inputs: Inputs::default(),
            effects: Effects::default(),
            reads: BTreeMap::new(),
            watches: BTreeMap::new(),
            seats: BTreeMap::new(),
            began: clock,
            turn_scheduled: false,
            streams: StreamId::default(),
            conns: 0,
        }
    }

    fn shard_config(&self, node: usize, shard: usize, seed: u64) -> ShardConfig {
        let identity = self.nodes[node].cores[shard].identity;
        let address = |at| NodeAddress {
            node: node_id(at),
            host: format!("node-{at}"),
            client_port_base: 7000,
        };
        let plan = &self.plan;
        ShardConfig {
            cluster: identity.cluster,
            node: node_id(node),
            uuid: identity.node,
            boot: self.nodes[node].door.boot(),
            shard: identity.shard,
            shard_count: plan.shards,
            nodes: (0..self.nodes.len()).map(address).collect(),
            group_count: plan.groups,
            geometry: plan.geometry,
            timing: Timing::default(),
            block_target_bytes: plan.geometry.block_bytes_max as usize / 2,
            uncommitted_bytes_max: plan.uncommitted_bytes_max,
            connection_bytes_max: CONN_BUDGET_BYTES,
            device_writes_max: plan.geometry.writes_in_flight_max,
            direct_frame_bytes_min: plan.direct_frame_bytes_min,
            peer_credit_bytes: plan.credit_bytes,
            retention: RetentionLimits {
                bytes_per_group: plan.retention_bytes.unwrap_or(0),
                records_per_group: 0,
            },
            segments_ahead: plan.segments_ahead,
            segments_at_start: 0,
            facts: WorldFacts::default(),
            seed,
        }
    }

    /// Recovers one shard's log. `None`: it is refused, as it must be, or cannot be read now.
    fn recover(&mut self, node: usize, shard: usize) -> Result<Option<Box<Recovered>>, Failure> {
        let ppm = if self.chaotic { self.plan.disk.start_error_ppm } else { 0 };
        let one = &mut self.nodes[node];
        let damaged = one.damaged;
        let core = &mut one.cores[shard];
        let verdict = read_log(core, self.plan.geometry, ppm, &mut self.prng.disk);
        let recovered = match verdict {
            Ok(recovered) => recovered,
            Err(RecoverError::Unreadable { fault: ReadFault::Failed { .. }, .. }) if ppm > 0 => {
                self.tally.count(Fault::StartReadError);
                self.note("unreadable", &[node as u64, shard as u64]);
                return Ok(None);
            }
            Err(error) if damaged => {
                one.refused = true;
                self.trace.say(self.queue.now(), format_args!("node {node} refused: {error}"));
                self.note("refused", &[node as u64, shard as u64]);
                return Ok(None);
            }
            Err(error) => fail!(Recovery, "{:?} shard {shard}: {error}", node_id(node)),
        };
        if let Some(cut) = &recovered.cut {
            if one.sealed {
                fail!(Recovery, "{:?}: {cut:?} after it had drained", node_id(node));
            }
            self.summary.cuts += 1;
            let line = format_args!("node {node} shard {shard} cut at {}", cut.lsn);
            self.trace.say(self.queue.now(), line);
        }
        let mut found = Vec::new();
        for group in &recovered.groups {
            let spans: Vec<Span> = group.spans.iter().map(|(span, _, _)| *span).collect();
            core.mirror.recovered(&Found {
                group: group.group,
                base: group.base,
                state: group.hard_state,
                runs: group.runs.iter().map(|run| (run.first, run.term)).collect(),
                spans: &spans,
                last: group.last.index,
            })?;
            found.extend(spans.into_iter().map(|span| (group.group, span)));
        }
        core.mirror.recovered_all(&recovered.groups.iter().map(|group| group.group).collect())?;
        core.medium.recovered(&found, &core.mirror)?;
        core.mirror.spare = recovered.spare.iter().copied().collect();
        self.note("recover", &[node as u64, shard as u64, recovered.end.get()]);
        Ok(Some(recovered))
    }

    /// A node's process dies, and with its power what its devices had in flight.
    pub(super) fn crash(&mut self, node: usize, power_loss: bool) {
        let one = &mut self.nodes[node];
        one.up = false;
        one.paused = false;
        one.device_failed = false;
        one.undrained = 0;
        one.frozen_at = None;
        if one.stalled_until == Moment::NEVER {
            one.stalled_until = Moment::ZERO; // Whoever starts it again has mended the device.
        }
        let now = self.queue.now();
        for core in &mut one.cores {
            if let Some(live) = core.live.take() {
                self.summary.count(live.shard.counters());
                core.memory = Some(live.arena);
            }
            core.mirror.crashed();
            core.medium.crashed();
            let wreck = core.disk.crash(now, power_loss, &mut self.prng.disk);
            // A shard that had drained before its siblings may have gone on writing for peers, and
            // one that wrote nothing left the torn tail of the run before as it was.
            one.sealed &= wreck.began && wreck.writes == 0;
            for _ in 0..wreck.torn {
                self.tally.count(Fault::TornWrite);
            }
            for _ in 0..wreck.returned {
                self.tally.count(Fault::DirectoryEntry);
            }
        }
        self.note("crash", &[node as u64, u64::from(power_loss)]);
        for link in self.net.links_of(node) {
            self.reset(link);
        }
        self.cut_conns_of(node);
    }

    /// Whether a node's stored bytes may be damaged: those of a majority are always sound, or
    /// nobody could promise anything (fault atlas, rules 4.2).
    pub(super) fn may_damage(&self, node: usize) -> bool {
        let others = self.nodes.iter().enumerate().filter(|(at, one)| *at != node && one.damaged);
        others.count() < (self.nodes.len() - 1) / 2
    }

    /// From now on recovery may refuse this node's log.
    pub(super) fn damage(&mut self, node: usize, fault: Fault) {
        self.nodes[node].damaged = true;
        self.tally.count(fault);
        self.note("damage", &[node as u64, fault as u64]);
    }

    /// Changes a stored bit of a node, if it may be damaged.
    pub(super) fn rot(&mut self, node: usize) {
        if !self.may_damage(node) {
            return;
        }
        let one = &mut self.nodes[node];
        let shard = self.prng.disk.below(one.cores.len() as u64);
        let core = &mut one.cores[usize::try_from(shard).expect("few")];
        // A second damage might hit the one block that vouches for the first.
        let vouched = (!one.damaged).then_some(core.mirror.vouched);
        if core.disk.rot(vouched, &mut self.prng.disk) {
            self.damage(node, Fault::Rot);
        }
    }
}

/// What a replica takes for durable is on its device, whatever was truncated meanwhile (I-06); and
/// where devices keep what they confirmed, nobody is ever taken for an amnesiac.
fn check_durable(node: NodeId, group: &raft::Group, mirror: &Mirror, is_kept: bool) -> Check {
    let durable = group.durable();
    let holds = match group.span_at(durable) {
        Some(batch) => mirror.replica(group.id()).is_some_and(|held| held.holds(batch.span)),
        None => true,
    };
    if !holds {
        fail!(AckDiscipline, "{node:?} {:?} takes {durable:?} for durable (I-06)", group.id());
    }
    if is_kept && group.counters().reversions > 0 {
        fail!(Amnesia, "{node:?} {:?} believes that a peer has lost what it had", group.id());
    }
    Ok(())
}

/// Drives the real recovery over a simulated device.
fn read_log(
    core: &mut Core,
    geometry: crate::wal::Geometry,
    error_ppm: u64,
    prng: &mut Prng,
) -> Result<Box<Recovered>, RecoverError> {
    let files: Vec<SegmentFile> = core
        .disk
        .files()
        .into_iter()
        .map(|(segment, bytes)| SegmentFile { segment, bytes })
        .collect();
    let may = if core.mirror.has_begun() { WalMay::NotBeEmpty } else { WalMay::BeEmpty };
    let mut recovery = Recovery::new(core.identity, geometry, may, &files)?;
    loop {
        match recovery.next() {
            Step::Read(_) if prng.chance(error_ppm, 1_000_000) => {
                recovery.feed(Err(ReadFault::Failed { errno: EIO }));
            }
            Step::Read(wish) => {
                let mut bytes = vec![0; wish.bytes as usize];
                let found = core.disk.read(wish.segment, wish.offset, &mut bytes, prng);
                assert!(found, "{wish:?} lies outside of every file");
                recovery.feed(Ok(&bytes));
            }
            Step::Done(recovered) => return Ok(recovered),
            Step::Refused(error) => return Err(error),
        }
    }
}
