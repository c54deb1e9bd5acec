//! Sets of groups, as sorted runs.
//!
//! **Invariant.** The runs of a [`GroupRanges`] are sorted, disjoint and not adjacent, so a set
//! has one form: equal sets are equal values and equal bytes. A single group is found by binary
//! search; changing a set moves the runs behind the change and no others.
//!
//! Deliberately absent: any bound on the number of runs. The message that holds a set bounds it.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

/// A run of groups: from `start`, up to but without `end`. Never empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Bounds")]
pub struct GroupRange {
    start: u64,
    end: u64,
}

/// What is no set of groups.
#[derive(Debug, Error, PartialEq, Eq, Clone, Copy)]
pub enum RangesError {
    /// A run without groups.
    #[error("a run of groups from {start} to {end} is empty")]
    Empty {
        /// First group.
        start: u64,
        /// The group after the last.
        end: u64,
    },
    /// A run that begins before or where the run before it ends.
    #[error("a run of groups begins at {start}, the one before it ends at {end}")]
    Unsorted {
        /// Where the later run begins.
        start: u64,
        /// Where the earlier one ends.
        end: u64,
    },
}

#[derive(Deserialize)]
struct Bounds {
    start: u64,
    end: u64,
}

impl TryFrom<Bounds> for GroupRange {
    type Error = RangesError;

    fn try_from(Bounds { start, end }: Bounds) -> Result<Self, RangesError> {
        Self::new(start, end).ok_or(RangesError::Empty { start, end })
    }
}

impl fmt::Debug for GroupRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl GroupRange {
    /// The groups from `start` to before `end`; `None` when there are none.
    pub const fn new(start: u64, end: u64) -> Option<Self> {
        if start < end { Some(Self { start, end }) } else { None }
    }

    /// One group. The number `u64::MAX` stands for the group before it: a range has an end.
    pub const fn one(group: u64) -> Self {
        let start = if group == u64::MAX { u64::MAX.saturating_sub(1) } else { group };
        Self { start, end: start.saturating_add(1) }
    }

    /// The first `groups` groups, at least one.
    pub const fn first(groups: u64) -> Self {
        Self { start: 0, end: if groups == 0 { 1 } else { groups } }
    }

    /// The first group.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// The group after the last.
    pub const fn end(self) -> u64 {
        self.end
    }

    /// How many groups, at least one.
    pub const fn groups(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether `group` is one of them.
    pub const fn contains(self, group: u64) -> bool {
        self.start <= group && group < self.end
    }

    /// The groups that are in both.
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// The groups before and from `at`; one side is `None` when `at` is not inside.
    pub fn split(self, at: u64) -> (Option<Self>, Option<Self>) {
        (Self::new(self.start, self.end.min(at)), Self::new(self.start.max(at), self.end))
    }
}

/// A set of groups.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct GroupRanges {
    runs: Vec<GroupRange>,
    /// Sum of the runs' lengths. It cannot overflow: they are disjoint.
    groups: u64,
}

impl fmt::Debug for GroupRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(&self.runs).finish()
    }
}

impl From<GroupRange> for GroupRanges {
    fn from(range: GroupRange) -> Self {
        Self::single(range)
    }
}

impl FromIterator<GroupRange> for GroupRanges {
    fn from_iter<I: IntoIterator<Item = GroupRange>>(ranges: I) -> Self {
        let mut set = Self::new();
        set.extend(ranges);
        set
    }
}

impl Extend<GroupRange> for GroupRanges {
    fn extend<I: IntoIterator<Item = GroupRange>>(&mut self, ranges: I) {
        for range in ranges {
            self.insert(range);
        }
    }
}

