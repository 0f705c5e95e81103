//! The end of a run: the healed world must answer, agree, and still have everything.
//!
//! One auditor, a client with a slot per group: it appends a probe until that is acknowledged and
//! then reads the whole log, linearizably, from its first index to its commit; the checker holds
//! every record of it against the truth. Meanwhile every replica must come to commit all that is
//! committed. Does not: make faults; there are none any more.

use core::time::Duration;

use super::clients::{Answer, Client, Want};
use super::node::Node;
use super::record::RECORD_BYTES_MIN;
use super::verdict::{Check, Failure, Oracle};
use super::world::{World, node_id};
use crate::model::{GroupId, LogIndex};
use crate::raft::RoleName;
use crate::wire::client::Consistency;

/// How long the healed world is watched at rest.
const RESTS: Duration = Duration::from_millis(700);

/// How far the auditor is with one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Appends a probe; the number of the attempt.
    Probes(u64),
    /// Reads on from here.
    Reads(LogIndex),
    /// Has seen everything.
    Done,
}

/// The audit's progress. One per world.
pub(super) struct Audit {
    begun: bool,
    stages: Vec<Stage>,
}

impl Audit {
    /// An audit of groups 1 to `groups`.
    pub(super) fn new(groups: u64) -> Self {
        Self { begun: false, stages: (0..groups).map(|_| Stage::Probes(1)).collect() }
    }
}

/// The group that a slot of the auditor looks after.
fn group_of(slot: usize) -> GroupId {
    GroupId::new(slot as u64 + 1)
}

impl World {
    /// Whether a client is the auditor.
    pub(super) fn is_auditor(&self, client: usize) -> bool {
        client + 1 == self.clients.len()
    }

    /// Begins the audit, and later tells whether it is through.
    pub(super) fn audited(&mut self) -> Result<bool, Failure> {
        let auditor = self.clients.len() - 1;
        if !core::mem::replace(&mut self.audit.begun, true) {
            for slot in 0..self.audit.stages.len() {
                self.wake_soon(auditor, slot);
            }
            self.probe_sessions();
        }
        let done = self.audit.stages.iter().all(|stage| *stage == Stage::Done);
        let served = self.sessions.iter().all(|one| one.served && one.is_at_rest());
        Ok(done && served && self.conns.nobody_waits() && self.laggard()?.is_none())
    }

    /// A number that changes with every step towards the end of the audit.
    pub(super) fn audit_steps(&mut self) -> u64 {
        let stages = self.audit.stages.iter().map(|stage| match stage {
            Stage::Probes(_) => 0,
            Stage::Reads(next) => next.get(),
            Stage::Done => u64::MAX / 2,
        });
        let mut steps = stages.fold(0_u64, |sum, more| sum.wrapping_add(more));
        for node in 0..self.nodes.len() {
            for group in (1..=self.plan.groups).map(GroupId::new) {
                let commit = self.commit_of(node, group).map_or(0, LogIndex::get);
                steps = steps.wrapping_add(commit);
            }
        }
        steps
    }

    /// A slot of the auditor asks what its stage wants.
    pub(super) fn on_audit_wake(&mut self, client: usize, slot: usize) -> Check {
        let group = group_of(slot);
        let want = match self.audit.stages[slot] {
            Stage::Done => return Ok(()),
            Stage::Probes(attempt) => {
                // Records are unique over all groups: the group is a part of the number.
                let request = attempt * self.plan.groups + slot as u64;
                Want::Append { group, request, sizes: vec![RECORD_BYTES_MIN] }
            }
            Stage::Reads(from) => {
                let must_see = LogIndex::BEFORE_FIRST;
                Want::Read { group, from, consistency: Consistency::Linearizable, must_see }
            }
        };
        self.ask(client, slot, want)
    }

