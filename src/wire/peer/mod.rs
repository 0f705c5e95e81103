//! What nodes say among themselves.
//!
//! `handshake` opens a stream to whom `pin` lets in, `control` carries Raft messages of many groups in one frame,
//! `bulk` carries batches so that the receiver can write them to its disk from where they lie.
//! Does not: decide who may vote, when to send, or what to believe about a batch.

mod bulk;
mod control;
mod handshake;
mod pin;

pub use bulk::{
    BULK_DESCRIPTOR_BYTES, BulkBatch, BulkFrame, BulkFrameBuilder, BulkHead, bulk_frame_bytes,
};
pub use control::{ControlIter, decode_control, encode_control};
pub use handshake::{
    HANDSHAKE_FRAME_BYTES, Handshake, HandshakeError, Lane, PEER_PROTOCOL_VERSION, PeerFacts,
    check_hello, decode_handshake, encode_hello, encode_refused, encode_welcome,
};
pub use pin::Pin;

kinds! {
    /// Every kind of peer message and its number. Numbers are never used again for something else.
    Kind:
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

#[cfg(test)]
mod tests;
