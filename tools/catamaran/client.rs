//! `status`, `append` and `read`: the client library in a terminal.
//!
//! Does nothing that a program which links the library could not do. Records are appended in
//! order: a request is sent when the one before it is done, and takes all lines that have arrived
//! by then.

mod print;
mod status;

use core::fmt;
use core::time::Duration;
use std::io::{self, BufRead, BufReader, Read, Write};

use catamaran::client::{Client, Options, ReadError};
use catamaran::model::limits::BATCH_BYTES_MAX;
use catamaran::model::{GroupId, LogIndex, Outcome, Refusal};
use catamaran::wire::client::{AppendReply, Consistency};
use serde_json::json;

use crate::args::{AppendArguments, ConnectArguments, ReadArguments};
use crate::failure::Failure;
use crate::terminal;
use print::Shape;
pub(crate) use status::status;

/// Records of one request: enough to make the round trip cheap, few enough to be told about.
const RECORDS_PER_REQUEST_MAX: usize = 1000;
/// Record bytes after which a request takes no further record.
const REQUEST_BYTES_TARGET: usize = 256 << 10;
/// Bytes of records that one read asks for.
const READ_BYTES: u32 = 512 << 10;

fn options(to: &ConnectArguments) -> Options {
    let timeout = Duration::from_millis(to.timeout_ms);
    Options {
        name: "catamaran".to_owned(),
        connect_timeout: timeout,
        request_timeout: timeout,
        ..Options::default()
    }
}

fn connect(to: &ConnectArguments) -> Result<Client, Failure> {
    Client::connect(&to.connect, options(to)).map_err(|error| {
        Failure::environment(format!("{error}: check --connect and whether the nodes run"))
    })
}

/// Whoever reads the results may close stdout when it has seen enough (`head` does); a full disk
/// behind it is another matter.
fn unless_closed(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::environment(format!("stdout: {error}: the results are incomplete")))
        }
        _ => Ok(()),
    }
}

/// Appends the arguments, or else the lines of stdin.
pub(crate) fn append(arguments: &AppendArguments) -> Result<(), Failure> {
    let client = connect(&arguments.to)?;
    let mut appender = Appender { client, arguments, appended: 0 };
    if arguments.records.is_empty() {
        let mut stdin = BufReader::with_capacity(REQUEST_BYTES_TARGET, io::stdin().lock());
        loop {
            let records = next_lines(&mut stdin).map_err(|error| {
                Failure::config(format!("stdin: {error}: each line is one record"))
            })?;
            if records.is_empty() {
                return Ok(());
            }
            appender.append(&records)?;
        }
    }
    for records in requests(&arguments.records) {
        appender.append(records)?;
    }
    Ok(())
}

/// The arguments, cut into requests. What is given at once is appended at once, if it can be.
fn requests(records: &[String]) -> Vec<&[String]> {
    let mut requests = Vec::new();
    let mut begin = 0;
    let mut bytes = 0;
    for (i, record) in records.iter().enumerate() {
        if i > begin && (bytes >= REQUEST_BYTES_TARGET || i - begin == RECORDS_PER_REQUEST_MAX) {
            requests.push(&records[begin..i]);
            (begin, bytes) = (i, 0);
        }
        bytes += record.len();
    }
    requests.push(&records[begin..]);
    requests
}

/// Waits for one line and takes those that are there with it. None at the end of the input.
fn next_lines(from: &mut BufReader<impl Read>) -> io::Result<Vec<Vec<u8>>> {
    let mut lines = Vec::new();
    let mut bytes = 0;
    while let Some(line) = next_line(from)? {
        bytes += line.len();
        lines.push(line);
        let is_full = lines.len() >= RECORDS_PER_REQUEST_MAX || bytes >= REQUEST_BYTES_TARGET;
        // Whole lines in the buffer cost no wait; anything else might.
        if is_full || !from.buffer().contains(&b'\n') {
            break;
        }
    }
    Ok(lines)
}

/// One line without its end, of at most a batch.
fn next_line(from: &mut BufReader<impl Read>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let limit = BATCH_BYTES_MAX as u64 + 1;
    if from.by_ref().take(limit).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() > BATCH_BYTES_MAX {
        return Err(io::Error::other(format!("a line is longer than {BATCH_BYTES_MAX} bytes")));
    }
    Ok(Some(line))
}

struct Appender<'a> {
    client: Client,
    arguments: &'a AppendArguments,
    /// Records that are durable, for the message if one is not.
    appended: u64,
}

