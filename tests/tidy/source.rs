//! Rust source as tidy sees it: code without comments and strings, tokens, and expanded paths.
//!
//! Apart from the rules because it knows Rust's surface and none of ours. It is no parser: it
//! knows braces, paths and `use` trees, which is all that the rules ask about, and it is tested on
//! the cases where such a scanner goes wrong (raw strings, lifetimes, nested comments).

/// One word or sign of code, with its line (from 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// A path as written, with `use` trees expanded: `use a::{b, c as d}` gives `a::b` and `a::c`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) segments: Vec<String>,
    /// The name after `as`.
    pub(crate) alias: Option<String>,
    pub(crate) line: usize,
    /// Inline modules (`mod tests {`) around it, outermost first.
    pub(crate) inside: Vec<String>,
}

/// The text with comments and the contents of strings and characters blanked; lines stay.
pub(crate) fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = end_of_blank(&chars, at);
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            code.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    code
}

/// Where the comment or literal that starts at `at` ends; `at` itself if none starts there.
fn end_of_blank(chars: &[char], at: usize) -> usize {
    let next = chars.get(at + 1).copied();
    match chars[at] {
        '/' if next == Some('/') => {
            let rest = chars[at..].iter().position(|c| *c == '\n');
            rest.map_or(chars.len(), |length| at + length)
        }
        '/' if next == Some('*') => end_of_block_comment(chars, at),
        '"' => end_of_string(chars, at),
        'r' if at == 0 || !is_word(chars[at - 1]) || is_byte_prefix(chars, at) => {
            let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
            if chars.get(at + 1 + hashes) == Some(&'"') {
                end_of_raw_string(chars, at + 2 + hashes, hashes)
            } else {
                at
            }
        }
        '\'' if next == Some('\\') => {
            // The escaped character itself may be a quote.
            let rest = chars.iter().skip(at + 3).position(|c| *c == '\'');
            rest.map_or(chars.len(), |length| at + 3 + length + 1)
        }
        '\'' if chars.get(at + 2) == Some(&'\'') => at + 3,
        _ => at,
    }
}

fn is_byte_prefix(chars: &[char], at: usize) -> bool {
    matches!(chars[at - 1], 'b' | 'c') && (at < 2 || !is_word(chars[at - 2]))
}

fn end_of_block_comment(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start + 2, 1);
    while at < chars.len() && depth > 0 {
        let pair = (chars[at], chars.get(at + 1).copied());
        match pair {
            ('/', Some('*')) => (at, depth) = (at + 2, depth + 1),
            ('*', Some('/')) => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
    }
    at
}

fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

fn end_of_raw_string(chars: &[char], start: usize, hashes: usize) -> usize {
    let mut at = start;
    while at < chars.len() {
        let closing = chars[at + 1..].iter().take_while(|c| **c == '#').count();
        if chars[at] == '"' && closing >= hashes {
            return at + 1 + hashes;
        }
        at += 1;
    }
    chars.len()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Words, `::`, and every other sign by itself.
pub(crate) fn tokens_of(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (number, line) in code_of(text).lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let bytes = if is_word(first) {
                rest.find(|c| !is_word(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            let (token, after) = rest.split_at(bytes);
            tokens.push(Token { text: token.to_owned(), line: number + 1 });
            rest = after.trim_start();
        }
    }
    tokens
}

/// Every path of two or more segments in the code, `use` trees expanded.
pub(crate) fn paths_of(tokens: &[Token]) -> Vec<Path> {
    let mut paths = Vec::new();
    let mut braces: Vec<Option<String>> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            "{" => {
                let is_module = at >= 2 && tokens[at - 2].text == "mod";
                braces.push(is_module.then(|| tokens[at - 1].text.clone()));
            }
            "}" => drop(braces.pop()),
            _ => {}
        }
        if starts_path(tokens, at) {
            let inside: Vec<String> = braces.iter().flatten().cloned().collect();
            at = expand(tokens, at, &[], &inside, &mut paths);
        } else {
            at += 1;
        }
    }
    paths
}

/// Whether a path's first segment stands here: a word before `::` that is not a later segment.
fn starts_path(tokens: &[Token], at: usize) -> bool {
    let is_path = is_name(&tokens[at]) && text_at(tokens, at + 1) == "::";
    // `::std::fs` starts one too, `Vec::<u8>::new` and `.collect::<..>` do not go on with one.
    let goes_on = at >= 1 && tokens[at - 1].text == "::";
    let from_root = at >= 2 && (is_name(&tokens[at - 2]) || tokens[at - 2].text == ">");
    is_path && !(goes_on && from_root) && (at == 0 || tokens[at - 1].text != ".")
}

