//! A cluster of real processes on loopback: made, started, killed, stopped, asked.
//!
//! Every node is `catamaran serve` with an address of its own in 127.0.0.0/8, so that clusters may
//! live side by side and port numbers need no luck. A node lives as long as its standard input,
//! which only this process holds: when we end, however we end, it ends. `tests/process/nodes.rs`
//! wraps this for the tests, where a failure is a panic. Does not know what a load is.

use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use catamaran::client::{Client, Options, status};
use catamaran::model::GroupId;

/// The one group of these clusters.
pub(crate) const GROUP: GroupId = GroupId::new(1);
pub(crate) const CLIENT_PORT: u16 = 7000;
pub(crate) const PEER_PORT: u16 = 7100;
/// How long anything that should happen may take, on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How long a status may take: a node that is stopped must not hold up the question to the others.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);
/// The pause between two questions.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// What a cluster is made of.
pub(crate) struct Plan<'a> {
    /// The program `catamaran`.
    pub(crate) program: &'a Path,
    /// An empty directory, which the caller removes.
    pub(crate) dir: &'a Path,
    /// How many nodes.
    pub(crate) size: usize,
    /// The cluster's id.
    pub(crate) id: &'a str,
    /// Further lines of each configuration.
    pub(crate) settings: &'a str,
}

/// The processes. Dropping it kills those that run.
pub(crate) struct Nodes {
    program: PathBuf,
    dir: PathBuf,
    subnet: [u8; 2],
    nodes: Vec<Option<Child>>,
}

/// How many clusters this process has made: part of their addresses.
static CLUSTERS: AtomicU32 = AtomicU32::new(0);

