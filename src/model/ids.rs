//! Identities and positions, a type each.
//!
//! Apart so that a term can never be passed for an index. Raw integers become these only where
//! bytes or arguments are parsed (`new`) and leave only where they are encoded or printed (`get`).

use core::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($raw:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($raw);

        impl $name {
            /// From its number on disk, on the wire, or in a configuration.
            pub const fn new(value: $raw) -> Self {
                Self(value)
            }

            /// The number, for disk, wire and people.
            pub const fn get(self) -> $raw {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number!(
    /// One node of the cluster, as the configuration numbers it. 1 and up; 0 names no node.
    NodeId(u16), "n"
);
number!(
    /// One Raft group, which is one log. Group 0 is reserved for the cluster's own table.
    GroupId(u64), "g"
);
number!(
    /// One shard of a node: one core, one WAL, one set of peer links. 0 and up.
    ShardId(u16), "s"
);
number!(
    /// One replica of a group, never used again after its removal (M-15). 1 and up.
    ReplicaId(u32), "r"
);
number!(
    /// A Raft term (thesis 3.3). 0 means "before the first election".
    Term(u64), "t"
);
number!(
    /// Position of a record in one group's log. The first is 1; 0 means "before the log".
    LogIndex(u64), "#"
);
number!(
    /// A number of records.
    RecordCount(u32), ""
);
number!(
    /// How often a node has been started with its data directory. Durable, +1 at each start.
    BootCounter(u64), "boot"
);
number!(
    /// One block write of one shard since boot, in order of submission. The first is 1.
    WriteSeq(u64), "w"
);
number!(
    /// One client connection of one shard since boot.
    ConnId(u64), "c"
);
number!(
    /// One incarnation of a peer stream since boot; a reconnect makes a new one (N-06).
    StreamId(u64), "stream"
);

impl Term {
    /// Before the first election.
    pub const ZERO: Self = Self(0);

    /// The term a candidate asks for.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl LogIndex {
    /// Before the first record.
    pub const BEFORE_FIRST: Self = Self(0);

    /// The position after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The position before this one.
    ///
    /// # Panics
    /// At the position before the log.
    #[must_use]
    pub const fn previous(self) -> Self {
        assert!(self.0 > 0, "nothing lies before the log");
        Self(self.0 - 1)
    }

    /// The position `count` records on.
    #[must_use]
    pub fn plus(self, count: RecordCount) -> Self {
        Self(self.0 + u64::from(count.0))
    }

    /// Number of records in the half-open range `(earlier, self]`.
    ///
    /// # Panics
    /// If `earlier` lies after `self`.
    pub fn records_since(self, earlier: Self) -> u64 {
        assert!(earlier <= self, "{earlier:?} lies after {self:?}");
        self.0 - earlier.0
    }
}

impl WriteSeq {
    /// Before the first write.
    pub const NONE: Self = Self(0);

    /// The write after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl StreamId {
    /// The incarnation after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Names one log position for ever: two replicas that hold the same index of the same term hold
/// the same record (Log Matching, thesis 3.5). Ordered as elections compare logs (E-02): by term,
/// then index.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Term the record was born in. First, because the order of fields is the order of logs.
    pub term: Term,
    /// Where it lies.
    pub index: LogIndex,
}

impl EntryId {
    /// Before the first record.
    pub const BEFORE_FIRST: Self = Self { term: Term::ZERO, index: LogIndex::BEFORE_FIRST };

    /// The record at `index`, born in `term`.
    pub const fn new(term: Term, index: LogIndex) -> Self {
        Self { term, index }
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}.{:?}", self.index, self.term)
    }
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// From its 16 bytes.
            pub const fn new(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// Its 16 bytes.
            pub const fn get(self) -> [u8; 16] {
                self.0
            }

            /// Parses 32 hexadecimal digits; hyphens are ignored, so the usual notation works.
            pub fn parse(text: &str) -> Option<Self> {
                let mut bytes = [0; 16];
                let mut digits = text.chars().filter(|c| *c != '-');
                for byte in &mut bytes {
                    let high = digits.next()?.to_digit(16)?;
                    let low = digits.next()?.to_digit(16)?;
                    *byte = u8::try_from(high * 16 + low).ok()?;
                }
                digits.next().is_none().then_some(Self(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for (i, byte) in self.0.iter().enumerate() {
                    if matches!(i, 4 | 6 | 8 | 10) {
                        f.write_str("-")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

identity!(
    /// Names the cluster; stands in the configuration, on every disk and in every handshake.
    ClusterId
);
identity!(
    /// Names one formatted data directory; minted by `init`, never reused (O-03, H-05).
    NodeUuid
);
identity!(
    /// Names one run of a node between start and end; drawn at every start, so that two runs with
    /// the same boot counter, of a data directory and a copy of it, are told apart (O-04).
    RunId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_compare_by_term_then_index() {
        let id = |term, index| EntryId::new(Term::new(term), LogIndex::new(index));
        assert!(id(2, 1) > id(1, 9));
        assert!(id(2, 3) > id(2, 2));
    }

    #[test]
    fn identities_survive_printing() {
        let id = ClusterId::new(core::array::from_fn(|i| u8::try_from(i * 17).expect("small")));
        assert_eq!(id.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(ClusterId::parse(&id.to_string()), Some(id));
        assert_eq!(ClusterId::parse("0011"), None);
        assert_eq!(ClusterId::parse(&format!("{id}0")), None);
    }
}
