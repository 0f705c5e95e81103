//! loadgen: drives a catamaran cluster and accounts for every record that it acknowledged.
//!
//! The first thing a newcomer runs. In reading order: the command line (`args`), the run from
//! beginning to end (`run`), the embedded cluster, the load, the account, the result. Does not
//! contain a client library (`catamaran::client` is one): what is here is shaped by costing little
//! beside the nodes that it measures.
#![expect(
    clippy::disallowed_methods,
    reason = "a program of the real world: it reads clocks, starts threads and sleeps"
)]

mod args;
mod failure;
mod human;

mod run;

mod budget;
mod cluster;
mod node;

mod control;
mod dialogue;

mod engine;
mod flight;
mod link;
mod payload;
mod replies;
mod reroute;
mod schedule;
mod system;

mod audit;
mod ledger;
mod verify;

mod machine;
mod meter;
mod progress;
mod report;
mod sample;
mod stages;

mod table;

#[cfg(test)]
mod engine_tests;
#[cfg(test)]
mod fake;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;

use args::Args;
use failure::{Exit, Failure};
use report::Judgement;

fn main() -> ExitCode {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    let result = if words.get(1).is_some_and(|word| word == node::SUBCOMMAND) {
        words.remove(1);
        node::run(&node::NodeArgs::parse_from(words))
    } else if words.get(1).is_some_and(|word| word == table::SUBCOMMAND) {
        words.remove(1);
        table::run(&table::TableArgs::parse_from(words)).and_then(|text| say(&text))
    } else {
        load(Args::parse_from(words))
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            progress::complain(&failure.line);
            ExitCode::from(failure.exit.code())
        }
    }
}

fn say(text: &str) -> Result<(), Failure> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::io("cannot write the result", &error))
}

fn load(args: Args) -> Result<(), Failure> {
    let plan = args.plan()?;
    // A thousand connections and an embedded cluster's pipes do not fit into the usual 1,024.
    system::raise_open_files(0);
    let report = run::run(&plan)?;
    let to_stdout = plan.json.as_deref() == Some(Path::new("-"));
    let mut text = if to_stdout { report.json() } else { report.table() };
    if plan.stages && !to_stdout {
        text.push_str(&report.stage_table());
    }
    say(&text)?;
    if let Some(path) = plan.json.as_deref().filter(|_| !to_stdout) {
        run::write_json(path, &report)?;
    }
    match report.verdict {
        Judgement::Ok => Ok(()),
        Judgement::Stopped => Err(Failure::new(Exit::Interrupted, "stopped from outside")),
        Judgement::Failed(why) => Err(Failure::new(Exit::CheckFailed, why)),
    }
}
