//! The subcommand `table`: a set of runs, each repeated, as one table of medians.
//!
//! The runs are taken in turn, a row of each, so that a slow minute of the disk hits all rows and
//! not one. Each run is this program again, in a process of its own that is bounded in time, so
//! one that goes wrong is counted and costs nothing but itself. Does not measure: every figure is
//! from the JSON result of a run.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::Value;

use crate::failure::{Exit, Failure};
use crate::human::{self, byte_size, grouped};
use crate::progress::Progress;

/// What stands before the subcommand's own arguments.
pub(crate) const SUBCOMMAND: &str = "table";
/// What a run may take beyond its warm-up and its window: making files, electing, reading back,
/// measuring the device. Ten times what a healthy one needs.
const RUN_PATIENCE: Duration = Duration::from_secs(180);

const ROWS: &[Row] = &[
    row("batched", "16 records a request, 4,096 in flight", "--rate max"),
    row("deep", "the same, 16,384 in flight", "--rate max --inflight 16384"),
    row("single", "1 record a request, 4,096 in flight", "--rate max --records-per-request 1"),
    row(
        "single-512",
        "the same, 512 in flight",
        "--rate max --records-per-request 1 --inflight 512",
    ),
    row("single-64", "the same, 64 in flight", "--rate max --records-per-request 1 --inflight 64"),
    row("one", "one in flight", "--rate max --records-per-request 1 --inflight 1"),
    row(
        "one-low",
        "one in flight, profile `low-latency`",
        "--rate max --records-per-request 1 --inflight 1 --profile low-latency",
    ),
    row("open", "open loop, 100,000/s", "--rate 100k"),
    row("groups-64", "`batched`, 64 groups, 2 shards", "--rate max --groups 64 --shards 2"),
    row("groups-1000", "`batched`, 1,000 groups", "--rate max --groups 1000"),
    row("nodes-5", "`batched`, 5 nodes", "--rate max --nodes 5"),
    row("nodes-7", "`batched`, 7 nodes", "--rate max --nodes 7"),
    row("reads", "ReadIndex reads, pipelined", "--rate max --mode read-index"),
    row("reads-open", "ReadIndex reads, 10,000/s", "--rate 10k --mode read-index"),
];

/// One row of the table: what is run, again and again.
#[derive(Clone, Copy, Debug)]
struct Row {
    name: &'static str,
    text: &'static str,
    arguments: &'static str,
}

const fn row(name: &'static str, text: &'static str, arguments: &'static str) -> Row {
    Row { name, text, arguments }
}

const EXAMPLES: &str = "\
Rows: batched, deep, single, single-512, single-64, one, one-low, open, groups-64, groups-1000,
nodes-5, nodes-7, reads, reads-open. In the first round every append run is read back.

Examples:
  loadgen table                                 every row five times, about half an hour
  loadgen table --rounds 3 --rows batched,one   two rows, three times each
  loadgen table --open-duration 10s --out table.md";

/// Runs a set of measurements in turn and prints medians and spread as a table in Markdown.
#[derive(Debug, Parser)]
#[command(name = "loadgen table", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct TableArgs {
    /// How often each row is run
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Which rows, or `all`
    #[arg(long, default_value = "all", value_name = "ROW,...", value_delimiter = ',')]
    rows: Vec<String>,
    /// How long each run measures
    #[arg(long, default_value = "4s", value_name = "TIME", value_parser = human::duration)]
    duration: Duration,
    /// How long the row `open` measures
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = human::duration)]
    open_duration: Duration,
    /// How long each run loads before it measures
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = human::duration)]
    warmup: Duration,
    /// Where the logs lie while a run lasts
    #[arg(long, default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    /// Also write the table to FILE, after every round anew
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What the runs of one row came to.
#[derive(Debug)]
struct Results {
    row: Row,
    good: Vec<Value>,
    failed: Vec<String>,
}

