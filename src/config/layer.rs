//! One TOML text, read into values with their places.
//!
//! Apart because a profile and a configuration file are read by the same rules and then laid over
//! one another. Knows types, ranges and unknown keys; what keys mean together is in `relations`.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeArray, DeInteger, DeTable, DeValue};

use super::keys::{self, Key, Rule, Unit, Use};
use super::problem::{Fault, Place, Problem};

/// A value that fits its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Integer(u64),
    Flag(bool),
    Text(String),
}

/// What a file says about a key. `value` is `None` if it says something wrong, which is reported
/// already: nobody should stumble over the default in its stead.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) place: Place,
    pub(super) value: Option<Value>,
}

/// Values by the path of their key.
pub(super) type Values = BTreeMap<&'static str, Found>;

/// What one file says.
#[derive(Debug, Default)]
pub(super) struct Layer {
    pub(super) values: Values,
    /// Each `[[nodes]]` entry with the place where it begins.
    pub(super) nodes: Vec<(Place, Values)>,
    /// Where the first entry of the list of nodes stands, even if it is of the wrong type.
    pub(super) nodes_place: Option<Place>,
    /// Whether the text was TOML. If not, missing keys mean nothing.
    pub(super) is_toml: bool,
}

/// Which of the two kinds of file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// May set everything.
    Site,
    /// May set tuning keys only.
    Profile,
}

struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    role: Role,
    problems: &'a mut Vec<Problem>,
    layer: Layer,
}

/// Reads `text`, which was found in `file`; what is wrong with it goes into `problems`.
pub(super) fn read(file: &str, text: &str, role: Role, problems: &mut Vec<Problem>) -> Layer {
    let (root, errors) = DeTable::parse_recoverable(text);
    let layer = Layer { is_toml: errors.is_empty(), ..Layer::default() };
    let mut reader = Reader { file, text, role, problems, layer };
    for error in errors {
        let place = reader.place(error.span().map_or(0, |span| span.start));
        // The message of an error may go over several lines; a problem is one line.
        let message = error.message().split('\n').collect::<Vec<_>>().join(", ");
        reader.problems.push(Problem { place, fault: Fault::Syntax { message } });
    }
    if reader.layer.is_toml {
        reader.root(root.get_ref());
    }
    reader.layer
}

