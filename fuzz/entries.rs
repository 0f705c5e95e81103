//! The places where bytes from outside come in, each as a function of the bytes alone.
//!
//! Used twice: by the fuzz targets beside this file, and by `tests/fuzz_entries.rs`, which feeds
//! them seeds and mutants in every `cargo test`. An entry point panics when a promise is broken:
//! a decoder that panics itself, one that reads back something else than was written, a verdict
//! that depends on how the bytes were cut. Checksums would keep a fuzzer at the door, so the first
//! byte of an input decides whether they are made right before the bytes are handed over.
//! Does not contain inputs: `seeds.rs` makes them with the real encoders.

use bytes::Bytes;
use catamaran::base::Checksum;
use catamaran::client::ReadBatch;
use catamaran::config::Config;
use catamaran::model::batch::{
    BATCH_HEADER_BYTES, decode_membership, encode_batch, encode_membership,
};
use catamaran::model::{
    BatchHeader, BatchKind, BatchView, BootCounter, ClusterId, GroupId, LogIndex, NodeId, NodeUuid,
    RecordCount, ReplicaId, RunId, ShardId, Span, Term,
};
use catamaran::wal::{
    BLOCK_HEADER_BYTES, BlockError, BlockHeader, BlockView, DIRECTORY_ENTRY_BYTES, Geometry,
    Identity, Lsn, Record, Recovered, Recovery, SegmentFile, SegmentNo, Step, WalMay, parse_block,
    parse_header,
};
use catamaran::wire::client::{
    Reply, Request, encode_append_body, encode_hello, encode_read, encode_status_reply,
};
use catamaran::wire::peer::{
    self, BulkFrame, HANDSHAKE_FRAME_BYTES, Handshake, Lane, PeerFacts, Pin,
};
use catamaran::wire::{Assembler, FRAME_HEADER_BYTES, FrameHeader, InFrame};

/// What became of an input: seeds must be accepted, or nothing behind the door is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accepted,
    Refused,
}

use Verdict::{Accepted, Refused};

/// An entry point.
pub(crate) type Entry = fn(&[u8]) -> Verdict;

/// Every entry point by the name of its target.
pub(crate) const ENTRIES: &[(&str, Entry)] = &[
    ("frame", frame),
    ("client", client),
    ("peer", peer),
    ("control", control),
    ("bulk", bulk),
    ("batch", batch),
    ("block", block),
    ("recovery", recovery),
    ("config", config),
];

/// First byte of an input: checksums and magic numbers are made right.
pub(crate) const MENDED: u8 = 1;
/// Frames of these streams are small, so that the limit is met.
const FRAME_LIMIT_BYTES: usize = 512;

/// The log that blocks of inputs belong to.
pub(crate) const IDENTITY: Identity = Identity {
    cluster: ClusterId::new([7; 16]),
    node: NodeUuid::new([9; 16]),
    shard: ShardId::new(0),
};
/// Four pages a segment, two a block: rolls after a few blocks, and an image is 64 KiB at most.
pub(crate) const GEOMETRY: Geometry = Geometry {
    segment_bytes: 16 << 10,
    block_bytes_max: 8 << 10,
    in_flight_bytes_max: 12 << 10,
    writes_in_flight_max: 2,
};

/// The input without its first byte, and whether it is to be mended.
fn split(input: &[u8]) -> Option<(bool, &[u8])> {
    let (first, rest) = input.split_first()?;
    Some((*first & MENDED != 0, rest))
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    let field = bytes[at..at + 4].try_into().expect("four bytes");
    u32::from_le_bytes(field) as usize
}

fn put_crc(bytes: &mut [u8], at: usize, crc: Checksum) {
    bytes[at..at + 4].copy_from_slice(&crc.as_u32().to_le_bytes());
}

