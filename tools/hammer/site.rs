//! What every subcommand needs: a running cluster in a temporary directory, progress, the end.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::account::{Audit, Ledger, read_log};
use crate::cluster::{Nodes, Plan};
use crate::progress::Progress;
use crate::report::Report;
use crate::system;

/// Nodes of every cluster here.
const SIZE: usize = 3;
const CLUSTER: &str = "5b0f3a86-91d7-4c2e-b6a4-2f8d1c7e9305";

/// A directory that is removed with this value.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running cluster.
pub(crate) struct Site {
    pub(crate) nodes: Nodes,
    /// Removed when the processes are gone.
    _scratch: Scratch,
}

/// A program that lies beside this one.
///
/// # Errors
/// It does not.
pub(crate) fn program(name: &str) -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| format!("this program's file: {error}"))?;
    let found = own.with_file_name(name);
    if found.is_file() {
        return Ok(found);
    }
    Err(format!("{} is missing: cargo build --release --bins", found.display()))
}

/// Whether somebody wants us to stop.
///
/// # Errors
/// Yes.
pub(crate) fn go_on() -> Result<(), String> {
    if system::stopped() { Err("stopped from outside".to_owned()) } else { Ok(()) }
}

/// Sleeps, unless somebody wants us to stop.
///
/// # Errors
/// Somebody does.
pub(crate) fn rest(duration: Duration) -> Result<(), String> {
    let until = std::time::Instant::now() + duration;
    while std::time::Instant::now() < until {
        go_on()?;
        let left = until.saturating_duration_since(std::time::Instant::now());
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
    Ok(())
}

impl Site {
    /// Starts three nodes with further `settings`, and waits until they follow one leader.
    ///
    /// # Errors
    /// They cannot be started.
    pub(crate) fn open(dir: &Path, settings: &str) -> Result<Self, String> {
        let name = format!("hammer-{}-{}", std::process::id(), unique());
        let path = dir.join(name);
        fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let scratch = Scratch(path.clone());
        let program = program("catamaran")?;
        let plan = Plan { program: &program, dir: &path, size: SIZE, id: CLUSTER, settings };
        let mut site = Self { nodes: Nodes::format(&plan)?, _scratch: scratch };
        site.start_all()?;
        site.leader()?;
        Ok(site)
    }

    /// Starts every node that does not run.
    ///
    /// # Errors
    /// One cannot be started.
    pub(crate) fn start_all(&mut self) -> Result<(), String> {
        let running: Vec<usize> = self.nodes.running().collect();
        for node in self.nodes.all().filter(|node| !running.contains(node)) {
            self.nodes.start_with(node, |_| ())?;
        }
        Ok(())
    }

    /// The leader that all running nodes follow.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn leader(&self) -> Result<usize, String> {
        let running: Vec<usize> = self.nodes.running().collect();
        self.nodes.leader_of(&running)
    }

    /// A node that does not lead.
    ///
    /// # Errors
    /// There is no leader.
    pub(crate) fn follower(&self) -> Result<usize, String> {
        Ok(self.leader()? % SIZE + 1)
    }

    /// The sum of a counter over all running nodes.
    ///
    /// # Errors
    /// One does not answer.
    pub(crate) fn sum(&self, counter: &str) -> Result<u64, String> {
        self.nodes.running().map(|node| self.nodes.counter(node, counter)).sum()
    }

    /// Settles accounts: reads the log, compares, waits until all nodes have it, and stops them.
    ///
    /// # Errors
    /// The log cannot be read, or a node does not catch up, has ended, or does not end well.
    pub(crate) fn settle(
        &mut self,
        ledger: &Ledger,
        progress: &mut Progress,
    ) -> Result<Audit, String> {
        progress.now(|| "reading the log back".to_owned());
        let log = read_log(&self.nodes.client()?)?;
        let audit = ledger.audit(&log);
        self.nodes.wait_level(log.last().map_or(0, |(index, _)| index.get()))?;
        for node in self.nodes.all() {
            if !self.nodes.is_alive(node) {
                return Err(format!("node {node} ended:\n{}", self.nodes.tail(node)));
            }
        }
        self.stop()?;
        Ok(audit)
    }

    /// Stops every node in good order.
    ///
    /// # Errors
    /// One does not end well.
    pub(crate) fn stop(&mut self) -> Result<(), String> {
        for node in self.nodes.all() {
            self.nodes.signal(node, "TERM")?;
        }
        for node in self.nodes.all() {
            let status = self.nodes.wait_end(node)?;
            if !status.success() {
                return Err(format!("node {node}, {status}:\n{}", self.nodes.tail(node)));
            }
        }
        Ok(())
    }
}

/// A number that this process has not had before.
fn unique() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What several audits came to.
#[derive(Debug, Default)]
pub(crate) struct Balance {
    acked: u64,
    unknown: u64,
    found: u64,
    lost: u64,
    duplicated: u64,
    wrong: u64,
    words: Option<String>,
}

impl Balance {
    pub(crate) fn add(&mut self, ledger: &Ledger, audit: &Audit) {
        self.acked += ledger.done.len() as u64;
        self.unknown += ledger.unknown.len() as u64;
        self.found += audit.found;
        self.lost += audit.lost.len() as u64;
        self.duplicated += audit.duplicated.len() as u64;
        self.wrong += audit.wrong.len() as u64;
        if !audit.is_good() {
            self.words.get_or_insert_with(|| audit.words());
        }
    }

    pub(crate) fn report(self, report: &mut Report) {
        report.at_most("acknowledged records lost", (self.lost as f64, 0.0), "records");
        report.at_most("records duplicated", (self.duplicated as f64, 0.0), "records");
        report.at_most("records that must not be there", (self.wrong as f64, 0.0), "records");
        report.at_least("records acknowledged", (self.acked as f64, 1.0), "records");
        report.fact("records in the log", self.found as f64, "records");
        report.fact("records of unknown outcome", self.unknown as f64, "records");
        if let Some(words) = self.words {
            report.note(words);
        }
    }
}
