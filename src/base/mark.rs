//! Coverage marks: the branches that must have been taken before anybody believes the tests.
//!
//! `mark!(W05_TORN_TAIL_CUT)` stands at a branch and counts that it was taken. The list below is
//! the whole of them, so a mark that nothing hits is found (`simrun marks`), and so is one that no
//! scenario written by hand claims (`tests/marks.rs`). Counting is one addition to a number of
//! the own thread; the counts are write-only for the code that decides, which is why rooms with
//! marks are as pure as without (`docs/decisions/0009-marks-and-planted-bugs.md`). Does not: know
//! what a mark means; that is said where it stands.

use core::cell::Cell;
use core::fmt;

macro_rules! marks {
    ($($name:ident)*) => {
        /// A branch that must be taken. The number in front is the rule that the branch serves.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(non_camel_case_types, reason = "W05_TORN_TAIL_CUT is read as in the rule's text")]
        pub enum Mark {
            $(#[doc = stringify!($name)] $name,)*
        }

        impl Mark {
            /// All of them with their names, in the order of the list.
            pub const ALL: &'static [(Self, &'static str)] =
                &[$((Self::$name, stringify!($name)),)*];
        }
    };
}

marks! {
    E01_BECAME_LEADER
    E01_SECOND_CANDIDATE_REFUSED
    E01_VOTE_GRANTED
    E02_VOTE_REFUSED_TO_SHORTER_LOG
    E03_CAMPAIGN
    E03_ELECTION_TIMEOUT
    E04_CAMPAIGN_ENDS_BY_LEADER
    E04_HELD_MESSAGES_DROPPED
    E04_LATE_PRE_VOTE_IGNORED
    E04_NEWER_TERM_ADOPTED
    E05_PRE_VOTE_GRANTED
    E05_PRE_VOTE_REFUSED_TO_SHORTER_LOG
    E06_PRE_VOTE_REFUSED_WITH_NEWER_TERM
    E07_STALE_LEADER_TOLD
    E07_STALE_PROBE_ANSWERED
    E09_PRE_VOTE_WITHHELD
    E09_VOTE_WITHHELD
    E10_LEADER_WITHOUT_QUORUM_STEPS_DOWN
    E14_LEADER_REFUSES_RIVAL
    H01_HARD_STATE_WRITTEN
    H01_HELD_MESSAGE_LEAVES
    H01_MESSAGE_HELD
    H01_OWN_VOTE_DURABLE
    H03_ANSWER_WAITS_FOR_TERM
    H07_COMMIT_HINT_LIMITED
    R01_DEAD_LEADERS_TAIL_NOT_ACKNOWLEDGED
    R02_CONFLICT_TRUNCATED
    R02_KNOWN_BATCH_TRUNCATES_NOTHING
    R05_BATCH_CHECKSUM_WRONG
    R06_CONFLICT_HINTED
    R06_HINT_PASSES_NEWER_TERM
    R06_PEER_RETREATS
    R07_COMMIT_BEYOND_VOUCHED_WAITS
    R07_COMMIT_NEWS_TOLD
    R07_HEARTBEAT_COMMIT_LIMITED
    R08_FETCHED_BATCH_LET_GO
    R08_FETCHED_FOR_PEER
    R08_FETCH_ASKED
    R08_NOTHING_FETCHED
    R08_NO_CREDIT_FOR_BATCH
    R08_PROBE_MATCHES
    R08_WINDOW_RESET
    R09_STALLED_PEER_STARTED_OVER
    R11_STALE_ANSWER_DROPPED
    R11_STALE_APPEND_ANSWERED
    R12_COMMITTED_BEFORE_OWN_DISK
    C01_COMMITTED_BY_COUNTING
    C01_OLDER_TERM_NOT_COMMITTED
    C02_NOOP_OF_NEW_LEADER
    C04_APPEND_ANSWERED
    C05_SINGLE_VOTER_COMMITS
    C06_APPEND_REFUSED_BY_FOLLOWER
    C06_OFFICE_LOST
    C06_PROPOSAL_IN_DOUBT
    C06_UNPROPOSED_REFUSED
    L04_VOTE_HELD_AFTER_START
    L08_READ_WAITS_FOR_OWN_TERM
    L09_READS_SHARE_A_ROUND
    L09_ROUND_CONFIRMED
    L14_READ_REFUSED_BY_FOLLOWER
    L14_STALE_READ
    L15_READ_AT_THE_END
    L15_READ_FROM_DISK
    L15_READ_FROM_MEMORY
    L15_TRIMMED_READ_REFUSED
    L15_TRIMMED_UNDER_A_READ
    S02_OLD_SNAPSHOT_IGNORED
    S02_SNAPSHOT_ACKNOWLEDGED
    S02_SNAPSHOT_OFFERED
    S02_SNAPSHOT_OFFERED_AGAIN
    S04_LOG_DROPPED
    S04_RESET_DROPS_LOG
    S04_RESET_WAITS_FOR_NEXT_BLOCK
    W01_DIRECTORY_CHECKSUM_WRONG
    W01_FRAME_WRITTEN_AS_RECEIVED
    W01_HEADER_CHECKSUM_WRONG
    W01_RECEIVED_BATCH_COPIED
    W05_BATCH_CHECKSUM_WRONG
    W05_BLOCK_WAITS_FOR_WINDOW
    W05_CORRUPTION_REFUSED
    W05_LOG_ENDS_CLEANLY
    W05_SOUND_BLOCK_BEHIND_HOLE
    W05_TORN_TAIL_CUT
    W05_WATERMARK_BEHIND_HOLE
    W05_WINDOW_FULL
    W06_OPENING_SERVES_AS_SEAL
    W06_SEALED
    W06_SEAL_REPLAYED
    W08_FIRST_OPENING
    W08_RESUME_BEYOND_EVERY_FILE
    W08_VOID_SKIPPED
    W10_DISCARDED_SET_ASIDE
    W11_RECYCLED_BLOCK_IGNORED
    W11_SEGMENT_RECYCLED
    W11_SPARE_SEGMENT_REMOVED
    W12_ROLL_WAITS
    W12_SEGMENT_ROLLED
    W13_BATCH_REWRITTEN
    W13_LOG_TRIMMED
    W13_OPENING_DURABLE
    W13_SEGMENT_DEAD
    W13_PINNED_SEGMENT_REWRITTEN
    W13_SMALL_REMAINDER_FOUND
    W13_TRIM_WAITS_FOR_COMMIT
    W13_UNCOMMITTED_NOT_REWRITTEN
    W14_OTHER_TERM_TRUNCATES
    W14_SAME_BATCH_MOVES
    W15_FETCH_OF_WHAT_IS_GONE
    W15_FETCH_READS_ON
    W15_ONE_READ_SERVES_MANY
    W15_READ_CHECKSUM_WRONG
    W15_STRETCH_SERVES_LATER
    W17_FRESH_LOG
    W17_GROUP_CREATED
    I01_COMPLETED_OUT_OF_ORDER
    I03_WRITE_FAILED
    I06_TRUNCATED_BEFORE_ITS_BLOCK
    I06_WRITE_OF_TRUNCATED_IN_FLIGHT
    I09_READ_FAILED
    D09_APPEND_REFUSED_DISK_FULL
    D09_DISK_FULL
    D09_DISK_HAS_ROOM_AGAIN
    D09_SEGMENT_WANTED_AGAIN
    F01_ANSWERED_BY_HOME_SHARD
    F01_FORWARDED_TO_HOME_SHARD
    F01_REQUESTS_SHARE_A_BATCH
    F02_BUSY
    F03_BATCH_EVICTED
    F03_FETCH_FOR_PEER_WAITS
    F03_FETCH_WAITS_FOR_MEMORY
    MR02_BATCH_WAITS_FOR_NEXT_FRAME
    MR02_CREDIT_IS_SHORT
    MR02_FRAME_OF_SEVERAL_BATCHES
    N01_CLIENT_GREETED
    N02_PEER_NONSENSE_CLOSES_STREAM
    N06_BULK_STREAM_DOWN
    N06_CONTROL_STREAM_DOWN
    N06_END_OF_OLD_STREAM_IGNORED
    N06_STREAM_UP
    N08_BODY_CHECKSUM_WRONG
    N08_HEADER_CHECKSUM_WRONG
    N08_MAGIC_WRONG
    N12_FRAME_PUT_TOGETHER
    O02_APPEND_REFUSED_WHILE_DRAINING
    O02_BATCHES_DROPPED_WHILE_DRAINING
    O02_DRAINED
}

