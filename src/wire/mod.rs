//! Frames and what is in them: bytes of the client protocol and of the peer protocol. Pure.
//!
//! `frame` cuts and checks; `client` is what clients and nodes say to each other, `peer` what
//! nodes say among themselves. Does not: touch a socket, decide what to answer, know a batch's
//! inside (`model::batch` has it) or a block's (`wal` has it). The bytes are described for
//! strangers in `docs/wire-protocol.md`, whose vectors `tests/wire_vectors.rs` checks.

mod assembler;
pub mod client;
mod frame;
pub mod peer;

pub use assembler::{Assembler, InFrame};
pub use frame::{FRAME_HEADER_BYTES, FrameError, FrameHeader, PROTOCOL_VERSION, Sink};