/// Makes magic, version and checksums of the frame at the start of `bytes` right, as far as it is
/// there; returns its length.
fn mend_frame(bytes: &mut [u8]) -> Option<usize> {
    let head = bytes.get(..FRAME_HEADER_BYTES)?;
    let length = FRAME_HEADER_BYTES + u32_at(head, 8);
    let covered = bytes[FRAME_HEADER_BYTES..].get(..u32_at(head, 12)).map(Checksum::of);
    let sound = FrameHeader {
        kind: 0,
        body_bytes: 0,
        covered_bytes: 0,
        correlation: 0,
        group: GroupId::new(0),
        body_crc: Checksum::of(&[]),
    };
    bytes[..5].copy_from_slice(&sound.encode()[..5]);
    if let Some(crc) = covered {
        put_crc(bytes, 32, crc);
    }
    let crc = Checksum::of(&bytes[..FRAME_HEADER_BYTES - 4]);
    put_crc(bytes, FRAME_HEADER_BYTES - 4, crc);
    Some(length)
}

/// A stream of frames, cut into chunks of a size that the input names. However it is cut, the same
/// frames and the same last error come out.
pub(crate) fn frame(input: &[u8]) -> Verdict {
    let Some((mend, rest)) = split(input) else { return Refused };
    let Some((chunk, rest)) = rest.split_first() else { return Refused };
    let mut bytes = rest.to_vec();
    if mend {
        let mut at = 0;
        while let Some(length) = mend_frame(&mut bytes[at..]) {
            at += length;
            if at >= bytes.len() {
                break;
            }
        }
    }
    let bytes = Bytes::from(bytes);
    let whole = cut(&bytes, bytes.len().max(1));
    assert_eq!(whole, cut(&bytes, usize::from(*chunk).max(1)), "it matters how a stream is cut");
    if whole.iter().any(Result::is_ok) { Accepted } else { Refused }
}

/// What an assembler makes of `bytes` in chunks: frames by their place, errors by their words.
fn cut(bytes: &Bytes, chunk_bytes: usize) -> Vec<Result<Bytes, String>> {
    let mut assembler = Assembler::new(FRAME_LIMIT_BYTES);
    let mut found = Vec::new();
    let mut from = 0;
    while from < bytes.len() {
        let to = (from + chunk_bytes).min(bytes.len());
        assembler.push(bytes.slice(from..to));
        from = to;
        while let Some(frame) = assembler.next() {
            if let Ok(frame) = &frame {
                frame.header.check_body(frame.body()).expect("the assembler has checked it");
                let again = InFrame::from_checked(frame.bytes.clone()).expect("it is a frame");
                assert_eq!(again.header, frame.header);
            }
            found.push(frame.map(|frame| frame.bytes).map_err(|error| error.to_string()));
        }
        assert!(assembler.held_bytes() <= FRAME_LIMIT_BYTES + chunk_bytes, "a frame's worth");
    }
    found
}

/// The body of one checked client frame: as a request, as a reply, as a page of records. The first
/// byte is its kind.
pub(crate) fn client(input: &[u8]) -> Verdict {
    let Some((kind, body)) = input.split_first() else { return Refused };
    let bytes = u32::try_from(body.len()).expect("inputs are small");
    let header = FrameHeader {
        kind: *kind,
        body_bytes: bytes,
        covered_bytes: bytes,
        correlation: 3,
        group: GroupId::new(1),
        body_crc: Checksum::of(body),
    };
    if let Ok(request) = Request::decode(&header, body) {
        check_request(&request, &header, body);
        return Accepted;
    }
    // No kind is both.
    if let Ok(reply) = Reply::decode(&header, body) {
        check_reply(&reply, &header, body);
        return Accepted;
    }
    Refused
}

/// What was understood, said again, is the same bytes.
fn check_request(request: &Request<'_>, header: &FrameHeader, body: &[u8]) {
    let mut again = Vec::new();
    match request {
        Request::Hello(hello) => {
            let _verdict = hello.check(ClusterId::new([7; 16]));
            encode_hello(&mut again, header.correlation, hello);
            again.drain(..FRAME_HEADER_BYTES);
        }
        Request::Append(append) => {
            let mut records = Vec::new();
            let mut at = 0;
            while let Some(record) = catamaran::model::batch::record_at(append.records, at) {
                at += 4 + record.len();
                records.push(record);
            }
            assert_eq!(append.records_offset() + append.records.len(), header.frame_bytes());
            encode_append_body(&mut again, append.expected_tail, &records);
        }
        Request::Read(read) => {
            encode_read(&mut again, header.correlation, header.group, read);
            again.drain(..FRAME_HEADER_BYTES);
        }
        Request::Metadata | Request::Status => {}
    }
    assert_eq!(again, body, "{request:?}");
}