fn failed(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> String {
    move |error| format!("{what}: {error}")
}

impl Nodes {
    /// Formats the nodes; nothing runs yet.
    ///
    /// # Errors
    /// What the program or the file system said.
    pub(crate) fn format(plan: &Plan<'_>) -> Result<Self, String> {
        // Addresses are free if no other process of ours has them: processes that live at the same
        // time have different ids, and 127.16.0.0 to 127.255.255.255 has room for 61,440 of them.
        let number = std::process::id() * 8 + CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let place = number % (240 * 256);
        let subnet = [
            16 + u8::try_from(place / 256).expect("below 240"),
            u8::try_from(place % 256).expect("below 256"),
        ];
        let (program, dir) = (plan.program.to_owned(), plan.dir.to_owned());
        let made = Self { program, dir, subnet, nodes: (0..plan.size).map(|_| None).collect() };
        for node in made.all() {
            let config = made.config(node);
            fs::write(&config, made.config_text(node, plan)).map_err(failed(config.display()))?;
            let output =
                Command::new(plan.program).args(["init", "--config"]).arg(&config).output();
            let output = output.map_err(failed(plan.program.display()))?;
            if !output.status.success() {
                return Err(format!("init: {}", String::from_utf8_lossy(&output.stderr)));
            }
        }
        Ok(made)
    }

    fn config_text(&self, own: usize, plan: &Plan<'_>) -> String {
        let mut text = format!(
            "cluster_id = \"{}\"\nnode_id = {own}\ndata_dir = \"data-{own}\"\n\
             bind = \"{}\"\npin_cores = false\n{}\n",
            plan.id,
            self.ip(own),
            plan.settings
        );
        for node in self.all() {
            let ip = self.ip(node);
            text += &format!(
                "[[nodes]]\nid = {node}\nhost = \"{ip}\"\nclient_port = {CLIENT_PORT}\n\
                 peer_port = {PEER_PORT}\n"
            );
        }
        text
    }

    /// Every node's number, from 1 on.
    pub(crate) fn all(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.nodes.len()
    }

    /// The nodes that were started and neither killed nor awaited.
    pub(crate) fn running(&self) -> impl Iterator<Item = usize> + '_ {
        self.all().filter(|node| self.nodes[node - 1].is_some())
    }

    pub(crate) fn ip(&self, node: usize) -> Ipv4Addr {
        let last = u8::try_from(node).expect("a few nodes");
        Ipv4Addr::new(127, self.subnet[0], self.subnet[1], last)
    }

    pub(crate) fn client_address(&self, node: usize) -> String {
        format!("{}:{CLIENT_PORT}", self.ip(node))
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.all().map(|node| self.client_address(node)).collect()
    }

    fn config(&self, node: usize) -> PathBuf {
        self.dir.join(format!("node-{node}.toml"))
    }

    /// The directory of the node's only shard.
    pub(crate) fn shard_dir(&self, node: usize) -> PathBuf {
        self.dir.join(format!("data-{node}/shard-00"))
    }

    fn log(&self, node: usize) -> PathBuf {
        self.dir.join(format!("node-{node}.log"))
    }

    /// Starts a node in a process that `prepare` has its way with; it may take a moment until it
    /// serves.
    ///
    /// # Errors
    /// What the operating system said.
    ///
    /// # Panics
    /// If it runs.
    pub(crate) fn start_with(
        &mut self,
        node: usize,
        prepare: impl FnOnce(&mut Command),
    ) -> Result<(), String> {
        assert!(self.nodes[node - 1].is_none(), "node {node} runs");
        let path = self.log(node);
        let log = fs::File::options().create(true).append(true).open(&path);
        let mut log = log.map_err(failed(path.display()))?;
        writeln!(log, "--- start").map_err(failed(path.display()))?;
        let mut command = Command::new(&self.program);
        command.args(["serve", "--until-stdin-closes", "--config"]).arg(self.config(node));
        // A group of its own: Ctrl-C is for us, and we end what we started.
        command.stdin(Stdio::piped()).process_group(0);
        command.stdout(log.try_clone().map_err(failed(path.display()))?).stderr(log);
        prepare(&mut command);
        let child = command.spawn().map_err(failed(self.program.display()))?;
        self.nodes[node - 1] = Some(child);
        Ok(())
    }

    fn child(&self, node: usize) -> &Child {
        self.nodes[node - 1].as_ref().expect("it was started")
    }

    /// The process number of a node that was started.
    pub(crate) fn pid(&self, node: usize) -> u32 {
        self.child(node).id()
    }

    /// The most resident memory that a node's process ever had.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub(crate) fn peak_bytes(&self, node: usize) -> Result<u64, String> {
        let path = format!("/proc/{}/status", self.pid(node));
        let text = fs::read_to_string(&path).map_err(failed(&path))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.map(|kib| kib << 10).ok_or_else(|| format!("{path} has no VmHWM"))
    }

    /// `kill -9`, and gone when this returns.
    ///
    /// # Errors
    /// It had ended by itself.
    pub(crate) fn kill(&mut self, node: usize) -> Result<(), String> {
        let mut child = self.nodes[node - 1].take().expect("it was started");
        // Our own child, not waited for yet: there is somebody to send it to.
        let _ = child.kill();
        let status = child.wait().map_err(failed("wait"))?;
        if status.code().is_some() {
            return Err(format!("node {node} ended by itself, {status}:\n{}", self.tail(node)));
        }
        Ok(())
    }

    /// Sends a signal by its name: STOP, CONT, TERM.
    ///
    /// # Errors
    /// It could not be sent.
    pub(crate) fn signal(&self, node: usize, signal: &str) -> Result<(), String> {
        let id = self.pid(node).to_string();
        let sent = Command::new("kill").args(["-s", signal, &id]).status();
        let sent = sent.map_err(failed("kill"))?;
        if sent.success() { Ok(()) } else { Err(format!("kill -s {signal} {id}: {sent}")) }
    }

    /// Waits until the node has ended by itself.
    ///
    /// # Errors
    /// It does not, and was killed.
    pub(crate) fn wait_end(&mut self, node: usize) -> Result<ExitStatus, String> {
        let mut child = self.nodes[node - 1].take().expect("it was started");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().map_err(failed("wait"))? {
                return Ok(status);
            }
            if deadline < Instant::now() {
                let _ = child.kill(); // Our own child, not waited for yet: it cannot fail.
                let _ = child.wait();
                return Err(format!("node {node} did not end:\n{}", self.tail(node)));
            }
            sleep(ASK_EVERY);
        }
    }

    /// Whether the node's process still runs.
    pub(crate) fn is_alive(&mut self, node: usize) -> bool {
        let child = self.nodes[node - 1].as_mut().expect("it was started");
        matches!(child.try_wait(), Ok(None))
    }

    /// What the node has said since its last start.
    pub(crate) fn tail(&self, node: usize) -> String {
        let log = fs::read(self.log(node)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        log.rsplit("--- start\n").next().unwrap_or_default().to_owned()
    }

    /// A connection to the cluster, once somebody answers.
    ///
    /// # Errors
    /// Nobody does.
    pub(crate) fn client(&self) -> Result<Client, String> {
        let options = Options {
            connect_timeout: PATIENCE,
            request_timeout: Duration::from_secs(2),
            ..Options::default()
        };
        Client::connect(&self.addresses(), options)
            .map_err(|error| format!("{error}\n{}", self.stories()))
    }

    /// The status text of a node, if it answers.
    pub(crate) fn status(&self, node: usize) -> Option<String> {
        let options = Options {
            connect_timeout: STATUS_PATIENCE,
            request_timeout: STATUS_PATIENCE,
            ..Options::default()
        };
        status(&self.client_address(node), &options).ok()
    }

    /// The value of a counter or number in a node's status.
    ///
    /// # Errors
    /// It does not answer, or has no such number.
    pub(crate) fn counter(&self, node: usize, name: &str) -> Result<u64, String> {
        let text = self.wait_for("a status", || self.status(node))?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = value.and_then(|value| value.parse().ok());
        value.ok_or_else(|| format!("no number {name} in {text}"))
    }

    /// A number in the line of the group, such as `commit` or `leader`.
    pub(crate) fn group_fact(&self, node: usize, name: &str) -> Option<u64> {
        let text = self.status(node)?;
        let prefix = format!("group.{GROUP} ");
        let line = text.lines().find_map(|line| line.strip_prefix(prefix.as_str()))?;
        let fact = line.split(' ').find_map(|fact| fact.strip_prefix(name)?.strip_prefix('='));
        fact?.parse().ok()
    }

    /// The node that leads, once all of `nodes` agree who that is, and it is one of them.
    ///
    /// # Errors
    /// They do not.
    pub(crate) fn leader_of(&self, nodes: &[usize]) -> Result<usize, String> {
        self.wait_for("all nodes to follow one leader", || {
            let leaders: Option<Vec<u64>> =
                nodes.iter().map(|node| self.group_fact(*node, "leader")).collect();
            let mut leaders = leaders?;
            leaders.dedup();
            let leader = usize::try_from(*leaders.first()?).ok()?;
            (leaders.len() == 1 && nodes.contains(&leader)).then_some(leader)
        })
    }

    /// Waits until every running node knows the same commit index, and it is at least `least`.
    ///
    /// # Errors
    /// They do not.
    pub(crate) fn wait_level(&self, least: u64) -> Result<(), String> {
        self.wait_for(&format!("all nodes to reach commit {least}"), || {
            let commits: Option<Vec<u64>> =
                self.running().map(|node| self.group_fact(node, "commit")).collect();
            let commits = commits?;
            (commits.iter().all(|c| *c == commits[0]) && commits[0] >= least).then_some(())
        })
    }

    /// Asks until there is an answer.
    ///
    /// # Errors
    /// There is none in time; with everything the nodes said.
    pub(crate) fn wait_for<T>(
        &self,
        what: &str,
        mut ask: impl FnMut() -> Option<T>,
    ) -> Result<T, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = ask() {
                return Ok(answer);
            }
            if deadline < Instant::now() {
                return Err(format!("waited {PATIENCE:?} for {what}\n{}", self.stories()));
            }
            sleep(ASK_EVERY);
        }
    }

    /// What each node said, and its status.
    fn stories(&self) -> String {
        let story = |node| {
            let status = self.status(node).unwrap_or_else(|| "no status".to_owned());
            format!("--- node {node}:\n{}{status}", self.tail(node))
        };
        self.all().map(story).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
