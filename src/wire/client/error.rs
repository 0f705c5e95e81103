//! The error reply: why a request was not done, or why nobody knows.
//!
//! ```text
//! offset  bytes  field (of the body)
//!      0      2  code
//!      2      2  text length
//!      4      4  0
//!      8      8  detail, by code; 0 where it has none
//!     16         text, UTF-8, for people only
//! ```
//!
//! The code's range is the outcome, so that a client of this version understands the codes of a
//! later one: 100 to 199 certainly had no effect, everything else is unknown.

use core::time::Duration;

use super::super::frame::{Address, FrameError, Reader, Sink, encode_frame};
use super::Kind;
use crate::model::{Doubt, GroupId, LogIndex, NodeId, Outcome, Refusal};

/// The longest text an error reply carries.
const TEXT_BYTES_MAX: usize = 1024;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// The numbers of refusals and doubts on the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum ErrorCode {
            $($(#[$doc])* $name = $number,)*
        }

        impl ErrorCode {
            /// Every code, by number.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its number on the wire.
            pub const fn number(self) -> u16 {
                self as u16
            }

            /// The code with this number.
            pub const fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// A few words for people. No allocation: refusals come by the million too.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

codes! {
    /// Detail: node id of the probable leader, 0 if none is known.
    NotLeader = 100, "not the leader of this group";
    /// Detail: microseconds to wait before the next attempt.
    Busy = 101, "busy, try again later";
    /// No detail.
    DiskFull = 102, "the log device is full";
    /// Detail: the limit in bytes.
    TooLarge = 103, "larger than the limit";
    /// No detail.
    UnknownGroup = 104, "no such group on this cluster";
    /// Detail: the first index that can still be read.
    Trimmed = 105, "trimmed";
    /// Detail: the last index of the log.
    WrongTail = 106, "the log's tail is elsewhere";
    /// No detail.
    Unsupported = 107, "not supported by this version";
    /// No detail.
    Malformed = 108, "malformed request";
    /// No detail.
    Unavailable = 109, "the node is not serving";
    /// A read that could not be confirmed in time. No detail.
    TimedOut = 110, "timed out";
    /// The hello named another cluster. No detail; the connection is closed.
    WrongCluster = 120, "another cluster";
    /// No common protocol version. Detail: the newest version the node speaks; closed.
    WrongVersion = 121, "no common protocol version";
    /// The first request was not a hello. No detail; closed.
    HelloFirst = 122, "say hello first";
    /// The leader lost its office before the write was committed. No detail.
    LeadershipLost = 200, "the leader stepped down before the write was committed";
    /// The node between lost its way to the leader's shard. No detail.
    ConnectionLost = 201, "the connection was lost before the write was answered";
    /// The write was not committed in time; it may still be. No detail.
    WriteTimedOut = 202, "not committed in time";
}

/// An error reply, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorReply<'a> {
    /// Its number; see [`ErrorCode::from_number`].
    pub code: u16,
    /// What its code says it is.
    pub detail: u64,
    /// For people.
    pub text: &'a str,
}

impl<'a> ErrorReply<'a> {
    /// Reads the body of an error reply.
    ///
    /// # Errors
    /// [`FrameError::Body`] if the layout is broken. A code this program does not know is none.
    pub fn decode(body: &'a [u8]) -> Result<Self, FrameError> {
        let mut from = Reader::new(body);
        let code = from.u16()?;
        let text_bytes = usize::from(from.u16()?);
        from.reserved(4)?;
        let detail = from.u64()?;
        if text_bytes > TEXT_BYTES_MAX {
            return Err(from.error());
        }
        let text = from.text(text_bytes)?;
        from.end()?;
        Ok(Self { code, detail, text })
    }

    /// What it means for the request, by the code's range: 100 to 199 is NotDone, everything
    /// else Unknown, because believing too little is the safe mistake.
    pub fn outcome<T>(&self) -> Outcome<T> {
        match ErrorCode::from_number(self.code) {
            Some(code) => match outcome_of(code, self.detail) {
                Ok(refusal) => Outcome::NotDone(refusal),
                Err(doubt) => Outcome::Unknown(doubt),
            },
            None if (100..200).contains(&self.code) => Outcome::NotDone(Refusal::Unsupported),
            None => Outcome::Unknown(Doubt::LeadershipLost),
        }
    }
}

fn outcome_of(code: ErrorCode, detail: u64) -> Result<Refusal, Doubt> {
    Ok(match code {
        ErrorCode::NotLeader => Refusal::NotLeader {
            hint: u16::try_from(detail).ok().filter(|node| *node != 0).map(NodeId::new),
        },
        ErrorCode::Busy => Refusal::Busy { retry_after: Duration::from_micros(detail) },
        ErrorCode::DiskFull => Refusal::DiskFull,
        ErrorCode::TooLarge => {
            Refusal::TooLarge { limit_bytes: u32::try_from(detail).unwrap_or(u32::MAX) }
        }
        ErrorCode::UnknownGroup => Refusal::UnknownGroup,
        ErrorCode::Trimmed => Refusal::Trimmed { next: LogIndex::new(detail) },
        ErrorCode::WrongTail => Refusal::WrongTail { last: LogIndex::new(detail) },
        // The hello's own refusals end the connection; for a request that was sent behind it
        // they mean that it was never looked at.
        ErrorCode::Unsupported | ErrorCode::WrongVersion => Refusal::Unsupported,
        ErrorCode::Malformed | ErrorCode::HelloFirst => Refusal::Malformed,
        ErrorCode::Unavailable | ErrorCode::WrongCluster => Refusal::Unavailable,
        ErrorCode::TimedOut => Refusal::TimedOut,
        ErrorCode::LeadershipLost => return Err(Doubt::LeadershipLost),
        ErrorCode::ConnectionLost => return Err(Doubt::ConnectionLost),
        ErrorCode::WriteTimedOut => return Err(Doubt::TimedOut),
    })
}

/// Appends an error reply that says that the request certainly had no effect.
pub fn encode_refusal<S: Sink>(to: &mut S, correlation: u64, group: GroupId, refusal: Refusal) {
    let (code, detail) = match refusal {
        Refusal::NotLeader { hint } => {
            (ErrorCode::NotLeader, hint.map_or(0, |node| u64::from(node.get())))
        }
        Refusal::Busy { retry_after } => {
            (ErrorCode::Busy, u64::try_from(retry_after.as_micros()).unwrap_or(u64::MAX))
        }
        Refusal::DiskFull => (ErrorCode::DiskFull, 0),
        Refusal::TooLarge { limit_bytes } => (ErrorCode::TooLarge, u64::from(limit_bytes)),
        Refusal::UnknownGroup => (ErrorCode::UnknownGroup, 0),
        Refusal::Trimmed { next } => (ErrorCode::Trimmed, next.get()),
        Refusal::WrongTail { last } => (ErrorCode::WrongTail, last.get()),
        Refusal::Unsupported => (ErrorCode::Unsupported, 0),
        Refusal::Malformed => (ErrorCode::Malformed, 0),
        Refusal::Unavailable => (ErrorCode::Unavailable, 0),
        Refusal::TimedOut => (ErrorCode::TimedOut, 0),
    };
    encode_error(to, correlation, group, code, detail);
}

/// Appends an error reply that says that nobody knows whether the write happened (C-06).
pub fn encode_doubt<S: Sink>(to: &mut S, correlation: u64, group: GroupId, doubt: Doubt) {
    let code = match doubt {
        Doubt::LeadershipLost => ErrorCode::LeadershipLost,
        Doubt::ConnectionLost => ErrorCode::ConnectionLost,
        Doubt::TimedOut => ErrorCode::WriteTimedOut,
    };
    encode_error(to, correlation, group, code, 0);
}

/// Appends an error reply with any code: what the handshake needs beside the two above.
pub fn encode_error<S: Sink>(
    to: &mut S,
    correlation: u64,
    group: GroupId,
    code: ErrorCode,
    detail: u64,
) {
    let text = code.text();
    encode_frame(to, Address { kind: Kind::Error.number(), correlation, group }, |to| {
        to.put_u16_le(code.number());
        to.put_u16_le(u16::try_from(text.len()).expect("the texts above are short"));
        to.put_u32_le(0);
        to.put_u64_le(detail);
        to.put_slice(text.as_bytes());
    });
}