fn check_reply(reply: &Reply<'_>, header: &FrameHeader, body: &[u8]) {
    match reply {
        Reply::Read(_) => {
            let bytes = Bytes::from([header.encode().as_slice(), body].concat());
            let frame = InFrame { header: *header, bytes };
            for from in [LogIndex::new(1), LogIndex::new(5)] {
                if let Ok(page) = ReadBatch::decode(&frame, GroupId::new(1), from) {
                    assert!(page.records.iter().all(|(at, _)| from <= *at && *at < page.next));
                    assert!(page.records.is_sorted_by_key(|(at, _)| *at));
                }
            }
        }
        Reply::Metadata(view) => {
            let _ports = view.nodes().map(|node| u32::from(node.client_base_port)).sum::<u32>();
            let _groups = view.groups().count();
        }
        Reply::Status(status) => {
            let mut again = Vec::new();
            encode_status_reply(&mut again, header.correlation, status.text);
            assert_eq!(&again[FRAME_HEADER_BYTES..], body);
            let _pairs = status.pairs().count();
        }
        Reply::Error(error) => drop(error.outcome::<()>()),
        Reply::Hello(_) | Reply::Append(_) => {}
    }
}

/// What a node says of itself in the handshakes of inputs.
pub(crate) const FACTS: PeerFacts = PeerFacts {
    version_min: peer::PEER_PROTOCOL_VERSION,
    version_max: peer::PEER_PROTOCOL_VERSION,
    lane: Lane::Control,
    node: NodeId::new(2),
    to_node: NodeId::new(1),
    shard: ShardId::new(0),
    shard_count: 1,
    cluster: ClusterId::new([7; 16]),
    uuid: NodeUuid::new([9; 16]),
    boot: BootCounter::new(3),
    run: RunId::new([11; 16]),
    nonce: 17,
    echo: 0,
    credit_bytes: 1 << 20,
};

/// The first frame on a peer stream, and the verdict on it.
pub(crate) fn peer(input: &[u8]) -> Verdict {
    let Some((mend, rest)) = split(input) else { return Refused };
    let mut bytes = [0; HANDSHAKE_FRAME_BYTES];
    let given = rest.len().min(HANDSHAKE_FRAME_BYTES);
    bytes[..given].copy_from_slice(&rest[..given]);
    if mend {
        let body = u32::try_from(HANDSHAKE_FRAME_BYTES - FRAME_HEADER_BYTES).expect("small");
        bytes[8..12].copy_from_slice(&body.to_le_bytes());
        bytes[12..16].copy_from_slice(&body.to_le_bytes());
        mend_frame(&mut bytes);
    }
    let (facts, encode): (_, fn(&PeerFacts) -> _) = match peer::decode_handshake(&bytes) {
        Ok(Handshake::Hello(facts)) => (facts, peer::encode_hello),
        Ok(Handshake::Welcome(facts)) => (facts, peer::encode_welcome),
        Ok(Handshake::Refused { .. }) => return Accepted,
        Err(_) => return Refused,
    };
    let again = encode(&facts);
    let said = peer::decode_handshake(&again).expect("our own words");
    assert!(matches!(said, Handshake::Hello(f) | Handshake::Welcome(f) if f == facts));
    let mine = PeerFacts { node: NodeId::new(1), to_node: facts.node, ..FACTS };
    let pin = Pin { boot: BootCounter::new(2), ..Pin::of(&FACTS) };
    for mine in [mine, mine.answering(&facts)] {
        for pinned in [None, Some(pin)] {
            let _verdict = peer::check_hello(&mine, &facts, pinned);
        }
    }
    Accepted
}

