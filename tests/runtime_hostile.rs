//! Clients and peers that are broken or mean: each is cut off, and nobody else notices.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test waits in real time, and what it did not expect ends it"
)]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use catamaran::base::Prng;
use catamaran::model::{
    BootCounter, ClusterId, GroupId, LogIndex, NodeId, NodeUuid, RunId, ShardId,
};
use catamaran::wire::client::{
    Consistency, Hello, Read, Reply, encode_append, encode_hello, encode_read,
};
use catamaran::wire::peer::{
    HANDSHAKE_FRAME_BYTES, Handshake, Lane, PeerFacts, decode_handshake, encode_hello as peer_hello,
};
use catamaran::wire::{Assembler, FRAME_HEADER_BYTES};

mod nodes_in_process;

use nodes_in_process::{CLUSTER, Cluster, append, own_ip, read_all};

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect((own_ip(), port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// Reads to the end, whether the other side closes politely or not; returns how long that took.
fn until_closed(mut stream: &TcpStream) -> Duration {
    let begin = Instant::now();
    let mut sink = [0; 4096];
    loop {
        match stream.read(&mut sink) {
            Ok(0) => return begin.elapsed(),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return begin.elapsed(),
            // A signal to another thread of this process is no answer.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("it was not closed: {error}"),
        }
    }
}

fn client_hello() -> Vec<u8> {
    let mut bytes = Vec::new();
    let hello =
        Hello { version_min: 1, version_max: 1, cluster: ClusterId::default(), name: "test" };
    encode_hello(&mut bytes, 1, &hello);
    bytes
}

#[test]
fn garbage_and_silence_are_cut_off_and_others_go_on() {
    let mut cluster = Cluster::new(1, 1, 1);
    cluster.start_all();
    let client = cluster.client();
    let (clients, peers) = {
        let own = cluster.configs[0].own_address();
        (own.client_port_base, own.peer_port_base)
    };
    // Opened first, so that its five seconds pass while the rest happens.
    let silent = [connect(clients), connect(peers)];
    let mut half = [connect(clients), connect(peers)];
    half[0].write_all(&client_hello()[..20]).unwrap();
    half[1].write_all(&[0; 100]).unwrap();
    let opened = Instant::now();

    let mut chance = Prng::new(7);
    for length in [1_usize, 39, 40, 192, 5000, 100_000] {
        for port in [clients, peers] {
            let mut stream = connect(port);
            let garbage: Vec<u8> =
                (0..length.max(200)).map(|_| chance.next_u64().to_le_bytes()[0]).collect();
            // It may be cut off before it has said everything.
            let _ = stream.write_all(&garbage);
            assert!(until_closed(&stream) < Duration::from_secs(4), "{length} bytes to {port}");
        }
        append(&client, 1, "goes on");
    }
    for stream in silent.iter().chain(&half) {
        until_closed(stream);
        let after = opened.elapsed();
        assert!(after > Duration::from_secs(4) && after < Duration::from_secs(8), "{after:?}");
    }
    assert_eq!(read_all(&client, 1).len(), 6);
    drop(client);
    cluster.stop_all();
}

#[test]
fn a_client_that_never_reads_is_cut_off() {
    let mut cluster = Cluster::new(1, 1, 1);
    cluster.configs[0].send_queue_bytes = 1 << 20;
    cluster.start_all();
    let client = cluster.client();
    let record = "x".repeat(100_000);
    for _ in 0..8 {
        append(&client, 1, &record);
    }
    let mut greedy = connect(cluster.configs[0].own_address().client_port_base);
    greedy.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut requests = client_hello();
    let read =
        Read { from: LogIndex::new(1), max_bytes: 900_000, consistency: Consistency::Linearizable };
    for correlation in 2..200 {
        encode_read(&mut requests, correlation, GroupId::new(1), &read);
    }
    greedy.write_all(&requests).unwrap();
    // Not read: what the sockets hold fills up, then the queue, then it is over. The others are
    // served all the while.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(3) {
        append(&client, 1, "served");
    }
    until_closed(&greedy);
    drop(client);
    cluster.stop_all();
}

#[test]
fn strangers_make_room_for_others_when_the_connections_are_used_up() {
    let mut cluster = Cluster::new(1, 1, 1);
    cluster.configs[0].connections_max = 4;
    cluster.start_all();
    let port = cluster.configs[0].own_address().client_port_base;
    let strangers: Vec<TcpStream> = (0..4).map(|_| connect(port)).collect();
    let client = cluster.client();
    append(&client, 1, "let in");
    assert!(until_closed(&strangers[0]) < Duration::from_secs(2), "the oldest had to go");
    drop(client);
    cluster.stop_all();
}

/// Reads replies and calls `see` with each until it says to stop or the stream ends.
fn hear(mut stream: &TcpStream, assembler: &mut Assembler, mut see: impl FnMut(Reply<'_>) -> bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        assembler.push(Bytes::copy_from_slice(&buffer[..count]));
        while let Some(frame) = assembler.next() {
            let frame = frame.unwrap();
            if !see(Reply::decode(&frame.header, frame.body()).unwrap()) {
                return;
            }
        }
    }
}

/// Writes requests as fast as they are taken and counts those acknowledged, until it is over.
fn be_greedy(stream: &TcpStream, is_over: &AtomicBool, done: &AtomicU64) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            hear(stream, &mut Assembler::new(1 << 20), |reply| {
                done.fetch_add(u64::from(matches!(reply, Reply::Append(_))), Ordering::Relaxed);
                true
            });
        });
        let mut requests = client_hello();
        let mut correlation = 2;
        let mut writing = stream;
        while !is_over.load(Ordering::Relaxed) && writing.write_all(&requests).is_ok() {
            requests.clear();
            for _ in 0..256 {
                encode_append(&mut requests, correlation, GroupId::new(1), None, &[[b'g'; 1024]]);
                correlation += 1;
            }
        }
        // Ends the reader too, whatever it still has to hear.
        let _ = stream.shutdown(Shutdown::Both);
    });
}

