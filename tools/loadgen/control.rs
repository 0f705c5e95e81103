//! Where the nodes are, who leads which group, and what the nodes say of themselves.
//!
//! Blocking questions over connections of their own, so that nothing here competes with the load
//! for a place in its queues. [`Helper`] does the same on a thread for the engine, which never
//! blocks. Does not decide where a record goes: `engine` does, from the routes made here.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use catamaran::model::{ClusterId, GroupId, NodeId};
use catamaran::wire::client::shard_of;

use crate::dialogue::Dialogue;
use crate::failure::{Exit, Failure};

/// How long one node may take for one answer before it counts as gone.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// One shard of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Which node.
    pub(crate) node: NodeId,
    /// Its client port for this shard.
    pub(crate) address: String,
}

/// The cluster as it was found. Does not change; leaders do, and are in [`Routes`].
#[derive(Clone, Debug)]
pub(crate) struct Topology {
    /// Which cluster: nodes of another one that took over a port are not talked to.
    pub(crate) cluster: ClusterId,
    /// All shards of the first node, then of the second, and so on.
    pub(crate) endpoints: Vec<Endpoint>,
    /// The nodes in the same order.
    pub(crate) nodes: Vec<NodeId>,
    /// Shards of each node.
    pub(crate) shards: u16,
    /// The groups of the run.
    pub(crate) groups: Vec<GroupId>,
}

/// Per group of the run the endpoint that leads it, as far as known.
pub(crate) type Routes = Vec<Option<usize>>;

impl Topology {
    /// Asks the first of `addresses` that answers; uses the first `groups` groups, or all.
    ///
    /// # Errors
    /// Nobody answers, or there are fewer groups than wanted.
    pub(crate) fn discover(addresses: &[String], groups: Option<u32>) -> Result<Self, Failure> {
        let mut last = None;
        for address in addresses {
            let answer = Dialogue::open(address, ClusterId::default(), ANSWER_TIMEOUT)
                .and_then(|mut dialogue| Self::from_metadata(&mut dialogue));
            match answer {
                Ok(topology) => return topology.with_groups(groups),
                Err(error) => last = Some(format!("{address}: {error}")),
            }
        }
        Err(Failure::new(
            Exit::Environment,
            format!(
                "no node answers ({}): start the cluster, or give --connect its client ports",
                last.unwrap_or_default()
            ),
        ))
    }

    fn from_metadata(dialogue: &mut Dialogue) -> std::io::Result<Self> {
        let metadata = dialogue.metadata()?;
        let (cluster, shards) = (metadata.cluster, metadata.shard_count);
        let mut endpoints = Vec::new();
        let mut nodes = Vec::new();
        for node in metadata.nodes() {
            nodes.push(node.node);
            for shard in 0..shards {
                let port = u32::from(node.client_base_port) + u32::from(shard);
                endpoints
                    .push(Endpoint { node: node.node, address: format!("{}:{port}", node.host) });
            }
        }
        let groups = (1..=metadata.group_count).map(GroupId::new).collect();
        Ok(Self { cluster, endpoints, nodes, shards, groups })
    }

    fn with_groups(mut self, wanted: Option<u32>) -> Result<Self, Failure> {
        if let Some(wanted) = wanted {
            if self.groups.len() < wanted as usize {
                return Err(Failure::new(
                    Exit::BadArguments,
                    format!(
                        "--groups {wanted}: the cluster has {}; ask for as many or leave it out",
                        self.groups.len()
                    ),
                ));
            }
            self.groups.truncate(wanted as usize);
        }
        Ok(self)
    }

    /// Opens a connection to an endpoint.
    ///
    /// # Errors
    /// Nobody of this cluster answers there in time.
    pub(crate) fn dial(&self, endpoint: usize, timeout: Duration) -> std::io::Result<Dialogue> {
        Dialogue::open(&self.endpoints[endpoint].address, self.cluster, timeout)
    }

    /// The endpoint on `node` for the group at `group` in the list, if there is such a node.
    pub(crate) fn endpoint_of(&self, node: NodeId, group: usize) -> Option<usize> {
        let at = self.nodes.iter().position(|known| *known == node)?;
        let shard = shard_of(self.groups[group], self.shards).get();
        Some(at * usize::from(self.shards) + usize::from(shard))
    }
}

