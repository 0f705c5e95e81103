//! Whose log this is: the identity that every block header carries (W-02).
//!
//! Apart because a block copied from another node, cluster or shard must be told from our own
//! before anything else of it is believed.

use crate::model::{ClusterId, NodeUuid, ShardId};

/// Names the log of one shard of one formatted data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The data directory.
    pub node: NodeUuid,
    /// The shard in it.
    pub shard: ShardId,
}

impl Identity {
    /// The 64 bits that stand in each block header: FNV-1a over cluster id, node uuid and shard
    /// (2 bytes, little-endian). Tells accidents apart; it is no defence against forgery, as
    /// little as a CRC is.
    pub fn tag(&self) -> u64 {
        let shard = self.shard.get().to_le_bytes();
        let bytes = self.cluster.get().into_iter().chain(self.node.get()).chain(shard);
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_identity_counts() {
        let identity = Identity {
            cluster: ClusterId::new([1; 16]),
            node: NodeUuid::new([2; 16]),
            shard: ShardId::new(3),
        };
        let others = [
            Identity { cluster: ClusterId::new([9; 16]), ..identity },
            Identity { node: NodeUuid::new([9; 16]), ..identity },
            Identity { shard: ShardId::new(9), ..identity },
            Identity { cluster: ClusterId::new([2; 16]), node: NodeUuid::new([1; 16]), ..identity },
        ];
        assert!(others.iter().all(|other| other.tag() != identity.tag()));
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        // Offset basis times prime, 34 times, over zeros: fixed for ever, it stands on disks.
        let zero = Identity {
            cluster: ClusterId::default(),
            node: NodeUuid::default(),
            shard: ShardId::default(),
        };
        let mut expected: u64 = 0xcbf2_9ce4_8422_2325;
        for _ in 0..34 {
            expected = expected.wrapping_mul(0x0000_0100_0000_01b3);
        }
        assert_eq!(zero.tag(), expected);
    }
}
