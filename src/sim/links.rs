//! Peer streams: dialling, delivering, resetting.
//!
//! One `impl World` block; what a stream is stands in `net`. The lower node dials, both lanes, per
//! shard, and dials again for as long as both nodes live, as the runtime does. Whether
//! they let each other in is `doors`' part.

use bytes::{Bytes, BytesMut};

use super::net::{Parcel, Pipe, pieces};
use super::node::Live;
use super::verdict::{Check, Fault, fail};
use super::world::{At, Event, World, node_id, place};
use crate::base::Moment;
use crate::model::{NodeId, StreamId};
use crate::shard::{Frame, Input, Lane, STREAM_WEDGED};
use crate::wire::peer::bulk_frame_bytes;

impl World {
    /// Lets a link's lower node dial after its back-off.
    pub(super) fn dial_later(&mut self, link: usize) {
        let delay = self.plan.net.reconnect.draw(&mut self.prng.net);
        let epoch = self.net.link(link).epoch;
        self.queue.after(delay, Event::Connect { link, epoch });
    }

    /// Dials: a connection needs both directions and two nodes that answer.
    pub(super) fn on_connect(&mut self, link: usize, epoch: u64) -> Check {
        let found = self.net.link(link);
        if found.epoch != epoch {
            return Ok(());
        }
        let [low, high] = found.nodes;
        let reachable = [low, high].iter().all(|node| self.nodes[*node].answers())
            && !self.net.is_cut(low, high)
            && !self.net.is_cut(high, low);
        if !reachable || !self.shakes(link)? {
            self.dial_later(link);
            return Ok(());
        }
        let now = self.queue.now();
        let mut ups = [Moment::ZERO; 2];
        for up in &mut ups {
            *up = now.after(self.plan.net.delay.draw(&mut self.prng.net));
        }
        let found = self.net.link(link);
        found.epoch += 1;
        let epoch = found.epoch;
        // What an end sends arrives when the other end knows of the stream, not before.
        found.pipes = [Pipe::new(ups[1]), Pipe::new(ups[0])];
        for (side, up) in ups.into_iter().enumerate() {
            self.queue.at(up, Event::StreamUp { link, side, epoch });
        }
        Ok(())
    }

    /// An end of a new stream may use it.
    pub(super) fn on_stream_up(&mut self, link: usize, side: usize, epoch: u64) {
        let found = self.net.link(link);
        if found.epoch != epoch {
            return;
        }
        let (node, peer) = (found.nodes[side], found.nodes[1 - side]);
        let (shard, lane) = (found.shard, found.lane);
        let credit_bytes = self.plan.credit_bytes;
        let Some(live) = self.nodes[node].live(shard) else { return };
        let stream = live.next_stream();
        let input = Input::PeerUp { peer: node_id(peer), lane, stream, credit_bytes };
        self.net.link(link).streams[side] = Some(stream);
        self.note("up", &[node as u64, peer as u64, lane_number(lane), stream.get()]);
        self.give(self.nodes[node].at(shard), input);
    }

    /// Cuts a stream: what is under way is lost, each end hears of it in its own time.
    pub(super) fn reset(&mut self, link: usize) {
        let now = self.queue.now();
        let found = self.net.link(link);
        found.epoch += 1;
        found.pipes = [Pipe::new(now), Pipe::new(now)];
        let (nodes, shard, lane) = (found.nodes, found.shard, found.lane);
        let streams = core::mem::take(&mut found.streams);
        for (side, stream) in streams.into_iter().enumerate() {
            let Some(stream) = stream else { continue };
            let delay = self.plan.net.delay.draw(&mut self.prng.net);
            let at = self.nodes[nodes[side]].at(shard);
            let peer = node_id(nodes[1 - side]);
            self.queue.after(delay, Event::StreamDown { at, peer, lane, stream });
        }
        self.dial_later(link);
    }

    /// An end hears that its stream is gone.
    pub(super) fn on_stream_down(&mut self, at: At, peer: NodeId, lane: Lane, stream: StreamId) {
        self.note("down", &[at.node as u64, u64::from(peer.get()), lane_number(lane)]);
        self.give(at, Input::PeerDown { peer, lane, stream });
    }

    /// A shard sends on a stream. One that is gone drops it.
    pub(super) fn send_peer(&mut self, at: At, to: (NodeId, Lane, StreamId), frame: Frame) {
        let (peer, lane, stream) = to;
        let (link, side) = self.net.find(at.node, place(peer), at.shard, lane);
        if self.net.link(link).streams[side] != Some(stream) {
            return;
        }
        if self.chaotic && self.prng.net.chance(self.plan.net.reset_ppm, 1_000_000) {
            self.tally.count(Fault::Reset);
            return self.reset(link);
        }
        let corrupt = self.chaotic && self.prng.net.chance(self.plan.net.corrupt_ppm, 1_000_000);
        match lane {
            Lane::Control => {
                let mut bytes = flatten(&frame);
                if corrupt {
                    self.tally.count(Fault::Corruption);
                    let at = self.prng.net.below(bytes.len() as u64);
                    bytes[usize::try_from(at).expect("a place in it")] ^= 1;
                }
                let max = self.plan.net.chunk_bytes_max;
                for piece in pieces(bytes.freeze(), max, &mut self.prng.net) {
                    self.push(link, side, Parcel::Bytes(piece));
                }
            }
            Lane::Bulk if corrupt => {
                // The receiver finds out; here the frame becomes bytes that are not a frame.
                self.tally.count(Fault::Corruption);
                let mut bytes = flatten(&frame);
                let at = self.prng.net.below(bytes.len() as u64);
                bytes[usize::try_from(at).expect("a place in it")] ^= 1;
                self.push(link, side, Parcel::Bytes(bytes.freeze()));
            }
            Lane::Bulk => self.push(link, side, Parcel::Bulk(frame)),
        }
    }