/// Appends one record at a time beside others; tells how many of their records came between each
/// and the one before.
fn be_modest(stream: &TcpStream, appends: u64) -> Result<Vec<u64>, String> {
    let mut assembler = Assembler::new(1 << 20);
    let mut writing = stream;
    let mut request = client_hello();
    let mut indexes: Vec<u64> = Vec::new();
    for correlation in 2..2 + appends {
        encode_append(&mut request, correlation, GroupId::new(1), None, &["modest"]);
        writing.write_all(&request).unwrap();
        request.clear();
        let mut outcome = Err("closed".to_owned());
        hear(stream, &mut assembler, |reply| {
            if matches!(reply, Reply::Hello(_)) {
                return true;
            }
            outcome = if let Reply::Append(append) = &reply {
                Ok(append.first.get())
            } else {
                Err(format!("{reply:?}"))
            };
            false
        });
        indexes.push(outcome?);
    }
    Ok(indexes.windows(2).map(|pair| pair[1] - pair[0] - 1).collect())
}

/// F-03: whoever asks for little is not refused because others ask for more than there is, and is
/// served when the others have been read from once.
#[test]
fn a_modest_client_is_served_beside_greedy_ones() {
    const GREEDY: u16 = 40;
    let mut cluster = Cluster::new(1, 1, 1);
    cluster.configs[0].uncommitted_bytes_per_shard = 1 << 20;
    cluster.start_all();
    let client = cluster.client();
    append(&client, 1, "leads");
    let port = cluster.configs[0].own_address().client_port_base;
    let (is_over, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let modest = std::thread::scope(|scope| {
        for _ in 0..GREEDY {
            scope.spawn(|| be_greedy(&connect(port), &is_over, &done));
        }
        let begin = Instant::now();
        while done.load(Ordering::Relaxed) < 5000 && begin.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let modest = be_modest(&connect(port), 150);
        is_over.store(true, Ordering::Relaxed);
        modest
    });
    assert!(done.into_inner() >= 5000, "nobody was greedy");
    let between = modest.unwrap();
    // One buffer of 64 KiB from each at best; the rest is for this process being slow to send.
    // Where the last to come is served first, it is a million.
    let most = u64::from(GREEDY) * 64 * 20;
    assert!(between.iter().all(|count| *count <= most), "{between:?}");
    drop(client);
    cluster.stop_all();
}

/// What a node with this id and directory would say.
fn facts(node: u16, uuid: u8, boot: u64) -> PeerFacts {
    let (version_min, version_max) = PeerFacts::VERSIONS;
    PeerFacts {
        version_min,
        version_max,
        lane: Lane::Control,
        node: NodeId::new(node),
        to_node: NodeId::new(2),
        shard: ShardId::new(0),
        shard_count: 1,
        cluster: CLUSTER,
        uuid: NodeUuid::new([uuid; 16]),
        boot: BootCounter::new(boot),
        run: RunId::new([7; 16]),
        nonce: 77,
        echo: 0,
        credit_bytes: 1 << 20,
    }
}

/// What node 2 answers: nothing if it opens the stream, or the text of its refusal.
fn answer_to(port: u16, facts: &PeerFacts) -> Result<(), String> {
    let mut stream = connect(port);
    stream.write_all(&peer_hello(facts)).unwrap();
    let mut answer = [0; HANDSHAKE_FRAME_BYTES];
    stream.read_exact(&mut answer).unwrap();
    match decode_handshake(&answer).unwrap() {
        Handshake::Welcome(theirs) => {
            assert_eq!((theirs.echo, theirs.node), (77, NodeId::new(2)));
            Ok(())
        }
        Handshake::Refused { text, .. } => {
            let text = text.to_owned();
            until_closed(&stream);
            Err(text)
        }
        Handshake::Hello(_) => panic!("a hello is no answer"),
    }
}

#[test]
fn a_peer_is_who_it_was_or_is_refused() {
    let mut cluster = Cluster::new(2, 1, 1);
    // Only node 2 runs: the test is node 1.
    cluster.start(1);
    let port = cluster.configs[1].own_address().peer_port_base;
    let refused = |facts: PeerFacts, word: &str| {
        let text = answer_to(port, &facts).unwrap_err();
        assert!(text.contains(word), "{text}");
    };
    refused(facts(9, 1, 5), "not in the configuration");
    refused(PeerFacts { cluster: ClusterId::new([8; 16]), ..facts(1, 1, 5) }, "cluster");
    refused(PeerFacts { shard_count: 2, ..facts(1, 1, 5) }, "shards");
    refused(PeerFacts { to_node: NodeId::new(3), ..facts(1, 1, 5) }, "wants node 3");
    refused(PeerFacts { version_min: 9, version_max: 9, ..facts(1, 1, 5) }, "versions 9");
    // None of these taught anything. The first good one does, for good.
    answer_to(port, &facts(1, 1, 5)).unwrap();
    answer_to(port, &facts(1, 1, 5)).unwrap();
    refused(facts(1, 2, 6), "not the one known");
    refused(facts(1, 1, 4), "boot counter is 4");
    // The counter that was seen, from another run: a copy of the directory that is one start old.
    let copy = |boot| PeerFacts { run: RunId::new([8; 16]), ..facts(1, 1, boot) };
    refused(copy(5), "another run (O-04)");
    cluster.stop(1);
    cluster.start(1);
    refused(facts(1, 2, 6), "not the one known");
    refused(facts(1, 1, 4), "boot counter is 4");
    refused(copy(5), "another run (O-04)");
    answer_to(port, &facts(1, 1, 6)).unwrap();
    refused(facts(1, 1, 5), "boot counter is 5");
    cluster.stop(1);
}

/// An open stream of node 1 to node 2.
fn open_stream(port: u16, facts: &PeerFacts) -> TcpStream {
    let mut stream = connect(port);
    stream.write_all(&peer_hello(facts)).unwrap();
    let mut answer = [0; HANDSHAKE_FRAME_BYTES];
    stream.read_exact(&mut answer).unwrap();
    let answer = decode_handshake(&answer).unwrap();
    assert!(matches!(answer, Handshake::Welcome(_)), "{answer:?}");
    stream
}

#[test]
fn a_stream_from_before_the_peer_was_restarted_is_ended() {
    let mut cluster = Cluster::new(2, 2, 1);
    cluster.start(1);
    let port = cluster.configs[1].own_address().peer_port_base;
    let of = |shard: u16, lane, boot: u64| PeerFacts {
        lane,
        shard: ShardId::new(shard),
        shard_count: 2,
        run: RunId::new([u8::try_from(boot).unwrap(); 16]),
        ..facts(1, 1, boot)
    };
    let old = [
        open_stream(port, &of(0, Lane::Control, 5)),
        open_stream(port + 1, &of(1, Lane::Control, 5)),
        open_stream(port, &of(0, Lane::Bulk, 5)),
    ];
    // The control lanes are not opened again: only what is learnt from the new bulk lane, which is
    // the first word of the new run, can tell that nobody is at the other end of the old ones.
    let mut new = open_stream(port, &of(0, Lane::Bulk, 6));
    for stream in &old {
        assert!(until_closed(stream) < Duration::from_secs(2));
    }
    // And what is of the same run is left alone.
    let _control = open_stream(port, &of(0, Lane::Control, 6));
    new.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let silence = new.read(&mut [0; 16]).map_err(|error| error.kind());
    assert_eq!(silence, Err(ErrorKind::WouldBlock), "a bulk lane that has nothing to carry");
    cluster.stop(1);
}

#[test]
fn what_is_opened_while_a_node_stops_is_closed_with_it() {
    const ROUNDS: u64 = 8;
    let mut cluster = Cluster::new(2, 1, 1);
    let port = cluster.configs[1].own_address().peer_port_base;
    for round in 1..=ROUNDS {
        cluster.start(1);
        let over = AtomicBool::new(false);
        let mut opened = Vec::new();
        std::thread::scope(|scope| {
            let dialler = || {
                let mut opened = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    // Refused as soon as nobody listens any more.
                    let Ok(mut stream) = TcpStream::connect((own_ip(), port)) else { continue };
                    let _ = stream.write_all(&peer_hello(&facts(1, 1, 5)));
                    opened.push(stream);
                    // So that there are always some which have just been opened.
                    std::thread::sleep(Duration::from_micros(50));
                }
                opened
            };
            let diallers = [scope.spawn(dialler), scope.spawn(dialler)];
            std::thread::sleep(Duration::from_millis(20 + round));
            cluster.stop(1);
            over.store(true, Ordering::Relaxed);
            for dialler in diallers {
                opened.extend(dialler.join().unwrap());
            }
        });
        assert!(opened.len() > 2, "{}", opened.len());
        for stream in &opened {
            stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            until_closed(stream);
        }
    }
}

