//! The real program, as a user meets it: help, refusals with their exit codes, a local cluster.
//!
//! Each test has its own temporary directory and free ports, and waits for facts, not for time.

#![expect(
    clippy::disallowed_methods,
    reason = "a test of processes waits for them, with a deadline"
)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Nothing here takes anywhere near as long on a machine that works at all.
const PATIENCE: Duration = Duration::from_secs(60);

fn catamaran() -> Command {
    Command::new(env!("CARGO_BIN_EXE_catamaran"))
}

fn run(arguments: &[&str]) -> Output {
    catamaran().args(arguments).output().expect("the program starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// Ends with `code`, and says on one line what holds each of `words`.
#[track_caller]
fn refused(output: &Output, code: i32, words: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    let line = text.lines().find(|line| line.starts_with("error: ")).expect("an error line");
    for word in words {
        assert!(line.contains(word), "{word:?} is missing in: {line}");
    }
}

/// A port P such that P + 1000 n and P + 1000 n + 100 are free for n up to 3, below the range from
/// which the kernel gives ports to connections, and not handed out twice by this process.
fn free_base_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(process::id() % 5_000).expect("below 5,000");
    loop {
        let offset = (start + NEXT.fetch_add(1, Ordering::Relaxed) * 7) % 5_000;
        let base = 12_000 + offset;
        let ports = (1..=3).flat_map(|n| [base + 1000 * n, base + 1000 * n + 100]);
        if ports.into_iter().all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return base;
        }
    }
}

/// The configuration of a node that is a cluster of its own.
fn lone_node(dir: &Path) -> PathBuf {
    let path = dir.join("node.toml");
    let port = free_base_port() + 1000;
    let text = format!(
        "cluster_id = \"6f1d3c5e-8a27-4b90-9d44-0c51e7a2b368\"\n\
         node_id = 1\n\
         data_dir = \"data\"\n\
         pin_cores = false\n\
         limits.arena_bytes_per_shard = \"16 MiB\"\n\
         wal.segments_ahead = 1\n\
         [[nodes]]\n\
         id = 1\n\
         host = \"127.0.0.1\"\n\
         client_port = {port}\n"
    );
    fs::write(&path, text).expect("written");
    path
}

fn init(config: &Path) -> Output {
    catamaran().args(["init", "--config"]).arg(config).output().expect("the program starts")
}

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
    refused(&output.expect("starts"), 2, &["fast", "laptop, ci, nvme"]);
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

fn client_port(config: &Path) -> u16 {
    let text = fs::read_to_string(config).expect("there");
    let line = text.lines().find(|line| line.starts_with("client_port")).expect("a port");
    line.rsplit(' ').next().and_then(|port| port.parse().ok()).expect("a number")
}

/// A node that runs. Killed when it is dropped.
struct Serving {
    child: Child,
    log: PathBuf,
    address: String,
}

impl Serving {
    /// Starts the node of `config` and waits until it serves.
    #[track_caller]
    fn start(config: &Path) -> Self {
        let mut serving = Self::spawn(catamaran().args(["serve", "--config"]).arg(config), config);
        serving.wait_for("event=started");
        serving
    }

    fn spawn(command: &mut Command, config: &Path) -> Self {
        let log = config.with_extension("log");
        let file = File::create(&log).expect("a log");
        command.args(["--until-stdin-closes"]).stdin(Stdio::piped()).stderr(file);
        let child = command.spawn().expect("the program starts");
        Self { child, log, address: format!("127.0.0.1:{}", client_port(config)) }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }

