//! Requests: their layouts, encoders and the one decoder that a node runs on every frame.
//!
//! A request that makes no sense, or asks for what is only reserved, decodes to the
//! [`Refusal`] that answers it: the stream stays framed either way (N-02).

use super::super::frame::{Address, FRAME_HEADER_BYTES, FrameError, Reader, Sink, encode_frame};
use super::super::frame::{FrameHeader, PROTOCOL_VERSION};
use super::{ErrorCode, Kind};
use crate::model::batch::{BATCH_HEADER_BYTES, RECORD_HEADER_BYTES, records_add_up};
use crate::model::limits::BATCH_BYTES_MAX;
use crate::model::{ClusterId, GroupId, LogIndex, RecordCount, Refusal};

/// Append flag: producer id, epoch and sequence follow (reserved, refused in version 1).
const FLAG_PRODUCER: u32 = 1;
/// Append flag: the expected last index of the log follows.
const FLAG_EXPECTED_TAIL: u32 = 2;
/// The longest name a client may give itself.
const NAME_BYTES_MAX: usize = 256;

/// Bytes that a request's records, lengths included, may have: a batch without its header.
#[expect(clippy::cast_possible_truncation, reason = "below 1 MiB, and `try_from` is not const")]
const RECORDS_BYTES_MAX: u32 = (BATCH_BYTES_MAX - BATCH_HEADER_BYTES) as u32;

/// Any request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// First on every connection.
    Hello(Hello<'a>),
    /// Asks for nodes and leaders.
    Metadata,
    /// Appends records to the group in the frame header.
    Append(Append<'a>),
    /// Reads records of the group in the frame header.
    Read(Read),
    /// Asks for the status text.
    Status,
}

/// Who connects.
///
/// ```text
///      0      1  oldest protocol version spoken
///      1      1  newest protocol version spoken
///      2      2  name length
///      4      4  length of credentials, reserved: 0 in version 1
///      8     16  cluster id, all zero for any
///     24         name, UTF-8, for logs
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Oldest protocol version the client speaks.
    pub version_min: u8,
    /// Newest protocol version the client speaks.
    pub version_max: u8,
    /// The cluster it wants, or all zero for any.
    pub cluster: ClusterId,
    /// What it calls itself. For logs; means nothing.
    pub name: &'a str,
}

/// Records to append, all or none, in this order, without others between them.
///
/// ```text
///      0      4  flags: bit 0 producer fields (reserved), bit 1 expected tail
///      4      4  record count, at least 1
///     (8)    24  producer id u64, epoch u32, zero u32, sequence u64, if bit 0
///      .      8  expected last index of the log, if bit 1
///      .         per record a u32 length and that many bytes
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Append<'a> {
    /// Append only if the log's last index is this one.
    pub expected_tail: Option<LogIndex>,
    /// How many records.
    pub count: RecordCount,
    /// The run of records exactly as a batch's body has it. Checked: the lengths add up.
    pub records: &'a [u8],
}

impl Append<'_> {
    /// Where the run of records begins in the frame, counted from the frame's start.
    pub fn records_offset(&self) -> usize {
        FRAME_HEADER_BYTES + 8 + if self.expected_tail.is_some() { 8 } else { 0 }
    }

    /// Bytes of the records themselves, without their lengths.
    pub fn record_bytes(&self) -> usize {
        self.records.len() - RECORD_HEADER_BYTES * self.count.get() as usize
    }
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every append that was acknowledged before the read was sent (thesis 6.4).
    #[default]
    Linearizable,
    /// Whatever this node knows to be committed; any replica answers.
    Stale,
}

impl Consistency {
    /// Its number on the wire.
    pub const fn number(self) -> u8 {
        match self {
            Self::Linearizable => 0,
            Self::Stale => 1,
        }
    }

    /// The consistency with this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Linearizable),
            1 => Some(Self::Stale),
            _ => None,
        }
    }
}

/// A wish for committed records.
///
/// ```text
///      0      8  first index wanted, at least 1
///      8      4  bytes of batches wanted at most
///     12      1  consistency: 0 linearizable, 1 stale
///     13      3  0
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// The first index wanted.
    pub from: LogIndex,
    /// Bytes of whole batches wanted at most; the first batch comes even if it is larger.
    pub max_bytes: u32,
    /// How fresh.
    pub consistency: Consistency,
}

