//! What a subcommand found: facts, bounds, and whether they hold; for people and for programs.

use serde::Serialize;

/// Which side of its limit a value must be on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Side {
    AtMost,
    AtLeast,
}

/// One thing that was asked for.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Bound {
    name: String,
    value: f64,
    side: Side,
    limit: f64,
    unit: &'static str,
    good: bool,
}

/// Something worth knowing that nobody bounded.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Fact {
    name: String,
    value: f64,
    unit: &'static str,
}

/// The result of one subcommand.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    format: u32,
    command: &'static str,
    good: bool,
    seconds: f64,
    bounds: Vec<Bound>,
    facts: Vec<Fact>,
    notes: Vec<String>,
}

impl Report {
    pub(crate) fn new(command: &'static str) -> Self {
        let (bounds, facts, notes) = (Vec::new(), Vec::new(), Vec::new());
        Self { format: 1, command, good: true, seconds: 0.0, bounds, facts, notes }
    }

    /// Whether every bound holds.
    pub(crate) fn is_good(&self) -> bool {
        self.good
    }

    fn bound(&mut self, side: Side, name: String, (value, limit): (f64, f64), unit: &'static str) {
        let good = match side {
            Side::AtMost => value <= limit,
            Side::AtLeast => value >= limit,
        };
        self.good &= good;
        self.bounds.push(Bound { name, value, side, limit, unit, good });
    }

    /// The value must not exceed its limit.
    pub(crate) fn at_most(
        &mut self,
        name: impl Into<String>,
        value_and_limit: (f64, f64),
        unit: &'static str,
    ) {
        self.bound(Side::AtMost, name.into(), value_and_limit, unit);
    }

    /// The value must not fall below its limit.
    pub(crate) fn at_least(
        &mut self,
        name: impl Into<String>,
        value_and_limit: (f64, f64),
        unit: &'static str,
    ) {
        self.bound(Side::AtLeast, name.into(), value_and_limit, unit);
    }

    pub(crate) fn fact(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.facts.push(Fact { name: name.into(), value, unit });
    }

    /// A sentence for whoever reads the result.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    pub(crate) fn took(&mut self, seconds: f64) {
        self.seconds = seconds;
    }

    pub(crate) fn json(&self) -> String {
        let text = serde_json::to_string_pretty(self).expect("numbers and texts");
        text + "\n"
    }

    /// A line for each bound and fact.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("hammer {}, {:.1} s\n", self.command, self.seconds);
        for bound in &self.bounds {
            let verdict = if bound.good { "good" } else { "FAILED" };
            let side = match bound.side {
                Side::AtMost => "at most",
                Side::AtLeast => "at least",
            };
            let Bound { name, value, limit, unit, .. } = bound;
            text += &format!("{verdict:<6} {name}: {value:.2} {unit} ({side} {limit:.2})\n");
        }
        for Fact { name, value, unit } in &self.facts {
            text += &format!("       {name}: {value:.2} {unit}\n");
        }
        for note in &self.notes {
            text += &format!("       {note}\n");
        }
        text + if self.good { "good\n" } else { "FAILED\n" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broken_bound_breaks_the_report() {
        let mut report = Report::new("test");
        report.at_most("gap", (450.0, 450.0), "ms");
        report.at_least("goodput", (0.9, 0.9), "of peak");
        assert!(report.is_good(), "a limit itself is good");
        report.at_most("lost", (1.0, 0.0), "records");
        report.at_most("duplicated", (0.0, 0.0), "records");
        assert!(!report.is_good());
        assert!(report.table().contains("FAILED lost: 1.00 records (at most 0.00)"));
        assert!(report.json().contains("\"good\": false"));
    }
}
