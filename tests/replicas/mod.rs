//! A few replicas of one group, with disks that can be held and a network that waits to be told.
//!
//! Shared by the golden scripts, the paper tests and the random schedules. Each [`Node`] does for
//! its group what a shard does: proposes the no-op, closes blocks, tells completions, flushes at
//! the end of a turn. After every step `check_deep`, `check_step` and the [`Oracle`] run, so no
//! test can record a broken state as expected.
#![allow(dead_code, reason = "each of the test programs uses a part")]

pub(crate) mod disk;
pub(crate) mod oracle;
pub(crate) mod trace;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use catamaran::base::{Arena, Moment, Prng, Slice};
use catamaran::model::{
    BatchKind, EntryId, GroupId, LogIndex, Membership, NodeId, RecordCount, ReplicaId, Span, Term,
    WriteSeq,
};
use catamaran::raft::{
    Append, AppendVerdict, Effect, Effects, Envelope, Group, LogBatch, Message, NextAppend,
    ReadToken, RoleName, Settings, Summary, Timing, Window,
};

use disk::{Disk, Image, Item};
use oracle::Oracle;

/// What travels.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Control(Envelope),
    Bulk(Append),
}

/// Something on its way from one node to another.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) body: Body,
}

impl Packet {
    pub(crate) fn text(&self) -> String {
        match &self.body {
            // An envelope in a packet still bears the receiver's name.
            Body::Control(envelope) => trace::message(self.from, envelope),
            Body::Bulk(append) => trace::append(self.from, self.to, append),
        }
    }
}

/// One replica, up or down, and its disk.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) group: Option<Group>,
    pub(crate) disk: Disk,
    owes_noop: bool,
    /// As of the end of its last turn.
    before: Option<Summary>,
    /// Reads of the disk are not answered while set.
    pub(crate) fetches_held: bool,
    fetch_waits: BTreeMap<NodeId, LogIndex>,
}

/// What may differ from test to test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) seed: u64,
    pub(crate) tail_batches_max: usize,
    pub(crate) window: Window,
    /// Bytes that each batch claims to have.
    pub(crate) batch_bytes: u32,
    /// Writes that a disk takes at a time; more batches wait for the next block.
    pub(crate) write_slots: usize,
    /// Batches and resets that a block takes.
    pub(crate) block_items_max: usize,
    /// Whether events are written down.
    pub(crate) tracing: bool,
}

impl Default for Options {
    fn default() -> Self {
        let window = Window { bytes_max: 1 << 20, batches_max: 64 };
        Self {
            seed: 1,
            tail_batches_max: 64,
            window,
            batch_bytes: 100,
            write_slots: 99,
            block_items_max: 99,
            tracing: true,
        }
    }
}

/// The replicas of one group and what lies between them.
pub(crate) struct Cluster {
    pub(crate) now: Moment,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) packets: Vec<Packet>,
    /// What was copied for a later replay.
    pub(crate) copies: Vec<Packet>,
    cuts: BTreeSet<(NodeId, NodeId)>,
    pub(crate) lines: Vec<String>,
    pub(crate) options: Options,
    pub(crate) oracle: Oracle,
    pub(crate) initial: Membership,
    prng: Prng,
    slice: Slice,
    reads: u64,
}

pub(crate) const GROUP: GroupId = GroupId::new(7);

pub(crate) fn node(id: u16) -> NodeId {
    NodeId::new(id)
}

pub(crate) fn replica(node: NodeId) -> ReplicaId {
    ReplicaId::new(u32::from(node.get()))
}

pub(crate) fn entry(index: u64, term: u64) -> EntryId {
    EntryId::new(Term::new(term), LogIndex::new(index))
}

pub(crate) fn span(first: u64, count: u32, term: u64) -> Span {
    Span { term: Term::new(term), first: LogIndex::new(first), count: RecordCount::new(count) }
}

