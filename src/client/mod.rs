//! The client library: finds the cluster and the leaders, pipelines, and tells the truth.
//!
//! [`Session`] decides and is pure: bytes and times in, bytes and outcomes out, so the simulator
//! drives the very code that users run. [`Client`] moves the bytes: plain blocking sockets and
//! background threads, no glommio, the one exception to "`runtime` alone touches the kernel".
//!
//! Does not: retry a write whose outcome is unknown (the caller may know whether a duplicate is
//! harmless, this library cannot), keep order between requests that were refused and sent again,
//! or hide a refusal that will not go away.

mod records;
mod session;
mod tcp;

pub use records::{ReadBatch, ReadError};
pub use session::{
    Answer, LinkId, Node, RequestId, Session, SessionEffect, SessionOptions, SubmitError,
};
pub use tcp::{AskError, Client, ConnectError, GroupLeader, Metadata, Options, Ticket, status};
