//! The program under test, as a user starts it: run to its end, or serving until it is stopped.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Nothing here takes anywhere near as long on a machine that works at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn catamaran() -> Command {
    Command::new(env!("CARGO_BIN_EXE_catamaran"))
}

pub(crate) fn run(arguments: &[&str]) -> Output {
    catamaran().args(arguments).output().expect("the program starts")
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// Ends with `code`, and says on one line what holds each of `words`.
#[track_caller]
pub(crate) fn refused(output: &Output, code: i32, words: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    let line = text.lines().find(|line| line.starts_with("error: ")).expect("an error line");
    for word in words {
        assert!(line.contains(word), "{word:?} is missing in: {line}");
    }
}

/// A port P such that P + 1000 n and P + 1000 n + 100 are free for n up to 3, below the range from
/// which the kernel gives ports to connections, and not handed out twice by this process.
pub(crate) fn free_base_port() -> u16 {
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
///
/// Its timers forgive a disk that the other tests keep busy: a leader whose device hangs for longer
/// than an election takes steps down.
pub(crate) fn lone_node(dir: &Path) -> PathBuf {
    let path = dir.join("node.toml");
    let port = free_base_port() + 1000;
    let text = format!(
        "cluster_id = \"6f1d3c5e-8a27-4b90-9d44-0c51e7a2b368\"\n\
         node_id = 1\n\
         data_dir = \"data\"\n\
         pin_cores = false\n\
         limits.arena_bytes_per_shard = \"16 MiB\"\n\
         wal.segments_ahead = 1\n\
         raft.election_min_ms = 300\n\
         raft.election_max_ms = 1000\n\
         raft.check_quorum_ms = 1000\n\
         [[nodes]]\n\
         id = 1\n\
         host = \"127.0.0.1\"\n\
         client_port = {port}\n"
    );
    fs::write(&path, text).expect("written");
    path
}

pub(crate) fn init(config: &Path) -> Output {
    catamaran().args(["init", "--config"]).arg(config).output().expect("the program starts")
}

pub(crate) fn client_port(config: &Path) -> u16 {
    let text = fs::read_to_string(config).expect("there");
    let line = text.lines().find(|line| line.starts_with("client_port")).expect("a port");
    line.rsplit(' ').next().and_then(|port| port.parse().ok()).expect("a number")
}

/// A node that runs. Killed when it is dropped.
pub(crate) struct Serving {
    pub(crate) child: Child,
    pub(crate) log: PathBuf,
    pub(crate) address: String,
}

impl Serving {
    /// Starts the node of `config` and waits until it serves.
    #[track_caller]
    pub(crate) fn start(config: &Path) -> Self {
        let mut serving = Self::spawn(catamaran().args(["serve", "--config"]).arg(config), config);
        serving.wait_for("event=started");
        serving
    }

    pub(crate) fn spawn(command: &mut Command, config: &Path) -> Self {
        let log = config.with_extension("log");
        let file = File::create(&log).expect("a log");
        command.args(["--until-stdin-closes"]).stdin(Stdio::piped()).stderr(file);
        let child = command.spawn().expect("the program starts");
        Self { child, log, address: format!("127.0.0.1:{}", client_port(config)) }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }

    #[track_caller]
    pub(crate) fn wait_for(&mut self, words: &str) {
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
    pub(crate) fn stop(mut self) {
        drop(self.child.stdin.take());
        let status = wait(&mut self.child);
        assert_eq!(status, Some(0), "{}", self.log());
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().expect("our child");
        wait(&mut self.child);
    }

    #[track_caller]
    pub(crate) fn client(&self, command: &str, arguments: &[&str]) -> String {
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
pub(crate) fn wait(child: &mut Child) -> Option<i32> {
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
pub(crate) fn serve(config: &Path) -> Output {
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
