//! The frame: 40 bytes of header before every message of both protocols.
//!
//! Apart from what frames carry, because cutting a stream into frames must be total for every
//! input and very cheap, and is the same for clients and peers.
//!
//! ```text
//! offset  bytes  field
//!      0      4  magic "CMF1"
//!      4      1  protocol version of this frame = 1
//!      5      1  kind (`wire::client::Kind`, `wire::peer::Kind`)
//!      6      2  flags, 0 in version 1
//!      8      4  body length
//!     12      4  covered length: the body CRC covers this many of the body's first bytes
//!     16      8  correlation id: a reply carries its request's
//!     24      8  group, 0 where none is meant
//!     32      4  CRC32C of the covered bytes of the body
//!     36      4  CRC32C of bytes 0..36
//! ```
//!
//! The covered length equals the body length in every frame but the bulk frame, whose batches
//! have checksums of their own (`wire::peer`). Magic, version, body length and header CRC stay
//! where they are in all versions, so that an old program can skip a new frame (N-02).

use core::fmt;

use bytes::BufMut;

use crate::base::Checksum;
use crate::base::layout::{get_u8, get_u16, get_u32, get_u64, put_u8, put_u16, put_u32, put_u64};
use crate::model::GroupId;

/// Bytes of a frame header.
pub const FRAME_HEADER_BYTES: usize = 40;
/// The version of both protocols that this program speaks.
pub const PROTOCOL_VERSION: u8 = 1;
const MAGIC: u32 = u32::from_le_bytes(*b"CMF1");
const HEADER_CRC_AT: usize = 36;

/// What encoders append to: a `Vec<u8>` or a `BytesMut`.
pub trait Sink: BufMut + AsMut<[u8]> {}

impl<T: BufMut + AsMut<[u8]>> Sink for T {}

/// The fixed part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the body is.
    pub kind: u8,
    /// Bytes of the body.
    pub body_bytes: u32,
    /// How many of the body's first bytes `body_crc` covers.
    pub covered_bytes: u32,
    /// Matches a reply to its request.
    pub correlation: u64,
    /// Which group is meant; 0 where none is.
    pub group: GroupId,
    /// CRC32C of the covered bytes.
    pub body_crc: Checksum,
}

/// Why bytes are not a frame that this program can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Fewer bytes than the header, or than the header promises. The assembler never says so: it
    /// waits.
    Short {
        /// What it takes.
        expected_bytes: usize,
        /// What is there.
        found_bytes: usize,
    },
    /// Not the magic number: this stream does not speak our protocol.
    Magic {
        /// What stands there.
        found: u32,
    },
    /// The header's checksum does not hold, so its length cannot be believed.
    HeaderCrc {
        /// What stands there.
        expected: Checksum,
        /// What the bytes give.
        found: Checksum,
    },
    /// The frame is longer than this stream may send (N-01, S5).
    TooLarge {
        /// Length of the whole frame.
        frame_bytes: u64,
        /// The limit it exceeds.
        limit_bytes: usize,
    },
    /// A whole frame of a version this program does not speak. The stream stays framed.
    Version {
        /// What stands there.
        found: u8,
        /// The correlation id as version 1 would read it, for the error reply.
        correlation: u64,
    },
    /// A whole frame with a flag or a covered length that version 1 does not have. The stream
    /// stays framed.
    Reserved {
        /// Where in the header.
        offset: usize,
        /// Its correlation id, for the error reply.
        correlation: u64,
    },
    /// The body's checksum does not hold.
    BodyCrc {
        /// What the header says.
        expected: Checksum,
        /// What the bytes give.
        found: Checksum,
    },
    /// The body breaks its kind's layout.
    Body {
        /// Where in the frame.
        offset: usize,
    },
}

impl FrameError {
    /// Whether the stream is still cut correctly behind this frame: if so, the answer is an error
    /// reply with [`FrameError::correlation`]; if not, the stream must be closed (N-02).
    pub fn is_framed(&self) -> bool {
        matches!(self, Self::Version { .. } | Self::Reserved { .. })
    }

    /// The correlation id for the error reply; 0 where none can be known.
    pub fn correlation(&self) -> u64 {
        match self {
            Self::Version { correlation, .. } | Self::Reserved { correlation, .. } => *correlation,
            Self::Short { .. }
            | Self::Magic { .. }
            | Self::HeaderCrc { .. }
            | Self::TooLarge { .. }
            | Self::BodyCrc { .. }
            | Self::Body { .. } => 0,
        }
    }