/// Does it; prints the table to standard output at the end.
///
/// # Errors
/// There is no such row, a run lost a record, or no run at all succeeded.
pub(crate) fn run(args: &TableArgs) -> Result<String, Failure> {
    crate::system::remember_signals();
    let mut progress = Progress::new();
    let mut results: Vec<Results> = chosen(&args.rows)?
        .into_iter()
        .map(|row| Results { row, good: Vec::new(), failed: Vec::new() })
        .collect();
    'rounds: for round in 1..=args.rounds {
        for result in &mut results {
            if crate::system::stopped() {
                break 'rounds;
            }
            progress.note(&format!("round {round} of {}: {}", args.rounds, result.row.name));
            match one_run(args, result.row, round == 1) {
                Ok(report) => result.good.push(report),
                Err(failure) if failure.exit == Exit::CheckFailed => return Err(failure),
                Err(failure) => {
                    progress.note(&failure.line);
                    result.failed.push(failure.line);
                }
            }
        }
        if let Some(path) = &args.out {
            fs::write(path, table(&results))
                .map_err(|error| Failure::io(path.display(), &error))?;
        }
    }
    if results.iter().all(|result| result.good.is_empty()) {
        let line = results.iter().find_map(|result| result.failed.last().cloned());
        let line = line.unwrap_or_else(|| "stopped before the first run had ended".to_owned());
        return Err(Failure::new(Exit::Environment, line));
    }
    Ok(table(&results))
}

fn chosen(names: &[String]) -> Result<Vec<Row>, Failure> {
    if names == ["all"] {
        return Ok(ROWS.to_vec());
    }
    let find = |name: &String| {
        ROWS.iter().find(|row| row.name == name).copied().ok_or_else(|| {
            let all: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
            let line = format!("--rows {name}: there are {}, or all", all.join(", "));
            Failure::new(Exit::BadArguments, line)
        })
    };
    names.iter().map(find).collect()
}

fn one_run(args: &TableArgs, row: Row, verify: bool) -> Result<Value, Failure> {
    let path = args.dir.join(format!("loadgen-table-{}.json", std::process::id()));
    let window = if row.name == "open" { args.open_duration } else { args.duration };
    let program = std::env::current_exe()
        .map_err(|error| Failure::io("cannot find this program's own file", &error))?;
    let millis = |time: Duration| format!("{}ms", time.as_millis());
    let mut command = Command::new(program);
    command.args(row.arguments.split(' '));
    command.arg("--duration").arg(millis(window)).arg("--warmup").arg(millis(args.warmup));
    command.arg("--dir").arg(&args.dir).arg("--json").arg(&path);
    if !verify {
        command.arg("--no-verify");
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let result = wait(command, args.warmup + window + RUN_PATIENCE, row).and_then(|()| {
        let text = fs::read(&path).map_err(|error| Failure::io(path.display(), &error))?;
        serde_json::from_slice(&text)
            .map_err(|error| Failure::new(Exit::Io, format!("{}: {error}", path.display())))
    });
    // Not there if the run failed early.
    let _ = fs::remove_file(&path);
    result
}

/// Waits for a run; one that takes too long is ended, and its nodes go with it.
fn wait(mut command: Command, patience: Duration, row: Row) -> Result<(), Failure> {
    let mut child = command.spawn().map_err(|error| Failure::io("cannot start a run", &error))?;
    let deadline = Instant::now() + patience;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => {
                let exit = match status.code() {
                    Some(1) => Exit::CheckFailed,
                    code => code.map_or(Exit::Io, Exit::from_child),
                };
                let line = format!("{}: loadgen {} ended with {status}", row.name, row.arguments);
                return Err(Failure::new(exit, line));
            }
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(50)),
            Ok(None) | Err(_) => {
                // Its nodes see the end of their input and end too.
                let _ = child.kill();
                let _ = child.wait();
                let line = format!("{}: no result after {}", row.name, human::seconds(patience));
                return Err(Failure::new(Exit::Io, line));
            }
        }
    }
}

/// The figure at `path` of each good run, ascending.
fn figures(results: &Results, path: &str) -> Vec<f64> {
    let figure = |report: &Value| report.pointer(path).and_then(Value::as_f64);
    let mut figures: Vec<f64> = results.good.iter().filter_map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures
}

fn median(figures: &[f64]) -> Option<f64> {
    let high = *figures.get(figures.len() / 2)?;
    let low = figures[(figures.len() - 1) / 2];
    Some(f64::midpoint(low, high))
}

/// The median and, in brackets, the least and the most.
fn cell(figures: &[f64], show: impl Fn(f64) -> String) -> String {
    match (figures.first(), figures.last(), median(figures)) {
        (Some(least), Some(most), Some(median)) if least < most => {
            format!("{} ({} to {})", show(median), show(*least), show(*most))
        }
        (_, _, Some(median)) => show(median),
        _ => "-".to_owned(),
    }
}

