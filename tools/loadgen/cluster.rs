//! A cluster of our own: child processes, their directories, and their end.
//!
//! Each child is this program again with the hidden subcommand `node` (see `node`), because
//! `cargo run --bin loadgen` builds no other. A child lives as long as its standard input: when
//! we end, however we end, it sees the end of input, stops and removes its files. Does not know
//! what a load is.

use std::fs::{self, DirBuilder, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use catamaran::base::Prng;
use catamaran::model::ClusterId;
use catamaran::model::limits::SEGMENT_BYTES;

use crate::args::Embedded;
use crate::budget::Need;
use crate::dialogue::Dialogue;
use crate::failure::{Exit, Failure};
use crate::node::{self, NodeFile};

/// How long children may take to go by themselves before they are killed.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// Ports are taken from here: below the range that kernels give to outgoing connections.
const PORTS: std::ops::Range<u64> = 20_000..32_000;
const PORT_ATTEMPTS: u32 = 200;
/// How much of a child's log is looked at for its last words.
const LAST_WORDS_BYTES: u64 = 4096;

/// A running cluster. Dropping it ends the children and removes the files.
#[derive(Debug)]
pub(crate) struct Cluster {
    directory: PathBuf,
    nodes: Vec<NodeProcess>,
    shards: u16,
    /// Block writes that each shard keeps at the device.
    pub(crate) writes_in_flight: u32,
}

#[derive(Debug)]
struct NodeProcess {
    child: Child,
    data: PathBuf,
    log: PathBuf,
    address: String,
    /// Set once it was waited for: its number may belong to somebody else from then on.
    ended: bool,
}

/// A free stretch of ports, held until the listeners are dropped.
fn reserve(count: u16, chance: &mut Prng) -> Result<(u16, Vec<TcpListener>), Failure> {
    for _ in 0..PORT_ATTEMPTS {
        let base = chance.between(PORTS.start, PORTS.end - u64::from(count));
        let base = u16::try_from(base).expect("PORTS ends below 2^16");
        let held: Result<Vec<_>, _> = (base..base + count)
            .map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)))
            .collect();
        if let Ok(held) = held {
            return Ok((base, held));
        }
    }
    Err(Failure::new(
        Exit::Environment,
        format!("no {count} free ports beside each other on 127.0.0.1: stop what listens there"),
    ))
}

impl Cluster {
    /// Starts the processes. They are not ready yet: see [`Cluster::wait_for_segments`] and
    /// `Control::wait_for_leaders`.
    ///
    /// # Errors
    /// No directory, no ports, no processes.
    pub(crate) fn start(embedded: &Embedded, need: &Need, run: u64) -> Result<Self, Failure> {
        let directory = embedded.dir.join(format!("loadgen-{}-{run:016x}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&directory).map_err(|error| {
            Failure::new(
                Exit::Environment,
                format!(
                    "cannot make a directory in {}: {error}: choose another with --dir",
                    embedded.dir.display()
                ),
            )
        })?;
        // From here on, dropping the cluster removes the directory.
        let directory = fs::canonicalize(&directory)
            .map_err(|error| Failure::io(directory.display(), &error))?;
        let (shards, writes_in_flight) = (embedded.shards, 0);
        let mut cluster = Self { directory, nodes: Vec::new(), shards, writes_in_flight };
        let mut chance = Prng::new(run);
        let (mut ports, mut held) = (Vec::new(), Vec::new());
        for _ in 0..embedded.nodes {
            let (client, listeners) = reserve(embedded.shards, &mut chance)?;
            held.extend(listeners);
            let (peer, listeners) = reserve(embedded.shards, &mut chance)?;
            held.extend(listeners);
            ports.push((client, peer));
        }
        drop(held);
        let files = node::files(embedded, &ports, &cluster.directory, run);
        let config = node::config_of(&files[0], embedded.profile.as_deref())?;
        cluster.writes_in_flight = config.wal.writes_in_flight;
        for file in &files {
            let process = cluster.spawn(file, embedded, need)?;
            cluster.nodes.push(process);
        }
        Ok(cluster)
    }

    fn spawn(
        &self,
        file: &NodeFile,
        embedded: &Embedded,
        need: &Need,
    ) -> Result<NodeProcess, Failure> {
        let id = file.node_id;
        let path = self.directory.join(format!("node-{id}.toml"));
        let log = self.directory.join(format!("node-{id}.log"));
        let failed = |error| Failure::io(self.directory.display(), &error);
        fs::write(&path, file.to_toml()).map_err(failed)?;
        let output = File::create(&log).map_err(failed)?;
        let program = std::env::current_exe()
            .map_err(|error| Failure::io("cannot find this program's own file", &error))?;
        let mut command = Command::new(program);
        command.arg(node::SUBCOMMAND).arg("--config").arg(&path);
        command.arg("--segments-at-start").arg(need.segments_per_shard.to_string());
        if let Some(profile) = &embedded.profile {
            command.arg("--profile").arg(profile);
        }
        // A group of their own, so that Ctrl-C reaches us first and we end them in order.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(output);
        let child = command.spawn().map_err(|error| Failure::io("cannot start a node", &error))?;
        Ok(NodeProcess {
            child,
            data: file.data_dir.clone(),
            log,
            address: file.own_address(),
            ended: false,
        })
    }

