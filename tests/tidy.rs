//! The house rules that a compiler does not enforce: rooms, doors, purity, and plain order.
//!
//! Cargo cannot keep the rooms of one crate apart, so this test does. It reads the repository as
//! text; each checker in `tests/tidy/` has its own tests, which show that it fails when its rule
//! is broken. Style is for rustfmt and clippy, and is not checked here.

#[path = "tidy/rooms.rs"]
mod rooms;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/text.rs"]
mod text;

use std::fs;
use std::path::{Path, PathBuf};

use rooms::File;

/// The folders of the project. Others are build products, or what a running program left.
const FOLDERS: &[&str] = &[".ci", "benches", "docs", "examples", "src", "tests", "tools", "tuning"];

/// Extensions of files that are read as text.
const TEXT: &[&str] = &["rs", "md", "toml", "txt", "yml", "sh", "svg", "json"];

/// The repository that cargo runs us for; by hand, any other checkout.
fn root() -> PathBuf {
    let set = std::env::var_os("CARGO_MANIFEST_DIR");
    set.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

/// Every text file of the repository, by path from its root, in order.
fn files() -> Vec<File> {
    let mut files = Vec::new();
    for folder in FOLDERS {
        collect(&root().join(folder), &mut files);
    }
    for entry in fs::read_dir(root()).expect("the repository can be read") {
        let path = entry.expect("the repository can be read").path();
        if path.is_file() {
            add(&path, &mut files);
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(files.len() > 50, "only {} files found: is this the repository?", files.len());
    files
}

fn collect(folder: &Path, files: &mut Vec<File>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return; // Git keeps no empty folders.
    };
    for entry in entries {
        let path = entry.expect("the repository can be read").path();
        if path.is_dir() { collect(&path, files) } else { add(&path, files) }
    }
}

fn add(path: &Path, files: &mut Vec<File>) {
    let extension = path.extension().and_then(|extension| extension.to_str());
    if extension.is_some_and(|extension| TEXT.contains(&extension)) || path.ends_with(".ci/run") {
        let inside = path.strip_prefix(root()).expect("found below it");
        let text = fs::read_to_string(path);
        files.push(File {
            path: inside.to_str().expect("names are UTF-8").to_owned(),
            text: text.unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        });
    }
}

fn rust_files() -> Vec<File> {
    files().into_iter().filter(|file| file.path.ends_with(".rs")).collect()
}

fn library_files() -> Vec<File> {
    rust_files().into_iter().filter(|file| file.path.starts_with("src/")).collect()
}

#[track_caller]
fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn rooms_import_along_the_arrows_and_through_the_doors() {
    none(&rooms::check_imports(&library_files()));
}

#[test]
fn pure_rooms_do_not_act() {
    none(&library_files().iter().flat_map(rooms::check_pure).collect::<Vec<_>>());
}

#[test]
fn dependencies_stay_in_their_rooms() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("it is there");
    let lines = manifest.lines().skip_while(|line| *line != "[dependencies]").skip(1);
    let names: Vec<String> = lines
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name.trim().replace('-', "_"))
        .collect();
    assert!(names.len() >= 5, "the manifest's dependencies were not found: {names:?}");
    none(&rooms::check_dependencies(&library_files(), &names));
}

#[test]
fn unsafe_stays_where_it_is_explained() {
    none(&rust_files().iter().flat_map(rooms::check_unsafe).collect::<Vec<_>>());
}

#[test]
fn names_say_something() {
    none(&rust_files().iter().flat_map(rooms::check_names).collect::<Vec<_>>());
}

#[test]
fn rust_files_are_finished_and_of_bounded_length() {
    let check = |file: &File| text::check_rust(&file.path, &file.text);
    none(&rust_files().iter().flat_map(check).collect::<Vec<_>>());
}

#[test]
fn no_file_names_a_place_on_one_machine() {
    let check = |file: &File| text::check_places(&file.path, &file.text);
    none(&files().iter().flat_map(check).collect::<Vec<_>>());
}

#[test]
fn what_documents_point_at_exists() {
    let exists = |path: &str| root().join(path).exists();
    let is_document = |file: &&File| file.path.ends_with(".md") || file.path.ends_with(".rs");
    // The checkers' own tests point at documents that must not exist.
    let is_tidy = |file: &&File| file.path.starts_with("tests/tidy/");
    let files = files();
    let documents = files.iter().filter(is_document).filter(|file| !is_tidy(file));
    let check = |file: &File| text::check_links(&file.path, &file.text, &exists);
    none(&documents.flat_map(check).collect::<Vec<_>>());
}

#[test]
fn golden_scripts_make_one_claim_each() {
    let files = files();
    let scripts = files.iter().filter(|file| file.path.starts_with("tests/golden/"));
    let check = |file: &File| text::check_script(&file.path, &file.text);
    none(&scripts.flat_map(check).collect::<Vec<_>>());
}

#[test]
fn decision_records_are_numbered_and_whole() {
    let folder = "docs/decisions/";
    let records: Vec<(String, String)> = files()
        .into_iter()
        .filter_map(|file| Some((file.path.strip_prefix(folder)?.to_owned(), file.text)))
        .collect();
    assert!(!records.is_empty(), "no decision records found");
    none(&text::check_decisions(&records));
}
