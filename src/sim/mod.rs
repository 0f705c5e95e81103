//! The other world: virtual time, simulated devices and networks, and the very same shards.
//!
//! A run is decided by one seed: it draws a [`Plan`], lives through it event by event, and an
//! oracle checks after every one of them. `runtime` is the world that ships; this one is how it is
//! proved that what ships is right. See `docs/testing.md`. Does not: print, read a clock, start a
//! thread, or touch a file.

mod plan;
mod verdict;

mod world;

mod act;
mod node;

mod conns;
mod doors;
mod links;

mod audit;
mod chaos;
mod clients;
mod graphs;
mod plots;
mod sessions;

mod disk;
mod lies;
mod net;

mod checker;
mod elections;
mod history;
mod medium;
mod mirror;
mod promise;
mod truth;
mod wgl;

mod queue;
mod record;
mod trace;

pub use graphs::{Graph, GraphSummary, run_graph};
pub use plan::{Between, ChaosPlan, DiskPlan, LoadPlan, NetPlan, Plan, Recurring};
pub use trace::Sink;
pub use verdict::{Failure, Fault, Oracle, Summary, Tally};
pub use world::{run, run_to};
