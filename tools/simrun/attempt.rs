//! One run of one plan, and the one line that a failure is.
//!
//! Does not: choose plans, or count what came of them.

use std::cell::RefCell;
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe};
use std::process::Command;
use std::sync::OnceLock;

use catamaran::sim::{Failure, Plan, Sink, Summary, run_to};

/// One of so many seeds is run twice, to compare what happened.
const TWICE_EVERY: u64 = 100;

thread_local! {
    /// How to run again what this thread runs, for the message of a failed assertion.
    static AGAIN: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Where a plan comes from, for whoever wants to run it again.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) seed: u64,
    /// The arguments that run it.
    pub(crate) arguments: String,
}

impl Origin {
    pub(crate) fn seed(seed: u64) -> Self {
        Self { seed, arguments: format!("--seed {seed}") }
    }

    pub(crate) fn case(seed: u64, file: &str) -> Self {
        Self { seed, arguments: format!("--case {file}") }
    }

    fn again(&self) -> String {
        format!("reproduce: cargo run --release --bin simrun -- {} --trace", self.arguments)
    }

    /// The line that a failure is.
    pub(crate) fn line(&self, failure: &Failure) -> String {
        let Failure { oracle, detail, event, at } = failure;
        let (seed, commit, micros) = (self.seed, commit(), at.as_micros());
        format!(
            "FAIL oracle={oracle} seed={seed} commit={commit} event={event} at={micros}us {detail}; {}",
            self.again()
        )
    }
}

/// A failed assertion is a verdict too. The release profile aborts on panic, so the line with the
/// seed must be out before that.
pub(crate) fn install_panic_hook() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map_or_else(String::new, ToString::to_string);
        let message = info.payload_as_str().unwrap_or("a panic without a message");
        let again = AGAIN.with(|again| again.borrow().clone());
        // If even this fails there is nobody to tell.
        let _ = writeln!(io::stdout(), "FAIL oracle=assertion {again}: {place} {message}");
        if cfg!(panic = "abort") {
            std::process::exit(1);
        }
    }));
}

/// Runs a plan, up to event `stop_at`. `None`: it panicked, and the hook has told.
pub(crate) fn attempt(
    origin: &Origin,
    plan: &Plan,
    sink: Option<Sink>,
    stop_at: Option<u64>,
) -> Option<Result<Summary, Failure>> {
    AGAIN.with(|again| {
        let (seed, commit) = (origin.seed, commit());
        *again.borrow_mut() = format!("seed={seed} commit={commit} {}", origin.again());
    });
    let stop_at = stop_at.unwrap_or(u64::MAX);
    panic::catch_unwind(AssertUnwindSafe(|| run_to(plan, sink, stop_at))).ok()
}

/// Runs a plan, and one in a hundred twice: the same plan must do the same. An error is the line
/// of the failure, empty if it was told already.
pub(crate) fn verdict_of(origin: &Origin, plan: &Plan) -> Result<Summary, String> {
    let once = || match attempt(origin, plan, None, None) {
        Some(Ok(summary)) => Ok(summary),
        Some(Err(failure)) => Err(origin.line(&failure)),
        None => Err(String::new()),
    };
    let first = once()?;
    if origin.seed.is_multiple_of(TWICE_EVERY) {
        let second = once()?;
        if first != second {
            let again = origin.again();
            let seed = origin.seed;
            return Err(format!(
                "FAIL oracle=determinism seed={seed} {first:?} and then {second:?}; {again}"
            ));
        }
    }
    Ok(first)
}

/// The commit of the source tree that this runs in, as far as one can tell.
pub(crate) fn commit() -> &'static str {
    static COMMIT: OnceLock<String> = OnceLock::new();
    COMMIT.get_or_init(|| {
        let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
        match output {
            Ok(output) if output.status.success() => {
                String::from_utf8_lossy(&output.stdout).trim().to_owned()
            }
            Ok(_) | Err(_) => String::from("unknown"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_with_the_command_that_shows_it() {
        let failure = Failure {
            oracle: catamaran::sim::Oracle::Ledger,
            detail: "g1 7: gone".into(),
            event: 12,
            at: std::time::Duration::from_micros(34),
        };
        let line = Origin::seed(5).line(&failure);
        assert!(line.starts_with("FAIL oracle=ledger seed=5 commit="), "{line}");
        assert!(line.contains("event=12 at=34us g1 7: gone; reproduce: "), "{line}");
        assert!(line.ends_with("-- --seed 5 --trace") && !line.contains('\n'), "{line}");
    }

    #[test]
    fn a_world_is_the_same_when_it_runs_again() {
        let (origin, plan) = (Origin::seed(100), Plan::draw(3));
        let first = verdict_of(&origin, &plan).expect("seed 3 keeps every promise");
        assert!(first.events > 100);
        let stopped = attempt(&origin, &plan, None, Some(50)).expect("no panic").expect("none");
        assert!((50..first.events).contains(&stopped.events), "{stopped:?}");
    }
}
