//! Bad configurations, each with the report it must give; and the good ones.

use expect_test::{expect, expect_file};

use super::*;

const SITE: &str = r#"# a good one
cluster_id = "6f1d3c5e-8a27-4b90-9d44-0c51e7a2b368"
node_id = 1
data_dir = "data"
bind = "127.0.0.1"
allow_buffered = false
shards = 2
groups = 8
pin_cores = true

[limits]
arena_bytes_per_shard = "64 MiB"
uncommitted_bytes_per_shard = "32 MiB"
connection_bytes = "1 MiB"
send_queue_bytes = "8 MiB"
connections_max = 1024
peer_credit_bytes = "4 MiB"

[wal]
block_target_bytes = "256 KiB"
writes_in_flight = 4
segments_ahead = 2

[retention]
bytes_per_group = 0
records_per_group = 0

[raft]
heartbeat_ms = 50
election_min_ms = 150
election_max_ms = 300
check_quorum_ms = 300

"#;

const NODE1: &str = "[[nodes]]\nid = 1\nhost = \"localhost\"\nclient_port = 8000\n";
const NODE2: &str = "[[nodes]]\nid = 2\nhost = \"localhost\"\nclient_port = 9000\n";
const NODE3: &str = "[[nodes]]\nid = 3\nhost = \"localhost\"\nclient_port = 10000\n";

/// The keys that a profile may not set.
fn identity() -> &'static str {
    &SITE[..SITE.find("pin_cores").expect("it is there")]
}

fn good() -> String {
    [SITE, NODE1, NODE2, NODE3].concat()
}

/// The good configuration with each first text replaced by the second, once.
fn good_but(changes: &[(&str, &str)]) -> String {
    let mut text = good();
    for (from, to) in changes {
        assert!(text.contains(from), "{from:?} is not in the good configuration");
        text = text.replacen(from, to, 1);
    }
    text
}

fn report_on(text: &str) -> String {
    match Config::parse("node.toml", text, None) {
        Ok(_) => "good".to_owned(),
        Err(problems) => problems.to_string(),
    }
}

#[test]
fn a_file_with_every_key_is_good() {
    assert_eq!(report_on(&good()), "good");
}

#[test]
fn a_file_without_any_key_that_has_a_default_is_the_same() {
    let full = Config::parse("node.toml", &good(), None).expect("good");
    let short = format!(
        "cluster_id = \"{}\"\nnode_id = 1\ndata_dir = \"data\"\nshards = 2\ngroups = 8\n{NODE1}{NODE2}{NODE3}",
        full.cluster_id
    );
    assert_eq!(Config::parse("node.toml", &short, None).expect("good"), full);
}

#[test]
fn values_arrive_where_they_belong() {
    let text = good_but(&[("bytes_per_group = 0", "bytes_per_group = \"2 GiB\"")]);
    let config = Config::parse("etc/node.toml", &text, None).expect("good");
    assert_eq!(config.node_id, NodeId::new(1));
    assert_eq!(config.data_dir, Path::new("etc/data"));
    assert_eq!(config.own().host, "localhost");
    assert_eq!(config.own().peer_port, 8100);
    assert_eq!(config.retention.bytes_per_group, Some(2 << 30));
    assert_eq!(config.retention.records_per_group, None);
    assert_eq!(config.raft.election_max, Duration::from_millis(300));
    assert_eq!(config.limits.peer_credit_bytes, 4 << 20);
}

#[test]
fn the_file_has_the_last_word_over_its_profile() {
    let text = format!("{}[raft]\nheartbeat_ms = 70\n{NODE1}", identity());
    let ci = Profile::find("ci").expect("exists");
    let config = Config::parse("node.toml", &text, Some(ci)).expect("good");
    assert_eq!(config.raft.heartbeat, Duration::from_millis(70));
    assert_eq!(config.raft.election_min, Duration::from_millis(500));
    assert!(!config.pin_cores);
}

