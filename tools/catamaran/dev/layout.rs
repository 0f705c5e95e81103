//! What a local cluster consists of: its directory, a configuration and a data directory a node.

use std::fs;
use std::path::{Path, PathBuf};

use catamaran::config::Config;
use catamaran::model::ClusterId;
use catamaran::runtime::{self, NodeConfig};

use crate::args::DevArguments;
use crate::failure::Failure;
use crate::node::load;

/// One node of the cluster.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: u16,
    pub(super) client_port: u16,
    pub(super) config: PathBuf,
    pub(super) log: PathBuf,
}

/// The cluster, as it is on disk.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) dir: PathBuf,
    pub(super) shards: u16,
    pub(super) groups: u32,
    pub(super) nodes: Vec<Node>,
}

const NODES_DEFAULT: u16 = 3;
const BASE_PORT_DEFAULT: u16 = 20_000;
const PORTS_PER_NODE: u16 = 1_000;

impl Cluster {
    /// The cluster that is in the directory, if it is the one that the arguments want; a new one
    /// if there is nothing.
    pub(super) fn open_or_create(arguments: &DevArguments) -> Result<Self, Failure> {
        fs::create_dir_all(&arguments.dir).map_err(|error| cannot(&arguments.dir, &error))?;
        let dir = arguments.dir.canonicalize().map_err(|error| cannot(&arguments.dir, &error))?;
        // Written last, so where it is the rest is too.
        if !config_path(&dir, 1).exists() {
            create(arguments, &dir)?;
        }
        Self::open(arguments, dir)
    }

    fn open(arguments: &DevArguments, dir: PathBuf) -> Result<Self, Failure> {
        let first = load(&config_path(&dir, 1), Some(&arguments.profile))?;
        let base = first.own().client_port.saturating_sub(PORTS_PER_NODE);
        let wanted = [
            ("--nodes", arguments.nodes.map(u64::from), first.nodes.len() as u64),
            ("--shards", arguments.shards.map(u64::from), u64::from(first.shards)),
            ("--groups", arguments.groups.map(u64::from), u64::from(first.groups)),
            ("--base-port", arguments.base_port.map(u64::from), u64::from(base)),
        ];
        for (name, wanted, found) in wanted {
            if wanted.is_some_and(|wanted| wanted != found) {
                return Err(Failure::config(format!(
                    "{name} is {found} for the cluster in {}: leave the option out, or choose \
                     another --dir for another cluster",
                    dir.display()
                )));
            }
        }
        let node = |entry: &catamaran::config::NodeEntry| Node {
            id: entry.id.get(),
            client_port: entry.client_port,
            config: config_path(&dir, entry.id.get()),
            log: dir.join(format!("node-{}.log", entry.id)),
        };
        let nodes = first.nodes.iter().map(node).collect();
        Ok(Self { shards: first.shards, groups: first.groups, nodes, dir })
    }
}

fn create(arguments: &DevArguments, dir: &Path) -> Result<(), Failure> {
    let mut entries = fs::read_dir(dir).map_err(|error| cannot(dir, &error))?;
    if entries.next().is_some() {
        return Err(Failure::config(format!(
            "{} holds something else than a cluster made by dev: choose another --dir",
            dir.display()
        )));
    }
    let mut id = [0; 16];
    getrandom::fill(&mut id)
        .map_err(|error| Failure::environment(format!("no random numbers: {error}")))?;
    let text = describe(arguments, ClusterId::new(id))?;
    let count = arguments.nodes.unwrap_or(NODES_DEFAULT);
    for node in (1..=count).rev() {
        let path = config_path(dir, node);
        let text = format!("node_id = {node}\ndata_dir = \"node-{node}\"\n{text}");
        // Checked before anything is written: what is wrong is wrong for every node.
        let config = Config::parse(&path.display().to_string(), &text, None)?;
        runtime::format(&NodeConfig::from(&config))?;
        fs::write(&path, text).map_err(|error| cannot(&path, &error))?;
    }
    Ok(())
}

/// What the configurations of all nodes have in common.
fn describe(arguments: &DevArguments, cluster: ClusterId) -> Result<String, Failure> {
    let base = arguments.base_port.unwrap_or(BASE_PORT_DEFAULT);
    let mut text = format!(
        "cluster_id = \"{cluster}\"\nbind = \"127.0.0.1\"\nshards = {}\ngroups = {}\n",
        arguments.shards.unwrap_or(1),
        arguments.groups.unwrap_or(1)
    );
    for node in 1..=arguments.nodes.unwrap_or(NODES_DEFAULT) {
        let port = node.checked_mul(PORTS_PER_NODE).and_then(|above| base.checked_add(above));
        let Some(port) = port else {
            return Err(Failure::config(format!(
                "--base-port {base} leaves no port for node {node}, which gets the ports from \
                 {base} + {PORTS_PER_NODE} x {node} on: choose a lower one or fewer --nodes"
            )));
        };
        text.push_str(&format!(
            "\n[[nodes]]\nid = {node}\nhost = \"127.0.0.1\"\nclient_port = {port}\n"
        ));
    }
    Ok(text)
}

fn config_path(dir: &Path, node: u16) -> PathBuf {
    dir.join(format!("node-{node}.toml"))
}

fn cannot(path: &Path, error: &std::io::Error) -> Failure {
    Failure::environment(format!(
        "cannot use {}: {error}: choose another --dir, or mend its permissions",
        path.display()
    ))
}