/// Connections for questions, one per endpoint, opened when first needed.
#[derive(Debug)]
pub(crate) struct Control {
    topology: Topology,
    dialogues: Vec<Option<Dialogue>>,
    timeout: Duration,
}

impl Control {
    /// For this cluster. Connects later.
    pub(crate) fn new(topology: Topology) -> Self {
        let dialogues = topology.endpoints.iter().map(|_| None).collect();
        Self { topology, dialogues, timeout: ANSWER_TIMEOUT }
    }

    /// The cluster.
    pub(crate) fn topology(&self) -> &Topology {
        &self.topology
    }

    fn ask<T>(
        &mut self,
        endpoint: usize,
        mut question: impl FnMut(&mut Dialogue) -> std::io::Result<T>,
    ) -> std::io::Result<T> {
        // A connection of before may have died with its node, which may be back by now.
        if let Some(mut dialogue) = self.dialogues[endpoint].take()
            && let Ok(answer) = question(&mut dialogue)
        {
            self.dialogues[endpoint] = Some(dialogue);
            return Ok(answer);
        }
        let mut dialogue = self.topology.dial(endpoint, self.timeout)?;
        let answer = question(&mut dialogue)?;
        self.dialogues[endpoint] = Some(dialogue);
        Ok(answer)
    }

    /// Who leads what, by the newest term that any shard knows of. Nodes that do not answer are
    /// passed over.
    pub(crate) fn routes(&mut self) -> Routes {
        let mut newest: BTreeMap<u64, (u64, NodeId)> = BTreeMap::new();
        for endpoint in 0..self.topology.endpoints.len() {
            let _ = self.ask(endpoint, |dialogue| {
                for group in dialogue.metadata()?.groups() {
                    let Some(leader) = group.leader else { continue };
                    let known = newest.entry(group.group.get()).or_insert((0, leader));
                    if group.term.get() > known.0 {
                        *known = (group.term.get(), leader);
                    }
                }
                Ok(())
            });
        }
        let topology = &self.topology;
        let leader = |group: &GroupId| newest.get(&group.get()).map(|(_, leader)| *leader);
        (0..topology.groups.len())
            .map(|at| topology.endpoint_of(leader(&topology.groups[at])?, at))
            .collect()
    }

