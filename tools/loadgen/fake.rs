//! For tests: a cluster that speaks the wire protocol, keeps its logs in memory and can be told
//! to misbehave. No Raft, no disk: it is what the load engine and the verification are tried on.
#![expect(clippy::disallowed_types, reason = "test threads share the logs")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use catamaran::model::batch::encode_batch;
use catamaran::model::{
    BatchKind, ClusterId, Doubt, GroupId, LogIndex, NodeId, NodeUuid, RecordCount, Refusal,
    ReplicaId, ShardId, Span, Term,
};
use catamaran::wire::client::{
    Append, AppendReply, GroupInfo, HelloReply, Limits, MetadataReply, NodeInfo, Read,
    ReadReplyHead, Request, encode_append_reply, encode_doubt, encode_hello_reply,
    encode_metadata_reply, encode_read_reply_head, encode_refusal, encode_status_reply,
};
use catamaran::wire::{FRAME_HEADER_BYTES, FrameHeader};

/// What goes wrong, by number of the append, counted over all connections.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Every so many appends are refused as Busy.
    pub(crate) busy_every: Option<u64>,
    /// Every so many appends are kept but answered Unknown.
    pub(crate) unknown_every: Option<u64>,
    /// This one is kept, and its connection cut instead of an answer.
    pub(crate) cut_at: Option<u64>,
    /// This one is acknowledged, and empty records kept in its place.
    pub(crate) lose_at: Option<u64>,
    /// This one is kept twice.
    pub(crate) double_at: Option<u64>,
    /// From this one on, node 2 leads.
    pub(crate) move_at: Option<u64>,
}

#[derive(Debug)]
struct State {
    /// Per group: batches with their first indexes.
    logs: Vec<Vec<(u64, Vec<u8>)>>,
    next: Vec<u64>,
    appends: u64,
    leader: u16,
    ports: Vec<u16>,
    faults: Faults,
}

/// A cluster of two nodes of one shard each.
#[derive(Clone, Debug)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
}

impl Fake {
    /// Starts listening. The threads end with the test process.
    pub(crate) fn start(groups: usize, faults: Faults) -> Self {
        let listeners: Vec<TcpListener> =
            (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
        let mut state = State {
            logs: vec![Vec::new(); groups],
            next: vec![1; groups],
            appends: 0,
            leader: 1,
            ports,
            faults,
        };
        for group in 0..groups {
            state.keep(group, BatchKind::Noop, 1, &[0; 4]);
        }
        let fake = Self { state: Arc::new(Mutex::new(state)) };
        for (node, listener) in (1..).zip(listeners) {
            let fake = fake.clone();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let fake = fake.clone();
                    thread::spawn(move || fake.serve(node, stream));
                }
            });
        }
        fake
    }

    /// Client addresses.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.state.lock().unwrap().ports.iter().map(|port| format!("127.0.0.1:{port}")).collect()
    }

    fn serve(&self, node: u16, mut stream: TcpStream) {
        let (mut bytes, mut chunk, mut out) = (Vec::new(), vec![0; 1 << 16], Vec::new());
        loop {
            let mut at = 0;
            while let Ok(header) = FrameHeader::decode(&bytes[at..], 1 << 20) {
                let end = at + header.frame_bytes();
                let Some(body) = bytes.get(at + FRAME_HEADER_BYTES..end) else { break };
                header.check_body(body).unwrap();
                if !self.answer(node, &header, body, &mut out) {
                    return;
                }
                at = end;
            }
            bytes.drain(..at);
            if stream.write_all(&out).is_err() {
                return;
            }
            out.clear();
            match stream.read(&mut chunk) {
                Ok(read) if read > 0 => bytes.extend_from_slice(&chunk[..read]),
                Ok(_) | Err(_) => return,
            }
        }
    }

    fn answer(&self, node: u16, header: &FrameHeader, body: &[u8], out: &mut Vec<u8>) -> bool {
        let mut state = self.state.lock().unwrap();
        let id = header.correlation;
        match Request::decode(header, body).unwrap() {
            Request::Hello(_) => encode_hello_reply(out, id, &hello(node)),
            Request::Metadata => state.metadata(id, out),
            Request::Status => encode_status_reply(out, id, "buffered true\nwal_writes 1"),
            Request::Append(append) => return state.append(node, header, &append, out),
            Request::Read(read) => state.read(header, &read, out),
        }
        true
    }
}

