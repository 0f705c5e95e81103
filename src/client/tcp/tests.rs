//! The client against nodes played by threads on loopback, on ports the system chose.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};

use super::*;
use crate::model::batch::{encode_batch, encode_record};
use crate::model::limits::FRAME_BYTES_MAX;
use crate::model::{
    BatchKind, Doubt, NodeId, NodeUuid, RecordCount, ReplicaId, ShardId, Span, Term,
};
use crate::wire::client::{
    GroupInfo, HelloReply, Limits, MetadataReply, NodeInfo, ReadReplyHead, Request,
    encode_append_reply, encode_hello_reply, encode_metadata_reply, encode_read_reply_head,
    encode_refusal, encode_status_reply,
};
use crate::wire::{Assembler, InFrame, PROTOCOL_VERSION};

const CLUSTER: ClusterId = ClusterId::new([7; 16]);
const GROUP: GroupId = GroupId::new(1);

/// A cluster of two nodes with one shard each, whose log is a counter.
struct Cluster {
    ports: [u16; 2],
    leader: AtomicU16,
    /// Appends left until a node closes the connection instead of answering.
    cut_after: AtomicUsize,
    silent: AtomicBool,
    appended: AtomicUsize,
    connections: AtomicUsize,
    corrupt: AtomicBool,
}

impl Cluster {
    fn start() -> Arc<Self> {
        let listeners = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").expect("loopback"));
        let cluster = Arc::new(Self {
            ports: [0, 1].map(|i: usize| listeners[i].local_addr().expect("bound").port()),
            leader: AtomicU16::new(1),
            cut_after: AtomicUsize::new(usize::MAX),
            silent: AtomicBool::new(false),
            appended: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            corrupt: AtomicBool::new(false),
        });
        for (node, listener) in (1..).zip(listeners) {
            let cluster = Arc::clone(&cluster);
            drop(spawn("test-listen", move || {
                for stream in listener.incoming() {
                    let stream = stream.expect("loopback");
                    let cluster = Arc::clone(&cluster);
                    cluster.connections.fetch_add(1, Ordering::SeqCst);
                    drop(spawn("test-serve", move || cluster.serve(NodeId::new(node), stream)));
                }
            }));
        }
        cluster
    }

    fn address(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.ports[node - 1])
    }

    fn serve(&self, node: NodeId, mut stream: TcpStream) {
        let mut assembler = Assembler::new(FRAME_BYTES_MAX);
        let mut buffer = vec![0; 4096];
        while let Ok(bytes @ 1..) = stream.read(&mut buffer) {
            assembler.push(Bytes::copy_from_slice(&buffer[..bytes]));
            while let Some(frame) = assembler.next() {
                match self.reply(node, &frame.expect("the client sends frames")) {
                    Some(reply) if !reply.is_empty() => {
                        if stream.write_all(&reply).is_err() {
                            return;
                        }
                    }
                    Some(_) => (),
                    None => return,
                }
            }
        }
    }

    /// The bytes to answer with, or `None` to hang up.
    fn reply(&self, node: NodeId, frame: &InFrame) -> Option<Vec<u8>> {
        let (correlation, group) = (frame.header.correlation, frame.header.group);
        let leader = NodeId::new(self.leader.load(Ordering::SeqCst));
        let mut to = Vec::new();
        match Request::decode(&frame.header, frame.body()).expect("the client knows the format") {
            // Whatever cluster it names: noticing is the client's part here.
            Request::Hello(_) => encode_hello_reply(&mut to, correlation, &hello_reply(node)),
            Request::Metadata => self.metadata(&mut to, correlation, leader),
            Request::Status => encode_status_reply(&mut to, correlation, "node 1\nturns 5\n"),
            _ if leader != node => {
                let hint = Some(leader);
                encode_refusal(&mut to, correlation, group, Refusal::NotLeader { hint });
            }
            _ if self.silent.load(Ordering::SeqCst) => (),
            Request::Append(append) => {
                let left = self.cut_after.fetch_sub(1, Ordering::SeqCst);
                if left == 0 {
                    self.cut_after.store(usize::MAX, Ordering::SeqCst);
                    return None;
                }
                let count = append.count.get() as usize;
                let first = self.appended.fetch_add(count, Ordering::SeqCst) as u64 + 1;
                let commit = LogIndex::new(first + count as u64 - 1);
                let reply = AppendReply { first: LogIndex::new(first), term: Term::new(1), commit };
                encode_append_reply(&mut to, correlation, group, &reply);
            }
            Request::Read(read) => to = self.read(correlation, group, read.from),
        }
        Some(to)
    }

    fn metadata(&self, to: &mut Vec<u8>, correlation: u64, leader: NodeId) {
        let nodes = [1, 2].map(|id: u16| NodeInfo {
            node: NodeId::new(id),
            host: "127.0.0.1",
            client_base_port: self.ports[usize::from(id) - 1],
        });
        let groups = [GroupInfo { group: GROUP, term: Term::new(1), leader: Some(leader) }];
        let reply = MetadataReply {
            cluster: CLUSTER,
            shard: ShardId::new(0),
            shard_count: 1,
            group_count: 1,
            nodes: &nodes,
            groups: &groups,
        };
        encode_metadata_reply(to, correlation, &reply);
    }

    /// A no-op, and three records behind it.
    fn read(&self, correlation: u64, group: GroupId, from: LogIndex) -> Vec<u8> {
        let span = |first, count| Span {
            term: Term::new(1),
            first: LogIndex::new(first),
            count: RecordCount::new(count),
        };
        let mut body = Vec::new();
        for record in [&b"one"[..], b"", b"three"] {
            encode_record(record, &mut body);
        }
        let replica = ReplicaId::new(1);
        let noop = encode_batch(group, replica, span(1, 1), BatchKind::Noop, &[0; 4]);
        let mut records = encode_batch(group, replica, span(2, 3), BatchKind::Records, &body);
        if self.corrupt.load(Ordering::SeqCst) {
            *records.last_mut().expect("a batch") ^= 1;
        }
        let batches = if from.get() > 4 {
            vec![]
        } else if from.get() == 1 {
            vec![&noop[..], &records]
        } else {
            vec![&records[..]]
        };
        let next = if from.get() > 4 { from } else { LogIndex::new(5) };
        let head =
            ReadReplyHead { first_available: LogIndex::new(1), commit: LogIndex::new(4), next };
        let mut frame = encode_read_reply_head(correlation, group, &head, batches.iter().copied());
        frame.extend(batches.concat());
        frame
    }
}

