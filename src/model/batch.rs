//! The batch: consecutive requests of one group in one term under one header and one checksum.
//!
//! The atom of wire, disk, memory and Raft: proposed, persisted, sent, matched, committed and
//! truncated whole, and sent again byte for byte. Its layout lives here because disk and wire
//! share it. Does not know where a batch lies or who wants it.
//!
//! ```text
//! offset  bytes  field
//!      0      4  magic "CBT1"
//!      4      1  version = 1
//!      5      1  kind: 1 records, 2 no-op, 3 configuration
//!      6      2  flags: bit 0 request table present (reserved, must be 0 in version 1)
//!      8      8  group
//!     16      8  term
//!     24      8  first index
//!     32      4  replica that proposed it
//!     36      4  record count, at least 1
//!     40      4  body length
//!     44      4  CRC32C of the body
//!     48     12  reserved, 0
//!     60      4  CRC32C of bytes 0..60
//!     64         body: per record a u32 length and that many bytes
//! ```
//!
//! A record's length stands before it and not in a table of its own, so that a request's records
//! are one run of bytes from the client's frame to the disk: one copy, one checksum
//! (`docs/decisions/0002-record-layout.md`). A no-op and a configuration are one record each: the
//! no-op's is empty, the configuration's is [`encode_membership`].

use core::fmt;

use super::limits::{BATCH_BYTES_MAX, VOTERS_MAX};
use super::membership::{Member, Membership};
use super::{GroupId, LogIndex, NodeId, RecordCount, ReplicaId, Span, Term};
use crate::base::Checksum;
use crate::base::layout::{
    get_u8, get_u16, get_u32, get_u64, put_array, put_u8, put_u16, put_u32, put_u64,
};

/// Bytes of a batch header.
pub const BATCH_HEADER_BYTES: usize = 64;
/// Bytes before each record: its length.
pub const RECORD_HEADER_BYTES: usize = 4;
const MAGIC: u32 = u32::from_le_bytes(*b"CBT1");
const VERSION: u8 = 1;

/// What a batch carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchKind {
    /// Records that clients appended.
    Records,
    /// The empty entry that opens a leader's term (C-02).
    Noop,
    /// A configuration (thesis 4.1).
    Configuration,
}

impl BatchKind {
    /// Its number in the format.
    pub const fn number(self) -> u8 {
        match self {
            Self::Records => 1,
            Self::Noop => 2,
            Self::Configuration => 3,
        }
    }

    /// The kind with this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Records),
            2 => Some(Self::Noop),
            3 => Some(Self::Configuration),
            _ => None,
        }
    }
}

/// The fixed part of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Whose log.
    pub group: GroupId,
    /// Which replica proposed it.
    pub replica: ReplicaId,
    /// Term and indexes.
    pub span: Span,
    /// What it carries.
    pub kind: BatchKind,
    /// Bytes after the header.
    pub body_bytes: u32,
    /// CRC32C of those bytes.
    pub body_crc: Checksum,
}

/// Why bytes are not a batch. Offsets count from the start of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchError {
    /// Fewer bytes than the header, or than the header promises.
    Short {
        /// What it takes.
        expected_bytes: usize,
        /// What is there.
        found_bytes: usize,
    },
    /// Not the magic number.
    Magic {
        /// What stands there.
        found: u32,
    },
    /// A version this program does not know.
    Version {
        /// What stands there.
        found: u8,
    },
    /// The header's checksum does not hold.
    HeaderCrc {
        /// What stands there.
        expected: Checksum,
        /// What the bytes give.
        found: Checksum,
    },
    /// The body's checksum does not hold.
    BodyCrc {
        /// What the header says.
        expected: Checksum,
        /// What the bytes give.
        found: Checksum,
    },
    /// An unknown kind or flag, or a reserved byte that is not zero.
    Unknown {
        /// Where.
        offset: usize,
    },
    /// No records, more than the limit, or indexes that wrap around.
    Count {
        /// How many the header claims.
        found: u32,
    },
    /// The body is larger than [`BATCH_BYTES_MAX`] allows.
    TooLarge {
        /// What the header claims.
        body_bytes: u32,
    },
    /// The record lengths do not add up to the body.
    Records {
        /// Where the walk failed.
        offset: usize,
    },
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { expected_bytes, found_bytes } => {
                write!(f, "batch of {expected_bytes} bytes ends after {found_bytes}")
            }
            Self::Magic { found } => write!(f, "batch magic is {found:#010x}"),
            Self::Version { found } => write!(f, "batch version is {found}, known is {VERSION}"),
            Self::HeaderCrc { expected, found } => write!(
                f,
                "batch header CRC is {:#010x}, its bytes give {:#010x}",
                expected.as_u32(),
                found.as_u32()
            ),
            Self::BodyCrc { expected, found } => write!(
                f,
                "batch body CRC is {:#010x}, its bytes give {:#010x}",
                expected.as_u32(),
                found.as_u32()
            ),
            Self::Unknown { offset } => write!(f, "unknown batch field at byte {offset}"),
            Self::Count { found } => write!(f, "impossible record count {found}"),
            Self::TooLarge { body_bytes } => write!(f, "batch body of {body_bytes} bytes"),
            Self::Records { offset } => write!(f, "record lengths do not add up at {offset}"),
        }
    }
}

