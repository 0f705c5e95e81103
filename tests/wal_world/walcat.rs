//! `walcat` as an operator runs it: on real files, with real exit codes.
//!
//! Beside the crash histories because it prints what their world writes.

use std::path::Path;
use std::process::{Command, Output};

use super::forged::opening_of;
use super::wal_world::{Change, Disk, SMALL, World, identity};
use catamaran::model::GroupId;

/// Puts a disk where a node would have it: `node.toml`, `shard-00` and the segments.
fn lay_out(disk: &Disk, directory: &Path) {
    let shard = directory.join("shard-00");
    std::fs::create_dir_all(&shard).expect("a temporary directory");
    for (segment, bytes) in &disk.files {
        std::fs::write(shard.join(segment.file_name()), bytes).expect("a temporary directory");
    }
    let identity = identity();
    let text = format!(
        "format_version = 2\ncluster_id = \"{}\"\nnode_id = 1\nnode_uuid = \"{}\"\nshards = 1\n\
         boot_counter = 1\n",
        identity.cluster, identity.node
    );
    std::fs::write(directory.join("node.toml"), text).expect("a temporary directory");
}

fn walcat(arguments: &[&str], directory: &Path) -> (i32, String, String) {
    let program = Command::new(env!("CARGO_BIN_EXE_walcat"))
        .args(arguments)
        .current_dir(directory)
        .output()
        .expect("it was built");
    let Output { status, stdout, stderr } = program;
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code().expect("it ended by itself"), text(stdout), text(stderr))
}

fn log() -> World {
    let mut world = World::new(SMALL, 2, 11);
    for _ in 0..25 {
        world.write_block(&[
            Change::Append { group: GroupId::new(1), records: 3, bytes: 700 },
            Change::Append { group: GroupId::new(2), records: 1, bytes: 30 },
        ]);
        world.complete_all();
    }
    world.seal();
    world.complete_all();
    world
}

#[test]
fn it_prints_and_verifies_a_log() {
    let temp = tempfile::tempdir().unwrap();
    let world = log();
    lay_out(&world.disk, &temp.path().join("n1"));

    let (code, out, _) = walcat(&["n1"], temp.path());
    assert_eq!(code, 0);
    for wanted in ["segment wal-segment-00000.log at LSN 0", "opening part 1 of 1", "seal"] {
        assert!(out.contains(wanted), "{wanted}: {out}");
    }
    assert!(out.contains("batch group 1 term 1 index 1..=3 records"), "{out}");

    let (code, out, _) = walcat(&["--group", "2", "--records", "n1/shard-00"], temp.path());
    assert!(code == 0 && out.contains("group 2") && !out.contains("group 1"), "{out}");
    assert!(out.contains("1: 30 bytes"), "{out}");

    let (code, out, _) = walcat(&["--verify", "n1"], temp.path());
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("sound up to LSN") && out.contains("last #75.t1"), "{out}");

    for arguments in [&["--json", "n1"][..], &["--json", "--verify", "n1"]] {
        let (code, out, _) = walcat(arguments, temp.path());
        assert_eq!(code, 0);
        for line in out.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
        assert!(!out.is_empty());
    }

    // A file by itself, without a node's directory around it.
    std::fs::remove_file(temp.path().join("n1/node.toml")).unwrap();
    let (code, out, _) = walcat(&["n1/shard-00/wal-segment-00000.log"], temp.path());
    assert!(code == 0 && out.contains("opening part 1 of 1"), "{out}");
}

#[test]
fn it_names_the_damage() {
    let temp = tempfile::tempdir().unwrap();
    let mut world = log();
    let first = *world.disk.files.keys().next().unwrap();
    world.disk.files.get_mut(&first).unwrap()[9000] ^= 1;
    lay_out(&world.disk, &temp.path().join("n1"));
    let (code, _, err) = walcat(&["--verify", "n1"], temp.path());
    assert_eq!(code, 4, "{err}");
    assert!(err.contains("wal-segment-00000.log offset 8192"), "{err}");
    let (code, out, _) = walcat(&["n1"], temp.path());
    assert!(code == 1 && out.contains("batch body CRC"), "{out}");

    assert_eq!(walcat(&[], temp.path()).0, 2);
    assert_eq!(walcat(&["nowhere"], temp.path()).0, 3);
}

/// An opening whose checksums hold may still name sizes that no log has.
#[test]
fn it_refuses_impossible_sizes() {
    for segment_bytes in [0, 4096, 5000, 12_288 + 1, u64::MAX] {
        let temp = tempfile::tempdir().unwrap();
        lay_out(&opening_of(segment_bytes, 4096), &temp.path().join("n1"));
        for arguments in [&["n1"][..], &["--verify", "n1"]] {
            let (code, _, err) = walcat(arguments, temp.path());
            assert!(code == 4 && err.contains("segments have"), "{segment_bytes}: {code} {err}");
        }
    }
}

#[test]
fn it_compares_two_replicas() {
    let temp = tempfile::tempdir().unwrap();
    let mut world = log();
    lay_out(&world.disk, &temp.path().join("n1"));
    // The same history, of which the second replica has more and the tail of group 1 differs.
    world.write_block(&[Change::Append { group: GroupId::new(2), records: 1, bytes: 30 }]);
    world.write_block(&[Change::Conflict { group: GroupId::new(1) }]);
    world.complete_all();
    lay_out(&world.disk, &temp.path().join("n2"));
    let (code, out, err) = walcat(&["compare", "n1", "n2"], temp.path());
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("group 1: equal") && out.contains("group 2: equal, 25 batches"), "{out}");

    // Another history under the same indexes and terms: what must never happen.
    let mut other = World::new(SMALL, 2, 12);
    other.write_block(&[Change::Append { group: GroupId::new(1), records: 3, bytes: 500 }]);
    other.complete_all();
    lay_out(&other.disk, &temp.path().join("n3"));
    let (code, out, _) = walcat(&["compare", "n1", "n3", "--json"], temp.path());
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("index 1: same term, different batches"), "{out}");
}