impl Reader<'_> {
    fn place(&self, byte: usize) -> Place {
        let before = self.text.as_bytes().get(..byte).unwrap_or(self.text.as_bytes());
        let lines = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Place { file: self.file.to_owned(), line: u32::try_from(lines).unwrap_or(u32::MAX) }
    }

    fn report(&mut self, at: usize, fault: Fault) {
        let place = self.place(at);
        self.problems.push(Problem { place, fault });
    }

    fn root(&mut self, table: &DeTable<'_>) {
        for (name, value) in table {
            let at = name.span().start;
            let name = name.get_ref().as_ref();
            match value.get_ref().as_table() {
                Some(inner) if keys::TABLES.contains(&name) => {
                    for (leaf, value) in inner {
                        let path = format!("{name}.{}", leaf.get_ref());
                        self.known(&path, leaf.span().start, value);
                    }
                }
                None if keys::TABLES.contains(&name) => {
                    self.wrong_type(name, at, "a table", value.get_ref());
                }
                _ if name == keys::NODES => self.nodes(at, value.get_ref()),
                _ => self.known(name, at, value),
            }
        }
    }

    fn known(&mut self, path: &str, at: usize, value: &Spanned<DeValue<'_>>) {
        let Some(key) = keys::ALL.iter().find(|key| key.path == path) else {
            let known = keys::ALL.iter().map(|key| key.path).chain(keys::TABLES);
            let known: Vec<&'static str> = known.chain([keys::NODES]).collect();
            let nearest = keys::nearest(path, &known);
            self.report(at, Fault::UnknownKey { key: printable(path), nearest });
            return;
        };
        if self.role == Role::Profile && key.used_for == Use::Site {
            self.report(at, Fault::NotForProfiles { key: key.path });
            return;
        }
        let found = Found { place: self.place(at), value: self.value(key, at, value.get_ref()) };
        self.layer.values.insert(key.path, found);
    }

    fn nodes(&mut self, at: usize, value: &DeValue<'_>) {
        if self.role == Role::Profile {
            self.report(at, Fault::NotForProfiles { key: keys::NODES });
            return;
        }
        // An empty list is no list: then the voters are missing.
        if value.as_array().is_none_or(|entries| !entries.is_empty()) {
            self.layer.nodes_place = Some(self.place(at));
        }
        match value.as_array() {
            Some(entries) => self.entries(at, entries),
            None => {
                self.wrong_type(keys::NODES, at, "a list: [[nodes]], once for each node", value);
            }
        }
    }

    fn entries(&mut self, at: usize, entries: &DeArray<'_>) {
        for entry in entries.iter() {
            let DeValue::Table(table) = entry.get_ref() else {
                self.wrong_type(keys::NODES, entry.span().start, "a table", entry.get_ref());
                continue;
            };
            // The span of a `[[nodes]]` entry is its header; without one, the list's own place.
            let begin = if entry.span().is_empty() { at } else { entry.span().start };
            let mut values = Values::new();
            for (name, value) in table {
                let at = name.span().start;
                let path = format!("{}.{}", keys::NODES, name.get_ref());
                let Some(key) = keys::OF_A_NODE.iter().find(|key| key.path == path) else {
                    let nearest = keys::nearest(&path, &keys::OF_A_NODE.map(|key| key.path));
                    self.report(at, Fault::UnknownKey { key: printable(&path), nearest });
                    continue;
                };
                let value = self.value(key, at, value.get_ref());
                values.insert(key.path, Found { place: self.place(at), value });
            }
            let place = self.place(begin);
            self.layer.nodes.push((place, values));
        }
    }

    fn value(&mut self, key: &Key, at: usize, value: &DeValue<'_>) -> Option<Value> {
        match (key.rule, value) {
            (Rule::Flag { .. }, DeValue::Boolean(flag)) => Some(Value::Flag(*flag)),
            (Rule::Text { .. }, DeValue::String(text)) => {
                Some(Value::Text(text.clone().into_owned()))
            }
            (Rule::Integer { .. }, DeValue::Integer(number)) => {
                let Some(number) = integer(number) else {
                    self.out_of_range(key, at, number.to_string());
                    return None;
                };
                self.number(key, at, number)
            }
            (Rule::Integer { unit: Unit::Bytes, .. }, DeValue::String(text)) => {
                let Some(bytes) = parse_size(text) else {
                    let fault = Fault::BadSize { key: key.path.to_owned(), found: printable(text) };
                    self.report(at, fault);
                    return None;
                };
                self.number(key, at, bytes)
            }
            (rule, value) => {
                let expected = match rule {
                    Rule::Flag { .. } => "true or false",
                    Rule::Text { .. } => "a text in quotes",
                    Rule::Integer { unit: Unit::Bytes, .. } => {
                        "an integer, or a text like \"4 MiB\""
                    }
                    Rule::Integer { .. } => "an integer without quotes",
                };
                self.wrong_type(key.path, at, expected, value);
                None
            }
        }
    }

    fn number(&mut self, key: &Key, at: usize, number: u64) -> Option<Value> {
        let Rule::Integer { unit, min, max, step, .. } = key.rule else {
            unreachable!("{} is a number", key.path);
        };
        if !(min..=max).contains(&number) {
            self.out_of_range(key, at, print(unit, number));
            return None;
        }
        if !number.is_multiple_of(step) {
            let (found, step) = (print(unit, number), print(unit, step));
            self.report(at, Fault::NotAMultiple { key: key.path.to_owned(), found, step });
            return None;
        }
        Some(Value::Integer(number))
    }

    fn out_of_range(&mut self, key: &Key, at: usize, found: String) {
        let Rule::Integer { unit, min, max, .. } = key.rule else {
            unreachable!("{} is a number", key.path);
        };
        let (min, max) = (print(unit, min), print(unit, max));
        self.report(at, Fault::OutOfRange { key: key.path.to_owned(), found, min, max });
    }

    fn wrong_type(&mut self, key: &str, at: usize, expected: &'static str, value: &DeValue<'_>) {
        let found = match value {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.report(at, Fault::WrongType { key: key.to_owned(), expected, found });
    }
}

/// The value of an integer literal, if it is not negative and fits.
fn integer(literal: &DeInteger<'_>) -> Option<u64> {
    u64::from_str_radix(literal.as_str(), literal.radix()).ok()
}

/// Bytes from a text such as `64 MiB`, `64MiB` or `4096`.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// A number as people read it, with its unit.
pub(super) fn print(unit: Unit, number: u64) -> String {
    match unit {
        Unit::Count => number.to_string(),
        Unit::Millis => format!("{number} ms"),
        Unit::Bytes => {
            let sizes = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
            let fits = |shift: &u32| number > 0 && number.is_multiple_of(1 << shift);
            match sizes.iter().find(|(shift, _)| fits(shift)) {
                Some((shift, name)) => format!("{} {name}", number >> shift),
                None => format!("{number} B"),
            }
        }
    }
}

/// Foreign text, fit for one line of a terminal.
pub(super) fn printable(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 80;
    let mut shown: String = text
        .chars()
        .take(SHOWN_CHARS_MAX)
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_printed() {
        assert_eq!(parse_size("4096"), Some(4096));
        assert_eq!(parse_size(" 64 MiB "), Some(64 << 20));
        assert_eq!(parse_size("64MiB"), Some(64 << 20));
        assert_eq!(parse_size("64 MB"), None);
        assert_eq!(parse_size("MiB"), None);
        assert_eq!(parse_size("18446744073709551615 KiB"), None);
        assert_eq!(print(Unit::Bytes, 3 << 19), "1536 KiB");
        assert_eq!(print(Unit::Bytes, 0), "0 B");
        assert_eq!(print(Unit::Bytes, 1000), "1000 B");
    }

    #[test]
    fn foreign_text_is_tamed() {
        assert_eq!(printable("a\nb"), "a\u{fffd}b");
        assert_eq!(printable(&"x".repeat(100)).len(), 83);
    }
}
