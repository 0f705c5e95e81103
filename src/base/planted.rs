//! Planted bugs: wrong branches that grade the tests.
//!
//! `planted!(C01_OLDER_TERM_COMMITTED)` is true in one run of `simrun mutants`, and constantly false
//! in every ordinary build: only the feature `planted` gives the switch a value, and the assertion
//! at the end of this file does not compile if that were not so. The catalogue says of each what
//! is broken and who should notice; `docs/testing.md` has the score. Does not: ship.

macro_rules! bugs {
    ($($name:ident $rule:literal $oracle:literal $what:literal;)*) => {
        /// A wrong branch. The number in front is the rule that it breaks.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(non_camel_case_types, reason = "named as marks are")]
        pub enum Planted {
            $(#[doc = $what] $name,)*
        }

        /// The catalogue, in the order of the rules.
        #[cfg(feature = "planted")]
        pub const CATALOGUE: &[Bug] = &[$(Bug {
            planted: Planted::$name,
            name: stringify!($name),
            rule: $rule,
            what: $what,
            oracle: $oracle,
        },)*];

        #[cfg(not(feature = "planted"))]
        const _: () = {
            $(assert!(!is(Planted::$name), "an ordinary build has no planted bugs");)*
        };
    };
}

/// One planted bug, as the catalogue has it.
#[cfg(feature = "planted")]
#[derive(Clone, Copy, Debug)]
pub struct Bug {
    /// Its switch.
    pub planted: Planted,
    /// The name of the switch.
    pub name: &'static str,
    /// The rule that it breaks.
    pub rule: &'static str,
    /// What is wrong.
    pub what: &'static str,
    /// Who is expected to notice.
    pub oracle: &'static str,
}

bugs! {
    H01_VOTE_NOT_AWAITED "H-01" "hard-state"
        "messages of a term wait for the term on the disk, not for the vote";
    H01_WORDS_BEFORE_DISK "H-01" "hard-state"
        "votes and terms leave before they are durable";
    H02_VOTE_NOT_WRITTEN "H-02" "hard-state"
        "the hard state is written without the vote";
    H03_BATCH_BEFORE_ITS_TERM "H-03" "assertion"
        "batches of a term enter blocks before the hard state that knows it";
    H03_TERM_NOT_WRITTEN "H-03" "hard-state"
        "a term without a vote is taken for durable and never written";
    H06_PRE_VOTES_COUNT_AS_VOTES "H-06" "elections"
        "pre-votes count as votes";
    H06_PRE_VOTE_OPENS_TERM "H-06" "elections"
        "a pre-vote opens the term that it asks about";
    H07_COMMIT_BEYOND_LOG "H-07" "recovery"
        "a hard state's commit index may lie behind the durable log";
    W02_IDENTITY_NOT_CHECKED "W-02" "recovery"
        "blocks of another node's log are taken for own ones";
    W02_POSITION_NOT_CHECKED "W-02" "recovery"
        "a block counts wherever it lies";
    W04_WATERMARK_RUNS_AHEAD "W-04" "recovery"
        "blocks claim that everything before them is durable";
    W05_CORRUPTION_IS_CUT "W-05" "durability"
        "a hole below the watermark is cut like a torn tail";
    W05_TORN_BATCH_TAKEN "W-05" "durability"
        "recovery does not verify the batches of a block";
    W05_WINDOW_IGNORED "W-05" "device-contract"
        "blocks are placed beyond the window in flight";
    W06_NO_SEAL "W-06" "seal"
        "an idle log gets no seal";
    W08_BOOT_OPENING_NOT_AWAITED "W-08" "device-contract"
        "blocks follow the first opening before it is durable";
    W08_DISCARDED_OPENING_COUNTS "W-08" "recovery"
        "an opening that a recovery discarded is believed by a later one";
    W08_RESUME_IN_NEXT_SEGMENT "W-08" "device-contract"
        "after a cut writing goes on in the next segment whatever lies there";
    W12_SEGMENT_NOT_AWAITED "W-12" "device-contract"
        "a segment is opened before its file is ready";
    W13_CHECKPOINT_WITHOUT_VOTE "W-13" "durability"
        "openings forget whom a group has voted for";
    W13_LIVE_SEGMENT_RECYCLED "W-13" "device-contract"
        "the oldest segment that is needed is recycled";
    W13_RECYCLED_BEFORE_OPENING_IS_DURABLE "W-13" "device-contract"
        "segments are recycled before the opening that replaces them is durable";
    W13_UNCOMMITTED_REWRITTEN "W-13" "device-contract"
        "retention writes uncommitted batches forward";
    W14_PROPOSED_BEFORE_STAGED "W-14" "assertion"
        "a new leader's batch is written before what it took as a follower";
    W14_SAME_BATCH_TRUNCATES "W-14" "assertion"
        "a batch written again truncates what follows it";
    W15_READ_NOT_VERIFIED "W-15" "log-matching"
        "batches read back from the device are not verified";
    W17_LOST_LOG_IS_FRESH "W-17" "durability"
        "a log that is gone is taken for a fresh one";
    I01_ACK_BEFORE_DISK "I-01" "ack-discipline"
        "a follower acknowledges what it has and not what is durable";
    I01_GAP_IGNORED "I-01" "ack-discipline"
        "a completion counts although an earlier write is open";
    I01_SUBMITTED_IS_DURABLE "I-01" "ack-discipline"
        "a submitted batch counts as durable";
    I03_FAILED_WRITE_COUNTS "I-03" "device-contract"
        "a failed write counts as done";
    I03_NO_HALT "I-03" "device-contract"
        "a shard with a failed device goes on without it";
    I06_COMPLETION_OF_TRUNCATED "I-06" "ack-discipline"
        "leaders do not probe, and a write in flight vouches for what was truncated meanwhile";
    I06_TRUNCATED_STILL_COUNTS "I-06" "ack-discipline"
        "leaders do not probe, and a batch truncated before its block counts when that is written";
    R01_MATCH_IS_LAST "R-01" "ack-discipline"
        "a follower acknowledges its last entry, whoever wrote it";
    R02_CONFLICT_TAKEN_FOR_KNOWN "R-02" "commit-agreement"
        "a conflicting batch is taken for a known one";
    R02_KNOWN_BATCH_TRUNCATES "R-02" "assertion"
        "a known batch truncates what follows it";
    R03_TRIMMED_PREV_CONFLICTS "R-03" "amnesia"
        "an entry below the base is a conflict, and so is what the leader has vouched for meanwhile";
    R05_BATCH_NOT_VERIFIED "R-05" "log-matching"
        "a follower takes a batch whose checksum does not hold";
    R06_HINT_IGNORED "R-06" "liveness"
        "a leader asks again what was denied";
    R07_COMMIT_BEYOND_VOUCHED "R-07" "commit-agreement"
        "a follower commits what the leader did not vouch for";
    R08_ACK_FREES_NOTHING "R-08" "assertion"
        "acknowledgements free no window";
    R08_WINDOW_KEPT "R-08" "assertion"
        "the window outlives a reset to probing";
    R11_OLD_ACKS_COUNT "R-11" "ack-discipline"
        "acknowledgements of an older term count";
    R12_LEADER_COUNTS_UNWRITTEN "R-12" "ack-discipline"
        "a leader counts its log before it is durable";
    C01_OLDER_TERM_COMMITTED "C-01" "commit-agreement"
        "entries of older terms are committed by counting";
    C02_NO_NOOP "C-02" "elections"
        "a new leader appends no empty entry";
    C03_COMMIT_FALLS "C-03" "commit-agreement"
        "a follower takes over a smaller commit index";
    C04_UNCOMMITTED_READ "C-04" "linearizability"
        "reads show what is not committed";
    C05_SINGLE_VOTER_SKIPS_DISK "C-05" "ack-discipline"
        "a single voter does not wait for its own disk";
    C06_ANSWERED_BEFORE_COMMIT "C-06" "ledger"
        "appends are answered when another one of the group commits";
    C06_LOST_OFFICE_MEANS_NOT_DONE "C-06" "ledger"
        "appends of a lost office are answered \"not done\"";
    C06_SESSION_LOST_IS_NOT_DONE "C-06" "ledger"
        "the client library calls an append whose connection was lost not done";
    C06_SESSION_SENDS_AGAIN "C-06" "ledger"
        "the client library sends an append again whose connection was lost";
    E01_VOTE_FOR_TWO "E-01" "hard-state"
        "a second candidate of a term gets a vote too";
    E02_LENGTH_BEFORE_TERM "E-02" "leader-completeness"
        "logs are compared by length only";
    E02_VOTE_FOR_ANY_LOG "E-02" "leader-completeness"
        "votes and pre-votes are granted to shorter logs";
    E04_NEWER_TERM_IGNORED "E-04" "assertion"
        "a message of a newer term does not make a follower";
    E04_OLD_WORDS_KEPT "E-04" "elections"
        "what waited to be said in an older term is said later";
    E05_PRE_VOTE_FOR_ANY_LOG "E-05" "elections"
        "pre-votes, but not votes, are granted to shorter logs";
    E06_REFUSAL_HIDES_TERM "E-06" "elections"
        "a refused pre-vote does not tell the newer term";
    E07_STALE_LEADER_NOT_TOLD "E-07" "liveness"
        "a leader of an older term is not told the newer one";
    E09_FOLLOWER_HELPS_RIVAL "E-09" "elections"
        "a follower that hears a leader helps a rival";
    E10_LEADER_STAYS_WITHOUT_QUORUM "E-10" "elections"
        "a leader that hears no quorum stays";
    E14_LEADER_HELPS_RIVAL "E-14" "elections"
        "a leader with a quorum votes for a rival";
    L04_NO_VOTE_HOLD "L-04" "elections"
        "a voter votes right after a start";
    L07_VOTE_KEEPS_TIMER "L-07" "elections"
        "granting a vote does not restart the own timer";
    L08_READ_BEFORE_OWN_TERM "L-08" "linearizability"
        "a read is served before the leader has committed in its term";
    L09_OLD_ROUND_CONFIRMS "L-09" "linearizability"
        "a read is confirmed by the round before it";
    L09_OLD_TERMS_CONFIRM "L-09" "linearizability"
        "heartbeat replies of an older term confirm reads";
    L09_READ_WITHOUT_ROUND "L-09" "linearizability"
        "a read is served without a round";
    S02_OLD_SNAPSHOT_INSTALLED "S-02" "assertion"
        "a snapshot that is no news is installed";
    S04_CONFLICTING_LOG_KEPT "S-04" "assertion"
        "a log that contradicts the snapshot is kept";
    S04_TAIL_DROPPED "S-04" "ack-discipline"
        "a log that goes on behind the snapshot is dropped";
    F01_ROOM_KEPT "F-01" "budget"
        "the room of a refused request is not given back";
    F02_BUDGET_IGNORED "F-02" "budget"
        "appends are taken in beyond the budget";
    F04_BUDGET_LEAKS "F-04" "liveness"
        "answered appends are not taken off the budget";
    O04_OLD_IMAGE_LET_IN "O-04" "amnesia"
        "the boot counter of a peer may go back";
    O04_STRANGE_DISK_LET_IN "O-04" "amnesia"
        "a peer may come back with another data directory";
    N06_WINDOW_OUTLIVES_STREAM "N-06" "liveness"
        "what was under way on an ended stream is not sent again, and nobody watches";
    N08_BODY_NOT_CHECKED "N-08" "protocol"
        "frames are taken without their checksum";
}

/// Whether this bug is planted here: `planted!(NAME)`.
macro_rules! planted {
    ($name:ident) => {
        $crate::base::planted::is($crate::base::planted::Planted::$name)
    };
}

/// Never, in an ordinary build.
#[cfg(not(feature = "planted"))]
#[inline]
pub(crate) const fn is(_: Planted) -> bool {
    false
}

#[cfg(feature = "planted")]
pub use switch::choose;
#[cfg(feature = "planted")]
pub(crate) use switch::is;

#[cfg(feature = "planted")]
mod switch {
    use core::sync::atomic::{AtomicUsize, Ordering};

    use super::Planted;

    /// Number of the bug of this process, plus one; 0 is none.
    static CHOSEN: AtomicUsize = AtomicUsize::new(0);

    /// From now on this process has `bug` and no other.
    pub fn choose(bug: Option<Planted>) {
        CHOSEN.store(bug.map_or(0, |bug| bug as usize + 1), Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn is(bug: Planted) -> bool {
        CHOSEN.load(Ordering::Relaxed) == bug as usize + 1
    }
}

#[cfg(all(test, feature = "planted"))]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_is_whole() {
        for (at, bug) in CATALOGUE.iter().enumerate() {
            assert_eq!(bug.planted as usize, at);
            let digits: String = bug.rule.chars().filter(char::is_ascii_alphanumeric).collect();
            assert!(bug.name.starts_with(&digits), "{} breaks {}", bug.name, bug.rule);
        }
    }
}
