//! What a disk can do: durable block writes like those of a log, measured.
//!
//! Apart from `disk` because it writes nothing worth keeping, and public because every result of
//! a load test is compared with it in the same run. Each writer is a thread with a ring and a
//! pre-written file of its own, as each node of a cluster on one machine would be. Does not:
//! judge a disk, or print.

use core::fmt;
use core::time::Duration;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;

use super::clock;
use super::error::{EnvironmentError, ExitCode};
use super::ring::{Completion, FileSlot, Ring};
use super::segments::{self, Access, Preparation, probe_access};
use super::worker::Stopping;
use crate::base::{Arena, Slice};
use crate::model::limits::{BLOCK_BYTES_MAX, DEVICE_ALIGN_BYTES};
use crate::shard::IoFault;
use crate::wal::SegmentNo;

/// Bytes of the file that each writer goes round in. More than what a drive's controller caches
/// in one go, and little enough to be pre-written in a blink.
const FILE_BYTES: u64 = 128 << 20;
/// The most writes one writer keeps at the device.
pub const DEPTH_MAX: u32 = 64;
/// The most writers.
pub const WRITERS_MAX: u32 = 16;

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Bytes of each write; a multiple of 4 KiB, at most 1 MiB.
    pub block_bytes: usize,
    /// Writes each writer keeps at the device.
    pub depth: u32,
    /// Writers at once, each with a file of its own.
    pub writers: u32,
    /// For how long, preparation not counted.
    pub duration: Duration,
    /// Accept a file system without `O_DIRECT`; what is measured then is memory.
    pub allow_buffered: bool,
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProbeResult {
    /// Durable bytes per second of all writers together.
    pub bytes_per_s: f64,
    /// Durable writes per second of all writers together.
    pub writes_per_s: f64,
    /// Time from submission to durability, in microseconds.
    pub latency_us: Percentiles,
    /// Whether the memory was registered with the kernel.
    pub registered: bool,
    /// Whether the page cache was bypassed.
    pub direct: bool,
}

/// Microseconds that so many of a hundred writes did not exceed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percentiles {
    /// Half of them.
    pub p50: f64,
    /// 90 of 100.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// All of them.
    pub max: f64,
}

/// Why nothing was measured.
#[derive(Debug)]
pub enum ProbeError {
    /// A load that cannot be.
    Load(&'static str),
    /// The machine lacks something.
    Environment(EnvironmentError),
    /// The device failed or is full.
    Io {
        /// Where.
        directory: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

impl ProbeError {
    /// What the process should end with.
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::Load(_) => ExitCode::Config,
            Self::Environment(_) => ExitCode::Environment,
            Self::Io { .. } => ExitCode::Io,
        }
    }
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load(fault) => {
                write!(f, "this cannot be measured: {fault}: ask for something else")
            }
            Self::Environment(error) => error.fmt(f),
            Self::Io { directory, error } => write!(
                f,
                "writing failed: {}: {error}: free some space or choose another directory",
                directory.display()
            ),
        }
    }
}

impl core::error::Error for ProbeError {}

impl Load {
    fn check(&self) -> Result<(), ProbeError> {
        let fits = self.block_bytes.is_multiple_of(DEVICE_ALIGN_BYTES)
            && (DEVICE_ALIGN_BYTES..=BLOCK_BYTES_MAX).contains(&self.block_bytes);
        if !fits {
            return Err(ProbeError::Load("a block is a multiple of 4 KiB and at most 1 MiB"));
        }
        if !(1..=DEPTH_MAX).contains(&self.depth) {
            return Err(ProbeError::Load("a depth is 1 to 64"));
        }
        if !(1..=WRITERS_MAX).contains(&self.writers) {
            return Err(ProbeError::Load("there are 1 to 16 writers"));
        }
        if self.duration.is_zero() {
            return Err(ProbeError::Load("a duration is more than nothing"));
        }
        Ok(())
    }
}

