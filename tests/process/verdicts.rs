//! What a node says to a log that was damaged while it was down.
//!
//! A tear that a crash can leave is cut, and everything acknowledged is there. Damage that no crash
//! explains is refused with exit code 4 and one line that names the place, and nothing on the disk
//! is altered. Every crash point of the format is enumerated in `tests/wal_crash.rs`; this is the
//! same verdict through the real program and real files.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use catamaran::base::Checksum;
use catamaran::model::limits::SEGMENT_BYTES;
use catamaran::model::{LogIndex, Outcome};

use super::load::{Ledger, read_all, record};
use super::nodes::{Cluster, GROUP, segments};

/// A node alone with some records in its log, killed after its log was sealed.
fn killed_node() -> (Cluster, Ledger) {
    let mut cluster = Cluster::new(1);
    let ledger = run_and_kill(&mut cluster, Ledger::default());
    (cluster, ledger)
}

/// Starts the node, appends five records by themselves and ten at once, waits for the seal, kills
/// the node.
fn run_and_kill(cluster: &mut Cluster, mut ledger: Ledger) -> Ledger {
    cluster.start(1);
    let client = cluster.client();
    for count in [1, 1, 1, 1, 1, 10] {
        let first = ledger.done.len() as u64 + 1;
        let records: Vec<String> = (first..first + count).map(record).collect();
        match client.append(GROUP, &records) {
            Outcome::Done(reply) => {
                let at = reply.first.get();
                ledger.done.extend((0..count).map(|i| (first + i, LogIndex::new(at + i))));
            }
            other @ (Outcome::NotDone(_) | Outcome::Unknown(_)) => {
                panic!("{other:?}\n{}", cluster.tail(1))
            }
        }
    }
    cluster.wait_for("the log to be sealed", || {
        let status = cluster.status(1)?;
        let end = status.lines().find_map(|line| line.strip_prefix("wal_next_lsn "))?;
        is_seal(&cluster.shard_dir(1), end.parse::<u64>().expect("an LSN") - 4096).then_some(())
    });
    cluster.kill(1);
    ledger
}

/// Whether the block at `lsn` is a seal, as `docs/wal-format.md` describes it.
fn is_seal(dir: &Path, lsn: u64) -> bool {
    const FLAGS_AT: u64 = 6;
    const SEAL: u16 = 2;
    let path = dir.join(format!("wal-segment-{:05}.log", lsn / SEGMENT_BYTES));
    let mut flags = [0; 2];
    let file = fs::File::open(path).expect("the segment of the log's end");
    file.read_exact_at(&mut flags, lsn % SEGMENT_BYTES + FLAGS_AT).expect("it is of full size");
    u16::from_le_bytes(flags) == SEAL
}

/// The place of `needle` in the one segment that holds it.
fn find(cluster: &Cluster, needle: &str) -> (PathBuf, u64) {
    for path in segments(&cluster.shard_dir(1)) {
        let bytes = fs::read(&path).expect("readable");
        let found = bytes.windows(needle.len()).position(|window| window == needle.as_bytes());
        if let Some(at) = found {
            return (path, at as u64);
        }
    }
    panic!("{needle:?} is in no segment");
}

/// The last 4 KiB page that is not all zeros, in the newest segment that has one.
fn last_page(cluster: &Cluster) -> (PathBuf, u64) {
    for path in segments(&cluster.shard_dir(1)).into_iter().rev() {
        let bytes = fs::read(&path).expect("readable");
        let found = bytes.chunks(4096).rposition(|page| page.iter().any(|byte| *byte != 0));
        if let Some(page) = found {
            return (path, page as u64 * 4096);
        }
    }
    panic!("every segment is empty");
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let file = fs::File::options().write(true).open(path).expect("writable");
    file.write_all_at(bytes, at).expect("written");
    file.sync_all().expect("durable");
}

/// Name and checksum of every file of the shard.
fn fingerprint(dir: &Path) -> Vec<(PathBuf, Checksum)> {
    let checksum = |path: PathBuf| {
        let bytes = fs::read(&path).expect("readable");
        (path, Checksum::of(&bytes))
    };
    segments(dir).into_iter().map(checksum).collect()
}

