//! Carrying out what shards ask for, with the oracles looking on.
//!
//! One `impl World` block: devices and messages. Every block is parsed as it is submitted and
//! every control message as it is sent, so that a promise that runs ahead of its write is found
//! where it is made.

use super::chaos::Chaos;
use super::lies::Stored;
use super::links::flatten;
use super::mirror::BlockFacts;
use super::node::{PendingRead, SUPERVISOR};
use super::plan::Between;
use super::promise::check_sent;
use super::verdict::{Check, Failure, Fault, fail};
use super::world::{At, Event, World, node_id};
use crate::base::{Checksum, Slice};
use crate::model::limits::FRAME_BYTES_MAX;
use crate::model::{BatchKind, GroupId, NodeId, ShardId, WriteSeq};
use crate::shard::{Effect, Frame, Input, IoFault, Lane, Notice, ReadSeq};
use crate::wal::{BlockRole, Record, SegmentNo, parse_block};
use crate::wire::peer::{BulkFrame, decode_control};
use crate::wire::{FRAME_HEADER_BYTES, FrameHeader};

/// EIO, as Linux numbers it.
pub(super) const EIO: i32 = 5;
/// How long one input or output of a slow device takes.
const SLOW_IO: Between = Between::millis(20, 300);
/// From the deletion of a file to the end of the directory's sync.
const DIRECTORY_SYNC: Between = Between::micros(100, 30_000);

impl World {
    /// Starts one effect.
    pub(super) fn act(&mut self, at: At, effect: Effect) -> Check {
        if self.core(at).is_none() {
            return Ok(()); // An earlier effect of this turn ended the process.
        }
        match effect {
            Effect::Write { write, segment, offset, block } => {
                self.start_write(at, write, (segment, offset), block)?;
            }
            Effect::Read { read, segment, offset, buf } => {
                self.start_read(at, read, PendingRead { segment, offset, buf });
            }
            Effect::PrepareSegment { segment, recycle } => {
                self.start_prepare(at, segment, recycle)?;
            }
            Effect::RemoveSegment { segment } => {
                self.note("remove", &[at.node as u64, segment.0]);
                self.check_dead(at, segment)?;
                let now = self.queue.now();
                let synced = now.after(DIRECTORY_SYNC.draw(&mut self.prng.disk));
                self.core(at).expect("seen above").disk.remove(segment, now, synced)?;
            }
            Effect::SendPeer { peer, lane, stream, frame } => {
                self.check_frame(at, peer, lane, &frame)?;
                self.send_peer(at, (peer, lane, stream), frame);
            }
            Effect::ClosePeer { peer, lane, stream, reason } => {
                self.close_peer(at, (peer, lane, stream), reason)?;
            }
            Effect::SendClient { conn, frame } => self.send_client(at, conn, &frame)?,
            Effect::ClientRoom { conn, bytes } => self.client_room(at, conn, bytes)?,
            Effect::CloseClient { conn, reason } => self.close_client(at, conn, reason)?,
            Effect::Forward { to, conn, frame } => {
                let from = shard_id(at.shard);
                self.give(beside(at, to), Input::Forwarded { from, conn, frame });
            }
            Effect::Return { to, conn, returned } => {
                self.give(beside(at, to), Input::Returned { conn, returned });
            }
            Effect::Notice(notice) => self.on_notice(at, notice),
            Effect::Halt { reason } => self.on_halt(at, reason)?,
            Effect::Drained => self.on_drained(at)?,
        }
        Ok(())
    }

    fn on_notice(&mut self, at: At, notice: Notice) {
        match notice {
            Notice::Leads { group, .. } => {
                self.summary.elections += 1;
                if group == GroupId::new(1) {
                    self.led_since[at.node] = self.queue.now();
                }
            }
            Notice::Installed { .. } => self.summary.installs += 1,
            Notice::SteppedDown { .. }
            | Notice::DiskFull
            | Notice::DiskHasRoom
            | Notice::DeviceStuck
            | Notice::DeviceWorks => {}
        }
        if self.trace.is_read() {
            let now = self.queue.now();
            self.trace.say(now, format_args!("{:?} {notice:?}", node_id(at.node)));
        }
    }

    /// The process stops by itself: only a failed device may make it.
    fn on_halt(&mut self, at: At, reason: &'static str) -> Check {
        if !self.nodes[at.node].device_failed {
            fail!(DeviceContract, "{at:?} halts, its device is well: {reason}");
        }
        self.crash(at.node, false);
        self.restart_after(at.node, SUPERVISOR);
        Ok(())
    }

