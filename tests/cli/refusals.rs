//! A node that must not start: each reason, its line, its exit code, and nothing altered.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::program::{Serving, client_port, init, lone_node, refused, serve};

/// The only segment of a lone node that has not written much.
fn segment(dir: &Path) -> PathBuf {
    let shard = dir.join("data/shard-00");
    let mut names: Vec<PathBuf> = fs::read_dir(&shard)
        .expect("the shard's directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.to_string_lossy().contains("wal-segment-"))
        .collect();
    names.sort();
    names.remove(0)
}

#[test]
fn a_directory_that_was_not_formatted_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = lone_node(dir.path());
    refused(&serve(&config), 4, &["not formatted", "data", "init"]);
    fs::create_dir(dir.path().join("data")).expect("made");
    refused(&serve(&config), 4, &["not formatted"]);
}

#[test]
fn a_foreign_directory_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = lone_node(dir.path());
    assert_eq!(init(&config).status.code(), Some(0));
    let text = fs::read_to_string(&config).expect("there");
    let changes = [
        ("6f1d3c5e", "7f1d3c5e", "cluster_id"),
        ("node_id = 1", "node_id = 2", "node_id"),
        ("node_id = 1", "node_id = 1\nshards = 2", "shards"),
    ];
    for (from, to, key) in changes {
        let text = text.replace(from, to).replace(
            "id = 1\nhost",
            &format!("{}\nhost", { if key == "node_id" { "id = 2" } else { "id = 1" } }),
        );
        fs::write(&config, text).expect("written");
        refused(&serve(&config), 4, &["somebody else", key]);
    }
}

#[test]
fn of_two_processes_on_one_directory_the_second_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = lone_node(dir.path());
    assert_eq!(init(&config).status.code(), Some(0));
    let node = Serving::start(&config);
    refused(&serve(&config), 4, &["in use", "LOCK"]);
    assert_eq!(node.client("append", &["--group", "1", "x"]).lines().count(), 1);
    node.stop();
}

#[test]
fn a_port_in_use_is_refused_by_its_number() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = lone_node(dir.path());
    assert_eq!(init(&config).status.code(), Some(0));
    let port = client_port(&config);
    for port in [port, port + 100] {
        let _taken = TcpListener::bind(("127.0.0.1", port)).expect("free");
        refused(&serve(&config), 3, &["cannot listen", &port.to_string()]);
    }
    Serving::start(&config).stop();
}

#[test]
fn a_flipped_bit_below_the_watermark_is_refused_and_nothing_is_altered() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = lone_node(dir.path());
    assert_eq!(init(&config).status.code(), Some(0));
    let node = Serving::start(&config);
    for record in ["precious", "more", "and more"] {
        node.client("append", &["--group", "1", record]);
    }
    node.stop();
    let path = segment(dir.path());
    let mut bytes = fs::read(&path).expect("a segment");
    let at = bytes.windows(8).position(|window| window == b"precious").expect("it is there");
    bytes[at] ^= 1;
    fs::write(&path, &bytes).expect("written");
    refused(&serve(&config), 4, &["wal-segment", "log of shard 0 is refused"]);
    assert!(fs::read(&path).expect("a segment") == bytes, "refused and altered");
    bytes[at] ^= 1;
    fs::write(&path, &bytes).expect("written");
    let node = Serving::start(&config);
    assert!(node.client("read", &["--group", "1", "--raw"]).starts_with("precious\n"));
    node.stop();
}

#[test]
fn a_log_that_is_gone_or_of_another_cluster_is_refused() {
    let (dir, other) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
    let (config, stranger) = (lone_node(dir.path()), lone_node(other.path()));
    let text = fs::read_to_string(&stranger).expect("there");
    fs::write(&stranger, text.replace("6f1d3c5e", "7f1d3c5e")).expect("written");
    for config in [&config, &stranger] {
        assert_eq!(init(config).status.code(), Some(0));
        let node = Serving::start(config);
        node.client("append", &["--group", "1", "x"]);
        node.stop();
    }
    let path = segment(dir.path());
    let bytes = fs::read(&path).expect("a segment");
    fs::copy(segment(other.path()), &path).expect("copied");
    refused(&serve(&config), 4, &["log of shard 0 is refused", "wal-segment"]);
    fs::remove_file(&path).expect("removed");
    refused(&serve(&config), 4, &["shard"]);
    fs::write(&path, bytes).expect("brought back");
    Serving::start(&config).stop();
}

/// tmpfs takes O_DIRECT since Linux 6.6; ramfs never does, and may be mounted by anybody in a
/// namespace of their own. Where such namespaces are forbidden (some containers), this test sees
/// that they are and checks nothing else; the refusal itself has a test in `runtime`.
#[test]
fn a_file_system_without_o_direct_is_refused_unless_asked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = lone_node(dir.path());
    let mount = dir.path().join("ram");
    fs::create_dir(&mount).expect("made");
    let text = fs::read_to_string(&config).expect("there");
    fs::write(&config, text.replace("\"data\"", "\"ram/data\"")).expect("written");
    let inside = |script: &str| {
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
            .arg(format!("mount -t ramfs none '{}' && {script}", mount.display()));
        command.args(["sh", env!("CARGO_BIN_EXE_catamaran")]).arg(&config);
        command
    };
    let may_mount = inside("true").output().is_ok_and(|output| output.status.success());
    if !may_mount {
        assert!(!inside("true").status().is_ok_and(|status| status.success()));
        return;
    }
    let init = "\"$1\" init --config \"$2\" >/dev/null";
    let output = inside(&format!("{init} && \"$1\" serve --config \"$2\"")).output();
    refused(&output.expect("starts"), 3, &["no O_DIRECT", "ram/data", "--allow-buffered"]);
    let script = format!(
        "{init} && exec \"$1\" serve --config \"$2\" --allow-buffered --until-stdin-closes"
    );
    let log = dir.path().join("buffered.log");
    let child = inside(&script)
        .stdin(Stdio::piped())
        .stderr(File::create(&log).expect("a log"))
        .spawn()
        .expect("starts");
    let address = format!("127.0.0.1:{}", client_port(&config));
    let mut node = Serving { child, log, address };
    node.wait_for("event=started");
    node.client("append", &["--group", "1", "x"]);
    assert!(node.client("status", &[]).contains("BUFFERED"));
    assert!(node.log().contains("durable=false"), "{}", node.log());
    node.stop();
}

/// Runs a program to which the kernel refuses `io_uring_setup` (425 on every architecture), as
/// containers do. In C, which glommio needs to build anyway: a filter needs raw system calls.
const WITHOUT_IO_URING: &str = r#"
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <unistd.h>
int main(int argc, char **argv) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 425, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { 4, code };
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return 97;
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) return 98;
    execv(argv[1], argv + 1);
    return 99;
}
"#;

#[test]
fn a_kernel_that_forbids_io_uring_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = lone_node(dir.path());
    assert_eq!(init(&config).status.code(), Some(0));
    let (source, launcher) = (dir.path().join("without.c"), dir.path().join("without"));
    fs::write(&source, WITHOUT_IO_URING).expect("written");
    let compiled = Command::new("cc").arg("-o").arg(&launcher).arg(&source).status();
    assert!(compiled.expect("a C compiler").success());
    let output = Command::new(&launcher)
        .args([env!("CARGO_BIN_EXE_catamaran"), "serve", "--config"])
        .arg(&config)
        .output()
        .expect("the launcher starts");
    refused(&output, 3, &["io_uring is not available", "io_uring_disabled", "seccomp"]);
    Serving::start(&config).stop();
}
