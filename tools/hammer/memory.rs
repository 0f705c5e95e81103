//! What a node may take, by its configuration, and what it took at most.

use crate::site::Site;

const MIB: u64 = 1 << 20;

/// The budgets of `limits.*` at which these clusters run, a borrower a line; see
/// `tuning/README.md`.
pub(crate) const BUDGET_BYTES: u64 = ARENA_BYTES
    + UNCOMMITTED_BYTES // appends that clients were read
    + UNREAD_BYTES
    + PROGRAM_BYTES;
const ARENA_BYTES: u64 = 64 * MIB;
const UNCOMMITTED_BYTES: u64 = 32 * MIB;
/// Replies that nobody takes, of all connections of a node.
pub(crate) const UNREAD_BYTES: u64 = UNCOMMITTED_BYTES;
/// The program itself, its threads, rings, indexes and receive buffers.
const PROGRAM_BYTES: u64 = 24 * MIB;
/// The kernel, the allocator and the tables of connections have a tenth to themselves.
const SLACK: f64 = 1.1;

/// The same as settings of a node.
pub(crate) fn settings(connections_max: u32) -> String {
    format!(
        "limits.arena_bytes_per_shard = {ARENA_BYTES}\n\
         limits.uncommitted_bytes_per_shard = {UNCOMMITTED_BYTES}\n\
         limits.connections_max = {connections_max}\nwal.segments_ahead = 4"
    )
}

/// The bound on [`peak_mib`].
pub(crate) fn peak_mib_max() -> f64 {
    BUDGET_BYTES as f64 * SLACK / MIB as f64
}

/// The most resident memory that any node ever had, in MiB.
///
/// # Errors
/// The kernel does not tell.
pub(crate) fn peak_mib(site: &Site) -> Result<f64, String> {
    let mut peak = 0;
    for node in site.nodes.running() {
        peak = peak.max(site.nodes.peak_bytes(node)?);
    }
    Ok(peak as f64 / MIB as f64)
}