    /// A shard has nothing left to do; when the last one of its node says so, the process ends,
    /// and what it leaves is sealed.
    fn on_drained(&mut self, at: At) -> Check {
        let node = &mut self.nodes[at.node];
        if !node.cores[at.shard].disk.is_idle() {
            fail!(DeviceContract, "{at:?} says it has drained and has writes in flight");
        }
        let Some(left) = node.undrained.checked_sub(1) else {
            fail!(Protocol, "{at:?} drained, nobody asked");
        };
        node.undrained = left;
        if left == 0 {
            node.sealed = true;
            self.crash(at.node, false);
            self.restart_after(at.node, SUPERVISOR);
        }
        Ok(())
    }

    /// How long the device of a node takes for something.
    fn io_time(&mut self, node: usize, usual: Between) -> core::time::Duration {
        let slow = self.queue.now() < self.nodes[node].slow_disk_until;
        let time = if slow { SLOW_IO } else { usual };
        time.draw(&mut self.prng.disk)
    }

    fn start_write(
        &mut self,
        at: At,
        write: WriteSeq,
        place: (SegmentNo, u64),
        block: Slice,
    ) -> Check {
        let (segment, offset) = place;
        let checksum = Checksum::of(&block);
        let crc = u64::from(checksum.as_u32());
        self.note("write", &[at.node as u64, at.shard as u64, segment.0, offset, crc]);
        let facts = self.block_facts(at, place, &block)?;
        self.check_placed(at, &facts)?;
        self.cut_opening(at, &facts);
        let delay = self.io_time(at.node, self.plan.disk.write);
        let ppm = self.plan.disk.write_error_ppm;
        let fails = self.chaotic && self.prng.disk.chance(ppm, 1_000_000);
        let core = self.core(at).expect("the caller saw it");
        core.disk.submit(write, segment, offset, (block, checksum))?;
        core.medium.submitted(write, &facts);
        core.mirror.submitted(write, facts);
        self.queue.after(delay, Event::WriteEnds(at, write, !fails));
        Ok(())
    }

    /// Some openings of several blocks lose their power: while they are on their way, or soon after.
    fn cut_opening(&mut self, at: At, facts: &BlockFacts) {
        let percent = self.plan.chaos.torn_opening_percent;
        let has_parts = facts.opens.is_some_and(|open| open.parts > 1);
        if has_parts && self.chaotic && percent > 0 && self.prng.chaos.chance(percent, 100) {
            let writes = self.prng.chaos.between(0, 4);
            let mut after = core::time::Duration::ZERO;
            for _ in 0..=writes {
                after += self.plan.disk.write.draw(&mut self.prng.chaos);
            }
            let stumble = Chaos::Stumble { node: at.node, boot: at.boot };
            self.queue.after(after, Event::Chaos(stumble));
        }
    }

    /// Nothing follows the first opening of a run before that is durable (W-08), and what is written
    /// forward is committed: a copy that came back would truncate what replaced it (W-13).
    fn check_placed(&mut self, at: At, facts: &BlockFacts) -> Check {
        let core = &self.nodes[at.node].cores[at.shard];
        if facts.opens.is_none() && !core.mirror.is_opened() {
            fail!(DeviceContract, "{at:?} writes before its first opening is durable (W-08)");
        }
        for (group, last, keeps_tail) in &facts.resets {
            let holds = core.mirror.replica(*group).is_some_and(|replica| replica.has(*last));
            if holds && !keeps_tail {
                fail!(AckDiscipline, "{at:?} {group:?} drops what it has behind {last:?} (S-04)");
            }
        }
        for (group, span) in &facts.batches {
            let commit = core.commit_of(*group);
            if core.mirror.surely_holds(*group, *span) && commit < Some(span.last()) {
                fail!(DeviceContract, "{at:?} rewrites {span:?}, committed is {commit:?} (W-13)");
            }
        }
        Ok(())
    }

    /// A file may go only if no durable opening needs it and recovery did not keep it (W-13).
    fn check_dead(&mut self, at: At, segment: SegmentNo) -> Check {
        let core = self.core(at).expect("the caller saw it");
        if !core.mirror.takes_back(segment) {
            fail!(DeviceContract, "{at:?} gives up {segment:?}, which its log needs (W-13)");
        }
        core.gives_up(segment)
    }

