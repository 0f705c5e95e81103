//! The list of coverage marks and the branches they stand at agree, and claims name marks there are.
//!
//! That the drawn seeds hit every mark is checked by `simrun marks`; a test that ends with
//! `claims!(NAME)` or a golden script with `# marks: NAME` checks its own. See `docs/testing.md`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use catamaran::base::mark::Mark;

/// Words after each `open` and before the next `close`, in all files below `folder` that end so.
fn words_in(folder: &str, ending: &str, open: &str, close: char) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the repository can be read") {
            let path = entry.expect("the repository can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                let text = fs::read_to_string(&path).expect("text");
                for (at, _) in text.match_indices(open) {
                    let rest = &text[at + open.len()..];
                    let inside = &rest[..rest.find(close).unwrap_or(rest.len())];
                    let list = inside.split(|c: char| c.is_whitespace() || c == ',');
                    words.extend(list.filter(|word| !word.is_empty()).map(str::to_owned));
                }
            }
        }
    }
    words
}

#[test]
fn every_mark_of_the_list_stands_at_a_branch() {
    let placed = words_in("src", ".rs", "mark!(", ')');
    assert!(Mark::ALL.len() >= 80, "{} marks", Mark::ALL.len());
    let nowhere: Vec<_> = Mark::ALL.iter().filter(|(_, name)| !placed.contains(*name)).collect();
    assert!(nowhere.is_empty(), "in the list, and at no branch: {nowhere:?}");
}

#[test]
fn scripts_claim_marks_that_there_are() {
    let claimed = words_in("tests/golden", ".txt", "# marks:", '\n');
    let unknown: Vec<_> = claimed.iter().filter(|name| Mark::named(name).is_none()).collect();
    assert!(unknown.is_empty(), "claimed, and in no list: {unknown:?}");
}