    /// The same in a few words that never change, for effects that carry no more.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Short { .. } => "frame ends early",
            Self::Magic { .. } => "frame magic wrong",
            Self::HeaderCrc { .. } => "frame header CRC wrong",
            Self::TooLarge { .. } => "frame too large",
            Self::Version { .. } => "frame version unknown",
            Self::Reserved { .. } => "frame field reserved",
            Self::BodyCrc { .. } => "frame body CRC wrong",
            Self::Body { .. } => "frame body malformed",
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { expected_bytes, found_bytes } => {
                write!(f, "frame of {expected_bytes} bytes ends after {found_bytes}")
            }
            Self::Magic { found } => write!(f, "frame magic is {found:#010x}"),
            Self::HeaderCrc { expected, found } => write!(
                f,
                "frame header CRC is {:#010x}, its bytes give {:#010x}",
                expected.as_u32(),
                found.as_u32()
            ),
            Self::TooLarge { frame_bytes, limit_bytes } => {
                write!(f, "frame of {frame_bytes} bytes exceeds the limit of {limit_bytes}")
            }
            Self::Version { found, .. } => {
                write!(f, "frame version is {found}, known is {PROTOCOL_VERSION}")
            }
            Self::Reserved { offset, .. } => {
                write!(f, "frame header field at byte {offset} is not what version 1 allows")
            }
            Self::BodyCrc { expected, found } => write!(
                f,
                "frame body CRC is {:#010x}, its bytes give {:#010x}",
                expected.as_u32(),
                found.as_u32()
            ),
            Self::Body { offset } => write!(f, "frame body malformed at byte {offset}"),
        }
    }
}

impl std::error::Error for FrameError {}

impl FrameHeader {
    /// Bytes of the whole frame.
    pub fn frame_bytes(&self) -> usize {
        FRAME_HEADER_BYTES + self.body_bytes as usize
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut to = [0; FRAME_HEADER_BYTES];
        put_u32(&mut to, 0, MAGIC);
        put_u8(&mut to, 4, PROTOCOL_VERSION);
        put_u8(&mut to, 5, self.kind);
        put_u16(&mut to, 6, 0);
        put_u32(&mut to, 8, self.body_bytes);
        put_u32(&mut to, 12, self.covered_bytes);
        put_u64(&mut to, 16, self.correlation);
        put_u64(&mut to, 24, self.group.get());
        put_u32(&mut to, 32, self.body_crc.as_u32());
        let crc = Checksum::of(&to[..HEADER_CRC_AT]);
        put_u32(&mut to, HEADER_CRC_AT, crc.as_u32());
        to
    }

    /// Reads and checks the header at the start of `from`. The body is not looked at.
    ///
    /// The order of the checks is the order of trust: magic, checksum, then length, so that a
    /// length is believed only when the checksum held and is compared with `limit_bytes` (of the
    /// whole frame) before anybody allocates for it (N-01).
    ///
    /// # Errors
    /// Whatever is wrong with it. [`FrameError::Version`] and [`FrameError::Reserved`] mean that
    /// the frame can be skipped: the assembler does.
    #[inline]
    pub fn decode(from: &[u8], limit_bytes: usize) -> Result<Self, FrameError> {
        let frame_bytes = frame_bytes(from, limit_bytes)?;
        let from = &from[..FRAME_HEADER_BYTES];
        let correlation = get_u64(from, 16);
        if get_u8(from, 4) != PROTOCOL_VERSION {
            return Err(FrameError::Version { found: get_u8(from, 4), correlation });
        }
        if get_u16(from, 6) != 0 {
            return Err(FrameError::Reserved { offset: 6, correlation });
        }
        let (body_bytes, covered_bytes) = (get_u32(from, 8), get_u32(from, 12));
        debug_assert_eq!(FRAME_HEADER_BYTES + body_bytes as usize, frame_bytes);
        if covered_bytes > body_bytes {
            return Err(FrameError::Reserved { offset: 12, correlation });
        }
        Ok(Self {
            kind: get_u8(from, 5),
            body_bytes,
            covered_bytes,
            correlation,
            group: GroupId::new(get_u64(from, 24)),
            body_crc: Checksum::from_u32(get_u32(from, 32)),
        })
    }

