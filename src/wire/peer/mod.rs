//! What nodes say among themselves.
//!
//! `handshake` opens a stream, `control` carries Raft messages of many groups in one frame,
//! `bulk` carries batches so that the receiver can write them to its disk from where they lie.
//! Does not: decide who may vote, when to send, or what to believe about a batch.

mod bulk;
mod control;
mod handshake;

pub use bulk::{
    BULK_DESCRIPTOR_BYTES, BulkBatch, BulkFrame, BulkFrameBuilder, BulkHead, bulk_frame_bytes,
};
pub use control::{ControlIter, decode_control, encode_control};
pub use handshake::{
    HANDSHAKE_FRAME_BYTES, Handshake, HandshakeError, Lane, PeerFacts, check_hello,
    decode_handshake, encode_hello, encode_refused, encode_welcome,
};

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// Every kind of peer message and its number. Never used again for something else.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$doc])* $name = $number,)*
        }

        impl Kind {
            /// Every kind, by number.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its number on the wire.
            pub const fn number(self) -> u8 {
                self as u8
            }

            /// The kind with this number.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// First on every peer stream, from the node that dialled.
    Hello = 129,
    /// The stream is open.
    Welcome = 130,
    /// The stream is refused and will be closed.
    Refused = 131,
    /// Raft messages of many groups.
    Control = 132,
    /// Batches of many groups.
    Bulk = 133,
}