impl Serialize for GroupRanges {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.runs.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for GroupRanges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_runs(Vec::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl GroupRanges {
    /// No groups.
    pub const fn new() -> Self {
        Self { runs: Vec::new(), groups: 0 }
    }

    /// One run.
    pub fn single(range: GroupRange) -> Self {
        Self { runs: vec![range], groups: range.groups() }
    }

    /// The set with exactly these runs, which must be sorted and not touch.
    pub fn from_runs(runs: Vec<GroupRange>) -> Result<Self, RangesError> {
        let mut groups = 0_u64;
        let mut before: Option<u64> = None;
        for run in &runs {
            if let Some(end) = before
                && run.start <= end
            {
                return Err(RangesError::Unsorted { start: run.start, end });
            }
            before = Some(run.end);
            groups = groups.saturating_add(run.groups());
        }
        Ok(Self { runs, groups })
    }

    /// Whether there are no groups.
    pub const fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How many groups.
    pub const fn groups(&self) -> u64 {
        self.groups
    }

    /// The runs in ascending order.
    pub const fn runs(&self) -> &[GroupRange] {
        self.runs.as_slice()
    }

    /// The runs in ascending order.
    pub fn iter(&self) -> std::iter::Copied<std::slice::Iter<'_, GroupRange>> {
        self.runs.iter().copied()
    }

    /// The first run.
    pub fn first(&self) -> Option<GroupRange> {
        self.runs.first().copied()
    }

    /// The last run.
    pub fn last(&self) -> Option<GroupRange> {
        self.runs.last().copied()
    }

    /// The group after the last; 0 of the empty set.
    pub fn end(&self) -> u64 {
        self.last().map_or(0, GroupRange::end)
    }

    /// Index of the first run that ends after `group`.
    fn at(&self, group: u64) -> usize {
        self.runs.partition_point(|run| run.end <= group)
    }

    /// The runs from the first that ends after `group`: those at or behind it.
    pub fn runs_from(&self, group: u64) -> &[GroupRange] {
        self.runs.get(self.at(group)..).unwrap_or_default()
    }

    /// The run that holds `group`.
    pub fn run_of(&self, group: u64) -> Option<GroupRange> {
        self.runs_from(group).first().copied().filter(|run| run.contains(group))
    }

    /// Whether `group` is in the set.
    pub fn contains(&self, group: u64) -> bool {
        self.run_of(group).is_some()
    }

    /// Whether all of `range` is in the set.
    pub fn contains_all(&self, range: GroupRange) -> bool {
        self.run_of(range.start).is_some_and(|run| range.end <= run.end)
    }

    /// Whether every group of `other` is in this set.
    pub fn is_superset(&self, other: &Self) -> bool {
        other.groups <= self.groups && other.iter().all(|run| self.contains_all(run))
    }

    /// Whether any group of `range` is in the set.
    pub fn intersects(&self, range: GroupRange) -> bool {
        self.runs_from(range.start).first().is_some_and(|run| run.start < range.end)
    }

    /// Whether the sets share a group.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (few, many) =
            if self.runs.len() <= other.runs.len() { (self, other) } else { (other, self) };
        few.iter().any(|run| many.intersects(run))
    }

    /// Adds groups. Returns how many of them are new.
    pub fn insert(&mut self, range: GroupRange) -> u64 {
        // What comes in ascending order need not be searched for.
        if self.runs.last().is_none_or(|last| last.end < range.start) {
            self.runs.push(range);
            self.groups = self.groups.saturating_add(range.groups());
            return range.groups();
        }
        // Runs that overlap or touch the new one melt into it.
        let from = self.runs.partition_point(|run| run.end < range.start);
        let to = self.runs.partition_point(|run| run.start <= range.end);
        let melted = self.runs.get(from..to).unwrap_or_default();
        let had = melted.iter().fold(0_u64, |sum, run| sum.saturating_add(run.groups()));
        let whole = GroupRange {
            start: melted.first().map_or(range.start, |run| run.start.min(range.start)),
            end: melted.last().map_or(range.end, |run| run.end.max(range.end)),
        };
        let new = whole.groups().saturating_sub(had);
        self.groups = self.groups.saturating_add(new);
        match self.runs.get_mut(from) {
            Some(run) if to.saturating_sub(from) == 1 => *run = whole,
            _ => drop(self.runs.splice(from..to, [whole])),
        }
        new
    }

