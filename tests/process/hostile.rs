//! Strangers and broken peers: whatever they send ends in a typed error or a closed connection and
//! moves a counter, and the clients that behave notice nothing.
//!
//! Decoders are tested on all kinds of bytes where they live; this is the way through the real
//! sockets, deadlines and the shard.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use catamaran::base::{Checksum, Prng};
use catamaran::model::limits::HANDSHAKE_DEADLINE;
use catamaran::model::{BootCounter, ClusterId, NodeUuid, RunId, ShardId};
use catamaran::wire::client::{
    ErrorCode, Hello, Kind, Reply, encode_hello, encode_metadata, encode_status,
};
use catamaran::wire::peer::{
    self, HANDSHAKE_FRAME_BYTES, Handshake, HandshakeError, Lane, PeerFacts, decode_handshake,
};
use catamaran::wire::{Assembler, FRAME_HEADER_BYTES, PROTOCOL_VERSION};

use super::load::{Load, read_all};
use super::nodes::{CLIENT_PORT, Cluster, PATIENCE, PEER_PORT, node_id};

/// How long a connection may take to be closed: the deadline of a handshake, and room for a busy
/// machine.
const CLOSED_WITHIN: Duration = Duration::from_secs(HANDSHAKE_DEADLINE.as_secs() + 5);

/// Bytes that are no frame.
fn garbage(bytes: usize) -> Vec<u8> {
    let mut prng = Prng::new(20);
    (0..bytes).map(|_| u8::try_from(prng.below(256)).expect("below 256")).collect()
}

/// The frame with some header bytes replaced, and a header checksum that holds.
fn patched(frame: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = Checksum::of(&frame[..FRAME_HEADER_BYTES - 4]);
    frame[FRAME_HEADER_BYTES - 4..FRAME_HEADER_BYTES].copy_from_slice(&crc.as_u32().to_le_bytes());
    frame
}

/// The version, and the body's length, of a frame.
const VERSION_AT: usize = 4;
const KIND_AT: usize = 5;
const BODY_BYTES_AT: usize = 8;

fn hello() -> Vec<u8> {
    hello_for(ClusterId::default(), PROTOCOL_VERSION)
}

fn hello_for(cluster: ClusterId, version: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    let (version_min, version_max) = (version, version);
    encode_hello(&mut frame, 1, &Hello { version_min, version_max, cluster, name: "stranger" });
    frame
}

fn metadata() -> Vec<u8> {
    let mut frame = Vec::new();
    encode_metadata(&mut frame, 2);
    frame
}

/// What came back: the kind of each frame, errors by their code. Compared in order of declaration:
/// a refusal may overtake an answer to an earlier request, and correlation ids match them.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Heard {
    Error(u16),
    Kind(u8),
    Closed,
}

/// Sends `bytes` and listens until the connection is closed, or `frames` frames have come.
fn talk(mut stream: TcpStream, bytes: &[u8], frames: usize) -> Vec<Heard> {
    let mut heard = Vec::new();
    let mut assembler = Assembler::new(1 << 20);
    let deadline = Instant::now() + CLOSED_WITHIN;
    // An error is a connection that was closed while we were talking: the reads will tell.
    let _ = stream.write_all(bytes);
    let mut buffer = vec![0; 16 << 10];
    while heard.len() < frames && Instant::now() < deadline {
        stream.set_read_timeout(Some(Duration::from_millis(200))).expect("not zero");
        match stream.read(&mut buffer) {
            Ok(0) => heard.push(Heard::Closed),
            Ok(count) => assembler.push(Bytes::copy_from_slice(&buffer[..count])),
            Err(error) if is_early(&error) => {}
            Err(_) => heard.push(Heard::Closed), // reset: it had more of ours than it read
        }
        while let Some(frame) = assembler.next() {
            let frame = frame.expect("nodes send sound frames");
            let code = match Reply::decode(&frame.header, frame.body()) {
                Ok(Reply::Error(error)) => Some(error.code),
                _ => None,
            };
            heard.push(code.map_or(Heard::Kind(frame.header.kind), Heard::Error));
        }
        if heard.last() == Some(&Heard::Closed) {
            return heard;
        }
    }
    heard
}

