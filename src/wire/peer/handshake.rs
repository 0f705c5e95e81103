//! The first words on a peer stream, and the verdict on them (N-04).
//!
//! Fixed-size frames, so that the receiver can read exactly [`HANDSHAKE_FRAME_BYTES`] bytes and
//! nothing of what follows, which on the bulk lane goes straight into aligned blocks. Pure: the
//! runtime moves the bytes, keeps the pins durable and watches the deadline.
//!
//! ```text
//! dialler                                   acceptor
//!   hello{facts, nonce}          ->           check_hello(mine, theirs, pin); pin durably
//!   check_hello(mine, theirs, pin)   <-       welcome{facts, echo = nonce} or refused{code}
//! ```
//!
//! Body of hello and welcome, 152 bytes, rest zero:
//!
//! ```text
//!      0      1  oldest protocol version      24     16  cluster id
//!      1      1  newest protocol version      40     16  node uuid
//!      2      1  lane: 0 control, 1 bulk      56      8  boot counter
//!      3      1  0                            64      8  nonce
//!      4      2  node id                      72      8  echo: the hello's nonce in a welcome
//!      6      2  to node                      80      8  bulk credit in bytes
//!      8      2  shard                        88     16  run id
//!     10      2  shard count                 104     48  0
//!     12     12  0
//! ```
//!
//! Body of refused: u16 code, u16 text length, text, rest zero.

use core::fmt;

use super::super::frame::FrameHeader;
use super::super::frame::{Address, FRAME_HEADER_BYTES, FrameError, Reader, encode_frame};
use super::Kind;
use super::pin::Pin;
use crate::model::{BootCounter, ClusterId, GroupId, NodeId, NodeUuid, RunId, ShardId};

/// Bytes of every handshake frame, header included.
pub const HANDSHAKE_FRAME_BYTES: usize = 192;
/// The version of the peers' protocol, which moves on its own: the clients' one and the frame format
/// may stay what they are. 2 brought the run id; a node of version 1 is told so and refused.
pub const PEER_PROTOCOL_VERSION: u8 = 2;
const BODY_BYTES: usize = HANDSHAKE_FRAME_BYTES - FRAME_HEADER_BYTES;
const REFUSED_TEXT_BYTES_MAX: usize = BODY_BYTES - 4;

/// The two streams per peer and shard. Bulk data never stands before a vote or a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Votes, heartbeats, acknowledgements, read rounds.
    Control,
    /// Append frames with batches.
    Bulk,
}

impl Lane {
    /// Its number on the wire.
    pub const fn number(self) -> u8 {
        match self {
            Self::Control => 0,
            Self::Bulk => 1,
        }
    }

    /// The lane with this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Control),
            1 => Some(Self::Bulk),
            _ => None,
        }
    }
}

/// What one end of a stream says about itself and believes about the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerFacts {
    /// Oldest protocol version spoken.
    pub version_min: u8,
    /// Newest protocol version spoken.
    pub version_max: u8,
    /// What the stream is for. The dialler decides; the acceptor copies it.
    pub lane: Lane,
    /// Who speaks.
    pub node: NodeId,
    /// Whom the speaker wants to speak to.
    pub to_node: NodeId,
    /// Which shard of both.
    pub shard: ShardId,
    /// Shards of every node, as the speaker knows it.
    pub shard_count: u16,
    /// The cluster.
    pub cluster: ClusterId,
    /// The speaker's data directory.
    pub uuid: NodeUuid,
    /// How often it was started.
    pub boot: BootCounter,
    /// This run of it.
    pub run: RunId,
    /// A number that the speaker has not used before, so that old answers are recognised. Not 0.
    pub nonce: u64,
    /// In a welcome the hello's nonce, in a hello 0.
    pub echo: u64,
    /// Bulk bytes that the other may have unacknowledged towards the speaker.
    pub credit_bytes: u64,
}

impl PeerFacts {
    /// The versions this program speaks, for `version_min` and `version_max`.
    pub const VERSIONS: (u8, u8) = (PEER_PROTOCOL_VERSION, PEER_PROTOCOL_VERSION);

