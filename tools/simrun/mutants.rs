//! `simrun mutants`: would anybody notice? Runs every planted bug and prints the score.
//!
//! Each bug has a process of its own, because a bug may panic (a verdict, and the end of a release
//! build) or hang. Does not: decide what counts as a failure; the oracles and the code's own
//! assertions do.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};

use super::args::{Mutants, refuse};

/// Chooses the planted bug of this process.
#[cfg(not(feature = "planted"))]
pub(crate) fn plant(name: Option<&str>) -> Result<(), String> {
    match name {
        None => Ok(()),
        Some(_) => Err(String::from("this build has no planted bugs")),
    }
}

/// Chooses the planted bug of this process.
#[cfg(feature = "planted")]
pub(crate) fn plant(name: Option<&str>) -> Result<(), String> {
    use catamaran::base::planted::{CATALOGUE, choose};
    let Some(name) = name else { return Ok(()) };
    let bug = CATALOGUE.iter().find(|bug| bug.name == name);
    choose(Some(bug.ok_or(format!("no planted bug is called {name}"))?.planted));
    Ok(())
}

#[cfg(not(feature = "planted"))]
fn catalogue() -> Option<Vec<Listed>> {
    None
}

#[cfg(feature = "planted")]
fn catalogue() -> Option<Vec<Listed>> {
    let bugs = catamaran::base::planted::CATALOGUE.iter();
    let listed = bugs.map(|bug| Listed { name: bug.name, rule: bug.rule, expected: bug.oracle });
    Some(listed.collect())
}

/// A bug of the catalogue.
#[derive(Clone, Copy)]
struct Listed {
    name: &'static str,
    rule: &'static str,
    expected: &'static str,
}

impl Listed {
    /// Whether it must not survive, whatever the share.
    fn is_vital(&self) -> bool {
        ["H-", "W-", "I-", "C-", "E-"].iter().any(|rules| self.rule.starts_with(rules))
    }
}

/// How a bug ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// After so many seeds, by this oracle.
    Killed { seeds: u64, by: String },
    /// Nobody noticed.
    Survived,
    /// Nobody noticed in the time there was.
    OutOfTime,
}

pub(crate) fn run(task: &Mutants) -> io::Result<ExitCode> {
    let Some(mut list) = catalogue() else {
        return Ok(refuse(
            "this build has no planted bugs: cargo run --release --features planted --bin simrun -- mutants",
        ));
    };
    if let Some(unknown) = task.bug.iter().find(|name| list.iter().all(|bug| bug.name != **name)) {
        return Ok(refuse(&format!("no planted bug is called {unknown}")));
    }
    if !task.bug.is_empty() {
        list.retain(|bug| task.bug.iter().any(|name| name == bug.name));
    }
    let ends = run_all(&list, task)?;
    conclude(&ends, task)
}

/// Runs the bugs on `task.jobs` threads; prints each end as it comes.
fn run_all(list: &[Listed], task: &Mutants) -> io::Result<Vec<(Listed, End)>> {
    let next = AtomicUsize::new(0);
    let (send, receive) = mpsc::channel();
    let mut ends = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..task.jobs {
            let (send, next) = (send.clone(), &next);
            scope.spawn(move || {
                while let Some(bug) = list.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // The receiver lives as long as the scope.
                    let _ = send.send((*bug, end_of(bug.name, task)));
                }
            });
        }
        drop(send);
        for (bug, end) in receive {
            let end = end?;
            if !task.json {
                let Listed { name, rule, expected } = bug;
                let mut out = io::stdout().lock();
                match &end {
                    End::Killed { seeds, by } => writeln!(
                        out,
                        "killed    {name:<40} {rule:<5} {seeds:>6} seeds, by {by} (expected {expected})"
                    )?,
                    End::Survived => writeln!(
                        out,
                        "survived  {name:<40} {rule:<5} {:>6} seeds (expected {expected})",
                        task.seeds
                    )?,
                    End::OutOfTime => writeln!(
                        out,
                        "survived  {name:<40} {rule:<5} out of time (expected {expected})"
                    )?,
                }
                out.flush()?;
            }
            ends.push((bug, end));
        }
        Ok::<(), io::Error>(())
    })?;
    ends.sort_by_key(|(bug, _)| list.iter().position(|listed| listed.name == bug.name));
    Ok(ends)
}

