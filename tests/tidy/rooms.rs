//! The rooms: who may import whom, what a door lets through, and what a pure room may not name.
//!
//! Apart from the text rules because these need paths and not lines. The tables are the policy; a
//! new arrow needs a decision record (`docs/decisions`). Does not check what `rustc` checks.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Path, Token, paths_of, text_at, tokens_of};

/// A room and the rooms that it may import, in the order of `src/lib.rs`.
pub(crate) const ARROWS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("model", &["base"]),
    ("raft", &["base", "model"]),
    ("wal", &["base", "model"]),
    ("wire", &["base", "model", "raft"]),
    ("stats", &["base", "model"]),
    ("shard", &["base", "model", "raft", "wal", "wire", "stats"]),
    ("client", &["base", "model", "wire"]),
    ("config", &["base", "model"]),
    ("runtime", &["base", "model", "raft", "config", "stats", "wal", "wire", "shard"]),
    ("sim", &["base", "model", "raft", "wal", "wire", "stats", "shard", "client"]),
];

/// Arrows that are narrower than a room: (from, to, the only names that may be used).
pub(crate) const NARROW: &[(&str, &str, &[&str])] = &[
    ("wire", "raft", &["Envelope", "Message"]),
    // What a node is told at start; it goes through to the shard's configuration unread.
    ("runtime", "raft", &["Timing"]),
];

/// Rooms that decide and never act: values in, values out.
pub(crate) const PURE: &[&str] = &["base", "model", "raft", "wal", "wire", "stats", "shard", "sim"];

/// Files of other rooms that are held to the same rules.
pub(crate) const PURE_FILES: &[&str] = &["src/client/session.rs"];

/// Words that make code impure, wherever they stand in it.
const IMPURE_WORDS: &[&str] = &[
    "HashMap",
    "HashSet",
    "Instant",
    "SystemTime",
    "async",
    "await",
    "eprint",
    "eprintln",
    "print",
    "println",
    "thread_local",
];

/// Paths that make code impure, with everything below them.
const IMPURE_PATHS: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::sync::Condvar",
    "std::sync::Mutex",
    "std::sync::RwLock",
    "std::sync::mpsc",
    "std::thread",
];

/// Exceptions to the two lists above: (file, what it may name, why).
const IMPURE_EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("src/base/arena.rs", "std::thread", "its test drops a slice on another thread"),
    ("src/base/mark.rs", "thread_local", "counts of marks, which no deciding code can read"),
];

/// Where each dependency may be named inside the library; `*` is everywhere. A dependency without
/// a row fails: it needs a decision record (`docs/decisions/0005-dependencies.md`) and a room.
pub(crate) const DEPENDENCIES: &[(&str, &[&str])] = &[
    ("bytes", &["*"]),
    ("crc32c", &["base"]),
    ("glommio", &["runtime"]),
    ("io_uring", &["runtime"]),
    ("futures_io", &["runtime"]),
    ("core_affinity", &["runtime"]),
    ("libc", &["runtime"]),
    ("socket2", &["runtime", "client"]),
    ("getrandom", &["runtime", "client"]),
    ("serde", &["config", "runtime"]),
    ("serde_json", &[]),
    ("toml", &["config", "runtime"]),
    ("clap", &[]),
    ("hdrhistogram", &["runtime"]),
    ("indicatif", &[]),
];

/// Files outside `src/runtime` that may say `unsafe`.
pub(crate) const UNSAFE_FILES: &[&str] = &[
    "src/base/arena.rs",               // aligned memory, shared by slices
    "benches/world/allocations.rs",    // an allocator that counts
    "tests/process/sandbox.rs",        // a system call filter between fork and exec
    "tools/catamaran/dev/children.rs", // children end with their parent
    "tools/loadgen/system.rs",         // epoll, signals, free space
];

/// Names that admit anything and so say nothing.
pub(crate) const EMPTY_NAMES: &[&str] =
    &["common", "helper", "helpers", "misc", "shared", "types", "util", "utils"];

/// A source file of the library: its path from the repository's root, and its text.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl File {
    /// The modules it is in: `src/wire/client/mod.rs` is `wire::client`.
    pub(crate) fn module(&self) -> Vec<String> {
        let inner = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        let mut module: Vec<String> = inner.split('/').map(str::to_owned).collect();
        if module.last().is_some_and(|name| matches!(name.as_str(), "mod" | "lib" | "main")) {
            module.pop();
        }
        module
    }

    /// The room it is in; `None` for `lib.rs` and `main.rs`.
    pub(crate) fn room(&self) -> Option<String> {
        let inner = self.path.strip_prefix("src/")?;
        inner.split_once('/').map(|(room, _)| room.to_owned())
    }
}

