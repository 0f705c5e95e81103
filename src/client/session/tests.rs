//! The outcome rules, one test each, against nodes that are played by hand.

use super::*;
use crate::model::limits::FRAME_BYTES_MAX;
use crate::model::{Doubt, NodeUuid, Term};
use crate::wire::client::{
    Consistency, GroupInfo, HelloReply, Limits, MetadataReply, ReadReplyHead, Request as Wire,
    encode_append_reply, encode_doubt, encode_error, encode_hello_reply, encode_metadata_reply,
    encode_read_reply_head, encode_refusal,
};
use crate::wire::{Assembler, PROTOCOL_VERSION, client::ErrorCode};

const GROUP: GroupId = GroupId::new(4);
const CLUSTER: ClusterId = ClusterId::new([7; 16]);

/// A session and what became of its wishes.
struct World {
    session: Session,
    now: Moment,
    /// Links that are up or being connected, with their addresses.
    links: BTreeMap<LinkId, String>,
    /// Requests that were sent and not looked at yet.
    sent: VecDeque<(LinkId, InFrame)>,
    outcomes: Vec<(RequestId, Outcome<Answer>)>,
    budget_bytes: u64,
}

impl World {
    fn new(options: SessionOptions) -> Self {
        let mut world = Self {
            session: Session::new(&["h1:1000".to_string()], options),
            now: Moment::from_nanos(1),
            links: BTreeMap::new(),
            sent: VecDeque::new(),
            outcomes: Vec::new(),
            budget_bytes: 1 << 20,
        };
        world.pass(Duration::ZERO);
        world
    }

    /// A session that knows its cluster: three nodes, two shards, node 1 leads group 4.
    fn ready() -> Self {
        Self::ready_with(SessionOptions::default())
    }

    fn ready_with(options: SessionOptions) -> Self {
        let mut world = Self::new(options);
        world.greet("h1:1000", 1, 0);
        assert!(world.session.is_ready());
        world
    }

    fn pass(&mut self, duration: Duration) {
        self.now = self.now.after(duration);
        self.session.on_tick(self.now);
        self.settle();
    }

    /// Lets time pass until the session connects to `address`.
    fn until_connecting(&mut self, address: &str) -> LinkId {
        for _ in 0..1000 {
            if let Some(link) = self.link(address) {
                return link;
            }
            self.pass(Duration::from_millis(5));
        }
        panic!("never connected to {address}: {:?}", self.links);
    }

    fn link(&self, address: &str) -> Option<LinkId> {
        self.links.iter().find(|(_, at)| *at == address).map(|(link, _)| *link)
    }

    fn settle(&mut self) {
        let mut effects = Vec::new();
        self.session.take_effects(&mut effects);
        for effect in effects {
            match effect {
                SessionEffect::Connect { link, address } => {
                    self.links.insert(link, address);
                }
                SessionEffect::Send { link, bytes } => {
                    assert!(self.links.contains_key(&link), "sent on a link that is gone");
                    let mut assembler = Assembler::new(FRAME_BYTES_MAX);
                    assembler.push(bytes);
                    while let Some(frame) = assembler.next() {
                        self.sent.push_back((link, frame.expect("whole frames")));
                    }
                }
                SessionEffect::Close { link, .. } => {
                    self.links.remove(&link);
                }
                SessionEffect::Finished { request, outcome } => {
                    self.outcomes.push((request, outcome));
                }
            }
        }
    }

    fn hello_reply(&self, node: u16, shard: u16) -> HelloReply {
        HelloReply {
            version: PROTOCOL_VERSION,
            node: NodeId::new(node),
            shard: ShardId::new(shard),
            shard_count: 2,
            cluster: CLUSTER,
            uuid: NodeUuid::new([1; 16]),
            limits: Limits {
                frame_bytes_max: 1 << 20,
                batch_bytes_max: 1 << 19,
                requests_max: 100,
                budget_bytes: self.budget_bytes,
            },
        }
    }

