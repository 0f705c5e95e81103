//! What a run ends with: the failure that stopped it or the sums of what it saw.
//!
//! Apart because the tools and tests that start runs need nothing else of this room. Does not:
//! print; text for people is made here, written elsewhere.

use core::fmt;
use core::time::Duration;

use crate::stats::Counters;

/// A promise that was broken, and by whom, as far as the oracle can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which promise.
    pub oracle: Oracle,
    /// What was found instead.
    pub detail: String,
    /// How many events had happened.
    pub event: u64,
    /// When, in simulated time from the start.
    pub at: Duration,
}

impl Failure {
    /// `oracle` found `detail`.
    pub(super) fn new(oracle: Oracle, detail: fmt::Arguments<'_>) -> Self {
        // The world adds when it was.
        Self { oracle, detail: detail.to_string(), event: 0, at: Duration::ZERO }
    }
}

/// What an oracle's check answers.
pub(super) type Check = Result<(), Failure>;

/// Shorthand for a check: `fail!(Ledger, "record {id} is gone")`.
macro_rules! fail {
    ($oracle:ident, $($message:tt)*) => {
        return Err($crate::sim::verdict::Failure::new(
            $crate::sim::verdict::Oracle::$oracle,
            format_args!($($message)*),
        ))
    };
}
pub(super) use fail;

macro_rules! oracles {
    ($($(#[$doc:meta])* $name:ident, $text:literal;)*) => {
        /// The promises that are checked all the time.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Oracle {
            $($(#[$doc])* $name,)*
        }

        impl fmt::Display for Oracle {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$name => $text,)*
                })
            }
        }
    };
}

oracles! {
    /// At most one leader per group and term (thesis 3.2, Election Safety).
    ElectionSafety, "election-safety";
    /// One batch per group, term and first index, whoever stores it (Log Matching).
    LogMatching, "log-matching";
    /// A leader only adds to its log (thesis 3.5, Leader Append-Only).
    AppendOnly, "append-only";
    /// All replicas commit the same entry at the same index (State Machine Safety).
    CommitAgreement, "commit-agreement";
    /// A new leader holds everything that was committed (Leader Completeness).
    LeaderCompleteness, "leader-completeness";
    /// At the instant of an acknowledgement the durable images of a majority hold the batch.
    AckDiscipline, "ack-discipline";
    /// What a device had confirmed is there after every restart.
    Durability, "durability";
    /// No file is given up while it holds the only copy of something live (W-13).
    Recycling, "recycling";
    /// What recovery once dropped never comes back.
    Resurrection, "resurrection";
    /// Every acknowledged record stays at its index, once; refused ones never appear.
    Ledger, "ledger";
    /// A linearizable read sees everything acknowledged before it was sent.
    Linearizability, "linearizability";
    /// A reply means something the protocol allows.
    Protocol, "protocol";
    /// What is sent in a term was preceded by a durable promise (H-01); terms only grow.
    HardState, "hard-state";
    /// Writes follow the rules of the device: aligned, in order, inside ready segments.
    DeviceContract, "device-contract";
    /// Recovery answers as the decision table says.
    Recovery, "recovery";
    /// Nobody says yes to whom it must not, and leaders without a quorum go.
    Elections, "elections";
    /// An idle log has a durable witness of its last block.
    Seal, "seal";
    /// Nobody is taken to have lost what its device holds.
    Amnesia, "amnesia";
    /// After the faults are gone everything is answered in time.
    Liveness, "liveness";
    /// No queue or budget beyond its bound.
    Budget, "budget";
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { oracle, detail, event, at } = self;
        write!(f, "oracle={oracle} event={event} at={}us {detail}", at.as_micros())
    }
}

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident, $text:literal;)*) => {
        /// Everything that can go wrong in this world, for counting.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault {
            $($(#[$doc])* $name,)*
        }

        impl Fault {
            /// All of them with their names, in order of declaration.
            pub const ALL: &'static [(Self, &'static str)] = &[$((Self::$name, $text)),*];
        }
    };
}

