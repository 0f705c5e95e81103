//! Nodes as child processes: made, started, killed, asked.
//!
//! Apart from the tests because it alone knows the program's arguments and its files.

use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use catamaran::client::{Client, Options, status};
use catamaran::model::{GroupId, NodeId};

/// The one group of these clusters.
pub(crate) const GROUP: GroupId = GroupId::new(1);
pub(crate) const CLIENT_PORT: u16 = 7000;
pub(crate) const PEER_PORT: u16 = 7100;
/// How long anything that should happen may take, on a machine that is busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster of child processes on loopback addresses of its own.
pub(crate) struct Cluster {
    dir: tempfile::TempDir,
    subnet: [u8; 2],
    nodes: Vec<Option<Child>>,
}

/// How many clusters this process has made: part of their addresses.
static CLUSTERS: AtomicU32 = AtomicU32::new(0);

impl Cluster {
    /// Formats `size` nodes; nothing runs yet.
    pub(crate) fn new(size: usize) -> Self {
        Self::with_id(size, "0c9e6b1a-52d4-4f0e-8a57-d1b0c4e2f796")
    }

    pub(crate) fn with_id(size: usize, cluster: &str) -> Self {
        let dir =
            tempfile::Builder::new().prefix("process-").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let dir = dir.expect("a directory");
        // Addresses are free if no other process of ours has them: processes that live at the same
        // time have different ids, and 127.16.0.0 to 127.255.255.255 has room for 61,440 of them.
        let number = std::process::id() * 8 + CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let place = number % (240 * 256);
        let subnet = [
            16 + u8::try_from(place / 256).expect("below 240"),
            u8::try_from(place % 256).expect("below 256"),
        ];
        let nodes = (0..size).map(|_| None).collect();
        let made = Self { dir, subnet, nodes };
        for node in 1..=size {
            fs::write(made.config(node), made.config_text(node, cluster)).expect("written");
            let output = program().args(["init", "--config"]).arg(made.config(node)).output();
            let output = output.expect("the program starts");
            assert!(output.status.success(), "init: {}", String::from_utf8_lossy(&output.stderr));
        }
        made
    }

    fn config_text(&self, own: usize, cluster: &str) -> String {
        let mut text = format!(
            "cluster_id = \"{cluster}\"\nnode_id = {own}\ndata_dir = \"data-{own}\"\n\
             bind = \"{}\"\npin_cores = false\nlimits.arena_bytes_per_shard = \"16 MiB\"\n\
             wal.segments_ahead = 1\n",
            self.ip(own)
        );
        for node in 1..=self.nodes.len() {
            let ip = self.ip(node);
            text += &format!(
                "[[nodes]]\nid = {node}\nhost = \"{ip}\"\nclient_port = {CLIENT_PORT}\n\
                 peer_port = {PEER_PORT}\n"
            );
        }
        text
    }

    pub(crate) fn ip(&self, node: usize) -> Ipv4Addr {
        let last = u8::try_from(node).expect("a few nodes");
        Ipv4Addr::new(127, self.subnet[0], self.subnet[1], last)
    }

    pub(crate) fn client_address(&self, node: usize) -> String {
        format!("{}:{CLIENT_PORT}", self.ip(node))
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        (1..=self.nodes.len()).map(|node| self.client_address(node)).collect()
    }

