//! Reads every log back and lets `audit` compare it with the ledger.
//!
//! The clock has stopped: nothing here is measured. Each group is read from its leader: one
//! linearizable read tells how far the log is committed, then the log is cut into sections that
//! are read side by side, a page after the other, so that the network and this program work at
//! the same time. Does not judge: `audit` does. Memory: one page per section reader, one bit and
//! a ledger run per record.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use catamaran::model::limits::BATCH_BYTES_MAX;
use catamaran::model::{BatchKind, BatchView, GroupId, LogIndex, Outcome, Refusal};
use catamaran::wire::client::{Consistency, Read, ReadReplyView, Reply};

use crate::audit::{Audit, Cursor, Verdict};
use crate::control::{Control, Routes};
use crate::dialogue::Dialogue;
use crate::failure::{Exit, Failure};
use crate::ledger::{Account, Ledger};
use crate::payload::Payload;

/// Bytes of one page.
const PAGE_BYTES: u32 = 768 << 10;
const _: () = assert!(PAGE_BYTES as usize <= BATCH_BYTES_MAX);
/// Sections read side by side: enough to keep the nodes and this program busy at once.
const READERS_MIN: usize = 4;
/// With many groups more of them are, because a node gives all that wait their part of one read of
/// its device.
const READERS_MAX: usize = 256;
/// Records of a section: enough pages to be worth a reader, small enough to share a log out.
const SECTION_RECORDS: u64 = 200_000;
/// A node may need this long for one page while others are busy.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one section may keep failing before the whole verification fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A stretch of one group's log: `next..end` is still to be read.
#[derive(Debug)]
struct Section {
    group: usize,
    next: u64,
    end: u64,
    cursor: Cursor,
}

/// A connection that reads one section at a time.
#[derive(Debug)]
struct Reader {
    endpoint: usize,
    dialogue: Dialogue,
    section: Section,
}

/// Why a page was not had.
#[derive(Debug)]
enum Trouble {
    /// It may work elsewhere or later.
    Again(String),
    /// It will never work.
    Never(Failure),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Again(error.to_string())
    }
}

/// Everything the verification needs to know between two pages.
struct Verifier<'a> {
    control: &'a mut Control,
    payload: &'a Payload,
    audits: Vec<Audit>,
    sections: VecDeque<Section>,
    readers: Vec<Reader>,
    /// Connections that owe nothing, with their endpoints.
    idle: Vec<(usize, Dialogue)>,
    routes: Routes,
    give_up: Instant,
    progress: &'a mut dyn FnMut(u64),
    read: u64,
}

/// Reads every group back and compares it with `ledger`. `progress` hears how many records were
/// looked at.
///
/// # Errors
/// A log could not be read, which is neither good nor bad news about its records.
pub(crate) fn verify(
    control: &mut Control,
    payload: &Payload,
    ledger: Ledger,
    progress: &mut dyn FnMut(u64),
) -> Result<Verdict, Failure> {
    let accounts = ledger.into_accounts();
    let audits = (0..).zip(accounts).map(|(group, account)| Audit::new(group, account)).collect();
    let routes = control.routes();
    let mut verifier = Verifier {
        control,
        payload,
        audits,
        sections: VecDeque::new(),
        readers: Vec::new(),
        idle: Vec::new(),
        routes,
        give_up: Instant::now() + PATIENCE,
        progress,
        read: 0,
    };
    for group in 0..verifier.audits.len() {
        if verifier.audits[group].account().numbers_end() > 0 {
            verifier.cut(group)?;
        }
    }
    verifier.read_all()?;
    let mut verdict = Verdict::default();
    for audit in verifier.audits {
        verdict.add(&audit.finish());
    }
    Ok(verdict)
}