    #[track_caller]
    fn wait_for(&mut self, words: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(words) {
            let ended = self.child.try_wait().expect("our child");
            assert!(ended.is_none(), "ended with {ended:?}: {}", self.log());
            assert!(Instant::now() < deadline, "no {words:?} in: {}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Stops it in good order.
    #[track_caller]
    fn stop(mut self) {
        drop(self.child.stdin.take());
        let status = wait(&mut self.child);
        assert_eq!(status, Some(0), "{}", self.log());
    }

    fn kill(mut self) {
        self.child.kill().expect("our child");
        wait(&mut self.child);
    }

    #[track_caller]
    fn client(&self, command: &str, arguments: &[&str]) -> String {
        let output = run(&[&[command, "--connect", &self.address], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It has ended already, or it does now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for the end of `child`. Its exit code, or `None` if a signal ended it.
#[track_caller]
fn wait(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("our child") {
            return status.code();
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("it did not end");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// A node that refuses to start, or is stopped because it did not refuse.
fn serve(config: &Path) -> Output {
    let mut child = catamaran()
        .args(["serve", "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let code = wait(&mut child);
    assert!(code.is_some(), "it ended by itself");
    child.wait_with_output().expect("its stderr")
}

/// The only segment of a lone node that has not written much.
fn segment(dir: &Path) -> PathBuf {
    let shard = dir.join("data/shard-00");
    let mut names: Vec<PathBuf> = fs::read_dir(&shard)
        .expect("the shard's directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.to_string_lossy().contains("wal-segment-"))
        .collect();
    names.sort();
    names.remove(0)
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

#[test]
fn a_directory_that_was_not_formatted_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = lone_node(dir.path());
    refused(&serve(&config), 4, &["not formatted", "data", "init"]);
    fs::create_dir(dir.path().join("data")).expect("made");
    refused(&serve(&config), 4, &["not formatted"]);
}

#[test]
fn a_foreign_directory_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = lone_node(dir.path());
    assert_eq!(init(&config).status.code(), Some(0));
    let text = fs::read_to_string(&config).expect("there");
    let changes = [
        ("6f1d3c5e", "7f1d3c5e", "cluster_id"),
        ("node_id = 1", "node_id = 2", "node_id"),
        ("node_id = 1", "node_id = 1\nshards = 2", "shards"),
    ];
    for (from, to, key) in changes {
        let text = text.replace(from, to).replace(
            "id = 1\nhost",
            &format!("{}\nhost", { if key == "node_id" { "id = 2" } else { "id = 1" } }),
        );
        fs::write(&config, text).expect("written");
        refused(&serve(&config), 4, &["somebody else", key]);
    }
}

#[test]
fn of_two_processes_on_one_directory_the_second_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = lone_node(dir.path());
    assert_eq!(init(&config).status.code(), Some(0));
    let node = Serving::start(&config);
    refused(&serve(&config), 4, &["in use", "LOCK"]);
    assert_eq!(node.client("append", &["--group", "1", "x"]).lines().count(), 1);
    node.stop();
}

#[test]
fn a_port_in_use_is_refused_by_its_number() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = lone_node(dir.path());
    assert_eq!(init(&config).status.code(), Some(0));
    let port = client_port(&config);
    for port in [port, port + 100] {
        let _taken = TcpListener::bind(("127.0.0.1", port)).expect("free");
        refused(&serve(&config), 3, &["cannot listen", &port.to_string()]);
    }
    Serving::start(&config).stop();
}

#[test]
fn a_flipped_bit_below_the_watermark_is_refused_and_nothing_is_altered() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = lone_node(dir.path());
    assert_eq!(init(&config).status.code(), Some(0));
    let node = Serving::start(&config);
    for record in ["precious", "more", "and more"] {
        node.client("append", &["--group", "1", record]);
    }
    node.stop();
    let path = segment(dir.path());
    let mut bytes = fs::read(&path).expect("a segment");
    let at = bytes.windows(8).position(|window| window == b"precious").expect("it is there");
    bytes[at] ^= 1;
    fs::write(&path, &bytes).expect("written");
    refused(&serve(&config), 4, &["wal-segment", "log of shard 0 is refused"]);
    assert!(fs::read(&path).expect("a segment") == bytes, "refused and altered");
    bytes[at] ^= 1;
    fs::write(&path, &bytes).expect("written");
    let node = Serving::start(&config);
    assert!(node.client("read", &["--group", "1", "--raw"]).starts_with("precious\n"));
    node.stop();
}

#[test]
fn a_log_that_is_gone_or_of_another_cluster_is_refused() {
    let (dir, other) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
    let (config, stranger) = (lone_node(dir.path()), lone_node(other.path()));
    let text = fs::read_to_string(&stranger).expect("there");
    fs::write(&stranger, text.replace("6f1d3c5e", "7f1d3c5e")).expect("written");
    for config in [&config, &stranger] {
        assert_eq!(init(config).status.code(), Some(0));
        let node = Serving::start(config);
        node.client("append", &["--group", "1", "x"]);
        node.stop();
    }
    let path = segment(dir.path());
    let bytes = fs::read(&path).expect("a segment");
    fs::copy(segment(other.path()), &path).expect("copied");
    refused(&serve(&config), 4, &["log of shard 0 is refused", "wal-segment"]);
    fs::remove_file(&path).expect("removed");
    refused(&serve(&config), 4, &["shard"]);
    fs::write(&path, bytes).expect("brought back");
    Serving::start(&config).stop();
}

/// tmpfs takes O_DIRECT since Linux 6.6; ramfs never does, and may be mounted by anybody in a
/// namespace of their own. Where such namespaces are forbidden (some containers), this test sees
/// that they are and checks nothing else; the refusal itself has a test in `runtime`.
#[test]
fn a_file_system_without_o_direct_is_refused_unless_asked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = lone_node(dir.path());
    let mount = dir.path().join("ram");
    fs::create_dir(&mount).expect("made");
    let text = fs::read_to_string(&config).expect("there");
    fs::write(&config, text.replace("\"data\"", "\"ram/data\"")).expect("written");
    let inside = |script: &str| {
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
            .arg(format!("mount -t ramfs none '{}' && {script}", mount.display()));
        command.args(["sh", env!("CARGO_BIN_EXE_catamaran")]).arg(&config);
        command
    };
    let may_mount = inside("true").output().is_ok_and(|output| output.status.success());
    if !may_mount {
        assert!(!inside("true").status().is_ok_and(|status| status.success()));
        return;
    }
    let init = "\"$1\" init --config \"$2\" >/dev/null";
    let output = inside(&format!("{init} && \"$1\" serve --config \"$2\"")).output();
    refused(&output.expect("starts"), 3, &["no O_DIRECT", "ram/data", "--allow-buffered"]);
    let script = format!(
        "{init} && exec \"$1\" serve --config \"$2\" --allow-buffered --until-stdin-closes"
    );
    let log = dir.path().join("buffered.log");
    let child = inside(&script)
        .stdin(Stdio::piped())
        .stderr(File::create(&log).expect("a log"))
        .spawn()
        .expect("starts");
    let address = format!("127.0.0.1:{}", client_port(&config));
    let mut node = Serving { child, log, address };
    node.wait_for("event=started");
    node.client("append", &["--group", "1", "x"]);
    assert!(node.client("status", &[]).contains("BUFFERED"));
    assert!(node.log().contains("durable=false"), "{}", node.log());
    node.stop();
}

/// Runs a program to which the kernel refuses `io_uring_setup` (425 on every architecture), as
/// containers do. In C, which glommio needs to build anyway: a filter needs raw system calls.
const WITHOUT_IO_URING: &str = r#"
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <unistd.h>
int main(int argc, char **argv) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 425, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { 4, code };
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return 97;
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) return 98;
    execv(argv[1], argv + 1);
    return 99;
}
"#;

#[test]
fn a_kernel_that_forbids_io_uring_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = lone_node(dir.path());
    assert_eq!(init(&config).status.code(), Some(0));
    let (source, launcher) = (dir.path().join("without.c"), dir.path().join("without"));
    fs::write(&source, WITHOUT_IO_URING).expect("written");
    let compiled = Command::new("cc").arg("-o").arg(&launcher).arg(&source).status();
    assert!(compiled.expect("a C compiler").success());
    let output = Command::new(&launcher)
        .args([env!("CARGO_BIN_EXE_catamaran"), "serve", "--config"])
        .arg(&config)
        .output()
        .expect("the launcher starts");
    refused(&output, 3, &["io_uring is not available", "io_uring_disabled", "seccomp"]);
    Serving::start(&config).stop();
}

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