impl<'a> Request<'a> {
    /// Reads the request in a checked frame.
    ///
    /// # Errors
    /// The refusal that answers the frame: `Unsupported` for kinds, flags and credentials that
    /// are reserved or unknown, `Malformed` for a broken layout, `TooLarge` for too many bytes.
    #[inline]
    pub fn decode(header: &FrameHeader, body: &'a [u8]) -> Result<Self, Refusal> {
        if header.covered_bytes != header.body_bytes {
            return Err(Refusal::Malformed);
        }
        match Kind::from_number(header.kind) {
            Some(Kind::Append) => Append::decode(body).map(Self::Append),
            Some(Kind::Read) => Read::decode(body).map(Self::Read),
            Some(Kind::Hello) => Hello::decode(body).map(Self::Hello),
            Some(Kind::Metadata) => empty(body, Self::Metadata),
            Some(Kind::Status) => empty(body, Self::Status),
            Some(
                Kind::Tail
                | Kind::Credit
                | Kind::Trim
                | Kind::KeyValue
                | Kind::HelloReply
                | Kind::MetadataReply
                | Kind::AppendReply
                | Kind::ReadReply
                | Kind::StatusReply
                | Kind::TailReply
                | Kind::CreditReply
                | Kind::TrimReply
                | Kind::KeyValueReply
                | Kind::Error,
            )
            | None => Err(Refusal::Unsupported),
        }
    }
}

fn empty<'a>(body: &[u8], request: Request<'a>) -> Result<Request<'a>, Refusal> {
    if body.is_empty() { Ok(request) } else { Err(Refusal::Malformed) }
}

fn malformed(_: FrameError) -> Refusal {
    Refusal::Malformed
}

impl<'a> Hello<'a> {
    /// A hello of this program's versions.
    pub fn new(cluster: ClusterId, name: &'a str) -> Self {
        Self { version_min: PROTOCOL_VERSION, version_max: PROTOCOL_VERSION, cluster, name }
    }

    /// Whether a node of `cluster` can talk to this client; the version to talk in.
    ///
    /// # Errors
    /// The code of the error reply, after which the connection is closed.
    pub fn check(&self, cluster: ClusterId) -> Result<u8, ErrorCode> {
        if !(self.version_min..=self.version_max).contains(&PROTOCOL_VERSION) {
            return Err(ErrorCode::WrongVersion);
        }
        if self.cluster != ClusterId::default() && self.cluster != cluster {
            return Err(ErrorCode::WrongCluster);
        }
        Ok(PROTOCOL_VERSION)
    }

    fn decode(body: &'a [u8]) -> Result<Self, Refusal> {
        let mut from = Reader::new(body);
        let mut fixed = || -> Result<_, FrameError> {
            Ok((from.u8()?, from.u8()?, from.u16()?, from.u32()?, from.array()?))
        };
        let (version_min, version_max, name_bytes, credential_bytes, cluster) =
            fixed().map_err(malformed)?;
        if credential_bytes != 0 {
            // A client that shows credentials expects them to be looked at.
            return Err(Refusal::Unsupported);
        }
        let name_bytes = usize::from(name_bytes);
        if name_bytes > NAME_BYTES_MAX || version_max < version_min {
            return Err(Refusal::Malformed);
        }
        let name = from.text(name_bytes).map_err(malformed)?;
        from.end().map_err(malformed)?;
        Ok(Self { version_min, version_max, cluster: ClusterId::new(cluster), name })
    }
}

impl<'a> Append<'a> {
    #[inline]
    fn decode(body: &'a [u8]) -> Result<Self, Refusal> {
        let mut from = Reader::new(body);
        let flags = from.u32().map_err(malformed)?;
        let count = from.u32().map_err(malformed)?;
        if flags & !FLAG_EXPECTED_TAIL != 0 {
            // `FLAG_PRODUCER` included: its fields have a place in the format and no meaning yet.
            return Err(Refusal::Unsupported);
        }
        let expected_tail = if flags & FLAG_EXPECTED_TAIL == 0 {
            None
        } else {
            Some(LogIndex::new(from.u64().map_err(malformed)?))
        };
        let records = from.rest();
        if records.len() > RECORDS_BYTES_MAX as usize {
            return Err(Refusal::TooLarge { limit_bytes: RECORDS_BYTES_MAX });
        }
        if count == 0 || !records_add_up(records, count) {
            return Err(Refusal::Malformed);
        }
        Ok(Self { expected_tail, count: RecordCount::new(count), records })
    }
}

impl Read {
    fn decode(body: &[u8]) -> Result<Self, Refusal> {
        let mut from = Reader::new(body);
        let mut fixed = || -> Result<_, FrameError> {
            let fields = (from.u64()?, from.u32()?, from.u8()?);
            from.reserved(3)?;
            from.end()?;
            Ok(fields)
        };
        let (first, max_bytes, consistency) = fixed().map_err(malformed)?;
        if first == 0 {
            return Err(Refusal::Malformed);
        }
        let consistency = Consistency::from_number(consistency).ok_or(Refusal::Unsupported)?;
        Ok(Self { from: LogIndex::new(first), max_bytes, consistency })
    }
}