#[test]
fn every_profile_is_good_with_nothing_else_and_with_three_and_seven_nodes() {
    let nodes = |count: u16| -> String {
        let entry = |id| {
            let port = 8000 + 1000 * id;
            format!("[[nodes]]\nid = {id}\nhost = \"localhost\"\nclient_port = {port}\n")
        };
        (1..=count).map(entry).collect()
    };
    for profile in profiles() {
        for count in [1, 3, 7] {
            let text = format!("{}{}", identity(), nodes(count));
            let result = Config::parse("node.toml", &text, Some(profile));
            assert_eq!(result.map(|_| ()), Ok(()), "{} with {count} nodes", profile.name());
        }
    }
}

#[test]
fn a_profile_may_not_say_who_a_node_is() {
    let mut problems = Vec::new();
    layer::read("p.toml", "node_id = 1\n[[nodes]]\nid = 1\n", Role::Profile, &mut problems);
    let problems = Problems::of(problems).expect("two");
    expect![[r#"
        p.toml:1: a profile cannot set node_id: set it in the node's own configuration
        p.toml:2: a profile cannot set nodes: set it in the node's own configuration"#]]
    .assert_eq(&problems.to_string());
}

#[test]
fn an_unknown_profile_is_refused() {
    let problems = Profile::find("fast").expect_err("no such profile");
    expect!["--profile: no profile is called fast: choose one of laptop, ci, nvme, low-latency"]
        .assert_eq(&problems.to_string());
}

#[test]
fn files_that_cannot_be_configurations() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        let problems = Config::load(&path, None).expect_err("no configuration").to_string();
        problems.rsplit('/').next().map(str::to_owned).expect("a path")
    };
    expect!["bytes.toml: is not UTF-8 text: save it as UTF-8"]
        .assert_eq(&file("bytes.toml", &[0xff, 0xfe]));
    expect!["large.toml: is larger than 1048576 bytes: this is not a configuration file"]
        .assert_eq(&file("large.toml", &vec![b'#'; 2 << 20]));
    let nowhere = Config::load(&dir.path().join("none"), None).expect_err("no file").to_string();
    assert!(nowhere.contains("No such file"), "{nowhere}");
}

#[test]
fn the_page_for_people_agrees_with_the_table() {
    let page = include_str!("../../tuning/README.md");
    for key in keys::ALL.into_iter().chain(keys::OF_A_NODE) {
        let (default, range) = match key.rule {
            keys::Rule::Integer { unit, default, min, max, .. } => {
                let default = default.map_or("none".to_owned(), |d| layer::print(unit, d));
                let (min, max) = (layer::print(unit, min), layer::print(unit, max));
                (default, format!("{min} to {max}"))
            }
            keys::Rule::Flag { default } => (default.to_string(), "true or false".to_owned()),
            keys::Rule::Text { default, .. } => {
                (default.unwrap_or("none").to_owned(), String::new())
            }
        };
        // Its default is another key.
        let is_peer_port = key.path == keys::NODE_PEER_PORT.path;
        let default = if is_peer_port { "`client_port` + 100".to_owned() } else { default };
        let row = format!("| `{}` | {default} | {range}", key.path);
        assert!(page.contains(&row), "tuning/README.md should have: {row}");
    }
}

#[test]
fn the_example_for_three_hosts_is_good() {
    let file = |node: u16| format!("examples/three-hosts/node{node}.toml");
    let load = |node| Config::load(Path::new(&file(node)), None).expect("a good example");
    let configs = [1, 2, 3].map(load);
    for (config, id) in configs.iter().zip(1..) {
        assert_eq!(config.node_id, NodeId::new(id));
        assert_eq!(config.cluster_id, configs[0].cluster_id);
        assert_eq!(config.nodes, configs[0].nodes);
        assert_eq!((config.shards, config.groups), (configs[0].shards, configs[0].groups));
        assert!(!config.bind.is_loopback());
    }
}

