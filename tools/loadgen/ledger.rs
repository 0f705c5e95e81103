//! What the cluster has promised: which record stands at which index, for every acknowledgement.
//!
//! Consecutive requests of a connection mostly get consecutive indexes, so runs of both are kept
//! instead of records: 24 bytes a run, at worst one run a request. The ledger has a bound
//! ([`RUNS_MAX`], 1 GiB); a run that reaches it ends early and says so, because an account that
//! forgets is worthless. Does not read anything back: `audit` compares.

/// 24 bytes each: 1 GiB.
const RUNS_MAX: usize = (1 << 30) / size_of::<Run>();

/// Records `number..number + count` of a group stand at `index..index + count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Run {
    /// Which group, by its place in the run's list.
    pub(crate) group: u32,
    /// How many.
    pub(crate) count: u32,
    /// Where the first one stands in the log.
    pub(crate) index: u64,
    /// The first one's number.
    pub(crate) number: u64,
}

/// Records that may or may not be in the log: sent, and neither acknowledged nor refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Doubtful {
    /// Which group, by its place in the run's list.
    pub(crate) group: u32,
    /// How many.
    pub(crate) count: u32,
    /// The first one's number.
    pub(crate) number: u64,
}

/// Every promise of one run.
#[derive(Debug)]
pub(crate) struct Ledger {
    runs: Vec<Run>,
    doubtful: Vec<Doubtful>,
    /// Per group the place of its newest run plus one; 0 is none.
    newest: Vec<u32>,
    acked: u64,
    unknown: u64,
    runs_max: usize,
}

impl Ledger {
    /// An empty one for so many groups.
    pub(crate) fn new(groups: usize) -> Self {
        Self {
            runs: Vec::new(),
            doubtful: Vec::new(),
            newest: vec![0; groups],
            acked: 0,
            unknown: 0,
            runs_max: RUNS_MAX,
        }
    }

    /// Records `number..number + count` were acknowledged at `index` and behind.
    #[inline]
    pub(crate) fn ack(&mut self, run: Run) {
        self.acked += u64::from(run.count);
        let newest = &mut self.newest[run.group as usize];
        if let Some(last) = (*newest as usize).checked_sub(1).map(|at| &mut self.runs[at])
            && last.index + u64::from(last.count) == run.index
            && last.number + u64::from(last.count) == run.number
            && let Some(count) = last.count.checked_add(run.count)
        {
            last.count = count;
            return;
        }
        self.runs.push(run);
        *newest = u32::try_from(self.runs.len()).expect("RUNS_MAX is below 2^32");
    }

    /// Nobody can say what became of these.
    pub(crate) fn doubt(&mut self, doubtful: Doubtful) {
        self.unknown += u64::from(doubtful.count);
        self.doubtful.push(doubtful);
    }

    /// Whether there is no room for what may still be outstanding.
    pub(crate) fn is_full(&self, outstanding: usize) -> bool {
        self.runs.len() + outstanding >= self.runs_max
    }

    /// Records acknowledged.
    pub(crate) fn acked(&self) -> u64 {
        self.acked
    }

    /// Records of unknown fate.
    pub(crate) fn unknown(&self) -> u64 {
        self.unknown
    }

    /// Everything known about each group, runs in order of index.
    pub(crate) fn into_accounts(self) -> Vec<Account> {
        let mut accounts: Vec<Account> = self.newest.iter().map(|_| Account::default()).collect();
        for run in self.runs {
            accounts[run.group as usize].runs.push(run);
        }
        for doubtful in self.doubtful {
            accounts[doubtful.group as usize].doubtful.push(doubtful);
        }
        for account in &mut accounts {
            account.runs.sort_unstable_by_key(|run| run.index);
            account.doubtful.sort_unstable_by_key(|doubtful| doubtful.number);
        }
        accounts
    }
}

/// What is known about one group.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    /// What was acknowledged, in order of index.
    pub(crate) runs: Vec<Run>,
    /// What may be there besides, in order of number.
    pub(crate) doubtful: Vec<Doubtful>,
}

impl Account {
    /// The lowest and the highest index that was acknowledged.
    pub(crate) fn bounds(&self) -> Option<(u64, u64)> {
        let first = self.runs.first()?.index;
        let last = self.runs.iter().map(|run| run.index + u64::from(run.count) - 1).max()?;
        Some((first, last))
    }

    /// One past the highest number that anybody heard of.
    pub(crate) fn numbers_end(&self) -> u64 {
        let acked = self.runs.iter().map(|run| run.number + u64::from(run.count)).max();
        let doubtful = self.doubtful.iter().map(|d| d.number + u64::from(d.count)).max();
        acked.max(doubtful).unwrap_or(0)
    }

    /// Whether record `number` is of unknown fate.
    pub(crate) fn doubts(&self, number: u64) -> bool {
        let after = self.doubtful.partition_point(|d| d.number <= number);
        after > 0 && {
            let doubtful = self.doubtful[after - 1];
            number < doubtful.number + u64::from(doubtful.count)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(group: u32, index: u64, number: u64, count: u32) -> Run {
        Run { group, count, index, number }
    }

    #[test]
    fn neighbours_become_one_run() {
        let mut ledger = Ledger::new(2);
        ledger.ack(run(0, 2, 0, 16));
        ledger.ack(run(1, 2, 0, 16));
        ledger.ack(run(0, 18, 16, 16));
        ledger.ack(run(0, 50, 48, 16)); // Another connection's records lie between.
        ledger.ack(run(0, 34, 32, 16));
        assert_eq!(ledger.acked(), 80);
        let accounts = ledger.into_accounts();
        assert_eq!(accounts[0].runs, [run(0, 2, 0, 32), run(0, 34, 32, 16), run(0, 50, 48, 16)]);
        assert_eq!(accounts[1].runs, [run(1, 2, 0, 16)]);
        assert_eq!(accounts[0].bounds(), Some((2, 65)));
        assert_eq!(accounts[0].numbers_end(), 64);
    }

    #[test]
    fn a_gap_in_either_breaks_the_run() {
        let mut ledger = Ledger::new(1);
        ledger.ack(run(0, 2, 0, 1));
        ledger.ack(run(0, 4, 1, 1));
        ledger.ack(run(0, 5, 9, 1));
        assert_eq!(ledger.into_accounts()[0].runs.len(), 3);
    }

    #[test]
    fn doubts_are_found_by_number() {
        let mut ledger = Ledger::new(1);
        ledger.doubt(Doubtful { group: 0, count: 4, number: 100 });
        ledger.doubt(Doubtful { group: 0, count: 2, number: 8 });
        assert_eq!(ledger.unknown(), 6);
        let account = ledger.into_accounts().remove(0);
        let doubted: Vec<u64> = (0..200).filter(|number| account.doubts(*number)).collect();
        assert_eq!(doubted, [8, 9, 100, 101, 102, 103]);
        assert_eq!(account.numbers_end(), 104);
    }

    #[test]
    fn it_says_when_it_is_full() {
        let mut ledger = Ledger::new(1);
        ledger.runs_max = 3;
        ledger.ack(run(0, 1, 0, 1));
        assert!(!ledger.is_full(1));
        assert!(ledger.is_full(2));
    }
}
