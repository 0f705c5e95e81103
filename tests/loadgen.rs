//! loadgen as a newcomer meets it: wrong arguments, and short whole runs against real nodes.
//!
//! The runs start three node processes each, on loopback, with logs in a temporary directory of
//! the current disk. What the load and its account do with a misbehaving cluster is tested beside
//! them, in `tools/loadgen`.

#![expect(clippy::disallowed_methods, reason = "a test of processes waits for them")]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

fn loadgen(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(arguments)
        .output()
        .expect("the program can be started")
}

/// Runs against an embedded cluster below a directory of its own; returns the JSON result.
#[track_caller]
fn run(arguments: &[&str]) -> Value {
    let directory = tempfile::tempdir_in(".").expect("the current directory is writable");
    let path = directory.path().to_str().expect("a plain name");
    let output = loadgen(&[arguments, &["--dir", path, "--json", "-"]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {errors}");
    let left: Vec<_> =
        std::fs::read_dir(directory.path()).expect("it is still there").flatten().collect();
    assert!(left.is_empty(), "files were left behind: {left:?}");
    serde_json::from_slice(&output.stdout).expect("standard output is one JSON document")
}

fn number(result: &Value, path: &str) -> f64 {
    let found = result.pointer(path).unwrap_or_else(|| panic!("no {path} in {result:#}"));
    found.as_f64().unwrap_or_else(|| panic!("{path} is {found}"))
}

#[test]
fn help_has_examples_and_exit_codes() {
    let output = loadgen(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    for word in ["--rate", "--records-per-request", "--connect", "Examples:", "Exit codes:"] {
        assert!(text.contains(word), "{word}");
    }
}

#[test]
fn bad_arguments_end_with_2_and_a_cure() {
    for (arguments, cure) in [
        (&["--nodes", "4"][..], "3, 5 or 7"),
        (&["--size", "8"], "--no-verify"),
        (&["--rate", "fast"], "such as"),
        (&["--duration", "10 parsecs"], "use us, ms, s, m or h"),
        (&["--connect", "127.0.0.1:7000", "--nodes", "5"], "leave out"),
        (&["--no-such-option"], "--help"),
        (&["--profile", "nonesuch"], "laptop"),
    ] {
        let output = loadgen(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains(cure), "{arguments:?}: {errors}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn an_unreachable_cluster_ends_with_3_and_a_cure() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let output = loadgen(&["--connect", &address]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{errors}");
    assert!(errors.contains(&address) && errors.contains("start the cluster"), "{errors}");
}

#[test]
fn a_directory_that_is_not_there_ends_with_3() {
    let output = loadgen(&["--dir", "/does/not/exist"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{errors}");
    assert!(errors.contains("--dir"), "{errors}");
    assert!(!Path::new("/does").exists());
}

#[test]
fn a_file_system_in_memory_is_refused_with_3_and_a_cure() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = directory.path().to_str().unwrap();
    let output = loadgen(&["--dir", path, "--rate", "1k", "--duration", "1s"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{errors}");
    assert!(errors.contains("O_DIRECT") && errors.contains("--allow-buffered"), "{errors}");
    assert_eq!(directory.path().read_dir().unwrap().count(), 0, "what was begun is gone again");
}

/// Starts a long run, sends it `signal` once its nodes are there, and waits until it and its files
/// are gone; returns its exit code.
#[track_caller]
fn interrupt(signal: &str) -> Option<i32> {
    let directory = tempfile::tempdir_in(".").expect("the current directory is writable");
    let mut child = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["--rate", "1k", "--duration", "1m", "--dir"])
        .arg(directory.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program can be started");
    let has_nodes = |below: &Path| {
        let run = below.read_dir().expect("it is still there").flatten().next();
        run.is_some_and(|run| (1..=3).all(|node| run.path().join(format!("node-{node}")).is_dir()))
    };
    wait_until(|| has_nodes(directory.path()));
    let id = child.id().to_string();
    let sent = Command::new("kill").args([signal, &id]).status().expect("kill(1) is there");
    assert!(sent.success());
    let status = child.wait().expect("our own child");
    wait_until(|| directory.path().read_dir().expect("it is still there").next().is_none());
    status.code()
}

#[track_caller]
fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "waited for a minute");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn ctrl_c_stops_the_nodes_and_removes_their_files() {
    assert_eq!(interrupt("-INT"), Some(130));
}

#[test]
fn nodes_and_files_do_not_survive_a_killed_generator() {
    assert_eq!(interrupt("-KILL"), None, "it ended by the signal");
}

#[test]
fn an_open_loop_accounts_for_every_record() {
    let result = run(&["--rate", "5k", "--duration", "1s", "--warmup", "300ms"]);
    assert_eq!(result["verdict"], "ok", "{result:#}");
    assert_eq!(number(&result, "/intended_rate"), 5000.0);
    let acked = number(&result, "/acked");
    assert!(acked > 1000.0, "{result:#}");
    assert_eq!(number(&result, "/verified"), acked);
    assert_eq!((number(&result, "/lost"), number(&result, "/duplicated")), (0.0, 0.0));
    assert!(number(&result, "/latency_us/p50") > 0.0);
    assert!(number(&result, "/latency_us/p999") >= number(&result, "/latency_us/p50"));
    for nodes in ["/cpu_cores/nodes", "/rss_bytes/nodes"] {
        let nodes = result.pointer(nodes).and_then(Value::as_array).map(Vec::len);
        assert_eq!(nodes, Some(3), "{result:#}");
    }
    for field in ["/device/bytes", "/device/writes", "/device/bytes_per_acked_byte"] {
        assert!(number(&result, field) > 0.0, "{field}");
    }
    assert!(number(&result, "/device/ceiling_bytes_per_s") > 0.0);
    assert!(number(&result, "/copies/leader_per_record_byte") > 0.0);
    assert_eq!(result["buffered"], false);
    for field in ["durability", "machine", "config", "commit", "errors", "unknown", "registered"] {
        assert!(!result[field].is_null(), "{field}");
    }
}

#[test]
fn a_closed_loop_over_many_groups_and_two_shards_accounts_for_every_record() {
    let result = run(&[
        "--rate",
        "max",
        "--inflight",
        "256",
        "--groups",
        "6",
        "--shards",
        "2",
        "--duration",
        "1s",
        "--warmup",
        "300ms",
    ]);
    assert_eq!(result["verdict"], "ok", "{result:#}");
    assert_eq!(number(&result, "/verified"), number(&result, "/acked"));
    assert_eq!((number(&result, "/lost"), number(&result, "/duplicated")), (0.0, 0.0));
    assert_eq!(number(&result, "/config/groups"), 6.0);
}

#[test]
fn reads_return_what_was_written() {
    for mode in ["read-index", "read-stale"] {
        let result = run(&[
            "--mode",
            mode,
            "--rate",
            "max",
            "--inflight",
            "64",
            "--duration",
            "500ms",
            "--warmup",
            "100ms",
        ]);
        assert_eq!(result["verdict"], "ok", "{result:#}");
        assert_eq!(number(&result, "/wrong"), 0.0);
        assert!(number(&result, "/acked") > 100.0, "{result:#}");
    }
}
