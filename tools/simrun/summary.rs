//! Sums of runs as text for people and as JSON for programs.
//!
//! Does not: add anything up.

use std::io::{self, Write};
use std::time::Duration;

use catamaran::sim::Summary;
use serde_json::{Map, Value, json};

use super::attempt::commit;
use super::seeds::Outcome;

/// Prints what was simulated, done and broken.
pub(crate) fn print(out: &mut impl Write, sum: &Summary, took: Option<Duration>) -> io::Result<()> {
    let simulated = sum.simulated.as_secs_f64();
    write!(out, "simulated {:.3} h, {} events", simulated / 3600.0, sum.events)?;
    if let Some(took) = took {
        let real = took.as_secs_f64().max(1e-9);
        let per_second = sum.events as f64 / real;
        write!(out, ", {per_second:.0} events/s, {:.0} x real time", simulated / real)?;
    }
    writeln!(out)?;
    write!(out, "appends {} done, ", sum.appends_done)?;
    write!(out, "{} not done, {} unknown; ", sum.appends_not_done, sum.appends_unknown)?;
    writeln!(out, "{} reads; {} requests of sessions", sum.reads, sum.session_requests)?;
    write!(out, "recoveries {}, torn tails cut {}, ", sum.recoveries, sum.cuts)?;
    write!(out, "segments recycled {}, ", sum.recycles)?;
    writeln!(out, "elections won {}, snapshots {}", sum.elections, sum.installs)?;
    write!(out, "conflicting tails dropped {}, ", sum.truncations)?;
    write!(out, "bytes rewritten forward {}, ", sum.rewritten_bytes)?;
    writeln!(out, "bytes written as received {}", sum.direct_bytes)?;
    write!(out, "faults {}:", sum.faults.total())?;
    for (name, count) in sum.faults.list() {
        write!(out, " {name} {count}")?;
    }
    writeln!(out)
}

/// The same and the verdict.
pub(crate) fn json(outcome: &Outcome) -> Value {
    let sum = &outcome.sum;
    let faults: Map<String, Value> =
        sum.faults.list().map(|(name, count)| (name.to_owned(), json!(count))).collect();
    let real = outcome.took.as_secs_f64();
    let per_second = if real > 0.0 { sum.events as f64 / real } else { 0.0 };
    json!({
        "commit": commit(),
        "ran": outcome.ran,
        "failed": outcome.failures.len(),
        "failures": outcome.failures,
        "real_seconds": real,
        "simulated_hours": sum.simulated.as_secs_f64() / 3600.0,
        "events": sum.events,
        "events_per_second": per_second,
        "appends_done": sum.appends_done,
        "appends_not_done": sum.appends_not_done,
        "appends_unknown": sum.appends_unknown,
        "reads": sum.reads,
        "session_requests": sum.session_requests,
        "recoveries": sum.recoveries,
        "torn_tails_cut": sum.cuts,
        "segments_recycled": sum.recycles,
        "elections_won": sum.elections,
        "snapshots_installed": sum.installs,
        "conflicting_tails_dropped": sum.truncations,
        "bytes_rewritten_forward": sum.rewritten_bytes,
        "bytes_written_as_received": sum.direct_bytes,
        "faults": faults,
    })
}