/// Measures what the disk under `directory` does with `load`. Uses temporary files there and
/// removes them.
///
/// # Errors
/// See [`ProbeError`].
pub fn ceiling(directory: &Path, load: &Load) -> Result<ProbeResult, ProbeError> {
    load.check()?;
    super::ring::probe()
        .map_err(|error| ProbeError::Environment(EnvironmentError::NoIoUring { error }))?;
    let access = probe_access(directory, load.allow_buffered).map_err(ProbeError::Environment)?;
    let writers = load.writers as usize;
    let start = Barrier::new(writers);
    let outcomes: Vec<io::Result<Written>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..load.writers)
            .map(|writer| {
                let start = &start;
                scope.spawn(move || write(directory, access, load, (writer, start)))
            })
            .collect();
        threads.into_iter().map(|t| t.join().expect("a writer does not panic")).collect()
    });
    let mut all = Vec::new();
    let (mut writes_per_s, mut registered) = (0.0, true);
    for outcome in outcomes {
        let written =
            outcome.map_err(|error| ProbeError::Io { directory: directory.to_owned(), error })?;
        writes_per_s += written.per_second();
        registered &= written.registered;
        all.extend(written.latencies_ns);
    }
    all.sort_unstable();
    Ok(ProbeResult {
        bytes_per_s: writes_per_s * as_f64(load.block_bytes as u64),
        writes_per_s,
        latency_us: percentiles(&all),
        registered,
        direct: access.is_direct(),
    })
}

/// What one writer did.
struct Written {
    latencies_ns: Vec<u64>,
    elapsed: Duration,
    registered: bool,
}

impl Written {
    fn per_second(&self) -> f64 {
        as_f64(self.latencies_ns.len() as u64) / self.elapsed.as_secs_f64()
    }
}

/// Removes the file of one writer, however it ends.
struct Temporary<'a>(&'a Path, SegmentNo);

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        // Nobody is left to be told; the name says whose it was.
        let _ = segments::remove(self.0, self.1);
    }
}

fn write(
    directory: &Path,
    access: Access,
    load: &Load,
    (writer, start): (u32, &Barrier),
) -> io::Result<Written> {
    // Far above any number that a log reaches, and another one for each process and writer.
    let number = (1 << 62) + u64::from(std::process::id()) * u64::from(WRITERS_MAX);
    let segment = SegmentNo(number + u64::from(writer));
    let temporary = Temporary(directory, segment);
    let preparation = Preparation {
        directory: directory.to_owned(),
        access,
        segment,
        recycle: None,
        segment_bytes: FILE_BYTES,
        log_bytes: std::sync::Arc::default(),
        stopping: Stopping::default(),
    };
    let file = preparation.run().map_err(|fault| error_of(&fault));
    let ready = file.and_then(|file| {
        let mut arena = Arena::new(load.depth as usize, load.block_bytes);
        let mut ring = Ring::new(&arena)?;
        ring.attach(FileSlot(0), file.as_raw_fd())?;
        let blocks =
            (0..load.depth).map(|fill| block(&mut arena, load.block_bytes, fill)).collect();
        Ok((file, ring, blocks))
    });
    // Whoever failed must not let the others wait.
    start.wait();
    let (file, mut ring, blocks) = ready?;
    let written = drive(&mut ring, blocks, load)?;
    drop((ring, file, temporary));
    Ok(written)
}

fn block(arena: &mut Arena, bytes: usize, fill: u32) -> Slice {
    let mut buf = arena.take(bytes).expect("one extent for each block");
    // Not zeros, and not alike: a drive that compresses must not look better than it is.
    let mut chance = crate::base::Prng::new(u64::from(fill));
    for word in buf.chunks_exact_mut(8) {
        word.copy_from_slice(&chance.next_u64().to_le_bytes());
    }
    buf.freeze(bytes)
}

