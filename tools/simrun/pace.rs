//! `simrun pace`: how many simulated seconds a real second has, on one core.
//!
//! The plan is fixed: three nodes under steady load with a rare crash or cut (`Plan::steady`).
//! Does not: run seeds in parallel; that would measure the machine and not the code.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use catamaran::sim::Plan;
use indicatif::ProgressBar;
use serde_json::json;

use super::args::{Pace, refuse};
use super::attempt::{Origin, attempt, commit};

pub(crate) fn run(task: &Pace) -> io::Result<ExitCode> {
    if !(task.hours > 0.0 && task.hours <= 10_000.0) {
        return Ok(refuse("--hours is between 0 and 10000"));
    }
    let lasts = Duration::from_secs_f64(task.hours * 3600.0);
    let mut paces = Vec::new();
    for seed in 1..=task.rounds {
        let plan = Plan::steady(seed, lasts);
        // Hidden, but it has a clock.
        let bar = ProgressBar::hidden();
        let origin = Origin { seed, arguments: format!("pace --rounds {seed}") };
        let summary = match attempt(&origin, &plan, None, None) {
            Some(Ok(summary)) => summary,
            Some(Err(failure)) => {
                writeln!(io::stdout(), "{}", origin.line(&failure))?;
                return Ok(ExitCode::from(1));
            }
            None => return Ok(ExitCode::from(1)),
        };
        let real = bar.elapsed().as_secs_f64().max(1e-9);
        let pace = summary.simulated.as_secs_f64() / real;
        if !task.json {
            let (events, hours) = (summary.events, summary.simulated.as_secs_f64() / 3600.0);
            let mut out = io::stdout().lock();
            write!(out, "round {seed}: {hours:.3} h simulated in {real:.2} s, {events} events, ")?;
            writeln!(out, "{:.0} events/s, {pace:.0} x real time", events as f64 / real)?;
        }
        paces.push(pace);
    }
    paces.sort_by(f64::total_cmp);
    let median = paces[paces.len() / 2];
    let mut out = io::stdout().lock();
    if task.json {
        let result = json!({ "commit": commit(), "paces": paces, "median": median });
        writeln!(out, "{result:#}")?;
    } else {
        writeln!(out, "median {median:.0} x real time on one core")?;
    }
    Ok(ExitCode::SUCCESS)
}