#[test]
fn silent_strangers_do_not_keep_a_peer_out() {
    let mut cluster = Cluster::new(2, 1, 1);
    cluster.start(1);
    let port = cluster.configs[1].own_address().peer_port_base;
    let strangers: Vec<TcpStream> = (0..80).map(|_| connect(port)).collect();
    let begin = Instant::now();
    answer_to(port, &facts(1, 1, 5)).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert!(until_closed(&strangers[0]) < Duration::from_secs(2), "the oldest had to go");
    cluster.stop(1);
}

#[test]
fn a_peer_that_does_not_answer_a_hello_is_given_up() {
    let mut cluster = Cluster::new(2, 1, 1);
    let port = cluster.configs[1].own_address().peer_port_base;
    let listener = std::net::TcpListener::bind((own_ip(), port)).unwrap();
    cluster.start(0);
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let after = until_closed(&stream);
    assert!(after > Duration::from_secs(4) && after < Duration::from_secs(8), "{after:?}");
    cluster.stop(0);
}

/// The whole frames that come until the other side closes.
fn frames_until_closed(mut stream: &TcpStream) -> usize {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let mut rest = &bytes[..];
    let mut frames = 0;
    while !rest.is_empty() {
        let body = u32::from_le_bytes(rest[8..12].try_into().unwrap());
        rest = &rest[FRAME_HEADER_BYTES + usize::try_from(body).unwrap()..];
        frames += 1;
    }
    frames
}