    /// Takes groups out. Returns how many of them were there.
    pub fn remove(&mut self, range: GroupRange) -> u64 {
        let from = self.at(range.start);
        let to = self.runs.partition_point(|run| run.start < range.end);
        let cut = self.runs.get(from..to).unwrap_or_default();
        let (Some(first), Some(last)) = (cut.first().copied(), cut.last().copied()) else {
            return 0;
        };
        let had = cut.iter().fold(0_u64, |sum, run| sum.saturating_add(run.groups()));
        let left = GroupRange::new(first.start, range.start);
        let right = GroupRange::new(range.end, last.end);
        let kept = [left, right].into_iter().flatten();
        let gone =
            had.saturating_sub(kept.clone().fold(0, |sum, run| sum.saturating_add(run.groups())));
        self.groups = self.groups.saturating_sub(gone);
        drop(self.runs.splice(from..to, kept));
        gone
    }

    /// Adds all groups of `other`.
    pub fn insert_all(&mut self, other: &Self) {
        self.extend(other.iter());
    }

    /// Takes all groups of `other` out.
    pub fn remove_all(&mut self, other: &Self) {
        for run in other.iter() {
            self.remove(run);
        }
    }

    /// The groups that are in either.
    pub fn union(&self, other: &Self) -> Self {
        let (mut mine, mut theirs) = (self.iter().peekable(), other.iter().peekable());
        let mut set = Self::new();
        // In ascending order every insertion is at the end.
        while let Some(run) = match (mine.peek(), theirs.peek()) {
            (Some(a), Some(b)) if a.start <= b.start => mine.next(),
            (_, Some(_)) => theirs.next(),
            (_, None) => mine.next(),
        } {
            set.insert(run);
        }
        set
    }

    /// The groups that are in both.
    pub fn intersection(&self, other: &Self) -> Self {
        let mut set = Self::new();
        let (small, large) =
            if self.runs.len() <= other.runs.len() { (self, other) } else { (other, self) };
        for run in small.iter() {
            set.extend(large.within(run));
        }
        set
    }

    /// The groups of this set that are not in `other`.
    pub fn difference(&self, other: &Self) -> Self {
        let mut set = Self::new();
        for run in self.iter() {
            set.extend(other.gaps(run));
        }
        set
    }

    /// The runs of the set inside `window`, in ascending order.
    pub fn within(&self, window: GroupRange) -> impl Iterator<Item = GroupRange> + '_ {
        self.runs_from(window.start)
            .iter()
            .take_while(move |run| run.start < window.end)
            .filter_map(move |run| run.intersection(window))
    }

    /// The runs of `window` that are not in the set, in ascending order.
    pub fn gaps(&self, window: GroupRange) -> impl Iterator<Item = GroupRange> + '_ {
        let mut from = window.start;
        self.within(window)
            .map(|run| (run.start, run.end))
            .chain([(window.end, window.end)])
            .filter_map(move |(start, end)| {
                let gap = GroupRange::new(from, start);
                from = end;
                gap
            })
    }

    /// The first run of `window` that is not in the set.
    pub fn first_missing(&self, window: GroupRange) -> Option<GroupRange> {
        self.gaps(window).next()
    }

    /// The group with `index` others of the set before it. Linear in the runs.
    pub fn nth(&self, index: u64) -> Option<u64> {
        let mut left = index;
        for run in &self.runs {
            match left.checked_sub(run.groups()) {
                Some(further) => left = further,
                None => return run.start.checked_add(left),
            }
        }
        None
    }
}

impl<'a> IntoIterator for &'a GroupRanges {
    type Item = GroupRange;
    type IntoIter = std::iter::Copied<std::slice::Iter<'a, GroupRange>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{self, Canonical};

    impl Canonical for GroupRanges {
        const BYTES_MAX: usize = 1024;
    }

    fn set(runs: &[(u64, u64)]) -> GroupRanges {
        runs.iter().filter_map(|(start, end)| GroupRange::new(*start, *end)).collect()
    }

    fn range(start: u64, end: u64) -> GroupRange {
        GroupRange::new(start, end).expect("not empty")
    }

