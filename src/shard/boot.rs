//! Boot: what recovery found becomes a shard.
//!
//! Pure like everything here: the world reads the device and drives `wal::Recovery`; this takes
//! its verdict. Does not: serve before the first opening is durable (the planner sees to that).

use core::time::Duration;

use super::clients::Clients;
use super::commit::Replies;
use super::fetch::Fetches;
use super::links::Links;
use super::persist::Store;
use super::reads::Reads;
use super::slot::{Slot, Slots};
use super::status::Questions;
use super::trace::Trace;
use super::{Draining, Shard, ShardConfig};
use crate::base::{Moment, Prng};
use crate::model::limits::VOTERS_MAX;
use crate::model::{EntryId, Membership, NodeId};
use crate::raft;
use crate::stats::Counters;
use crate::wal::{Identity, Planner, Recovered, RecoveredGroup};

/// Batches of a group that stay known exactly; older ones are found through the index.
const TAIL_BATCHES_MAX: usize = 4096;

impl Shard {
    /// A shard that goes on where `recovered` ends. Its first wishes come with its first turn.
    ///
    /// Groups that the configuration names and the log does not know are created, empty, with
    /// every node of the configuration as voter.
    ///
    /// # Panics
    /// If the configuration does not contain this node: checked where it is parsed.
    pub fn boot(config: ShardConfig, recovered: Recovered, now: Moment) -> Self {
        let identity = Identity { cluster: config.cluster, node: config.uuid, shard: config.shard };
        let Recovered { mut index, resume, kept, spare, .. } = recovered;
        let nodes: Vec<NodeId> = config.nodes.iter().map(|node| node.node).collect();
        assert!(nodes.contains(&config.node), "{:?} is not one of {nodes:?}", config.node);
        assert!(nodes.len() <= VOTERS_MAX, "{} nodes", nodes.len());
        let membership = Membership::of_voters(&nodes);
        let replica = membership.replica_of(config.node).expect("it is one of them");
        let known: Vec<_> = index.groups().collect();
        for group in config.groups().filter(|group| !known.contains(group)) {
            mark!(W17_GROUP_CREATED);
            index.create_group(group, replica, membership.clone());
        }
        let mut prng = Prng::new(config.seed);
        let list: Vec<Slot> = index
            .recovered()
            .into_iter()
            .map(|group| slot(&config, group, now, prng.fork()))
            .collect();
        let peers = nodes.iter().copied().filter(|node| *node != config.node);
        let links = Links::new(peers, list.len());
        let fetches = Fetches::new(links.len());
        let planner = Planner::new(config.geometry, &identity, resume)
            .with_segments_ahead(config.segments_ahead)
            .with_segments_at_start(config.segments_at_start);
        let mut store = Store::new(identity, planner, index, config.device_writes_max);
        store.segments.extend(kept);
        store.spare.extend(spare);
        Self {
            now,
            slots: Slots::new(list),
            clients: Clients::default(),
            links,
            store,
            reads: Reads::default(),
            questions: Questions::default(),
            fetches,
            replies: Replies::default(),
            wishes: raft::Effects::default(),
            counters: Counters::default(),
            trace: Trace::default(),
            next_scan: now,
            scan_start: 0,
            next_frame_scan: now,
            next_retention: now.after(Duration::from_secs(1)),
            device: raft::Device::Works,
            draining: Draining::No,
            config,
        }
    }
}

fn slot(config: &ShardConfig, recovered: RecoveredGroup, now: Moment, prng: Prng) -> Slot {
    let RecoveredGroup { group, replica, hard_state, base, base_membership, .. } = recovered;
    let settings = raft::Settings {
        group,
        node: config.node,
        replica,
        timing: config.timing,
        window: raft::Window::default(),
        tail_batches_max: TAIL_BATCHES_MAX,
    };
    // Where the batches that are known one by one begin; what lies before is known by its terms.
    let first =
        recovered.spans.first().map_or(recovered.last.index.next(), |(span, ..)| span.first);
    let before = first.previous();
    let older = recovered.runs.iter().take_while(|run| run.first <= before);
    let runs: Vec<_> = older.map(|run| (run.term, run.first)).collect();
    let before_spans = match runs.last() {
        Some((term, _)) => EntryId::new(*term, before),
        None => base,
    };
    let log = raft::Recovered {
        hard_state,
        base,
        base_membership,
        before_spans,
        runs,
        spans: recovered.spans,
        memberships: recovered.memberships,
    };
    Slot {
        id: group,
        replica,
        raft: raft::Group::new(settings, log, now, prng),
        pending: Default::default(),
        waiting: Default::default(),
        owes_noop: false,
        counted: [raft::OnItsWay::default(); VOTERS_MAX],
        is_queued: false,
        is_touched: false,
        is_dirty: false,
    }
}