#[test]
fn a_client_that_has_said_all_still_gets_its_replies() {
    const APPENDS: u64 = 200;
    let mut cluster = Cluster::new(1, 2, 2);
    cluster.start_all();
    let client = cluster.client();
    for group in 1..=2 {
        append(&client, group, "leads");
    }
    let mut stream = connect(cluster.configs[0].own_address().client_port_base);
    let mut requests = client_hello();
    for correlation in 2..APPENDS + 2 {
        // One group lives on this shard and the other on the next.
        let group = GroupId::new(1 + correlation % 2);
        encode_append(&mut requests, correlation, group, None, &["half"]);
    }
    // A frame that will never be whole is not waited for.
    requests.extend_from_slice(&client_hello()[..30]);
    stream.write_all(&requests).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let begin = Instant::now();
    assert_eq!(frames_until_closed(&stream), 1 + usize::try_from(APPENDS).unwrap());
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    let all = read_all(&client, 1).len() + read_all(&client, 2).len();
    assert_eq!(all, 2 + usize::try_from(APPENDS).unwrap());
    drop(client);
    cluster.stop_all();
}

#[test]
fn a_client_that_has_said_all_and_does_not_listen_is_cut_off() {
    let mut cluster = Cluster::new(1, 1, 1);
    cluster.configs[0].send_queue_bytes = 64 << 20;
    cluster.start_all();
    let client = cluster.client();
    let record = "x".repeat(100_000);
    for _ in 0..9 {
        append(&client, 1, &record);
    }
    let mut stream = connect(cluster.configs[0].own_address().client_port_base);
    let mut requests = client_hello();
    let read =
        Read { from: LogIndex::new(1), max_bytes: 900_000, consistency: Consistency::Linearizable };
    for correlation in 2..62 {
        encode_read(&mut requests, correlation, GroupId::new(1), &read);
    }
    stream.write_all(&requests).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    // Twice what the sockets hold waits for it. Its time is ten seconds.
    std::thread::sleep(Duration::from_millis(11_000));
    let mut taken = 0;
    let mut buffer = vec![0; 1 << 20];
    while let Ok(bytes @ 1..) = stream.read(&mut buffer) {
        taken += bytes;
    }
    assert!(taken < 60 * 700_000, "{taken} bytes: it was waited for");
    drop(client);
    cluster.stop_all();
}