    #[test]
    fn insertion_melts_what_touches() {
        let check = |before: &[(u64, u64)], add: (u64, u64), new: u64, after: &[(u64, u64)]| {
            let mut ranges = set(before);
            assert_eq!(ranges.insert(range(add.0, add.1)), new, "{before:?} + {add:?}");
            assert_eq!(ranges, set(after), "{before:?} + {add:?}");
            let sum: u64 = after.iter().map(|(start, end)| end - start).sum();
            assert_eq!(ranges.groups(), sum);
        };
        check(&[], (3, 5), 2, &[(3, 5)]);
        check(&[(3, 5)], (5, 6), 1, &[(3, 6)]);
        check(&[(3, 5)], (2, 3), 1, &[(2, 5)]);
        check(&[(3, 5)], (7, 8), 1, &[(3, 5), (7, 8)]);
        check(&[(3, 5), (7, 9), (11, 12)], (4, 8), 2, &[(3, 9), (11, 12)]);
        check(&[(3, 5), (7, 9), (11, 12)], (0, 20), 15, &[(0, 20)]);
        check(&[(3, 9)], (4, 5), 0, &[(3, 9)]);
        check(&[(0, 1)], (5, u64::MAX), u64::MAX - 5, &[(0, 1), (5, u64::MAX)]);
    }

    #[test]
    fn removal_splits_what_it_cuts() {
        let check = |before: &[(u64, u64)], cut: (u64, u64), gone: u64, after: &[(u64, u64)]| {
            let mut ranges = set(before);
            assert_eq!(ranges.remove(range(cut.0, cut.1)), gone, "{before:?} - {cut:?}");
            assert_eq!(ranges, set(after), "{before:?} - {cut:?}");
            let sum: u64 = after.iter().map(|(start, end)| end - start).sum();
            assert_eq!(ranges.groups(), sum);
        };
        check(&[], (3, 5), 0, &[]);
        check(&[(3, 5)], (5, 6), 0, &[(3, 5)]);
        check(&[(3, 9)], (4, 5), 1, &[(3, 4), (5, 9)]);
        check(&[(3, 9)], (3, 5), 2, &[(5, 9)]);
        check(&[(3, 9)], (8, 12), 1, &[(3, 8)]);
        check(&[(3, 5), (7, 9), (11, 14)], (4, 12), 4, &[(3, 4), (12, 14)]);
        check(&[(3, 5), (7, 9)], (0, 20), 4, &[]);
    }

    #[test]
    fn gaps_and_members() {
        let ranges = set(&[(3, 5), (7, 9)]);
        assert_eq!(
            ranges.gaps(range(0, 10)).collect::<GroupRanges>(),
            set(&[(0, 3), (5, 7), (9, 10)])
        );
        assert_eq!(ranges.gaps(range(4, 8)).collect::<GroupRanges>(), set(&[(5, 7)]));
        assert_eq!(ranges.first_missing(range(7, 9)), None);
        assert_eq!(ranges.first_missing(range(8, u64::MAX)), GroupRange::new(9, u64::MAX));
        assert_eq!(
            (0..6).map(|index| ranges.nth(index)).collect::<Vec<_>>(),
            [Some(3), Some(4), Some(7), Some(8), None, None]
        );
        assert!(ranges.contains(8) && !ranges.contains(9) && !ranges.contains(u64::MAX));
        assert!(ranges.intersects(range(0, 4)) && !ranges.intersects(range(5, 7)));
    }

    #[test]
    fn a_set_has_one_spelling() {
        let ranges = set(&[(3, 5), (7, 300)]);
        let bytes = codec::encode(&ranges);
        assert_eq!(bytes, [2, 3, 5, 7, 251, 44, 1]);
        assert_eq!(codec::decode(&bytes), Ok(ranges));
        // Empty run, backwards run, unsorted, overlapping, adjacent.
        for bad in
            [&[1, 3, 3][..], &[1, 5, 3], &[2, 7, 9, 3, 5], &[2, 3, 5, 4, 9], &[2, 3, 5, 5, 9]]
        {
            assert!(codec::decode::<GroupRanges>(bad).is_err(), "{bad:?}");
        }
    }
}
