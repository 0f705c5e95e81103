//! diskprobe: what a disk can do for a log, in one table.
//!
//! Durable writes through io_uring on pre-written files, by block size and depth, with one or
//! several writers at once. The measuring is `runtime::probe`, which loadgen calls for its device
//! ceiling too; here are arguments, medians, the table and a suggestion. Does not: read, or
//! measure anything that a log does not do.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints its result")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use catamaran::runtime::probe::{self, Load, ProbeError, ProbeResult};
use clap::Parser;
use serde_json::json;

/// What this disk can do: durable writes by block size and depth, as a log makes them.
#[derive(Parser)]
#[command(
    name = "diskprobe",
    version,
    after_help = "Examples:\n  \
        diskprobe                            the usual table for the current directory\n  \
        diskprobe --dir /var/lib/catamaran   for another disk\n  \
        diskprobe --writers 3                as three nodes on this machine would use it\n  \
        diskprobe --block-bytes 262144 --depth 4 --seconds 5 --json -\n\n\
        Exit codes: 0 good, 2 bad arguments, 3 no io_uring or no O_DIRECT, 5 the device failed."
)]
struct Arguments {
    /// Directory on the disk to measure; temporary files are made there and removed.
    #[arg(long, default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    /// Bytes of a write; may be given several times [default: 4096 65536 262144 1048576].
    #[arg(long, value_name = "BYTES")]
    block_bytes: Vec<usize>,
    /// Writes at the device at once, for each writer; may be given several times [default: 1 4].
    #[arg(long, value_name = "N")]
    depth: Vec<u32>,
    /// Writers at once, each with a file of its own; may be given several times [default: 1].
    #[arg(long, value_name = "N")]
    writers: Vec<u32>,
    /// Seconds for each measurement.
    #[arg(long, default_value_t = 1.0, value_name = "S")]
    seconds: f64,
    /// Measurements of each line, of which the median by rate is shown.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=99))]
    repeat: u32,
    /// Write the results as JSON to a file, or to standard output with `-`.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure a file system without O_DIRECT too; it shows what memory can do.
    #[arg(long)]
    allow_buffered: bool,
}

/// One line of the table.
struct Line {
    load: Load,
    median: ProbeResult,
}

/// Why it ended early: the sentence and the exit code.
struct Failure {
    sentence: String,
    code: u8,
}

