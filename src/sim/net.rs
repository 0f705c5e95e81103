//! The simulated network: streams that behave as TCP does, and who can reach whom.
//!
//! Apart because this is what a network may do: deliver late, in pieces, nothing at all for as
//! long as it likes, or cut a stream and lose what was on its way. Within one stream nothing is
//! lost, doubled or reordered, as the runtime's streams are TCP; between streams anything is.
//! Does not: own the clock (the world lets events happen), know what the bytes mean.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::base::{Moment, Prng};
use crate::model::StreamId;
use crate::shard::{Frame, Lane};

/// What travels.
pub(super) enum Parcel {
    /// Bytes of a stream that the receiver cuts itself.
    Bytes(Bytes),
    /// One bulk frame. Its blocks stay lent until it is delivered, as with a full send buffer.
    Bulk(Frame),
}

/// One direction of one stream.
pub(super) struct Pipe {
    queue: VecDeque<(Moment, Parcel)>,
    last_due: Moment,
    /// Whether the world has a delivery event for this pipe.
    scheduled: bool,
}

impl Pipe {
    /// An empty pipe whose first bytes arrive at `open` at the earliest.
    pub(super) fn new(open: Moment) -> Self {
        Self { queue: VecDeque::new(), last_due: open, scheduled: false }
    }

    /// Puts `parcel` behind what is under way. Answers when to deliver next, if nobody is going
    /// to yet.
    pub(super) fn push(&mut self, due: Moment, parcel: Parcel) -> Option<Moment> {
        self.last_due = self.last_due.max(due);
        self.queue.push_back((self.last_due, parcel));
        self.schedule()
    }

    /// Whether the front parcel is due.
    pub(super) fn is_due(&self, now: Moment) -> bool {
        self.queue.front().is_some_and(|(due, _)| *due <= now)
    }

    /// The front parcel.
    pub(super) fn pop(&mut self) -> Option<Parcel> {
        self.queue.pop_front().map(|(_, parcel)| parcel)
    }

    /// Puts a parcel back to the front, for which the receiver has no room before `due`.
    pub(super) fn put_back(&mut self, due: Moment, parcel: Parcel) {
        self.last_due = self.last_due.max(due);
        self.queue.push_front((due, parcel));
    }

    /// The delivery event happened or was overtaken.
    pub(super) fn unschedule(&mut self) {
        self.scheduled = false;
    }

    /// When to deliver next, if something is under way and nobody is going to yet.
    pub(super) fn schedule(&mut self) -> Option<Moment> {
        let (due, _) = self.queue.front()?;
        (!core::mem::replace(&mut self.scheduled, true)).then_some(*due)
    }
}

/// One stream between the same shards of two nodes, on one lane.
pub(super) struct Link {
    /// The two nodes' places in the world; the lower one dials.
    pub(super) nodes: [usize; 2],
    /// The shard at both ends.
    pub(super) shard: usize,
    /// Which stream of the two.
    pub(super) lane: Lane,
    /// Counts connections, so that events of an earlier one are recognised.
    pub(super) epoch: u64,
    /// What each end calls the stream while it believes it to be up.
    pub(super) streams: [Option<StreamId>; 2],
    /// Each end's way out.
    pub(super) pipes: [Pipe; 2],
}

/// All streams between nodes, and the cuts.
pub(super) struct Net {
    nodes: usize,
    shards: usize,
    links: Vec<Link>,
    /// How many reasons there are why `from * nodes + to` carries nothing.
    cuts: Vec<u32>,
}

impl Net {
    /// Streams between all pairs of `nodes`, all down.
    pub(super) fn new(nodes: usize, shards: usize) -> Self {
        let mut links = Vec::new();
        for low in 0..nodes {
            for high in low + 1..nodes {
                for shard in 0..shards {
                    for lane in [Lane::Control, Lane::Bulk] {
                        links.push(Link {
                            nodes: [low, high],
                            shard,
                            lane,
                            epoch: 0,
                            streams: [None; 2],
                            pipes: [Pipe::new(Moment::ZERO), Pipe::new(Moment::ZERO)],
                        });
                    }
                }
            }
        }
        Self { nodes, shards, links, cuts: vec![0; nodes * nodes] }
    }

    /// Number of streams.
    pub(super) fn links(&self) -> usize {
        self.links.len()
    }

