//! The shard: one core's worth of groups, one WAL, one set of peer links, composed. Pure.
//!
//! `turn` is the data path. `runtime` and `sim` are the two worlds that gather its inputs and
//! carry out its effects. Does not: read a clock, a socket or a file.

mod effects;
mod input;

pub use effects::{Effect, Effects, Frame, Notice, Part};
pub use input::{Input, Inputs, IoFault, Lane, ReadSeq};