impl From<ProbeError> for Failure {
    fn from(error: ProbeError) -> Self {
        let code = u8::try_from(error.exit_code().code()).expect("exit codes are small");
        Self { sentence: error.to_string(), code }
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { sentence, code }) => {
            eprintln!("error: {sentence}");
            ExitCode::from(code)
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let loads = loads(arguments)?;
    let to_stdout = arguments.json.as_deref() == Some(Path::new("-"));
    if !to_stdout {
        print_head(arguments);
    }
    let mut lines = Vec::new();
    for load in loads {
        let median = measure(&arguments.dir, &load, arguments.repeat)?;
        let line = Line { load, median };
        if !to_stdout {
            print_line(&line);
        }
        lines.push(line);
    }
    let suggestion = suggest(&lines);
    if !to_stdout {
        print_tail(&lines, &suggestion);
    }
    match &arguments.json {
        Some(file) => write_json(file, to_stdout, &lines, &suggestion),
        None => Ok(()),
    }
}

fn loads(arguments: &Arguments) -> Result<Vec<Load>, Failure> {
    fn or<T: Copy>(given: &[T], usual: &[T]) -> Vec<T> {
        if given.is_empty() { usual.to_vec() } else { given.to_vec() }
    }
    let bad = |sentence: &str| Failure { sentence: sentence.to_owned(), code: 2 };
    let duration = Duration::try_from_secs_f64(arguments.seconds)
        .ok()
        .filter(|duration| (0.01..=3600.0).contains(&duration.as_secs_f64()))
        .ok_or_else(|| bad("--seconds: not from 0.01 to 3600: choose another duration"))?;
    let mut loads = Vec::new();
    for &writers in &or(&arguments.writers, &[1]) {
        for &block_bytes in &or(&arguments.block_bytes, &[4 << 10, 64 << 10, 256 << 10, 1 << 20]) {
            for &depth in &or(&arguments.depth, &[1, 4]) {
                let allow_buffered = arguments.allow_buffered;
                loads.push(Load { block_bytes, depth, writers, duration, allow_buffered });
            }
        }
    }
    Ok(loads)
}

/// The measurement in the middle, by rate.
fn measure(directory: &Path, load: &Load, repeat: u32) -> Result<ProbeResult, Failure> {
    let mut results = Vec::new();
    for _ in 0..repeat {
        results.push(probe::ceiling(directory, load)?);
    }
    results.sort_by(|a, b| a.writes_per_s.total_cmp(&b.writes_per_s));
    Ok(results[results.len() / 2])
}

fn print_head(arguments: &Arguments) {
    println!(
        "durable writes (O_DIRECT, RWF_DSYNC, pre-written files) in {}, medians of {}",
        arguments.dir.display(),
        arguments.repeat
    );
    println!(
        "{:>9} {:>6} {:>8} {:>10} {:>9} {:>9} {:>9} {:>9}",
        "block", "depth", "writers", "writes/s", "MB/s", "p50 us", "p99 us", "max us"
    );
}

fn print_line(Line { load, median }: &Line) {
    println!(
        "{:>9} {:>6} {:>8} {:>10.0} {:>9.1} {:>9.0} {:>9.0} {:>9.0}",
        load.block_bytes,
        load.depth,
        load.writers,
        median.writes_per_s,
        median.bytes_per_s / 1e6,
        median.latency_us.p50,
        median.latency_us.p99,
        median.latency_us.max
    );
}

fn print_tail(lines: &[Line], suggestion: &Suggestion) {
    if lines.iter().any(|line| !line.median.direct) {
        println!("not direct: this file system was written through memory; nothing was durable");
    }
    if lines.iter().any(|line| !line.median.registered) {
        println!(
            "not registered: the limit on locked memory (ulimit -l) is too low; each write costs \
             a little more CPU"
        );
    }
    println!("suggested profile: {} ({})", suggestion.profile, suggestion.because);
}

/// A profile of `tuning/` and why.
struct Suggestion {
    profile: &'static str,
    because: String,
}

/// What a log feels: how long a small write takes alone, and how much goes through at all.
fn suggest(lines: &[Line]) -> Suggestion {
    const FAST_WRITE_US: f64 = 60.0;
    const FAST_BYTES_PER_S: f64 = 1e9;
    const SLOW_WRITE_US: f64 = 2000.0;
    let best = lines.iter().map(|line| line.median.bytes_per_s).fold(0.0, f64::max);
    let fastest = lines.iter().map(|line| line.median.latency_us.p50).fold(f64::INFINITY, f64::min);
    let profile = if fastest <= FAST_WRITE_US && best >= FAST_BYTES_PER_S {
        "nvme"
    } else if fastest >= SLOW_WRITE_US {
        "ci"
    } else {
        "laptop"
    };
    let because = format!(
        "the fastest write took {fastest:.0} us at the median, at best {:.0} MB/s went through",
        best / 1e6
    );
    Suggestion { profile, because }
}

fn write_json(
    file: &Path,
    to_stdout: bool,
    lines: &[Line],
    suggestion: &Suggestion,
) -> Result<(), Failure> {
    let results: Vec<_> = lines
        .iter()
        .map(|Line { load, median }| {
            json!({
                "block_bytes": load.block_bytes,
                "depth": load.depth,
                "writers": load.writers,
                "seconds": load.duration.as_secs_f64(),
                "writes_per_s": median.writes_per_s,
                "bytes_per_s": median.bytes_per_s,
                "latency_us": {
                    "p50": median.latency_us.p50,
                    "p90": median.latency_us.p90,
                    "p99": median.latency_us.p99,
                    "max": median.latency_us.max,
                },
                "registered": median.registered,
                "direct": median.direct,
            })
        })
        .collect();
    let text = json!({ "results": results, "suggested_profile": suggestion.profile });
    let text = serde_json::to_string_pretty(&text).expect("numbers and strings");
    if to_stdout {
        println!("{text}");
        return Ok(());
    }
    std::fs::write(file, text + "\n").map_err(|error| Failure {
        sentence: format!("writing the results: {}: {error}: choose another file", file.display()),
        code: 5,
    })
}
