//! replicate: what peers should have goes out, one control frame and the bulk frames of each
//! link, all groups together.
//!
//! The bytes of a bulk frame are slices of the blocks they were batched into. Does not: wait for
//! the own disk; a leader's write and its peers' run in parallel (thesis 10.2.1).

use bytes::Bytes;

use super::Shard;
use super::effects::{Effect, Effects, Frame, Part};
use super::input::Lane;
use crate::base::Slice;
use crate::model::limits::BATCHES_PER_BLOCK_MAX;
use crate::raft::NextAppend;
use crate::wal;
use crate::wire::peer::{
    BULK_DESCRIPTOR_BYTES, BulkBatch, BulkFrameBuilder, BulkHead, encode_control,
};

/// A bulk frame is closed at this size even if there is more to send: a follower starts to write
/// when a frame is whole.
const FRAME_TARGET_BYTES: usize = 512 << 10;

impl Shard {
    /// The replicate stage.
    pub(super) fn replicate(&mut self, fx: &mut Effects) {
        self.flush_groups();
        for link in 0..self.links.len() {
            self.send_bulk(link, fx);
        }
        for link in 0..self.links.len() {
            self.send_control(link, fx);
        }
    }

    /// Lets every group that something happened to close its turn, and counts what it has in
    /// flight and still wants to send on each link.
    fn flush_groups(&mut self) {
        let mut touched = core::mem::take(&mut self.slots.touched);
        for at in touched.drain(..) {
            self.slots[at].is_touched = false;
            self.slots[at].raft.flush(self.now, &mut self.wishes);
            for link in 0..self.links.len() {
                self.recount(at, link);
            }
        }
        // Whoever is touched while wishes are carried out has its turn in the next one.
        self.slots.touched = touched;
        self.absorb();
    }

    /// Brings a link's sums up to date for one group.
    pub(super) fn recount(&mut self, at: usize, link: usize) {
        let slot = &mut self.slots[at];
        let link_state = self.links.at(link);
        let found = slot.raft.on_its_way(link_state.peer);
        slot.counted[link] = link_state.recount(slot.counted[link], found, self.now);
        if link_state.bulk.is_some() && slot.raft.wants_append(link_state.peer) {
            link_state.make_ready(at);
        }
    }

    /// Sends bulk frames on one link until its credit or its groups' wishes are used up.
    fn send_bulk(&mut self, link: usize, fx: &mut Effects) {
        while self.links.at(link).credit_left() > 0 && !self.links.at(link).ready.is_empty() {
            let Some(frame) = self.build_bulk(link) else { return };
            let link = self.links.at(link);
            let bulk = link.bulk.expect("credit is only there while the stream is up");
            self.counters.peer_frames_sent += 1;
            self.counters.peer_bulk_bytes_sent += frame.len_bytes() as u64;
            let (peer, stream) = (link.peer, bulk.stream);
            fx.push(Effect::SendPeer { peer, lane: Lane::Bulk, stream, frame });
        }
    }

    /// One bulk frame, groups taken in turn, a batch each (MR-02). `None` if nothing can be sent.
    fn build_bulk(&mut self, link: usize) -> Option<Frame> {
        let peer = self.links.at(link).peer;
        let limit = self.config.geometry.block_bytes_max as usize;
        let mut builder = BulkFrameBuilder::new(limit, wal::frame_area_bytes);
        let mut slices: Vec<Slice> = Vec::new();
        // Groups whose next batch does not fit into what is left of this frame or the credit.
        let mut deferred: Vec<usize> = Vec::new();
        // A block lists only so many batches, and a follower makes a block of a frame.
        let is_open = |builder: &BulkFrameBuilder| {
            builder.len() < BATCHES_PER_BLOCK_MAX && builder.frame_bytes() < FRAME_TARGET_BYTES
        };
        while builder.is_empty() || is_open(&builder) {
            let credit = self.links.at(link).credit_left();
            if credit == 0 {
                break;
            }
            let Some(at) = self.links.at(link).next_ready() else { break };
            let room = credit.min(room_bytes(&builder, limit));
            let slot = &mut self.slots[at];
            match slot.raft.next_append(peer, room) {
                NextAppend::Nothing if slot.raft.wants_append(peer) && room == credit => {
                    mark!(MR02_CREDIT_IS_SHORT);
                    // It is the credit that is short: whoever is next in line stays next, or small
                    // batches of others would eat every byte that comes free.
                    self.links.at(link).keep_first(at);
                    break;
                }
                NextAppend::Nothing if slot.raft.wants_append(peer) => {
                    mark!(MR02_BATCH_WAITS_FOR_NEXT_FRAME);
                    deferred.push(at);
                }
                NextAppend::Nothing => {}
                NextAppend::Fetch { from } => {
                    self.want_for_peer(at, link, from);
                    self.recount(at, link);
                }
                NextAppend::Batches { prev, commit, batch } => {
                    let slice = batch.slice.expect("raft asks to fetch what is not in memory");
                    let member = |node| slot.raft.membership().replica_of(node);
                    builder.push(BulkBatch {
                        group: slot.id,
                        from_replica: slot.replica,
                        to_replica: member(peer).expect("appends go to members"),
                        term: slot.raft.term(),
                        prev,
                        commit,
                        offset: 0, // the builder lays them out
                        bytes: batch.bytes,
                    });
                    slices.push(slice);
                    self.recount(at, link);
                }
            }
        }
        mark!(MR02_FRAME_OF_SEVERAL_BATCHES if slices.len() > 1);
        for at in deferred {
            self.links.at(link).make_ready(at);
        }
        if slices.is_empty() {
            return None;
        }
        Some(frame_of(builder.finish(), slices))
    }

    /// One control frame with everything this turn has to say to a peer.
    fn send_control(&mut self, link: usize, fx: &mut Effects) {
        let link = self.links.at(link);
        if link.outbox.is_empty() {
            return;
        }
        let Some(stream) = link.control else {
            link.outbox.clear();
            return;
        };
        let mut bytes = Vec::new();
        encode_control(&mut bytes, link.outbox.iter());
        link.outbox.clear();
        self.counters.peer_frames_sent += 1;
        let frame = Frame { parts: vec![Part::Bytes(Bytes::from(bytes))] };
        fx.push(Effect::SendPeer { peer: link.peer, lane: Lane::Control, stream, frame });
    }
}

/// A bulk frame: its head, the batches where they lie, and what fills it up.
fn frame_of(head: BulkHead, slices: Vec<Slice>) -> Frame {
    let BulkHead { bytes: head, pad_bytes, .. } = head;
    let mut parts = Vec::with_capacity(slices.len() + 2);
    parts.push(Part::Bytes(Bytes::from(head)));
    parts.extend(slices.into_iter().map(Part::Slice));
    if pad_bytes > 0 {
        parts.push(Part::Bytes(Bytes::from_static(&ZEROS).slice(..pad_bytes)));
    }
    Frame { parts }
}

/// The largest batch that still fits into the frame.
fn room_bytes(builder: &BulkFrameBuilder, limit: usize) -> u64 {
    let descriptor = wal::frame_area_bytes(1) + BULK_DESCRIPTOR_BYTES;
    let used = if builder.is_empty() { 0 } else { builder.frame_bytes() };
    limit.saturating_sub(used + descriptor) as u64
}

/// What fills a bulk frame up to the device's alignment.
static ZEROS: [u8; crate::model::limits::DEVICE_ALIGN_BYTES] =
    [0; crate::model::limits::DEVICE_ALIGN_BYTES];
