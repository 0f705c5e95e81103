//! The real program, as a user meets it: help, refusals with their exit codes, a local cluster.
//!
//! Here: arguments, configuration, formatting, and one node as a whole. What must not start is in
//! `cli/refusals.rs`, clusters are in `cli/dev.rs`. Each test has its own temporary directory and
//! free ports, and waits for facts, not for time.

#![expect(
    clippy::disallowed_methods,
    reason = "a test of processes waits for them, with a deadline"
)]

#[path = "cli/dev.rs"]
mod dev;
#[path = "cli/program.rs"]
mod program;
#[path = "cli/refusals.rs"]
mod refusals;

use std::fs::{self, File};
use std::process::Stdio;

use program::{Serving, catamaran, client_port, init, lone_node, refused, run, stderr, stdout};

#[test]
fn help_has_an_example_for_every_command() {
    let help = stdout(&run(&["--help"]));
    assert!(help.contains("Exit codes:"), "{help}");
    for command in ["init", "serve", "dev", "status", "append", "read"] {
        assert!(help.contains(&format!("  {command} ")), "{help}");
        let output = run(&[command, "--help"]);
        let help = stdout(&output);
        assert_eq!(output.status.code(), Some(0));
        assert!(help.contains(&format!("  catamaran {command}")), "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
    }
}

#[test]
fn bad_arguments_end_with_2() {
    for arguments in
        [&[][..], &["fly"], &["init"], &["serve", "--config"], &["dev", "--nodes", "x"]]
    {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn every_problem_of_a_configuration_is_told_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = lone_node(dir.path());
    let text = fs::read_to_string(&path).expect("there");
    let text = text.replace("node_id = 1", "node_id = 2\nshard = 3");
    fs::write(&path, text.replace("16 MiB", "lots")).expect("written");
    for command in ["init", "serve"] {
        let output = catamaran().args([command, "--config"]).arg(&path).output().expect("starts");
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].contains("node.toml:2: node_id = 2 is not in [[nodes]] (1)"), "{text}");
        assert!(
            lines[1].contains("node.toml:3: unknown key shard: did you mean shards?"),
            "{text}"
        );
        assert!(
            lines[2].contains("node.toml:6: limits.arena_bytes_per_shard = \"lots\""),
            "{text}"
        );
        assert!(!dir.path().join("data").exists(), "nothing was touched");
    }
}

#[test]
fn a_profile_that_does_not_exist_is_refused_with_the_list() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = lone_node(dir.path());
    let output = catamaran().args(["init", "--profile", "fast", "--config"]).arg(&config).output();
    refused(&output.expect("starts"), 2, &["fast", "laptop, ci, nvme, low-latency"]);
}

#[test]
fn a_directory_is_formatted_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = lone_node(dir.path());
    let first = init(&config);
    assert_eq!(first.status.code(), Some(0), "{}", stderr(&first));
    assert!(stdout(&first).contains("node uuid"), "{}", stdout(&first));
    let identity = fs::read(dir.path().join("data/node.toml")).expect("formatted");
    refused(&init(&config), 4, &["formatted already", "data", "serve"]);
    assert_eq!(fs::read(dir.path().join("data/node.toml")).expect("still there"), identity);
}

#[test]
fn init_tells_the_identity_as_json() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = lone_node(dir.path());
    let output = catamaran().args(["init", "--json", "--config"]).arg(&config).output();
    let json: serde_json::Value =
        serde_json::from_slice(&output.expect("starts").stdout).expect("JSON");
    assert_eq!(json["node_id"], 1);
    assert_eq!(json["cluster_id"], "6f1d3c5e-8a27-4b90-9d44-0c51e7a2b368");
    assert_eq!(json["node_uuid"].as_str().map(str::len), Some(36));
}

#[test]
fn init_refuses_a_directory_that_holds_something() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = lone_node(dir.path());
    fs::create_dir(dir.path().join("data")).expect("made");
    fs::write(dir.path().join("data/letter.txt"), "dear").expect("written");
    refused(&init(&config), 4, &["not empty", "letter.txt"]);
}

#[test]
fn a_node_keeps_what_it_acknowledged_through_a_kill_and_a_stop() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = lone_node(dir.path());
    assert_eq!(init(&config).status.code(), Some(0));
    let node = Serving::start(&config);
    let appended = node.client("append", &["--group", "1", "hello", "two\nlines"]);
    let first: u64 = appended.lines().next().expect("an index").parse().expect("a number");
    assert_eq!(appended, format!("{first}\n{}\n", first + 1));
    node.kill();
    let node = Serving::start(&config);
    let more = node.client("append", &["--group", "1", "--json", "again"]);
    let more: serde_json::Value = serde_json::from_str(&more).expect("JSON");
    assert_eq!(more["outcome"], "done");
    node.stop();
    let node = Serving::start(&config);
    assert_eq!(node.client("read", &["--group", "1", "--raw"]), "hello\ntwo\nlines\nagain\n");
    let second = (first + 1).to_string();
    let one = ["--group", "1", "--from", &second, "--max-records", "1"];
    assert_eq!(node.client("read", &one), format!("{second}\ttwo\\nlines\n"));
    let json = node.client("read", &[&one[..], &["--json", "--stale"]].concat());
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(
        (json["index"].as_u64(), json["text"].as_str()),
        (Some(first + 1), Some("two\nlines"))
    );
    let status = node.client("status", &["--json"]);
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    let shard = &status["nodes"][0]["shards"][0];
    assert_eq!(shard["facts"]["boot"], 3);
    assert_eq!(shard["groups"][0]["role"], "leader");
    assert_eq!(shard["facts"]["buffered"], false);
    assert!(node.client("status", &[]).contains("boot 3"));
    node.stop();
}

#[test]
fn appending_stdin_appends_its_lines_in_order() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = lone_node(dir.path());
    assert_eq!(init(&config).status.code(), Some(0));
    let node = Serving::start(&config);
    let lines: String = (0..5_000).map(|i| format!("line {i}\n")).collect();
    let input = dir.path().join("input");
    fs::write(&input, &lines).expect("written");
    let output = catamaran()
        .args(["append", "--connect", &node.address, "--group", "1"])
        .stdin(File::open(&input).expect("there"))
        .output()
        .expect("the program starts");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output).lines().count(), 5_000);
    assert_eq!(node.client("read", &["--group", "1", "--raw"]), lines);
    node.stop();
}

#[test]
fn what_cannot_be_done_says_so_by_its_exit_code() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = lone_node(dir.path());
    assert_eq!(init(&config).status.code(), Some(0));
    let nobody = format!("127.0.0.1:{}", client_port(&config));
    for command in ["append", "read", "status"] {
        let group = if command == "status" { &[][..] } else { &["--group", "1"] };
        let wait = ["--timeout-ms", "200", "--connect", &nobody];
        let output = catamaran().arg(command).args(wait).args(group).stdin(Stdio::null()).output();
        refused(&output.expect("starts"), 3, &[&nobody, "--connect"]);
    }
    let node = Serving::start(&config);
    let output = run(&["append", "--connect", &node.address, "--group", "7", "x"]);
    refused(&output, 1, &["not done", "no such group"]);
    let output = run(&["read", "--connect", &node.address, "--group", "7"]);
    refused(&output, 1, &["no such group"]);
    node.stop();
}
