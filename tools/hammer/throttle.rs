//! A disk that takes few writes a second, for one process: the kernel's own throttle of block
//! devices, through a control group (version 1, controller `blkio`). Needs root.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup/blkio";

/// A control group of our own. Dropping it lets its processes go and removes it.
pub(crate) struct Throttle {
    group: PathBuf,
    device: String,
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

impl Throttle {
    /// A group for the disk that `dir` lies on.
    ///
    /// # Errors
    /// This machine has no such controller, or we may not use it.
    pub(crate) fn new(dir: &Path) -> Result<Self, String> {
        let device =
            fs::metadata(dir).map_err(|error| format!("{}: {error}", dir.display()))?.dev();
        let device = format!("{}:{}", libc::major(device), libc::minor(device));
        let group = Path::new(ROOT).join(format!("catamaran-hammer-{}", std::process::id()));
        fs::create_dir(&group).map_err(|error| {
            format!(
                "{}: {error}: slowing a disk down needs root and the blkio controller of control \
                 groups version 1",
                group.display()
            )
        })?;
        Ok(Self { group, device })
    }

    /// From now on the process's writes are so many a second.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn take(&self, process: u32, writes_per_second: u32) -> Result<(), String> {
        let limit = format!("{} {writes_per_second}", self.device);
        write(&self.group.join("blkio.throttle.write_iops_device"), &limit)?;
        write(&self.group.join("cgroup.procs"), &process.to_string())
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        let processes = fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
        for process in processes.lines() {
            // One that has ended meanwhile needs no moving.
            let _ = write(&Path::new(ROOT).join("cgroup.procs"), process);
        }
        let _ = fs::remove_dir(&self.group);
    }
}