    /// One stream.
    pub(super) fn link(&mut self, link: usize) -> &mut Link {
        &mut self.links[link]
    }

    /// The stream from `node`'s `shard` to `peer` on `lane`, and which of its ends is `node`'s.
    pub(super) fn find(
        &self,
        node: usize,
        peer: usize,
        shard: usize,
        lane: Lane,
    ) -> (usize, usize) {
        assert!(node != peer && node.max(peer) < self.nodes, "{node} speaks to {peer}");
        let (low, high) = (node.min(peer), node.max(peer));
        // Pairs before those that start with `low`, then those of `low` before `high`.
        let pair = low * self.nodes - low * (low + 1) / 2 + (high - low - 1);
        let lane_at = usize::from(lane == Lane::Bulk);
        ((pair * self.shards + shard) * 2 + lane_at, usize::from(node == high))
    }

    /// The streams that end at `node`.
    pub(super) fn links_of(&self, node: usize) -> Vec<usize> {
        (0..self.links.len()).filter(|link| self.links[*link].nodes.contains(&node)).collect()
    }

    /// Stops (`add`) or lets through what goes `from` one node `to` another. Cuts add up.
    pub(super) fn cut(&mut self, from: usize, to: usize, add: bool) {
        let count = &mut self.cuts[from * self.nodes + to];
        *count = if add { *count + 1 } else { count.checked_sub(1).expect("cut before healed") };
    }

    /// Whether nothing passes `from` one node `to` another.
    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts[from * self.nodes + to] > 0
    }
}

/// Cuts `bytes` into pieces of 1 to `max` bytes, as a network likes it.
pub(super) fn pieces(mut bytes: Bytes, max: u64, prng: &mut Prng) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    // A few cuts are as good as a thousand, and much cheaper.
    while !bytes.is_empty() && pieces.len() < 3 {
        let length = bytes.len() as u64;
        let piece = if prng.chance(2, 3) { length } else { prng.between(1, length + 1).min(max) };
        pieces.push(bytes.split_to(usize::try_from(piece).expect("not above a usize")));
    }
    if !bytes.is_empty() {
        pieces.push(bytes);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_and_lane_has_a_stream_of_its_own() {
        let net = Net::new(5, 2);
        let mut seen = vec![0; net.links()];
        for node in 0..5 {
            for peer in (0..5).filter(|peer| *peer != node) {
                for shard in 0..2 {
                    for lane in [Lane::Control, Lane::Bulk] {
                        let (link, side) = net.find(node, peer, shard, lane);
                        let found = &net.links[link];
                        assert_eq!(found.nodes[side], node);
                        assert_eq!(found.nodes[1 - side], peer);
                        assert_eq!((found.shard, found.lane), (shard, lane));
                        seen[link] += 1;
                    }
                }
            }
        }
        assert!(seen.iter().all(|count| *count == 2), "each end once");
    }

    #[test]
    fn a_pipe_keeps_the_order_whatever_the_delays() {
        let mut pipe = Pipe::new(Moment::ZERO);
        let at = Moment::from_nanos;
        let parcel = |text: &'static str| Parcel::Bytes(Bytes::from_static(text.as_bytes()));
        assert_eq!(pipe.push(at(50), parcel("first")), Some(at(50)));
        assert_eq!(pipe.push(at(10), parcel("second")), None, "somebody comes anyway");
        assert!(!pipe.is_due(at(49)));
        assert!(pipe.is_due(at(50)));
        assert!(matches!(pipe.pop(), Some(Parcel::Bytes(b)) if b == "first"));
        pipe.unschedule();
        assert_eq!(pipe.schedule(), Some(at(50)));
    }

    #[test]
    fn pieces_are_the_whole() {
        let whole = Bytes::from((0..=255).collect::<Vec<u8>>());
        for seed in 0..100 {
            let parts = pieces(whole.clone(), 64, &mut Prng::new(seed));
            assert_eq!(parts.concat(), whole);
        }
    }

    #[test]
    fn cuts_add_up() {
        let mut net = Net::new(3, 1);
        net.cut(0, 1, true);
        net.cut(0, 1, true);
        net.cut(0, 1, false);
        assert!(net.is_cut(0, 1) && !net.is_cut(1, 0));
    }
}