/// What is wrong, and how the good configuration is changed to make it so.
const BAD: &[(&str, &[(&str, &str)])] = &[
    ("a value is missing", &[("node_id = 1", "node_id =")]),
    ("a quote is missing", &[(r#"data_dir = "data""#, r#"data_dir = "data"#)]),
    ("two syntax errors at once", &[("node_id = 1", "node_id ="), ("shards = 2", "shards = = 2")]),
    ("a key twice", &[("node_id = 1", "node_id = 1\nnode_id = 2")]),
    ("a table twice", &[("[raft]", "[wal]")]),
    ("no text but bytes", &[("# a good one", "\0\u{1}\u{2}")]),
    ("an address without quotes", &[(r#"bind = "127.0.0.1""#, "bind = 127.0.0.1")]),
    ("a slip at the root", &[("shards = 2", "shard = 2")]),
    ("a slip in a table", &[("heartbeat_ms", "hearbeat_ms")]),
    ("a key of another table", &[("segments_ahead = 2", "segments_ahead = 2\nheartbeat_ms = 50")]),
    ("a slip in the name of a table", &[("[limits]", "[limit]")]),
    ("a slip in a node", &[("client_port = 8000", "clientport = 8000")]),
    ("nothing like any key", &[("shards = 2", "shards = 2\ncolour = 1")]),
    ("a key of control characters", &[("shards = 2", "shards = 2\n\"\\u0007\\n\" = 1")]),
    ("an integer in quotes", &[("shards = 2", r#"shards = "2""#)]),
    ("a fraction", &[("heartbeat_ms = 50", "heartbeat_ms = 0.5")]),
    ("a flag as an integer", &[("allow_buffered = false", "allow_buffered = 0")]),
    ("a number for a text", &[(r#"data_dir = "data""#, "data_dir = 7")]),
    ("a date for a number", &[("shards = 2", "shards = 2026-01-01")]),
    ("a table for a number", &[("[raft]", "[raft.heartbeat_ms]\n[raft]")]),
    (
        "a number for a table",
        &[
            ("[retention]\nbytes_per_group = 0\nrecords_per_group = 0", ""),
            ("shards = 2", "shards = 2\nretention = 5"),
        ],
    ),
    ("nodes as a table", &[(NODE2, ""), (NODE3, ""), ("[[nodes]]", "[nodes]")]),
    (
        "nodes as a list of numbers",
        &[(NODE1, ""), (NODE2, ""), (NODE3, ""), ("shards = 2", "shards = 2\nnodes = [1, 2, 3]")],
    ),
    ("a size with a decimal unit", &[(r#"_per_shard = "64 MiB""#, r#"_per_shard = "64 MB""#)]),
    ("node 0", &[("node_id = 1", "node_id = 0")]),
    ("a negative number", &[("shards = 2", "shards = -2")]),
    ("more than 64 bits", &[("groups = 8", "groups = 99999999999999999999999")]),
    ("too many shards", &[("shards = 2", "shards = 65")]),
    ("too many groups", &[("groups = 8", "groups = 10001")]),
    ("no writes at all", &[("writes_in_flight = 4", "writes_in_flight = 0")]),
    ("a block larger than an extent", &[(r#""256 KiB""#, r#""2 MiB""#)]),
    ("an unaligned block", &[(r#""256 KiB""#, "5000")]),
    ("a port of 17 bits", &[("client_port = 8000", "client_port = 80000")]),
    ("a node without a number", &[("[[nodes]]\nid = 1", "[[nodes]]")]),
    ("a node without host and port", &[("host = \"localhost\"\nclient_port = 8000\n", "")]),
    ("this node has no number", &[("node_id = 1\n", "")]),
    (
        "an empty list of nodes",
        &[(NODE1, ""), (NODE2, ""), (NODE3, ""), ("shards = 2", "shards = 2\nnodes = []")],
    ),
    ("a cluster id that is no UUID", &[("6f1d3c5e", "6f1d")]),
    (
        "a cluster id of zeros",
        &[("6f1d3c5e-8a27-4b90-9d44-0c51e7a2b368", "00000000-0000-0000-0000-000000000000")],
    ),
    ("a name as the address to listen on", &[(r#"bind = "127.0.0.1""#, r#"bind = "localhost""#)]),
    ("an empty data directory", &[(r#"data_dir = "data""#, r#"data_dir = """#)]),
    ("a host with a port", &[(r#""localhost""#, r#""localhost:8000""#)]),
    ("a host with a scheme", &[(r#""localhost""#, r#""http://localhost""#)]),
    ("an even number of voters", &[(NODE3, "")]),
    ("a node twice", &[("id = 2", "id = 1")]),
    ("this node is not listed", &[("node_id = 1", "node_id = 4")]),
    ("no room for the shards' ports", &[("port = 8000", "port = 65535\npeer_port = 8100")]),
    ("no room for the peer ports", &[("port = 8000", "port = 65500")]),
    ("two nodes overlap on one host", &[("port = 9000", "port = 8001")]),
    ("a node overlaps itself", &[("port = 8000", "port = 8000\npeer_port = 8001")]),
    ("others cannot reach this node", &[(r#"host = "localhost""#, r#"host = "db1.example""#)]),
    ("a heartbeat as long as a timeout", &[("heartbeat_ms = 50", "heartbeat_ms = 150")]),
    ("election timeouts all alike", &[("max_ms = 300", "max_ms = 150")]),
    ("election timeouts upside down", &[("min_ms = 150", "min_ms = 600")]),
    ("a leader that gives up at once", &[("quorum_ms = 300", "quorum_ms = 100")]),
    ("a leader that never gives up", &[("quorum_ms = 300", "quorum_ms = 60000")]),
    (
        "credit below two blocks",
        &[
            (r#"credit_bytes = "4 MiB""#, r#"credit_bytes = "1 MiB""#),
            (r#""256 KiB""#, r#""1 MiB""#),
        ],
    ),
    (
        "more credit than the arena takes",
        &[(r#"credit_bytes = "4 MiB""#, r#"credit_bytes = "32 MiB""#)],
    ),
    (
        "more writes than the arena takes",
        &[
            (r#""256 KiB""#, r#""1 MiB""#),
            ("in_flight = 4", "in_flight = 32"),
            (r#""64 MiB""#, r#""32 MiB""#),
        ],
    ),
    (
        "one connection above its shard",
        &[(r#"connection_bytes = "1 MiB""#, r#"connection_bytes = "64 MiB""#)],
    ),
    ("a retention that no batch fits in", &[("bytes_per_group = 0", "bytes_per_group = 1000")]),
    (
        "a bad day",
        &[
            ("node_id = 1", "node_id = 9"),
            ("shards = 2", "shard = 2"),
            ("heartbeat_ms = 50", "heartbeat_ms = 400"),
            ("port = 9000", "port = true"),
            (r#""4 MiB""#, r#""lots""#),
        ],
    ),
];

/// The reports stand in a file of their own, to be read as an operator would read them. After a
/// deliberate change: `UPDATE_EXPECT=1 cargo test --lib config`, and read the difference.
#[test]
fn each_bad_configuration_gets_its_report() {
    let mut reports = String::new();
    for (name, changes) in BAD {
        let report = report_on(&good_but(changes));
        assert_ne!(report, "good", "{name}");
        reports.push_str(&format!("# {name}\n{report}\n\n"));
    }
    let many =
        (4..=9).map(|id| format!("[[nodes]]\nid = {id}\nhost = \"h{id}\"\nclient_port = 1\n"));
    let many = report_on(&(good() + &many.collect::<String>()));
    reports.push_str(&format!("# nine voters\n{many}\n\n"));
    reports.push_str(&format!("# an empty file\n{}\n", report_on("")));
    expect_file!["bad.txt"].assert_eq(&reports);
}

proptest::proptest! {
    /// No text makes the reader panic (rule 36), and a good one is never refused for want of luck.
    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}") {
        let _ = Config::parse("node.toml", &text, None);
    }

    #[test]
    fn any_damage_is_answered(at in 0..700usize, cut in 0..40usize, put in "[\\x00-\\x7f]{0,8}") {
        let good = good();
        let (at, end) = (at.min(good.len()), (at + cut).min(good.len()));
        let text = format!("{}{put}{}", &good[..at], &good[end..]);
        if let Err(problems) = Config::parse("node.toml", &text, None) {
            proptest::prop_assert!(problems.iter().all(|p| p.place.file == "node.toml"));
        }
    }
}
