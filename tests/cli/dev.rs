//! A cluster on this machine, made by `dev`: it survives its leader, knows its members, and ends whole.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::program::{PATIENCE, catamaran, free_base_port, refused, run, stderr, stdout, wait};

/// A local cluster that runs. Its nodes end with it, and it is killed when it is dropped.
struct Dev {
    child: Child,
    about: serde_json::Value,
}

impl Dev {
    #[track_caller]
    fn start(arguments: &[&str]) -> Self {
        let mut child = catamaran()
            .args(["dev", "--json"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("readable");
        if line.is_empty() {
            wait(&mut child);
            let mut text = String::new();
            child.stderr.take().expect("piped").read_to_string(&mut text).expect("UTF-8");
            panic!("no endpoints: {text}");
        }
        Self { child, about: serde_json::from_str(&line).expect("JSON") }
    }

    fn client(&self, command: &str, arguments: &[&str]) -> Output {
        let connect = self.about["connect"].as_str().expect("addresses");
        run(&[&[command, "--connect", connect], arguments].concat())
    }

    fn signal(&self, pid: u32, signal: &str) {
        let status = Command::new("kill").args([signal, &pid.to_string()]).status();
        assert!(status.expect("kill starts").success());
    }

    #[track_caller]
    fn stop(mut self) {
        self.signal(self.child.id(), "-TERM");
        assert_eq!(wait(&mut self.child), Some(0));
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // It has ended already, or it does now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_local_cluster_survives_its_leader_and_its_own_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("cluster");
    let dir = dir.to_str().expect("UTF-8");
    let base = free_base_port().to_string();
    let profile = ["--dir", dir, "--profile", "ci"];
    let dev = Dev::start(&[&profile[..], &["--base-port", &base, "--groups", "2"]].concat());
    assert_eq!(dev.about["nodes"].as_array().map(Vec::len), Some(3));
    let output = dev.client("append", &["--group", "2", "before"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));

    let status = dev.client("status", &["--json"]);
    assert_eq!(status.status.code(), Some(0), "{}", stderr(&status));
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
    let leader = status["nodes"][0]["shards"][0]["groups"][1]["leader"].as_u64().expect("one");
    let pid = &dev.about["nodes"][usize::try_from(leader - 1).expect("small")]["pid"];
    dev.signal(u32::try_from(pid.as_u64().expect("a pid")).expect("a pid"), "-KILL");
    let output = dev.client("append", &["--group", "2", "--timeout-ms", "30000", "after"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(dev.client("status", &[]).status.code(), Some(3), "one node is down");
    dev.stop();

    let wrong = run(&[&["dev", "--nodes", "5"], &profile[..]].concat());
    refused(&wrong, 2, &["--nodes is 3", "--dir"]);
    let dev = Dev::start(&profile);
    let output = dev.client("read", &["--group", "2", "--raw", "--timeout-ms", "30000"]);
    assert_eq!(stdout(&output), "before\nafter\n", "{}", stderr(&output));
    dev.stop();
}

#[test]
fn the_nodes_of_a_local_cluster_end_with_it_however_it_ends() {
    let dir = tempfile::tempdir().expect("a directory");
    let base = free_base_port().to_string();
    let path = dir.path().to_str().expect("UTF-8");
    let mut dev = Dev::start(&["--dir", path, "--base-port", &base, "--nodes", "1"]);
    let node = dev.about["nodes"][0]["pid"].as_u64().expect("a pid");
    dev.child.kill().expect("our child");
    wait(&mut dev.child);
    let deadline = Instant::now() + PATIENCE;
    // The node is no child of ours, so whoever inherits it decides how long a zombie of it stays.
    let runs = || {
        fs::read_to_string(format!("/proc/{node}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "))
    };
    while runs() {
        assert!(Instant::now() < deadline, "node {node} runs on");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Stops the cluster in `dir`, does `meanwhile`, and starts it again with empty logs.
#[track_caller]
fn between(dev: Dev, dir: &Path, meanwhile: impl FnOnce()) -> Dev {
    dev.stop();
    meanwhile();
    for node in 1..=3 {
        fs::write(dir.join(format!("node-{node}.log")), "").expect("written");
    }
    Dev::start(&["--dir", dir.to_str().expect("UTF-8"), "--profile", "ci"])
}

/// Waits until the log of node 1 says `words`, and checks that the cluster serves.
#[track_caller]
fn refuses_and_serves(dev: &Dev, dir: &Path, words: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let log = fs::read_to_string(dir.join("node-1.log")).expect("a log");
        if log.lines().any(|line| line.contains("event=peer_refused") && line.contains(words)) {
            break;
        }
        assert!(Instant::now() < deadline, "no {words:?} in: {log}");
        thread::sleep(Duration::from_millis(20));
    }
    let output = dev.client("append", &["--group", "1", "--timeout-ms", "30000", "still here"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let status = dev.client("status", &["--json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_eq!(status["nodes"][0]["shards"][0]["facts"]["peer.3.up"], false);
    assert_eq!(status["nodes"][0]["shards"][0]["facts"]["peer.2.up"], true);
}

/// Waits until node 3 is connected to both others.
#[track_caller]
fn meets_node_3(dev: &Dev) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = stdout(&dev.client("status", &["--json"]));
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        let is_up = |node: usize| &status["nodes"][node]["shards"][0]["facts"]["peer.3.up"];
        if is_up(0) == true && is_up(1) == true {
            return;
        }
        assert!(Instant::now() < deadline, "node 3 does not come: {status}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_old_copy_and_a_wiped_node_are_refused_by_the_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    let (data, copy, kept) = (dir.join("node-3"), dir.join("copy"), dir.join("kept"));
    let path = dir.to_str().expect("UTF-8");
    let base = free_base_port().to_string();
    let dev = Dev::start(&["--dir", path, "--base-port", &base, "--profile", "ci"]);
    let output = dev.client("append", &["--group", "1", "--timeout-ms", "30000", "first"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let dev = between(dev, dir, || {
        let copied = Command::new("cp").arg("-r").args([&data, &copy]).status();
        assert!(copied.expect("cp starts").success());
    });
    // Two starts that the others have met; the copy knows of none of them.
    meets_node_3(&dev);
    let dev = between(dev, dir, || ());
    meets_node_3(&dev);
    let dev = between(dev, dir, || {
        fs::rename(&data, &kept).expect("moved");
        fs::rename(&copy, &data).expect("moved");
    });
    refuses_and_serves(&dev, dir, "boot counter");
    let dev = between(dev, dir, || {
        fs::remove_dir_all(&data).expect("wiped");
        let config = dir.join("node-3.toml");
        let output = catamaran().args(["init", "--config"]).arg(&config).output();
        assert_eq!(output.expect("starts").status.code(), Some(0), "it cannot know");
    });
    refuses_and_serves(&dev, dir, "data directory");
    // Its own directory is welcome again.
    let dev = between(dev, dir, || {
        fs::remove_dir_all(&data).expect("wiped");
        fs::rename(&kept, &data).expect("moved");
    });
    meets_node_3(&dev);
    dev.stop();
}