/// The body of one checked control frame: what is understood is said again and understood the same.
pub(crate) fn control(body: &[u8]) -> Verdict {
    let bytes = u32::try_from(body.len()).expect("inputs are small");
    let header = FrameHeader {
        kind: peer::Kind::Control.number(),
        body_bytes: bytes,
        covered_bytes: bytes,
        correlation: 0,
        group: GroupId::new(0),
        body_crc: Checksum::of(body),
    };
    let from = NodeId::new(2);
    let Ok(messages) = peer::decode_control(&header, body, from) else { return Refused };
    let messages: Vec<_> = messages.map_while(Result::ok).collect();
    if messages.is_empty() {
        return Refused;
    }
    let mut again = Vec::new();
    assert_eq!(peer::encode_control(&mut again, messages.iter()), 1, "inputs are small");
    let header = FrameHeader::decode(&again, usize::MAX).expect("our own words");
    let body = &again[FRAME_HEADER_BYTES..];
    let said = peer::decode_control(&header, body, from).expect("our own words");
    let said: Vec<_> = said.map(|message| message.expect("our own words")).collect();
    assert_eq!(messages, said);
    Accepted
}

/// One bulk frame: a head, and batches whose bytes the input repeats. Whatever is accepted is laid
/// out so that a block can be made of it.
pub(crate) fn bulk(input: &[u8]) -> Verdict {
    let Some((mend, rest)) = split(input) else { return Refused };
    let mut bytes = rest.to_vec();
    if mend && bytes.len() >= FRAME_HEADER_BYTES + 8 {
        // Padded to a page, with lengths that say so: the layout inside is the fuzzer's.
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        let body = u32::try_from(bytes.len() - FRAME_HEADER_BYTES).expect("inputs are small");
        bytes[5] = peer::Kind::Bulk.number();
        bytes[6..8].fill(0);
        bytes[8..12].copy_from_slice(&body.to_le_bytes());
        let area = u32_at(&bytes, FRAME_HEADER_BYTES + 4).saturating_sub(FRAME_HEADER_BYTES);
        let covered = u32::try_from(area).unwrap_or(u32::MAX).min(body);
        bytes[12..16].copy_from_slice(&covered.to_le_bytes());
        mend_frame(&mut bytes);
    }
    if let Ok(Some(length)) = peer::bulk_frame_bytes(&bytes) {
        assert!(length.is_multiple_of(4096) && length > 0);
    }
    let Ok(frame) = BulkFrame::decode(&bytes) else { return Refused };
    let mut end = frame.area_bytes();
    assert_eq!(frame.batches().count(), frame.len());
    for batch in frame.batches() {
        assert_eq!(batch.range().start, end, "no gap, no overlap");
        end = batch.range().end;
        let _verdict = BatchView::decode(frame.batch(&batch));
    }
    assert!(end <= bytes.len() && end + 4096 > bytes.len(), "padding below a page");
    Accepted
}

/// Makes magic, version and checksums of the batch at the start of `bytes` right.
fn mend_batch(bytes: &mut [u8]) {
    if bytes.len() < BATCH_HEADER_BYTES {
        return;
    }
    let sound = empty_batch();
    bytes[..5].copy_from_slice(&sound[..5]);
    if let Some(body) = bytes[BATCH_HEADER_BYTES..].get(..u32_at(bytes, 40)) {
        let crc = Checksum::of(body);
        put_crc(bytes, 44, crc);
    }
    let crc = Checksum::of(&bytes[..60]);
    put_crc(bytes, 60, crc);
}

/// Some batch, for the bytes that all of them share.
fn empty_batch() -> [u8; BATCH_HEADER_BYTES] {
    let span = Span { term: Term::new(1), first: LogIndex::new(1), count: RecordCount::new(1) };
    let header = BatchHeader {
        group: GroupId::new(1),
        replica: ReplicaId::new(1),
        span,
        kind: BatchKind::Noop,
        body_bytes: 0,
        body_crc: Checksum::of(&[]),
    };
    let mut bytes = [0; BATCH_HEADER_BYTES];
    header.encode(&mut bytes);
    bytes
}

