//! What is happening, for whoever waits: one line that changes on a terminal, else one a second.
//!
//! Everything goes to standard error; standard output is for the result.
#![expect(clippy::print_stderr, reason = "progress is what standard error is for")]

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Without a terminal, a line at most this often.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// The progress line.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    written: Option<Instant>,
}

impl Progress {
    /// A line on standard error.
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg}")
                .expect("the template is fixed and right");
            let bar = ProgressBar::new_spinner().with_style(style);
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar, written: None }
    }

    /// Something that changes often.
    pub(crate) fn now(&mut self, text: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            bar.set_message(text());
        } else if self.written.is_none_or(|written| written.elapsed() >= LINE_EVERY) {
            self.written = Some(Instant::now());
            eprintln!("{}", text());
        }
    }

    /// Something worth keeping on the screen.
    pub(crate) fn note(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// What a node has to tell; its standard error is the log that its parent looks at.
pub(crate) fn log(event: &impl std::fmt::Display) {
    eprintln!("{event}");
}

/// The last line of a run that came to no good end.
pub(crate) fn complain(line: &str) {
    eprintln!("error: {line}");
}
