//! Rules about files as text: length, first line, unfinished code, machine paths, links, numbering.
//!
//! Apart from the rooms because nothing here knows the architecture. Does not judge prose.

use std::collections::BTreeSet;

use super::source::{text_at, tokens_of};

/// A file longer than this holds a second subject.
pub(crate) const LINES_MAX: usize = 800;

/// Checks what every Rust file owes: a length, a first line, nothing unfinished.
pub(crate) fn check_rust(path: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let lines = text.lines().count();
    if lines > LINES_MAX {
        wrong.push(format!("{path}: {lines} lines, at most {LINES_MAX}"));
    }
    if !text.starts_with("//!") {
        wrong.push(format!("{path}: does not open with //!"));
    }
    let tokens = tokens_of(text);
    for (at, token) in tokens.iter().enumerate() {
        let next = text_at(&tokens, at + 1);
        let unfinished = match token.text.as_str() {
            "todo" | "unimplemented" | "dbg" => next == "!",
            "ignore" => at >= 2 && tokens[at - 1].text == "[" && tokens[at - 2].text == "#",
            _ => false,
        };
        if unfinished {
            wrong.push(format!("{path}:{}: {} is unfinished work", token.line, token.text));
        }
    }
    wrong
}

/// Checks that a text names no place of one machine. The needles are put together here, so that
/// this file does not contain them.
pub(crate) fn check_places(path: &str, text: &str) -> Vec<String> {
    let needles = ["work", "home", "root", "farm"].map(|name| format!("/{name}"));
    let mut wrong = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for needle in &needles {
            let found = line.match_indices(needle.as_str()).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                let after = line[at + needle.len()..].chars().next();
                !before.is_some_and(|c| c.is_alphanumeric() || "._-$}".contains(c))
                    && !after.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '-')
            });
            if found {
                wrong.push(format!("{path}:{}: {needle} is a place on one machine", number + 1));
            }
        }
    }
    wrong
}

/// Checks that what a text points at exists: Markdown links, and mentions of `docs/*.md`,
/// `tests/*` and `src/*.rs`. `exists` answers for paths from the repository's root.
pub(crate) fn check_links(path: &str, text: &str, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut targets = BTreeSet::new();
    if path.ends_with(".md") {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        targets.extend(markdown_targets(text).iter().map(|target| joined(folder, target)));
    }
    targets.extend(mentions(text));
    targets
        .iter()
        .filter(|target| !exists(target))
        .map(|target| format!("{path}: {target} does not exist"))
        .collect()
}

/// Targets of `[..](target)` that are files, without their `#anchor`.
fn markdown_targets(text: &str) -> Vec<String> {
    let is_file = |target: &&str| !target.contains("://") && !target.starts_with("mailto:");
    text.match_indices("](")
        .filter_map(|(at, open)| text[at + open.len()..].split_once(')').map(|(target, _)| target))
        .filter(is_file)
        .map(|target| target.split('#').next().unwrap_or(target).to_owned())
        .filter(|target| !target.is_empty())
        .collect()
}

/// Paths of documents that a text names, from the repository's root.
fn mentions(text: &str) -> Vec<String> {
    let is_path = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let starts = text
        .match_indices("docs/")
        .filter(|(at, _)| !text[..*at].chars().next_back().is_some_and(|c| is_path(c) || c == ':'));
    starts
        .map(|(at, _)| &text[at..at + text[at..].find(|c| !is_path(c)).unwrap_or(text.len() - at)])
        .map(|target| target.trim_end_matches(['.', '/', '-']).to_owned())
        .filter(|target| target.ends_with(".md"))
        .collect()
}

