//! Receiving bulk frames straight into blocks, so that a follower writes to its device from the
//! very memory the bytes arrived in.
//!
//! Frames are multiples of 4 KiB at 4 KiB offsets of the stream. They are cut off the front of a
//! block as they become whole; the next one continues behind them. Only when it does not fit into
//! the rest is its beginning copied to a new block, and that is counted. Does not: look into a
//! frame beyond its length.

use core::future::poll_fn;
use core::task::Poll;
use std::rc::Rc;

use super::core::Core;
use super::link::Link;
use super::local::let_others_run;
use crate::base::BlockBuf;
use crate::base::layout::round_up;
use crate::model::limits::{DEVICE_ALIGN_BYTES, FRAME_BYTES_MAX};
use crate::model::{NodeId, StreamId};
use crate::shard::Input;
use crate::wire::FRAME_HEADER_BYTES;
use crate::wire::peer::bulk_frame_bytes;

/// The smallest block: many small frames, or the beginning of a stream.
const BLOCK_BYTES_MIN: usize = 64 << 10;
/// The largest block: as large as a frame can be.
const BLOCK_BYTES_MAX: usize = FRAME_BYTES_MAX;
/// A block has room for so many frames like the last one.
const FRAMES_PER_BLOCK: usize = 4;

/// What one attempt to receive came to.
enum Received {
    Bytes(usize),
    End,
    /// No block can be had.
    NoMemory,
}

/// The block being filled. One per bulk stream; empty while nothing is on its way.
struct Filling {
    block: Option<BlockBuf>,
    /// Bytes received into it: the beginning of a frame.
    filled: usize,
    /// Length of that frame, once its header is there.
    frame_bytes: Option<usize>,
    /// What the next frame may be like: as long as the longest of late.
    guess_bytes: usize,
}

/// Reads frames until the stream ends. An error is why we end it.
pub(super) async fn read_bulk(
    core: &Rc<Core>,
    peer: NodeId,
    stream: StreamId,
    link: &Rc<Link>,
) -> Result<(), &'static str> {
    let mut filling =
        Filling { block: None, filled: 0, frame_bytes: None, guess_bytes: DEVICE_ALIGN_BYTES };
    loop {
        match filling.receive(core, link).await {
            Received::End => return Ok(()),
            // Blocks come back as writes and sends end, which is when turns are taken.
            Received::NoMemory => core.after_turns.wait().await,
            Received::Bytes(_) if link.is_closed() => return Ok(()),
            Received::Bytes(bytes) => {
                filling.filled += bytes;
                while let Some(frame) = filling.cut()? {
                    core.input(Input::PeerBulk { peer, stream, frame });
                }
                if bytes >= BLOCK_BYTES_MIN {
                    let_others_run().await;
                }
            }
        }
        if link.is_closed() {
            return Ok(());
        }
    }
}

impl Filling {
    /// Receives what there is, up to the end of the frame and a little beyond.
    async fn receive(&mut self, core: &Core, link: &Link) -> Received {
        poll_fn(|context| {
            if !self.make_room(core) {
                return Poll::Ready(Received::NoMemory);
            }
            let mut block = self.block.take().expect("just made room");
            let end = block.len().min(self.wanted_end());
            let received = link.poll_receive(context, &mut block[self.filled..end]);
            if received.is_pending() && self.filled == 0 {
                // An idle stream holds no memory.
                core.arena.borrow_mut().cancel(block);
                return Poll::Pending;
            }
            self.block = Some(block);
            received.map(|received| match received {
                Ok(0) | Err(_) => Received::End,
                Ok(bytes) => Received::Bytes(bytes),
            })
        })
        .await
    }

    /// Where in the block to stop receiving: at the end of the frame, as far as it is known or
    /// can be guessed, and a page behind it, to learn how long the next one is. So hardly more
    /// than a page of a frame ever has to be moved. Small frames are taken many at a time.
    fn wanted_end(&self) -> usize {
        let frame = self.frame_bytes.unwrap_or(self.guess_bytes);
        let least = if frame < BLOCK_BYTES_MIN { BLOCK_BYTES_MIN } else { 0 };
        (frame + DEVICE_ALIGN_BYTES).max(self.filled + DEVICE_ALIGN_BYTES).max(least)
    }

    /// Makes sure that the block has room for the rest of the frame, or for the next.
    /// `false` if there is no memory.
    fn make_room(&mut self, core: &Core) -> bool {
        let needed = match self.frame_bytes {
            Some(bytes) => bytes,
            // And a little more: a frame that is a page longer than its room has to be moved.
            None if self.filled == 0 => {
                let slack = self.guess_bytes / 8 + DEVICE_ALIGN_BYTES;
                round_up(self.guess_bytes + slack, DEVICE_ALIGN_BYTES).min(BLOCK_BYTES_MAX)
            }
            None => DEVICE_ALIGN_BYTES,
        };
        if self.block.as_ref().is_some_and(|block| block.len() >= needed) {
            return true;
        }
        let mut arena = core.arena.borrow_mut();
        // With room for more frames if it can be had, so that the beginning of the next one does
        // not have to be moved.
        let roomy = (needed * FRAMES_PER_BLOCK).clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX);
        let Some(mut block) = arena.take_spare(roomy.max(needed)) else { return false };
        if let Some(old) = self.block.take() {
            block[..self.filled].copy_from_slice(&old[..self.filled]);
            core.note_carried(self.filled);
        }
        self.block = Some(block);
        true
    }

    /// Cuts the first frame off, if it is whole.
    fn cut(&mut self) -> Result<Option<BlockBuf>, &'static str> {
        let Some(block) = &mut self.block else { return Ok(None) };
        if self.frame_bytes.is_none() && self.filled >= FRAME_HEADER_BYTES {
            let bytes = bulk_frame_bytes(&block[..self.filled]).map_err(|error| error.reason())?;
            self.frame_bytes = bytes;
        }
        let Some(bytes) = self.frame_bytes.filter(|bytes| *bytes <= self.filled) else {
            return Ok(None);
        };
        assert!(bytes.is_multiple_of(DEVICE_ALIGN_BYTES), "checked by wire: {bytes}");
        let frame = block.split_to(bytes);
        self.filled -= bytes;
        self.frame_bytes = None;
        // Forgets slowly, because small frames come between large ones.
        self.guess_bytes = bytes.max(self.guess_bytes - self.guess_bytes / 8);
        if block.is_empty() {
            self.block = None;
        }
        Ok(Some(frame))
    }
}
