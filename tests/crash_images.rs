//! Crash images of a real node: what its ring and its files asked of the file system, cut off at
//! any moment, recovered by the code of a real start.
//!
//! A node runs in this process with a tape under it (`catamaran::runtime::Tape`): small segments,
//! so that it rolls, recycles and starts again. Then, for thousands of moments, an image is made of
//! what was durable, of any part of what was in flight, and without names that no sync of their
//! directory had covered; the data directory is opened and its log recovered. Every append that a
//! client had heard of must be there. `CRASH_IMAGES=200000 cargo test --test crash_images` looks at
//! more moments than the 3,000 of an ordinary run.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test waits in real time, shares between threads, and what it did not expect ends it"
)]

#[path = "crash_images/drive.rs"]
mod drive;
#[path = "crash_images/media.rs"]
mod media;

use std::path::Path;

use catamaran::base::Prng;
use catamaran::runtime::{Act, NodeConfig, Tape};
use drive::{Ears, Heard, Promised, SEGMENT_BYTES};
use media::{Media, Survives};

const IMAGES: usize = 3_000;
/// Images of a tape that was tampered with: most show the damage much earlier.
const IMAGES_TAMPERED: usize = 600;

/// A tape and what was heard while it ran.
struct Recording {
    acts: Vec<Act>,
    heard: Vec<Heard>,
    config: NodeConfig,
    /// The data directory as it was formatted.
    formatted: tempfile::TempDir,
}

/// What looking at many images came to.
#[derive(Debug, Default)]
struct Seen {
    images: usize,
    doubtful: usize,
    failures: Vec<String>,
}

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

/// Memory if there is some to spare: images are made and thrown away by the thousand, and what is
/// under test is what recovery makes of them.
fn place_for_images() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir_in(".")).unwrap()
}

/// The moments to look at: all at which the file system changes shape, and of the others as many
/// as there is time for.
fn moments(acts: &[Act], images: usize) -> Vec<bool> {
    let shape = |act: &Act| {
        !matches!(act, Act::Write { .. } | Act::WriteDone { .. } | Act::Note(_) | Act::Fill { .. })
    };
    let special = acts.iter().filter(|act| shape(act)).count();
    let others = (images / 4).saturating_sub(special).max(1);
    let every = (acts.len() / others).max(1);
    acts.iter().enumerate().map(|(at, act)| shape(act) || at % every == 0).collect()
}

/// Looks at about `images` images of `acts`; stops at the first failure.
fn look(recording: &Recording, acts: &[Act], images: usize) -> Seen {
    let place = place_for_images();
    let mut media =
        Media::new(&recording.config.data_dir, recording.formatted.path(), place.path());
    let mut promised = Promised::default();
    let mut prng = Prng::new(7);
    let mut seen = Seen::default();
    for (act, wanted) in acts.iter().zip(moments(acts, images)) {
        media.apply(act);
        if let Act::Note(at) = act {
            promised.add(&recording.heard[*at]);
        }
        if !wanted {
            continue;
        }
        let kinds =
            [Survives::Nothing, Survives::Everything, Survives::APrefix, Survives::Anything];
        // Without doubts there is one image.
        let kinds = if media.doubts() == 0 { &kinds[..1] } else { &kinds[..] };
        for survives in kinds {
            seen.images += 1;
            seen.doubtful += usize::from(media.doubts() > 0);
            let looked_at = if seen.images.is_multiple_of(40) { 400 } else { 6 };
            let found = media.crash(*survives, &mut prng, |image| {
                promised.check(image, &recording.config, looked_at)
            });
            if let Err(error) = found {
                seen.failures.push(format!("{survives:?} after {act:.200?}: {error}"));
                return seen;
            }
        }
    }
    seen
}

fn record() -> Recording {
    // Not in /tmp: that may be memory, and the node is to have a disk.
    let temp = tempfile::tempdir_in(".").unwrap();
    let config = drive::new_node(&temp.path().join("node"));
    let formatted = tempfile::tempdir_in(".").unwrap();
    copy_files(&config.data_dir, formatted.path());
    let tape = Tape::start(SEGMENT_BYTES);
    let ears = Ears::default();
    for life in 0..3 {
        drive::live(&config, life, 400, tape, &ears);
    }
    Recording { acts: tape.acts(), heard: ears.all(), config, formatted }
}

/// D1, D2, D11, D13, I-01, I-02, W-08, W-12, W-17, and H-01 for the boot counter.
#[test]
fn every_image_of_a_crash_has_what_was_promised() {
    let recording = record();
    let acts = &recording.acts;
    let count = |is: fn(&Act) -> bool| acts.iter().filter(|act| is(act)).count();
    let recycled = count(|act| matches!(act, Act::Rename { from, .. } if is_segment(from)));
    assert!(recycled >= 2, "{recycled} segments recycled");
    assert!(count(|act| matches!(act, Act::WriteDone { .. })) > 200);

    let images = std::env::var("CRASH_IMAGES").ok().and_then(|images| images.parse().ok());
    let seen = look(&recording, acts, images.unwrap_or(IMAGES));
    assert!(seen.failures.is_empty(), "{seen:?}");
    assert!(seen.images > 1_000 && seen.doubtful > seen.images / 2, "{seen:?}");
    the_images_see_what_they_are_for(&recording);
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "log")
}

/// The same looks at tapes of a runtime that would have been wrong. Each must be noticed.
fn the_images_see_what_they_are_for(recording: &Recording) {
    let acts = &recording.acts;
    let without = |is: &dyn Fn(&Act) -> bool| -> Vec<Act> {
        acts.iter().filter(|act| !is(act)).cloned().collect()
    };
    let shard = recording.config.data_dir.join("shard-00");
    let directory_not_synced =
        without(&|act| matches!(act, Act::SyncDirectory { path } if *path == shard));
    let files_not_synced =
        without(&|act| matches!(act, Act::SyncFile { path } if path.starts_with(&shard)));
    let start_not_synced = without(
        &|act| matches!(act, Act::SyncDirectory { path } if *path == recording.config.data_dir),
    );
    let wrong = [
        ("the directory of the log is not synced", directory_not_synced),
        ("new segments are not synced", files_not_synced),
        ("the data directory is not synced", start_not_synced),
        ("writes are acknowledged before they are durable", acknowledged_too_soon(acts)),
    ];
    for (what, acts) in wrong {
        let seen = look(recording, &acts, IMAGES_TAMPERED);
        assert!(!seen.failures.is_empty(), "not noticed that {what}: {seen:?}");
    }
}

/// The tape as it would be if a completion were reported when the write is issued: the device
/// confirms each block only eight acts later, whatever was heard meanwhile.
fn acknowledged_too_soon(acts: &[Act]) -> Vec<Act> {
    let mut late: Vec<(usize, Act)> = Vec::new();
    for (at, act) in acts.iter().enumerate() {
        let delay = if matches!(act, Act::WriteDone { .. }) { 8 } else { 0 };
        late.push((at + delay, act.clone()));
    }
    late.sort_by_key(|(at, _)| *at);
    late.into_iter().map(|(_, act)| act).collect()
}
