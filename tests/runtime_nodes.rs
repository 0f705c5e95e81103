//! Whole nodes in this process, over loopback and on real files: they find each other, replicate,
//! restart with what they had, and refuse what they must.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test waits in real time, and what it did not expect ends it"
)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use catamaran::client::{Client, Options};
use catamaran::model::{BootCounter, ClusterId, GroupId, LogIndex, NodeId, Outcome};
use catamaran::runtime::{self, ExitCode, Node, NodeAddress, NodeConfig, NodeHandle, StartError};
use catamaran::wire::client::Consistency;

/// `count` ports in a row that nobody listens on.
fn free_ports(count: u16) -> u16 {
    loop {
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let base = first.local_addr().unwrap().port();
        let Some(end) = base.checked_add(count) else { continue };
        if (base + 1..end).all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()) {
            return base;
        }
    }
}

struct Cluster {
    _temp: tempfile::TempDir,
    configs: Vec<NodeConfig>,
    nodes: Vec<Option<NodeHandle>>,
}

impl Cluster {
    fn new(count: u16, shards: u16, groups: u64) -> Self {
        // Not in /tmp: that may be memory, and what is tested here is a disk.
        let temp = tempfile::tempdir_in(".").unwrap();
        let addresses: Vec<NodeAddress> = (1..=count)
            .map(|id| NodeAddress {
                id: NodeId::new(id),
                host: "127.0.0.1".to_owned(),
                client_port_base: free_ports(shards),
                peer_port_base: free_ports(shards),
            })
            .collect();
        let configs: Vec<NodeConfig> = addresses
            .iter()
            .map(|address| {
                let directory = temp.path().join(format!("node-{}", address.id));
                let cluster = ClusterId::new([9; 16]);
                let mut config = NodeConfig::new(cluster, address.id, addresses.clone(), directory);
                config.shards = shards;
                config.groups = groups;
                config.arena_bytes_per_shard = 16 << 20;
                runtime::format(&config).unwrap();
                config
            })
            .collect();
        let nodes = configs.iter().map(|_| None).collect();
        Self { _temp: temp, configs, nodes }
    }

    fn start(&mut self, at: usize) {
        self.nodes[at] = Some(Node::start(self.configs[at].clone()).unwrap());
    }

    fn stop(&mut self, at: usize) {
        let node = self.nodes[at].take().unwrap();
        node.drain();
        node.join().unwrap();
    }

    fn start_all(&mut self) {
        (0..self.nodes.len()).for_each(|at| self.start(at));
    }

    fn stop_all(&mut self) {
        for node in self.nodes.iter().flatten() {
            node.drain();
        }
        for node in &mut self.nodes {
            if let Some(node) = node.take() {
                node.join().unwrap();
            }
        }
    }

    fn client(&self) -> Client {
        let addresses: Vec<String> = self
            .configs
            .iter()
            .map(|config| format!("127.0.0.1:{}", config.own_address().client_port_base))
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
fn within<T>(time: Duration, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + time;
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < deadline, "not within {time:?}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn append(client: &Client, group: u64, text: &str) -> u64 {
    within(Duration::from_secs(10), || match client.append(GroupId::new(group), &[text]) {
        Outcome::Done(reply) => Ok(reply.first.get()),
        other => Err(format!("{other:?}")),
    })
}

/// Every record there is; a reply may end before the log does.
fn read_all(client: &Client, group: u64) -> Vec<String> {
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

#[test]
fn three_nodes_replicate_and_come_back_with_what_they_had() {
    let mut cluster = Cluster::new(3, 1, 1);
    cluster.start_all();
    let client = cluster.client();
    let first = append(&client, 1, "one");
    assert!(append(&client, 1, "two") > first);
    assert_eq!(read_all(&client, 1), ["one", "two"]);
    drop(client);
    cluster.stop_all();

    cluster.start_all();
    assert_eq!(cluster.nodes[0].as_ref().unwrap().boot(), BootCounter::new(2));
    let client = cluster.client();
    append(&client, 1, "three");
    assert_eq!(read_all(&client, 1), ["one", "two", "three"]);
    // Two of three are enough, whichever is gone.
    for at in 0..3 {
        cluster.stop(at);
        append(&client, 1, &format!("without {at}"));
        cluster.start(at);
    }
    assert_eq!(read_all(&client, 1).len(), 6);
    drop(client);
    cluster.stop_all();
}

#[test]
fn groups_on_two_shards_are_reached_through_either() {
    let mut cluster = Cluster::new(1, 2, 4);
    cluster.start_all();
    let client = cluster.client();
    for group in 1..=4 {
        append(&client, group, &format!("to {group}"));
    }
    for group in 1..=4 {
        assert_eq!(read_all(&client, group), [format!("to {group}")]);
    }
    drop(client);
    cluster.stop_all();
}

#[track_caller]
fn refusal(config: &NodeConfig, code: ExitCode, words: &[&str]) {
    let error: StartError = match Node::start(config.clone()) {
        Ok(_) => panic!("must be refused"),
        Err(error) => error,
    };
    let text = error.to_string();
    assert_eq!(error.exit_code(), code, "{text}");
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}

#[test]
fn a_node_that_cannot_start_says_why_and_leaves_nothing_behind() {
    let mut cluster = Cluster::new(1, 1, 1);
    let config = cluster.configs[0].clone();
    let port = config.own_address().peer_port_base;
    let taken = TcpListener::bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)).unwrap();
    refusal(&config, ExitCode::Environment, &["cannot listen for peers", &port.to_string()]);
    drop(taken);

    cluster.start(0);
    refusal(&config, ExitCode::DataDir, &["in use", "LOCK"]);
    let client = cluster.client();
    append(&client, 1, "kept");
    drop(client);
    cluster.stop(0);

    // The log is gone, but the directory remembers that there was one (W-17).
    let shard = config.data_dir.join("shard-00");
    let move_all = |from: &Path, to: &Path| {
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            std::fs::rename(entry.path(), to.join(entry.file_name())).unwrap();
        }
    };
    let aside = tempfile::tempdir_in(".").unwrap();
    move_all(&shard, aside.path());
    refusal(&config, ExitCode::DataDir, &["log of shard 0 is refused"]);
    move_all(aside.path(), &shard);
    cluster.start(0);
    let client = cluster.client();
    assert_eq!(read_all(&client, 1), ["kept"]);
    drop(client);
    cluster.stop(0);
}