    /// A slot of the auditor is answered.
    pub(super) fn on_audit_answer(&mut self, slot: usize, answer: Answer) {
        let stage = &mut self.audit.stages[slot];
        *stage = match (*stage, answer) {
            (Stage::Probes(_), Answer::Done) => Stage::Reads(LogIndex::BEFORE_FIRST.next()),
            // Refused or in doubt: another probe, so that a late one is not taken for a second.
            (Stage::Probes(attempt), _) => Stage::Probes(attempt + 1),
            (Stage::Reads(_), Answer::Read { next, commit }) => {
                let done = commit != LogIndex::BEFORE_FIRST && commit < next;
                if done { Stage::Done } else { Stage::Reads(next) }
            }
            (stage, _) => stage,
        };
    }

    /// The healed world comes to rest: with nobody asking for anything every group keeps its one
    /// leader, and no office changes hands.
    pub(super) fn rests(&mut self) -> Check {
        let (elections, leaders) = (self.summary.elections, self.offices());
        let alive = self.nodes.iter().filter(|node| !node.is_lost()).count();
        if alive <= self.nodes.len() / 2 {
            return Ok(());
        }
        self.run_until(self.queue.now().after(RESTS))?;
        let (more, after) = (self.summary.elections - elections, self.offices());
        if more > 0 || leaders != after {
            let detail = format_args!("{more} elections at rest: {leaders:?}, {after:?}");
            return Err(Failure::new(Oracle::Liveness, detail));
        }
        if let Some((slot, _)) = after.iter().enumerate().find(|(_, places)| places.len() != 1) {
            let detail = format_args!("{:?} is led by {:?}", group_of(slot), after[slot]);
            return Err(Failure::new(Oracle::Liveness, detail));
        }
        Ok(())
    }

    /// By group, the places of the nodes that lead it.
    fn offices(&mut self) -> Vec<Vec<usize>> {
        let groups = (1..=self.plan.groups).map(GroupId::new);
        groups.map(|group| self.leaders_of(group)).collect()
    }

    /// Where the first group is led.
    pub(super) fn leaders(&mut self) -> Vec<usize> {
        self.leaders_of(group_of(0))
    }

    fn leaders_of(&mut self, group: GroupId) -> Vec<usize> {
        let shard = self.shard_of(group);
        let leads = |node: &mut Node| {
            let live = node.live(shard)?;
            live.shard.group(group).map(|raft| raft.role() == RoleName::Leader)
        };
        let nodes = self.nodes.iter_mut().enumerate();
        nodes.filter_map(|(at, node)| leads(node).unwrap_or(false).then_some(at)).collect()
    }

    /// A living replica that has not committed everything that is committed.
    fn laggard(&mut self) -> Result<Option<String>, Failure> {
        for at in 0..self.nodes.len() {
            if self.nodes[at].is_lost() {
                continue;
            }
            for group in (1..=self.plan.groups).map(GroupId::new) {
                let upto = self.checker.truth(group)?.committed_upto();
                let commit = self.commit_of(at, group);
                if commit != Some(upto) {
                    let node = node_id(at);
                    return Ok(Some(format!("{node:?} {group:?}: {commit:?} of {upto:?}")));
                }
            }
        }
        Ok(None)
    }

    /// The failure of a world that did not heal in time, with what is missing.
    pub(super) fn not_live(&mut self) -> Failure {
        let open: Vec<String> = (self.audit.stages.iter().enumerate())
            .filter(|(_, stage)| **stage != Stage::Done)
            .map(|(slot, stage)| format!("{:?} {stage:?}", group_of(slot)))
            .collect();
        let laggard = self.laggard().ok().flatten();
        let waits = !self.conns.nobody_waits();
        let sessions: Vec<bool> = self.sessions.iter().map(|one| one.served).collect();
        let detail = format_args!(
            "open: {open:?}, behind: {laggard:?}, waits: {waits}, sessions: {sessions:?}"
        )
        .to_string();
        Failure::new(Oracle::Liveness, format_args!("{detail}"))
    }

    /// The auditor itself.
    pub(super) fn auditor(plan: &super::Plan, prng: crate::base::Prng) -> Client {
        let slots = usize::try_from(plan.groups).expect("a few groups");
        Client::with_slots(plan.load.clients, plan, prng, slots)
    }
}