/// What a `mod.rs` lets through: names that it declares or re-exports, and its open modules.
#[derive(Debug, Default)]
pub(crate) struct Door {
    names: BTreeSet<String>,
    modules: BTreeSet<String>,
}

impl Door {
    /// Reads a `mod.rs`. Items marked `pub` and `pub(crate)` are open, all others closed. Those
    /// inside braces count too, because a macro's body may declare them; a method that comes in
    /// that way opens nothing, since no path through the door ends in it. For the same reason every
    /// word handed to a macro that makes items (`kinds! { Kind: .. }`) counts as open.
    pub(crate) fn of(text: &str) -> Self {
        let tokens = tokens_of(text);
        let mut door = Self::default();
        let mut at = 0;
        while at < tokens.len() {
            at += 1;
            if text_at(&tokens, at - 1) == "pub" {
                at = door.read_item(&tokens, at);
            } else if text_at(&tokens, at) == "!" && text_at(&tokens, at + 1) == "{" {
                at = door.read_macro(&tokens, at + 2);
            }
        }
        door
    }

    fn read_macro(&mut self, tokens: &[Token], mut at: usize) -> usize {
        let mut depth = 1;
        while at < tokens.len() && depth > 0 {
            match text_at(tokens, at) {
                "{" => depth += 1,
                "}" => depth -= 1,
                word => drop(self.names.insert(word.to_owned())),
            }
            at += 1;
        }
        at
    }

    fn read_item(&mut self, tokens: &[Token], mut at: usize) -> usize {
        if text_at(tokens, at) == "(" {
            if text_at(tokens, at + 1) != "crate" {
                return at;
            }
            at += 3;
        }
        while matches!(text_at(tokens, at), "unsafe" | "async" | "extern")
            || (text_at(tokens, at) == "const" && text_at(tokens, at + 1) == "fn")
        {
            at += 1;
        }
        match text_at(tokens, at) {
            "use" => {
                let end = tokens[at..].iter().position(|token| token.text == ";");
                let end = end.map_or(tokens.len(), |length| at + length);
                for path in paths_of(&tokens[at + 1..end]) {
                    let last = path.segments.last().cloned();
                    self.names.extend(path.alias.or(last));
                }
                end
            }
            "mod" => {
                self.modules.insert(text_at(tokens, at + 1).to_owned());
                at + 2
            }
            _ => {
                self.names.insert(text_at(tokens, at + 1).to_owned());
                at + 2
            }
        }
    }
}

/// Checks arrows and doors over all files of `src`; one line per violation.
pub(crate) fn check_imports(files: &[File]) -> Vec<String> {
    let doors: BTreeMap<Vec<String>, Door> = files
        .iter()
        .filter(|file| file.path.ends_with("/mod.rs"))
        .map(|file| (file.module(), Door::of(&file.text)))
        .collect();
    let mut wrong = Vec::new();
    for file in files {
        let Some(room) = file.room() else { continue };
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("{}: room {room} is not in tidy's import table", file.path));
            continue;
        };
        for path in paths_of(&tokens_of(&file.text)) {
            let Some(target) = path.resolve(&file.module()) else { continue };
            let Some(to) = target.first().filter(|to| **to != room) else { continue };
            if !ARROWS.iter().any(|(name, _)| name == to) {
                continue; // An item of lib.rs itself.
            }
            let fault = if allowed.contains(&to.as_str()) {
                check_narrow(&room, &target).or_else(|| check_door(&doors, &target))
            } else {
                Some(format!("{room} may not import {to}"))
            };
            wrong.extend(fault.map(|fault| {
                format!("{}:{}: {fault} ({})", file.path, path.line, target.join("::"))
            }));
        }
    }
    wrong
}

fn check_narrow(room: &str, target: &[String]) -> Option<String> {
    let (_, to, names) =
        NARROW.iter().find(|(from, to, _)| *from == room && *to == target[0].as_str())?;
    let name = target.get(1)?;
    (!names.contains(&name.as_str())).then(|| format!("{room} may use only {names:?} of {to}"))
}

/// Walks a path through the doors on its way. A module that is one file is open when its parent's
/// door says `pub mod`; what is private in it is `rustc`'s business.
fn check_door(doors: &BTreeMap<Vec<String>, Door>, target: &[String]) -> Option<String> {
    for depth in 1..target.len() {
        let door = doors.get(&target[..depth])?;
        let name = &target[depth];
        if name == "*" || door.names.contains(name) {
            return None;
        }
        if !door.modules.contains(name) {
            return Some(format!("{name} is behind the door of {}", target[..depth].join("::")));
        }
    }
    None
}

