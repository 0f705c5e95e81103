//! More than the cluster can take, from many connections: three and ten times its peak.
//!
//! The load is loadgen's, a process of its own: first as fast as it goes, which is the peak, then at
//! fixed times as if that had been three and ten times as much. A few well-behaved writers go on
//! all the while; they tell whether things are as before a second after.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::load::{Load, Shape, percentile};
use crate::memory;
use crate::progress::Progress;
use crate::report::Report;
use crate::site::{Site, program, rest};

const CONNECTIONS: u32 = 256;
/// Records on their way at the peak: enough to keep everything busy, far from any budget.
const PEAK_IN_FLIGHT: u32 = 8_192;
/// Records on their way under overload: what loadgen can keep account of.
const OVERLOAD_IN_FLIGHT: u32 = 1 << 20;
const FACTORS: [u32; 2] = [3, 10];
const GOODPUT_MIN: f64 = 0.9;
const SHAPE: Shape = Shape { writers: 4, per_second: 200, record_bytes: 200 };
const QUIET: Duration = Duration::from_secs(4);
/// After this time things are as before: p99 within this ratio, and a few milliseconds.
const NORMAL_WITHIN: Duration = Duration::from_secs(1);
const NORMAL_RATIO: f64 = 1.3;

/// What one run of loadgen came to.
struct Run {
    acked_per_s: f64,
    acked: f64,
    cores: f64,
    busy: u64,
    paused: u64,
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
    let peak = measure(&site, None, time, progress)?;
    report.fact("peak", peak.acked_per_s, "records/s");
    report.fact("peak, cores of loadgen", peak.cores, "");
    for factor in FACTORS {
        let rate = (peak.acked_per_s * f64::from(factor)).round();
        let run = measure(&site, Some(rate), time, progress)?;
        let ended = load.now();
        rest(NORMAL_WITHIN + QUIET)?;
        let normal = ended + NORMAL_WITHIN;
        let after = percentile(&mut load.latencies(normal, load.now()), 99) as f64 / 1e3;
        let goodput = run.acked_per_s / peak.acked_per_s;
        report.at_least(format!("goodput at {factor} x"), (goodput, GOODPUT_MIN), "of the peak");
        report.at_least(format!("acknowledged at {factor} x"), (run.acked, 1.0), "records");
        let name = format!("p99 from a second after {factor} x on, against before");
        report.at_most(name, (after / before, NORMAL_RATIO), "x");
        report.fact(format!("{factor} x, cores of loadgen"), run.cores, "");
        report.fact(format!("{factor} x, requests refused with Busy"), run.busy as f64, "");
        report.fact(format!("{factor} x, times a reader paused"), run.paused as f64, "");
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

/// One run of loadgen: as fast as it goes, or at so many records a second.
fn measure(
    site: &Site,
    rate: Option<f64>,
    time: Duration,
    progress: &mut Progress,
) -> Result<Run, String> {
    let (rate, in_flight) = match rate {
        None => ("max".to_owned(), PEAK_IN_FLIGHT),
        Some(rate) => (format!("{rate}"), OVERLOAD_IN_FLIGHT),
    };
    progress.now(|| format!("loadgen --rate {rate}"));
    let (busy, paused) = (site.sum("client_busy")?, site.sum("client_paused")?);
    let loadgen = program("loadgen")?;
    let output = Command::new(&loadgen)
        .args(["--connect", &site.nodes.addresses().join(","), "--no-verify", "--json", "-"])
        .args(["--rate", &rate, "--records-per-request", "1", "--warmup", "1s"])
        .args(["--duration", &format!("{}ms", time.as_millis())])
        .args(["--connections", &CONNECTIONS.to_string(), "--inflight", &in_flight.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| format!("{}: {error}", loadgen.display()))?;
    let words = || String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if !output.status.success() {
        return Err(format!("loadgen, {}: {}", output.status, words()));
    }
    let json: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("loadgen's result: {error}: {}", words()))?;
    let number = |pointer: &str| {
        let value = json.pointer(pointer).and_then(serde_json::Value::as_f64);
        value.ok_or_else(|| format!("loadgen's result has no {pointer}"))
    };
    Ok(Run {
        acked_per_s: number("/acked_per_s")?,
        acked: number("/acked")?,
        cores: number("/cpu_cores/loadgen")?,
        busy: site.sum("client_busy")? - busy,
        paused: site.sum("client_paused")? - paused,
    })
}