    /// What the acceptor, whose own facts are `self`, says to `hello`: the same lane, addressed
    /// to its sender, with its nonce.
    #[must_use]
    pub fn answering(&self, hello: &Self) -> Self {
        Self { lane: hello.lane, to_node: hello.node, echo: hello.nonce, ..*self }
    }
}

/// A handshake frame, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake<'a> {
    /// From the dialler.
    Hello(PeerFacts),
    /// From the acceptor: the stream is open.
    Welcome(PeerFacts),
    /// From the acceptor: the stream will be closed.
    Refused {
        /// [`HandshakeError::number`] of its reason, or one that we do not know.
        code: u16,
        /// For people.
        text: &'a str,
    },
}

/// Why two nodes do not talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// The bytes are no handshake.
    Frame(FrameError),
    /// A handshake frame of the wrong kind: for example a welcome where a hello must be.
    Kind {
        /// What came.
        found: u8,
    },
    /// No protocol version that both speak.
    Version {
        /// Oldest version of the other.
        min: u8,
        /// Newest version of the other.
        max: u8,
    },
    /// Another cluster's node.
    Cluster {
        /// Its cluster.
        found: ClusterId,
    },
    /// The other is not the node that was dialled, or thinks that we are another, or that it is
    /// ourselves (N-05).
    Node {
        /// Who it says it is.
        found: NodeId,
        /// Whom it wants.
        wants: NodeId,
    },
    /// The other ends at another shard.
    Shard {
        /// Its shard.
        found: ShardId,
    },
    /// The other divides its groups over another number of shards.
    ShardCount {
        /// Its number of shards.
        found: u16,
    },
    /// The welcome is for the other lane.
    Lane {
        /// Its lane.
        found: Lane,
    },
    /// The node id is known with another data directory: a wiped or cloned node (O-03, H-05).
    Uuid {
        /// What it shows now.
        found: NodeUuid,
    },
    /// The node was seen with a higher boot counter: an old copy of its data directory.
    Boot {
        /// The highest seen.
        pinned: BootCounter,
        /// What it shows now.
        found: BootCounter,
    },
    /// The node was seen with this boot counter, but in another run: its data directory and a copy
    /// of it were both started.
    Run {
        /// The counter that both show.
        boot: BootCounter,
    },
    /// The welcome answers another hello than ours (an old or replayed one).
    Nonce,
    /// The other end refused us.
    Refused {
        /// The number of its reason.
        code: u16,
    },
    /// The other end is not a node of the configuration.
    Stranger {
        /// Who it says it is.
        found: NodeId,
    },
    /// Who the other end is cannot be made durable at the moment; it may try again.
    NotNoted,
}

impl HandshakeError {
    /// Its number in a refused frame.
    pub const fn number(&self) -> u16 {
        match self {
            Self::Frame(_) => 1,
            Self::Kind { .. } => 2,
            Self::Version { .. } => 3,
            Self::Cluster { .. } => 4,
            Self::Node { .. } => 5,
            Self::Shard { .. } => 6,
            Self::ShardCount { .. } => 7,
            Self::Lane { .. } => 8,
            Self::Uuid { .. } => 9,
            Self::Boot { .. } => 10,
            Self::Nonce => 11,
            Self::Refused { .. } => 12,
            Self::Stranger { .. } => 13,
            Self::Run { .. } => 14,
            Self::NotNoted => 15,
        }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(error) => write!(f, "not a handshake: {error}"),
            Self::Kind { found } => write!(f, "unexpected handshake kind {found}"),
            Self::Version { min, max } => {
                write!(f, "peer speaks versions {min} to {max}, known is {PEER_PROTOCOL_VERSION}")
            }
            Self::Cluster { found } => write!(f, "peer belongs to cluster {found}"),
            Self::Node { found, wants } => {
                write!(f, "peer says it is node {found} and wants node {wants}")
            }
            Self::Shard { found } => write!(f, "peer ends at shard {found}"),
            Self::ShardCount { found } => write!(f, "peer has {found} shards"),
            Self::Lane { found } => write!(f, "peer answered for lane {found:?}"),
            Self::Uuid { found } => {
                write!(
                    f,
                    "peer's data directory is {found}, not the one known for its id (O-03): bring \
                     that one back"
                )
            }
            Self::Boot { pinned, found } => {
                write!(
                    f,
                    "peer's boot counter is {found}, seen before was {pinned} (O-04): an old copy \
                     of a data directory: bring the original back"
                )
            }
            Self::Run { boot } => write!(
                f,
                "peer's boot counter {boot} was shown by another run (O-04): a copy of a data \
                 directory: stop it, bring the original back"
            ),
            Self::Nonce => f.write_str("peer answered another hello"),
            Self::Refused { code } => write!(f, "peer refused, code {code}"),
            Self::Stranger { found } => write!(f, "node {found} is not in the configuration"),
            Self::NotNoted => f.write_str("the peer cannot be noted at the moment"),
        }
    }
}