/// Checks that a pure file names nothing that acts; one line per violation.
pub(crate) fn check_pure(file: &File) -> Vec<String> {
    let pure_room = file.room().is_some_and(|room| PURE.contains(&room.as_str()));
    if !pure_room && !PURE_FILES.contains(&file.path.as_str()) {
        return Vec::new();
    }
    let tokens = tokens_of(&file.text);
    let mut wrong: Vec<String> = tokens
        .iter()
        .filter(|token| IMPURE_WORDS.contains(&token.text.as_str()))
        .filter(|token| !is_excepted(file, &token.text))
        .map(|token| format!("{}:{}: {} in a pure room", file.path, token.line, token.text))
        .collect();
    for path in paths_of(&tokens) {
        let name = path.segments.join("::");
        if is_excepted(file, &name) {
            continue;
        }
        let is_impure = |banned: &&&str| name.starts_with(**banned) && !continues(&name, banned);
        if let Some(banned) = IMPURE_PATHS.iter().find(is_impure) {
            wrong.push(format!("{}:{}: {banned} in a pure room", file.path, path.line));
        }
    }
    wrong
}

fn is_excepted(file: &File, name: &str) -> bool {
    IMPURE_EXCEPTIONS.iter().any(|(at, what, _)| *at == file.path && name.starts_with(what))
}

