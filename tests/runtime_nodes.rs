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

use catamaran::model::BootCounter;
use catamaran::runtime::{ExitCode, Node, NodeConfig, StartError};

mod nodes_in_process;

use nodes_in_process::{Cluster, append, read_all};

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

#[test]
fn large_appends_reach_a_follower_almost_without_a_copy() {
    let mut cluster = Cluster::new(3, 1, 1);
    cluster.start_all();
    let client = cluster.client();
    // So that the client knows who leads, and sends nothing large to anybody else.
    append(&client, 1, "small");
    let record = "x".repeat(300_000);
    for _ in 0..30 {
        append(&client, 1, &record);
    }
    let count = |at: usize, name: &str| -> u64 {
        let port = cluster.configs[at].own_address().client_port_base;
        let text = client.status(&format!("127.0.0.1:{port}")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap().parse().unwrap()
    };
    // Two followers, 9 MB each, received where they were written from.
    let followers = (0..3).filter(|at| count(*at, "append_records") == 0);
    for at in followers {
        let direct = count(at, "direct_bytes_follower");
        assert!(direct > 7_500_000, "{direct}");
        // The first large frame is a surprise: its beginning has to be moved. And a client that
        // took this node for the leader may have sent it one or two of its own.
        let moved = count(at, "copied_bytes_carry");
        assert!(moved < 700_000, "{moved} of 9,000,000 bytes were moved");
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
