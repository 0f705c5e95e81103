//! `simrun marks`: which branches that matter did these seeds take?
//!
//! Does not: say who claims a mark; `tests/marks.rs` does.

use std::io::{self, Write};
use std::process::ExitCode;

use catamaran::base::mark::Mark;
use serde_json::{Map, Value, json};

use super::args::Marks;
use super::seeds::{Course, many};
use super::summary;

pub(crate) fn run(task: &Marks) -> io::Result<ExitCode> {
    let course = Course {
        first: task.seed_base,
        seeds: task.seeds,
        lasts: None,
        jobs: task.jobs,
        keep_going: false,
    };
    let outcome = many(&course)?;
    let hits = Mark::ALL.iter().map(|(mark, name)| (*name, outcome.hits.of(*mark)));
    let hits: Vec<(&str, u64)> = hits.collect();
    let missed: Vec<&str> =
        hits.iter().filter(|(_, hits)| *hits == 0).map(|(name, _)| *name).collect();
    let is_good = missed.is_empty() && outcome.failures.is_empty();
    let mut out = io::stdout().lock();
    if task.json {
        let list: Map<String, Value> =
            hits.iter().map(|(name, hits)| ((*name).to_owned(), json!(hits))).collect();
        let result = json!({ "run": summary::json(&outcome), "marks": list, "missed": missed });
        writeln!(out, "{result:#}")?;
        return Ok(ExitCode::from(u8::from(!is_good)));
    }
    summary::print(&mut out, &outcome.sum, Some(outcome.took))?;
    if task.all {
        for (name, hits) in &hits {
            writeln!(out, "{hits:>12} {name}")?;
        }
    }
    for name in &missed {
        writeln!(out, "never hit: {name}")?;
    }
    let verdict = if is_good { "PASS" } else { "FAIL" };
    let (found, all) = (hits.len() - missed.len(), hits.len());
    let (ran, first) = (outcome.ran, task.seed_base);
    let failed = outcome.failures.len();
    writeln!(
        out,
        "{verdict} {found} of {all} marks hit; {ran} seeds from {first}, {failed} failed"
    )?;
    Ok(ExitCode::from(u8::from(!is_good)))
}
