//! Who lets whom in: the peers' handshake, and nodes that come back with another disk.
//!
//! Every stream begins with the real frames, judged by the real `check_hello` and by what each node
//! has noted of the others, as durably as the runtime notes it. A node may lose its disk, or get an
//! old image of it: from then on it is an outsider. It starts, it dials, and no one may ever let it
//! in, for it would deny what it once promised (O-03, O-04, H-05). The rest of the cluster goes on
//! without it. Or one shard's log is gone, or is that of another node: recovery must refuse it. Does
//! not: exchange whole data directories (each names its node, and `runtime` refuses a strange one
//! before any log is read).

use std::collections::BTreeMap;

use super::clients::CLUSTER;
use super::disk::Disk;
use super::medium::Medium;
use super::mirror::Mirror;
use super::node::{Core, Node};
use super::verdict::{Failure, Fault, fail};
use super::world::{World, node_id};
use crate::base::Prng;
use crate::model::{BootCounter, NodeId, NodeUuid, RunId, ShardId};
use crate::wire::peer::{
    HANDSHAKE_FRAME_BYTES, Handshake, HandshakeError, Lane, PeerFacts, Pin, check_hello,
    decode_handshake, encode_hello, encode_refused, encode_welcome,
};

/// A data directory's own files: what a node is known by, and what it has noted of the others.
#[derive(Clone)]
pub(super) struct Door {
    uuid: NodeUuid,
    boot: BootCounter,
    /// Not stored: drawn anew at every start.
    run: RunId,
    pins: BTreeMap<NodeId, Pin>,
}

impl Door {
    /// Of a directory that was just formatted.
    pub(super) fn format(prng: &mut Prng) -> Self {
        let mut uuid = [0; 16];
        uuid[..8].copy_from_slice(&prng.next_u64().to_le_bytes());
        Self {
            uuid: NodeUuid::new(uuid),
            boot: BootCounter::default(),
            run: RunId::default(),
            pins: BTreeMap::new(),
        }
    }

    /// The directory's name.
    pub(super) fn uuid(&self) -> NodeUuid {
        self.uuid
    }

    /// How often the directory was started.
    pub(super) fn boot(&self) -> BootCounter {
        self.boot
    }

    /// Another start, the world's number `start` of the node at `place`.
    pub(super) fn starts(&mut self, place: usize, start: u64) {
        self.boot = BootCounter::new(self.boot.get() + 1);
        let mut run = [0; 16];
        run[..8].copy_from_slice(&start.to_le_bytes());
        run[8..].copy_from_slice(&(place as u64 + 1).to_le_bytes());
        self.run = RunId::new(run);
    }

    /// Notes what a peer showed, as `runtime` does: another stream may have been faster.
    fn learns(&mut self, peer: NodeId, shown: Pin) -> Result<(), HandshakeError> {
        let known = self.pins.entry(peer).or_insert(shown);
        known.check(&shown)?;
        *known = shown;
        Ok(())
    }
}

/// An image of a node's disk, from between two of its runs.
pub(super) struct Attic {
    door: Door,
    devices: Vec<(Disk, Mirror, Medium)>,
}

impl World {
    /// The dialler says hello, the acceptor answers. Whether both let each other in.
    pub(super) fn shakes(&mut self, link: usize) -> Result<bool, Failure> {
        let found = self.net.link(link);
        let ([dialler, acceptor], shard, lane) = (found.nodes, found.shard, found.lane);
        let nonce = found.epoch + 1;
        let mine = self.facts((dialler, acceptor), shard, lane, nonce);
        let Handshake::Hello(hello) = read(&encode_hello(&mine))? else {
            fail!(Protocol, "a hello is read as something else");
        };
        let theirs = self.facts((acceptor, dialler), shard, lane, !nonce).answering(&hello);
        let answer = match self.judges(acceptor, &theirs, &hello) {
            Ok(()) => encode_welcome(&theirs),
            Err(error) => encode_refused(&error),
        };
        let verdict = match read(&answer)? {
            Handshake::Welcome(welcome) => self.judges(dialler, &mine, &welcome),
            Handshake::Refused { .. } => {
                let known = self.nodes[acceptor].door.pins.get(&node_id(dialler)).copied();
                check_hello(&theirs, &hello, known)
            }
            Handshake::Hello(_) => fail!(Protocol, "an answer is read as a hello"),
        };
        // Two that have both lost their disks may meet: they are a minority, and have no others.
        let is_out = |node: usize| usize::from(self.nodes[node].is_outsider);
        let outsiders = is_out(dialler) + is_out(acceptor);
        match verdict {
            Ok(()) if outsiders == 1 => {
                fail!(Amnesia, "{dialler} and {acceptor} shake hands, and one has lost its disk")
            }
            Err(error) if outsiders == 0 => {
                fail!(Protocol, "{dialler} and {acceptor} do not shake hands: {error}")
            }
            Ok(()) => Ok(true),
            Err(_) => {
                self.tally.count(Fault::TurnedAway);
                self.note("turned-away", &[dialler as u64, acceptor as u64]);
                Ok(false)
            }
        }
    }

    fn facts(&self, (from, to): (usize, usize), shard: usize, lane: Lane, nonce: u64) -> PeerFacts {
        let (version_min, version_max) = PeerFacts::VERSIONS;
        let door = &self.nodes[from].door;
        PeerFacts {
            version_min,
            version_max,
            lane,
            node: node_id(from),
            to_node: node_id(to),
            shard: ShardId::new(u16::try_from(shard).expect("a few shards")),
            shard_count: self.plan.shards,
            cluster: CLUSTER,
            uuid: door.uuid,
            boot: door.boot,
            run: door.run,
            nonce,
            echo: 0,
            credit_bytes: self.plan.credit_bytes,
        }
    }