impl BatchHeader {
    /// Bytes of the whole batch.
    pub fn batch_bytes(&self) -> usize {
        BATCH_HEADER_BYTES + self.body_bytes as usize
    }

    /// Writes the header into the first [`BATCH_HEADER_BYTES`] of `to`.
    pub fn encode(&self, to: &mut [u8]) {
        let to = &mut to[..BATCH_HEADER_BYTES];
        to.fill(0);
        put_u32(to, 0, MAGIC);
        put_u8(to, 4, VERSION);
        put_u8(to, 5, self.kind.number());
        put_u16(to, 6, 0);
        put_u64(to, 8, self.group.get());
        put_u64(to, 16, self.span.term.get());
        put_u64(to, 24, self.span.first.get());
        put_u32(to, 32, self.replica.get());
        put_u32(to, 36, self.span.count.get());
        put_u32(to, 40, self.body_bytes);
        put_u32(to, 44, self.body_crc.as_u32());
        let crc = Checksum::of(&to[..60]);
        put_u32(to, 60, crc.as_u32());
    }

    /// Reads and checks a header; the body is not looked at.
    ///
    /// # Errors
    /// Whatever is wrong with it, with the place.
    pub fn decode(from: &[u8]) -> Result<Self, BatchError> {
        if from.len() < BATCH_HEADER_BYTES {
            return Err(BatchError::Short {
                expected_bytes: BATCH_HEADER_BYTES,
                found_bytes: from.len(),
            });
        }
        let from = &from[..BATCH_HEADER_BYTES];
        let magic = get_u32(from, 0);
        if magic != MAGIC {
            return Err(BatchError::Magic { found: magic });
        }
        let expected = Checksum::from_u32(get_u32(from, 60));
        let found = Checksum::of(&from[..60]);
        if expected != found {
            return Err(BatchError::HeaderCrc { expected, found });
        }
        if get_u8(from, 4) != VERSION {
            return Err(BatchError::Version { found: get_u8(from, 4) });
        }
        let kind =
            BatchKind::from_number(get_u8(from, 5)).ok_or(BatchError::Unknown { offset: 5 })?;
        if get_u16(from, 6) != 0 {
            return Err(BatchError::Unknown { offset: 6 });
        }
        if from[48..60].iter().any(|b| *b != 0) {
            return Err(BatchError::Unknown { offset: 48 });
        }
        let (first, count) = (get_u64(from, 24), get_u32(from, 36));
        if count == 0 || first == 0 || first.checked_add(u64::from(count)).is_none() {
            return Err(BatchError::Count { found: count });
        }
        let body_bytes = get_u32(from, 40);
        if body_bytes as usize > BATCH_BYTES_MAX - BATCH_HEADER_BYTES {
            return Err(BatchError::TooLarge { body_bytes });
        }
        Ok(Self {
            group: GroupId::new(get_u64(from, 8)),
            replica: ReplicaId::new(get_u32(from, 32)),
            span: Span {
                term: Term::new(get_u64(from, 16)),
                first: LogIndex::new(first),
                count: RecordCount::new(count),
            },
            kind,
            body_bytes,
            body_crc: Checksum::from_u32(get_u32(from, 44)),
        })
    }
}