/// Appends a hello frame.
///
/// # Panics
/// If the name is longer than 256 bytes.
pub fn encode_hello<S: Sink>(to: &mut S, correlation: u64, hello: &Hello<'_>) {
    assert!(hello.name.len() <= NAME_BYTES_MAX, "a name of {} bytes", hello.name.len());
    encode_frame(to, address(Kind::Hello, correlation, GroupId::new(0)), |to| {
        to.put_u8(hello.version_min);
        to.put_u8(hello.version_max);
        to.put_u16_le(u16::try_from(hello.name.len()).expect("checked above"));
        to.put_u32_le(0);
        to.put_slice(&hello.cluster.get());
        to.put_slice(hello.name.as_bytes());
    });
}

/// Appends a metadata request.
pub fn encode_metadata<S: Sink>(to: &mut S, correlation: u64) {
    encode_frame(to, address(Kind::Metadata, correlation, GroupId::new(0)), |_| ());
}

/// Appends a status request.
pub fn encode_status<S: Sink>(to: &mut S, correlation: u64) {
    encode_frame(to, address(Kind::Status, correlation, GroupId::new(0)), |_| ());
}

/// Appends a read request.
pub fn encode_read<S: Sink>(to: &mut S, correlation: u64, group: GroupId, read: &Read) {
    encode_frame(to, address(Kind::Read, correlation, group), |to| {
        to.put_u64_le(read.from.get());
        to.put_u32_le(read.max_bytes);
        to.put_u8(read.consistency.number());
        to.put_bytes(0, 3);
    });
}

/// Appends an append request.
///
/// # Panics
/// If there is no record, or the frame would be larger than a node accepts: see
/// [`append_frame_bytes`].
pub fn encode_append<S: Sink, R: AsRef<[u8]>>(
    to: &mut S,
    correlation: u64,
    group: GroupId,
    expected_tail: Option<LogIndex>,
    records: &[R],
) {
    encode_frame(to, address(Kind::Append, correlation, group), |to| {
        encode_append_body(to, expected_tail, records);
    });
}

/// Appends the body of an append request only: for clients that keep a frame and change few of
/// its bytes.
///
/// # Panics
/// As [`encode_append`].
pub fn encode_append_body<S: Sink, R: AsRef<[u8]>>(
    to: &mut S,
    expected_tail: Option<LogIndex>,
    records: &[R],
) {
    let run_bytes: usize =
        records.iter().map(|record| RECORD_HEADER_BYTES + record.as_ref().len()).sum();
    assert!(!records.is_empty(), "an append carries at least one record");
    assert!(run_bytes <= RECORDS_BYTES_MAX as usize, "{run_bytes} bytes of records");
    to.put_u32_le(if expected_tail.is_some() { FLAG_EXPECTED_TAIL } else { 0 });
    to.put_u32_le(u32::try_from(records.len()).expect("each takes four bytes of a small limit"));
    if let Some(tail) = expected_tail {
        to.put_u64_le(tail.get());
    }
    for record in records {
        let record = record.as_ref();
        to.put_u32_le(u32::try_from(record.len()).expect("below the limit"));
        to.put_slice(record);
    }
}

/// Bytes of the append frame with these records, or the refusal a node would give it.
///
/// # Errors
/// `TooLarge` if the records exceed a batch, `Malformed` if there are none.
pub fn append_frame_bytes<R: AsRef<[u8]>>(
    expected_tail: Option<LogIndex>,
    records: &[R],
) -> Result<usize, Refusal> {
    let run_bytes: usize =
        records.iter().map(|record| RECORD_HEADER_BYTES + record.as_ref().len()).sum();
    if records.is_empty() {
        return Err(Refusal::Malformed);
    }
    if run_bytes > RECORDS_BYTES_MAX as usize {
        return Err(Refusal::TooLarge { limit_bytes: RECORDS_BYTES_MAX });
    }
    let tail_bytes = if expected_tail.is_some() { 8 } else { 0 };
    Ok(FRAME_HEADER_BYTES + 8 + tail_bytes + run_bytes)
}

fn address(kind: Kind, correlation: u64, group: GroupId) -> Address {
    Address { kind: kind.number(), correlation, group }
}

const _: () = assert!(FLAG_PRODUCER & FLAG_EXPECTED_TAIL == 0);