    /// A shard closes a stream that does not move, or one that spoke nonsense: only changed bytes
    /// may make it.
    pub(super) fn close_peer(
        &mut self,
        at: At,
        to: (NodeId, Lane, StreamId),
        reason: &'static str,
    ) -> Check {
        let (peer, lane, stream) = to;
        if self.plan.net.corrupt_ppm == 0 && reason != STREAM_WEDGED {
            fail!(Protocol, "{at:?} closes the stream to {peer:?}, nothing was changed: {reason}");
        }
        let (link, side) = self.net.find(at.node, place(peer), at.shard, lane);
        if self.net.link(link).streams[side] == Some(stream) {
            self.reset(link);
        }
        Ok(())
    }

    fn push(&mut self, link: usize, side: usize, parcel: Parcel) {
        let due = self.queue.now().after(self.plan.net.delay.draw(&mut self.prng.net));
        let found = self.net.link(link);
        let epoch = found.epoch;
        if let Some(due) = found.pipes[side].push(due, parcel) {
            self.queue.at(due, Event::Deliver { link, side, epoch });
        }
    }

    /// Lets what waits in a link's pipes move again: after a cut or a pause.
    pub(super) fn reschedule(&mut self, link: usize) {
        for side in 0..2 {
            let found = self.net.link(link);
            let epoch = found.epoch;
            if let Some(due) = found.pipes[side].schedule() {
                self.queue.at(due, Event::Deliver { link, side, epoch });
            }
        }
    }

    /// The front parcel from `side` reaches the other end, if anything passes and it has room.
    pub(super) fn on_deliver(&mut self, link: usize, side: usize, epoch: u64) {
        if self.net.link(link).epoch != epoch {
            return;
        }
        let now = self.queue.now();
        let found = self.net.link(link);
        let (from, to) = (found.nodes[side], found.nodes[1 - side]);
        let (shard, lane, stream) = (found.shard, found.lane, found.streams[1 - side]);
        found.pipes[side].unschedule();
        // Cut or paused: it waits in the kernel until `reschedule`.
        if self.net.is_cut(from, to) || self.nodes[to].paused {
            return;
        }
        let Some(stream) = stream else { return };
        let found = self.net.link(link);
        if found.pipes[side].is_due(now)
            && let Some(parcel) = found.pipes[side].pop()
        {
            let length = parcel_bytes(&parcel);
            let peer = node_id(from);
            match self.receive(to, shard, (peer, lane, stream), parcel) {
                Received::Taken => {
                    self.note("deliver", &[from as u64, to as u64, lane_number(lane), length]);
                }
                Received::NoRoom(parcel) => {
                    let again = now.after(core::time::Duration::from_micros(200));
                    self.net.link(link).pipes[side].put_back(again, parcel);
                }
                Received::Nonsense => return self.reset(link),
            }
        }
        let found = self.net.link(link);
        if found.epoch == epoch
            && let Some(due) = found.pipes[side].schedule()
        {
            self.queue.at(due, Event::Deliver { link, side, epoch });
        }
    }

    fn receive(
        &mut self,
        node: usize,
        shard: usize,
        from: (NodeId, Lane, StreamId),
        parcel: Parcel,
    ) -> Received {
        let (peer, lane, stream) = from;
        let at = self.nodes[node].at(shard);
        let Some(live) = self.nodes[node].live(shard) else { return Received::Taken };
        let input = match (lane, parcel) {
            (Lane::Control, Parcel::Bytes(bytes)) => Input::PeerControl { peer, stream, bytes },
            (Lane::Control, Parcel::Bulk(_)) => unreachable!("bulk frames go by the bulk lane"),
            (Lane::Bulk, parcel) => match receive_bulk(live, parcel) {
                Ok(frame) => Input::PeerBulk { peer, stream, frame },
                Err(received) => return received,
            },
        };
        self.give(at, input);
        Received::Taken
    }
}

/// What became of a parcel.
enum Received {
    Taken,
    /// The arena is full: the receiver stops reading until it has room.
    NoRoom(Parcel),
    /// Not a frame: the receiver's runtime closes the stream.
    Nonsense,
}

/// Reads a bulk frame into a block of the receiver's arena, as its runtime does.
fn receive_bulk(live: &mut Live, parcel: Parcel) -> Result<crate::base::BlockBuf, Received> {
    let bytes = match &parcel {
        Parcel::Bytes(bytes) => bytes.clone(),
        Parcel::Bulk(frame) => flatten(frame).freeze(),
    };
    match bulk_frame_bytes(&bytes) {
        Ok(Some(length)) if length == bytes.len() => {}
        Ok(_) | Err(_) => return Err(Received::Nonsense),
    }
    let Some(mut block) = live.arena.take_spare(bytes.len()) else {
        return Err(Received::NoRoom(parcel));
    };
    block.copy_from_slice(&bytes);
    Ok(block)
}

/// All bytes of a frame behind one another.
pub(super) fn flatten(frame: &Frame) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(frame.len_bytes());
    for part in &frame.parts {
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

fn parcel_bytes(parcel: &Parcel) -> u64 {
    let bytes = match parcel {
        Parcel::Bytes(bytes) => Bytes::len(bytes),
        Parcel::Bulk(frame) => frame.len_bytes(),
    };
    bytes as u64
}

fn lane_number(lane: Lane) -> u64 {
    u64::from(lane == Lane::Bulk)
}