    /// Brings the link to `address` up and answers hello and metadata as this node and shard.
    fn greet(&mut self, address: &str, node: u16, shard: u16) -> LinkId {
        let link = self.until_hello(address);
        let mut reply = Vec::new();
        encode_hello_reply(&mut reply, 0, &self.hello_reply(node, shard));
        let hosts = ["h1", "h2", "h3"];
        let nodes: Vec<_> = (1..)
            .zip(hosts)
            .map(|(id, host)| NodeInfo { node: NodeId::new(id), host, client_base_port: 1000 * id })
            .collect();
        let leader = Some(NodeId::new(1));
        let groups = [GroupInfo { group: GROUP, term: Term::new(1), leader }];
        let metadata = MetadataReply {
            cluster: CLUSTER,
            shard: ShardId::new(shard),
            shard_count: 2,
            group_count: 4,
            nodes: &nodes,
            groups: if shard == 0 && node == 1 { &groups } else { &[] },
        };
        encode_metadata_reply(&mut reply, 0, &metadata);
        self.deliver(link, &reply);
        link
    }

    /// Brings the link to `address` up and takes the two questions that are asked on it.
    fn until_hello(&mut self, address: &str) -> LinkId {
        let link = self.until_connecting(address);
        self.session.on_link_up(self.now, link);
        self.settle();
        for is_hello in [true, false] {
            let (on, frame) = self.sent.pop_front().expect("hello and metadata");
            assert_eq!(on, link);
            let request = Wire::decode(&frame.header, frame.body()).expect("valid");
            assert_eq!(matches!(request, Wire::Hello(_)), is_hello);
            assert_eq!(request == Wire::Metadata, !is_hello);
        }
        link
    }

    fn deliver(&mut self, link: LinkId, bytes: &[u8]) {
        self.session.on_bytes(self.now, link, Bytes::copy_from_slice(bytes));
        self.settle();
    }

    fn append(&mut self) -> RequestId {
        let id = self.session.append(self.now, GROUP, None, &[b"record"]).expect("room");
        self.settle();
        id
    }

    fn read(&mut self) -> RequestId {
        let read =
            Read { from: LogIndex::new(1), max_bytes: 100, consistency: Consistency::Linearizable };
        let id = self.session.read(self.now, GROUP, &read).expect("room");
        self.settle();
        id
    }

    /// The next sent request: its address and correlation id.
    fn next_sent(&mut self) -> (String, LinkId, u64) {
        let (link, frame) = self.sent.pop_front().expect("a request was sent");
        (self.links[&link].clone(), link, frame.header.correlation)
    }

    fn answer(&mut self, link: LinkId, correlation: u64) {
        let reply =
            AppendReply { first: LogIndex::new(10), term: Term::new(1), commit: LogIndex::new(10) };
        let mut bytes = Vec::new();
        encode_append_reply(&mut bytes, correlation, GROUP, &reply);
        self.deliver(link, &bytes);
    }

    fn refuse(&mut self, link: LinkId, correlation: u64, refusal: Refusal) {
        let mut bytes = Vec::new();
        encode_refusal(&mut bytes, correlation, GROUP, refusal);
        self.deliver(link, &bytes);
    }

    /// The only outcome so far, without what is in a reply.
    fn outcome(&mut self, id: RequestId) -> Outcome<()> {
        assert_eq!(self.outcomes.len(), 1, "{:?}", self.outcomes);
        let (of, outcome) = self.outcomes.pop().expect("one");
        assert_eq!(of, id);
        match outcome {
            Outcome::Done(_) => Outcome::Done(()),
            Outcome::NotDone(refusal) => Outcome::NotDone(refusal),
            Outcome::Unknown(doubt) => Outcome::Unknown(doubt),
        }
    }
}

#[test]
fn an_append_goes_to_the_leader_and_is_done() {
    let mut world = World::ready();
    let id = world.append();
    let (address, link, correlation) = world.next_sent();
    assert_eq!((&address[..], correlation), ("h1:1000", id.0));
    world.answer(link, correlation);
    assert_eq!(world.outcome(id), Outcome::Done(()));
    assert_eq!(world.session.pending(), 0);
}

#[test]
fn requests_wait_for_the_cluster_to_be_found() {
    let mut world = World::new(SessionOptions::default());
    let id = world.append();
    assert!(world.sent.is_empty() && world.outcomes.is_empty());
    let first = world.until_connecting("h1:1000");
    world.links.remove(&first);
    world.session.on_link_down(world.now, first);
    world.settle();
    assert_eq!(world.session.problems().count(), 1);
    world.greet("h1:1000", 1, 0);
    let (_, link, correlation) = world.next_sent();
    world.answer(link, correlation);
    assert_eq!(world.outcome(id), Outcome::Done(()));
}

