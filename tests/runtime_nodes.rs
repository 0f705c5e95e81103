//! Whole nodes in this process, over loopback and on real files: they find each other, replicate,
//! restart with what they had, and refuse what they must.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test waits in real time, and what it did not expect ends it"
)]

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use catamaran::client::Client;
use catamaran::model::{BootCounter, GroupId, Outcome, Refusal};
use catamaran::runtime::{ExitCode, Node, NodeConfig, StartError};

mod nodes_in_process;

use nodes_in_process::{Cluster, append, own_ip, read_all, within};

/// Appends to group 1 while nodes come and go, and what must come of it.
#[derive(Default)]
struct Ledger {
    done: Vec<String>,
    unknown: Vec<String>,
}

impl Ledger {
    /// Appends until one record is acknowledged. After an unknown outcome it is another record.
    #[track_caller]
    fn append(&mut self, client: &Client, text: &str) {
        let done = within(Duration::from_secs(10), || {
            let record = format!("{text} {}", self.done.len() + self.unknown.len());
            match client.append(GroupId::new(1), &[&record]) {
                Outcome::Done(_) => Ok(record),
                Outcome::NotDone(refusal) => Err(format!("{refusal:?}")),
                Outcome::Unknown(doubt) => {
                    self.unknown.push(record);
                    Err(format!("{doubt:?}"))
                }
            }
        });
        self.done.push(done);
    }

    /// All that was acknowledged is there, once and in order, and nothing else but what may be.
    #[track_caller]
    fn check(&self, found: &[String]) {
        let (mut unknown, mut done) = (Vec::new(), Vec::new());
        for record in found {
            let may_be = self.unknown.contains(record);
            (if may_be { &mut unknown } else { &mut done }).push(record);
        }
        assert!(done.iter().copied().eq(&self.done), "{done:?} instead of {:?}", self.done);
        unknown.sort_unstable();
        let doubled = unknown.windows(2).find(|pair| pair[0] == pair[1]);
        assert_eq!(doubled, None, "sent once and there twice");
    }
}

#[test]
fn three_nodes_replicate_and_come_back_with_what_they_had() {
    let mut cluster = Cluster::new(3, 1, 1);
    cluster.start_all();
    let client = cluster.client();
    let mut ledger = Ledger::default();
    ledger.append(&client, "one");
    ledger.append(&client, "two");
    ledger.check(&read_all(&client, 1));
    drop(client);
    cluster.stop_all();

    cluster.start_all();
    assert_eq!(cluster.nodes[0].as_ref().unwrap().boot(), BootCounter::new(2));
    let client = cluster.client();
    ledger.append(&client, "three");
    ledger.check(&read_all(&client, 1));
    // Two of three are enough, whichever is gone.
    for at in 0..3 {
        cluster.stop(at);
        ledger.append(&client, &format!("without {at}"));
        cluster.start(at);
    }
    ledger.check(&read_all(&client, 1));
    drop(client);
    cluster.stop_all();
}

#[test]
fn nothing_touches_the_directory_of_a_node_that_was_joined() {
    let mut cluster = Cluster::new(1, 1, 1);
    let directory = cluster.configs[0].data_dir.join("shard-00");
    let names = || {
        let entries = std::fs::read_dir(&directory).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    for _ in 0..5 {
        // A start makes segments ahead: it ends in the middle of that.
        cluster.start(0);
        cluster.stop(0);
        let before = names();
        assert!(!before.iter().any(|name| name.to_string_lossy().ends_with(".new")), "{before:?}");
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(before, names());
    }
}

#[test]
fn a_node_without_room_for_its_next_segment_refuses_and_goes_on_by_itself() {
    const RECORD_BYTES: usize = 900_000;
    // Two segments of such records fill whatever was made before the obstacle was there.
    const APPENDS_MAX: usize = 150;
    let mut cluster = Cluster::new(1, 1, 1);
    cluster.configs[0].segments_ahead = 1;
    cluster.start(0);
    let client = cluster.client();
    append(&client, 1, "before");
    let directory = cluster.configs[0].data_dir.join("shard-00");
    // The first two are there before long. The third cannot be made: what is not a file is in
    // its way, which fails like a full device does, for whatever user.
    within(Duration::from_secs(10), || {
        let is_made = directory.join("wal-segment-00001.log").exists();
        is_made.then_some(()).ok_or_else(|| "no second segment yet".to_owned())
    });
    let obstacle = directory.join("wal-segment-00002.log.new");
    std::fs::create_dir(&obstacle).unwrap();

    let record = "x".repeat(RECORD_BYTES);
    let mut done = 1;
    let refusal = (0..APPENDS_MAX).find_map(|_| match client.append(GroupId::new(1), &[&record]) {
        Outcome::Done(_) => {
            done += 1;
            None
        }
        Outcome::NotDone(refusal) => Some(refusal),
        Outcome::Unknown(doubt) => panic!("nothing was stopped, and {doubt}"),
    });
    assert_eq!(refusal, Some(Refusal::DiskFull), "after {done} appends");
    // Reads go on, and appends are refused at once instead of waiting for room.
    assert_eq!(read_all(&client, 1).len(), done);
    let begin = Instant::now();
    let again = client.append(GroupId::new(1), &["refused"]);
    assert!(matches!(again, Outcome::NotDone(Refusal::DiskFull)), "{again:?}");
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());

    std::fs::remove_dir(&obstacle).unwrap();
    within(Duration::from_secs(5), || match client.append(GroupId::new(1), &["after"]) {
        Outcome::Done(_) => Ok(()),
        Outcome::NotDone(refusal) => Err(format!("{refusal:?}")),
        Outcome::Unknown(doubt) => panic!("nothing was stopped, and {doubt}"),
    });
    assert_eq!(read_all(&client, 1).len(), done + 1);
    drop(client);
    cluster.stop_all();
}