faults! {
    /// A process was killed; what its devices had in flight arrives nevertheless.
    Kill, "kill";
    /// A node lost power: any subset of the sectors in flight survives.
    PowerLoss, "power_loss";
    /// All nodes lost power at once.
    Blackout, "blackout";
    /// A node was asked to stop, and stopped when it was done or not.
    Drain, "drain";
    /// An in-flight write of which some sectors survived a power loss and some did not.
    TornWrite, "torn_write";
    /// A node stood still for a while.
    Pause, "pause";
    /// A directed link carried nothing for a while.
    Cut, "cut";
    /// A peer stream was reset.
    Reset, "reset";
    /// A byte of a peer stream arrived changed.
    Corruption, "corruption";
    /// A client connection was reset.
    ClientReset, "client_reset";
    /// A device answered a write with EIO.
    WriteError, "write_error";
    /// A device answered a read with EIO.
    ReadError, "read_error";
    /// A device did nothing for a while.
    Stall, "stall";
    /// A segment could not be made for lack of room.
    NoSpace, "no_space";
    /// Stored bytes changed at rest.
    Rot, "rot";
    /// A device confirmed a write and stored nothing.
    LostWrite, "lost_write";
    /// A device confirmed a write and stored it elsewhere.
    MisdirectedWrite, "misdirected_write";
    /// A device was slow for a while.
    SlowDisk, "slow_disk";
    /// A device never answered again, until its node was restarted.
    Hang, "hang";
    /// A device had no room for new segments for a while.
    DiskFull, "disk_full";
    /// A log could not be read when its node started, for once.
    StartReadError, "start_read_error";
    /// A deleted file was there again after a crash.
    DirectoryEntry, "directory_entry";
    /// A clock jumped forward.
    ClockJump, "clock_jump";
    /// A node was suspended, and its clock with it.
    Freeze, "freeze";
    /// The turns of a node took long for a while.
    SlowCore, "slow_core";
    /// A node came back with an empty disk.
    WipedDisk, "wiped_disk";
    /// A node came back with an old image of its disk.
    RestoredDisk, "restored_disk";
    /// The log of a shard was gone.
    LostLog, "lost_log";
    /// A shard found the log of another node.
    ForeignLog, "foreign_log";
    /// A node died moments after its start.
    Stumble, "stumble";
    /// A leader was cut off with its device, or did not hear a follower.
    Ambush, "ambush";
    /// A story of several steps about a leader began.
    Plot, "plot";
    /// A node that had lost its disk was not let in.
    TurnedAway, "turned_away";
}

/// How often each fault happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally([u64; Fault::ALL.len()]);

impl Default for Tally {
    fn default() -> Self {
        Self([0; Fault::ALL.len()])
    }
}

impl Tally {
    /// Counts one.
    pub(super) fn count(&mut self, fault: Fault) {
        self.0[fault as usize] += 1;
    }

    /// Every fault's name and number.
    pub fn list(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Fault::ALL.iter().zip(self.0).map(|((_, name), count)| (*name, count))
    }

    /// All faults together.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }
}

/// What one run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The seed that decides everything.
    pub seed: u64,
    /// The hash chain over everything that happened.
    pub hash: u64,
    /// How much there was of it.
    pub events: u64,
    /// How long it took in the simulated world.
    pub simulated: Duration,
    /// Faults by kind.
    pub faults: Tally,
    /// Appends acknowledged, requests.
    pub appends_done: u64,
    /// Appends refused for good or whose outcome nobody told, requests.
    pub appends_not_done: u64,
    /// Appends whose outcome stayed open, requests.
    pub appends_unknown: u64,
    /// Requests of sessions that have their outcome.
    pub session_requests: u64,
    /// Linearizable and stale reads answered with records.
    pub reads: u64,
    /// Restarts of nodes, each with a recovery of all its shards.
    pub recoveries: u64,
    /// Blocks that recoveries cut off as torn.
    pub cuts: u64,
    /// Segments that were recycled.
    pub recycles: u64,
    /// Offices won.
    pub elections: u64,
    /// Metadata snapshots installed.
    pub installs: u64,
    /// Conflicting tails that followers dropped.
    pub truncations: u64,
    /// Bytes of live batches that retention wrote forward.
    pub rewritten_bytes: u64,
    /// Bytes of batches that followers wrote from where they were received.
    pub direct_bytes: u64,
}

impl Summary {
    /// Adds what one run of one shard counted.
    pub(super) fn count(&mut self, counters: &Counters) {
        self.truncations += counters.truncations;
        self.rewritten_bytes += counters.wal_rewritten_bytes;
        self.direct_bytes += counters.direct_bytes_follower;
    }

    /// Adds another run; seed and hash stay.
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.simulated += other.simulated;
        self.faults.add(&other.faults);
        self.appends_done += other.appends_done;
        self.appends_not_done += other.appends_not_done;
        self.appends_unknown += other.appends_unknown;
        self.session_requests += other.session_requests;
        self.reads += other.reads;
        self.recoveries += other.recoveries;
        self.cuts += other.cuts;
        self.recycles += other.recycles;
        self.elections += other.elections;
        self.installs += other.installs;
        self.truncations += other.truncations;
        self.rewritten_bytes += other.rewritten_bytes;
        self.direct_bytes += other.direct_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_counted_by_name() {
        let mut tally = Tally::default();
        tally.count(Fault::Cut);
        tally.count(Fault::Cut);
        tally.count(Fault::Rot);
        let found: Vec<_> = tally.list().filter(|(_, count)| *count > 0).collect();
        assert_eq!(found, [("cut", 2), ("rot", 1)]);
        assert_eq!(tally.total(), 3);
    }
}