/// Without metadata nothing can be routed, and it is asked for once a link.
#[test]
fn metadata_that_is_refused_is_asked_for_again() {
    let mut world = World::new(SessionOptions::default());
    let id = world.append();
    let link = world.until_hello("h1:1000");
    let mut reply = Vec::new();
    encode_hello_reply(&mut reply, 0, &world.hello_reply(1, 0));
    let busy = Refusal::Busy { retry_after: Duration::from_millis(5) };
    encode_refusal(&mut reply, 0, GroupId::new(0), busy);
    world.deliver(link, &reply);
    assert!(world.links.is_empty() && world.outcomes.is_empty(), "closed, to try again");
    world.greet("h1:1000", 1, 0);
    let (_, link, correlation) = world.next_sent();
    world.answer(link, correlation);
    assert_eq!(world.outcome(id), Outcome::Done(()));
}

#[test]
fn a_hint_is_followed_at_once_to_the_right_shard_port() {
    let mut world = World::ready();
    let id = world.append();
    let (_, link, correlation) = world.next_sent();
    world.refuse(link, correlation, Refusal::NotLeader { hint: Some(NodeId::new(2)) });
    assert!(world.outcomes.is_empty());
    assert!(world.link("h2:2000").is_some(), "connecting to the hinted node without a pause");
    let link = world.greet("h2:2000", 2, 0);
    let (address, on, correlation) = world.next_sent();
    assert_eq!((&address[..], on), ("h2:2000", link));
    world.answer(link, correlation);
    assert_eq!(world.outcome(id), Outcome::Done(()));
    assert_eq!(world.session.leader(GROUP), Some(NodeId::new(2)));
    // A group of the other shard has its own port.
    world.session.append(world.now, GroupId::new(5), None, &[b"x"]).expect("room");
    world.settle();
    assert!(world.links.values().any(|address| address.ends_with("001")), "{:?}", world.links);
}

#[test]
fn without_a_hint_the_other_nodes_are_asked_after_a_pause() {
    let mut world = World::ready();
    world.append();
    let (_, link, correlation) = world.next_sent();
    world.refuse(link, correlation, Refusal::NotLeader { hint: None });
    assert!(world.sent.is_empty() && world.session.next_wake() > world.now);
    let mut asked = Vec::new();
    for _ in 0..400 {
        world.pass(Duration::from_millis(10));
        for (node, address) in [(2, "h2:2000"), (3, "h3:3000")] {
            if world.link(address).is_some() && !asked.contains(&address) {
                asked.push(address);
                world.greet(address, node, 0);
            }
        }
        while !world.sent.is_empty() {
            let (_, link, correlation) = world.next_sent();
            world.refuse(link, correlation, Refusal::NotLeader { hint: None });
        }
    }
    assert_eq!(asked.len(), 2, "both other nodes were asked: {asked:?}");
    assert!(world.outcomes.is_empty(), "the deadline is not there yet");
}

#[test]
fn busy_is_waited_for_and_tried_again() {
    let mut world = World::ready();
    let id = world.append();
    let (_, link, correlation) = world.next_sent();
    let retry_after = Duration::from_millis(30);
    world.refuse(link, correlation, Refusal::Busy { retry_after });
    world.pass(Duration::from_millis(29));
    assert!(world.sent.is_empty());
    world.pass(Duration::from_millis(1));
    let (_, link, again) = world.next_sent();
    assert_eq!(again, correlation, "the same request");
    world.answer(link, again);
    assert_eq!(world.outcome(id), Outcome::Done(()));
}

