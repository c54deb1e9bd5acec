//! What was computed once and is asked for again: keys, proofs and signatures that were found good.
//!
//! **Invariant.** It only saves work. A name is, or hashes, everything the answer depends on, only
//! good answers are kept, and forgetting them changes nothing but time. Deliberately absent: an
//! order of forgetting; whoever fills it costs the others one computation each.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

/// See the module.
pub(crate) struct Remembered<V> {
    entries: RwLock<BTreeMap<[u8; 32], V>>,
    entries_max: usize,
}

impl<V: Copy> Remembered<V> {
    /// Nothing yet; never more than `entries_max`.
    pub(crate) const fn new(entries_max: usize) -> Self {
        Self { entries: RwLock::new(BTreeMap::new()), entries_max }
    }

    /// The answer with this name: remembered, or computed, and remembered if it is good.
    pub(crate) fn get_or<E>(
        &self,
        name: &[u8; 32],
        compute: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, E> {
        let known = self.entries.read().unwrap_or_else(PoisonError::into_inner).get(name).copied();
        match known {
            Some(value) => Ok(value),
            None => compute().inspect(|value| self.put(*name, *value)),
        }
    }

    /// Remembers a good answer.
    pub(crate) fn put(&self, name: [u8; 32], value: V) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= self.entries_max {
            entries.clear();
        }
        entries.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_answers_are_kept_and_their_number_is_bounded() {
        let remembered = Remembered::new(2);
        let ask = |name: u8, answer: Result<u8, ()>| remembered.get_or(&[name; 32], || answer);
        assert_eq!(ask(1, Err(())), Err(()));
        assert_eq!(ask(1, Ok(10)), Ok(10));
        assert_eq!(ask(1, Ok(11)), Ok(10));
        assert_eq!(ask(2, Ok(20)), Ok(20));
        assert_eq!(ask(3, Ok(30)), Ok(30));
        assert_eq!(remembered.entries.read().expect("no panic").len(), 1);
        assert_eq!(ask(1, Ok(12)), Ok(12));
    }
}
