//! hammer: hard use of a real cluster, with bounds. Exit code 1 when one does not hold.
//!
//! Every subcommand starts three nodes of its own on this machine (processes, loopback, a temporary
//! directory), lets well-behaved clients write, does something bad, and says how they fared; at the
//! end every record is accounted for. In reading order: processes (`cluster`), accounts (`account`),
//! clients that behave (`load`) and that do not (`raw`), what all subcommands need (`site`), one file
//! a subcommand.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a program of the real world: it reads clocks, starts threads that share, and sleeps"
)]

mod account;
mod cluster;
mod flood;
mod load;
mod raw;
mod report;
mod site;
mod throttle;

mod cold_start;
mod follower;
mod hostile;
mod kill;
mod memory;
mod overload;
mod pause;

#[path = "../loadgen/human.rs"]
#[cfg_attr(not(test), expect(dead_code, reason = "loadgen knows more kinds of numbers"))]
mod human;
#[path = "../loadgen/progress.rs"]
#[expect(dead_code, reason = "only loadgen runs nodes inside itself")]
mod progress;
#[path = "../loadgen/system.rs"]
#[expect(dead_code, reason = "only loadgen has an engine of its own")]
mod system;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};

use follower::Fault;
use progress::Progress;

const EXAMPLES: &str = "\
Examples:
  hammer kill --rounds 200                 leader, follower, leader, all three, and so on
  hammer pause-leader --rounds 20          the leader stands still for 2 s
  hammer slow-follower --json -            the result for programs, on standard output

Exit codes: 0 every bound held; 1 one did not; 2 bad arguments; 3 it could not be done.";

/// Hard use of a cluster of three nodes on this machine.
///
/// Times are compared with times of the same run, so the machine may be slow, but it must be quiet:
/// what else runs on it shows in the result.
#[derive(Debug, Parser)]
#[command(name = "hammer", version, after_help = EXAMPLES, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    what: What,
    /// Where the cluster keeps its logs for as long as it runs
    #[arg(long, global = true, default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    /// Write the result as JSON to FILE, or `-` for standard output
    #[arg(long, global = true, value_name = "FILE|-")]
    json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Kill nodes under load and start them again
    Kill {
        /// How often
        #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
        /// Whom
        #[arg(long, value_enum, default_value_t = kill::Who::Mix)]
        who: kill::Who,
    },
    /// Stop the leader's process for 2 s and let it go on, with linearizable reads
    PauseLeader {
        /// How often
        #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
    },
    /// Stop a follower's process for a while and let it go on
    SlowFollower {
        /// For how long
        #[arg(long, default_value = "10s", value_name = "TIME", value_parser = human::duration)]
        away: Duration,
    },
    /// Kill a follower and start it again after a while
    DeadFollower {
        /// For how long
        #[arg(long, default_value = "10s", value_name = "TIME", value_parser = human::duration)]
        away: Duration,
    },
    /// Offer three and ten times what the cluster can take, from 256 connections
    Overload {
        /// How long each load lasts
        #[arg(long, default_value = "8s", value_name = "TIME", value_parser = human::duration)]
        time: Duration,
    },
    /// Let crowds of clients misbehave: never read, trickle, say nothing, talk nonsense
    Hostile {
        /// How long each crowd is at it
        #[arg(long, default_value = "60s", value_name = "TIME", value_parser = human::duration)]
        time: Duration,
        /// How large the crowds are: 1 is 1,000, 1,000, 20,000 and 50
        #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
        scale: f64,
    },
    /// Start nodes with a long log, each alone, and compare with reading the files plainly
    ColdStart {
        /// How much log each node has
        #[arg(long, default_value = "2GiB", value_name = "SIZE", value_parser = human::bytes)]
        log: u64,
    },
    /// Let a follower's disk take 20 writes a second for a while (root, control groups version 1)
    SlowDisk {
        /// For how long
        #[arg(long, default_value = "10s", value_name = "TIME", value_parser = human::duration)]
        away: Duration,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    system::remember_signals();
    let mut progress = Progress::new();
    let begun = Instant::now();
    let dir = &args.dir;
    let result = match args.what {
        What::Kill { rounds, who } => kill::run(dir, rounds, who, &mut progress),
        What::PauseLeader { rounds } => pause::run(dir, rounds, &mut progress),
        What::SlowFollower { away } => follower::run(dir, Fault::Stopped, away, &mut progress),
        What::DeadFollower { away } => follower::run(dir, Fault::Dead, away, &mut progress),
        What::Overload { time } => overload::run(dir, time, &mut progress),
        What::Hostile { time, scale } => hostile::run(dir, time, scale, &mut progress),
        What::ColdStart { log } => cold_start::run(dir, log, &mut progress),
        What::SlowDisk { away } => follower::run(dir, Fault::SlowDisk, away, &mut progress),
    };
    drop(progress);
    let told = result.and_then(|mut report| {
        report.took(begun.elapsed().as_secs_f64());
        tell(&report, args.json.as_deref()).map(|()| report.is_good())
    });
    match told {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(line) => {
            progress::complain(&line);
            ExitCode::from(3)
        }
    }
}

/// The table on standard output, and JSON where it is wanted.
fn tell(report: &report::Report, json: Option<&std::path::Path>) -> Result<(), String> {
    let to_stdout = json.is_some_and(|path| path.as_os_str() == "-");
    let text = if to_stdout { report.json() } else { report.table() };
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|error| format!("cannot write the result: {error}"))?;
    match json.filter(|_| !to_stdout) {
        Some(path) => std::fs::write(path, report.json())
            .map_err(|error| format!("{}: {error}", path.display())),
        None => Ok(()),
    }
}
