//! `kill -9` under load: the leader, a follower, all of them, again and again.

use super::load::{Load, read_all};
use super::nodes::Cluster;

/// Rounds of killing when nobody asks for more by the variable `KILL_ROUNDS`.
const ROUNDS: u32 = 4;
/// Acknowledged records that show that the cluster serves.
const SERVES: u64 = 300;

/// Each round kills the leader, then a follower, then all three, while a client writes. After each
/// kill the cluster must serve again by itself, and in the end every account must be right: no
/// acknowledged record lost or moved, none twice, none that was refused.
#[test]
fn killed_nodes_lose_nothing_that_was_acknowledged() {
    let rounds = std::env::var("KILL_ROUNDS").ok();
    let rounds = rounds.map_or(ROUNDS, |text| text.parse().expect("KILL_ROUNDS is a number"));
    let mut cluster = Cluster::new(3);
    cluster.start_all();
    let load = Load::start(&cluster);
    load.wait_more(&cluster, SERVES);
    for _ in 0..rounds {
        let leader = cluster.leader();
        cluster.kill(leader);
        load.wait_more(&cluster, SERVES); // two of three serve
        cluster.start(leader);

        let follower = cluster.leader() % 3 + 1;
        cluster.kill(follower);
        load.wait_more(&cluster, SERVES);
        cluster.start(follower);
        load.wait_more(&cluster, SERVES);

        for node in 1..=3 {
            cluster.kill(node);
        }
        cluster.start_all();
        load.wait_more(&cluster, SERVES);
    }
    let ledger = load.finish();
    let client = cluster.client();
    let log = read_all(&client);
    ledger.check(&log);
    // The ones that were killed have caught up, all of them.
    cluster.wait_level(log.last().expect("records").0.get());
    for node in 1..=3 {
        assert!(cluster.is_alive(node), "node {node} ended:\n{}", cluster.tail(node));
    }
}

/// SIGTERM is no crash: every node ends with 0, and nothing is lost over a restart of them all.
#[test]
fn stopped_nodes_answer_for_what_they_took() {
    let mut cluster = Cluster::new(3);
    cluster.start_all();
    let load = Load::start(&cluster);
    load.wait_more(&cluster, SERVES);
    for node in 1..=3 {
        cluster.stop(node);
    }
    cluster.start_all();
    load.wait_more(&cluster, SERVES);
    let ledger = load.finish();
    ledger.check(&read_all(&cluster.client()));
}
