//! What a node durably remembers of a peer, and the verdict on what that peer shows next (O-04).
//!
//! Pure, and apart from `handshake`, because two places judge by it: a handshake, and whoever makes
//! a pin durable while other streams of the same peer shake hands. Does not: store anything.

use super::handshake::{HandshakeError, PeerFacts};
use crate::model::{BootCounter, NodeUuid, RunId};

/// One per peer and node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The peer's data directory, for ever.
    pub uuid: NodeUuid,
    /// The highest boot counter it showed.
    pub boot: BootCounter,
    /// The run that showed it. The counter alone does not tell the run that the peers saw from
    /// one that began with a copy: an image of the directory that is one start old counts to the
    /// very same number when it is started.
    pub run: RunId,
}

impl Pin {
    /// What the sender of `facts` shows.
    pub const fn of(facts: &PeerFacts) -> Self {
        Self { uuid: facts.uuid, boot: facts.boot, run: facts.run }
    }

    /// Whether `shown` may be the node that `self` was learnt from: the same run, or a later one
    /// of the same data directory.
    ///
    /// A copy that was started as often as the original cannot be told from it by this, and one
    /// that is taken and started while the original has not been started again counts one higher.
    ///
    /// # Errors
    /// [`HandshakeError::Uuid`], [`HandshakeError::Boot`] or [`HandshakeError::Run`].
    pub fn check(&self, shown: &Self) -> Result<(), HandshakeError> {
        if shown.uuid != self.uuid && !planted!(O04_STRANGE_DISK_LET_IN) {
            return Err(HandshakeError::Uuid { found: shown.uuid });
        }
        if shown.boot < self.boot && !planted!(O04_OLD_IMAGE_LET_IN) {
            return Err(HandshakeError::Boot { pinned: self.boot, found: shown.boot });
        }
        if shown.boot == self.boot && shown.run != self.run {
            return Err(HandshakeError::Run { boot: shown.boot });
        }
        Ok(())
    }

    /// Whether streams of `self` are of the past once `other` has shaken hands: the peer was
    /// started again since.
    pub fn is_before(&self, other: &Self) -> bool {
        self.uuid == other.uuid && self.boot < other.boot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(uuid: u8, boot: u64, run: u8) -> Pin {
        Pin {
            uuid: NodeUuid::new([uuid; 16]),
            boot: BootCounter::new(boot),
            run: RunId::new([run; 16]),
        }
    }

    #[test]
    fn a_peer_is_the_same_run_or_a_later_one() {
        let number = |shown: Pin| pin(1, 5, 7).check(&shown).map_err(|error| error.number());
        assert_eq!(number(pin(1, 5, 7)), Ok(()));
        assert_eq!(number(pin(1, 6, 8)), Ok(()));
        assert_eq!(number(pin(2, 6, 8)), Err(9));
        assert_eq!(number(pin(1, 4, 7)), Err(10));
        assert_eq!(number(pin(1, 4, 8)), Err(10));
        assert_eq!(number(pin(1, 5, 8)), Err(14));
    }

    #[test]
    fn only_an_earlier_run_of_the_same_directory_is_of_the_past() {
        assert!(pin(1, 5, 7).is_before(&pin(1, 6, 8)));
        assert!(!pin(1, 6, 8).is_before(&pin(1, 5, 7)));
        assert!(!pin(1, 5, 7).is_before(&pin(1, 5, 7)));
        assert!(!pin(1, 5, 7).is_before(&pin(2, 6, 8)));
    }
}