/// Lets a child run the seeds with the bug planted.
fn end_of(name: &str, task: &Mutants) -> io::Result<End> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--plant", name, "--seeds", &task.seeds.to_string()])
        .args(["--seed-base", &task.seed_base.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let stdout = child.stdout.take().expect("it was asked for");
    let (send, receive) = mpsc::channel();
    let line = std::thread::scope(|scope| {
        scope.spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            let told = lines.into_iter().find(|line| line.starts_with("FAIL oracle="));
            // The receiver lives as long as the scope.
            let _ = send.send(told);
        });
        let line = receive.recv_timeout(task.limit);
        if line.is_err() {
            child.kill()?;
        }
        Ok::<_, io::Error>(line)
    })?;
    child.wait()?;
    match line {
        Ok(Some(line)) => Ok(killed(&line, task.seed_base)),
        Ok(None) => Ok(End::Survived),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Ok(End::OutOfTime),
    }
}

/// What a failure's line says.
fn killed(line: &str, first: u64) -> End {
    let word = |name: &str| {
        let words = line.split_whitespace();
        words.filter_map(|word| word.strip_prefix(name)).next().unwrap_or_default().to_owned()
    };
    let seed: u64 = word("seed=").parse().unwrap_or(first);
    End::Killed { seeds: seed - first + 1, by: word("oracle=") }
}

fn conclude(ends: &[(Listed, End)], task: &Mutants) -> io::Result<ExitCode> {
    let mut seeds: Vec<u64> = ends
        .iter()
        .filter_map(|(_, end)| match end {
            End::Killed { seeds, .. } => Some(*seeds),
            End::Survived | End::OutOfTime => None,
        })
        .collect();
    seeds.sort_unstable();
    let median = seeds.get(seeds.len() / 2).copied().unwrap_or_default();
    let survivors = ends.iter().filter(|(_, end)| !matches!(end, End::Killed { .. }));
    let survivors: Vec<Listed> = survivors.map(|(bug, _)| *bug).collect();
    let is_good = survivors.iter().all(|bug| !bug.is_vital()) && seeds.len() * 10 >= ends.len() * 9;
    let mut out = io::stdout().lock();
    if task.json {
        let list: Vec<serde_json::Value> =
            ends.iter().map(|(bug, end)| json_of(bug, end)).collect();
        let commit = super::attempt::commit();
        let result = serde_json::json!({
            "commit": commit, "seeds": task.seeds, "killed": seeds.len(), "of": ends.len(),
            "median_seeds": median, "bugs": list,
        });
        writeln!(out, "{result:#}")?;
    } else {
        let verdict = if is_good { "PASS" } else { "FAIL" };
        let share = 100 * seeds.len() / ends.len().max(1);
        write!(
            out,
            "{verdict} {} of {} planted bugs found ({share} %), ",
            seeds.len(),
            ends.len()
        )?;
        writeln!(out, "median {median} seeds, {} seeds at most", task.seeds)?;
        for bug in survivors {
            let weight = if bug.is_vital() { ", which must not" } else { "" };
            writeln!(out, "  survived: {}{weight}", bug.name)?;
        }
    }
    Ok(ExitCode::from(u8::from(!is_good)))
}

fn json_of(bug: &Listed, end: &End) -> serde_json::Value {
    let (killed, seeds, by) = match end {
        End::Killed { seeds, by } => (true, Some(*seeds), Some(by)),
        End::Survived | End::OutOfTime => (false, None, None),
    };
    let Listed { name, rule, expected } = bug;
    serde_json::json!({
        "name": name, "rule": rule, "expected": expected, "killed": killed, "seeds": seeds, "by": by,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_failure_tells_after_how_many_seeds_and_by_whom() {
        let line = "FAIL oracle=ledger seed=12 commit=abc event=5 at=7us gone; reproduce: x";
        assert_eq!(killed(line, 10), End::Killed { seeds: 3, by: "ledger".into() });
    }

    #[test]
    fn an_ordinary_build_refuses_to_plant() {
        assert!(plant(None).is_ok());
        assert_eq!(plant(Some("E01_VOTE_FOR_TWO")).is_ok(), cfg!(feature = "planted"));
        assert!(plant(Some("E01_NO_SUCH_BUG")).is_err());
    }

    #[test]
    fn the_vital_rules_are_those_of_the_pass_criterion() {
        let bug = |rule| Listed { name: "X", rule, expected: "y" };
        let vital = ["H-01", "W-05", "I-06", "C-01", "E-09"];
        assert!(vital.iter().all(|rule| bug(rule).is_vital()));
        assert!(["R-01", "L-04", "S-04", "F-01", "N-06"].iter().all(|r| !bug(r).is_vital()));
    }
}