/// A batch with its records, and the same bytes as a membership and as a record of a block.
pub(crate) fn batch(input: &[u8]) -> Verdict {
    let Some((mend, rest)) = split(input) else { return Refused };
    let mut bytes = rest.to_vec();
    if mend {
        mend_batch(&mut bytes);
    }
    let mut verdict = Refused;
    if let Ok(view) = BatchView::decode(&bytes) {
        verdict = Accepted;
        let header = view.header;
        let body = &bytes[BATCH_HEADER_BYTES..header.batch_bytes()];
        let again = encode_batch(header.group, header.replica, header.span, header.kind, body);
        assert_eq!(again, bytes[..header.batch_bytes()]);
        let sound = view.records().map_while(Result::ok).count();
        assert!(sound <= header.span.count.get() as usize);
    }
    if let Some((membership, taken)) = decode_membership(rest) {
        verdict = Accepted;
        let mut again = Vec::new();
        encode_membership(&membership, &mut again);
        assert_eq!(again, rest[..taken]);
    }
    if let Some((record, taken)) = Record::decode(rest) {
        verdict = Accepted;
        let mut again = Vec::new();
        record.encode(&mut again);
        let (said, _) = Record::decode(&again).expect("our own words");
        assert_eq!(said, record);
        assert!(taken <= rest.len());
    }
    verdict
}

/// Makes a block at the start of `bytes` right for `lsn`: magic, version, identity, position,
/// checksums of its batches, of directory and records, of the header.
fn mend_block(bytes: &mut [u8], lsn: u64) {
    if bytes.len() < BLOCK_HEADER_BYTES {
        return;
    }
    bytes[..4].copy_from_slice(b"CWB1");
    bytes[4] = 1;
    bytes[8..16].copy_from_slice(&IDENTITY.tag().to_le_bytes());
    bytes[16..24].copy_from_slice(&lsn.to_le_bytes());
    put_crc_of_header(bytes);
    let Ok(header) = BlockHeader::decode(bytes) else { return };
    if header.total_bytes as usize > bytes.len() {
        return;
    }
    // Inside the block: the header was checked.
    let [directory, entries, records, record_bytes] = [40, 44, 48, 52].map(|at| u32_at(bytes, at));
    for entry in 0..entries {
        let offset = u32_at(bytes, directory + entry * DIRECTORY_ENTRY_BYTES + 32);
        // One that overlaps directory or header would change what is being walked.
        if offset >= directory + entries * DIRECTORY_ENTRY_BYTES
            && let Some(batch) = bytes.get_mut(offset..)
        {
            mend_batch(batch);
        }
    }
    let crc = Checksum::of(&bytes[directory..directory + entries * DIRECTORY_ENTRY_BYTES]);
    let crc = crc.then(&bytes[records..records + record_bytes]);
    put_crc(bytes, 56, crc);
    put_crc_of_header(bytes);
}

fn put_crc_of_header(bytes: &mut [u8]) {
    let crc = Checksum::of(&bytes[..60]);
    put_crc(bytes, 60, crc);
}

/// A block, its directory, its records and its batches. The second byte is its length in pages.
pub(crate) fn block(input: &[u8]) -> Verdict {
    let Some((mend, rest)) = split(input) else { return Refused };
    let Some((pages, rest)) = rest.split_first() else { return Refused };
    let mut bytes = vec![0; (1 + usize::from(*pages % 2)) * 4096];
    let given = rest.len().min(bytes.len());
    bytes[..given].copy_from_slice(&rest[..given]);
    if mend {
        mend_block(&mut bytes, 8192);
    }
    let lsn = Lsn::new(8192);
    let header = parse_header(&bytes, lsn, &IDENTITY);
    let block = match parse_block(&bytes, lsn, &IDENTITY) {
        Ok(block) => block,
        Err(BlockError::Short { expected_bytes, found_bytes }) => {
            assert!(found_bytes < expected_bytes, "short of what is there");
            return Refused;
        }
        Err(_) => return Refused,
    };
    assert_eq!(header.as_ref(), Ok(block.header()), "one header, two verdicts");
    check_block(&block, bytes.len());
    Accepted
}

fn check_block(block: &BlockView<'_>, room: usize) {
    assert!(block.total_bytes() as usize <= room);
    assert!(block.durable_lsn() <= block.lsn() && block.lsn() < block.end());
    let _records = block.records().count();
    let _open = block.segment_open();
    let mut sound = 0;
    for entry in block.entries() {
        let batch = block.batch(&entry);
        let bytes = block.batch_bytes(&entry);
        sound += usize::from(batch.is_ok_and(|batch| batch.header.batch_bytes() == bytes.len()));
    }
    if block.verify().is_ok() {
        assert_eq!(sound, block.entries().count(), "verified, and a batch is not sound");
    }
}

