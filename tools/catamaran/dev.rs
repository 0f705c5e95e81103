//! `dev`: a whole cluster on this machine, one child process for each node.
//!
//! Children, not threads, so that a node can be killed, watched and started by hand like a real
//! one. What a cluster consists of is in `dev::layout`, its processes are in `dev::children`.

mod children;
mod layout;

use core::time::Duration;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use catamaran::runtime;

use serde_json::json;

use crate::args::DevArguments;
use crate::failure::Failure;
use crate::terminal::{self, Level};
use children::Child;
use layout::Cluster;

/// A node that does not listen by then will not: recovery of a full log takes seconds.
const READY_DEADLINE: Duration = Duration::from_secs(120);
/// How often children and ports are looked at while waiting.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Runs the cluster until SIGTERM or Ctrl-C.
pub(crate) fn run(arguments: &DevArguments) -> Result<(), Failure> {
    // Before any child exists, so that no signal can fall between.
    let signals = Signals::take()?;
    let cluster = Cluster::open_or_create(arguments)?;
    let mut children = Vec::new();
    let result = start(arguments, &cluster, &mut children)
        .and_then(|()| wait_until_ready(&cluster, &mut children, &signals));
    let result = match result {
        Ok(Ready::Serving) => {
            announce(arguments, &cluster, &children);
            watch(&mut children, &signals);
            Ok(())
        }
        Ok(Ready::Interrupted) => Ok(()),
        Err(failure) => Err(failure),
    };
    let stopped = children::stop_all(&mut children, &signals);
    result.and(stopped)
}

fn start(
    arguments: &DevArguments,
    cluster: &Cluster,
    children: &mut Vec<Child>,
) -> Result<(), Failure> {
    for node in &cluster.nodes {
        children.push(Child::spawn(node, arguments)?);
    }
    Ok(())
}

/// SIGINT and SIGTERM of this process, to be waited for. One per process.
struct Signals(Receiver<()>);

impl Signals {
    /// From now on the two signals wait until they are asked for.
    fn take() -> Result<Self, Failure> {
        let (told, waiting) = channel();
        let on_signal = move || {
            // Without a receiver the process is at its end already.
            let _ = told.send(());
        };
        runtime::on_termination(on_signal).map_err(|error| {
            Failure::environment(format!("cannot start a thread: {error}: check the limits"))
        })?;
        Ok(Self(waiting))
    }

    /// Waits for one of them, at most this long. Whether one came.
    fn wait(&self, timeout: Duration) -> bool {
        self.0.recv_timeout(timeout).is_ok()
    }
}

enum Ready {
    Serving,
    Interrupted,
}

fn wait_until_ready(
    cluster: &Cluster,
    children: &mut [Child],
    signals: &Signals,
) -> Result<Ready, Failure> {
    let deadline = now() + READY_DEADLINE;
    for node in &cluster.nodes {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, node.client_port));
        while TcpStream::connect_timeout(&address, LOOK_EVERY).is_err() {
            for child in &mut *children {
                if let Some(end) = child.ended() {
                    let line = format!("node {} did not start: {end}", child.node);
                    return Err(Failure::of_child(end.code.unwrap_or(5), line));
                }
            }
            if signals.wait(LOOK_EVERY) {
                return Ok(Ready::Interrupted);
            }
            if now() > deadline {
                return Err(Failure::environment(format!(
                    "node {} does not listen on {address} after {} s: see {}",
                    node.id,
                    READY_DEADLINE.as_secs(),
                    node.log.display()
                )));
            }
        }
    }
    Ok(Ready::Serving)
}

#[expect(clippy::disallowed_methods, reason = "a program that waits for others needs a clock")]
fn now() -> Instant {
    Instant::now()
}

fn announce(arguments: &DevArguments, cluster: &Cluster, children: &[Child]) {
    let endpoint = |port| format!("127.0.0.1:{port}");
    let all: Vec<String> = cluster.nodes.iter().map(|node| endpoint(node.client_port)).collect();
    let all = all.join(",");
    let nodes = cluster.nodes.iter().zip(children);
    let lines = if arguments.json {
        let nodes = nodes.map(|(node, child)| {
            json!({
                "id": node.id,
                "client": endpoint(node.client_port),
                "pid": child.pid(),
                "config": node.config.display().to_string(),
                "log": node.log.display().to_string(),
            })
        });
        let nodes: Vec<serde_json::Value> = nodes.collect();
        json!({
            "dir": cluster.dir.display().to_string(),
            "shards": cluster.shards,
            "groups": cluster.groups,
            "connect": all,
            "nodes": nodes,
        })
        .to_string()
    } else {
        let mut lines = format!(
            "{} node(s), {} shard(s), group(s) 1 to {}, all in {}\n",
            cluster.nodes.len(),
            cluster.shards,
            cluster.groups,
            cluster.dir.display()
        );
        for (node, child) in nodes {
            lines.push_str(&format!(
                "  node {}  clients {}  pid {}  log {}\n",
                node.id,
                endpoint(node.client_port),
                child.pid(),
                node.log.display()
            ));
        }
        lines.push_str(&format!("try   catamaran append --connect {all} --group 1 hello\n"));
        lines.push_str(&format!("      catamaran read --connect {all} --group 1\n"));
        lines.push_str("stop  Ctrl-C");
        lines
    };
    // Whoever closed stdout does not want to know; the cluster runs all the same.
    let _ = terminal::result(lines);
}

/// Waits for the signal to stop. A node that ends in the meantime is reported and left to the
/// user, who may have killed it to see what happens.
fn watch(children: &mut [Child], signals: &Signals) {
    let mut reported = vec![false; children.len()];
    while !signals.wait(LOOK_EVERY) {
        for (child, reported) in children.iter_mut().zip(&mut reported) {
            if *reported {
                continue;
            }
            if let Some(end) = child.ended() {
                *reported = true;
                let again = format!("catamaran serve --config {}", child.config.display());
                let facts: [(&str, &dyn core::fmt::Display); 3] =
                    [("node", &child.node), ("end", &end), ("start_again", &again)];
                terminal::event(Level::Warn, "node_ended", &facts);
            }
        }
    }
}