impl Verifier<'_> {
    /// Cuts the log of a group into sections. It begins where the first record of this run was
    /// acknowledged, or at the beginning if some are in doubt: those may stand anywhere.
    fn cut(&mut self, group: usize) -> Result<(), Failure> {
        let account: &Account = self.audits[group].account();
        let first = match account.bounds() {
            Some((first, _)) if account.doubtful.is_empty() => first,
            Some(_) | None => 1,
        };
        let (available, commit) = self.ends(group)?;
        let mut next = first.max(available);
        while next <= commit {
            let end = (next + SECTION_RECORDS).min(commit + 1);
            let cursor = self.audits[group].cursor(next);
            self.sections.push_back(Section { group, next, end, cursor });
            next = end;
        }
        Ok(())
    }

    /// The first index that is left and the last one that is committed, by a linearizable read:
    /// everything acknowledged lies at or below it.
    fn ends(&mut self, group: usize) -> Result<(u64, u64), Failure> {
        loop {
            let answer = self.dial(group).and_then(|(endpoint, mut dialogue)| {
                let read = Read {
                    // Behind every end: answered without a record, which would come from the disk.
                    from: LogIndex::new(u64::MAX >> 1),
                    max_bytes: 1,
                    consistency: Consistency::Linearizable,
                };
                dialogue.send_read(self.group(group), &read)?;
                let ends = page(&mut dialogue, |view| {
                    (view.head.first_available.get(), view.head.commit.get())
                });
                self.idle.push((endpoint, dialogue));
                ends
            });
            match answer {
                Ok(ends) => return Ok(ends),
                Err(Trouble::Never(failure)) => return Err(failure),
                Err(Trouble::Again(why)) => self.rest(&why)?,
            }
        }
    }

    fn group(&self, group: usize) -> GroupId {
        self.control.topology().groups[group]
    }

    /// A connection to the leader of a group that owes no answer.
    fn dial(&mut self, group: usize) -> Result<(usize, Dialogue), Trouble> {
        let endpoint =
            self.routes[group].ok_or_else(|| Trouble::Again("no leader is known".to_owned()))?;
        if let Some(at) = self.idle.iter().position(|(idle, _)| *idle == endpoint) {
            return Ok(self.idle.swap_remove(at));
        }
        Ok((endpoint, self.control.topology().dial(endpoint, PAGE_TIMEOUT)?))
    }

    /// A pause after trouble, until patience ends; then who leads is asked again.
    fn rest(&mut self, why: &str) -> Result<(), Failure> {
        if crate::system::stopped() {
            return Err(Failure::new(Exit::Interrupted, "stopped while reading back"));
        }
        if Instant::now() > self.give_up {
            return Err(Failure::new(
                Exit::CheckFailed,
                format!(
                    "could not read the log back for {}s ({why}): nothing is known about the \
                     acknowledged records; look at the nodes' logs",
                    PATIENCE.as_secs()
                ),
            ));
        }
        std::thread::sleep(Duration::from_millis(50));
        self.idle.clear();
        self.routes = self.control.routes();
        Ok(())
    }

    /// Keeps the readers busy until every section is read. The readers take turns: while one
    /// page is compared, the nodes send the others.
    fn read_all(&mut self) -> Result<(), Failure> {
        let readers_max = self.audits.len().clamp(READERS_MIN, READERS_MAX);
        while !self.sections.is_empty() || !self.readers.is_empty() {
            while self.readers.len() < readers_max && !self.sections.is_empty() {
                self.add_reader()?;
            }
            for mut reader in std::mem::take(&mut self.readers) {
                match self.take_page(&mut reader) {
                    Ok(()) => {
                        self.give_up = Instant::now() + PATIENCE;
                        self.go_on(reader)?;
                    }
                    Err(Trouble::Never(failure)) => return Err(failure),
                    Err(Trouble::Again(why)) => {
                        self.sections.push_front(reader.section);
                        self.rest(&why)?;
                    }
                }
            }
            (self.progress)(self.read);
        }
        Ok(())
    }

    fn add_reader(&mut self) -> Result<(), Failure> {
        let Some(section) = self.sections.pop_front() else { return Ok(()) };
        let reader = self.dial(section.group).and_then(|(endpoint, mut dialogue)| {
            dialogue.send_read(self.group(section.group), &wish(&section))?;
            Ok((endpoint, dialogue))
        });
        match reader {
            Ok((endpoint, dialogue)) => self.readers.push(Reader { endpoint, dialogue, section }),
            Err(Trouble::Never(failure)) => return Err(failure),
            Err(Trouble::Again(why)) => {
                self.sections.push_front(section);
                self.rest(&why)?;
            }
        }
        Ok(())
    }

    /// Asks for the reader's next page, or gives it the next section at the same endpoint.
    fn go_on(&mut self, mut reader: Reader) -> Result<(), Failure> {
        if reader.section.next >= reader.section.end {
            let here = Some(reader.endpoint);
            let at = self.sections.iter().position(|s| self.routes[s.group] == here);
            let Some(section) = at.and_then(|at| self.sections.remove(at)) else {
                self.idle.push((reader.endpoint, reader.dialogue));
                return Ok(());
            };
            reader.section = section;
        }
        let group = self.group(reader.section.group);
        if let Err(error) = reader.dialogue.send_read(group, &wish(&reader.section)) {
            self.sections.push_front(reader.section);
            return self.rest(&error.to_string());
        }
        self.readers.push(reader);
        Ok(())
    }

    /// Waits for the reader's page and shows it to the audit.
    fn take_page(&mut self, reader: &mut Reader) -> Result<(), Trouble> {
        let Reader { endpoint, dialogue, section } = reader;
        let audit = &mut self.audits[section.group];
        let group = self.control.topology().groups[section.group];
        let node = &self.control.topology().endpoints[*endpoint].address;
        let from = section.next;
        page(dialogue, |view| show(&view, section, audit, self.payload, group))?.map_err(
            |why| {
                Trouble::Never(Failure::new(
                    Exit::CheckFailed,
                    format!("{node}, group {group}, index {}: {why}", section.next),
                ))
            },
        )?;
        self.read += section.next - from;
        Ok(())
    }
}