    fn judges(
        &mut self,
        node: usize,
        mine: &PeerFacts,
        theirs: &PeerFacts,
    ) -> Result<(), HandshakeError> {
        let door = &mut self.nodes[node].door;
        check_hello(mine, theirs, door.pins.get(&theirs.node).copied())?;
        door.learns(theirs.node, Pin::of(theirs))
    }

    /// While a node is down its disk may be replaced, by an empty one or by an image of before.
    pub(super) fn tamper(&mut self, node: usize) {
        let percent = self.plan.chaos.new_disk_percent;
        if percent == 0 || self.nodes[node].is_outsider || self.nodes[node].is_damaged() {
            return;
        }
        let now = self.prng.chaos.chance(percent, 100);
        let kind = self.prng.chaos.below(4);
        let seed = self.prng.chaos.next_u64();
        if now && self.may_damage(node) {
            // Whoever has never met it could not tell.
            let seen = self.least_seen(node);
            let one = &mut self.nodes[node];
            let known = seen.is_some_and(|boot| one.attic_boot().is_some_and(|old| old < boot));
            match kind {
                // `rolls_back` puts it there.
                0 if known => return self.is_out(node, Fault::RestoredDisk),
                1 if seen.is_some() => {
                    one.wipe(&self.plan, &mut Prng::new(seed));
                    return self.is_out(node, Fault::WipedDisk);
                }
                2 => return self.loses_log(node, &mut Prng::new(seed)),
                3 => return self.gets_log_of_another(node, &mut Prng::new(seed)),
                _ => (),
            }
        }
        self.nodes[node].keep_image();
    }

    /// The log of one shard is gone; the directory says that there was one (W-17).
    fn loses_log(&mut self, node: usize, prng: &mut Prng) {
        let core = self.any_core(node, prng);
        if core.mirror.has_begun() {
            core.disk = Disk::new(core.disk.geometry);
            self.damage(node, Fault::LostLog);
        }
    }

    /// One shard finds the log that another node's has (W-02).
    fn gets_log_of_another(&mut self, node: usize, prng: &mut Prng) {
        let other = prng.below(self.nodes.len() as u64 - 1);
        let other = usize::try_from(other).expect("few");
        let other = other + usize::from(node <= other);
        let now = self.queue.now();
        let shard = prng.below(u64::from(self.plan.shards));
        let shard = usize::try_from(shard).expect("few");
        let mut disk = self.nodes[other].cores[shard].disk.clone();
        disk.crash(now, false, prng);
        let core = &mut self.nodes[node].cores[shard];
        if core.mirror.has_begun() {
            core.disk = disk;
            self.damage(node, Fault::ForeignLog);
        }
    }

    fn any_core(&mut self, node: usize, prng: &mut Prng) -> &mut Core {
        let shard = prng.below(u64::from(self.plan.shards));
        &mut self.nodes[node].cores[usize::try_from(shard).expect("few")]
    }

    fn is_out(&mut self, node: usize, fault: Fault) {
        self.nodes[node].is_outsider = true;
        self.damage(node, fault);
    }

    /// The lowest start of a node that another one has noted; nothing if one has noted none.
    fn least_seen(&self, node: usize) -> Option<BootCounter> {
        let others = self.nodes.iter().enumerate().filter(|(at, _)| *at != node);
        let seen = others.map(|(_, other)| Some(other.door.pins.get(&node_id(node))?.boot));
        seen.collect::<Option<Vec<BootCounter>>>()?.into_iter().min()
    }
}

impl Node {
    fn attic_boot(&self) -> Option<BootCounter> {
        self.attic.as_ref().map(|attic| attic.door.boot)
    }

    /// Keeps an image of the disk, once.
    fn keep_image(&mut self) {
        if self.attic.is_none() {
            let image = |core: &Core| (core.disk.clone(), core.mirror.clone(), core.medium.clone());
            let devices = self.cores.iter().map(image).collect();
            self.attic = Some(Attic { door: self.door.clone(), devices });
        }
    }

    /// An outsider with an image has it at every start, as a machine that is rolled back to its
    /// snapshot: one that was started as often as the original could not be told from it (`Pin`).
    pub(super) fn rolls_back(&mut self) {
        let Some(attic) = self.attic.as_ref().filter(|_| self.is_outsider) else { return };
        self.door = attic.door.clone();
        for (core, (disk, mirror, medium)) in self.cores.iter_mut().zip(&attic.devices) {
            core.disk = disk.clone();
            core.mirror = mirror.clone();
            core.medium = medium.clone();
        }
    }

    /// Formats the disk anew, under the same node id.
    fn wipe(&mut self, plan: &super::Plan, prng: &mut Prng) {
        self.attic = None;
        self.door = Door::format(prng);
        for core in &mut self.cores {
            core.identity.node = self.door.uuid();
            core.disk = Disk::new(plan.geometry);
            core.mirror = Mirror::default();
            core.medium = Medium::default();
        }
    }
}

fn read(frame: &[u8; HANDSHAKE_FRAME_BYTES]) -> Result<Handshake<'_>, Failure> {
    match decode_handshake(frame) {
        Ok(handshake) => Ok(handshake),
        Err(error) => fail!(Protocol, "a handshake frame cannot be read: {error}"),
    }
}
