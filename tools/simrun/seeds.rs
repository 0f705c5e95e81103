//! Many seeds on several threads, one seed with its trace, and cases: the ordinary run.
//!
//! Does not: judge; worlds do.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use catamaran::base::mark::Hits;
use catamaran::sim::{Plan, Sink, Summary};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::{Run, Trace};
use super::attempt::{Origin, attempt, verdict_of};
use super::{case, summary};

/// Words that begin a line of the large events of a trace.
const LARGE: &[&str] = &[
    "boot", "crash", "cut", "uncut", "heal", "pause", "resume", "stall", "rot", "recover",
    "refused", "node", "ends:",
];

/// What many seeds came to.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) sum: Summary,
    pub(crate) hits: Hits,
    pub(crate) ran: u64,
    pub(crate) failures: Vec<String>,
    pub(crate) took: Duration,
}

/// Which plans to run, and how.
pub(crate) struct Course {
    pub(crate) first: u64,
    /// How many; with `lasts`, until that has passed.
    pub(crate) seeds: u64,
    pub(crate) lasts: Option<Duration>,
    pub(crate) jobs: u16,
    pub(crate) keep_going: bool,
}

pub(crate) fn run(run: &Run) -> io::Result<ExitCode> {
    if !run.case.is_empty() {
        return cases(&run.case, run);
    }
    if let Some(seed) = run.seed {
        return one(&Origin::seed(seed), &Plan::draw(seed), run);
    }
    let course = Course {
        first: run.seed_base,
        seeds: if run.lasts.is_some() { u64::MAX } else { run.seeds },
        lasts: run.lasts,
        jobs: run.jobs,
        keep_going: run.keep_going,
    };
    let outcome = many(&course)?;
    conclude(&outcome, &format!("seeds from {}", run.seed_base), run.json)
}

/// Prints the sums and the verdict.
fn conclude(outcome: &Outcome, what: &str, json: bool) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{:#}", summary::json(outcome))?;
    } else {
        summary::print(&mut out, &outcome.sum, Some(outcome.took))?;
        let failed = outcome.failures.len();
        let verdict = if failed == 0 { "PASS" } else { "FAIL" };
        writeln!(out, "{verdict} {} {what}, {failed} failed", outcome.ran)?;
    }
    Ok(ExitCode::from(u8::from(!outcome.failures.is_empty())))
}

/// Runs the seeds of a course on its threads. Failures are printed as they come.
pub(crate) fn many(course: &Course) -> io::Result<Outcome> {
    let bar = progress(course);
    let next = AtomicU64::new(course.first);
    let end = course.first.saturating_add(course.seeds);
    let stop = AtomicBool::new(false);
    let mut outcome = Outcome::default();
    let (send, receive) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..course.jobs {
            let (send, next, stop, bar) = (send.clone(), &next, &stop, &bar);
            scope.spawn(move || {
                loop {
                    let is_late = course.lasts.is_some_and(|lasts| bar.elapsed() >= lasts);
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || is_late || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let verdict = verdict_of(&Origin::seed(seed), &Plan::draw(seed));
                    // The receiver lives as long as the scope.
                    let _ = send.send((verdict, Hits::take()));
                }
            });
        }
        drop(send);
        for (verdict, hits) in receive {
            bar.inc(1);
            outcome.hits.add(&hits);
            match verdict {
                Ok(summary) => outcome.sum.add(&summary),
                Err(line) => {
                    if !line.is_empty() {
                        bar.suspend(|| writeln!(io::stdout(), "{line}"))?;
                    }
                    outcome.failures.push(line);
                    stop.store(!course.keep_going, Ordering::Relaxed);
                }
            }
        }
        Ok::<(), io::Error>(())
    })?;
    // The bar has the only clock here.
    outcome.took = bar.elapsed();
    outcome.ran = bar.position();
    bar.finish_and_clear();
    Ok(outcome)
}

/// One plan, printed, with its trace if that is wanted.
fn one(origin: &Origin, plan: &Plan, run: &Run) -> io::Result<ExitCode> {
    if !run.json {
        writeln!(io::stdout(), "{}", case::text(plan))?;
    }
    let verdict = attempt(origin, plan, run.trace.map(sink), run.stop_at);
    let mut out = io::stdout().lock();
    match verdict {
        Some(Ok(sum)) if run.json => {
            let outcome = Outcome { sum, ran: 1, ..Outcome::default() };
            writeln!(out, "{:#}", summary::json(&outcome))?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Ok(sum)) => {
            summary::print(&mut out, &sum, None)?;
            let verdict = if run.stop_at.is_some() { "STOPPED" } else { "PASS" };
            writeln!(out, "{verdict} seed={} hash={:016x}", origin.seed, sum.hash)?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Err(failure)) => {
            writeln!(out, "{}", origin.line(&failure))?;
            Ok(ExitCode::from(1))
        }
        None => Ok(ExitCode::from(1)),
    }
}

fn sink(trace: Trace) -> Sink {
    Box::new(move |line: &str| {
        let word = line.split_whitespace().nth(1).unwrap_or_default();
        if trace == Trace::Large && !LARGE.contains(&word) {
            return;
        }
        // A reader that went away, such as `head`, ends the run.
        if writeln!(io::stdout(), "{line}").is_err() {
            std::process::exit(1);
        }
    })
}

/// Replays cases; a single one like a seed, with its trace.
fn cases(paths: &[PathBuf], run: &Run) -> io::Result<ExitCode> {
    let files = case::files(paths)?;
    if let [file] = &files[..]
        && paths.len() == 1
        && !paths[0].is_dir()
    {
        let plan = case::read(file)?;
        return one(&Origin::case(plan.seed, &file.display().to_string()), &plan, run);
    }
    let bar = ProgressBar::hidden();
    let mut outcome = Outcome::default();
    for file in &files {
        let plan = case::read(file)?;
        let origin = Origin::case(plan.seed, &file.display().to_string());
        outcome.ran += 1;
        match verdict_of(&origin, &plan) {
            Ok(summary) => outcome.sum.add(&summary),
            Err(line) => {
                writeln!(io::stdout(), "{line}")?;
                outcome.failures.push(line);
            }
        }
    }
    outcome.took = bar.elapsed();
    conclude(&outcome, "cases", run.json)
}

fn progress(course: &Course) -> ProgressBar {
    let length = (course.seeds != u64::MAX).then_some(course.seeds);
    if !io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(length, ProgressDrawTarget::hidden());
    }
    let template = match length {
        Some(_) => "{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left",
        None => "{spinner} {pos} seeds, {per_sec}, {elapsed} gone",
    };
    let style = ProgressStyle::with_template(template).expect("the template is a constant");
    ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr()).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_threads_come_to_the_same_sums_as_one() {
        let course = |jobs| Course { first: 1, seeds: 6, lasts: None, jobs, keep_going: false };
        let (one, two) = (many(&course(1)), many(&course(2)));
        let (one, two) = (one.expect("stdout is there"), two.expect("stdout is there"));
        assert_eq!((one.ran, one.failures.len()), (6, 0));
        assert_eq!(one.sum, two.sum);
        assert_eq!(one.hits, two.hits);
    }
}