impl std::error::Error for HandshakeError {}

/// The verdict on the other end's hello or welcome.
///
/// `mine` is what this end says: a dialler passes what it sent, an acceptor what it is about to
/// answer ([`PeerFacts::answering`], with the `node` it found in the configuration). `pinned` is
/// what was durably noted when this node id was last seen; [`Pin::check`] judges by it (N-04, O-04).
///
/// # Errors
/// The first reason found, in the order of what an operator should look at first.
pub fn check_hello(
    mine: &PeerFacts,
    theirs: &PeerFacts,
    pinned: Option<Pin>,
) -> Result<(), HandshakeError> {
    if theirs.version_max < mine.version_min || mine.version_max < theirs.version_min {
        let (min, max) = (theirs.version_min, theirs.version_max);
        return Err(HandshakeError::Version { min, max });
    }
    if theirs.cluster != mine.cluster {
        return Err(HandshakeError::Cluster { found: theirs.cluster });
    }
    if theirs.shard_count != mine.shard_count {
        return Err(HandshakeError::ShardCount { found: theirs.shard_count });
    }
    if theirs.node != mine.to_node || theirs.to_node != mine.node || theirs.node == mine.node {
        return Err(HandshakeError::Node { found: theirs.node, wants: theirs.to_node });
    }
    if theirs.shard != mine.shard {
        return Err(HandshakeError::Shard { found: theirs.shard });
    }
    if theirs.lane != mine.lane {
        return Err(HandshakeError::Lane { found: theirs.lane });
    }
    // The dialler's own echo is 0: the other's must be our nonce. An acceptor echoes a nonce that
    // it has just read, and refuses a dialler that has none.
    if mine.echo == 0 && theirs.echo != mine.nonce {
        return Err(HandshakeError::Nonce);
    }
    pinned.map_or(Ok(()), |pin| pin.check(&Pin::of(theirs)))
}

/// The dialler's first frame.
pub fn encode_hello(facts: &PeerFacts) -> [u8; HANDSHAKE_FRAME_BYTES] {
    encode_facts(Kind::Hello, facts)
}

/// The acceptor's answer that opens the stream.
pub fn encode_welcome(facts: &PeerFacts) -> [u8; HANDSHAKE_FRAME_BYTES] {
    encode_facts(Kind::Welcome, facts)
}

/// The acceptor's answer that ends the stream.
pub fn encode_refused(error: &HandshakeError) -> [u8; HANDSHAKE_FRAME_BYTES] {
    let mut text = error.to_string();
    // Our texts are ASCII, so any cut is at a character.
    text.truncate(REFUSED_TEXT_BYTES_MAX);
    encode_fixed(Kind::Refused, |to| {
        to.extend_from_slice(&error.number().to_le_bytes());
        let bytes = u16::try_from(text.len()).expect("truncated above");
        to.extend_from_slice(&bytes.to_le_bytes());
        to.extend_from_slice(text.as_bytes());
    })
}

