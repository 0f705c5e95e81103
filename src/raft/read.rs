//! Linearizable reads without writing to the log: ReadIndex (thesis 6.4).
//!
//! A read is served from the commit index of a moment after it arrived, once a quorum has
//! answered a heartbeat that was sent after it arrived: then nobody else led in between. Does
//! not: serve the read, or drop it when it takes too long; the shard does both.

use super::progress::Progress;
use super::role::{ReadRound, Role};
use super::{Effect, Effects, Group, ReadToken};
use crate::base::Moment;
use crate::model::Member;

/// Rounds that may be unconfirmed at a time. Reads that come meanwhile share the next one, so the
/// bound costs latency only when confirmation takes longer than so many turns.
const ROUNDS_MAX: usize = 64;

impl Group {
    /// Asks for a linearizable read. `ReadReady` or `ReadFailed` follows, the latter at once if
    /// this replica does not lead.
    ///
    /// All reads of a turn share the round that [`Group::flush`] starts.
    pub fn read_index(&mut self, now: Moment, token: ReadToken, fx: &mut Effects) {
        self.clock(now);
        match &mut self.role {
            Role::Leader(leader) => leader.reads_waiting.push(token),
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => {
                mark!(L14_READ_REFUSED_BY_FOLLOWER);
                self.fail_read(token, fx);
            }
        }
    }

    /// Sends one round for the reads that wait.
    pub(super) fn start_read_round(&mut self, fx: &mut Effects) {
        // A new leader does not know what is committed until it has committed something itself;
        // reads wait for that (L-08).
        let knows_commit =
            self.log.term_at(self.commit) == Some(self.term) || planted!(L08_READ_BEFORE_OWN_TERM);
        let index = self.commit;
        let Role::Leader(leader) = &mut self.role else { return };
        mark!(L08_READ_WAITS_FOR_OWN_TERM if !leader.reads_waiting.is_empty() && !knows_commit);
        if leader.reads_waiting.is_empty() || !knows_commit {
            return;
        }
        mark!(L09_READS_SHARE_A_ROUND if leader.reads_waiting.len() > 1);
        if leader.read_rounds.len() >= ROUNDS_MAX {
            return;
        }
        let tokens = core::mem::take(&mut leader.reads_waiting);
        let round = if planted!(L09_OLD_ROUND_CONFIRMS) { leader.round } else { leader.round + 1 };
        leader.read_rounds.push_back(ReadRound { round, index, tokens });
        self.send_round(fx);
        // A single voter is a quorum by itself.
        self.confirm_reads(fx);
    }

    /// A peer confirms `round` and all before it (L-09).
    pub(super) fn on_heartbeat_reply(&mut self, from: Member, round: u64, fx: &mut Effects) {
        let Role::Leader(leader) = &self.role else { return };
        if leader.round < round {
            self.counters.nonsense += 1;
            return;
        }
        let Some(progress) = self.answering_peer(from) else { return };
        progress.round = progress.round.max(round);
        self.confirm_reads(fx);
    }

    fn confirm_reads(&mut self, fx: &mut Effects) {
        let membership = self.configurations.newest();
        let node = self.settings.node;
        let Role::Leader(leader) = &mut self.role else { return };
        let confirmed = membership.quorum_value(|voter| {
            if voter == node || planted!(L09_READ_WITHOUT_ROUND) {
                leader.round
            } else {
                leader.peer(voter).map_or(0, Progress::counted_round)
            }
        });
        while let Some(round) = leader.read_rounds.pop_front_if(|round| round.round <= confirmed) {
            mark!(L09_ROUND_CONFIRMED);
            for token in round.tokens {
                fx.push(Effect::ReadReady { token, index: round.index });
            }
        }
    }
}
