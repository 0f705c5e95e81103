//! What a record of a run looks like: who it is, and bytes that can be checked.
//!
//! ```text
//! offset  bytes  field
//!      0      8  run: drawn at start, so that records of other runs in the same log are told apart
//!      8      8  place of the group in this run (upper 24 bits), number in the group (lower 40)
//!     16         pattern of the run, the same in every record
//! ```
//!
//! Numbers count per group, because groups are separate logs and runs of numbers then lie beside
//! runs of log indexes, which keeps the ledger small. Records below 16 bytes are pattern only.

use catamaran::base::{Checksum, Prng};
use catamaran::wire::client::encode_append_body;

use crate::args::RECORD_ID_BYTES;

const NUMBER_BITS: u32 = 40;
const ID_BYTES: usize = RECORD_ID_BYTES as usize;
const LENGTH_BYTES: usize = catamaran::model::batch::RECORD_HEADER_BYTES;

/// Makes and recognises the records of one run.
#[derive(Clone, Debug)]
pub(crate) struct Payload {
    run: [u8; 8],
    /// One record as it would be with number 0 of group 0.
    template: Vec<u8>,
    /// The body of an append request; only the identities of its records change.
    body: Vec<u8>,
    /// Where in it the first record begins, behind its length.
    first_at: usize,
    records_per_request: u32,
    /// Requests of one identified record: their checksum without reading them.
    checksums: Option<IdChecksums>,
}

impl Payload {
    /// Records of `record_bytes` for the run named `run`.
    pub(crate) fn new(run: u64, record_bytes: u32, records_per_request: u32) -> Self {
        let mut chance = Prng::new(run);
        let mut template: Vec<u8> =
            (0..record_bytes).map(|_| chance.next_u64().to_le_bytes()[0]).collect();
        let run = run.to_le_bytes();
        if template.len() >= ID_BYTES {
            template[..8].copy_from_slice(&run);
            template[8..ID_BYTES].fill(0);
        }
        let mut body = Vec::new();
        let records = vec![&template; records_per_request as usize];
        encode_append_body(&mut body, None, &records);
        let run_bytes = records.len() * (LENGTH_BYTES + template.len());
        let first_at = body.len() - run_bytes + LENGTH_BYTES;
        let one = records_per_request == 1 && template.len() >= ID_BYTES;
        let checksums = one.then(|| IdChecksums::new(&mut body, first_at + 8));
        Self { run, template, body, first_at, records_per_request, checksums }
    }

    /// Records in one request.
    pub(crate) fn records_per_request(&self) -> u32 {
        self.records_per_request
    }

    /// The body of an append request with records numbered from `first`, and its checksum. Valid
    /// until the next call.
    #[inline]
    pub(crate) fn append_body(&mut self, group: u32, first: u64) -> (&[u8], Checksum) {
        if self.template.len() >= ID_BYTES {
            let stride = LENGTH_BYTES + self.template.len();
            let first = identity(group, first);
            let ends = first + u64::from(self.records_per_request);
            let mut at = self.first_at + 8;
            for id in first..ends {
                self.body[at..at + 8].copy_from_slice(&id.to_le_bytes());
                at += stride;
            }
            if let Some(checksums) = &self.checksums {
                return (&self.body, checksums.with(first));
            }
        }
        (&self.body, Checksum::of(&self.body))
    }

    /// Which record of `group` this is, or `None` if it is not one of this run's, or not byte for
    /// byte what was sent.
    #[inline]
    pub(crate) fn number_of(&self, group: u32, record: &[u8]) -> Option<u64> {
        if record.len() != self.template.len() || record.len() < ID_BYTES {
            return None;
        }
        let (id, pattern) = record.split_at(ID_BYTES);
        let (run, place) = id.split_at(8);
        if run != self.run || pattern != &self.template[ID_BYTES..] {
            return None;
        }
        let place = u64::from_le_bytes(place.try_into().expect("split at 8 of 16"));
        (place >> NUMBER_BITS == u64::from(group)).then_some(place & ((1 << NUMBER_BITS) - 1))
    }
}

/// The checksums of bodies that differ in eight bytes only.
///
/// CRC32C is linear: what eight bytes change in it is the exclusive or of what each of them
/// changes alone, and that is looked up. For one small record this takes a tenth of the time of
/// the checksum itself, which otherwise is the largest part of what a request costs here.
#[derive(Clone, Debug)]
struct IdChecksums {
    zero: u32,
    change: Box<[[u32; 256]; 8]>,
}

impl IdChecksums {
    /// For bodies like `body`, whose eight bytes at `at` are zero (and are so again afterwards).
    fn new(body: &mut [u8], at: usize) -> Self {
        assert_eq!(body[at..at + 8], [0; 8]);
        let zero = Checksum::of(body).as_u32();
        let mut change = Box::new([[0; 256]; 8]);
        for (place, change) in change.iter_mut().enumerate() {
            for (value, change) in (0..=u8::MAX).zip(change) {
                body[at + place] = value;
                *change = Checksum::of(body).as_u32() ^ zero;
            }
            body[at + place] = 0;
        }
        Self { zero, change }
    }

    /// The checksum with these eight bytes, little-endian.
    #[inline]
    fn with(&self, id: u64) -> Checksum {
        let bytes = id.to_le_bytes().into_iter().zip(self.change.iter());
        let crc = bytes.fold(self.zero, |crc, (byte, change)| crc ^ change[usize::from(byte)]);
        Checksum::from_u32(crc)
    }
}

fn identity(group: u32, number: u64) -> u64 {
    assert!(group < 1 << (64 - NUMBER_BITS) && number < 1 << NUMBER_BITS);
    u64::from(group) << NUMBER_BITS | number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_recognised_only_as_itself() {
        let mut payload = Payload::new(77, 40, 3);
        let body = payload.append_body(5, 1000).0.to_vec();
        let records: Vec<&[u8]> = body[body.len() - 3 * 44..].chunks(44).map(|r| &r[4..]).collect();
        assert_eq!(records.len(), 3);
        for (i, record) in records.iter().enumerate() {
            assert_eq!(payload.number_of(5, record), Some(1000 + i as u64));
            assert_eq!(payload.number_of(6, record), None, "another group's log");
            for at in (0..8).chain(16..40) {
                let mut changed = record.to_vec();
                changed[at] ^= 1;
                assert_eq!(payload.number_of(5, &changed), None, "byte {at}");
            }
        }
        assert_eq!(Payload::new(78, 40, 3).number_of(5, records[0]), None, "another run");
        assert_eq!(payload.number_of(5, &records[0][..39]), None, "cut");
    }

    #[test]
    fn the_checksum_is_that_of_the_body() {
        for (record_bytes, records) in [(16, 1), (200, 1), (4096, 1), (200, 3), (8, 1)] {
            let mut payload = Payload::new(3, record_bytes, records);
            for (group, number) in [(0, 0), (0, 1), (7, 0x12_3456_789a), (9999, 255), (1, 256)] {
                let (body, checksum) = payload.append_body(group, number);
                assert_eq!(Checksum::of(body), checksum, "{record_bytes} {group} {number}");
            }
        }
    }

    #[test]
    fn small_records_carry_no_identity() {
        let mut payload = Payload::new(1, 8, 2);
        let body = payload.append_body(0, 0).0.to_vec();
        assert_eq!(body, payload.append_body(3, 77).0);
        assert_eq!(payload.records_per_request(), 2);
        assert_eq!(payload.number_of(0, &[0; 8]), None);
    }
}