impl Cluster {
    /// `voters` nodes with empty disks, all up; and `others` that are in no configuration yet.
    pub(crate) fn new(voters: u16, others: u16, options: Options) -> Self {
        let ids: Vec<NodeId> = (1..=voters).map(node).collect();
        let initial = Membership::of_voters(&ids);
        let mut cluster = Self {
            now: Moment::from_nanos(1_000_000_000),
            nodes: BTreeMap::new(),
            packets: Vec::new(),
            copies: Vec::new(),
            cuts: BTreeSet::new(),
            lines: Vec::new(),
            options,
            oracle: Oracle::default(),
            initial: initial.clone(),
            prng: Prng::new(options.seed),
            slice: Arena::new(1, 4096).take(4096).expect("a fresh arena").freeze(0),
            reads: 0,
        };
        for id in (1..=voters + others).map(node) {
            cluster.boot(id, Image::new(initial.clone()));
        }
        cluster
    }

    /// Starts `id` with what recovery finds on a disk of this content.
    pub(crate) fn boot(&mut self, id: NodeId, image: Image) {
        let group = self.start(id, &image, 0);
        let before = Some(group.summary());
        let node = Node {
            id,
            group: Some(group),
            disk: Disk::new(image),
            owes_noop: false,
            before,
            fetches_held: false,
            fetch_waits: BTreeMap::new(),
        };
        self.nodes.insert(id, node);
    }

    fn start(&mut self, id: NodeId, image: &Image, sparse: usize) -> Group {
        let settings = Settings {
            group: GROUP,
            node: id,
            replica: replica(id),
            timing: Timing::default(),
            window: self.options.window,
            tail_batches_max: self.options.tail_batches_max,
        };
        Group::new(settings, image.recovered(sparse), self.now, self.prng.fork())
    }

    pub(crate) fn group(&self, id: NodeId) -> &Group {
        self.nodes[&id].group.as_ref().expect("the node is up")
    }

    pub(crate) fn is_up(&self, id: NodeId) -> bool {
        self.nodes[&id].group.is_some()
    }

    pub(crate) fn leader(&self) -> Option<NodeId> {
        let leads = |n: &&Node| n.group.as_ref().is_some_and(|g| g.role() == RoleName::Leader);
        let newest = |n: &&Node| n.group.as_ref().map(Group::term);
        self.nodes.values().filter(leads).max_by_key(newest).map(|n| n.id)
    }

    pub(crate) fn say(&mut self, line: impl FnOnce() -> String) {
        if self.options.tracing {
            self.lines.push(line());
        }
    }

    /// Speaks to a group and lets its node finish the turn.
    pub(crate) fn with<T>(
        &mut self,
        id: NodeId,
        speak: impl FnOnce(&mut Group, Moment, &mut Effects) -> T,
    ) -> T {
        let now = self.now;
        let mut fx = Effects::default();
        let node = self.nodes.get_mut(&id).expect("known");
        let result = speak(node.group.as_mut().expect("the node is up"), now, &mut fx);
        self.finish_turn(id, fx);
        result
    }

    // ---- time

    /// Lets time pass to the group's own deadline, for it alone.
    pub(crate) fn timeout(&mut self, id: NodeId) {
        self.now = self.now.max(self.group(id).deadline());
        self.tick(id);
    }

    pub(crate) fn tick(&mut self, id: NodeId) {
        self.with(id, |group, now, fx| group.tick(now, fx));
    }

    /// Lets a heartbeat period pass, for this one alone.
    pub(crate) fn heartbeat(&mut self, id: NodeId) {
        self.now = self.now.after(Timing::default().heartbeat);
        self.tick(id);
    }