#[test]
fn refusals_that_stay_true_are_final_and_doubts_too() {
    let final_ones = [
        Refusal::DiskFull,
        Refusal::TooLarge { limit_bytes: 5 },
        Refusal::UnknownGroup,
        Refusal::WrongTail { last: LogIndex::new(3) },
        Refusal::Unsupported,
        Refusal::Malformed,
    ];
    let mut world = World::ready();
    for refusal in final_ones {
        let id = world.append();
        let (_, link, correlation) = world.next_sent();
        world.refuse(link, correlation, refusal);
        assert_eq!(world.outcome(id), Outcome::NotDone(refusal));
    }
    for doubt in [Doubt::LeadershipLost, Doubt::ConnectionLost, Doubt::TimedOut] {
        let id = world.append();
        let (_, link, correlation) = world.next_sent();
        let mut bytes = Vec::new();
        encode_doubt(&mut bytes, correlation, GROUP, doubt);
        world.deliver(link, &bytes);
        assert_eq!(world.outcome(id), Outcome::Unknown(doubt));
        assert!(world.sent.is_empty(), "an Unknown is never sent again");
    }
}

#[test]
fn a_lost_connection_makes_sent_appends_unknown_and_reads_are_asked_again() {
    let mut world = World::ready();
    let append = world.append();
    let (_, link, _) = world.next_sent();
    let read = world.read();
    world.next_sent();
    world.links.remove(&link);
    world.session.on_link_down(world.now, link);
    world.settle();
    assert_eq!(world.outcome(append), Outcome::Unknown(Doubt::ConnectionLost));
    // Nobody is known to lead now; whichever node is asked first will do.
    let mut found = None;
    for _ in 0..400 {
        world.pass(Duration::from_millis(5));
        found = [(1, "h1:1000"), (2, "h2:2000"), (3, "h3:3000")]
            .into_iter()
            .find(|(_, address)| world.link(address).is_some());
        if found.is_some() {
            break;
        }
    }
    let (node, address) = found.expect("a read is tried again");
    let link = world.greet(address, node, 0);
    let (_, _, correlation) = world.next_sent();
    assert_eq!(correlation, read.0);
    let head = ReadReplyHead {
        first_available: LogIndex::new(1),
        commit: LogIndex::new(0),
        next: LogIndex::new(1),
    };
    world.deliver(link, &encode_read_reply_head(correlation, GROUP, &head, [].into_iter()));
    assert_eq!(world.outcome(read), Outcome::Done(()));
}

#[test]
fn what_was_never_sent_is_not_done_when_time_is_up_and_what_was_is_unknown() {
    let mut world = World::ready();
    world.budget_bytes = 1;
    let timeout = SessionOptions::default().request_timeout;
    let sent = world.append();
    world.next_sent();
    // Another group's leader is not known and its node never comes up.
    let queued = world.session.append(world.now, GroupId::new(5), None, &[b"x"]).expect("room");
    world.pass(timeout);
    let mut outcomes = core::mem::take(&mut world.outcomes);
    outcomes.sort_by_key(|(id, _)| *id);
    assert_eq!((outcomes[0].0, outcomes[1].0, outcomes.len()), (sent, queued, 2));
    assert!(matches!(outcomes[0].1, Outcome::Unknown(Doubt::TimedOut)));
    assert!(matches!(outcomes[1].1, Outcome::NotDone(Refusal::TimedOut)));
    // Nothing was heard for so long: the connection is given up too.
    assert!(world.link("h1:1000").is_none());
}

#[test]
fn a_late_answer_is_dropped_and_an_answer_from_another_link_too() {
    let mut world = World::ready();
    let id = world.append();
    let (_, link, correlation) = world.next_sent();
    let other = {
        world.refuse(link, correlation, Refusal::NotLeader { hint: Some(NodeId::new(2)) });
        world.greet("h2:2000", 2, 0)
    };
    world.next_sent();
    // The first link answers once more, for an attempt that is over.
    world.answer(link, correlation);
    assert!(world.outcomes.is_empty());
    world.answer(other, correlation);
    assert_eq!(world.outcome(id), Outcome::Done(()));
    world.answer(other, correlation);
    assert!(world.outcomes.is_empty());
}

#[test]
fn no_more_is_in_flight_than_the_node_allows() {
    let mut world = World::new(SessionOptions::default());
    world.budget_bytes = 150;
    world.greet("h1:1000", 1, 0);
    let ids: Vec<_> = (0..5).map(|_| world.append()).collect();
    // 40 + 8 + 4 + 6 bytes each: two fit.
    assert_eq!(world.sent.len(), 2);
    let (_, link, correlation) = world.next_sent();
    world.answer(link, correlation);
    assert_eq!(world.sent.len(), 2, "one answered, one more sent");
    for id in &ids[1..] {
        world.answer(link, id.0);
    }
    assert_eq!(world.outcomes.len(), 5);
}