fn wish(section: &Section) -> Read {
    Read {
        from: LogIndex::new(section.next),
        max_bytes: PAGE_BYTES,
        // Everything below the commit index of the linearizable read is committed for good.
        consistency: Consistency::Stale,
    }
}

/// Waits for a page and lets `take` look at it.
fn page<T>(
    dialogue: &mut Dialogue,
    take: impl FnOnce(ReadReplyView<'_>) -> T,
) -> Result<T, Trouble> {
    match dialogue.receive()? {
        Reply::Read(view) => Ok(take(view)),
        Reply::Error(error) => Err(match error.outcome::<()>() {
            Outcome::NotDone(Refusal::Trimmed { next }) => Trouble::Never(Failure::new(
                Exit::CheckFailed,
                format!(
                    "records below index {next} were trimmed before they could be checked: raise the \
                     cluster's retention or use --no-verify"
                ),
            )),
            Outcome::NotDone(refusal) => Trouble::Again(refusal.to_string()),
            Outcome::Unknown(_) | Outcome::Done(()) => Trouble::Again("no answer".to_owned()),
        }),
        Reply::Append(_) | Reply::Hello(_) | Reply::Metadata(_) | Reply::Status(_) => {
            Err(Trouble::Again("an answer to another question".to_owned()))
        }
    }
}

/// Shows the records of a page that belong to the section, and moves the section on.
fn show(
    view: &ReadReplyView<'_>,
    section: &mut Section,
    audit: &mut Audit,
    payload: &Payload,
    group: GroupId,
) -> Result<(), String> {
    let mut rest = view.batches;
    if rest.is_empty() {
        return Err(format!("no batch although {} is committed", section.end - 1));
    }
    while !rest.is_empty() && section.next < section.end {
        let batch = BatchView::decode(rest).map_err(|error| error.to_string())?;
        if batch.header.group != group || batch.header.span.first.get() > section.next {
            return Err("a batch of another group, or a gap".to_owned());
        }
        rest = &rest[batch.header.batch_bytes()..];
        for record in batch.records() {
            let (index, record) = record.map_err(|error| error.to_string())?;
            if index.get() < section.next || index.get() >= section.end {
                continue; // The batch reaches over the section's edge; the neighbour takes it.
            }
            if batch.header.kind == BatchKind::Records {
                audit.record(&mut section.cursor, payload, index.get(), record);
            }
            section.next = index.get() + 1;
        }
    }
    Ok(())
}
