//! Whole nodes in the test's own process, over loopback and on real files.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use catamaran::client::{Client, Options};
use catamaran::model::{ClusterId, GroupId, LogIndex, NodeId, Outcome};
use catamaran::runtime::{self, Node, NodeAddress, NodeConfig, NodeHandle};
use catamaran::wire::client::Consistency;

/// The cluster of all these nodes.
pub(crate) const CLUSTER: ClusterId = ClusterId::new([9; 16]);

/// A loopback address that this process has to itself, so that test processes side by side cannot
/// take each other's ports between two starts of a node.
pub(crate) fn own_ip() -> Ipv4Addr {
    // Process ids are below 2^22 on Linux. 127.64.0.0 and above is used by nothing else.
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 | (high & 0x3f), middle, low)
}

/// `count` ports in a row that no other node of this process has.
fn own_ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    NEXT.fetch_add(count, Ordering::Relaxed)
}

/// Nodes in one temporary directory. Dropping it after a failure shows what they told.
pub(crate) struct Cluster {
    _temp: tempfile::TempDir,
    pub(crate) configs: Vec<NodeConfig>,
    pub(crate) nodes: Vec<Option<NodeHandle>>,
}

impl Cluster {
    pub(crate) fn new(count: u16, shards: u16, groups: u64) -> Self {
        // Not in /tmp: that may be memory, and what is tested here is a disk.
        let temp = tempfile::tempdir_in(".").unwrap();
        let addresses: Vec<NodeAddress> = (1..=count)
            .map(|id| NodeAddress {
                id: NodeId::new(id),
                host: own_ip().to_string(),
                client_port_base: own_ports(shards),
                peer_port_base: own_ports(shards),
            })
            .collect();
        let configs: Vec<NodeConfig> = addresses
            .iter()
            .map(|address| {
                let directory = temp.path().join(format!("node-{}", address.id));
                let mut config = NodeConfig::new(CLUSTER, address.id, addresses.clone(), directory);
                config.shards = shards;
                config.bind = own_ip().into();
                config.groups = groups;
                config.arena_bytes_per_shard = 16 << 20;
                runtime::format(&config).unwrap();
                config
            })
            .collect();
        let nodes = configs.iter().map(|_| None).collect();
        Self { _temp: temp, configs, nodes }
    }

    pub(crate) fn start(&mut self, at: usize) {
        self.nodes[at] = Some(Node::start(self.configs[at].clone()).unwrap());
    }

    pub(crate) fn stop(&mut self, at: usize) {
        let node = self.nodes[at].take().unwrap();
        node.drain();
        node.join().unwrap();
    }

    pub(crate) fn start_all(&mut self) {
        (0..self.nodes.len()).for_each(|at| self.start(at));
    }

    pub(crate) fn stop_all(&mut self) {
        for node in self.nodes.iter().flatten() {
            node.drain();
        }
        for node in &mut self.nodes {
            if let Some(node) = node.take() {
                node.join().unwrap();
            }
        }
    }

    pub(crate) fn client(&self) -> Client {
        let addresses: Vec<String> = self
            .configs
            .iter()
            .map(|config| format!("{}:{}", own_ip(), config.own_address().client_port_base))
            .collect();
        within(Duration::from_secs(10), || {
            Client::connect(&addresses, Options::default()).map_err(|error| format!("{error:?}"))
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in self.nodes.iter().flatten() {
                for event in node.events().try_iter() {
                    // Shown with the failure.
                    eprintln!("node with boot {}: {event}", node.boot());
                }
            }
        }
    }
}

/// Tries until it works or the time is over.
#[track_caller]
pub(crate) fn within<T>(time: Duration, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + time;
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < deadline, "not within {time:?}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Appends where nothing is stopped meanwhile. A refusal is tried again; an unknown outcome must
/// not be, or the record may be there twice: here it is a failure.
#[track_caller]
pub(crate) fn append(client: &Client, group: u64, text: &str) -> u64 {
    within(Duration::from_secs(10), || match client.append(GroupId::new(group), &[text]) {
        Outcome::Done(reply) => Ok(reply.first.get()),
        Outcome::NotDone(refusal) => Err(format!("{refusal:?}")),
        Outcome::Unknown(doubt) => panic!("nothing was stopped, and {doubt}"),
    })
}

/// Every record there is; a reply may end before the log does.
pub(crate) fn read_all(client: &Client, group: u64) -> Vec<String> {
    let mut from = LogIndex::new(1);
    let mut all = Vec::new();
    loop {
        let batch = within(Duration::from_secs(10), || {
            client
                .read(GroupId::new(group), from, 1 << 20, Consistency::Linearizable)
                .map_err(|error| format!("{error:?}"))
        });
        let text = |record: &[u8]| String::from_utf8(record.to_vec()).unwrap();
        all.extend(batch.records.iter().map(|(_, record)| text(record)));
        if batch.next > batch.commit {
            return all;
        }
        from = batch.next;
    }
}