fn hello_reply(node: NodeId) -> HelloReply {
    HelloReply {
        version: PROTOCOL_VERSION,
        node,
        shard: ShardId::new(0),
        shard_count: 1,
        cluster: CLUSTER,
        uuid: NodeUuid::new([1; 16]),
        limits: Limits {
            frame_bytes_max: 1 << 20,
            batch_bytes_max: 1 << 19,
            requests_max: 1000,
            budget_bytes: 1 << 20,
        },
    }
}

fn options() -> Options {
    Options {
        connect_timeout: Duration::from_secs(5),
        backoff_min: Duration::from_millis(2),
        ..Options::default()
    }
}

fn first(outcome: Outcome<AppendReply>) -> u64 {
    match outcome {
        Outcome::Done(reply) => reply.first.get(),
        Outcome::NotDone(_) | Outcome::Unknown(_) => panic!("not done: {outcome:?}"),
    }
}

#[test]
fn appends_reads_and_questions_are_answered() {
    let cluster = Cluster::start();
    let client = Client::connect(&[cluster.address(1)], options()).expect("it listens");
    assert_eq!(first(client.append(GROUP, &[b"a", b"b"])), 1);
    assert_eq!(first(client.append(GROUP, &[b"c"])), 3);
    let tickets: Vec<_> = (0..500).map(|_| client.append_async(GROUP, &[[0; 100]])).collect();
    for (i, ticket) in (4..).zip(tickets) {
        assert_eq!(first(ticket.wait()), i);
    }
    let read = |from| client.read(GROUP, LogIndex::new(from), 1000, Consistency::Linearizable);
    let batch = read(1).expect("a valid reply");
    assert_eq!((batch.commit.get(), batch.next.get()), (4, 5));
    let records: Vec<_> = batch.into_iter().map(|(i, record)| (i.get(), record)).collect();
    let expected = [(2, "one"), (3, ""), (4, "three")];
    assert_eq!(records, expected.map(|(i, text)| (i, Bytes::from(text))));
    // From inside a batch: what lies before is left out.
    assert_eq!(read(4).expect("a valid reply").records.len(), 1);
    assert_eq!(read(5).expect("a valid reply").records.len(), 0);
    cluster.corrupt.store(true, Ordering::SeqCst);
    assert!(matches!(read(1), Err(ReadError::Batch(_))), "a flipped bit is noticed");

    let metadata = client.metadata().expect("it listens");
    assert_eq!((metadata.cluster, metadata.nodes.len()), (CLUSTER, 2));
    assert_eq!(metadata.groups[0].leader, Some(NodeId::new(1)));
    let address = metadata.address(NodeId::new(2), ShardId::new(0));
    assert_eq!(address, Some(cluster.address(2)));
    assert_eq!(client.status(&cluster.address(1)), Ok("node 1\nturns 5\n".to_string()));
}

