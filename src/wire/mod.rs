//! Frames and what is in them: bytes of the client protocol and of the peer protocol. Pure.
//!
//! `frame` cuts and checks; `client` is what clients and nodes say to each other, `peer` what
//! nodes say among themselves. Does not: touch a socket, decide what to answer, know a batch's
//! inside (`model::batch` has it) or a block's (`wal` has it). The bytes are described for
//! strangers in `docs/wire-protocol.md`, whose vectors `tests/wire_vectors.rs` checks.

/// A closed table of message kinds and their numbers.
macro_rules! kinds {
    ($(#[$table_doc:meta])* $table:ident: $($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        $(#[$table_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $table {
            $($(#[$doc])* $name = $number,)*
        }

        impl $table {
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

mod assembler;
pub mod client;
mod frame;
pub mod peer;

pub use assembler::{Assembler, InFrame};
pub use frame::{FRAME_HEADER_BYTES, FrameError, FrameHeader, PROTOCOL_VERSION, Sink};

#[cfg(test)]
mod tests;
