//! More than a node can take, and clients that do not take what they asked for: readers pause, memory
//! stays bounded, everybody is answered.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use catamaran::model::ClusterId;
use catamaran::wire::Assembler;
use catamaran::wire::client::{Hello, Reply, encode_append, encode_hello, encode_status};

use super::nodes::{CLIENT_PORT, Cluster, GROUP, PATIENCE};

/// The smallest budgets that may be configured: a shard takes in 1 MiB, and stops reading at 256 KiB.
const SMALL: &str = "limits.arena_bytes_per_shard = \"16 MiB\"\n\
    limits.uncommitted_bytes_per_shard = \"1 MiB\"\n\
    limits.connection_bytes = \"1 MiB\"\nlimits.send_queue_bytes = \"2 MiB\"\n\
    wal.segments_ahead = 1";

fn connect(cluster: &Cluster, node: usize) -> TcpStream {
    let mut stream = TcpStream::connect((cluster.ip(node), CLIENT_PORT)).expect("it listens");
    let mut hello = Vec::new();
    encode_hello(&mut hello, 0, &Hello::new(ClusterId::default(), "flood"));
    stream.write_all(&hello).expect("it takes a hello");
    stream
}

/// Reads until so many replies have come; tells how many appends were acknowledged, how many
/// refused, and the refusals' numbers.
fn replies(stream: &mut TcpStream, wanted: usize) -> (usize, Vec<u16>) {
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    let mut assembler = Assembler::new(1 << 20);
    let mut buffer = vec![0; 64 << 10];
    let (mut done, mut refused) = (0, Vec::new());
    while done + refused.len() < wanted {
        let count = stream.read(&mut buffer).expect("everybody is answered");
        assert!(count > 0, "closed after {done} done and {} refused", refused.len());
        assembler.push(Bytes::copy_from_slice(&buffer[..count]));
        while let Some(frame) = assembler.next() {
            let frame = frame.expect("nodes send sound frames");
            match Reply::decode(&frame.header, frame.body()).expect("a reply") {
                Reply::Append(_) => done += 1,
                Reply::Error(error) => refused.push(error.code),
                Reply::Hello(_) | Reply::Metadata(_) | Reply::Read(_) | Reply::Status(_) => {}
            }
        }
    }
    (done, refused)
}

/// Twelve clients send five times what the node may take in, and read only then. It reads no more
/// than it can hold, so that hardly anything has to be refused, and gets to everything in time.
#[test]
fn a_flood_is_read_as_fast_as_it_is_served() {
    const CLIENTS: usize = 12;
    const REQUESTS: usize = 400;
    let mut cluster = Cluster::with_settings(3, SMALL);
    cluster.start_all();
    let leader = cluster.leader();
    let mut flood = Vec::new();
    for correlation in 1..=REQUESTS as u64 {
        encode_append(&mut flood, correlation, GROUP, None, &[[b'x'; 1024]]);
    }
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut stream = connect(&cluster, leader);
            let mut writer = stream.try_clone().expect("a descriptor");
            let flood = flood.clone();
            let writing = std::thread::spawn(move || writer.write_all(&flood));
            let reading = std::thread::spawn(move || replies(&mut stream, REQUESTS));
            (writing, reading)
        })
        .collect();
    let (mut done, mut refused) = (0, Vec::new());
    for (writing, reading) in clients {
        writing.join().expect("no panic").expect("all of it is taken");
        let (more, others) = reading.join().expect("every request is answered");
        done += more;
        refused.extend(others);
    }
    // An election on a busy machine refuses what was under way; being busy refuses hardly anything.
    let busy = cluster.counter(leader, "client_busy");
    assert!(busy < (CLIENTS * REQUESTS) as u64 / 10, "{busy} were refused with Busy");
    assert_eq!(done + refused.len(), CLIENTS * REQUESTS);
    assert!(0 < cluster.counter(leader, "client_paused"), "no reader ever paused");
}

/// What waits when nothing is committed any more is let go of, and read on: a leader without its
/// followers does not fall silent towards those whom it stopped reading.
#[test]
fn paused_readers_go_on_when_a_leader_loses_its_followers() {
    const CLIENTS: usize = 8;
    const REQUESTS: usize = 300;
    let mut cluster = Cluster::with_settings(3, SMALL);
    cluster.start_all();
    let leader = cluster.leader();
    let others: Vec<usize> = (1..=3).filter(|node| *node != leader).collect();
    let mut flood = Vec::new();
    for correlation in 1..=REQUESTS as u64 {
        encode_append(&mut flood, correlation, GROUP, None, &[[b'x'; 1024]]);
    }
    let mut streams: Vec<TcpStream> = (0..CLIENTS).map(|_| connect(&cluster, leader)).collect();
    for node in &others {
        cluster.signal(*node, "STOP");
    }
    let writers: Vec<_> = streams
        .iter()
        .map(|stream| {
            let mut writer = stream.try_clone().expect("a descriptor");
            let flood = flood.clone();
            std::thread::spawn(move || writer.write_all(&flood))
        })
        .collect();
    for stream in &mut streams {
        let (done, refused) = replies(stream, REQUESTS);
        assert_eq!(done + refused.len(), REQUESTS);
    }
    for writer in writers {
        writer.join().expect("no panic").expect("all of it is taken");
    }
    for node in &others {
        cluster.signal(*node, "CONT");
    }
    cluster.leader();
}

/// Clients that ask and never read: what waits for all of them together is bounded, by cutting off
/// those who let most lie, and it is counted.
#[test]
fn replies_that_nobody_reads_are_bounded() {
    let mut cluster = Cluster::with_settings(1, SMALL);
    cluster.start(1);
    cluster.leader();
    let mut questions = Vec::new();
    (1..=64).for_each(|correlation| encode_status(&mut questions, correlation));
    let mut streams: Vec<TcpStream> = (0..40).map(|_| connect(&cluster, 1)).collect();
    for stream in &streams {
        stream.set_nonblocking(true).expect("a socket");
    }
    let cut = cluster.wait_for("clients that never read to be cut off", || {
        for stream in &mut streams {
            // Full, or closed: both are as it should be.
            let _ = stream.write(&questions);
        }
        let cut = cluster.counter(1, "client_cut_unread");
        (cut >= 10).then_some(cut)
    });
    let peak = cluster.peak_bytes(1);
    assert!(peak < 64 << 20, "{peak} bytes, and {cut} were cut off");
    std::thread::sleep(Duration::from_millis(50));
    assert!(cluster.is_alive(1));
}