/// A batch whose header and body checksum were verified.
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    /// Its header.
    pub header: BatchHeader,
    /// Its body.
    pub body: &'a [u8],
}

impl<'a> BatchView<'a> {
    /// Reads the batch at the start of `from` and verifies both checksums (R-05, W-15). Record
    /// lengths are not walked: [`BatchView::records`] does, when somebody wants the records.
    ///
    /// # Errors
    /// Whatever is wrong with it, with the place.
    pub fn decode(from: &'a [u8]) -> Result<Self, BatchError> {
        let header = BatchHeader::decode(from)?;
        let end = header.batch_bytes();
        if from.len() < end {
            return Err(BatchError::Short { expected_bytes: end, found_bytes: from.len() });
        }
        let body = &from[BATCH_HEADER_BYTES..end];
        let found = Checksum::of(body);
        if found != header.body_crc {
            return Err(BatchError::BodyCrc { expected: header.body_crc, found });
        }
        Ok(Self { header, body })
    }

    /// Its records with their indexes, in order. Yields an error and ends if the lengths do not
    /// add up, which a matching checksum makes a writer's mistake.
    pub fn records(&self) -> Records<'a> {
        Records {
            body: self.body,
            at: 0,
            next: self.header.span.first,
            left: self.header.span.count.get(),
        }
    }
}

/// Iterates over the records of a batch body.
pub struct Records<'a> {
    body: &'a [u8],
    at: usize,
    next: LogIndex,
    left: u32,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(LogIndex, &'a [u8]), BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let rest = self.at != self.body.len();
            let error = BatchError::Records { offset: BATCH_HEADER_BYTES + self.at };
            self.at = self.body.len();
            return rest.then_some(Err(error));
        }
        match record_at(self.body, self.at) {
            Some(record) => {
                let index = self.next;
                self.at += RECORD_HEADER_BYTES + record.len();
                self.next = index.next();
                self.left -= 1;
                Some(Ok((index, record)))
            }
            None => {
                let error = BatchError::Records { offset: BATCH_HEADER_BYTES + self.at };
                self.left = 0;
                self.at = self.body.len();
                Some(Err(error))
            }
        }
    }
}

/// The record whose length stands at `at`, or `None` if it does not fit into `body`.
pub fn record_at(body: &[u8], at: usize) -> Option<&[u8]> {
    let rest = body.get(at..)?;
    if rest.len() < RECORD_HEADER_BYTES {
        return None;
    }
    let bytes = get_u32(rest, 0) as usize;
    rest.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES.checked_add(bytes)?)
}

/// Whether `body` is exactly `count` records. One length check per record.
pub fn records_add_up(body: &[u8], count: u32) -> bool {
    let mut at = 0;
    for _ in 0..count {
        let Some(record) = record_at(body, at) else { return false };
        at += RECORD_HEADER_BYTES + record.len();
    }
    at == body.len()
}

/// Appends the body of a batch of one record.
pub fn encode_record(record: &[u8], to: &mut Vec<u8>) {
    let bytes = u32::try_from(record.len()).expect("a record is below the limit");
    to.extend_from_slice(&bytes.to_le_bytes());
    to.extend_from_slice(record);
}

/// Makes a whole batch in memory of its own: for tests, tools and the rare kinds.
pub fn encode_batch(
    group: GroupId,
    replica: ReplicaId,
    span: Span,
    kind: BatchKind,
    body: &[u8],
) -> Vec<u8> {
    let mut bytes = vec![0; BATCH_HEADER_BYTES + body.len()];
    let header = BatchHeader {
        group,
        replica,
        span,
        kind,
        body_bytes: u32::try_from(body.len()).expect("a batch is below the limit"),
        body_crc: Checksum::of(body),
    };
    header.encode(&mut bytes);
    put_array(&mut bytes, BATCH_HEADER_BYTES, body);
    bytes
}

