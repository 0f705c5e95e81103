//! The write-ahead log without a disk: formats, planning, index, retention, recovery. Pure.
//!
//! Bytes in, verdicts out; where blocks go and when they count as durable. Does not: open, read
//! or write a file. See `docs/wal-format.md`.

mod geometry;

pub use geometry::{Geometry, Lsn, SegmentNo};
