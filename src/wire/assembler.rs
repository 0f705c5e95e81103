//! Cuts a stream of received chunks into checked frames.
//!
//! One [`Assembler`] per stream. Apart from the header's layout because this is where the cost
//! per frame and the memory per connection are decided: a frame that lies whole in one chunk is a
//! slice of it, and only a frame that is cut across chunks is copied. Pure: the caller receives.

use core::fmt;
use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use super::frame::{FRAME_HEADER_BYTES, FrameError, FrameHeader, frame_bytes};

/// How much is reserved at once for a frame that is cut across chunks. A peer that announces a
/// large frame and sends nothing costs this and no more (S5); beyond it memory doubles as bytes
/// really come.
const CARRY_STEP_BYTES: usize = 16 << 10;

/// One received frame, its header checked and the covered part of its body too.
#[derive(Clone, Debug)]
pub struct InFrame {
    /// Its header.
    pub header: FrameHeader,
    /// The whole frame, header included, so that it can be handed to another shard as it is.
    pub bytes: Bytes,
}

impl InFrame {
    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.bytes[FRAME_HEADER_BYTES..]
    }

    /// Reads a frame that an assembler of this process has checked already: the header is
    /// verified again because it is cheap, the body's checksum is not.
    ///
    /// # Errors
    /// If `bytes` is not exactly one frame.
    pub fn from_checked(bytes: Bytes) -> Result<Self, FrameError> {
        let header = FrameHeader::decode(&bytes, usize::MAX)?;
        if header.frame_bytes() != bytes.len() {
            return Err(FrameError::Short {
                expected_bytes: header.frame_bytes(),
                found_bytes: bytes.len(),
            });
        }
        Ok(Self { header, bytes })
    }
}

/// One stream's receive side. See the module's text.
pub struct Assembler {
    limit_bytes: usize,
    /// Received and not cut yet, the oldest first. Never holds an empty chunk.
    chunks: VecDeque<Bytes>,
    /// The beginning of a frame whose end has not come.
    carry: BytesMut,
    /// Bytes of a frame that is skipped for its version and has not come whole yet.
    skip_bytes: usize,
    /// Bytes in `chunks`.
    queued_bytes: usize,
    carried_bytes: u64,
    broken: bool,
}

impl Assembler {
    /// For a stream whose frames may have at most `limit_bytes`, header included.
    pub fn new(limit_bytes: usize) -> Self {
        assert!(limit_bytes >= FRAME_HEADER_BYTES, "{limit_bytes} is below a header");
        Self {
            limit_bytes,
            chunks: VecDeque::new(),
            carry: BytesMut::new(),
            skip_bytes: 0,
            queued_bytes: 0,
            carried_bytes: 0,
            broken: false,
        }
    }

    /// Changes the limit for the frames that follow: small before the handshake, large after it.
    pub fn set_limit(&mut self, limit_bytes: usize) {
        assert!(limit_bytes >= FRAME_HEADER_BYTES, "{limit_bytes} is below a header");
        self.limit_bytes = limit_bytes;
    }

    /// Takes what the stream delivered. A broken stream's bytes are dropped.
    pub fn push(&mut self, chunk: Bytes) {
        if !self.broken && !chunk.is_empty() {
            self.queued_bytes += chunk.len();
            self.chunks.push_back(chunk);
        }
    }

    /// Bytes that were copied because their frame was cut across chunks, since the beginning.
    pub fn carried_bytes(&self) -> u64 {
        self.carried_bytes
    }

    /// Bytes received that no frame was made of yet.
    pub fn held_bytes(&self) -> usize {
        self.queued_bytes + self.carry.len()
    }

