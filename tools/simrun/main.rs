//! `simrun`: seeds in, verdicts out. Runs the shipped shard in the simulated world.
//!
//! Only the command line, the progress and the summary live here; worlds live in
//! `catamaran::sim`. Exit codes: 0 every seed kept every promise, 1 one did not, 2 bad arguments.

use std::io::{self, IsTerminal, Write};
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use catamaran::sim::{Failure, Plan, Sink, Summary, run};
use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// One of so many seeds is run twice, to compare what happened.
const TWICE_EVERY: u64 = 100;

/// The seed that is running, for the message of a failed assertion.
static RUNNING: AtomicU64 = AtomicU64::new(0);

/// Runs clusters of the shipped code in simulated worlds and checks what they promise.
///
/// Each seed draws a world: nodes, groups, segment sizes, latencies, and which faults exist at
/// all. The first broken promise ends the run with one line that names the seed.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  \
        simrun --seeds 1000                     a thousand worlds, seeds 1 to 1000\n  \
        simrun --seeds 500 --seed-base 90000    other worlds\n  \
        simrun --seed 4711                      one world again\n  \
        simrun --seed 4711 --trace > trace.txt  with every event of it\n\n\
        Exit codes: 0 all good, 1 a promise was broken, 2 bad arguments."
)]
struct Arguments {
    /// How many seeds to run, one after the other.
    #[arg(long, default_value_t = 200, conflicts_with = "seed")]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1, conflicts_with = "seed")]
    seed_base: u64,
    /// Run this one only.
    #[arg(long)]
    seed: Option<u64>,
    /// Print everything that happens, a line each, to standard output.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Go on after a failure and list them all at the end.
    #[arg(long, conflicts_with = "seed")]
    keep_going: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    install_panic_hook();
    let outcome = match arguments.seed {
        Some(seed) => one(seed, arguments.trace),
        None => many(&arguments),
    };
    match outcome {
        Ok(code) => code,
        // Nobody reads standard output any more.
        Err(_) => ExitCode::from(1),
    }
}

/// A failed assertion is a verdict too. The release profile aborts on panic, so the line with the
/// seed must be out before that.
fn install_panic_hook() {
    panic::set_hook(Box::new(|info| {
        let seed = RUNNING.load(Ordering::Relaxed);
        let place = info.location().map_or_else(String::new, ToString::to_string);
        let message = info.payload_as_str().unwrap_or("a panic without a message");
        let line = format!("FAIL seed={seed} oracle=assertion {place} {message}; {}", again(seed));
        // If even this fails there is nobody to tell.
        let _ = writeln!(io::stderr(), "{line}");
        if cfg!(panic = "abort") {
            std::process::exit(1);
        }
    }));
}

fn again(seed: u64) -> String {
    format!("reproduce: cargo run --release --bin simrun -- --seed {seed} --trace")
}

/// Runs one seed. `None`: it panicked, and the hook has told.
fn attempt(seed: u64, sink: Option<Sink>) -> Option<Result<Summary, Failure>> {
    RUNNING.store(seed, Ordering::Relaxed);
    panic::catch_unwind(AssertUnwindSafe(|| run(&Plan::draw(seed), sink))).ok()
}

fn one(seed: u64, trace: bool) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    writeln!(out, "{:#?}", Plan::draw(seed))?;
    let sink: Option<Sink> = trace.then(|| {
        Box::new(|line: &str| {
            // A reader that went away, such as `head`, ends the run.
            if writeln!(io::stdout(), "{line}").is_err() {
                std::process::exit(1);
            }
        }) as Sink
    });
    drop(out);
    let verdict = attempt(seed, sink);
    let mut out = io::stdout().lock();
    match verdict {
        Some(Ok(summary)) => {
            report(&mut out, &summary, None)?;
            writeln!(out, "PASS seed={seed} hash={:016x}", summary.hash)?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Err(failure)) => {
            writeln!(out, "FAIL seed={seed} {failure}; {}", again(seed))?;
            Ok(ExitCode::from(1))
        }
        None => Ok(ExitCode::from(1)),
    }
}

fn many(arguments: &Arguments) -> io::Result<ExitCode> {
    let bar = progress(arguments.seeds);
    let mut sum = Summary::default();
    let mut failed = 0_u64;
    for seed in arguments.seed_base..arguments.seed_base.saturating_add(arguments.seeds) {
        match verdict_of(seed) {
            Some(Ok(summary)) => sum.add(&summary),
            Some(Err(line)) => {
                bar.suspend(|| writeln!(io::stdout(), "FAIL seed={seed} {line}; {}", again(seed)))?;
                failed += 1;
            }
            None => failed += 1,
        }
        bar.inc(1);
        if failed > 0 && !arguments.keep_going {
            break;
        }
    }
    // The bar has the only clock here.
    let took = bar.elapsed();
    let ran = bar.position();
    bar.finish_and_clear();
    let mut out = io::stdout().lock();
    report(&mut out, &sum, Some(took))?;
    let verdict = if failed == 0 { "PASS" } else { "FAIL" };
    writeln!(out, "{verdict} {ran} seeds from {}, {failed} failed", arguments.seed_base)?;
    Ok(ExitCode::from(u8::from(failed > 0)))
}

/// Runs a seed, some of them twice: the same seed must do the same.
fn verdict_of(seed: u64) -> Option<Result<Summary, String>> {
    let first = match attempt(seed, None)? {
        Ok(summary) => summary,
        Err(failure) => return Some(Err(failure.to_string())),
    };
    if seed.is_multiple_of(TWICE_EVERY) {
        let second = attempt(seed, None)?.map_err(|failure| failure.to_string());
        if second.as_ref().ok() != Some(&first) {
            let line = format!("oracle=determinism {first:?} and then {second:?}");
            return Some(Err(line));
        }
    }
    Some(Ok(first))
}

fn progress(seeds: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(Some(seeds), ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left");
    ProgressBar::new(seeds).with_style(style.expect("the template is a constant"))
}

fn report(out: &mut impl Write, sum: &Summary, took: Option<Duration>) -> io::Result<()> {
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
    writeln!(out, "{} reads", sum.reads)?;
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