#[test]
fn the_leader_is_followed_when_it_moves() {
    let cluster = Cluster::start();
    let addresses = [cluster.address(1), cluster.address(2)];
    let client = Client::connect(&addresses, options()).expect("they listen");
    assert_eq!(first(client.append(GROUP, &[b"a"])), 1);
    cluster.leader.store(2, Ordering::SeqCst);
    assert_eq!(first(client.append(GROUP, &[b"b"])), 2);
    cluster.leader.store(1, Ordering::SeqCst);
    assert_eq!(first(client.append(GROUP, &[b"c"])), 3);
}

#[test]
fn a_cut_connection_is_an_unknown_outcome_and_the_next_append_works() {
    let cluster = Cluster::start();
    let client = Client::connect(&[cluster.address(1)], options()).expect("it listens");
    for round in 0..3 {
        cluster.cut_after.store(0, Ordering::SeqCst);
        assert_eq!(client.append(GROUP, &[b"x"]), Outcome::Unknown(Doubt::ConnectionLost));
        assert_eq!(first(client.append(GROUP, &[b"y"])), round + 1);
    }
    assert!(cluster.connections.load(Ordering::SeqCst) >= 4);
}

#[test]
fn silence_is_an_unknown_outcome_too() {
    let cluster = Cluster::start();
    let options = Options { request_timeout: Duration::from_millis(100), ..options() };
    let client = Client::connect(&[cluster.address(1)], options).expect("it listens");
    cluster.silent.store(true, Ordering::SeqCst);
    assert_eq!(client.append(GROUP, &[b"x"]), Outcome::Unknown(Doubt::TimedOut));
    cluster.silent.store(false, Ordering::SeqCst);
    assert_eq!(first(client.append(GROUP, &[b"y"])), 1);
}

#[test]
fn a_ticket_outlives_its_client_and_hears_the_truth() {
    let cluster = Cluster::start();
    let client = Client::connect(&[cluster.address(1)], options()).expect("it listens");
    first(client.append(GROUP, &[b"x"]));
    cluster.silent.store(true, Ordering::SeqCst);
    let ticket = client.append_async(GROUP, &[b"y"]).try_wait().expect_err("nobody answers");
    drop(client);
    assert_eq!(ticket.wait(), Outcome::Unknown(Doubt::ConnectionLost));
}

#[test]
fn what_no_node_would_take_is_refused_here() {
    let cluster = Cluster::start();
    let client = Client::connect(&[cluster.address(1)], options()).expect("it listens");
    let none: [&[u8]; 0] = [];
    assert_eq!(client.append(GROUP, &none), Outcome::NotDone(Refusal::Malformed));
    let large = vec![0; FRAME_BYTES_MAX];
    let refused = client.append(GROUP, &[large]);
    assert!(matches!(refused, Outcome::NotDone(Refusal::TooLarge { .. })), "{refused:?}");
}

#[test]
fn nobody_there_is_said_with_the_address() {
    // Bound and closed again: nobody listens there.
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        listener.local_addr().expect("bound").port()
    };
    let address = format!("127.0.0.1:{port}");
    let options = Options { connect_timeout: Duration::from_millis(200), ..options() };
    let error = Client::connect(&[&address], options.clone()).expect_err("nobody listens");
    assert!(error.to_string().contains(&address), "{error}");
    assert!(status(&address, &options).is_err());
}

#[test]
fn another_cluster_is_refused() {
    let cluster = Cluster::start();
    let options = Options {
        cluster: ClusterId::new([9; 16]),
        connect_timeout: Duration::from_millis(200),
        ..options()
    };
    let address = cluster.address(1);
    let error = Client::connect(&[&address], options).expect_err("another cluster");
    let problem = "the node belongs to another cluster".to_string();
    assert_eq!(error.problems, [(address, problem)]);
}
