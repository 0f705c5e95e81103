//! The fuzz targets' entry points, fed with seeds, their mutants, and what fuzzers once found.
//!
//! The same functions as in `fuzz/`, in every `cargo test`, for those who have no fuzzer. What a
//! fuzzer finds is kept in `fuzz/findings` as a file of hex digits named after its target.

#[path = "../fuzz/entries.rs"]
mod entries;
#[path = "../fuzz/seeds.rs"]
mod seeds;

use std::path::{Path, PathBuf};

use catamaran::base::Prng;

use entries::{ENTRIES, Verdict};

/// Mutants of each seed. A hundred times as many were run by hand; this is the share of CI.
const MUTANTS: u64 = 1_500;

fn entry(target: &str) -> entries::Entry {
    let found = ENTRIES.iter().find(|(name, _)| *name == target);
    found.unwrap_or_else(|| panic!("no entry point is called {target}")).1
}

/// Writes the seeds for a fuzzer, if the variable `FUZZ_SEEDS` names a folder (`fuzz/run` does).
#[test]
fn seeds_are_written_where_they_are_wanted() {
    let wanted = std::env::var_os("FUZZ_SEEDS").map(PathBuf::from);
    let scratch = tempfile::tempdir().expect("a directory");
    let folder = wanted.unwrap_or_else(|| scratch.path().to_owned());
    let seeds = seeds::seeds();
    for (number, (target, bytes)) in seeds.iter().enumerate() {
        let folder = folder.join(target);
        std::fs::create_dir_all(&folder).expect("a directory");
        std::fs::write(folder.join(format!("seed-{number:02}")), bytes).expect("written");
    }
    let of_first = std::fs::read_dir(folder.join(ENTRIES[0].0)).expect("just made").count();
    let expected = seeds.iter().filter(|(target, _)| *target == ENTRIES[0].0).count();
    assert!(of_first >= expected, "{of_first} files of {expected} seeds");
}

#[test]
fn every_entry_point_has_seeds_and_takes_them() {
    let seeds = seeds::seeds();
    for (target, _) in ENTRIES {
        assert!(seeds.iter().any(|(name, _)| name == target), "{target} has no seed");
    }
    for (target, bytes) in &seeds {
        let take = entry(target);
        // A profile lacks what only a site can know: it is refused, and a good start for mutants.
        let lacks = *target == "config" && !bytes.windows(10).any(|word| word == b"cluster_id");
        if lacks {
            assert_eq!(take(bytes), Verdict::Refused);
        } else {
            assert_eq!(take(bytes), Verdict::Accepted, "a seed of {target}: {}", hex(bytes));
        }
        for length in (0..bytes.len()).step_by(1 + bytes.len() / 200) {
            take(&bytes[..length]);
        }
    }
}

/// One to eight changes: a bit, a byte of note, a number at the edge, a piece of another seed, a
/// piece left out or doubled.
fn mutant(prng: &mut Prng, bytes: &[u8], others: &[&[u8]]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..prng.between(1, 8) {
        let below = |prng: &mut Prng, end: usize| {
            usize::try_from(prng.below(end.max(1) as u64)).expect("below a length")
        };
        let at = below(prng, bytes.len());
        match prng.below(7) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << prng.below(8),
            2 if at < bytes.len() => bytes[at] = [0, 1, 127, 128, 255][below(prng, 5)],
            3 if at + 8 <= bytes.len() => {
                let edges = [0, 1, u64::from(u32::MAX), u64::MAX, u64::MAX - 1, 4096, 1 << 63];
                let width = [2, 4, 8][below(prng, 3)];
                let edge = edges[below(prng, edges.len())];
                bytes[at..at + width].copy_from_slice(&edge.to_le_bytes()[..width]);
            }
            4 => {
                let other = others[below(prng, others.len())];
                let from = below(prng, other.len());
                let upto = other.len().min(from + below(prng, 64));
                bytes.splice(at..at, other[from..upto].iter().copied());
            }
            5 => {
                let end = bytes.len().min(at + below(prng, 64));
                bytes.drain(at..end);
            }
            _ => {
                let end = bytes.len().min(at + below(prng, 32));
                let doubled = bytes[at.min(end)..end].to_vec();
                bytes.splice(at..at, doubled);
            }
        }
    }
    bytes
}

#[test]
fn mutants_break_no_promise() {
    let seeds = seeds::seeds();
    let mutants = std::env::var("FUZZ_MUTANTS").ok();
    let mutants = mutants.map_or(MUTANTS, |text| text.parse().expect("FUZZ_MUTANTS is a number"));
    for (number, (target, bytes)) in seeds.iter().enumerate() {
        let others: Vec<&[u8]> = seeds
            .iter()
            .filter(|(name, _)| name == target)
            .map(|(_, other)| other.as_slice())
            .collect();
        let take = entry(target);
        for round in 0..mutants {
            let mut prng = Prng::new((number as u64) << 32 | round);
            let input = mutant(&mut prng, bytes, &others);
            let taken = std::panic::catch_unwind(|| take(&input));
            assert!(taken.is_ok(), "{target}, seed {number}, round {round}: {}", hex(&input));
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn what_was_found_stays_mended() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/findings");
    for file in std::fs::read_dir(folder).into_iter().flatten() {
        let path = file.expect("readable").path();
        let name = path.file_stem().and_then(|name| name.to_str()).expect("UTF-8").to_owned();
        let target = name.split('-').next().unwrap_or_default();
        let text = std::fs::read_to_string(&path).expect("hex digits");
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let bytes: Vec<u8> = digits
            .chunks(2)
            .map(|pair| {
                let pair = str::from_utf8(pair).expect("ASCII");
                u8::from_str_radix(pair, 16).expect("two hex digits")
            })
            .collect();
        entry(target)(&bytes);
    }
}