/// Starts the node, which must refuse with 4, say all of `words` on its error line, and alter
/// nothing. Twice: the first refusal must not make the second start believe.
#[track_caller]
fn refuses(cluster: &mut Cluster, words: &[&str]) {
    let before = fingerprint(&cluster.shard_dir(1));
    for _ in 0..2 {
        cluster.start(1);
        let status = cluster.wait_end(1);
        let log = cluster.tail(1);
        assert_eq!(status.code(), Some(4), "{log}");
        let line = log.lines().find(|line| line.starts_with("error: "));
        let line = line.unwrap_or_else(|| panic!("no error line in {log}"));
        for word in words {
            assert!(line.contains(word), "{word:?} is missing in: {line}");
        }
        assert_eq!(fingerprint(&cluster.shard_dir(1)), before, "nothing may be altered");
    }
}

/// Starts the node, which must serve everything in the account.
#[track_caller]
fn serves(cluster: &mut Cluster, ledger: &Ledger) {
    cluster.start(1);
    ledger.check(&read_all(&cluster.client()));
}

#[test]
fn a_torn_tail_is_cut_and_everything_acknowledged_is_there() {
    let (mut cluster, ledger) = killed_node();
    // The last block is a seal. Its only sector that matters did not get there.
    let (path, at) = last_page(&cluster);
    overwrite(&path, at, &[0xA5; 512]);
    let ledger = run_and_kill(&mut cluster, ledger);

    // Behind the seal, the first sector of another block: its header is sound, and says that there
    // should be more.
    let (path, at) = last_page(&cluster);
    let (source, block_at) = find(&cluster, "record 00000006");
    let mut sector = [0; 512];
    let source = fs::File::open(source).expect("readable");
    source.read_exact_at(&mut sector, block_at / 4096 * 4096).expect("a whole block");
    let lsn_of_seal = {
        let mut lsn = [0; 8];
        fs::File::open(&path).expect("readable").read_exact_at(&mut lsn, at + 16).expect("a block");
        u64::from_le_bytes(lsn)
    };
    sector[16..24].copy_from_slice(&(lsn_of_seal + 4096).to_le_bytes());
    let crc = Checksum::of(&sector[..60]).as_u32();
    sector[60..64].copy_from_slice(&crc.to_le_bytes());
    overwrite(&path, at + 4096, &sector);
    serves(&mut cluster, &ledger);
    assert!(cluster.tail(1).contains("event=cut"), "{}", cluster.tail(1));
}

#[test]
fn a_flipped_bit_below_the_watermark_is_refused() {
    let (mut cluster, ledger) = killed_node();
    let (path, at) = find(&cluster, "record 00000003");
    let mut byte = [0];
    fs::File::open(&path).expect("readable").read_exact_at(&mut byte, at).expect("readable");
    overwrite(&path, at, &[byte[0] ^ 0x10]);
    let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8").to_owned();
    refuses(&mut cluster, &["corrupt", &name, "was durable"]);
    // It was the bit and nothing else.
    overwrite(&path, at, &byte);
    serves(&mut cluster, &ledger);
}

#[test]
fn a_missing_segment_is_refused() {
    let (mut cluster, ledger) = killed_node();
    let ledger = run_and_kill(&mut cluster, ledger); // goes on in a segment of its own
    let (path, _) = find(&cluster, "record 00000003");
    let aside = path.with_extension("aside");
    fs::rename(&path, &aside).expect("moved");
    let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8").to_owned();
    refuses(&mut cluster, &["missing", &name]);
    fs::rename(&aside, &path).expect("moved back");
    serves(&mut cluster, &ledger);
}

#[test]
fn a_segment_of_another_cluster_is_refused() {
    let (mut cluster, ledger) = killed_node();
    let mut other = Cluster::with_id(1, "7d1f9a34-0b52-4c7e-9be1-3f6d2a8c5e10");
    run_and_kill(&mut other, Ledger::default());
    let (path, _) = find(&cluster, "record 00000003");
    let aside = path.with_extension("aside");
    fs::rename(&path, &aside).expect("moved");
    let (foreign, _) = find(&other, "record 00000003");
    fs::copy(foreign, &path).expect("copied");
    let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8").to_owned();
    refuses(&mut cluster, &["foreign", &name]);
    fs::rename(&aside, &path).expect("moved back");
    serves(&mut cluster, &ledger);
}