#[test]
fn a_copy_that_is_one_start_old_is_refused_and_the_original_is_not() {
    let mut cluster = Cluster::new(3, 1, 1);
    let pinned = |cluster: &Cluster, boot: u64| {
        within(Duration::from_secs(10), || {
            let path = cluster.configs[1].data_dir.join("peers.toml");
            let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
            let of_node_1 = text.split("[[peers]]").find(|entry| entry.contains("node_id = 1\n"));
            let known = of_node_1.is_some_and(|e| e.contains(&format!("boot_counter = {boot}\n")));
            if known { Ok(()) } else { Err(text) }
        });
    };
    cluster.start_all();
    let client = cluster.client();
    let mut ledger = Ledger::default();
    ledger.append(&client, "before the image");
    cluster.stop(0);
    let original = cluster.configs[0].data_dir.clone();
    let image = original.with_extension("image");
    copy_all(&original, &image);

    // The original counts to 2, is seen, and acknowledges what the image does not have.
    cluster.start(0);
    pinned(&cluster, 2);
    ledger.append(&client, "after the image");
    cluster.stop(0);
    let aside = original.with_extension("aside");
    std::fs::rename(&original, &aside).unwrap();
    std::fs::rename(&image, &original).unwrap();
    // The image counts to 2 as well.
    cluster.start(0);
    let node = cluster.nodes[0].as_ref().unwrap();
    assert_eq!(node.boot(), BootCounter::new(2));
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = node.events().recv_timeout(left).expect("a refusal is told").to_string();
        assert!(!line.contains("event=peer_up"), "it was let in: {line}");
        if line.contains("event=peer_refused") && line.contains("another run (O-04)") {
            break;
        }
    }
    cluster.stop(0);

    std::fs::remove_dir_all(&original).unwrap();
    std::fs::rename(&aside, &original).unwrap();
    cluster.start(0);
    pinned(&cluster, 3);
    ledger.append(&client, "with the original");
    ledger.check(&read_all(&client, 1));
    drop(client);
    cluster.stop_all();
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    let mode = std::fs::metadata(from).unwrap().permissions();
    std::fs::set_permissions(to, mode).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn groups_on_two_shards_are_reached_through_either() {
    let mut cluster = Cluster::new(1, 2, 4);
    cluster.start_all();
    let client = cluster.client();
    for group in 1..=4 {
        append(&client, group, &format!("to {group}"));
    }
    for group in 1..=4 {
        assert_eq!(read_all(&client, group), [format!("to {group}")]);
    }
    drop(client);
    cluster.stop_all();
}

#[test]
fn large_appends_reach_a_follower_almost_without_a_copy() {
    let mut cluster = Cluster::new(3, 1, 1);
    cluster.start_all();
    let client = cluster.client();
    // So that the client knows who leads, and sends nothing large to anybody else.
    let mut ledger = Ledger::default();
    ledger.append(&client, "small");
    let record = "x".repeat(300_000);
    for _ in 0..30 {
        ledger.append(&client, &record);
    }
    let count = |at: usize, name: &str| -> u64 {
        let port = cluster.configs[at].own_address().client_port_base;
        let text = client.status(&format!("{}:{port}", own_ip())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap().parse().unwrap()
    };
    // Two followers, 9 MB each, received where they were written from.
    let followers = (0..3).filter(|at| count(*at, "append_records") == 0);
    for at in followers {
        let direct = count(at, "direct_bytes_follower");
        assert!(direct > 7_500_000, "{direct}");
        // The first large frame is a surprise: its beginning has to be moved. And a client that
        // took this node for the leader may have sent it one or two of its own.
        let moved = count(at, "copied_bytes_carry");
        assert!(moved < 700_000, "{moved} of 9,000,000 bytes were moved");
    }
    drop(client);
    cluster.stop_all();
}

#[track_caller]
fn refusal(config: &NodeConfig, code: ExitCode, words: &[&str]) {
    let error: StartError = match Node::start(config.clone()) {
        Ok(_) => panic!("must be refused"),
        Err(error) => error,
    };
    let text = error.to_string();
    assert_eq!(error.exit_code(), code, "{text}");
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}

#[test]
fn a_node_that_cannot_start_says_why_and_leaves_nothing_behind() {
    let mut cluster = Cluster::new(1, 1, 1);
    let config = cluster.configs[0].clone();
    let port = config.own_address().peer_port_base;
    let taken = TcpListener::bind((own_ip(), port)).unwrap();
    refusal(&config, ExitCode::Environment, &["cannot listen for peers", &port.to_string()]);
    drop(taken);

    cluster.start(0);
    refusal(&config, ExitCode::DataDir, &["in use", "LOCK"]);
    let client = cluster.client();
    append(&client, 1, "kept");
    drop(client);
    cluster.stop(0);

    // The log is gone, but the directory remembers that there was one (W-17).
    let shard = config.data_dir.join("shard-00");
    let move_all = |from: &Path, to: &Path| {
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            std::fs::rename(entry.path(), to.join(entry.file_name())).unwrap();
        }
    };
    let aside = tempfile::tempdir_in(".").unwrap();
    move_all(&shard, aside.path());
    refusal(&config, ExitCode::DataDir, &["log of shard 0 is refused"]);
    move_all(aside.path(), &shard);
    cluster.start(0);
    let client = cluster.client();
    assert_eq!(read_all(&client, 1), ["kept"]);
    drop(client);
    cluster.stop(0);
}
