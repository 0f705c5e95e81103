//! ingress from peers: control frames are stepped into groups, bulk frames become appends.
//!
//! A bulk frame's batches are checked where they lie; what a group accepts as new is
//! staged with its memory, so that the follower writes the very bytes it received.

use bytes::Bytes;

use super::effects::{Effect, Effects, STREAM_WEDGED};
use super::input::Lane;
use super::links::Bulk;
use super::persist::{Direct, Staged};
use super::{Draining, Shard};
use crate::base::BlockBuf;
use crate::model::batch::{BATCH_HEADER_BYTES, BatchKind, BatchView, decode_membership};
use crate::model::limits::FRAME_BYTES_MAX;
use crate::model::{BatchHeader, NodeId, StreamId};
use crate::raft::{Append, AppendVerdict, LogBatch};
use crate::wal::{self, DirectoryEntry};
use crate::wire::Assembler;
use crate::wire::peer::{BulkBatch, BulkFrame, decode_control};

/// One incarnation of one peer stream.
#[derive(Clone, Copy)]
struct Channel {
    peer: NodeId,
    lane: Lane,
    stream: StreamId,
}

/// The batches of a frame that their groups took as new.
struct Accepted {
    batches: Vec<(usize, DirectoryEntry)>,
    /// Bytes of the frame before its first batch.
    area_bytes: usize,
}

impl Shard {
    pub(super) fn on_peer_up(
        &mut self,
        peer: NodeId,
        lane: Lane,
        stream: StreamId,
        credit_bytes: u64,
    ) {
        let Some(at) = self.links.find(peer) else { return };
        self.counters.peer_streams += 1;
        match lane {
            Lane::Control => {
                self.start_over(at);
                let link = self.links.at(at);
                link.control = Some(stream);
                link.assembler = Assembler::new(FRAME_BYTES_MAX);
                link.outbox.clear();
            }
            Lane::Bulk => {
                // The stream before it is gone even if its end was not told.
                self.links.at(at).renew_bulk(None);
                self.start_over(at);
                self.empty_stream(at);
                self.links.at(at).renew_bulk(Some(Bulk { stream, credit_bytes }));
            }
        }
        mark!(N06_STREAM_UP);
        for at in 0..self.slots.len() {
            self.slots[at].raft.link_up(self.now, peer, &mut self.wishes);
        }
    }

    /// What was on its way on either lane may be lost, so every group starts over with this peer
    /// from what it knows to be acknowledged.
    fn start_over(&mut self, link: usize) {
        let peer = self.links.at(link).peer;
        for at in 0..self.slots.len() {
            if planted!(N06_WINDOW_OUTLIVES_STREAM) {
                continue;
            }
            self.slots[at].raft.link_reset(peer, &mut self.wishes);
            self.recount(at, link);
            self.slots.touch(at);
        }
    }

    /// The bulk stream of a link is gone: what was given up does not lie in it any more.
    fn empty_stream(&mut self, link: usize) {
        let peer = self.links.at(link).peer;
        for at in 0..self.slots.len() {
            self.slots[at].raft.bulk_stream_ended(peer);
            self.recount(at, link);
        }
    }

    /// Ends bulk streams that hold memory for nothing: a peer that does not read would keep
    /// what was given up for as long as it likes.
    pub(super) fn drop_wedged_streams(&mut self, fx: &mut Effects) {
        let patience = self.config.timing.watchdog();
        for at in 0..self.links.len() {
            let waits = self.fetches.wait_for_peer(at);
            let link = self.links.at(at);
            if link.is_wedged(self.now, patience, waits)
                && let Some(bulk) = link.bulk
            {
                self.counters.peer_streams_wedged += 1;
                let (peer, lane, stream) = (link.peer, Lane::Bulk, bulk.stream);
                self.on_peer_down(peer, lane, stream);
                fx.push(Effect::ClosePeer { peer, lane, stream, reason: STREAM_WEDGED });
            }
        }
    }

