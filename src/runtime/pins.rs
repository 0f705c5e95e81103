//! What this node knows for good about the others: the data directory behind each node id, and
//! the highest boot counter seen of it.
//!
//! So a node whose disk was wiped, swapped or restored from an old copy cannot come back as
//! itself and deny what it once promised (O-03, O-04, H-05). One per node, shared by its shards;
//! durable in `peers.toml` before the stream that taught it is accepted. Does not: judge a
//! handshake (`wire::peer::check_hello` does, with what is pinned here).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::datadir::{DataDirError, read_text, write_toml};
use super::worker::{Worker, oneshot};
use crate::model::{BootCounter, NodeId, NodeUuid};

const FILE_NAME: &str = "peers.toml";

/// What is pinned of one node.
pub(super) type Pin = (NodeUuid, BootCounter);

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
}

/// See the module's documentation.
#[derive(Clone)]
pub(super) struct Pins {
    directory: Arc<PathBuf>,
    known: Arc<Mutex<BTreeMap<NodeId, Pin>>>,
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
            known.insert(NodeId::new(entry.node_id), (uuid, BootCounter::new(entry.boot_counter)));
        }
        let directory = Arc::new(directory.to_owned());
        Ok(Self { directory, known: Arc::new(Mutex::new(known)), worker })
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
    /// newer or different was pinned, that is an error too: the handshake starts over.
    pub(super) async fn learn(&self, node: NodeId, pin: Pin) -> Result<(), String> {
        if self.get(node) == Some(pin) {
            return Ok(());
        }
        let (sender, receiver) = oneshot();
        let pins = self.clone();
        let job = move || sender.send(pins.write(node, pin));
        self.worker.submit(job).map_err(|_| "the worker is overloaded".to_owned())?;
        receiver.await.unwrap_or_else(|| Err("the worker is gone".to_owned()))
    }

    /// On the worker's thread, and so one after the other.
    fn write(&self, node: NodeId, (uuid, boot): Pin) -> Result<(), String> {
        let mut next = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if next.get(&node).is_some_and(|pin| pin.0 != uuid || pin.1 > boot) {
            return Err("another stream has shown a newer boot counter".to_owned());
        }
        if next.insert(node, (uuid, boot)) == Some((uuid, boot)) {
            return Ok(());
        }
        let peers = next
            .iter()
            .map(|(node, (uuid, boot))| PeerEntry {
                node_id: node.get(),
                node_uuid: uuid.to_string(),
                boot_counter: boot.get(),
            })
            .collect();
        write_toml(&self.directory, FILE_NAME, &PeersFile { peers })
            .map_err(|error| error.to_string())?;
        // Known only once it is durable.
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learnt_survives_and_never_goes_backwards() {
        let temp = tempfile::tempdir().unwrap();
        let open = || Pins::open(temp.path(), Worker::start("test").unwrap()).unwrap();
        let (node, uuid) = (NodeId::new(2), NodeUuid::new([3; 16]));
        let pins = open();
        assert_eq!(pins.get(node), None);
        pins.write(node, (uuid, BootCounter::new(5))).unwrap();
        let pins = open();
        assert_eq!(pins.get(node), Some((uuid, BootCounter::new(5))));
        assert!(pins.write(node, (uuid, BootCounter::new(4))).is_err());
        assert!(pins.write(node, (NodeUuid::new([4; 16]), BootCounter::new(9))).is_err());
        pins.write(node, (uuid, BootCounter::new(6))).unwrap();
        assert_eq!(open().get(node), Some((uuid, BootCounter::new(6))));
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join(FILE_NAME), "peers = 5").unwrap();
        let worker = Worker::start("test").unwrap();
        assert!(matches!(Pins::open(temp.path(), worker), Err(DataDirError::Damaged { .. })));
    }
}