const MARKS: usize = Mark::ALL.len();

thread_local! {
    static HITS: [Cell<u64>; MARKS] = const { [const { Cell::new(0) }; MARKS] };
}

/// Counts that the branch at a mark was taken, `mark!(NAME)`, or that a fact held that is no branch
/// of its own, `mark!(NAME if fact)`.
macro_rules! mark {
    ($name:ident) => {
        $crate::base::mark::hit($crate::base::mark::Mark::$name)
    };
    ($name:ident if $fact:expr) => {
        if $fact {
            $crate::base::mark::hit($crate::base::mark::Mark::$name);
        }
    };
}

/// Counts one. Called by `mark!`.
#[inline]
pub(crate) fn hit(mark: Mark) {
    HITS.with(|hits| {
        let count = &hits[mark as usize];
        count.set(count.get() + 1);
    });
}

/// How often each mark was hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hits([u64; MARKS]);

impl Default for Hits {
    fn default() -> Self {
        Self([0; MARKS])
    }
}

impl Hits {
    /// What this thread has hit since it last asked, and forgets it.
    pub fn take() -> Self {
        HITS.with(|hits| Self(core::array::from_fn(|at| hits[at].take())))
    }

    /// How often `mark` was.
    pub fn of(&self, mark: Mark) -> u64 {
        self.0[mark as usize]
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }
}

