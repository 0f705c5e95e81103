//! The diskprobe program: what it prints, what it refuses, and that it cleans up.
#![expect(clippy::unwrap_used, reason = "a test that does not expect something ends with it")]

use std::process::{Command, Output};

fn diskprobe(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_diskprobe")).args(arguments).output().unwrap()
}

/// One line on standard error, beginning with `error: `, with every word in it.
#[track_caller]
fn refused(arguments: &[&str], code: i32, words: &[&str]) {
    let output = diskprobe(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.starts_with("error: ") && text.trim_end().lines().count() == 1, "{text}");
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}

#[test]
fn a_measurement_comes_out_as_json_and_leaves_nothing_behind() {
    // Not in /tmp: that may be memory.
    let temp = tempfile::tempdir_in(".").unwrap();
    let directory = temp.path().to_str().unwrap();
    let output = diskprobe(&[
        "--dir",
        directory,
        "--block-bytes",
        "65536",
        "--depth",
        "2",
        "--writers",
        "2",
        "--seconds",
        "0.05",
        "--repeat",
        "1",
        "--json",
        "-",
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let line = &json["results"][0];
    assert_eq!((&line["block_bytes"], &line["direct"]), (&65536.into(), &true.into()));
    for figure in ["/writes_per_s", "/bytes_per_s", "/latency_us/p50", "/latency_us/p99"] {
        assert!(line.pointer(figure).unwrap().as_f64().unwrap() > 0.0, "{figure}: {line}");
    }
    assert!(json["suggested_profile"].is_string());
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
}

#[test]
fn what_cannot_be_measured_is_refused_with_the_right_code() {
    refused(&["--block-bytes", "1000"], 2, &["4 KiB", "1 MiB"]);
    refused(&["--depth", "1000"], 2, &["depth", "64"]);
    refused(&["--seconds", "0"], 2, &["--seconds", "0.01"]);
    refused(&["--dir", "/nonexistent/directory"], 3, &["/nonexistent/directory"]);
    if let Ok(memory) = tempfile::tempdir_in("/dev/shm") {
        let directory = memory.path().to_str().unwrap();
        refused(&["--dir", directory], 3, &["O_DIRECT", directory, "--allow-buffered"]);
    }
}
