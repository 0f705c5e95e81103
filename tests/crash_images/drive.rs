//! A real node that is driven while its tape runs, and what it was heard to promise.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use catamaran::client::{Client, Options};
use catamaran::model::batch::{BATCH_HEADER_BYTES, record_at};
use catamaran::model::{
    BatchHeader, BatchView, BootCounter, ClusterId, GroupId, LogIndex, NodeId, Outcome,
};
use catamaran::runtime::{self, Node, NodeAddress, NodeConfig, Tape, recover_only};
use catamaran::wal::{Identity, Recovered, blocks_in};

/// Records of a group that stay, whatever retention does.
const RETAINED_RECORDS: u64 = 120;
pub(crate) const SEGMENT_BYTES: u64 = 2 << 20;
const GROUPS: u64 = 3;
const CLIENTS: u64 = 3;

/// A formatted node that is alone in its cluster: what it acknowledges rests on its disk only.
pub(crate) fn new_node(directory: &Path) -> NodeConfig {
    let free_port = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (clients, peers) = (free_port(), free_port());
    let address = NodeAddress {
        id: NodeId::new(1),
        host: "127.0.0.1".to_owned(),
        client_port_base: clients.local_addr().unwrap().port(),
        peer_port_base: peers.local_addr().unwrap().port(),
    };
    let cluster = ClusterId::new([9; 16]);
    let mut config = NodeConfig::new(cluster, NodeId::new(1), vec![address], directory.to_owned());
    config.groups = GROUPS;
    config.arena_bytes_per_shard = 8 << 20;
    config.segments_ahead = 1;
    config.retention_records_per_group = RETAINED_RECORDS;
    runtime::format(&config).unwrap();
    config
}

/// Tries until it works or ten seconds are over.
fn soon<T>(mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < deadline, "not in time: {error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What was heard, in the order of the tape's notes.
#[derive(Clone, Debug)]
pub(crate) enum Heard {
    /// A record is acknowledged.
    Append { group: GroupId, index: LogIndex, text: String },
    /// A start was counted, and was talked about.
    Boot(BootCounter),
}

/// Everything that was heard.
#[derive(Default)]
pub(crate) struct Ears(Mutex<Vec<Heard>>);

impl Ears {
    fn hear(&self, tape: &Tape, heard: Heard) {
        let mut all = self.0.lock().unwrap();
        all.push(heard);
        tape.note(all.len() - 1);
    }

    pub(crate) fn all(&self) -> Vec<Heard> {
        self.0.lock().unwrap().clone()
    }
}

/// One life of the node: a few clients append side by side, then it stops in good order.
pub(crate) fn live(config: &NodeConfig, life: u64, appends: u64, tape: &Tape, ears: &Ears) {
    let node = Node::start(config.clone()).unwrap();
    ears.hear(tape, Heard::Boot(node.boot()));
    let address = format!("127.0.0.1:{}", config.own_address().client_port_base);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let address = address.clone();
            scope.spawn(move || append_all(&address, (life, client), appends, tape, ears));
        }
    });
    node.drain();
    node.join().unwrap();
}

fn append_all(address: &str, (life, number): (u64, u64), appends: u64, tape: &Tape, ears: &Ears) {
    let client: Client = soon(|| {
        Client::connect(&[address], Options::default()).map_err(|error| format!("{error:?}"))
    });
    for at in 0..appends {
        let group = GroupId::new(1 + (at + number) % GROUPS);
        // Every fourth append is large, so that segments fill, blocks span many sectors, and
        // small ones share a block with them.
        let bytes = if at % 4 == 0 { 40_000 } else { 150 };
        let text = format!("{life} {number} {at} {}", "x".repeat(bytes));
        let first = soon(|| match client.append(group, &[&text]) {
            Outcome::Done(reply) => Ok(reply.first),
            other => Err(format!("{other:?}")),
        });
        ears.hear(tape, Heard::Append { group, index: first, text });
    }
}

/// What must be there.
#[derive(Default)]
pub(crate) struct Promised {
    boot: BootCounter,
    /// In the order they were heard.
    appends: Vec<(GroupId, LogIndex, String)>,
    last: BTreeMap<GroupId, LogIndex>,
}

impl Promised {
    pub(crate) fn add(&mut self, heard: &Heard) {
        match heard {
            Heard::Boot(boot) => self.boot = self.boot.max(*boot),
            Heard::Append { group, index, text } => {
                self.appends.push((*group, *index, text.clone()));
                let last = self.last.entry(*group).or_default();
                *last = (*last).max(*index);
            }
        }
    }

    /// Recovers the data directory at `image` with the code of a real start and looks for
    /// everything promised; the content of the newest `looked_at` records.
    pub(crate) fn check(
        &self,
        image: &Path,
        config: &NodeConfig,
        looked_at: usize,
    ) -> Result<(), String> {
        let mut config = config.clone();
        config.data_dir = image.to_owned();
        config.allow_buffered = true;
        let found = recover_only(&config).map_err(|error| error.to_string())?;
        if found.boot <= self.boot {
            return Err(format!("start {} after start {}", found.boot, self.boot));
        }
        let recovered = &found.logs[0];
        recovered.index.check();
        for (group, last) in &self.last {
            let log = recovered.groups.iter().find(|log| log.group == *group);
            let log = log.ok_or_else(|| format!("group {group} is gone, it had {last}"))?;
            if log.last.index < *last {
                return Err(format!("group {group} ends at {:?}, {last} is promised", log.last));
            }
            if log.base.index.get() + RETAINED_RECORDS > log.last.index.get().max(RETAINED_RECORDS)
            {
                return Err(format!("group {group} keeps {:?} to {:?}", log.base, log.last));
            }
        }
        let identity = Identity {
            cluster: config.cluster,
            node: found.uuid,
            shard: catamaran::model::ShardId::new(0),
        };
        self.appends.iter().rev().take(looked_at).try_for_each(|(group, index, text)| {
            look_at(image, recovered, &identity, (*group, *index), text)
        })
    }
}

/// The record at `index`, read where the index says that it lies.
fn look_at(
    image: &Path,
    recovered: &Recovered,
    identity: &Identity,
    (group, index): (GroupId, LogIndex),
    text: &str,
) -> Result<(), String> {
    let Some(located) = recovered.index.locate(group, index) else {
        // Trimmed: how far that may go was looked at before.
        return Ok(());
    };
    let path = image.join("shard-00").join(located.segment.file_name());
    let file = std::fs::read(path).map_err(|error| error.to_string())?;
    let start = usize::try_from(located.block.get() % SEGMENT_BYTES).expect("small");
    let term = recovered.index.term_at(group, index);
    for block in blocks_in(&file[start..], located.block, identity) {
        for entry in block.entries() {
            if entry.group != group || !entry.span.contains(index) || Some(entry.span.term) != term
            {
                continue;
            }
            let batch = block.batch(&entry).map_err(|error| error.to_string())?;
            let found = nth_record(&batch, index).unwrap_or_default();
            return if found == text.as_bytes() {
                Ok(())
            } else {
                Err(format!("group {group} has another record at {index}"))
            };
        }
    }
    Err(format!("group {group}: {index} is not where the index says"))
}

fn nth_record<'a>(batch: &BatchView<'a>, index: LogIndex) -> Option<&'a [u8]> {
    let header: &BatchHeader = &batch.header;
    assert!(header.batch_bytes() == BATCH_HEADER_BYTES + batch.body.len());
    let mut at = 0;
    for _ in header.span.first.get()..index.get() {
        at += 4 + record_at(batch.body, at)?.len();
    }
    record_at(batch.body, at)
}