/// Whether a read ended because nothing has come yet.
fn is_early(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

fn error(code: ErrorCode) -> Heard {
    Heard::Error(code.number())
}

fn kind(kind: Kind) -> Heard {
    Heard::Kind(kind.number())
}

/// One thing that a client may do wrong: what it sends, and what it must hear.
struct Misdeed {
    what: &'static str,
    sends: Vec<u8>,
    hears: Vec<Heard>,
}

fn misdeeds() -> Vec<Misdeed> {
    let misdeed = |what, parts: &[Vec<u8>], hears| Misdeed { what, sends: parts.concat(), hears };
    let other_cluster = ClusterId::new([7; 16]);
    let huge = patched(&metadata(), BODY_BYTES_AT, &0xFFFF_0000_u32.to_le_bytes());
    let mut rotten = hello();
    *rotten.last_mut().expect("a body") ^= 1;
    vec![
        misdeed("garbage", &[garbage(4096)], vec![error(ErrorCode::Malformed), Heard::Closed]),
        misdeed(
            "garbage behind a hello",
            &[hello(), garbage(4096)],
            vec![error(ErrorCode::Malformed), kind(Kind::HelloReply), Heard::Closed],
        ),
        misdeed(
            "a length of 4 GiB",
            std::slice::from_ref(&huge),
            vec![error(ErrorCode::TooLarge), Heard::Closed],
        ),
        misdeed(
            "a length of 4 GiB behind a hello",
            &[hello(), huge.clone()],
            vec![error(ErrorCode::TooLarge), kind(Kind::HelloReply), Heard::Closed],
        ),
        misdeed("a flipped bit", &[rotten], vec![error(ErrorCode::Malformed), Heard::Closed]),
        misdeed(
            "no version in common",
            &[hello_for(ClusterId::default(), 9)],
            vec![error(ErrorCode::WrongVersion), Heard::Closed],
        ),
        misdeed(
            "another cluster",
            &[hello_for(other_cluster, PROTOCOL_VERSION)],
            vec![error(ErrorCode::WrongCluster), Heard::Closed],
        ),
        misdeed(
            "a request before the hello",
            &[metadata()],
            vec![error(ErrorCode::HelloFirst), Heard::Closed],
        ),
        // These leave the stream framed, so it goes on.
        misdeed(
            "a frame of a later version",
            &[hello(), patched(&metadata(), VERSION_AT, &[9]), metadata()],
            vec![error(ErrorCode::Unsupported), kind(Kind::HelloReply), kind(Kind::MetadataReply)],
        ),
        misdeed(
            "a kind that does not exist",
            &[hello(), patched(&metadata(), KIND_AT, &[99]), metadata()],
            vec![error(ErrorCode::Unsupported), kind(Kind::HelloReply), kind(Kind::MetadataReply)],
        ),
    ]
}

#[test]
fn clients_that_talk_nonsense_are_answered_counted_and_disturb_nobody() {
    let mut cluster = Cluster::new(3);
    cluster.start_all();
    let load = Load::start(&cluster);
    load.wait_more(&cluster, 100);
    let leader = cluster.leader();
    let term = cluster.group_fact(leader, "term");
    let connect = || TcpStream::connect((cluster.ip(leader), CLIENT_PORT)).expect("it listens");

    // Half a frame and silence, on both ports, while the rest goes on: its deadline takes longest.
    let silent: Vec<TcpStream> = [CLIENT_PORT, PEER_PORT]
        .map(|port| TcpStream::connect((cluster.ip(leader), port)).expect("it listens"))
        .into_iter()
        .map(|mut stream| {
            stream.write_all(&hello()[..20]).expect("it takes twenty bytes");
            stream
        })
        .collect();

    for Misdeed { what, sends, hears } in misdeeds() {
        let before = cluster.counter(leader, "client_malformed");
        let mut heard = talk(connect(), &sends, hears.len());
        heard.sort();
        assert_eq!(heard, hears, "{what}");
        let after = cluster.counter(leader, "client_malformed");
        assert!(before < after, "{what}: client_malformed stays at {after}");
    }
    for stream in silent {
        assert_eq!(talk(stream, &[], 1), [Heard::Closed], "half a frame and silence");
    }
    cluster.wait_for("the silent ones to be counted", || {
        let counted =
            ["client_strangers", "peer_refused"].map(|name| cluster.counter(leader, name));
        (counted.iter().all(|count| 0 < *count)).then_some(())
    });

    load.wait_more(&cluster, 100);
    let ledger = load.finish();
    // An election on a busy machine excuses requests that were under way; nothing else does.
    if cluster.group_fact(cluster.leader(), "term") == term {
        assert!(ledger.not_done.is_empty(), "{:?}", ledger.not_done);
        assert!(ledger.unknown.is_empty(), "{:?}", ledger.unknown);
    }
    ledger.check(&read_all(&cluster.client()));
}

/// What the test says on the peer port: it claims to be node 3 and knows the cluster.
fn peer_facts(cluster: &Cluster, to_node: usize, lane: Lane) -> PeerFacts {
    let cluster_id = cluster.client().metadata().expect("it serves").cluster;
    let (version_min, version_max) = PeerFacts::VERSIONS;
    PeerFacts {
        version_min,
        version_max,
        lane,
        node: node_id(3),
        to_node: node_id(to_node),
        shard: ShardId::new(0),
        shard_count: 1,
        cluster: cluster_id,
        uuid: NodeUuid::new([3; 16]),
        boot: BootCounter::new(1),
        run: RunId::new([3; 16]),
        nonce: 77,
        echo: 0,
        credit_bytes: 1 << 20,
    }
}

/// Sends a handshake and returns the answer's kind: the code of a refusal, or `None` when the
/// connection was closed without one.
fn shake(cluster: &Cluster, node: usize, bytes: &[u8]) -> Option<u16> {
    let mut stream = TcpStream::connect((cluster.ip(node), PEER_PORT)).expect("it listens");
    stream.set_read_timeout(Some(CLOSED_WITHIN)).expect("not zero");
    let _ = stream.write_all(bytes);
    let mut answer = [0; HANDSHAKE_FRAME_BYTES];
    stream.read_exact(&mut answer).ok()?;
    let code = match decode_handshake(&answer).expect("nodes send sound frames") {
        Handshake::Refused { code, .. } => code,
        other @ (Handshake::Hello(_) | Handshake::Welcome(_)) => panic!("not refused: {other:?}"),
    };
    let closed = stream.read(&mut [0]);
    assert!(matches!(closed, Ok(0)) || closed.is_err(), "refused and still open");
    Some(code)
}

#[test]
fn peers_with_a_wrong_handshake_are_refused_and_disturb_nobody() {
    let mut cluster = Cluster::new(3);
    cluster.start_all();
    let load = Load::start(&cluster);
    load.wait_more(&cluster, 100);
    let node = cluster.leader();
    let own = if node == 3 { 2 } else { node };
    let facts = peer_facts(&cluster, own, Lane::Control);
    let hello = |change: &dyn Fn(&mut PeerFacts)| {
        let mut facts = facts;
        change(&mut facts);
        peer::encode_hello(&facts).to_vec()
    };
    let sound = hello(&|_| ());
    let version = HandshakeError::Version { min: 9, max: 9 };
    let cluster_found = HandshakeError::Cluster { found: ClusterId::new([7; 16]) };
    let uuid = HandshakeError::Uuid { found: facts.uuid };
    let stranger = HandshakeError::Stranger { found: node_id(9) };
    let oversize = patched(&sound, BODY_BYTES_AT, &0xFFFF_0000_u32.to_le_bytes());
    let mut rotten = sound.clone();
    rotten[60] ^= 1;
    const NOT_A_FRAME: u16 = 1;
    let cases: [(&str, Vec<u8>, u16); 7] = [
        ("garbage", garbage(HANDSHAKE_FRAME_BYTES), NOT_A_FRAME),
        ("a length of 4 GiB", oversize, NOT_A_FRAME),
        ("a flipped bit", rotten, NOT_A_FRAME),
        (
            "another version",
            hello(&|facts| (facts.version_min, facts.version_max) = (9, 9)),
            version.number(),
        ),
        (
            "another cluster",
            hello(&|facts| facts.cluster = ClusterId::new([7; 16])),
            cluster_found.number(),
        ),
        ("a wiped node under an old number", sound, uuid.number()),
        ("a node that nobody knows", hello(&|facts| facts.node = node_id(9)), stranger.number()),
    ];
    for (what, bytes, code) in cases {
        let before = cluster.counter(own, "peer_refused");
        assert_eq!(shake(&cluster, own, &bytes), Some(code), "{what}");
        cluster.wait_for(&format!("peer_refused after {what}"), || {
            (before < cluster.counter(own, "peer_refused")).then_some(())
        });
    }
    load.wait_more(&cluster, 100);
    load.finish().check(&read_all(&cluster.client()));
}

/// The test is node 3 of the cluster: it shakes hands like one, and then talks nonsense.
#[test]
fn a_peer_that_turns_to_nonsense_is_cut_off_and_disturbs_nobody() {
    let mut cluster = Cluster::new(3);
    cluster.start(1);
    cluster.start(2);
    let listener = TcpListener::bind((cluster.ip(3), PEER_PORT)).expect("node 3's address is ours");
    let load = Load::start(&cluster);
    load.wait_more(&cluster, 100);
    let mut status = Vec::new();
    encode_status(&mut status, 1);
    let huge = patched(&status, BODY_BYTES_AT, &0xFFFF_0000_u32.to_le_bytes());
    let cases = [
        (Lane::Control, "garbage", garbage(4096)),
        (Lane::Control, "a length of 4 GiB", huge.clone()),
        (Lane::Bulk, "garbage", garbage(8192)),
        (Lane::Bulk, "a length of 4 GiB", [huge, vec![0; 8192]].concat()),
    ];
    for (lane, what, bytes) in cases {
        let before = malformed(&cluster);
        let mut stream = dialled(&cluster, &listener, lane);
        let _ = stream.write_all(&bytes);
        assert!(is_closed(&mut stream), "{what} on {lane:?}: still open");
        cluster.wait_for(&format!("peer_malformed after {what} on {lane:?}"), || {
            (before < malformed(&cluster)).then_some(())
        });
    }
    load.wait_more(&cluster, 100);
    load.finish().check(&read_all(&cluster.client()));
    assert!(cluster.is_alive(1) && cluster.is_alive(2));
}

/// Frames of peers that were refused for what they were, on both nodes.
fn malformed(cluster: &Cluster) -> u64 {
    [1, 2].map(|node| cluster.counter(node, "peer_malformed")).iter().sum()
}

/// Waits until a node dials the wanted lane, and welcomes it. Other dials are dropped.
fn dialled(cluster: &Cluster, listener: &TcpListener, wanted: Lane) -> TcpStream {
    listener.set_nonblocking(true).expect("a socket");
    cluster.wait_for(&format!("a dial of {wanted:?}"), || {
        let (mut stream, _) = listener.accept().ok()?;
        stream.set_nonblocking(false).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
        let mut hello = [0; HANDSHAKE_FRAME_BYTES];
        stream.read_exact(&mut hello).ok()?;
        let Ok(Handshake::Hello(theirs)) = decode_handshake(&hello) else {
            panic!("a node that dials says hello");
        };
        if theirs.lane != wanted {
            return None;
        }
        let own = PeerFacts {
            node: node_id(3),
            uuid: NodeUuid::new([3; 16]),
            boot: BootCounter::new(1),
            run: RunId::new([3; 16]),
            nonce: 77,
            ..theirs
        };
        stream.write_all(&peer::encode_welcome(&own.answering(&theirs))).ok()?;
        Some(stream)
    })
}

/// Whether the other end closes the connection; what it still sends is thrown away.
fn is_closed(stream: &mut TcpStream) -> bool {
    let deadline = Instant::now() + CLOSED_WITHIN;
    stream.set_read_timeout(Some(Duration::from_millis(200))).expect("not zero");
    let mut buffer = vec![0; 64 << 10];
    while Instant::now() < deadline {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if is_early(&error) => {}
            Err(_) => return true,
        }
    }
    false
}