    /// Whether an error ended the cutting: nothing comes out any more.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// The next whole frame, or `None` until more bytes are pushed.
    ///
    /// An error for which [`FrameError::is_framed`] holds has consumed its frame, and the next
    /// call goes on behind it. Any other error is the last thing this stream yields.
    #[expect(clippy::should_implement_trait, reason = "`None` is not the end, so not an iterator")]
    #[inline]
    pub fn next(&mut self) -> Option<Result<InFrame, FrameError>> {
        // The common case first: the frame lies whole in the front chunk.
        if self.carry.is_empty()
            && self.skip_bytes == 0
            && let Some(chunk) = self.chunks.front_mut()
            && let Ok(header) = FrameHeader::decode(chunk, self.limit_bytes)
            && header.frame_bytes() <= chunk.len()
        {
            let bytes = take(&mut self.chunks, &mut self.queued_bytes, header.frame_bytes());
            return Some(self.checked(header, bytes));
        }
        self.next_slowly()
    }

    /// Frames across chunks, skipped frames and errors.
    fn next_slowly(&mut self) -> Option<Result<InFrame, FrameError>> {
        if !self.skip() || !self.carry_until(FRAME_HEADER_BYTES) {
            return None;
        }
        let decoded = FrameHeader::decode(&self.carry, self.limit_bytes);
        match decoded {
            Ok(header) => {
                if !self.carry_until(header.frame_bytes()) {
                    return None;
                }
                mark!(N12_FRAME_PUT_TOGETHER);
                // `take`, not `split`: the carry must not keep the frame's memory alive.
                let bytes = core::mem::take(&mut self.carry).freeze();
                Some(self.checked(header, bytes))
            }
            Err(error) if error.is_framed() => {
                let whole = frame_bytes(&self.carry, self.limit_bytes)
                    .expect("the same checks have passed just now");
                self.skip_bytes = whole - self.carry.len();
                self.carry = BytesMut::new();
                // What is there of the frame goes now, so that a quiet stream does not hold it.
                self.skip();
                Some(Err(error))
            }
            Err(error) => Some(Err(self.break_off(error))),
        }
    }

    fn checked(&mut self, header: FrameHeader, bytes: Bytes) -> Result<InFrame, FrameError> {
        match header.check_body(&bytes[FRAME_HEADER_BYTES..]) {
            Ok(()) => Ok(InFrame { header, bytes }),
            Err(error) => Err(self.break_off(error)),
        }
    }

    fn break_off(&mut self, error: FrameError) -> FrameError {
        self.broken = true;
        self.chunks = VecDeque::new();
        self.carry = BytesMut::new();
        self.queued_bytes = 0;
        error
    }

    /// Drops what is to be skipped; true when nothing of it is left to come.
    fn skip(&mut self) -> bool {
        while self.skip_bytes > 0 {
            let Some(chunk) = self.chunks.front_mut() else { return false };
            let bytes = self.skip_bytes.min(chunk.len());
            self.skip_bytes -= bytes;
            drop(take(&mut self.chunks, &mut self.queued_bytes, bytes));
        }
        true
    }

    /// Copies from the chunks until the carry holds `wanted` bytes; false if they have not come.
    fn carry_until(&mut self, wanted: usize) -> bool {
        while self.carry.len() < wanted {
            let Some(chunk) = self.chunks.front_mut() else { return false };
            let missing = wanted - self.carry.len();
            let bytes = missing.min(chunk.len());
            if self.carry.capacity() - self.carry.len() < bytes {
                let step = self.carry.len().max(CARRY_STEP_BYTES).max(bytes);
                self.carry.reserve(step.min(missing));
            }
            self.carry.extend_from_slice(&chunk[..bytes]);
            self.carried_bytes += bytes as u64;
            drop(take(&mut self.chunks, &mut self.queued_bytes, bytes));
        }
        true
    }
}

/// Takes `bytes` bytes off the front chunk, which has them.
#[inline]
fn take(chunks: &mut VecDeque<Bytes>, queued_bytes: &mut usize, bytes: usize) -> Bytes {
    let chunk = chunks.front_mut().expect("the caller looked at it");
    *queued_bytes -= bytes;
    if chunk.remaining() == bytes {
        chunks.pop_front().expect("the caller looked at it")
    } else {
        chunk.split_to(bytes)
    }
}

impl fmt::Debug for Assembler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assembler")
            .field("limit_bytes", &self.limit_bytes)
            .field("held_bytes", &self.held_bytes())
            .field("carried_bytes", &self.carried_bytes)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}
