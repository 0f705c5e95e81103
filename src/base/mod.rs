//! What std might have had: time as a number, aligned block memory, little-endian layout, the
//! checksum, a seeded generator. Knows nothing of Raft, logs or networks.
//!
//! Does not: read clocks, draw entropy, touch files. The one room besides `runtime` with
//! `unsafe`, all of it in [`arena`].

pub mod arena;
pub mod checksum;
pub mod layout;
#[macro_use]
pub mod mark;
#[macro_use]
pub mod planted;
pub mod prng;
pub mod time;

pub use arena::{Arena, BlockBuf, Slice};
pub use checksum::Checksum;
pub use prng::Prng;
pub use time::Moment;