fn encode_facts(kind: Kind, facts: &PeerFacts) -> [u8; HANDSHAKE_FRAME_BYTES] {
    encode_fixed(kind, |to| {
        to.extend_from_slice(&[facts.version_min, facts.version_max, facts.lane.number(), 0]);
        for number in [facts.node.get(), facts.to_node.get(), facts.shard.get(), facts.shard_count]
        {
            to.extend_from_slice(&number.to_le_bytes());
        }
        to.extend_from_slice(&[0; 12]);
        to.extend_from_slice(&facts.cluster.get());
        to.extend_from_slice(&facts.uuid.get());
        for number in [facts.boot.get(), facts.nonce, facts.echo, facts.credit_bytes] {
            to.extend_from_slice(&number.to_le_bytes());
        }
        to.extend_from_slice(&facts.run.get());
    })
}

fn encode_fixed(kind: Kind, body: impl FnOnce(&mut Vec<u8>)) -> [u8; HANDSHAKE_FRAME_BYTES] {
    let mut frame = Vec::with_capacity(HANDSHAKE_FRAME_BYTES);
    let address = Address { kind: kind.number(), correlation: 0, group: GroupId::new(0) };
    encode_frame(&mut frame, address, |to| {
        body(to);
        to.resize(HANDSHAKE_FRAME_BYTES, 0);
    });
    frame.try_into().expect("padded to this size")
}

/// Reads a handshake frame.
///
/// # Errors
/// [`HandshakeError::Frame`] or [`HandshakeError::Kind`]. Whether the facts are welcome is
/// [`check_hello`]'s question.
pub fn decode_handshake(
    frame: &[u8; HANDSHAKE_FRAME_BYTES],
) -> Result<Handshake<'_>, HandshakeError> {
    let header =
        FrameHeader::decode(frame, HANDSHAKE_FRAME_BYTES).map_err(HandshakeError::Frame)?;
    let body = &frame[FRAME_HEADER_BYTES..];
    if header.body_bytes as usize != BODY_BYTES || header.covered_bytes as usize != BODY_BYTES {
        return Err(HandshakeError::Frame(FrameError::Body { offset: 8 }));
    }
    header.check_body(body).map_err(HandshakeError::Frame)?;
    match Kind::from_number(header.kind) {
        Some(Kind::Hello) => decode_facts(body).map(Handshake::Hello),
        Some(Kind::Welcome) => decode_facts(body).map(Handshake::Welcome),
        Some(Kind::Refused) => decode_refused(body),
        Some(Kind::Control | Kind::Bulk) | None => {
            return Err(HandshakeError::Kind { found: header.kind });
        }
    }
    .map_err(HandshakeError::Frame)
}

fn decode_refused(body: &[u8]) -> Result<Handshake<'_>, FrameError> {
    let mut from = Reader::new(body);
    let code = from.u16()?;
    let text_bytes = usize::from(from.u16()?);
    let text = from.text(text_bytes)?;
    Ok(Handshake::Refused { code, text })
}

fn decode_facts(body: &[u8]) -> Result<PeerFacts, FrameError> {
    let mut from = Reader::new(body);
    let (version_min, version_max) = (from.u8()?, from.u8()?);
    let lane = Lane::from_number(from.u8()?).ok_or(from.error())?;
    from.reserved(1)?;
    let (node, to_node) = (NodeId::new(from.u16()?), NodeId::new(from.u16()?));
    let (shard, shard_count) = (ShardId::new(from.u16()?), from.u16()?);
    from.reserved(12)?;
    let (cluster, uuid) = (ClusterId::new(from.array()?), NodeUuid::new(from.array()?));
    let boot = BootCounter::new(from.u64()?);
    let (nonce, echo, credit_bytes) = (from.u64()?, from.u64()?, from.u64()?);
    Ok(PeerFacts {
        version_min,
        version_max,
        lane,
        node,
        to_node,
        shard,
        shard_count,
        cluster,
        uuid,
        boot,
        run: RunId::new(from.array()?),
        nonce,
        echo,
        credit_bytes,
    })
}
