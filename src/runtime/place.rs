//! Which core each shard runs on.
//!
//! Apart because the answer is a policy: pinning helps when every shard has a core to itself and
//! hurts otherwise (three nodes on two cores lose with it), so it happens only when asked for.

/// The core of each shard, or `None` for shards that the kernel may move about.
pub(super) fn cores(shards: u16, pin: bool) -> Vec<Option<usize>> {
    let allowed = core_affinity::get_core_ids().unwrap_or_default();
    choose(shards, pin, &allowed.iter().map(|core| core.id).collect::<Vec<_>>())
}

fn choose(shards: u16, pin: bool, allowed: &[usize]) -> Vec<Option<usize>> {
    let shards = usize::from(shards);
    if !pin || allowed.len() < shards {
        return vec![None; shards];
    }
    allowed[..shards].iter().map(|core| Some(*core)).collect()
}

#[cfg(test)]
mod tests {
    use super::choose;

    #[test]
    fn shards_are_pinned_only_when_asked_and_when_each_has_a_core() {
        assert_eq!(choose(2, true, &[4, 6, 7]), [Some(4), Some(6)]);
        assert_eq!(choose(2, true, &[4]), [None, None]);
        assert_eq!(choose(2, false, &[4, 6]), [None, None]);
    }
}
