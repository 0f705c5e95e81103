//! The command line. Does not: run anything.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Runs clusters of the shipped code in simulated worlds and checks what they promise.
///
/// Each seed draws a world: nodes, groups, segment sizes, latencies, and which faults exist at
/// all. The first broken promise ends the run with one line that names the seed.
#[derive(Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
        simrun --seeds 1000 --jobs 2             a thousand worlds, seeds 1 to 1000\n  \
        simrun --seeds 500 --seed-base 90000     other worlds\n  \
        simrun --for 8h --jobs 2 --keep-going    all night\n  \
        simrun --seed 4711                       one world again\n  \
        simrun --seed 4711 --trace > trace.txt   with the large events of it\n  \
        simrun --seed 4711 --trace=full --stop-at 184223\n  \
        simrun --case tests/regress              every case that once failed\n  \
        simrun shrink 4711                       the smallest plan that still fails\n  \
        simrun marks --seeds 2000 --jobs 2       which branches were never taken\n\n\
        Exit codes: 0 all good, 1 a promise was broken, 2 bad arguments."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) run: Run,
    /// What to do instead of running seeds.
    #[command(subcommand)]
    pub(crate) task: Option<Task>,
    /// The planted bug of this process; set by `mutants` for its children.
    #[arg(long, global = true, hide = true)]
    pub(crate) plant: Option<String>,
}

#[derive(Subcommand)]
pub(crate) enum Task {
    /// Turn fault classes off one by one and bisect load and time while the seed still fails.
    Shrink(Shrink),
    /// Run the planted bugs, each in processes of its own, and print how many were found.
    Mutants(Mutants),
    /// Run seeds and print how often each coverage mark was hit; fails if one never was.
    Marks(Marks),
    /// Measure how many times faster than real time three nodes under steady load run on a core.
    Pace(Pace),
}

#[derive(Args)]
pub(crate) struct Run {
    /// How many seeds to run.
    #[arg(long, default_value_t = 200, conflicts_with = "seed")]
    pub(crate) seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1, conflicts_with = "seed")]
    pub(crate) seed_base: u64,
    /// Threads that run seeds.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: u16,
    /// Go on for so long instead of a number of seeds, such as 90s, 10m or 8h.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration, conflicts_with = "seed")]
    pub(crate) lasts: Option<Duration>,
    /// Go on after a failure and list them all. A failed assertion ends a release build anyway.
    #[arg(long, conflicts_with = "seed")]
    pub(crate) keep_going: bool,
    /// Run this seed only, and print its plan.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Replay cases instead of seeds: files, or folders of them.
    #[arg(long, num_args = 1.., value_name = "FILE", conflicts_with_all = ["seed", "lasts"])]
    pub(crate) case: Vec<PathBuf>,
    /// Stop after so many events, without an audit.
    #[arg(long, value_name = "EVENT")]
    pub(crate) stop_at: Option<u64>,
    /// Print what happens: faults, starts and failures, or everything with `full`.
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "large")]
    pub(crate) trace: Option<Trace>,
    /// Print the summary as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Trace {
    /// Faults, starts, recoveries, refusals.
    Large,
    /// Every event and every control message.
    Full,
}

#[derive(Args)]
#[command(after_help = "Example:\n  \
    simrun shrink 4711 --out tests/regress\n\n\
    The result is a case file with the whole plan, so it stays the same world when the drawing of \
    plans changes. It is not turned into a golden script: those speak of one group without disks \
    and clients; what a trace of the case shows between replicas is written down by hand.")]
pub(crate) struct Shrink {
    /// The seed that fails, or a case file.
    pub(crate) failing: String,
    /// The folder that gets the case.
    #[arg(long, default_value = "tests/regress")]
    pub(crate) out: PathBuf,
    /// Runs to spend at most.
    #[arg(long, default_value_t = 400)]
    pub(crate) tries: u32,
    /// How many different histories of each smaller plan are looked at.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) histories: u32,
    /// A run that takes longer is taken for one that hangs.
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub(crate) limit: Duration,
}

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    cargo run --release --features planted --bin simrun -- mutants --seeds 1000 --jobs 2\n  \
    cargo run --release --features planted --bin simrun -- mutants --bug C01_OLDER_TERM_COMMITTED\n\n\
    Exit code 1: one of H, W, I, C or E survived, or fewer than nine of ten were found.")]
pub(crate) struct Mutants {
    /// Only these.
    #[arg(long, value_name = "NAME")]
    pub(crate) bug: Vec<String>,
    /// Seeds that each of them gets.
    #[arg(long, default_value_t = 1000)]
    pub(crate) seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed_base: u64,
    /// Bugs that are run side by side.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: u16,
    /// How long one bug may run. One that has not been noticed by then counts as a survivor.
    #[arg(long, default_value = "300s", value_parser = duration)]
    pub(crate) limit: Duration,
    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
#[command(after_help = "Example:\n  simrun marks --seeds 2000 --jobs 2")]
pub(crate) struct Marks {
    /// How many seeds to run.
    #[arg(long, default_value_t = 2000)]
    pub(crate) seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed_base: u64,
    /// Threads that run seeds.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: u16,
    /// Print every mark with its hits, not only those that were missed.
    #[arg(long)]
    pub(crate) all: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
#[command(after_help = "Example:\n  simrun pace --hours 2 --rounds 5")]
pub(crate) struct Pace {
    /// Simulated hours of one round.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) hours: f64,
    /// Rounds, each with another seed.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rounds: u64,
    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `90s`, `10m`, `8h`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number: u64 = text[..text.len() - unit.len()]
        .parse()
        .map_err(|_| format!("{text:?} is no duration; write 90s, 10m or 8h"))?;
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(format!("{unit:?} is no unit; write 90s, 10m or 8h")),
    };
    let seconds = number.checked_mul(seconds).ok_or("too long")?;
    Ok(Duration::from_secs(seconds))
}

/// Says what is wrong with how the program was called, or with what it was pointed at.
pub(crate) fn refuse(text: &str) -> ExitCode {
    // If even this fails there is nobody to tell.
    let _ = writeln!(io::stderr(), "error: {text}");
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("8h"), Ok(Duration::from_secs(28_800)));
        assert!(duration("1d").is_err() && duration("m").is_err() && duration("").is_err());
    }

    #[test]
    fn the_examples_of_the_help_parse() {
        for line in [
            "simrun --seeds 1000 --jobs 2",
            "simrun --for 8h --jobs 2 --keep-going",
            "simrun --seed 4711 --trace",
            "simrun --seed 4711 --trace=full --stop-at 184223",
            "simrun --case tests/regress",
            "simrun shrink 4711 --out tests/regress",
            "simrun mutants --bug C01_OLDER_TERM_COMMITTED --seeds 20",
            "simrun marks --seeds 2000 --jobs 2",
            "simrun pace --hours 2 --rounds 5",
        ] {
            let parsed = Arguments::try_parse_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {:?}", parsed.err().map(|error| error.to_string()));
        }
        assert!(Arguments::try_parse_from(["simrun", "--seed", "1", "--seeds", "2"]).is_err());
    }
}