impl Appender<'_> {
    fn append<R: AsRef<[u8]>>(&mut self, records: &[R]) -> Result<(), Failure> {
        let group = GroupId::new(self.arguments.group);
        match self.client.append(group, records) {
            Outcome::Done(reply) => {
                self.appended += records.len() as u64;
                // Appending goes on without a reader: what was asked for are the records.
                unless_closed(self.report(&reply, records.len()))
            }
            Outcome::NotDone(refusal) => {
                let how = advice(&refusal);
                let line = format!(
                    "not done: {refusal}: group {group}: {} record(s) were appended, none after \
                     them: {how}",
                    self.appended
                );
                self.report_failure("not_done", &refusal);
                Err(Failure::not_done(line))
            }
            Outcome::Unknown(doubt) => {
                let line = format!(
                    "unknown: {doubt}: group {group}: {} record(s) were appended, the {} after \
                     them may be in the log, or may still get there: read it before trying again",
                    self.appended,
                    records.len()
                );
                self.report_failure("unknown", &doubt);
                Err(Failure::unknown(line))
            }
        }
    }

    fn report(&self, reply: &AppendReply, count: usize) -> io::Result<()> {
        let mut lines = String::new();
        for index in (reply.first.get()..).take(count) {
            let line = if self.arguments.json {
                json!({ "outcome": "done", "index": index, "term": reply.term.get() }).to_string()
            } else {
                index.to_string()
            };
            lines.push_str(&line);
            lines.push('\n');
        }
        io::stdout().write_all(lines.as_bytes())
    }

    fn report_failure(&self, outcome: &str, reason: &dyn fmt::Display) {
        if self.arguments.json {
            let object = json!({
                "outcome": outcome,
                "reason": reason.to_string(),
                "appended": self.appended,
            });
            // The error line and the exit code say it too.
            let _ = terminal::result(object);
        }
    }
}

/// How to go on after a refusal.
fn advice(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::UnknownGroup => "`catamaran status` lists the groups",
        Refusal::TooLarge { .. } => "cut the record into smaller ones",
        Refusal::DiskFull => "make room on the nodes' disks, or set a retention",
        Refusal::Trimmed { .. } => "begin where the log begins now, or leave --from out",
        Refusal::Unsupported | Refusal::Malformed => "use a client and nodes of the same version",
        Refusal::NotLeader { .. }
        | Refusal::Busy { .. }
        | Refusal::WrongTail { .. }
        | Refusal::Unavailable
        | Refusal::TimedOut => "try the rest again, and see `catamaran status`",
    }
}

/// Prints records from the log.
pub(crate) fn read(arguments: &ReadArguments) -> Result<(), Failure> {
    let client = connect(&arguments.to)?;
    let group = GroupId::new(arguments.group);
    let shape = match (arguments.json, arguments.raw) {
        (true, _) => Shape::Json,
        (false, true) => Shape::Raw,
        (false, false) => Shape::Line,
    };
    let consistency = if arguments.stale { Consistency::Stale } else { Consistency::Linearizable };
    let mut from = LogIndex::new(arguments.from.unwrap_or(1).max(1));
    let mut left = arguments.max_records.unwrap_or(u64::MAX);
    let mut last = None;
    let mut stdout = io::BufWriter::new(io::stdout().lock());
    while left > 0 && last.is_none_or(|last| from <= last) {
        let batch = match client.read(group, from, READ_BYTES, consistency) {
            Ok(batch) => batch,
            // Without --from, the log begins where it begins.
            Err(ReadError::Refused(Refusal::Trimmed { next }))
                if arguments.from.is_none() && next > from =>
            {
                from = next;
                continue;
            }
            Err(error) => {
                let how = match &error {
                    ReadError::Refused(refusal) => advice(refusal),
                    ReadError::NoAnswer(_) => "try again, and see `catamaran status`",
                    ReadError::Batch(_) | ReadError::Nonsense => {
                        "what came is not what was written: look at the network and the node"
                    }
                };
                return Err(Failure::not_done(format!("{error}: group {group} at {from}: {how}")));
            }
        };
        // What was committed when the reading began is the end of it, or it might never end.
        let end = *last.get_or_insert(batch.commit);
        let next = batch.next;
        let wanted = batch.into_iter().take_while(|(index, _)| *index <= end);
        for (index, record) in wanted.take(usize::try_from(left).unwrap_or(usize::MAX)) {
            if let Err(error) = stdout.write_all(&print::record(shape, index, &record)) {
                return unless_closed(Err(error));
            }
            left -= 1;
        }
        if next <= from {
            break;
        }
        from = next;
    }
    unless_closed(stdout.flush())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_cut_into_requests() {
        let sizes = |records: &[String]| -> Vec<usize> {
            requests(records).iter().map(|request| request.len()).collect()
        };
        assert_eq!(sizes(&["a".into(), "b".into()]), [2]);
        assert_eq!(sizes(&vec!["x".to_owned(); 2500]), [1000, 1000, 500]);
        assert_eq!(sizes(&vec!["x".repeat(200 << 10); 3]), [2, 1]);
    }

    #[test]
    fn lines_that_are_there_are_taken_together() {
        let mut input = BufReader::new(&b"a\nb\n\nlast"[..]);
        let mut next = || next_lines(&mut input).expect("readable");
        assert_eq!(next(), [&b"a"[..], b"b", b""]);
        assert_eq!(next(), [b"last"]);
        assert!(next().is_empty());
    }

    #[test]
    fn a_line_longer_than_a_batch_is_refused() {
        let long = vec![b'x'; BATCH_BYTES_MAX + 1];
        assert!(next_lines(&mut BufReader::new(&long[..])).is_err());
        let fits = [&long[1..], b"\n"].concat();
        let lines = next_lines(&mut BufReader::new(&fits[..])).expect("fits");
        assert_eq!(lines[0].len(), BATCH_BYTES_MAX);
    }
}