    /// Lets time pass for everybody; messages are delivered as they come.
    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now.after(duration);
        loop {
            self.stabilize();
            let next = self
                .nodes
                .values()
                .filter_map(|n| Some((n.group.as_ref()?.deadline(), n.id)))
                .min()
                .filter(|(deadline, _)| *deadline <= end);
            let Some((deadline, id)) = next else { break };
            self.now = self.now.max(deadline);
            self.tick(id);
        }
        self.now = end;
    }

    // ---- network

    fn post(&mut self, packet: Packet) {
        let lost = self.cuts.contains(&(packet.from, packet.to));
        self.say(|| packet.text() + if lost { " (lost)" } else { "" });
        if !lost {
            self.packets.push(packet);
        }
    }

    /// Hands over one packet.
    pub(crate) fn hand_over(&mut self, packet: Packet) {
        let Packet { from, to, body } = packet;
        if !self.nodes.contains_key(&to) || !self.is_up(to) {
            return;
        }
        match body {
            Body::Control(mut envelope) => {
                envelope.peer = from;
                self.with(to, |group, now, fx| group.step(now, envelope, fx));
            }
            Body::Bulk(append) => {
                self.append(from, to, append);
            }
        }
    }

    pub(crate) fn append(&mut self, from: NodeId, to: NodeId, append: Append) -> AppendVerdict {
        let (batch, membership) = (append.batch.clone(), append.membership.clone());
        let mut fx = Effects::default();
        let now = self.now;
        let node = self.nodes.get_mut(&to).expect("known");
        let group = node.group.as_mut().expect("up");
        let verdict = group.on_append(now, from, append, &mut fx);
        if verdict == AppendVerdict::New {
            node.disk.stage(&batch, membership);
        }
        self.carry_out(to, fx);
        let word = match verdict {
            AppendVerdict::New => "append",
            AppendVerdict::Known => "knows",
            AppendVerdict::Rejected => "rejects",
        };
        self.say(|| format!("{to:?} {word} [{}]", trace::span(&batch.span)));
        self.finish_turn(to, Effects::default());
        verdict
    }

    /// Delivers what waits now for `to`, not what that causes.
    pub(crate) fn deliver(&mut self, to: NodeId, from: Option<NodeId>) {
        let (mine, others): (Vec<_>, Vec<_>) = core::mem::take(&mut self.packets)
            .into_iter()
            .partition(|p| p.to == to && from.is_none_or(|from| p.from == from));
        self.packets = others;
        for packet in mine {
            self.hand_over(packet);
        }
    }

    /// Delivers everything, and what that causes, until nothing is on its way.
    pub(crate) fn stabilize(&mut self) {
        for _ in 0..100_000 {
            if self.packets.is_empty() {
                return;
            }
            let packet = self.packets.remove(0);
            self.hand_over(packet);
        }
        panic!("messages never end");
    }

    /// From now on nothing gets from `from` to `to`; what is on its way is lost.
    pub(crate) fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cuts.insert((from, to));
        self.packets.retain(|p| (p.from, p.to) != (from, to));
    }

    /// Everything gets through again, on new streams.
    pub(crate) fn heal(&mut self) {
        let cuts = core::mem::take(&mut self.cuts);
        let pairs: BTreeSet<(NodeId, NodeId)> =
            cuts.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
        for (a, b) in pairs {
            self.reset_link(a, b);
        }
    }

    /// The streams between two nodes break and are made anew.
    pub(crate) fn reset_link(&mut self, a: NodeId, b: NodeId) {
        self.packets.retain(|p| (p.from, p.to) != (a, b) && (p.from, p.to) != (b, a));
        for (id, peer) in [(a, b), (b, a)] {
            if self.is_up(id) {
                self.with(id, |group, now, fx| {
                    group.link_reset(peer, fx);
                    group.link_up(now, peer, fx);
                });
            }
        }
    }

    // ---- disk

    pub(crate) fn hold(&mut self, id: NodeId, held: bool) {
        self.nodes.get_mut(&id).expect("known").disk.held = held;
        if !held && self.is_up(id) {
            self.finish_turn(id, Effects::default());
        }
    }

    /// Makes the oldest held write durable. False if there is none.
    pub(crate) fn complete(&mut self, id: NodeId) -> bool {
        let Some(fx) = self.complete_one(id) else { return false };
        self.finish_turn(id, fx);
        true
    }

    fn complete_one(&mut self, id: NodeId) -> Option<Effects> {
        let now = self.now;
        let node = self.nodes.get_mut(&id).expect("known");
        let group = node.group.as_mut()?;
        let write = node.disk.complete_one()?;
        let mut fx = Effects::default();
        group.persisted(now, write, &mut fx);
        self.say(|| format!("{id:?} durable {write:?}"));
        Some(fx)
    }

    // ---- process

    /// The process ends and so does the power: writes in flight are lost except the first ones.
    pub(crate) fn crash(&mut self, id: NodeId, survivors: usize) {
        let node = self.nodes.get_mut(&id).expect("known");
        node.group = None;
        node.before = None;
        node.owes_noop = false;
        node.fetch_waits.clear();
        let lost = node.disk.crash(survivors);
        let lost: Vec<String> = lost.iter().map(|write| format!("{write:?}")).collect();
        self.say(|| {
            format!(
                "{id:?} crash, lost {}",
                if lost.is_empty() { "nothing".into() } else { lost.join(" ") }
            )
        });
        self.packets.retain(|p| p.from != id && p.to != id);
    }

    pub(crate) fn restart(&mut self, id: NodeId) {
        let image = self.nodes[&id].disk.image.clone();
        let group = self.start(id, &image, image.spans.len() / 2);
        let node = self.nodes.get_mut(&id).expect("known");
        node.before = Some(group.summary());
        node.group = Some(group);
        let line = trace::status(id, self.group(id));
        self.say(|| line);
        let peers: Vec<NodeId> = self.nodes.keys().copied().filter(|p| *p != id).collect();
        for peer in peers {
            self.reset_link(id, peer);
        }
    }

    /// The disk is replaced by an empty one. Not survivable in general.
    pub(crate) fn wipe(&mut self, id: NodeId, keep_hard_state: bool) {
        let image = Image::new(self.initial.clone());
        let node = self.nodes.get_mut(&id).expect("known");
        assert!(node.group.is_none(), "only a stopped node is wiped");
        let hard = node.disk.image.hard;
        node.disk.image = image;
        if keep_hard_state {
            node.disk.image.hard = hard;
            node.disk.image.hard.commit = LogIndex::BEFORE_FIRST;
        }
    }

    // ---- requests

    /// The leader batches `count` records.
    pub(crate) fn put(&mut self, id: NodeId, count: u32) {
        self.propose(id, BatchKind::Records, count, None);
    }

    pub(crate) fn configure(&mut self, id: NodeId, membership: Membership) {
        self.propose(id, BatchKind::Configuration, 1, Some(membership));
    }

    fn propose(&mut self, id: NodeId, kind: BatchKind, count: u32, config: Option<Membership>) {
        let (slice, bytes) = (Some(self.slice.clone()), self.options.batch_bytes);
        let node = self.nodes.get_mut(&id).expect("known");
        let group = node.group.as_mut().expect("up");
        let first = group.last().index.next();
        let span = Span { term: group.term(), first, count: RecordCount::new(count) };
        let batch = LogBatch { span, kind, bytes, slice };
        let mut fx = Effects::default();
        group.propose(batch.clone(), config.clone(), &mut fx);
        node.disk.stage(&batch, config);
        let what = if kind == BatchKind::Noop { " noop" } else { "" };
        self.say(|| format!("{id:?} propose [{}]{what}", trace::span(&span)));
        self.finish_turn(id, fx);
    }

    /// So many reads in one turn.
    pub(crate) fn read(&mut self, id: NodeId, count: u64) {
        let first = self.reads + 1;
        self.reads += count;
        let tokens: Vec<ReadToken> = (first..=self.reads).map(ReadToken).collect();
        for token in &tokens {
            self.oracle.read_asked(*token);
        }
        self.with(id, |group, now, fx| {
            for token in tokens {
                group.read_index(now, token, fx);
            }
        });
    }

    /// Trims a replica's log to the end of the batch that contains `index`, as retention would.
    pub(crate) fn trim(&mut self, id: NodeId, index: u64) {
        let node = self.nodes.get_mut(&id).expect("known");
        let (batch, _, _) = node.disk.image.batch(LogIndex::new(index)).expect("durable");
        let group = node.group.as_mut().expect("up");
        group.trim(batch.last_entry());
        node.disk.image.trim(group.base(), group.base_membership().clone());
        self.finish_turn(id, Effects::default());
    }

    pub(crate) fn evict(&mut self, id: NodeId, index: u64) {
        self.with(id, |group, _, _| group.evict(LogIndex::new(index)));
    }

    // ---- what a shard does

    /// Block, flush, bulk frames, completions: until the node waits for the world.
    fn finish_turn(&mut self, id: NodeId, fx: Effects) {
        let mut fx = fx;
        loop {
            self.carry_out(id, fx);
            if core::mem::take(&mut self.nodes.get_mut(&id).expect("known").owes_noop)
                && self.group(id).role() == RoleName::Leader
            {
                // Ends its own turn, and this one with it.
                return self.propose(id, BatchKind::Noop, 1, None);
            }
            while self.close_block(id) {}
            let mut wishes = Effects::default();
            let now = self.now;
            let group = self.nodes.get_mut(&id).and_then(|n| n.group.as_mut()).expect("up");
            group.flush(now, &mut wishes);
            self.carry_out(id, wishes);
            self.send_bulk(id);
            if self.nodes[&id].disk.held {
                break;
            }
            let Some(wishes) = self.complete_one(id) else { break };
            fx = wishes;
        }
        self.check(id);
    }

    fn carry_out(&mut self, id: NodeId, fx: Effects) {
        for effect in fx.list {
            let node = &self.nodes[&id];
            let group = node.group.as_ref().expect("up");
            self.oracle.observe(id, group, &effect, &self.nodes);
            if !matches!(effect, Effect::Send(_))
                && let Some(line) = trace::effect(id, &effect)
            {
                self.say(|| line);
            }
            match effect {
                Effect::Send(envelope) => {
                    let to = envelope.peer;
                    self.post(Packet { from: id, to, body: Body::Control(envelope) });
                }
                Effect::BecameLeader { .. } => {
                    self.nodes.get_mut(&id).expect("known").owes_noop = true;
                }
                Effect::Installed { last, membership, keep_tail, .. } => {
                    let reset = Item::Reset { last, membership, keep_tail };
                    self.nodes.get_mut(&id).expect("known").disk.staged.push(reset);
                }
                Effect::HardStateDirty { .. }
                | Effect::SteppedDown { .. }
                | Effect::LeaderChanged { .. }
                | Effect::Truncated { .. }
                | Effect::Committed { .. }
                | Effect::ReadReady { .. }
                | Effect::ReadFailed { .. } => {}
            }
        }
    }

    /// Closes a block if there is work and the disk takes it.
    fn close_block(&mut self, id: NodeId) -> bool {
        let node = self.nodes.get_mut(&id).expect("known");
        let group = node.group.as_mut().expect("up");
        let disk = &mut node.disk;
        let has_work = !disk.staged.is_empty() || group.hard_state_dirty();
        if !has_work || self.options.write_slots <= disk.in_flight.len() {
            return false;
        }
        disk.write = disk.write.next();
        let write = disk.write;
        let count = disk.staged.len().min(self.options.block_items_max);
        let mut items: Vec<Item> = disk.staged.drain(..count).collect();
        for item in &items {
            match item {
                Item::Batch(span, ..) => group.submitted(*span, write),
                Item::Reset { .. } => group.reset_submitted(write),
                Item::Hard(_) => unreachable!("added below"),
            }
        }
        if group.hard_state_dirty() {
            // First in the block: an entry of a term never comes before the term (H-03).
            items.insert(0, Item::Hard(group.hard_state()));
            group.hard_state_submitted(write);
        }
        let text = trace::items(&items);
        let held = if disk.held { " (held)" } else { "" };
        disk.in_flight.push_back((write, items));
        self.say(|| format!("{id:?} write {write:?}{text}{held}"));
        true
    }

    fn send_bulk(&mut self, id: NodeId) {
        let peers: Vec<NodeId> = self.nodes.keys().copied().filter(|p| *p != id).collect();
        for peer in peers {
            self.answer_fetch(id, peer);
            for _ in 0..1000 {
                let node = self.nodes.get_mut(&id).expect("known");
                let group = node.group.as_mut().expect("up");
                match group.next_append(peer, u64::MAX) {
                    NextAppend::Nothing => break,
                    NextAppend::Fetch { from } => {
                        node.fetch_waits.insert(peer, from);
                        self.say(|| format!("{id:?} fetch from {from} for {peer:?}"));
                        self.answer_fetch(id, peer);
                    }
                    NextAppend::Batches { prev, commit, batch } => {
                        assert!(batch.slice.is_some(), "a batch to send has its bytes");
                        let membership = Self::configuration(group, node.disk.image.base, &batch);
                        let append = Append {
                            from_replica: replica(id),
                            to_replica: replica(peer),
                            term: group.term(),
                            prev,
                            commit,
                            batch,
                            membership,
                        };
                        self.post(Packet { from: id, to: peer, body: Body::Bulk(append) });
                    }
                }
            }
        }
    }

    /// A configuration travels inside its batch; here it is taken from the sender's group.
    fn configuration(group: &Group, _base: EntryId, batch: &LogBatch) -> Option<Membership> {
        (batch.kind == BatchKind::Configuration)
            .then(|| group.membership_at(batch.span.first).clone())
    }

    fn answer_fetch(&mut self, id: NodeId, peer: NodeId) {
        let node = self.nodes.get_mut(&id).expect("known");
        if node.fetches_held {
            return;
        }
        let Some(from) = node.fetch_waits.remove(&peer) else { return };
        let group = node.group.as_mut().expect("up");
        let mut batches = Vec::new();
        let mut bytes = 0;
        let (mut at, last) = (from, group.last().index);
        while at <= last && bytes < 300 {
            // Not durable yet means not on the disk; it is asked for again then.
            let Some((span, kind, len)) = node.disk.image.batch(at) else { break };
            bytes += u64::from(len);
            batches.push(LogBatch { span, kind, bytes: len, slice: Some(self.slice.clone()) });
            at = span.last().next();
        }
        group.fetched(peer, batches);
    }

    // ---- checks

    fn check(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("known");
        let group = node.group.as_ref().expect("up");
        group.check_deep();
        let after = group.summary();
        if let Some(before) = node.before.replace(after) {
            before.check_step(&after);
        }
        self.oracle.check_committed(id, group);
    }

    /// What no single replica can see.
    pub(crate) fn check_all(&self) {
        let groups: Vec<(NodeId, &Group)> =
            self.nodes.values().filter_map(|n| Some((n.id, n.group.as_ref()?))).collect();
        for (i, (a, left)) in groups.iter().enumerate() {
            for (b, right) in &groups[i + 1..] {
                oracle::check_log_matching((*a, left), (*b, right));
            }
        }
    }

    pub(crate) fn status(&self, id: NodeId) -> String {
        match &self.nodes[&id].group {
            Some(group) => trace::status(id, group),
            None => format!("{id:?} down"),
        }
    }

    pub(crate) fn in_flight(&self, id: NodeId) -> Vec<WriteSeq> {
        self.nodes[&id].disk.in_flight.iter().map(|(write, _)| *write).collect()
    }

    /// A control message from `from`, as if it had sent it.
    pub(crate) fn speak(&mut self, from: NodeId, to: NodeId, term: u64, message: Message) {
        let envelope = Envelope {
            group: GROUP,
            peer: to,
            from_replica: replica(from),
            to_replica: replica(to),
            term: Term::new(term),
            message,
        };
        self.hand_over(Packet { from, to, body: Body::Control(envelope) });
    }
}