/// A log of up to four small segments. The input is a list of pieces: where, how many bytes, and
/// the bytes; each may be mended into a block of that place. Recovery must come to a verdict within
/// a bounded number of reads, and to the same one again; what it accepts keeps the index's rules.
pub(crate) fn recovery(input: &[u8]) -> Verdict {
    let Some((&shape, mut rest)) = input.split_first() else { return Refused };
    let may = if shape & 1 == 0 { WalMay::BeEmpty } else { WalMay::NotBeEmpty };
    let first = u64::from(shape >> 1 & 3);
    let count = u64::from(shape >> 3 & 3) + 1;
    let segment = usize::try_from(GEOMETRY.segment_bytes).expect("small");
    let pages = usize::try_from(count).expect("small") * segment / 4096;
    let mut image = vec![0; pages * 4096];
    while let [place, how, low, high, more @ ..] = rest {
        let page = usize::from(*place) % pages;
        let length = usize::from(u16::from_le_bytes([*low, *high]) % 8193).min(more.len());
        let (piece, after) = more.split_at(length);
        rest = after;
        let room = (image.len() - page * 4096).min(length);
        image[page * 4096..][..room].copy_from_slice(&piece[..room]);
        if how & MENDED != 0 {
            let lsn = first * GEOMETRY.segment_bytes + (page * 4096) as u64;
            let end = image.len().min(page * 4096 + 8192);
            mend_block(&mut image[page * 4096..end], lsn);
        }
    }
    let files: Vec<SegmentFile> = (0..count)
        .map(|file| SegmentFile { segment: SegmentNo(first + file), bytes: GEOMETRY.segment_bytes })
        .collect();
    let verdict = recover(&image, first, may, &files);
    assert_eq!(verdict, recover(&image, first, may, &files), "the same bytes, another verdict");
    if verdict.is_ok() { Accepted } else { Refused }
}

/// The verdict in words.
fn recover(image: &[u8], first: u64, may: WalMay, files: &[SegmentFile]) -> Result<String, String> {
    let mut recovery = match Recovery::new(IDENTITY, GEOMETRY, may, files) {
        Ok(recovery) => recovery,
        Err(error) => return Err(error.to_string()),
    };
    // Every page is read at most once by each phase, and a replay may begin anew at each segment.
    for _ in 0..64 {
        match recovery.next() {
            Step::Read(wish) => {
                let segment = usize::try_from(wish.segment.0 - first).expect("a file of ours");
                let from = segment * 16 * 1024 + usize::try_from(wish.offset).expect("inside");
                recovery.feed(Ok(&image[from..from + wish.bytes as usize]));
            }
            Step::Done(recovered) => {
                recovered.index.check();
                assert!(recovered.durable_lsn <= recovered.end);
                let Recovered { kept, spare, set_aside, .. } = &*recovered;
                let known = kept.len() + spare.len() + set_aside.len();
                assert_eq!(known, files.len(), "every file is kept, spare or set aside");
                let Recovered { groups, end, cut, .. } = *recovered;
                return Ok(format!("{groups:?} {end:?} {cut:?}"));
            }
            Step::Refused(error) => return Err(error.to_string()),
        }
    }
    panic!("no verdict after 64 reads");
}

/// A configuration file. What is refused is refused with a place, and what is accepted is accepted
/// again.
pub(crate) fn config(input: &[u8]) -> Verdict {
    let Ok(text) = core::str::from_utf8(input) else { return Refused };
    match Config::parse("fuzz.toml", text, None) {
        Ok(config) => {
            assert_eq!(config.own().id, config.node_id);
            assert!(!config.nodes.is_empty());
            Accepted
        }
        Err(problems) => {
            let mut lines = 0;
            for problem in problems.iter() {
                assert!(problem.to_string().contains("fuzz.toml"), "{problem}");
                lines += 1;
            }
            assert!(lines > 0, "refused without a reason");
            Refused
        }
    }
}