/// Asserts that the present thread has hit all of `claimed`: the last line of a test that claims
/// them, written as `claims!(NAME, ..)`.
///
/// # Panics
/// If one was not hit.
#[track_caller]
pub fn check_hit(claimed: &[Mark]) {
    let missed: Vec<Mark> = HITS.with(|hits| {
        claimed.iter().copied().filter(|mark| hits[*mark as usize].get() == 0).collect()
    });
    assert!(missed.is_empty(), "claimed and not hit: {missed:?}");
}

/// `claims!(NAME, ..)` at the end of a test: it has hit these marks. `tests/marks.rs` looks for
/// the text.
#[macro_export]
macro_rules! claims {
    ($($name:ident),+ $(,)?) => {
        $crate::base::mark::check_hit(&[$($crate::base::mark::Mark::$name),+])
    };
}

impl Mark {
    /// The mark of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(mark, _)| *mark)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL[*self as usize].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_counted_and_taken_once() {
        let first = Mark::ALL[0].0;
        let _before = Hits::take();
        hit(first);
        hit(first);
        check_hit(&[first]);
        let mut hits = Hits::take();
        assert_eq!(hits.of(first), 2);
        hits.add(&hits.clone());
        assert_eq!(hits.of(first), 4);
        assert_eq!(Hits::take(), Hits::default());
    }

    #[test]
    #[should_panic(expected = "claimed and not hit: [E03_ELECTION_TIMEOUT]")]
    fn a_claim_without_a_hit_fails() {
        let _before = Hits::take();
        claims!(E03_ELECTION_TIMEOUT);
    }

    #[test]
    fn the_list_has_no_name_twice() {
        for (at, (mark, name)) in Mark::ALL.iter().enumerate() {
            assert_eq!(*mark as usize, at);
            assert_eq!(mark.to_string(), *name);
            assert_eq!(Mark::named(name), Some(*mark));
        }
    }
}