    pub(super) fn on_peer_down(&mut self, peer: NodeId, lane: Lane, stream: StreamId) {
        let Some(at) = self.links.find(peer) else { return };
        let link = self.links.at(at);
        match lane {
            Lane::Control if link.control == Some(stream) => {
                mark!(N06_CONTROL_STREAM_DOWN);
                link.control = None;
                link.outbox.clear();
            }
            Lane::Bulk if link.bulk.is_some_and(|bulk| bulk.stream == stream) => {
                mark!(N06_BULK_STREAM_DOWN);
                link.renew_bulk(None);
                self.start_over(at);
                return self.empty_stream(at);
            }
            // The end of an incarnation that was replaced already (N-06).
            Lane::Control | Lane::Bulk => {
                mark!(N06_END_OF_OLD_STREAM_IGNORED);
                return;
            }
        }
        self.start_over(at);
    }

    pub(super) fn on_peer_control(
        &mut self,
        peer: NodeId,
        stream: StreamId,
        bytes: Bytes,
        fx: &mut Effects,
    ) {
        let Some(at) = self.links.find(peer) else { return };
        if self.links.at(at).control != Some(stream) {
            return;
        }
        let channel = Channel { peer, lane: Lane::Control, stream };
        self.links.at(at).assembler.push(bytes);
        while let Some(next) = self.links.at(at).assembler.next() {
            let frame = match next {
                Ok(frame) => frame,
                Err(error) => {
                    return self.close_peer(channel, error.reason(), fx);
                }
            };
            let envelopes = match decode_control(&frame.header, frame.body(), peer) {
                Ok(envelopes) => envelopes,
                Err(error) => {
                    return self.close_peer(channel, error.reason(), fx);
                }
            };
            for envelope in envelopes {
                let Ok(envelope) = envelope else {
                    return self.close_peer(channel, "control frame malformed", fx);
                };
                let Some(at) = self.slots.find(envelope.group) else {
                    self.counters.peer_ignored += 1;
                    continue;
                };
                self.slots[at].raft.step(self.now, envelope, &mut self.wishes);
                self.slots.touch(at);
            }
            self.absorb();
        }
    }

    fn close_peer(&mut self, channel: Channel, reason: &'static str, fx: &mut Effects) {
        let Channel { peer, lane, stream } = channel;
        mark!(N02_PEER_NONSENSE_CLOSES_STREAM);
        self.counters.peer_malformed += 1;
        self.on_peer_down(peer, lane, stream);
        fx.push(Effect::ClosePeer { peer, lane, stream, reason });
    }

    pub(super) fn on_peer_bulk(
        &mut self,
        peer: NodeId,
        stream: StreamId,
        frame: BlockBuf,
        fx: &mut Effects,
    ) {
        let Some(link) = self.links.find(peer) else { return };
        if self.links.at(link).bulk.is_none_or(|bulk| bulk.stream != stream) {
            return;
        }
        if self.draining != Draining::No {
            mark!(O02_BATCHES_DROPPED_WHILE_DRAINING);
            // As good as lost on the way. Under load there would always be one more block to wait
            // for, and the leader goes on through the others.
            return;
        }
        let channel = Channel { peer, lane: Lane::Bulk, stream };
        let Accepted { batches: accepted, area_bytes } = match self.accept_batches(peer, &frame) {
            Ok(accepted) => accepted,
            Err(reason) => return self.close_peer(channel, reason, fx),
        };
        let Some((slot, entry)) = accepted.last() else { return };
        self.trace.on_frame(*slot, entry.span.last());
        // A sender leaves room for the directory (`wal::frame_area_bytes`), but only the frame's own
        // word says so. Without it the batches are copied like those of a small frame.
        let has_area = wal::frame_area_bytes(accepted.len()) <= area_bytes;
        if has_area && frame.len() >= self.config.direct_frame_bytes_min {
            self.store.stage(Staged::Direct(Direct { frame, area_bytes, accepted }));
            return;
        }
        let bytes = frame.len();
        let frame = frame.freeze(bytes);
        for (slot, entry) in accepted {
            let start = entry.offset as usize;
            let bytes = frame.slice(start..start + entry.bytes as usize);
            self.store.stage(Staged::Copied { slot, entry, bytes });
        }
    }

