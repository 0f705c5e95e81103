//! The hidden subcommand: one node of the embedded cluster, in a process of its own.
//!
//! The same `runtime` that `catamaran serve` starts, from the same kind of configuration file. What
//! differs is how it ends: with its standard input. A byte there means that the parent wants it
//! to stop; the end of input without one means that the parent is gone, and then the node's files
//! go too, for nobody else knows of them.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process;
use std::thread;

use catamaran::base::Prng;
use catamaran::config::{Config, Problems, Profile};
use catamaran::model::ClusterId;
use catamaran::runtime::{self, Drainer, Node, NodeConfig};
use clap::Parser;
use serde::Serialize;

use crate::args::Embedded;
use crate::failure::{Exit, Failure};
use crate::progress;

/// What stands before the child's own arguments.
pub(crate) const SUBCOMMAND: &str = "node";
/// What the parent writes to stop a child.
pub(crate) const STOP: &[u8] = b"q";

/// What the parent passes on.
#[derive(Debug, Parser)]
#[command(name = "loadgen node", about = "One node of the embedded cluster. Not for people.")]
pub(crate) struct NodeArgs {
    #[arg(long)]
    config: PathBuf,
    #[arg(long)]
    profile: Option<String>,
    #[arg(long)]
    segments_at_start: u32,
}

/// The configuration file of one node.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct NodeFile {
    cluster_id: String,
    pub(crate) node_id: u16,
    pub(crate) data_dir: PathBuf,
    bind: &'static str,
    allow_buffered: bool,
    shards: u16,
    groups: u32,
    /// Several nodes share the cores: pinned, the first shards of all would sit on the same one.
    pin_cores: bool,
    nodes: Vec<NodeEntry>,
}

#[derive(Clone, Debug, Serialize)]
struct NodeEntry {
    id: u16,
    host: &'static str,
    client_port: u16,
    peer_port: u16,
}

impl NodeFile {
    /// The file's text.
    pub(crate) fn to_toml(&self) -> String {
        toml::to_string(self).expect("plain values in tables are TOML")
    }

    /// Where clients find it.
    pub(crate) fn own_address(&self) -> String {
        let own = self.nodes.iter().find(|node| node.id == self.node_id);
        let own = own.expect("`files` lists every node in every file");
        format!("{}:{}", own.host, own.client_port)
    }
}

/// The files of all nodes; `ports` are the first client and peer port of each.
pub(crate) fn files(
    embedded: &Embedded,
    ports: &[(u16, u16)],
    directory: &Path,
    run: u64,
) -> Vec<NodeFile> {
    let mut chance = Prng::new(run);
    let mut cluster_id = [0; 16];
    cluster_id[..8].copy_from_slice(&chance.next_u64().to_le_bytes());
    cluster_id[8..].copy_from_slice(&chance.next_u64().to_le_bytes());
    let nodes: Vec<NodeEntry> = (1..)
        .zip(ports)
        .map(|(id, (client_port, peer_port))| NodeEntry {
            id,
            host: "127.0.0.1",
            client_port: *client_port,
            peer_port: *peer_port,
        })
        .collect();
    let file = |node: &NodeEntry| NodeFile {
        cluster_id: ClusterId::new(cluster_id).to_string(),
        node_id: node.id,
        data_dir: directory.join(format!("node-{}", node.id)),
        bind: "127.0.0.1",
        allow_buffered: embedded.allow_buffered,
        shards: embedded.shards,
        groups: embedded.groups,
        pin_cores: false,
        nodes: nodes.clone(),
    };
    nodes.iter().map(file).collect()
}

fn bad(problems: &Problems) -> Failure {
    let line = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    Failure::new(Exit::BadArguments, line)
}

fn profile(name: Option<&str>) -> Result<Option<Profile>, Failure> {
    name.map(Profile::find).transpose().map_err(|problems| bad(&problems))
}

/// What the children will make of their files: wrong profiles are found before any child runs.
///
/// # Errors
/// There is no such profile, or it does not go with the rest.
pub(crate) fn config_of(file: &NodeFile, profile_name: Option<&str>) -> Result<Config, Failure> {
    Config::parse("the embedded node's configuration", &file.to_toml(), profile(profile_name)?)
        .map_err(|problems| bad(&problems))
}

/// Runs the node until its parent wants it to stop.
///
/// # Errors
/// It cannot start, or the device failed.
pub(crate) fn run(args: &NodeArgs) -> Result<(), Failure> {
    let profile = profile(args.profile.as_deref())?;
    let config = Config::load(&args.config, profile).map_err(|problems| bad(&problems))?;
    let config =
        NodeConfig { segments_at_start: args.segments_at_start, ..NodeConfig::from(&config) };
    let code = |code: runtime::ExitCode| Exit::from_child(code.code());
    runtime::format(&config)
        .map_err(|error| Failure::new(code(error.exit_code()), error.to_string()))?;
    let data_dir = config.data_dir.clone();
    let node = Node::start(config)
        .map_err(|error| Failure::new(code(error.exit_code()), error.to_string()))?;
    let drainer = node.drainer();
    thread::spawn(move || follow_parent(&data_dir, &drainer));
    for event in node.events() {
        progress::log(&event);
    }
    node.join().map_err(|error| Failure::new(code(error.exit_code()), error.to_string()))
}

/// Waits for the parent's word or its end.
fn follow_parent(data_dir: &Path, drainer: &Drainer) {
    let mut word = [0; 1];
    if matches!(std::io::stdin().read(&mut word), Ok(1)) {
        return drainer.drain();
    }
    let _ = std::fs::remove_dir_all(data_dir);
    if let Some(directory) = data_dir.parent() {
        // The last child finds nothing else left but the configurations and logs.
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let _ = std::fs::remove_file(entry.path());
        }
        let _ = std::fs::remove_dir(directory);
    }
    process::exit(i32::from(Exit::Interrupted.code()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_what_the_config_room_accepts() {
        let embedded = Embedded {
            nodes: 3,
            shards: 2,
            groups: 64,
            dir: PathBuf::from("."),
            profile: None,
            allow_buffered: false,
        };
        let ports = [(20_000, 20_100), (20_200, 20_300), (20_400, 20_500)];
        let files = files(&embedded, &ports, Path::new("/tmp/a \"quoted\" place"), 7);
        for (id, file) in (1..).zip(&files) {
            let config = Config::parse("test", &file.to_toml(), None).expect("valid");
            let node = NodeConfig::from(&config);
            assert_eq!((node.node.get(), node.shards, node.groups), (id, 2, 64));
            assert_eq!(node.own_address().client_port_base, ports[usize::from(id) - 1].0);
            assert!(!node.pin_cores);
            node.check().expect("the runtime takes it too");
        }
        assert_eq!(files[2].own_address(), "127.0.0.1:20400");
    }
}