fn table(results: &[Results]) -> String {
    let mut out = String::new();
    let some = results.iter().find_map(|result| result.good.last());
    if let Some(report) = some {
        let word = |path: &str| report.pointer(path).and_then(Value::as_str).unwrap_or("unknown");
        let number = |path: &str| report.pointer(path).and_then(Value::as_f64).unwrap_or(0.0);
        let _ = writeln!(
            out,
            "Machine: {}, {} cores, {}, Linux {}, {} on {}. Commit {}. Medians, least and most in \
             brackets.\n",
            word("/machine/cpu"),
            number("/machine/cores"),
            byte_size(number("/machine/memory_bytes")),
            word("/machine/kernel"),
            word("/machine/file_system"),
            word("/machine/disk"),
            word("/commit"),
        );
    }
    out.push_str(
        "| run | rate | p50 ms | p99 ms | p99.9 ms | cores: nodes + load | of the ceiling | device \
         bytes a byte | follower lag p99 ms | peak RSS of a node | runs |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for result in results {
        put_row(&mut out, result);
    }
    out
}

fn put_row(out: &mut String, result: &Results) {
    let all = |path: &str| figures(result, path);
    let ms = |path: &str| cell(&all(path), |us| format!("{:.2}", us / 1e3));
    let sum = |value: &Value| -> f64 {
        value.as_array().into_iter().flatten().filter_map(Value::as_f64).sum()
    };
    let most = |value: &Value| -> f64 {
        value.as_array().into_iter().flatten().filter_map(Value::as_f64).fold(0.0, f64::max)
    };
    let of_nodes = |path: &str, of: &dyn Fn(&Value) -> f64| -> Vec<f64> {
        let mut list: Vec<f64> =
            result.good.iter().filter_map(|report| report.pointer(path)).map(of).collect();
        list.sort_by(f64::total_cmp);
        list
    };
    let cores = median(&of_nodes("/cpu_cores/nodes", &sum)).unwrap_or(0.0);
    let load = median(&all("/cpu_cores/loadgen")).unwrap_or(0.0);
    let ceiling = match median(&all("/device/latency_ratio")) {
        Some(ratio) => format!("{ratio:.2} x a 4 KiB write"),
        None => cell(&all("/device/ceiling_ratio"), |ratio| format!("{:.0} %", ratio * 100.0)),
    };
    let failed = match result.failed.len() {
        0 => String::new(),
        failed => format!(", {failed} failed"),
    };
    let _ = writeln!(
        out,
        "| `{}`: {} | {} | {} | {} | {} | {cores:.2} + {load:.2} | {ceiling} | {} | {} | {} | {}{failed} |",
        result.row.name,
        result.row.text,
        cell(&all("/acked_per_s"), |rate| grouped(human::whole(rate))),
        ms("/latency_us/p50"),
        ms("/latency_us/p99"),
        ms("/latency_us/p999"),
        cell(&all("/device/bytes_per_acked_byte"), |bytes| format!("{bytes:.2}")),
        cell(&all("/stages/follower_lag/p99_us"), |us| format!("{:.1}", us / 1e3)),
        median(&of_nodes("/rss_bytes/nodes", &most)).map_or_else(|| "-".to_owned(), byte_size),
        result.good.len(),
    );
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn medians_and_spread_of_what_succeeded() {
        let report = |rate: f64| json!({"acked_per_s": rate, "rss_bytes": {"nodes": [1e6, 3e6]}});
        let good = [3e6, 1e6, 2e6].map(report).to_vec();
        let result = Results { row: ROWS[0], good, failed: vec!["killed".to_owned()] };
        let text = table(&[result]);
        assert!(text.contains("2,000,000 (1,000,000 to 3,000,000)"), "{text}");
        assert!(text.contains("3.00 MB | 3, 1 failed |"), "{text}");
        assert_eq!(median(&[1.0, 2.0]), Some(1.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn rows_are_chosen_by_name_and_their_arguments_are_good() {
        assert_eq!(chosen(&["all".to_owned()]).expect("good").len(), ROWS.len());
        assert_eq!(chosen(&["one".to_owned()]).expect("good")[0].name, "one");
        let failure = chosen(&["fast".to_owned()]).expect_err("there is none");
        assert!(failure.line.contains("groups-1000"), "{}", failure.line);
        for row in ROWS {
            let words = ["loadgen"].into_iter().chain(row.arguments.split(' '));
            let args = crate::args::Args::try_parse_from(words).expect(row.name);
            args.plan().expect(row.name);
        }
    }
}