    /// Checks every batch of a frame, then steps each into its group; returns those that are new
    /// there, and the bytes before the first batch.
    ///
    /// Checked first and stepped second: a group that accepted a batch must see it staged, so a
    /// bad batch in the middle of a frame may not leave the ones before it half done.
    fn accept_batches(&mut self, peer: NodeId, frame: &BlockBuf) -> Result<Accepted, &'static str> {
        let view = BulkFrame::decode(frame).map_err(|error| error.reason())?;
        let mut appends = Vec::with_capacity(view.len());
        for item in view.batches() {
            match self.check_batch(&view, &item) {
                Ok(Some(append)) => appends.push((item, append)),
                Ok(None) => self.counters.peer_ignored += 1,
                Err(reason) => {
                    mark!(R05_BATCH_CHECKSUM_WRONG);
                    self.counters.peer_batch_corrupt += 1;
                    return Err(reason);
                }
            }
        }
        let mut accepted = Vec::with_capacity(appends.len());
        for (item, (at, append)) in appends {
            let batch = append.batch.clone();
            let slot = &mut self.slots[at];
            let verdict = slot.raft.on_append(self.now, peer, append, &mut self.wishes);
            self.slots.touch(at);
            if verdict == AppendVerdict::New {
                self.counters.batches_followed += 1;
                let entry = DirectoryEntry {
                    group: item.group,
                    replica: self.slots[at].replica,
                    span: batch.span,
                    kind: batch.kind,
                    offset: item.offset,
                    bytes: batch.bytes,
                };
                accepted.push((at, entry));
            }
        }
        Ok(Accepted { batches: accepted, area_bytes: view.area_bytes() })
    }

    /// Verifies one batch where it lies; `None` for a group that does not live here.
    fn check_batch(
        &self,
        view: &BulkFrame<'_>,
        item: &BulkBatch,
    ) -> Result<Option<(usize, Append)>, &'static str> {
        let Some(at) = self.slots.find(item.group) else { return Ok(None) };
        let bytes = view.batch(item);
        if bytes.len() > self.config.batch_bytes_max() {
            // No block could be made around it, and what waits for one would wait for ever.
            return Err("batch too large");
        }
        let decoded = BatchView::decode(bytes);
        let batch = match BatchHeader::decode(bytes) {
            Ok(header) if planted!(R05_BATCH_NOT_VERIFIED) => {
                BatchView { header, body: bytes.get(BATCH_HEADER_BYTES..).unwrap_or_default() }
            }
            _ => decoded.map_err(|_| "batch checksum wrong")?,
        };
        if batch.header.group != item.group || batch.header.batch_bytes() != bytes.len() {
            return Err("batch of another group or length");
        }
        let membership = match batch.header.kind {
            BatchKind::Configuration => {
                let record = batch.records().next().and_then(Result::ok);
                let membership = record.and_then(|(_, bytes)| {
                    // Exactly, as the index reads it back.
                    decode_membership(bytes).filter(|(_, taken)| *taken == bytes.len())
                });
                Some(membership.ok_or("configuration malformed")?.0)
            }
            BatchKind::Records | BatchKind::Noop => None,
        };
        let (span, kind) = (batch.header.span, batch.header.kind);
        let append = Append {
            from_replica: item.from_replica,
            to_replica: item.to_replica,
            term: item.term,
            prev: item.prev,
            commit: item.commit,
            batch: LogBatch { span, kind, bytes: item.bytes, slice: None },
            membership,
        };
        Ok(Some((at, append)))
    }
}