#[test]
fn the_buffer_has_an_end_and_one_large_request_still_passes() {
    let options = SessionOptions { buffer_bytes: 100, ..SessionOptions::default() };
    let mut world = World::ready_with(options);
    let large = [0; 500];
    let id = world.session.append(world.now, GROUP, None, &[large]).expect("alone");
    world.settle();
    let refused = world.session.append(world.now, GROUP, None, &[b"x"]);
    assert_eq!(refused, Err(SubmitError::Full));
    let (_, link, correlation) = world.next_sent();
    world.answer(link, correlation);
    assert_eq!(world.outcome(id), Outcome::Done(()));
    assert!(world.session.append(world.now, GROUP, None, &[b"x"]).is_ok());
    let none: [&[u8]; 0] = [];
    let refused = world.session.append(world.now, GROUP, None, &none);
    assert_eq!(refused, Err(SubmitError::Refused(Refusal::Malformed)));
}

#[test]
fn attempts_are_bounded() {
    let options = SessionOptions { attempts_max: 3, ..SessionOptions::default() };
    let mut world = World::ready_with(options);
    let id = world.append();
    let busy = Refusal::Busy { retry_after: Duration::from_millis(1) };
    for _ in 0..3 {
        let (_, link, correlation) = world.next_sent();
        world.refuse(link, correlation, busy);
        world.pass(Duration::from_millis(1));
    }
    assert_eq!(world.outcome(id), Outcome::NotDone(busy));
}

#[test]
fn strangers_and_garbage_close_the_link() {
    let wrong = |change: fn(&mut HelloReply)| {
        let mut world = World::ready();
        let id = world.append();
        let (_, link, correlation) = world.next_sent();
        let hint = Some(NodeId::new(2));
        world.refuse(link, correlation, Refusal::NotLeader { hint });
        let link = world.until_connecting("h2:2000");
        world.session.on_link_up(world.now, link);
        world.settle();
        let mut reply = world.hello_reply(2, 0);
        change(&mut reply);
        let mut bytes = Vec::new();
        encode_hello_reply(&mut bytes, 0, &reply);
        world.deliver(link, &bytes);
        assert!(world.link("h2:2000").is_none(), "still connected");
        assert!(world.outcomes.is_empty(), "{id:?} has another chance");
    };
    wrong(|hello| hello.cluster = ClusterId::new([8; 16]));
    wrong(|hello| hello.node = NodeId::new(3));
    wrong(|hello| hello.shard = ShardId::new(1));
    wrong(|hello| hello.shard_count = 3);
    wrong(|hello| hello.version = 2);

    let mut world = World::ready();
    let id = world.append();
    let (_, link, _) = world.next_sent();
    world.deliver(link, &[0; 40]);
    assert!(world.link("h1:1000").is_none());
    assert_eq!(world.outcome(id), Outcome::Unknown(Doubt::ConnectionLost));

    let mut world = World::new(SessionOptions::default());
    let link = world.until_connecting("h1:1000");
    world.session.on_link_up(world.now, link);
    let mut bytes = Vec::new();
    encode_error(&mut bytes, 0, GroupId::new(0), ErrorCode::WrongCluster, 0);
    world.deliver(link, &bytes);
    let problems: Vec<_> = world.session.problems().collect();
    assert_eq!(problems, [("h1:1000", "the node refused our hello")]);
}

#[test]
fn closing_tells_everybody() {
    let mut world = World::ready();
    let sent = world.append();
    let queued = world.session.append(world.now, GroupId::new(5), None, &[b"x"]).expect("room");
    world.session.shut_down();
    world.settle();
    let outcomes = &world.outcomes;
    assert_eq!((outcomes[0].0, outcomes[1].0), (sent, queued));
    assert!(matches!(outcomes[0].1, Outcome::Unknown(Doubt::ConnectionLost)));
    assert!(matches!(outcomes[1].1, Outcome::NotDone(Refusal::Unavailable)));
    assert!(world.links.is_empty());
}