    /// Verifies the body's checksum. `body` may be longer than what is covered.
    ///
    /// # Errors
    /// [`FrameError::Short`] or [`FrameError::BodyCrc`].
    #[inline]
    pub fn check_body(&self, body: &[u8]) -> Result<(), FrameError> {
        let covered = body.get(..self.covered_bytes as usize).ok_or(FrameError::Short {
            expected_bytes: self.frame_bytes(),
            found_bytes: FRAME_HEADER_BYTES + body.len(),
        })?;
        let found = Checksum::of(covered);
        if found == self.body_crc || planted!(N08_BODY_NOT_CHECKED) {
            Ok(())
        } else {
            mark!(N08_BODY_CHECKSUM_WRONG);
            Err(FrameError::BodyCrc { expected: self.body_crc, found })
        }
    }
}

/// Length of the frame that starts `from`, of whatever version: what all versions agree on is
/// checked, nothing else.
pub(super) fn frame_bytes(from: &[u8], limit_bytes: usize) -> Result<usize, FrameError> {
    if from.len() < FRAME_HEADER_BYTES {
        return Err(FrameError::Short {
            expected_bytes: FRAME_HEADER_BYTES,
            found_bytes: from.len(),
        });
    }
    let from = &from[..FRAME_HEADER_BYTES];
    let magic = get_u32(from, 0);
    if magic != MAGIC {
        mark!(N08_MAGIC_WRONG);
        return Err(FrameError::Magic { found: magic });
    }
    let expected = Checksum::from_u32(get_u32(from, HEADER_CRC_AT));
    let found = Checksum::of(&from[..HEADER_CRC_AT]);
    if expected != found {
        mark!(N08_HEADER_CHECKSUM_WRONG);
        return Err(FrameError::HeaderCrc { expected, found });
    }
    let frame_bytes = FRAME_HEADER_BYTES as u64 + u64::from(get_u32(from, 8));
    if frame_bytes > limit_bytes as u64 {
        return Err(FrameError::TooLarge { frame_bytes, limit_bytes });
    }
    Ok(usize::try_from(frame_bytes).expect("at most the limit, a usize"))
}

/// The part of a header that an encoder knows before the body is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address {
    pub(super) kind: u8,
    pub(super) correlation: u64,
    pub(super) group: GroupId,
}

/// Appends one frame whose body is made by `body`, which must only append.
pub(super) fn encode_frame<S: Sink>(to: &mut S, address: Address, body: impl FnOnce(&mut S)) {
    let start = to.as_mut().len();
    to.put_bytes(0, FRAME_HEADER_BYTES);
    body(to);
    let frame = &mut to.as_mut()[start..];
    let (head, body) = frame.split_at_mut(FRAME_HEADER_BYTES);
    head.copy_from_slice(&header_of(address, body.len(), Checksum::of(body)).encode());
}

/// The header of a frame that is covered whole.
pub(super) fn header_of(address: Address, body_bytes: usize, body_crc: Checksum) -> FrameHeader {
    let body_bytes = u32::try_from(body_bytes).expect("encoders stay below the frame limit");
    FrameHeader {
        kind: address.kind,
        body_bytes,
        covered_bytes: body_bytes,
        correlation: address.correlation,
        group: address.group,
        body_crc,
    }
}

/// Reads integers one after the other from a body whose length was not checked before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reader<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self { body, at: 0 }
    }

    /// Bytes read so far.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// What is wrong here, counted from the start of the frame.
    pub(super) fn error(&self) -> FrameError {
        FrameError::Body { offset: FRAME_HEADER_BYTES + self.at }
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], FrameError> {
        let end = self.at.checked_add(count).ok_or(self.error())?;
        let bytes = self.body.get(self.at..end).ok_or(self.error())?;
        self.at = end;
        Ok(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        Ok(self.bytes(N)?.try_into().expect("`bytes` gives as many as it was asked for"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, FrameError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, FrameError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, FrameError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, FrameError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn text(&mut self, bytes: usize) -> Result<&'a str, FrameError> {
        let error = self.error();
        core::str::from_utf8(self.bytes(bytes)?).map_err(|_| error)
    }

    /// `count` bytes that must be zero: room for later versions.
    pub(super) fn reserved(&mut self, count: usize) -> Result<(), FrameError> {
        let error = self.error();
        if self.bytes(count)?.iter().all(|byte| *byte == 0) { Ok(()) } else { Err(error) }
    }

    /// Everything that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        let rest = &self.body[self.at..];
        self.at = self.body.len();
        rest
    }

    /// The body must end here.
    pub(super) fn end(&self) -> Result<(), FrameError> {
        if self.at == self.body.len() { Ok(()) } else { Err(self.error()) }
    }
}