/// Whether the word at the end of `prefix` goes on in `name`: `std::iox` is not `std::io`.
fn continues(name: &str, prefix: &str) -> bool {
    name[prefix.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// Checks that dependencies are named only in their rooms; `dependencies` are Cargo's, with `_`.
pub(crate) fn check_dependencies(files: &[File], dependencies: &[String]) -> Vec<String> {
    let mut wrong: Vec<String> = dependencies
        .iter()
        .filter(|name| !DEPENDENCIES.iter().any(|(known, _)| known == name))
        .map(|name| format!("Cargo.toml: {name} has no row in tidy's table of dependencies"))
        .collect();
    for file in files {
        let Some(room) = file.room() else { continue };
        for Path { segments, line, .. } in paths_of(&tokens_of(&file.text)) {
            let row = DEPENDENCIES.iter().find(|(name, _)| *name == segments[0]);
            let Some((name, rooms)) = row else { continue };
            if !rooms.contains(&"*") && !rooms.contains(&room.as_str()) {
                wrong.push(format!("{}:{line}: {name} is not for {room}", file.path));
            }
        }
    }
    wrong
}

/// Checks that `unsafe` stays where it is explained.
pub(crate) fn check_unsafe(file: &File) -> Vec<String> {
    let allowed =
        file.path.starts_with("src/runtime/") || UNSAFE_FILES.contains(&file.path.as_str());
    let tokens = tokens_of(&file.text);
    let said = tokens.iter().find(|token| token.text == "unsafe" && !allowed);
    said.map(|token| format!("{}:{}: unsafe is not for this file", file.path, token.line))
        .into_iter()
        .collect()
}

/// Checks that no file, folder or inline module has an empty name.
pub(crate) fn check_names(file: &File) -> Vec<String> {
    let parts = file.path.trim_end_matches(".rs").split('/');
    let tokens = tokens_of(&file.text);
    let modules = tokens.windows(2).filter(|pair| pair[0].text == "mod");
    let names = parts.chain(modules.map(|pair| pair[1].text.as_str()));
    names
        .filter(|name| EMPTY_NAMES.contains(name))
        .map(|name| format!("{}: the name {name} admits anything", file.path))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), text: text.into() }
    }

    #[track_caller]
    fn check(wrong: &[String], expected: &[&str]) {
        assert_eq!(wrong.len(), expected.len(), "{wrong:#?}");
        for (found, word) in wrong.iter().zip(expected) {
            assert!(found.contains(word), "{found} does not say {word}");
        }
    }

    /// One file of `room` beside a raft and a wire room with doors.
    fn imports(path: &str, text: &str) -> Vec<String> {
        let raft = "mod log;\nmod group;\npub use group::{Group as Replica, Envelope};";
        let wire = "pub mod client;\npub(crate) mod frame;\nmod peer;\npub const LIMIT: u32 = 1;\n\
            macro_rules! m { () => { pub struct Counters {} } }\nkinds! { Kind: A = 1 }";
        let client = "mod error;\npub use error::ErrorCode;";
        check_imports(&[
            file("src/raft/mod.rs", raft),
            file("src/wire/mod.rs", wire),
            file("src/wire/client/mod.rs", client),
            file(path, text),
        ])
    }

    #[test]
    fn arrows_point_downwards() {
        check(&imports("src/wal/x.rs", "use crate::model::Term;"), &[]);
        check(&imports("src/wal/x.rs", "use crate::raft::Replica;"), &["wal may not import raft"]);
        check(&imports("src/wal/x.rs", "fn f() { crate::shard::g() }"), &["wal may not import"]);
        check(&imports("src/wal/x.rs", "use super::super::raft::Replica;"), &["may not import"]);
        check(&imports("src/wal/x.rs", "use crate::{base::A, sim::B};"), &["wal may not import"]);
        check(&imports("src/wal/x.rs", "// crate::raft::Replica"), &[]);
        check(&imports("src/raft/x.rs", "use crate::raft::log::Log;"), &[]);
    }

    #[test]
    fn a_room_without_a_row_is_refused() {
        check(&imports("src/attic/x.rs", ""), &["not in tidy's import table"]);
    }

    #[test]
    fn what_the_door_does_not_show_is_private() {
        check(&imports("src/shard/x.rs", "use crate::raft::{Replica, Envelope};"), &[]);
        check(
            &imports("src/shard/x.rs", "use crate::raft::log::Log;"),
            &["behind the door of raft"],
        );
        check(&imports("src/shard/x.rs", "use crate::raft::Group;"), &["Group is behind"]);
        check(
            &imports("src/shard/x.rs", "use crate::wire::{LIMIT, frame::F, Counters, Kind};"),
            &[],
        );
        check(&imports("src/shard/x.rs", "use crate::wire::client::ErrorCode;"), &[]);
        check(
            &imports("src/shard/x.rs", "use crate::wire::client::error::E;"),
            &["door of wire::"],
        );
        check(&imports("src/shard/x.rs", "use crate::wire::peer::P;"), &["peer is behind"]);
    }

    #[test]
    fn a_narrow_arrow_lets_only_its_names_through() {
        check(&imports("src/wire/x.rs", "use crate::raft::Envelope;"), &[]);
        check(&imports("src/wire/x.rs", "use crate::raft::Replica;"), &["wire may use only"]);
    }

    #[test]
    fn pure_rooms_do_not_act() {
        let check_in = |path: &str, text: &str, expected: &[&str]| {
            check(&check_pure(&file(path, text)), expected);
        };
        check_in("src/raft/x.rs", "use core::time::Duration; use std::collections::BTreeMap;", &[]);
        check_in("src/raft/x.rs", "use std::{collections::HashMap, fs};", &["HashMap", "std::fs"]);
        check_in("src/wal/x.rs", "let x = std::time::Instant::now();", &["Instant"]);
        check_in("src/shard/x.rs", "async fn f() { std::thread::spawn(g); }", &["async", "thread"]);
        check_in("src/sim/x.rs", "println!(\"x\")", &["println"]);
        check_in("src/client/session.rs", "use std::net::TcpStream;", &["std::net"]);
        check_in("src/client/tcp.rs", "use std::net::TcpStream;", &[]);
        check_in("src/base/arena.rs", "std::thread::spawn(f); std::fs::read(p)", &["std::fs"]);
        check_in("src/wire/x.rs", "// println, std::fs\nlet x = \"HashMap\";", &[]);
    }

    #[test]
    fn dependencies_stay_in_their_rooms() {
        let known = ["bytes".to_owned(), "glommio".to_owned()];
        let check_in = |path: &str, text: &str, expected: &[&str]| {
            check(&check_dependencies(&[file(path, text)], &known), expected);
        };
        check_in("src/shard/x.rs", "use bytes::Bytes;", &[]);
        check_in("src/runtime/x.rs", "use glommio::Task;", &[]);
        check_in("src/shard/x.rs", "glommio::spawn_local(f)", &["glommio is not for shard"]);
        check_in("src/wal/x.rs", "use crc32c::crc32c;", &["crc32c is not for wal"]);
        check(&check_dependencies(&[], &["left_pad".to_owned()]), &["left_pad has no row"]);
    }

    #[test]
    fn unsafe_stays_where_it_is_explained() {
        let text = "fn f() { unsafe { g() } }";
        check(&check_unsafe(&file("src/runtime/ring.rs", text)), &[]);
        check(&check_unsafe(&file("src/base/arena.rs", text)), &[]);
        check(&check_unsafe(&file("src/shard/x.rs", text)), &["unsafe is not for"]);
        check(&check_unsafe(&file("src/shard/x.rs", "// unsafe\n#[expect(unsafe_code)]")), &[]);
    }

    #[test]
    fn empty_names_are_refused() {
        check(&check_names(&file("src/raft/utils.rs", "")), &["utils"]);
        check(&check_names(&file("tests/common/mod.rs", "")), &["common"]);
        check(&check_names(&file("src/raft/x.rs", "mod helpers { }")), &["helpers"]);
        check(&check_names(&file("src/raft/x.rs", "mod tests { let types = 1; }")), &[]);
    }
}
