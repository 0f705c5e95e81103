//! `simrun`: seeds in, verdicts out. Runs the shipped shard in the simulated world, and grades it.
//!
//! Only the command line, the progress and what people read live here, a file each; worlds live in
//! `catamaran::sim`. Exit codes: 0 every promise was kept, 1 one was not (or a mark was not hit, or
//! a planted bug survived that must not), 2 bad arguments or a file that cannot be read.

mod args;
mod attempt;
mod case;
mod marks;
mod mutants;
mod pace;
mod seeds;
mod shrink;
mod summary;

use std::io;
use std::process::ExitCode;

use args::{Arguments, Task};
use clap::Parser;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    attempt::install_panic_hook();
    if let Err(text) = mutants::plant(arguments.plant.as_deref()) {
        return args::refuse(&text);
    }
    let outcome = match &arguments.task {
        None => seeds::run(&arguments.run),
        Some(Task::Shrink(task)) => shrink::run(task),
        Some(Task::Mutants(task)) => mutants::run(task),
        Some(Task::Marks(task)) => marks::run(task),
        Some(Task::Pace(task)) => pace::run(task),
    };
    match outcome {
        Ok(code) => code,
        // Nobody reads standard output any more.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(1),
        Err(error) => args::refuse(&error.to_string()),
    }
}