    /// What a block says, as recovery would read it; its batches are held against the truth.
    fn block_facts(
        &mut self,
        at: At,
        place: (SegmentNo, u64),
        block: &[u8],
    ) -> Result<BlockFacts, Failure> {
        let (segment, offset) = place;
        let lsn = self.plan.geometry.start_of(segment).plus(offset);
        let identity = self.core(at).expect("the caller saw it").identity;
        let view = match parse_block(block, lsn, &identity) {
            Ok(view) => view,
            Err(error) => fail!(DeviceContract, "{at:?} writes no block at {lsn}: {error}"),
        };
        let mut facts = BlockFacts {
            segment,
            end: view.end(),
            durable_lsn: view.durable_lsn(),
            is_seal: view.role() == BlockRole::Seal,
            opens: view.segment_open(),
            ..BlockFacts::default()
        };
        for record in view.records() {
            match record {
                Record::HardState { group, state, .. } => facts.states.push((group, state)),
                Record::Group(group) => facts.states.push((group.group, group.hard_state)),
                Record::LogReset(reset) => {
                    facts.resets.push((reset.group, reset.last, reset.keep_tail));
                }
                Record::SegmentOpen(_) | Record::TermRuns { .. } | Record::Membership { .. } => {}
            }
        }
        for entry in view.entries() {
            let truth = self.checker.truth(entry.group)?;
            let span = truth.saw_batch(view.batch_bytes(&entry))?;
            if entry.kind != BatchKind::Noop && truth.begins_term(span) {
                fail!(Elections, "{at:?}: a term begins with {entry:?} (C-02)");
            }
            if span != entry.span {
                fail!(DeviceContract, "{at:?}: the directory says {entry:?}, it is {span:?}");
            }
            facts.batches.push((entry.group, span));
        }
        Ok(facts)
    }

    /// A device ends a write.
    pub(super) fn on_write_ends(&mut self, at: At, write: WriteSeq, well: bool) -> Check {
        if self.postponed(at, Event::WriteEnds(at, write, well)) {
            return Ok(());
        }
        if self.core(at).is_none() {
            return Ok(());
        }
        let stored = if well { self.what_is_stored(at, write) } else { Stored::Well };
        let now = self.queue.now();
        let core = self.core(at).expect("seen above");
        let input = if well {
            core.disk.complete(write, stored)?;
            core.mirror.confirmed(write, now)?;
            core.medium.confirmed(write);
            Input::WriteDone { write }
        } else {
            self.tally.count(Fault::WriteError);
            self.nodes[at.node].device_failed = true;
            Input::WriteFailed { write, fault: IoFault::Failed { errno: EIO } }
        };
        self.note("written", &[at.node as u64, at.shard as u64, write.get(), u64::from(well)]);
        self.give(at, input);
        Ok(())
    }

    /// Where a confirmed write goes: nearly always to where it belongs.
    fn what_is_stored(&mut self, at: At, write: WriteSeq) -> Stored {
        let disk = self.plan.disk;
        if !self.chaotic || disk.lost_ppm + disk.misdirected_ppm == 0 || !self.may_damage(at.node) {
            return Stored::Well;
        }
        if self.prng.disk.chance(disk.lost_ppm, 1_000_000) {
            self.damage(at.node, Fault::LostWrite);
            return Stored::Nowhere;
        }
        if self.prng.disk.chance(disk.misdirected_ppm, 1_000_000) {
            let disk = &self.nodes[at.node].cores[at.shard].disk;
            let place = disk.wrong_place(disk.bytes_of(write), &mut self.prng.disk);
            if let Some((segment, offset)) = place {
                self.damage(at.node, Fault::MisdirectedWrite);
                return Stored::Elsewhere(segment, offset);
            }
        }
        Stored::Well
    }

    /// Whether an event must wait because the device does nothing.
    fn postponed(&mut self, at: At, event: Event) -> bool {
        let until = self.nodes[at.node].stalled_until;
        let stalled = self.queue.now() < until;
        if stalled {
            self.queue.at(until, event);
        }
        stalled
    }

    fn start_read(&mut self, at: At, read: ReadSeq, pending: PendingRead) {
        self.note("read", &[at.node as u64, at.shard as u64, pending.segment.0, pending.offset]);
        let delay = self.io_time(at.node, self.plan.disk.read);
        let ppm = self.plan.disk.read_error_ppm;
        let fails = self.chaotic && self.prng.disk.chance(ppm, 1_000_000);
        let live = self.live_at(at).expect("the caller saw it");
        live.reads.insert(read, pending);
        self.queue.after(delay, Event::ReadEnds(at, read, !fails));
    }

    /// A device ends a read.
    pub(super) fn on_read_ends(&mut self, at: At, read: ReadSeq, well: bool) {
        if self.postponed(at, Event::ReadEnds(at, read, well)) {
            return;
        }
        let Some(live) = self.live_at(at) else { return };
        let pending = live.reads.remove(&read).expect("submitted in this run");
        let PendingRead { segment, offset, mut buf } = pending;
        let result = if well {
            // A file that was recycled or removed meanwhile: the descriptor still reads something.
            let disk = &self.nodes[at.node].cores[at.shard].disk;
            let found = disk.read(segment, offset, &mut buf, &mut self.prng.disk);
            if found { Ok(()) } else { Err(IoFault::Failed { errno: EIO }) }
        } else {
            self.tally.count(Fault::ReadError);
            Err(IoFault::Failed { errno: EIO })
        };
        self.give(at, Input::ReadDone { read, buf, result });
    }

