//! More than the cluster can take, from many connections: three and ten times its peak.
//!
//! The same flood first with a window on each connection, as fast as it goes, which is the peak;
//! then three and ten times as much is offered. A few well-behaved writers go on all the while; they
//! tell whether things are as before a second after.

use std::path::Path;
use std::time::Duration;

use crate::flood::{Flood, Outcome, Pace};
use crate::load::{Load, Shape, percentile};
use crate::memory;
use crate::progress::Progress;
use crate::report::Report;
use crate::site::{Site, rest};

const CONNECTIONS: usize = 256;
/// Requests on their way on each connection at the peak: enough to keep everything busy, far from
/// any budget.
const PEAK_WINDOW: u64 = 64;
const FACTORS: [u32; 2] = [3, 10];
const GOODPUT_MIN: f64 = 0.9;
const SHAPE: Shape = Shape { writers: 4, per_second: 200, record_bytes: 200 };
const QUIET: Duration = Duration::from_secs(4);
const WARMUP: Duration = Duration::from_secs(1);
/// After this time things are as before: p99 within this ratio.
const NORMAL_WITHIN: Duration = Duration::from_secs(1);
const NORMAL_RATIO: f64 = 1.3;

/// What one flood came to.
struct Run {
    outcome: Outcome,
    busy: u64,
    paused: u64,
}

impl Run {
    fn acked_per_s(&self) -> f64 {
        self.outcome.acked as f64 / self.outcome.seconds
    }
}

pub(crate) fn run(dir: &Path, time: Duration, progress: &mut Progress) -> Result<Report, String> {
    let mut report = Report::new("overload");
    let settings = memory::settings(1024) + "\nretention.bytes_per_group = \"512 MiB\"";
    let mut site = Site::open(dir, &settings)?;
    let load = Load::start(&site.nodes, SHAPE)?;
    rest(Duration::from_secs(1))?;
    let from = load.now();
    rest(QUIET)?;
    let before = percentile(&mut load.latencies(from, load.now()), 99) as f64 / 1e3;
    let elections = site.sum("elections_won")?;
    let peak = measure(&site, Pace::Window(PEAK_WINDOW), time, progress)?;
    report.fact("peak", peak.acked_per_s(), "records/s");
    for factor in FACTORS {
        let rate = peak.acked_per_s() * f64::from(factor);
        let run = measure(&site, Pace::Offered(rate), time, progress)?;
        let ended = load.now();
        rest(NORMAL_WITHIN + QUIET)?;
        let normal = ended + NORMAL_WITHIN;
        let after = percentile(&mut load.latencies(normal, load.now()), 99) as f64 / 1e3;
        let goodput = run.acked_per_s() / peak.acked_per_s();
        report.at_least(format!("goodput at {factor} x"), (goodput, GOODPUT_MIN), "of the peak");
        let name = format!("p99 from a second after {factor} x on, against before");
        report.at_most(name, (after / before, NORMAL_RATIO), "x");
        let offered = run.outcome.offered as f64 / run.outcome.seconds;
        report.fact(format!("{factor} x, offered"), offered, "records/s");
        report.fact(format!("{factor} x, requests refused with Busy"), run.busy as f64, "");
        report.fact(format!("{factor} x, times a reader paused"), run.paused as f64, "");
        report.fact(format!("{factor} x, refusals heard"), run.outcome.refused as f64, "");
        let pushed_back = (run.busy + run.paused) as f64;
        report.at_least(format!("{factor} x, pauses and refusals"), (pushed_back, 1.0), "");
    }
    report.fact("p99 of the well-behaved before", before, "ms");
    let rss = memory::peak_mib(&site)?;
    report.at_most("peak resident memory of a node", (rss, memory::peak_mib_max()), "MiB");
    let more = site.sum("elections_won")? - elections;
    report.at_most("elections", (more as f64, 0.0), "");
    let ledger = load.finish()?;
    let refused = ledger.not_done.len() + ledger.unknown.len();
    report.fact("well-behaved records not acknowledged", refused as f64, "records");
    site.stop()?;
    Ok(report)
}

/// One flood. Its connections are closed at its end, with whatever is still on its way.
fn measure(
    site: &Site,
    pace: Pace,
    time: Duration,
    progress: &mut Progress,
) -> Result<Run, String> {
    progress.now(|| format!("{CONNECTIONS} connections, {pace:?}"));
    let (busy, paused) = (site.sum("client_busy")?, site.sum("client_paused")?);
    let mut flood = Flood::open(site.nodes.ip(site.leader()?), CONNECTIONS)?;
    let outcome = flood.run(pace, WARMUP, time)?;
    drop(flood);
    // What was paused is counted with the next tick.
    rest(Duration::from_millis(100))?;
    Ok(Run {
        outcome,
        busy: site.sum("client_busy")? - busy,
        paused: site.sum("client_paused")? - paused,
    })
}
