//! `simrun shrink`: the smallest plan that still breaks the same promise.
//!
//! Turns one thing off or down at a time and keeps what still fails. A smaller plan has another
//! history, so each is looked at with a few roots. Candidates run in processes of their own,
//! because an assertion ends a release build. Does not: understand the failure.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use catamaran::sim::Plan;

use super::args::{Shrink, refuse};
use super::attempt::commit;
use super::case;

/// One way to make a plan smaller; `None` if it is as small as that gets.
type Cut = (&'static str, fn(&Plan) -> Option<Plan>);

/// `Some(plan with the change)` if it differs.
fn with(plan: &Plan, change: impl FnOnce(&mut Plan)) -> Option<Plan> {
    let mut smaller = *plan;
    change(&mut smaller);
    (smaller != *plan).then_some(smaller)
}

/// Half of it, but not less than `least`.
fn half(value: u64, least: u64) -> u64 {
    (value / 2).max(least).min(value)
}

const CUTS: &[Cut] = &[
    ("no rot", |plan| with(plan, |p| p.chaos.rot = None)),
    ("no slow disks", |plan| with(plan, |p| p.chaos.slow_disk = None)),
    ("no hung disks", |plan| with(plan, |p| p.chaos.hang = None)),
    ("no full disks for a while", |plan| with(plan, |p| p.chaos.disk_full = None)),
    ("no clock jumps", |plan| with(plan, |p| p.chaos.clock_jump = None)),
    ("no frozen clocks", |plan| with(plan, |p| p.chaos.freeze = None)),
    ("no slow cores", |plan| with(plan, |p| p.chaos.slow_core = None)),
    ("no errors at start", |plan| with(plan, |p| p.disk.start_error_ppm = 0)),
    ("no lost writes", |plan| with(plan, |p| p.disk.lost_ppm = 0)),
    ("no misdirected writes", |plan| with(plan, |p| p.disk.misdirected_ppm = 0)),
    ("no stalls", |plan| with(plan, |p| p.chaos.stall = None)),
    ("no pauses", |plan| with(plan, |p| p.chaos.pause = None)),
    ("no plots", |plan| with(plan, |p| p.chaos.plot = None)),
    ("no torn openings", |plan| with(plan, |p| p.chaos.torn_opening_percent = 0)),
    ("no ambushes", |plan| with(plan, |p| p.chaos.ambush = None)),
    ("no new disks", |plan| with(plan, |p| p.chaos.new_disk_percent = 0)),
    ("no stumbles", |plan| with(plan, |p| p.chaos.stumble_percent = 0)),
    ("no cuts", |plan| with(plan, |p| p.chaos.cut = None)),
    ("no crashes", |plan| with(plan, |p| p.chaos.crash = None)),
    ("no drains", |plan| with(plan, |p| p.chaos.drain_percent = 0)),
    ("no blackouts", |plan| with(plan, |p| p.chaos.blackout_percent = 0)),
    ("no power losses", |plan| with(plan, |p| p.chaos.power_loss_percent = 0)),
    ("no write errors", |plan| with(plan, |p| p.disk.write_error_ppm = 0)),
    ("no read errors", |plan| with(plan, |p| p.disk.read_error_ppm = 0)),
    ("no full disks", |plan| with(plan, |p| p.disk.no_space_ppm = 0)),
    ("no resets", |plan| with(plan, |p| p.net.reset_ppm = 0)),
    ("no corruption", |plan| with(plan, |p| p.net.corrupt_ppm = 0)),
    ("no client resets", |plan| with(plan, |p| p.net.client_reset_ppm = 0)),
    ("no clock drift", |plan| with(plan, |p| p.clock_drift_ppm = 0)),
    ("no retention", |plan| with(plan, |p| p.retention_bytes = None)),
    ("one shard", |plan| with(plan, |p| p.shards = 1)),
    ("one group", |plan| with(plan, |p| p.groups = 1)),
    ("half the groups", |plan| with(plan, |p| p.groups = half(p.groups, 1))),
    ("three nodes", |plan| with(plan, |p| p.nodes = p.nodes.min(3))),
    ("no sessions", |plan| with(plan, |p| p.load.sessions = 0)),
    ("one client", |plan| with(plan, |p| p.load.clients = 1)),
    ("one request at a time", |plan| with(plan, |p| p.load.in_flight = 1)),
    ("no reads", |plan| with(plan, |p| p.load.read_percent = 0)),
    ("one record a request", |plan| with(plan, |p| p.load.records_max = 1)),
    ("small records", |plan| {
        with(plan, |p| p.load.record_bytes_max = p.load.record_bytes_max.min(64))
    }),
    ("half the requests", |plan| with(plan, |p| p.load.requests = half(p.load.requests, 1))),
    ("half the time", |plan| {
        let least = Duration::from_millis(50);
        with(plan, |p| p.chaos.lasts = (p.chaos.lasts / 2).max(least).min(p.chaos.lasts))
    }),
];

/// Runs candidates.
struct Lab {
    scratch: PathBuf,
    limit: Duration,
    tries_left: u32,
}

impl Lab {
    /// The line with which the plan fails, if it does.
    fn failure(&mut self, plan: &Plan) -> io::Result<Option<String>> {
        self.tries_left = self.tries_left.saturating_sub(1);
        fs::write(&self.scratch, case::text(plan))?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--case")
            .arg(&self.scratch)
            .arg("--json")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdout = child.stdout.take().expect("it was asked for");
        let (send, receive) = mpsc::channel();
        let told = std::thread::scope(|scope| {
            scope.spawn(move || {
                let lines = BufReader::new(stdout).lines().map_while(Result::ok);
                let line = lines.into_iter().find(|line| line.starts_with("FAIL oracle="));
                // The receiver lives as long as the scope.
                let _ = send.send(line);
            });
            match receive.recv_timeout(self.limit) {
                Ok(line) => Ok::<_, io::Error>(line),
                Err(_) => {
                    child.kill()?;
                    Ok(Some(String::from("FAIL oracle=hang")))
                }
            }
        })?;
        child.wait()?;
        Ok(told)
    }
}

/// The oracle that a failure's line names.
fn oracle_of(line: &str) -> &str {
    let mut words = line.split_whitespace();
    words.find_map(|word| word.strip_prefix("oracle=")).unwrap_or("unknown")
}

pub(crate) fn run(task: &Shrink) -> io::Result<ExitCode> {
    let plan = match task.failing.parse() {
        Ok(seed) => Plan::draw(seed),
        Err(_) => case::read(Path::new(&task.failing))?,
    };
    let scratch = std::env::temp_dir().join(format!("simrun-shrink-{}.toml", std::process::id()));
    let mut lab = Lab { scratch, limit: task.limit, tries_left: task.tries };
    let outcome = shrink(plan, task, &mut lab);
    // What is left of a failed run is nobody's business either.
    let _ = fs::remove_file(&lab.scratch);
    outcome
}

fn shrink(mut plan: Plan, task: &Shrink, lab: &mut Lab) -> io::Result<ExitCode> {
    let Some(mut line) = lab.failure(&plan)? else {
        return Ok(refuse(&format!("{} does not fail", task.failing)));
    };
    let oracle = oracle_of(&line).to_owned();
    writeln!(io::stdout(), "fails: {line}")?;
    let mut has_changed = true;
    while has_changed && lab.tries_left > 0 {
        has_changed = false;
        for (name, cut) in CUTS {
            while let Some(smaller) = cut(&plan)
                && lab.tries_left > 0
                && let Some((found, told)) = still_fails(&smaller, &oracle, task.histories, lab)?
            {
                (plan, line, has_changed) = (found, told, true);
                writeln!(io::stdout(), "still fails: {name}")?;
            }
        }
    }
    fs::create_dir_all(&task.out)?;
    let file = task.out.join(format!("{oracle}-{}.toml", plan.seed));
    let text = format!("# Found at {} as:\n# {line}\n\n{}", commit(), case::text(&plan));
    fs::write(&file, &text)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    writeln!(out, "saved as {0}; reproduce: simrun --case {0} --trace", file.display())?;
    Ok(ExitCode::SUCCESS)
}

/// A plan like `plan` that breaks the same promise, and how.
fn still_fails(
    plan: &Plan,
    oracle: &str,
    histories: u32,
    lab: &mut Lab,
) -> io::Result<Option<(Plan, String)>> {
    let mut plan = *plan;
    for _ in 0..histories {
        if lab.tries_left == 0 {
            break;
        }
        if let Some(line) = lab.failure(&plan)?
            && oracle_of(&line) == oracle
        {
            return Ok(Some((plan, line)));
        }
        // Any other number is another history.
        plan.root = plan.root.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_comes_to_an_end() {
        for seed in 1..50 {
            let mut plan = Plan::draw(seed);
            for (name, cut) in CUTS {
                let mut steps = 0;
                while let Some(smaller) = cut(&plan) {
                    plan = smaller;
                    steps += 1;
                    assert!(steps < 100, "{name} of seed {seed} goes on for ever");
                }
            }
            assert_eq!(plan.chaos.crash, None);
            assert_eq!((plan.groups, plan.shards, plan.load.requests), (1, 1, 1));
        }
    }

    #[test]
    fn the_oracle_is_read_off_the_line() {
        assert_eq!(oracle_of("FAIL oracle=ledger seed=1 x"), "ledger");
        assert_eq!(oracle_of("nothing"), "unknown");
    }
}
