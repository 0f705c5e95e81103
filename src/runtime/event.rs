//! What a node tells people while it runs: one line each.
//!
//! Events leave a shard through a bounded channel that never blocks it; what does not fit is
//! counted and the count is told later (I-12). Whoever runs the node prints them.

use core::cell::{Cell, RefCell};
use core::fmt;
use core::time::Duration;
use std::sync::mpsc::SyncSender;

use super::segments::Access;
use crate::model::{NodeId, ShardId};
use crate::shard::{Lane, Notice};

/// Events that may wait to be printed.
pub(super) const EVENTS_WAITING_MAX: usize = 4096;

/// One line of a node's log.
#[derive(Clone, Debug)]
pub struct Event {
    /// Where it happened.
    pub shard: ShardId,
    /// What.
    pub kind: EventKind,
}

/// What can happen.
#[derive(Clone, Debug)]
pub enum EventKind {
    /// The shard has recovered its log and serves.
    Serving {
        /// Whether ring memory and files are registered; without, each write costs a little more.
        registered: bool,
        /// Whether the log bypasses the page cache. If not, it is not durable.
        direct: bool,
        /// Bytes of log that were read to recover.
        recovered_bytes: u64,
        /// How long that took.
        recovery: Duration,
    },
    /// A torn tail was cut at recovery: writes that were never acknowledged.
    Cut {
        /// Where and what.
        what: String,
    },
    /// The shard reports.
    Notice(Notice),
    /// A peer stream is open.
    PeerUp {
        /// To whom.
        peer: NodeId,
        /// Which.
        lane: Lane,
    },
    /// A peer stream has ended.
    PeerDown {
        /// To whom.
        peer: NodeId,
        /// Which.
        lane: Lane,
        /// Why, if it was us.
        reason: String,
    },
    /// A peer could not be reached or was refused. Told once until it changes.
    PeerRefused {
        /// Who or where from.
        peer: String,
        /// Why, and how to go on.
        reason: String,
    },
    /// A client connection was closed by us.
    ClientClosed {
        /// Its number.
        conn: u64,
        /// Why.
        reason: &'static str,
    },
    /// The shard cannot go on; the process ends with exit code 5.
    Halted {
        /// Why, where and how to go on.
        reason: String,
    },
    /// So many events did not fit.
    Lost {
        /// How many.
        count: u64,
    },
}

impl EventKind {
    /// Whether somebody should look at it.
    pub fn is_warning(&self) -> bool {
        match self {
            Self::Serving { registered, direct, .. } => !registered || !direct,
            Self::Cut { .. }
            | Self::PeerRefused { .. }
            | Self::ClientClosed { .. }
            | Self::Halted { .. }
            | Self::Lost { .. } => true,
            Self::Notice(notice) => matches!(notice, Notice::DiskFull | Notice::DeviceStuck),
            Self::PeerUp { .. } | Self::PeerDown { .. } => false,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard={} ", self.shard)?;
        match &self.kind {
            EventKind::Serving { registered, direct, recovered_bytes, recovery } => write!(
                f,
                "event=serving registered={registered} durable={direct} \
                 recovered_bytes={recovered_bytes} recovery_ms={}",
                recovery.as_millis()
            ),
            EventKind::Cut { what } => write!(f, "event=cut what={what:?}"),
            EventKind::Notice(notice) => write_notice(f, *notice),
            EventKind::PeerUp { peer, lane } => {
                write!(f, "event=peer_up peer={peer} lane={}", lane_name(*lane))
            }
            EventKind::PeerDown { peer, lane, reason } => {
                let lane = lane_name(*lane);
                write!(f, "event=peer_down peer={peer} lane={lane} reason={reason:?}")
            }
            EventKind::PeerRefused { peer, reason } => {
                write!(f, "event=peer_refused peer={peer:?} reason={reason:?}")
            }
            EventKind::ClientClosed { conn, reason } => {
                write!(f, "event=client_closed conn={conn} reason={reason:?}")
            }
            EventKind::Halted { reason } => write!(f, "event=halted reason={reason:?}"),
            EventKind::Lost { count } => write!(f, "event=events_lost count={count}"),
        }
    }
}

fn lane_name(lane: Lane) -> &'static str {
    match lane {
        Lane::Control => "control",
        Lane::Bulk => "bulk",
    }
}

fn write_notice(f: &mut fmt::Formatter<'_>, notice: Notice) -> fmt::Result {
    match notice {
        Notice::Leads { group, term } => write!(f, "event=leads group={group} term={term}"),
        Notice::SteppedDown { group } => write!(f, "event=stepped_down group={group}"),
        Notice::Installed { group, last } => {
            write!(f, "event=installed group={group} last={last}")
        }
        Notice::DiskFull => write!(f, "event=disk_full"),
        Notice::DiskHasRoom => write!(f, "event=disk_has_room"),
        Notice::DeviceStuck => write!(f, "event=device_stuck"),
        Notice::DeviceWorks => write!(f, "event=device_works"),
    }
}

/// A shard's end of the channel.
pub(super) struct Teller {
    shard: ShardId,
    /// Gone when the shard has ended.
    sender: RefCell<Option<SyncSender<Event>>>,
    lost: Cell<u64>,
}

impl Teller {
    pub(super) fn new(shard: ShardId, sender: SyncSender<Event>) -> Self {
        Self { shard, sender: RefCell::new(Some(sender)), lost: Cell::new(0) }
    }

    /// Tells, or counts what cannot be told.
    pub(super) fn tell(&self, kind: EventKind) {
        let count = self.lost.take();
        if count > 0 && !self.send(EventKind::Lost { count }) {
            self.lost.set(count + 1);
            return;
        }
        if !self.send(kind) {
            self.lost.set(1);
        }
    }

    fn send(&self, kind: EventKind) -> bool {
        let sender = self.sender.borrow();
        sender.as_ref().is_some_and(|to| to.try_send(Event { shard: self.shard, kind }).is_ok())
    }

    /// Ends the telling.
    pub(super) fn close(&self) {
        self.sender.take();
    }
}

impl Access {
    /// Whether a completed write has reached the device.
    pub(super) const fn is_direct(self) -> bool {
        matches!(self, Self::Direct)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn what_does_not_fit_is_counted_and_told_later() {
        let (sender, receiver) = sync_channel(2);
        let teller = Teller::new(ShardId::new(3), sender);
        for conn in 0..5 {
            teller.tell(EventKind::ClientClosed { conn, reason: "test" });
        }
        let lines = |n| receiver.iter().take(n).map(|e| e.to_string()).collect::<Vec<_>>();
        assert_eq!(
            lines(2),
            [
                "shard=3 event=client_closed conn=0 reason=\"test\"",
                "shard=3 event=client_closed conn=1 reason=\"test\""
            ]
        );
        teller.tell(EventKind::Notice(Notice::DiskFull));
        assert_eq!(lines(2), ["shard=3 event=events_lost count=3", "shard=3 event=disk_full"]);
    }
}