    /// Client addresses of all nodes.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address.clone()).collect()
    }

    /// Process numbers, in order of node ids.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.child.id()).collect()
    }

    /// Waits until every node answers at its client port.
    ///
    /// # Errors
    /// A node ended, or it takes longer than `patience`.
    pub(crate) fn wait_for_ports(&mut self, patience: Duration) -> Result<(), Failure> {
        let deadline = Instant::now() + patience;
        for at in 0..self.nodes.len() {
            let address = self.nodes[at].address.clone();
            let timeout = Duration::from_millis(500);
            while let Err(error) = Dialogue::open(&address, ClusterId::default(), timeout) {
                self.check()?;
                self.check_patience(deadline, || format!("{address} does not answer: {error}"))?;
            }
        }
        Ok(())
    }

    /// Waits until every shard has `segments` pre-written segment files. `progress` hears how
    /// many bytes there are.
    ///
    /// # Errors
    /// A node ended, or nothing new was written for as long as `patience`.
    pub(crate) fn wait_for_segments(
        &mut self,
        segments: u32,
        patience: Duration,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Failure> {
        let wanted = u64::from(segments) * u64::from(self.shards) * self.nodes.len() as u64;
        let mut deadline = Instant::now() + patience;
        let mut before = 0;
        loop {
            let found = self.nodes.iter().map(|node| segments_below(&node.data)).sum();
            progress(found * SEGMENT_BYTES);
            if found >= wanted {
                return Ok(());
            }
            if found > before {
                before = found;
                deadline = Instant::now() + patience;
            }
            self.check()?;
            self.check_patience(deadline, || format!("{found} of {wanted} segments are there"))?;
        }
    }

    fn check_patience(
        &self,
        deadline: Instant,
        state: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if crate::system::stopped() {
            return Err(Failure::new(Exit::Interrupted, "stopped while the cluster was starting"));
        }
        if Instant::now() > deadline {
            let words = self.nodes.iter().find_map(|node| last_words(&node.log));
            return Err(Failure::new(
                Exit::Environment,
                format!(
                    "the embedded cluster does not get ready, {}; last log line: {}",
                    state(),
                    words.unwrap_or_else(|| "none".to_owned())
                ),
            ));
        }
        thread::sleep(Duration::from_millis(20));
        Ok(())
    }

    /// Looks whether all children still run.
    ///
    /// # Errors
    /// One does not; its last words and its exit code are passed on.
    pub(crate) fn check(&mut self) -> Result<(), Failure> {
        for (number, node) in (1..).zip(&mut self.nodes) {
            let Ok(Some(status)) = node.child.try_wait() else { continue };
            node.ended = true;
            let words = last_words(&node.log).unwrap_or_else(|| status.to_string());
            let exit = status.code().map_or(Exit::Io, Exit::from_child);
            return Err(Failure::new(exit, format!("node {number} ended: {words}")));
        }
        Ok(())
    }

    /// Asks the children to go, waits for them, removes everything.
    ///
    /// # Errors
    /// A child had to be killed or ended badly, or files could not be removed.
    pub(crate) fn stop(mut self) -> Result<(), Failure> {
        let mut result = Ok(());
        for node in &mut self.nodes {
            if let Some(mut input) = node.child.stdin.take() {
                let _ = input.write_all(node::STOP); // If it is gone, waiting for it tells.
            }
        }
        let deadline = Instant::now() + STOP_PATIENCE;
        for (number, node) in (1..).zip(&mut self.nodes) {
            match wait_until(&mut node.child, deadline) {
                Some(status) if status.success() => node.ended = true,
                Some(status) => {
                    node.ended = true;
                    let words = last_words(&node.log).unwrap_or_default();
                    let exit = status.code().map_or(Exit::Io, Exit::from_child);
                    result = Err(Failure::new(
                        exit,
                        format!("node {number} ended with {status}: {words}"),
                    ));
                }
                None => {
                    result = Err(Failure::new(
                        Exit::Io,
                        format!("node {number} did not stop when asked to and was killed"),
                    ));
                }
            }
        }
        drop(self);
        result
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if !node.ended {
                // Its own child, not yet waited for: the number is certainly still its.
                let _ = node.child.kill();
                let _ = node.child.wait();
            }
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn wait_until(child: &mut Child, deadline: Instant) -> Option<std::process::ExitStatus> {
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() > deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whole segment files in the shard directories below `data`; unfinished ones have other names.
fn segments_below(data: &Path) -> u64 {
    let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    entries(data)
        .flat_map(|shard| entries(&shard.path()).collect::<Vec<_>>())
        .filter(|file| {
            let name = file.file_name();
            catamaran::wal::SegmentNo::from_file_name(&name.to_string_lossy()).is_some()
        })
        .count() as u64
}

/// The last line that a child wrote.
fn last_words(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS_BYTES))).ok()?;
    let mut bytes = Vec::new();
    file.take(LAST_WORDS_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.strip_prefix("error: ").unwrap_or(line).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_held() {
        let mut chance = Prng::new(3);
        let (base, held) = reserve(3, &mut chance).expect("some are free");
        assert_eq!(held.len(), 3);
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, base + 1)).is_err(), "held until dropped");
    }

    #[test]
    fn last_words_are_the_last_line_with_something_on_it() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        assert_eq!(last_words(&log), None);
        fs::write(&log, "first\nerror: port 1 is in use\n\n").unwrap();
        assert_eq!(last_words(&log).as_deref(), Some("port 1 is in use"));
    }

    #[test]
    fn only_whole_segments_count() {
        let directory = tempfile::tempdir().unwrap();
        let shard = directory.path().join("shard-00");
        fs::create_dir(&shard).unwrap();
        for name in ["wal-segment-00000.log", "wal-segment-00001.log.new", "LOCK"] {
            fs::write(shard.join(name), "").unwrap();
        }
        assert_eq!(segments_below(directory.path()), 1);
        assert_eq!(segments_below(&directory.path().join("missing")), 0);
    }
}
