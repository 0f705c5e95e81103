//! What this run ran on, and what it cost there: from `/proc` and `git`.
//!
//! Everything here is for the reader of a result; what cannot be found out is said to be unknown
//! and stops nothing.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

/// The unit of processor times in `/proc`: USER_HZ, which is 100 on every Linux by now.
const TICKS_PER_S: f64 = 100.0;

/// Where a result was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// Processor model.
    pub(crate) cpu: String,
    /// Processors this program may use.
    pub(crate) cores: usize,
    /// Memory in bytes.
    pub(crate) memory_bytes: u64,
    /// Kernel release.
    pub(crate) kernel: String,
    /// File system below the log directories.
    pub(crate) file_system: String,
    /// The device it is on.
    pub(crate) disk: String,
}

fn line_of(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn field(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

/// Looks around; `dir` is where the logs are, if they are here.
pub(crate) fn machine(dir: Option<&Path>) -> Machine {
    let unknown = || "unknown".to_owned();
    let cpu = line_of("/proc/cpuinfo")
        .and_then(|text| field(&text, "model name").or_else(|| field(&text, "Model")))
        .unwrap_or_else(unknown);
    let memory_kib = line_of("/proc/meminfo")
        .and_then(|text| field(&text, "MemTotal"))
        .and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok());
    let (file_system, disk) =
        dir.and_then(mount_of).unwrap_or_else(|| ("not here".to_owned(), "not here".to_owned()));
    Machine {
        cpu,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: memory_kib.unwrap_or(0) * 1024,
        kernel: line_of("/proc/sys/kernel/osrelease").unwrap_or_else(unknown),
        file_system,
        disk,
    }
}

/// File system type and device of `dir`, from the mount with its device number.
fn mount_of(dir: &Path) -> Option<(String, String)> {
    let device = fs::metadata(dir).ok()?.dev();
    let number = format!("{}:{}", libc::major(device), libc::minor(device));
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (place, source) = line.split_once(" - ")?;
        let mut source = source.split_whitespace();
        let (kind, disk) = (source.next()?, source.next()?);
        (place.split_whitespace().nth(2)? == number).then(|| (kind.to_owned(), disk.to_owned()))
    })
}

/// Seconds of processor time that a process has used so far, all threads together.
pub(crate) fn cpu_seconds(process: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may hold anything, blanks included: count from behind it.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks as f64 / TICKS_PER_S)
}

/// The most memory that a process has had resident so far.
pub(crate) fn peak_resident_bytes(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let kib = field(&status, "VmHWM")?.split_whitespace().next()?.parse::<u64>().ok()?;
    Some(kib * 1024)
}

/// The commit this program was built from, as far as the source tree still tells.
pub(crate) fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(["-C", env!("CARGO_MANIFEST_DIR")])
            .args(arguments)
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok()
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])
        .is_some_and(|changes| !changes.trim().is_empty());
    format!("{}{}", commit.trim(), if changed { "+changes" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_machine_and_a_cost() {
        let me = std::process::id();
        assert!(cpu_seconds(me).is_some_and(|seconds| seconds >= 0.0));
        assert!(peak_resident_bytes(me).is_some_and(|bytes| bytes > 100_000));
        let machine = machine(Some(Path::new(".")));
        assert!(machine.cores >= 1 && machine.memory_bytes > 0);
        assert_ne!(machine.kernel, "unknown");
        assert_eq!(cpu_seconds(u32::MAX), None, "no such process");
    }
}
