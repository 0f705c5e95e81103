//! What this node knows for good about the others: the data directory behind each node id, the
//! highest boot counter seen of it, and the run that showed it.
//!
//! So a node whose disk was wiped, swapped or restored from an old copy cannot come back as
//! itself and deny what it once promised (O-03, O-04, H-05). One per node, shared by its shards;
//! durable in `peers.toml` before the stream that taught it is accepted. Does not: judge a
//! handshake (`wire::peer::check_hello` and `Pin::check` do, with what is pinned here).

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::datadir::{DataDirError, read_text, write_toml};
use super::worker::{Worker, oneshot};
use crate::model::{BootCounter, NodeId, NodeUuid, RunId};
use crate::wire::peer::{HandshakeError, Pin};

const FILE_NAME: &str = "peers.toml";

/// `peers.toml`, as written.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PeersFile {
    #[serde(default)]
    peers: Vec<PeerEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PeerEntry {
    node_id: u16,
    node_uuid: String,
    boot_counter: u64,
    run_id: String,
}

/// See the module's documentation.
#[derive(Clone)]
pub(super) struct Pins {
    directory: Arc<PathBuf>,
    known: Arc<Mutex<BTreeMap<NodeId, Pin>>>,
    generation: Arc<AtomicU64>,
    worker: Worker,
}

impl Pins {
    /// Reads what earlier runs have learnt.
    pub(super) fn open(directory: &Path, worker: Worker) -> Result<Self, DataDirError> {
        let path = directory.join(FILE_NAME);
        let text = match read_text(&path) {
            Ok(text) => text,
            Err(DataDirError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                String::new()
            }
            Err(error) => return Err(error),
        };
        let damaged = |fault: String| DataDirError::Damaged { file: path.clone(), fault };
        let file: PeersFile =
            toml::from_str(&text).map_err(|error| damaged(error.message().to_owned()))?;
        let mut known = BTreeMap::new();
        for entry in file.peers {
            let uuid = NodeUuid::parse(&entry.node_uuid)
                .ok_or_else(|| damaged(format!("node_uuid is {:?}", entry.node_uuid)))?;
            let run = RunId::parse(&entry.run_id)
                .ok_or_else(|| damaged(format!("run_id is {:?}", entry.run_id)))?;
            let boot = BootCounter::new(entry.boot_counter);
            known.insert(NodeId::new(entry.node_id), Pin { uuid, boot, run });
        }
        let directory = Arc::new(directory.to_owned());
        let known = Arc::new(Mutex::new(known));
        Ok(Self { directory, known, generation: Arc::default(), worker })
    }

    /// What is known of `node`.
    pub(super) fn get(&self, node: NodeId) -> Option<Pin> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&node).copied()
    }

    /// Makes `pin` durable for `node`. Returns at once if it is known already, which it is for
    /// all but the first stream after a start of that node.
    ///
    /// # Errors
    /// If it cannot be written; the stream must not be accepted then. If meanwhile something
    /// newer or different was pinned, that is an error too.
    pub(super) async fn learn(&self, node: NodeId, pin: Pin) -> Result<(), LearnError> {
        if self.get(node) == Some(pin) {
            return Ok(());
        }
        let (sender, receiver) = oneshot();
        let pins = self.clone();
        let job = move || sender.send(pins.write(node, pin));
        let not_noted = |why: &str| LearnError::NotNoted(why.to_owned());
        self.worker.submit(job).map_err(|_| not_noted("the worker is overloaded"))?;
        receiver.await.unwrap_or_else(|| Err(not_noted("the worker is gone")))
    }

    /// On the worker's thread, and so one after the other.
    fn write(&self, node: NodeId, pin: Pin) -> Result<(), LearnError> {
        let mut next = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Judged again: another stream may have taught something since the handshake was.
        next.get(&node).map_or(Ok(()), |known| known.check(&pin)).map_err(LearnError::Refused)?;
        if next.insert(node, pin) == Some(pin) {
            return Ok(());
        }
        let entry = |(node, pin): (&NodeId, &Pin)| PeerEntry {
            node_id: node.get(),
            node_uuid: pin.uuid.to_string(),
            boot_counter: pin.boot.get(),
            run_id: pin.run.to_string(),
        };
        let file = PeersFile { peers: next.iter().map(entry).collect() };
        write_toml(&self.directory, FILE_NAME, &file)
            .map_err(|error| LearnError::NotNoted(error.to_string()))?;
        // Known only once it is durable.
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = next;
        self.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Changes with every pin that is learnt: a cheap way to see that there is news.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

/// Why a pin was not learnt.
#[derive(Debug)]
pub(super) enum LearnError {
    /// Another stream has meanwhile shown something that this one contradicts.
    Refused(HandshakeError),
    /// It could not be made durable.
    NotNoted(String),
}

impl fmt::Display for LearnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::NotNoted(why) => write!(f, "the peer cannot be noted: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learnt_survives_and_never_goes_backwards() {
        let temp = tempfile::tempdir().unwrap();
        let open = || Pins::open(temp.path(), Worker::start("test").unwrap().worker()).unwrap();
        let node = NodeId::new(2);
        let pin = |uuid, boot, run| Pin {
            uuid: NodeUuid::new([uuid; 16]),
            boot: BootCounter::new(boot),
            run: RunId::new([run; 16]),
        };
        let pins = open();
        assert_eq!(pins.get(node), None);
        pins.write(node, pin(3, 5, 7)).unwrap();
        assert_eq!(pins.generation(), 1);
        let pins = open();
        assert_eq!(pins.get(node), Some(pin(3, 5, 7)));
        for other in [pin(3, 4, 7), pin(3, 5, 8), pin(4, 9, 9)] {
            assert!(matches!(pins.write(node, other), Err(LearnError::Refused(_))), "{other:?}");
        }
        pins.write(node, pin(3, 5, 7)).unwrap();
        assert_eq!(pins.generation(), 0, "nothing new was learnt");
        pins.write(node, pin(3, 6, 8)).unwrap();
        assert_eq!(open().get(node), Some(pin(3, 6, 8)));
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join(FILE_NAME), "peers = 5").unwrap();
        let worker = Worker::start("test").unwrap().worker();
        assert!(matches!(Pins::open(temp.path(), worker), Err(DataDirError::Damaged { .. })));
    }
}