    /// Waits until every group has a leader.
    ///
    /// # Errors
    /// It took longer than `patience`.
    pub(crate) fn wait_for_leaders(&mut self, patience: Duration) -> Result<Routes, Failure> {
        let deadline = Instant::now() + patience;
        loop {
            let routes = self.routes();
            let without = routes.iter().filter(|route| route.is_none()).count();
            if without == 0 {
                return Ok(routes);
            }
            if Instant::now() > deadline || crate::system::stopped() {
                return Err(Failure::new(
                    Exit::Environment,
                    format!(
                        "{without} of {} groups have no leader after {}s: look at the nodes' logs; a \
                         majority of nodes must run and reach each other",
                        routes.len(),
                        patience.as_secs()
                    ),
                ));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The status lines of each node, numbers summed over its shards; other values are those of
    /// the last shard. A node that does not answer has none.
    pub(crate) fn status(&mut self) -> Vec<Status> {
        let shards = usize::from(self.topology.shards);
        (0..self.topology.nodes.len())
            .map(|node| {
                let mut status = Status::default();
                for shard in 0..shards {
                    if let Ok(text) = self.ask(node * shards + shard, Dialogue::status) {
                        status.add(&text);
                    }
                }
                status
            })
            .collect()
    }
}

/// What one node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    numbers: BTreeMap<String, u64>,
    words: BTreeMap<String, String>,
}

impl Status {
    /// Adds the lines of one shard: `key value`.
    fn add(&mut self, text: &str) {
        for line in text.lines() {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            match value.trim().parse::<u64>() {
                Ok(number) => *self.numbers.entry(key.to_owned()).or_default() += number,
                Err(_) => {
                    self.words.insert(key.to_owned(), value.trim().to_owned());
                }
            }
        }
    }

    /// A counter; 0 if there is none.
    pub(crate) fn number(&self, key: &str) -> u64 {
        self.numbers.get(key).copied().unwrap_or(0)
    }

    /// Counters whose name is `prefix` and a number.
    pub(crate) fn numbers_below(&self, prefix: &str) -> impl Iterator<Item = (usize, u64)> {
        let from = self.numbers.range(prefix.to_owned()..);
        let named = from.map_while(move |(key, number)| Some((key.strip_prefix(prefix)?, *number)));
        named.filter_map(|(rest, number)| Some((rest.parse().ok()?, number)))
    }

    /// How much a counter grew since `earlier`.
    pub(crate) fn grown(&self, earlier: &Self, key: &str) -> u64 {
        self.number(key).saturating_sub(earlier.number(key))
    }

    /// A value that is no number.
    pub(crate) fn word(&self, key: &str) -> Option<&str> {
        self.words.get(key).map(String::as_str)
    }
}

/// What the engine asks its helper.
#[derive(Debug)]
pub(crate) enum Wish {
    /// Open a connection to this endpoint.
    Dial(usize),
    /// Find out who leads what.
    Routes,
}

/// What the helper answers, one answer a wish.
#[derive(Debug)]
pub(crate) enum Granted {
    /// A connection after its handshake, or none.
    Dialled(usize, Option<TcpStream>),
    /// Who leads what.
    Routes(Routes),
}

/// A thread that asks blocking questions for somebody who must not block. Ends with its owner.
#[derive(Debug)]
pub(crate) struct Helper {
    wishes: mpsc::Sender<Wish>,
    granted: mpsc::Receiver<Granted>,
}

impl Helper {
    /// Starts the thread.
    pub(crate) fn start(topology: Topology) -> Self {
        let (wishes, wished) = mpsc::channel::<Wish>();
        let (grants, granted) = mpsc::channel();
        thread::spawn(move || {
            let mut control = Control::new(topology);
            control.timeout = Duration::from_millis(500);
            for wish in wished {
                let grant = match wish {
                    Wish::Dial(endpoint) => {
                        let stream = control.topology.dial(endpoint, control.timeout);
                        if stream.is_err() {
                            thread::sleep(Duration::from_millis(20)); // Nobody there: no hurry.
                        }
                        Granted::Dialled(endpoint, stream.ok().map(Dialogue::into_stream))
                    }
                    Wish::Routes => Granted::Routes(control.routes()),
                };
                if grants.send(grant).is_err() {
                    return;
                }
            }
        });
        Self { wishes, granted }
    }

    /// Asks for something; the answer comes by [`Helper::granted`].
    pub(crate) fn wish(&self, wish: Wish) {
        self.wishes.send(wish).expect("the helper lives as long as its owner");
    }

    /// The next answer, if there is one.
    pub(crate) fn granted(&self) -> Option<Granted> {
        self.granted.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines_are_summed_over_shards() {
        let mut status = Status::default();
        status.add("wal_writes 5\nregistered true\nodd");
        status.add("wal_writes 7\nregistered false");
        assert_eq!(status.number("wal_writes"), 12);
        assert_eq!(status.number("missing"), 0);
        status.add("stage.x.b7 2\nstage.x.b11 1\nstage.y.b3 9");
        let below: Vec<_> = status.numbers_below("stage.x.b").collect();
        assert_eq!(below, [(11, 1), (7, 2)]);
        assert_eq!(status.word("registered"), Some("false"));
        assert_eq!(status.grown(&Status::default(), "wal_writes"), 12);
    }

    #[test]
    fn a_group_belongs_to_the_same_shard_on_every_node() {
        let nodes: Vec<NodeId> = [1, 2, 3].map(NodeId::new).to_vec();
        let endpoints = Vec::new();
        let groups = (1..=4).map(GroupId::new).collect();
        let cluster = ClusterId::default();
        let topology = Topology { cluster, endpoints, nodes, shards: 2, groups };
        assert_eq!(topology.endpoint_of(NodeId::new(1), 0), Some(1), "group 1 mod 2");
        assert_eq!(topology.endpoint_of(NodeId::new(3), 1), Some(4), "group 2 mod 2");
        assert_eq!(topology.endpoint_of(NodeId::new(9), 0), None);
    }
}