    fn config(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("node-{node}.toml"))
    }

    fn log(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("node-{node}.log"))
    }

    /// The directory of the node's only shard.
    pub(crate) fn shard_dir(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("data-{node}/shard-00"))
    }

    /// Starts a node; it may take a moment until it serves.
    pub(crate) fn start(&mut self, node: usize) {
        self.start_with(node, |_| ());
    }

    /// As [`Cluster::start`], in a process that `prepare` has its way with.
    pub(crate) fn start_with(&mut self, node: usize, prepare: impl FnOnce(&mut Command)) {
        assert!(self.nodes[node - 1].is_none(), "node {node} runs");
        let log = fs::File::options().create(true).append(true).open(self.log(node));
        let mut log = log.expect("our own directory");
        writeln!(log, "--- start").expect("our own file");
        let mut command = program();
        command.args(["serve", "--config"]).arg(self.config(node)).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("our own file")).stderr(log);
        prepare(&mut command);
        self.nodes[node - 1] = Some(command.spawn().expect("the program starts"));
    }

    pub(crate) fn start_all(&mut self) {
        for node in 1..=self.nodes.len() {
            self.start(node);
        }
    }

    /// `kill -9`, and gone when this returns.
    pub(crate) fn kill(&mut self, node: usize) {
        let mut child = self.nodes[node - 1].take().expect("it runs");
        child.kill().expect("our own child");
        let status = child.wait().expect("our own child");
        assert_eq!(status.code(), None, "node {node} ended by itself:\n{}", self.tail(node));
    }

    /// SIGTERM; it ends cleanly.
    pub(crate) fn stop(&mut self, node: usize) {
        let child = self.nodes[node - 1].as_ref().expect("it runs");
        let id = child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().expect("kill is there");
        assert!(sent.success());
        let status = self.wait_end(node);
        assert_eq!(status.code(), Some(0), "{}", self.tail(node));
    }

    /// Waits until the node has ended by itself.
    pub(crate) fn wait_end(&mut self, node: usize) -> ExitStatus {
        let mut child = self.nodes[node - 1].take().expect("it was started");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().expect("our own child") {
                return status;
            }
            if deadline < Instant::now() {
                let _ = child.kill();
                let _ = child.wait();
                panic!("node {node} did not end:\n{}", self.tail(node));
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// What the node has said since its last start.
    pub(crate) fn tail(&self, node: usize) -> String {
        let log = fs::read(self.log(node)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        log.rsplit("--- start\n").next().unwrap_or_default().to_owned()
    }

    /// A connection to the cluster, once somebody answers.
    pub(crate) fn client(&self) -> Client {
        let options = Options {
            connect_timeout: PATIENCE,
            request_timeout: Duration::from_secs(2),
            ..Options::default()
        };
        Client::connect(&self.addresses(), options).unwrap_or_else(|error| {
            let logs: Vec<_> = (1..=self.nodes.len()).map(|node| self.tail(node)).collect();
            panic!("{error}\n{}", logs.join("\n"));
        })
    }

    /// The node that leads, once all running nodes agree who that is.
    pub(crate) fn leader(&self) -> usize {
        let what = "all nodes to follow one leader";
        self.wait_for(what, || {
            let mut leaders: Vec<u64> = Vec::new();
            for node in self.running() {
                leaders.push(self.group_fact(node, "leader")?);
            }
            leaders.dedup();
            let leader = usize::try_from(*leaders.first()?).ok()?;
            (leaders.len() == 1 && self.running().any(|node| node == leader)).then_some(leader)
        })
    }

    fn running(&self) -> impl Iterator<Item = usize> + '_ {
        (1..=self.nodes.len()).filter(|node| self.nodes[node - 1].is_some())
    }

    /// The status text of a node, if it answers.
    pub(crate) fn status(&self, node: usize) -> Option<String> {
        let patience = Duration::from_secs(2);
        let options =
            Options { connect_timeout: patience, request_timeout: patience, ..Options::default() };
        status(&self.client_address(node), &options).ok()
    }

    /// The value of a counter or number in a node's status.
    pub(crate) fn counter(&self, node: usize, name: &str) -> u64 {
        let text = self.wait_for("a status", || self.status(node));
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect("a number")
    }

    /// A number in the line of the group, such as `commit` or `leader`.
    pub(crate) fn group_fact(&self, node: usize, name: &str) -> Option<u64> {
        let text = self.status(node)?;
        let prefix = format!("group.{GROUP} ");
        let line = text.lines().find_map(|line| line.strip_prefix(prefix.as_str()))?;
        let fact = line.split(' ').find_map(|fact| fact.strip_prefix(name)?.strip_prefix('='));
        Some(fact?.parse().expect("a number"))
    }

    /// Waits until every running node knows the same commit index, and it is at least `least`.
    pub(crate) fn wait_level(&self, least: u64) {
        self.wait_for(&format!("all nodes to reach commit {least}"), || {
            let commits: Option<Vec<u64>> =
                self.running().map(|node| self.group_fact(node, "commit")).collect();
            let commits = commits?;
            (commits.iter().all(|c| *c == commits[0]) && commits[0] >= least).then_some(())
        });
    }

    /// Asks until there is an answer, and fails with everything the nodes said when there is none.
    pub(crate) fn wait_for<T>(&self, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            if deadline < Instant::now() {
                let logs: Vec<_> = (1..=self.nodes.len())
                    .map(|node| {
                        let status = self.status(node).unwrap_or_else(|| "no status".to_owned());
                        format!("--- node {node}:\n{}{status}", self.tail(node))
                    })
                    .collect();
                panic!("waited {PATIENCE:?} for {what}\n{}", logs.join("\n"));
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// Whether the node's process still runs.
    pub(crate) fn is_alive(&mut self, node: usize) -> bool {
        let child = self.nodes[node - 1].as_mut().expect("it was started");
        child.try_wait().expect("our own child").is_none()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The number of a node as the program's types have it.
pub(crate) fn node_id(node: usize) -> NodeId {
    NodeId::new(u16::try_from(node).expect("a few nodes"))
}

/// The real program.
pub(crate) fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_catamaran"))
}

/// The node's segment files by number, those that hold nothing yet included.
pub(crate) fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a shard's directory");
    let paths = entries.map(|entry| entry.expect("readable").path());
    let mut found: Vec<PathBuf> = paths
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8");
            name.starts_with("wal-segment-") && name.ends_with(".log")
        })
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no segments in {}", dir.display());
    found
}