/// The bytes of a membership: three lists (voters, outgoing, learners), each a u32 count and per
/// member u16 node, u16 zero, u32 replica.
pub fn encode_membership(membership: &Membership, to: &mut Vec<u8>) {
    for list in [&membership.voters, &membership.outgoing, &membership.learners] {
        let count = u32::try_from(list.len()).expect("a handful");
        to.extend_from_slice(&count.to_le_bytes());
        for member in list {
            to.extend_from_slice(&member.node.get().to_le_bytes());
            to.extend_from_slice(&[0; 2]);
            to.extend_from_slice(&member.replica.get().to_le_bytes());
        }
    }
}

/// Reads what [`encode_membership`] wrote from the start of `from`; returns it with the bytes it
/// took, or `None` if it is not one.
pub fn decode_membership(from: &[u8]) -> Option<(Membership, usize)> {
    let mut at = 0;
    let mut lists: [Vec<Member>; 3] = Default::default();
    for list in &mut lists {
        let count = get_u32(from.get(at..at + 4)?, 0) as usize;
        at += 4;
        if count > VOTERS_MAX {
            return None;
        }
        for _ in 0..count {
            let member = from.get(at..at + 8)?;
            if get_u16(member, 2) != 0 {
                return None;
            }
            list.push(Member {
                node: NodeId::new(get_u16(member, 0)),
                replica: ReplicaId::new(get_u32(member, 4)),
            });
            at += 8;
        }
    }
    let [voters, outgoing, learners] = lists;
    let membership = Membership { voters, outgoing, learners };
    membership.check().ok()?;
    Some((membership, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(records: &[&[u8]]) -> Vec<u8> {
        let mut body = Vec::new();
        for record in records {
            encode_record(record, &mut body);
        }
        let span = Span {
            term: Term::new(3),
            first: LogIndex::new(10),
            count: RecordCount::new(u32::try_from(records.len()).expect("few")),
        };
        encode_batch(GroupId::new(7), ReplicaId::new(2), span, BatchKind::Records, &body)
    }

    #[test]
    fn a_batch_survives_the_round_trip() {
        let bytes = batch(&[b"one", b"", b"three"]);
        let view = BatchView::decode(&bytes).expect("valid");
        assert_eq!(view.header.span.last(), LogIndex::new(12));
        let records: Vec<_> = view.records().map(|r| r.expect("valid")).collect();
        assert_eq!(records[0], (LogIndex::new(10), &b"one"[..]));
        assert_eq!(records[1], (LogIndex::new(11), &b""[..]));
        assert_eq!(records[2], (LogIndex::new(12), &b"three"[..]));
        assert_eq!(records.len(), 3);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let good = batch(&[b"one", b"two"]);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(BatchView::decode(&bad).is_err(), "bit {bit} flipped unnoticed");
        }
    }

    #[test]
    fn every_short_read_is_an_error() {
        let good = batch(&[b"one", b"two"]);
        for bytes in 0..good.len() {
            assert!(BatchView::decode(&good[..bytes]).is_err());
        }
    }

    #[test]
    fn lengths_that_do_not_add_up_are_found() {
        let mut body = Vec::new();
        encode_record(b"abc", &mut body);
        assert!(records_add_up(&body, 1));
        assert!(!records_add_up(&body, 2));
        assert!(!records_add_up(&body[..6], 1));
        body.push(0);
        assert!(!records_add_up(&body, 1));
        let span = Span { term: Term::new(1), first: LogIndex::new(1), count: RecordCount::new(1) };
        let bytes =
            encode_batch(GroupId::new(1), ReplicaId::new(1), span, BatchKind::Records, &body);
        let view = BatchView::decode(&bytes).expect("the checksums hold");
        assert!(view.records().last().expect("one").is_err());
    }

    #[test]
    fn a_membership_survives_the_round_trip() {
        let nodes: Vec<NodeId> = [1, 2, 3].map(NodeId::new).to_vec();
        let membership = Membership::of_voters(&nodes);
        let mut bytes = Vec::new();
        encode_membership(&membership, &mut bytes);
        assert_eq!(decode_membership(&bytes), Some((membership, bytes.len())));
        for cut in 0..bytes.len() {
            assert_eq!(decode_membership(&bytes[..cut]), None);
        }
    }
}