    fn start_prepare(&mut self, at: At, segment: SegmentNo, recycle: Option<SegmentNo>) -> Check {
        let old = recycle.map_or(u64::MAX, |old| old.0);
        self.note("prepare", &[at.node as u64, at.shard as u64, segment.0, old]);
        let delay = self.io_time(at.node, self.plan.disk.prepare);
        let ppm = self.plan.disk.no_space_ppm;
        let full = self.queue.now() < self.nodes[at.node].disk_full_until
            || (self.chaotic && self.prng.disk.chance(ppm, 1_000_000));
        let fails = recycle.is_none() && full;
        if let Some(old) = recycle {
            self.check_dead(at, old)?;
        }
        self.core(at).expect("the caller saw it").disk.prepare(segment, recycle)?;
        self.summary.recycles += u64::from(recycle.is_some());
        self.queue.after(delay, Event::SegmentMade(at, segment, !fails));
        Ok(())
    }

    /// A segment file is made, or there is no room.
    pub(super) fn on_segment_made(&mut self, at: At, segment: SegmentNo, well: bool) {
        if self.postponed(at, Event::SegmentMade(at, segment, well)) {
            return;
        }
        let Some(core) = self.core(at) else { return };
        let input = if well {
            core.disk.prepared(segment);
            Input::SegmentReady { segment }
        } else {
            core.disk.prepare_failed(segment);
            self.tally.count(Fault::NoSpace);
            Input::SegmentFailed { segment, fault: IoFault::NoSpace }
        };
        self.note("prepared", &[at.node as u64, at.shard as u64, segment.0, u64::from(well)]);
        self.give(at, input);
    }

    /// Reads what goes out on a peer stream and holds it against the device and the truth.
    fn check_frame(&mut self, at: At, peer: NodeId, lane: Lane, frame: &Frame) -> Check {
        let bytes = flatten(frame);
        match lane {
            Lane::Control => self.check_control(at, peer, &bytes),
            Lane::Bulk => self.check_bulk(at, &bytes),
        }
    }

    fn check_control(&mut self, at: At, peer: NodeId, bytes: &[u8]) -> Check {
        let mut rest = bytes;
        while !rest.is_empty() {
            let header = match FrameHeader::decode(rest, FRAME_BYTES_MAX) {
                Ok(header) if header.frame_bytes() <= rest.len() => header,
                other => fail!(Protocol, "{at:?} sends {other:?} of {} bytes", rest.len()),
            };
            let (frame, behind) = rest.split_at(header.frame_bytes());
            let envelopes = match decode_control(&header, &frame[FRAME_HEADER_BYTES..], peer) {
                Ok(envelopes) => envelopes,
                Err(error) => fail!(Protocol, "{at:?} sends a control frame: {error}"),
            };
            for envelope in envelopes {
                let envelope = match envelope {
                    Ok(envelope) => envelope,
                    Err(error) => fail!(Protocol, "{at:?} sends a message: {error}"),
                };
                if self.trace.is_read() {
                    let now = self.queue.now();
                    let node = node_id(at.node);
                    self.trace.say(now, format_args!("{node:?} says to {envelope:?}"));
                }
                let core = &self.nodes[at.node].cores[at.shard];
                let (node, mirror) = (node_id(at.node), &core.mirror);
                check_sent(node, &envelope, mirror)?;
                let seat = core.seat(envelope.group);
                self.elections.sent(node, &envelope, seat, mirror)?;
            }
            rest = behind;
        }
        Ok(())
    }

    fn check_bulk(&mut self, at: At, bytes: &[u8]) -> Check {
        let frame = match BulkFrame::decode(bytes) {
            Ok(frame) => frame,
            Err(error) => fail!(Protocol, "{at:?} sends a bulk frame: {error}"),
        };
        for batch in frame.batches() {
            let truth = self.checker.truth(batch.group)?;
            let span = truth.saw_batch(frame.batch(&batch))?;
            let mirror = &self.nodes[at.node].cores[at.shard].mirror;
            let durable = mirror.replica(batch.group).map(|replica| replica.state.term);
            if durable < Some(batch.term) {
                fail!(HardState, "{at:?} sends {batch:?}, durable is {durable:?}");
            }
            if batch.term < span.term || batch.prev.index.next() != span.first {
                fail!(Protocol, "{at:?} sends {span:?} as {batch:?}");
            }
        }
        Ok(())
    }
}

/// Another shard of the same run.
fn beside(at: At, shard: ShardId) -> At {
    At { shard: usize::from(shard.get()), ..at }
}

fn shard_id(shard: usize) -> ShardId {
    ShardId::new(u16::try_from(shard).expect("a handful of shards"))
}