/// Keeps `depth` writes at the device until the time is over, then waits for the last of them.
fn drive(ring: &mut Ring, blocks: Vec<Slice>, load: &Load) -> io::Result<Written> {
    let bytes = load.block_bytes as u64;
    let begin = clock::now();
    let end = begin.after(load.duration);
    let mut started = vec![begin; blocks.len()];
    let mut latencies_ns = Vec::new();
    let mut offset = 0;
    let mut done = Vec::new();
    let mut at_device: u32 = 0;
    let mut idle: Vec<usize> = (0..blocks.len()).collect();
    let mut now = begin;
    while now < end || at_device > 0 {
        while now < end
            && let Some(at) = idle.pop()
        {
            started[at] = now;
            ring.write(at as u64, FileSlot(0), offset, blocks[at].clone());
            offset = if offset + 2 * bytes > FILE_BYTES { 0 } else { offset + bytes };
            at_device += 1;
        }
        ring.submit_and_block()?;
        ring.reap(&mut done);
        now = clock::now();
        for completion in done.drain(..) {
            let Completion::Write { number, result, .. } = completion else {
                unreachable!("only writes were started");
            };
            result.map_err(|fault| error_of(&fault))?;
            let at = usize::try_from(number).expect("an index of ours");
            let nanos = now.since(started[at]).as_nanos();
            latencies_ns.push(u64::try_from(nanos).unwrap_or(u64::MAX));
            idle.push(at);
            at_device -= 1;
        }
    }
    let elapsed = now.since(begin);
    Ok(Written { latencies_ns, elapsed, registered: ring.registered().buffers })
}

fn error_of(fault: &IoFault) -> io::Error {
    match fault {
        IoFault::Failed { errno } => io::Error::from_raw_os_error(*errno),
        IoFault::NoSpace => io::Error::from_raw_os_error(libc::ENOSPC),
        IoFault::Short => io::Error::other("a write ended half-way"),
    }
}

fn percentiles(sorted_ns: &[u64]) -> Percentiles {
    let at = |per_cent: usize| match sorted_ns.len() {
        0 => 0.0,
        count => as_f64(sorted_ns[((count * per_cent).div_ceil(100)).max(1) - 1]) / 1000.0,
    };
    Percentiles { p50: at(50), p90: at(90), p99: at(99), max: at(100) }
}

/// Exact up to 2^53, which no count or latency here comes near.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn as_f64(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const LOAD: Load = Load {
        block_bytes: 64 << 10,
        depth: 2,
        writers: 2,
        duration: Duration::from_millis(50),
        allow_buffered: false,
    };

    #[test]
    fn a_real_disk_is_measured_and_left_as_it_was() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let result = ceiling(temp.path(), &LOAD).unwrap();
        assert!(result.direct && result.writes_per_s > 1.0, "{result:?}");
        let bytes = result.writes_per_s * 65536.0;
        assert!((result.bytes_per_s - bytes).abs() < 1.0, "{result:?}");
        let latency = result.latency_us;
        assert!(0.0 < latency.p50 && latency.p50 <= latency.p99 && latency.p99 <= latency.max);
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        let refused = |load: Load, code| {
            let error = ceiling(Path::new("/nonexistent"), &load).unwrap_err();
            assert_eq!(error.exit_code(), code, "{error}");
        };
        refused(Load { block_bytes: 1000, ..LOAD }, ExitCode::Config);
        refused(Load { depth: 0, ..LOAD }, ExitCode::Config);
        refused(Load { writers: 99, ..LOAD }, ExitCode::Config);
        refused(LOAD, ExitCode::Environment);
    }

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let all: Vec<u64> = (1..=100).map(|n| n * 1000).collect();
        let expected = Percentiles { p50: 50.0, p90: 90.0, p99: 99.0, max: 100.0 };
        assert_eq!(percentiles(&all), expected);
        assert!(percentiles(&[]).max < 1.0);
    }
}
