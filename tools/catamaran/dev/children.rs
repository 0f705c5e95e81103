//! The processes of a local cluster: started, watched, stopped.
//!
//! A child's stdin is a pipe that only this process holds. Closing it tells the child to stop in
//! good order, and the kernel closes it if this process dies, however it dies.

use core::fmt;
use core::time::Duration;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use super::layout::Node;
use super::{Signals, now};
use crate::args::DevArguments;
use crate::failure::Failure;
use crate::terminal::{self, Level};

/// How long a child may take to answer what it has and close its log.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// One running (or ended) node.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) node: u16,
    pub(super) config: PathBuf,
    log: PathBuf,
    process: std::process::Child,
}

/// How a node ended.
#[derive(Debug)]
pub(super) struct End {
    /// Its exit code; `None` if a signal ended it.
    pub(super) code: Option<i32>,
    status: ExitStatus,
    last_words: String,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.status.signal()) {
            (Some(code), _) => write!(f, "exit code {code}: {}", self.last_words),
            (None, Some(signal)) => write!(f, "killed by signal {signal}"),
            (None, None) => write!(f, "{}", self.status),
        }
    }
}

impl Child {
    /// Starts `node` by running this very program with `serve`.
    pub(super) fn spawn(node: &Node, arguments: &DevArguments) -> Result<Self, Failure> {
        let failed = |error: io::Error| {
            Failure::environment(format!("cannot start node {}: {error}", node.id))
        };
        let log = OpenOptions::new().create(true).append(true).open(&node.log).map_err(failed)?;
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.args(["serve", "--config"]).arg(&node.config);
        command.args(["--profile", &arguments.profile]);
        if arguments.allow_buffered {
            command.arg("--allow-buffered");
        }
        command.arg("--until-stdin-closes");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        // A group of its own, so that Ctrl-C reaches this process only, which then stops the nodes
        // in order.
        command.process_group(0);
        let process = command.spawn().map_err(failed)?;
        let (config, log) = (node.config.clone(), node.log.clone());
        Ok(Self { node: node.id, config, log, process })
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> Option<End> {
        let status = self.process.try_wait().ok().flatten()?;
        // Its log is read only to repeat the last line; if it is gone, so be it.
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let last_words = log.lines().last().unwrap_or("it said nothing").to_owned();
        let last_words = last_words.trim_start_matches("error: ").to_owned();
        Some(End { code: status.code(), status, last_words })
    }

    fn is_running(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }
}

/// Stops every child that still runs: asks all at once, waits, and kills what does not hear.
///
/// A second signal does not make it kill earlier: a node that is killed loses nothing that it
/// acknowledged, but the user who is in a hurry can kill this process.
pub(super) fn stop_all(children: &mut [Child], signals: &Signals) -> Result<(), Failure> {
    for child in children.iter_mut() {
        drop(child.process.stdin.take());
    }
    let deadline: Instant = now() + STOP_DEADLINE;
    let mut result = Ok(());
    for child in children.iter_mut() {
        while child.is_running() && now() < deadline {
            signals.wait(Duration::from_millis(10));
        }
        if child.is_running() {
            let facts: [(&str, &dyn fmt::Display); 1] = [("node", &child.node)];
            terminal::event(Level::Warn, "node_killed_after_deadline", &facts);
            // It ends by itself or by this; either way it is waited for below.
            let _ = child.process.kill();
            result = Err(Failure::of_child(
                5,
                format!(
                    "node {} did not stop in {} s: it was killed: see {}",
                    child.node,
                    { STOP_DEADLINE.as_secs() },
                    child.log.display()
                ),
            ));
        }
        let _ = child.process.wait();
    }
    result
}
