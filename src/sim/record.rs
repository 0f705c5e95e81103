//! The records that simulated clients append: each unique, each able to prove itself.
//!
//! Apart because the clients make them and the oracles recognise them, wherever they turn up.
//!
//! ```text
//! 0   8  id
//! 8   4  CRC32C of id and filling, rotated
//! 12     filling, drawn from the id
//! ```

use core::fmt;

use crate::base::layout::{get_u32, get_u64};
use crate::base::{Checksum, Prng};

/// What tells a word of the filling from the next one: odd, with many bits.
const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;
/// Bytes of a record without filling.
pub(super) const RECORD_BYTES_MIN: usize = 12;
/// Records of one request at most: what the id has room for.
pub(super) const RECORDS_PER_REQUEST_MAX: u64 = 256;

/// Names one record of one request of one client for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RecordId(u64);

impl RecordId {
    /// Record number `at` of `request` of `client`.
    pub(super) fn new(client: u32, request: u64, at: u64) -> Self {
        assert!(at < RECORDS_PER_REQUEST_MAX && request < 1 << 32, "{request} {at}");
        Self(u64::from(client) << 40 | request << 8 | at)
    }

    /// The record itself, `bytes` long.
    pub(super) fn payload(self, bytes: usize) -> Vec<u8> {
        let first = Prng::new(self.0).next_u64();
        let mut record = vec![0; bytes.max(RECORD_BYTES_MIN)];
        record[..8].copy_from_slice(&self.0.to_le_bytes());
        for (at, chunk) in (0_u64..).zip(record[RECORD_BYTES_MIN..].chunks_mut(8)) {
            let filling = first.wrapping_add(at.wrapping_mul(STRIDE)).to_le_bytes();
            chunk.copy_from_slice(&filling[..chunk.len()]);
        }
        let proof = proof(&record);
        record[8..RECORD_BYTES_MIN].copy_from_slice(&proof.to_le_bytes());
        record
    }

    /// The name as a number, for who keeps many. Never zero: requests are counted from 1.
    pub(super) fn token(self) -> u64 {
        self.0
    }

    /// The record with this number.
    pub(super) fn of_token(token: u64) -> Self {
        Self(token)
    }

    /// Which record this is, if it is one and whole.
    pub(super) fn of(record: &[u8]) -> Option<Self> {
        if record.len() < RECORD_BYTES_MIN {
            return None;
        }
        (proof(record) == get_u32(record, 8)).then(|| Self(get_u64(record, 0)))
    }
}

/// Rotated, because a checksum that directly follows what it covers makes the checksum of both a
/// constant: all records without filling would have one, and so would the batches that hold them.
fn proof(record: &[u8]) -> u32 {
    let crc = Checksum::of(&record[..8]).then(&record[RECORD_BYTES_MIN..]);
    crc.as_u32().rotate_left(13)
}

impl fmt::Debug for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {} request {}.{}", self.0 >> 40, self.0 >> 8 & 0xffff_ffff, self.0 & 0xff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_proves_itself() {
        let id = RecordId::new(3, 70_000, 2);
        for bytes in [0, 12, 13, 200] {
            let mut record = id.payload(bytes);
            assert_eq!(record.len(), bytes.max(RECORD_BYTES_MIN));
            assert_eq!(RecordId::of(&record), Some(id));
            *record.last_mut().unwrap() ^= 1;
            assert_eq!(RecordId::of(&record), None);
        }
        let (a, b) = (RecordId::new(3, 1, 0).payload(12), RecordId::new(3, 2, 0).payload(12));
        assert_ne!(Checksum::of(&a), Checksum::of(&b), "records differ by checksum too");
        assert_eq!(format!("{id:?}"), "client 3 request 70000.2");
    }
}