fn hello(node: u16) -> HelloReply {
    let limits = Limits {
        frame_bytes_max: 1 << 20,
        batch_bytes_max: 1 << 19,
        requests_max: 65_536,
        budget_bytes: 1 << 20,
    };
    HelloReply {
        version: 1,
        node: NodeId::new(node),
        shard: ShardId::new(0),
        shard_count: 1,
        cluster: ClusterId::default(),
        uuid: NodeUuid::default(),
        limits,
    }
}

impl State {
    fn keep(&mut self, group: usize, kind: BatchKind, count: u32, body: &[u8]) -> u64 {
        let first = self.next[group];
        let span = Span {
            term: Term::new(1),
            first: LogIndex::new(first),
            count: RecordCount::new(count),
        };
        let id = GroupId::new(group as u64 + 1);
        let bytes = encode_batch(id, ReplicaId::new(1), span, kind, body);
        self.logs[group].push((first, bytes));
        self.next[group] += u64::from(count);
        first
    }

    fn metadata(&self, id: u64, out: &mut Vec<u8>) {
        let nodes: Vec<NodeInfo<'_>> = (1..)
            .zip(&self.ports)
            .map(|(node, port)| NodeInfo {
                node: NodeId::new(node),
                host: "127.0.0.1",
                client_base_port: *port,
            })
            .collect();
        let groups: Vec<GroupInfo> = (1..=self.logs.len() as u64)
            .map(|group| GroupInfo {
                group: GroupId::new(group),
                term: Term::new(u64::from(self.leader)),
                leader: Some(NodeId::new(self.leader)),
            })
            .collect();
        let reply = MetadataReply {
            cluster: ClusterId::default(),
            shard: ShardId::new(0),
            shard_count: 1,
            group_count: groups.len() as u64,
            nodes: &nodes,
            groups: &groups,
        };
        encode_metadata_reply(out, id, &reply);
    }

    /// False means: cut the connection.
    fn append(
        &mut self,
        node: u16,
        header: &FrameHeader,
        append: &Append<'_>,
        out: &mut Vec<u8>,
    ) -> bool {
        let (id, group) = (header.correlation, usize::try_from(header.group.get()).unwrap() - 1);
        self.appends += 1;
        let (number, faults) = (self.appends, self.faults);
        if faults.move_at.is_some_and(|at| number >= at) {
            self.leader = 2;
        }
        let hits = |every: Option<u64>| every.is_some_and(|every| number.is_multiple_of(every));
        if node != self.leader {
            let hint = Some(NodeId::new(self.leader));
            encode_refusal(out, id, header.group, Refusal::NotLeader { hint });
            return true;
        }
        if hits(faults.busy_every) {
            let retry_after = Duration::from_micros(300);
            encode_refusal(out, id, header.group, Refusal::Busy { retry_after });
            return true;
        }
        let count = append.count.get();
        let first = if faults.lose_at == Some(number) {
            self.keep(group, BatchKind::Records, count, &[0; 4].repeat(count as usize))
        } else {
            self.keep(group, BatchKind::Records, count, append.records)
        };
        if faults.double_at == Some(number) {
            self.keep(group, BatchKind::Records, count, append.records);
        }
        if faults.cut_at == Some(number) {
            return false;
        }
        if hits(faults.unknown_every) {
            encode_doubt(out, id, header.group, Doubt::LeadershipLost);
        } else {
            let reply = AppendReply {
                first: LogIndex::new(first),
                term: Term::new(1),
                commit: LogIndex::new(self.next[group] - 1),
            };
            encode_append_reply(out, id, header.group, &reply);
        }
        true
    }

    fn read(&self, header: &FrameHeader, read: &Read, out: &mut Vec<u8>) {
        let group = usize::try_from(header.group.get()).unwrap() - 1;
        let log = &self.logs[group];
        let start = log.partition_point(|(first, _)| *first <= read.from.get()) - 1;
        let mut room = read.max_bytes as usize;
        let mut page: Vec<&[u8]> = Vec::new();
        let mut next = log.get(start).map_or(1, |(first, _)| *first);
        for (at, (_, bytes)) in log.iter().enumerate().skip(start) {
            if !page.is_empty() && bytes.len() > room {
                break;
            }
            room = room.saturating_sub(bytes.len());
            page.push(bytes);
            next = log.get(at + 1).map_or(self.next[group], |(first, _)| *first);
        }
        let head = ReadReplyHead {
            first_available: LogIndex::new(1),
            commit: LogIndex::new(self.next[group] - 1),
            next: LogIndex::new(next),
        };
        let id = header.correlation;
        out.extend(encode_read_reply_head(id, header.group, &head, page.iter().copied()));
        page.iter().for_each(|bytes| out.extend_from_slice(bytes));
    }
}