/// `folder` and a relative path, with `.` and `..` taken out.
fn joined(folder: &str, target: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A golden script longer than this makes more than one claim.
const SCRIPT_LINES_MAX: usize = 120;

/// Checks that a golden script says what it claims, where the claim is from and which rule it is.
pub(crate) fn check_script(path: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for part in ["# claim:", "# source:", "# rule:"] {
        let said = text.lines().find_map(|line| line.strip_prefix(part));
        if said.is_none_or(|said| said.trim().is_empty()) {
            wrong.push(format!("{path}: has no \"{part}\" line"));
        }
    }
    let lines = text.lines().count();
    if lines > SCRIPT_LINES_MAX {
        wrong.push(format!("{path}: {lines} lines, at most {SCRIPT_LINES_MAX}"));
    }
    wrong
}

/// Checks that decision records are numbered 0001, 0002, ... and say the three things.
pub(crate) fn check_decisions(records: &[(String, String)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (position, (name, text)) in records.iter().enumerate() {
        let number = format!("{:04}-", position + 1);
        if !name.starts_with(&number) {
            wrong.push(format!("docs/decisions/{name}: the number here should be {number}"));
        }
        for part in ["## Context", "## Decision", "## Consequences"] {
            if !text.lines().any(|line| line == part) {
                wrong.push(format!("docs/decisions/{name}: has no part \"{part}\""));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(wrong: &[String], expected: &[&str]) {
        assert_eq!(wrong.len(), expected.len(), "{wrong:#?}");
        for (found, word) in wrong.iter().zip(expected) {
            assert!(found.contains(word), "{found} does not say {word}");
        }
    }

    #[test]
    fn a_rust_file_opens_with_its_purpose_and_ends_in_time() {
        check(&check_rust("a.rs", "//! What.\n"), &[]);
        check(&check_rust("a.rs", "use x;\n"), &["does not open"]);
        check(&check_rust("a.rs", &"//! x\n".repeat(LINES_MAX)), &[]);
        check(&check_rust("a.rs", &"//! x\n".repeat(LINES_MAX + 1)), &["801 lines"]);
    }

    #[test]
    fn unfinished_work_is_refused() {
        let bang = '!';
        check(&check_rust("a.rs", &format!("//! x\nfn f() {{ todo{bang}() }}")), &["a.rs:2: todo"]);
        check(&check_rust("a.rs", &format!("//! x\nunimplemented{bang}();")), &["unimplemented"]);
        check(&check_rust("a.rs", &format!("//! x\ndbg{bang}(1);")), &["dbg"]);
        check(&check_rust("a.rs", "//! x\n#[ignore = \"slow\"]\nfn f() {}"), &["ignore"]);
        check(&check_rust("a.rs", "//! x\n// todo!() and \"todo\"\nlet ignore = [todo];"), &[]);
    }

    #[test]
    fn places_of_one_machine_are_refused() {
        let slash = '/';
        check(&check_places("a.md", &format!("see {slash}work/x")), &["a.md:1"]);
        check(&check_places("a.md", &format!("x\n`{slash}home/me`, {slash}root")), &[":2", ":2"]);
        check(&check_places("a.md", "src/workload.rs, a/homework, /rooted, /workers"), &[]);
        check(&check_places("a.md", "$dir/work, tests/root"), &[]);
    }

    #[test]
    fn links_resolve() {
        let exists = |path: &str| matches!(path, "docs/raft.md" | "README.md" | "docs/x/y.md");
        let check_in = |path: &str, text: &str, expected: &[&str]| {
            check(&check_links(path, text, &exists), expected);
        };
        check_in("docs/a.md", "[x](raft.md#top) [y](../README.md) [z](https://x.y/z)", &[]);
        check_in("docs/a.md", "[x](gone.md)", &["docs/gone.md does not exist"]);
        check_in("docs/x/a.md", "[x](y.md) [x](../raft.md) [x](#here)", &[]);
        check_in("src/a.rs", "//! See `docs/raft.md`, and docs/raft.md.", &[]);
        check_in("src/a.rs", "//! See `docs/gone.md`.", &["docs/gone.md"]);
    }

    #[test]
    fn scripts_say_what_they_claim() {
        let head = "# claim:  x\n# source: y\n# rule:   z\n";
        check(&check_script("a.txt", head), &[]);
        check(&check_script("a.txt", "# claim: x\n# rule:\n"), &["source", "rule"]);
        check(&check_script("a.txt", &format!("{head}{}", "x\n".repeat(118))), &["121 lines"]);
    }

    #[test]
    fn decisions_are_numbered_and_whole() {
        let text = "# 1. x\n\n## Context\n\n## Decision\n\n## Consequences\n";
        let record = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        check(&check_decisions(&[record("0001-a.md", text), record("0002-b.md", text)]), &[]);
        check(
            &check_decisions(&[record("0001-a.md", text), record("0003-b.md", text)]),
            &["0002-"],
        );
        check(&check_decisions(&[record("0001-a.md", "## Decision\n")]), &["Context", "Conseq"]);
    }
}
