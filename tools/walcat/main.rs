//! `walcat`: prints, verifies and compares the logs of data directories. Alters nothing.
//!
//! Only the command line and the exit codes live here: 0 good, 1 the check failed, 2 bad
//! arguments, 3 a file cannot be read, 4 a log is corrupt. See `docs/wal-format.md`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]

mod compare;
mod dump;
mod log;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Prints, verifies and compares write-ahead logs. Stop the node first: a log that is being
/// written looks as if it had crashed.
#[derive(Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
        walcat /var/lib/catamaran/n1                  every block and batch, oldest first\n  \
        walcat --group 7 --records n1/shard-00        one group's batches with their records\n  \
        walcat --verify --json n1                     what a start would say, as JSON lines\n  \
        walcat wal-segment-00042.log                  one file by itself\n  \
        walcat compare n1 n2                          do two replicas hold the same entries?\n\n\
        Exit codes: 0 good, 1 the check failed, 2 bad arguments, 3 cannot be read, 4 corrupt."
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    print: PrintArguments,
}

#[derive(Subcommand)]
enum Command {
    /// Compares what two data directories hold of the groups that both have.
    Compare {
        /// A data directory, or one of its shards.
        left: PathBuf,
        /// The other one.
        right: PathBuf,
        /// Only this group.
        #[arg(long)]
        group: Option<u64>,
        /// A JSON object per group instead of text.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct PrintArguments {
    /// A data directory, one of its shards, or a segment file.
    #[arg(required = true)]
    path: Option<PathBuf>,
    /// Print no blocks: recover each log as a start would, and say what that gives.
    #[arg(long)]
    verify: bool,
    /// A JSON object per block (or per log and group) instead of text.
    #[arg(long)]
    json: bool,
    /// Only batches and facts of this group.
    #[arg(long)]
    group: Option<u64>,
    /// Print the records of each batch too, the first bytes of each as text.
    #[arg(long, conflicts_with = "verify")]
    records: bool,
}

/// What ends the program early.
enum Failure {
    /// A file cannot be read, or is no log.
    Unreadable(String),
    /// A log is refused.
    Corrupt(String),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Unreadable(_) => 3,
            Self::Corrupt(_) => 4,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match (arguments.command, arguments.print.path) {
        (Some(Command::Compare { left, right, group, json }), _) => {
            compare::run(&left, &right, group, json)
        }
        (None, Some(path)) if arguments.print.verify => {
            verify::run(&path, arguments.print.group, arguments.print.json)
        }
        (None, Some(path)) => {
            let PrintArguments { json, group, records, .. } = arguments.print;
            dump::run(&path, &dump::Options { json, group, records })
        }
        (None, None) => unreachable!("clap requires a path"),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(failure) => {
            let (Failure::Unreadable(line) | Failure::Corrupt(line)) = &failure;
            eprintln!("error: {line}");
            ExitCode::from(failure.code())
        }
    }
}