fn expand(
    tokens: &[Token],
    at: usize,
    prefix: &[String],
    inside: &[String],
    paths: &mut Vec<Path>,
) -> usize {
    let mut segments = prefix.to_vec();
    let line = tokens[at].line;
    segments.push(tokens[at].text.clone());
    let mut at = at + 1;
    if text_at(tokens, at) == "::" {
        let next = text_at(tokens, at + 1);
        if next == "{" {
            at += 2;
            while at < tokens.len() && tokens[at].text != "}" {
                let is_item = is_name(&tokens[at]) || tokens[at].text == "*";
                at = if is_item { expand(tokens, at, &segments, inside, paths) } else { at + 1 };
            }
            return at + 1;
        }
        if next == "*" || tokens.get(at + 1).is_some_and(is_name) {
            return expand(tokens, at + 1, &segments, inside, paths);
        }
    }
    let mut alias = None;
    if text_at(tokens, at) == "as" {
        alias = tokens.get(at + 1).map(|token| token.text.clone());
        at += 2;
    }
    paths.push(Path { segments, alias, line, inside: inside.to_vec() });
    at
}

fn is_name(token: &Token) -> bool {
    token.text.starts_with(is_word)
}

/// The text of a token, or nothing beyond the end.
pub(crate) fn text_at(tokens: &[Token], at: usize) -> &str {
    tokens.get(at).map_or("", |token| token.text.as_str())
}

impl Path {
    /// The path from the crate's root, if it is one of this crate's, as seen from `module`.
    pub(crate) fn resolve(&self, module: &[String]) -> Option<Vec<String>> {
        let mut here: Vec<String> = module.iter().chain(&self.inside).cloned().collect();
        let mut rest = self.segments.as_slice();
        match rest[0].as_str() {
            "crate" => here.clear(),
            "self" => {}
            "super" => drop(here.pop()),
            _ => return None,
        }
        rest = &rest[1..];
        while rest.first().is_some_and(|segment| segment == "super") {
            here.pop();
            rest = &rest[1..];
        }
        here.extend(rest.iter().filter(|segment| *segment != "self").cloned());
        Some(here)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn paths(text: &str, expected: &[&str]) {
        let found = paths_of(&tokens_of(text));
        let found: Vec<String> = found.iter().map(|path| path.segments.join("::")).collect();
        assert_eq!(found, expected, "in {text}");
    }

    #[test]
    fn comments_and_literals_are_no_code() {
        let text = "a(\"b // c\"); // d\n/* e /* f */ g */ h('\"', '\\'', r#\"i \" j\"#, b\"k\");";
        let words: Vec<String> = tokens_of(text).into_iter().map(|token| token.text).collect();
        assert_eq!(words.join(" "), "a ( ) ; h ( , , , b ) ;");
    }

    #[test]
    fn lifetimes_are_not_the_start_of_a_character() {
        let words = tokens_of("fn f<'a>(x: &'a str, c: char) { c == 'x' }");
        assert!(words.iter().any(|token| token.text == "str"));
        assert!(words.iter().all(|token| token.text != "x'"));
    }

    #[test]
    fn lines_survive_blanking() {
        let tokens = tokens_of("/* one\ntwo */\n\"three\nfour\" five");
        assert_eq!(tokens, [Token { text: "five".into(), line: 4 }]);
    }

    #[test]
    fn use_trees_are_expanded() {
        paths(
            "use crate::{base::X, model::{A, B as C}};",
            &["crate::base::X", "crate::model::A", "crate::model::B"],
        );
        paths("use std::fs;", &["std::fs"]);
        paths("let x = crate::raft::log::LENGTH;", &["crate::raft::log::LENGTH"]);
        paths("pub use batch::*;", &["batch::*"]);
        paths("::std::fs::read(p); Vec::<u8>::new()", &["std::fs::read", "Vec"]);
    }

    #[test]
    fn relative_paths_are_resolved() {
        let module = ["raft".to_owned(), "log".to_owned()];
        let text = "use super::super::wal::X; mod tests { use super::super::Group; }";
        let found: Vec<_> = paths_of(&tokens_of(text)).iter().map(|p| p.resolve(&module)).collect();
        let expected = [["wal", "X"], ["raft", "Group"]];
        assert_eq!(found, expected.map(|path| Some(path.map(str::to_owned).to_vec())));
    }
}
