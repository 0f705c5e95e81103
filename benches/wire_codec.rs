//! The cost of the client protocol for a request of one 200-byte record: encoding it, cutting it
//! out of a stream, checking it, and the reply's way back.

#![expect(clippy::disallowed_methods, reason = "a bench reads a clock")]

mod harness;

use std::time::Instant;

use bytes::Bytes;
use catamaran::model::{GroupId, LogIndex, Term};
use catamaran::wire::client::{AppendReply, Reply, Request, encode_append, encode_append_reply};
use catamaran::wire::{Assembler, FRAME_HEADER_BYTES, FrameHeader};

use harness::{Pass, measure, mix};

/// Requests of one receive buffer of 64 KiB.
const REQUESTS: u64 = 256;

fn main() {
    measure("wire_codec", 400, 2, pass);
}

fn pass(rounds: u32) -> Pass {
    let record = [vec![7; 200]];
    let (mut hash, mut replies) = (0, Vec::new());
    let mut assembler = Assembler::new(1 << 20);
    let start = Instant::now();
    for round in 0..u64::from(rounds) {
        let mut requests = Vec::with_capacity(64 << 10);
        for nth in 0..REQUESTS {
            let correlation = round * REQUESTS + nth;
            encode_append(&mut requests, correlation, GroupId::new(1), None, &record);
        }
        assembler.push(Bytes::from(requests));
        replies.clear();
        while let Some(frame) = assembler.next() {
            let frame = frame.expect("we made it");
            let Ok(Request::Append(append)) = Request::decode(&frame.header, frame.body()) else {
                panic!("an append was encoded");
            };
            let first = LogIndex::new(frame.header.correlation + 1);
            let reply = AppendReply { first, term: Term::new(1), commit: first };
            assert_eq!(append.record_bytes(), 200);
            encode_append_reply(&mut replies, frame.header.correlation, GroupId::new(1), &reply);
        }
        let mut rest = &replies[..];
        while !rest.is_empty() {
            let header = FrameHeader::decode(rest, 1 << 20).expect("we made it");
            let end = FRAME_HEADER_BYTES + header.body_bytes as usize;
            let Ok(Reply::Append(reply)) = Reply::decode(&header, &rest[FRAME_HEADER_BYTES..end])
            else {
                panic!("an append's reply was encoded");
            };
            hash = mix(hash, reply.first.get());
            rest = &rest[end..];
        }
    }
    Pass { records: u64::from(rounds) * REQUESTS, elapsed: start.elapsed(), hash }
}
