//! What peers say about blobs, and how a request falls into parts.
//!
//! ```text
//! fetcher   BlobRequest::Get                       fetcher   BlobRequest::Have
//! server    for every item, in order:              server    Holdings, one for every blob
//!             ItemHead, and if it is Found:
//!             every part of `parts(want, size)`
//! fetcher   the next BlobRequest on the same stream, or the end
//! ```
//!
//! A part is a bao encoding of its own, from the root, without a length before it: both ends know
//! from [`parts`] which groups come next. Half-duplex: nothing is sent into an open answer.
//!
//! **Architecture invariant.** A value of these types that was decoded is within every bound here.
//! A sender asks [`BlobRequest::check`], because a request over the bounds is refused as a whole.
//!
//! Deliberately absent: frames and streams (the node's), and any trust in what is said here: a
//! size is proved by the last group, an availability by nothing.

use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use super::{BLOB_GROUPS_MAX, GroupRange, GroupRanges, all_groups, groups_of, last_group};
use crate::codec::Canonical;
use crate::ids::ContentHash;
use crate::limits::{
    AVAILABILITY_RUNS_MAX, AVAILABILITY_RUNS_PER_ANSWER_MAX, BLOB_BYTES_MAX,
    BLOB_ITEMS_PER_REQUEST_MAX, BLOB_RUNS_PER_ITEM_MAX, GROUP_BYTES, PART_GROUPS, WHOLE_GROUPS_MAX,
};

/// Bytes of data in a full part.
pub const PART_BYTES: u64 = PART_GROUPS * GROUP_BYTES;
/// Largest encoding of a part: its data, a pair of hashes per inner node, and a path to the root.
pub const PART_ENCODED_BYTES_MAX: usize = (PART_BYTES + 64 * (PART_GROUPS + 64)) as usize;

/// Encoding of a run: group numbers of a blob fit in 32 bits.
const RUN_BYTES_MAX: usize = 2 * 5;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub enum BlobRequest {
    /// Send these.
    Get(Vec<GetItem>),
    /// Which groups of these have you?
    Have(Vec<ContentHash>),
}

/// One blob of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetItem {
    /// The blob.
    pub hash: ContentHash,
    /// Which groups of it.
    pub want: Want,
}

/// Which groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    /// The last group, which proves the size; then, if the blob has at most `whole_groups_max`
    /// groups, all before it in ascending order.
    Start {
        /// At most [`WHOLE_GROUPS_MAX`]; 0 asks for the last group only.
        whole_groups_max: u32,
    },
    /// These, in ascending order. Groups that the blob has not are passed over.
    Ranges(GroupRanges),
}

/// Why a request is refused.
#[derive(Debug, Error, PartialEq, Eq, Clone, Copy)]
pub enum RequestError {
    /// Nothing asked, or too much.
    #[error("{0} blobs in one request, 1 to {BLOB_ITEMS_PER_REQUEST_MAX} are allowed")]
    Items(usize),
    /// No runs, or too many.
    #[error("{0} runs of groups of one blob, 1 to {BLOB_RUNS_PER_ITEM_MAX} are allowed")]
    Runs(usize),
    /// Beyond the largest blob.
    #[error("groups up to {0}, the largest blob has {BLOB_GROUPS_MAX}")]
    Groups(u64),
    /// A start with too much behind it.
    #[error("a start with {0} groups, at most {WHOLE_GROUPS_MAX} are allowed")]
    Whole(u32),
}

#[derive(Deserialize)]
enum Unchecked {
    Get(Vec<GetItem>),
    Have(Vec<ContentHash>),
}

impl TryFrom<Unchecked> for BlobRequest {
    type Error = RequestError;

    fn try_from(unchecked: Unchecked) -> Result<Self, RequestError> {
        let request = match unchecked {
            Unchecked::Get(items) => Self::Get(items),
            Unchecked::Have(hashes) => Self::Have(hashes),
        };
        request.check()?;
        Ok(request)
    }
}

impl Canonical for BlobRequest {
    const BYTES_MAX: usize =
        4 + BLOB_ITEMS_PER_REQUEST_MAX * (32 + 2 + BLOB_RUNS_PER_ITEM_MAX * RUN_BYTES_MAX);
}

impl BlobRequest {
    /// Whether the request is within the bounds; a decoded one is.
    pub fn check(&self) -> Result<(), RequestError> {
        let count = match self {
            Self::Get(items) => items.len(),
            Self::Have(hashes) => hashes.len(),
        };
        if !(1..=BLOB_ITEMS_PER_REQUEST_MAX).contains(&count) {
            return Err(RequestError::Items(count));
        }
        match self {
            Self::Get(items) => items.iter().try_for_each(|item| item.want.check()),
            Self::Have(_) => Ok(()),
        }
    }
}

impl Want {
    fn check(&self) -> Result<(), RequestError> {
        match self {
            Self::Start { whole_groups_max } => {
                if u64::from(*whole_groups_max) > WHOLE_GROUPS_MAX {
                    return Err(RequestError::Whole(*whole_groups_max));
                }
            }
            Self::Ranges(ranges) => {
                if !(1..=BLOB_RUNS_PER_ITEM_MAX).contains(&ranges.runs().len()) {
                    return Err(RequestError::Runs(ranges.runs().len()));
                }
                if ranges.end() > BLOB_GROUPS_MAX {
                    return Err(RequestError::Groups(ranges.end()));
                }
            }
        }
        Ok(())
    }

    /// The groups that this means in a blob of `size` bytes.
    pub fn groups(&self, size: u64) -> GroupRanges {
        parts(self, size).collect()
    }
}

/// The answer to one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ItemHead {
    /// Not here, or not for everybody.
    Missing,
    /// Here, but too many others are being served: ask again later, or ask another.
    Busy,
    /// Here, and the parts follow.
    Found {
        /// Length of the blob in bytes: unproven until the last group is verified.
        #[serde(deserialize_with = "blob_size")]
        size: u64,
    },
    /// Here in part, without some of these groups; nothing follows.
    Absent,
}

impl Canonical for ItemHead {
    const BYTES_MAX: usize = 1 + 9;
}

fn blob_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let size = u64::deserialize(deserializer)?;
    if size > BLOB_BYTES_MAX {
        let message = format!("a blob of {size} bytes, the largest has {BLOB_BYTES_MAX}");
        return Err(serde::de::Error::custom(message));
    }
    Ok(size)
}

/// Which groups of a blob a peer says it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedAvailability")]
pub enum Availability {
    /// None, or none for everybody.
    None,
    /// The whole blob.
    All {
        /// Its length in bytes.
        size: u64,
    },
    /// A part of it: not nothing, not everything, at most [`AVAILABILITY_RUNS_MAX`] runs.
    Some {
        /// Its length in bytes.
        size: u64,
        /// These groups, perhaps more.
        ranges: GroupRanges,
    },
}

/// Why an availability is refused.
#[derive(Debug, Error, PartialEq, Eq, Clone, Copy)]
pub enum AvailabilityError {
    /// Larger than any blob.
    #[error("a blob of {0} bytes, the largest has {BLOB_BYTES_MAX}")]
    Size(u64),
    /// A part that is nothing, everything, or beyond the end.
    #[error("{groups} groups up to {end} are no part of a blob of {size} bytes")]
    NoPart {
        /// How many groups.
        groups: u64,
        /// The group after the last.
        end: u64,
        /// Length of the blob.
        size: u64,
    },
    /// Too many runs.
    #[error(
        "{0} runs of groups, at most {AVAILABILITY_RUNS_MAX} of a blob and \
             {AVAILABILITY_RUNS_PER_ANSWER_MAX} in all are allowed"
    )]
    Runs(usize),
    /// More blobs than can have been asked for.
    #[error("{0} blobs in one answer, at most {BLOB_ITEMS_PER_REQUEST_MAX} are allowed")]
    Items(usize),
}

#[derive(Deserialize)]
enum UncheckedAvailability {
    None,
    All { size: u64 },
    Some { size: u64, ranges: GroupRanges },
}

impl TryFrom<UncheckedAvailability> for Availability {
    type Error = AvailabilityError;

    fn try_from(unchecked: UncheckedAvailability) -> Result<Self, AvailabilityError> {
        let (size, ranges) = match unchecked {
            UncheckedAvailability::None => return Ok(Self::None),
            UncheckedAvailability::All { size } => (size, None),
            UncheckedAvailability::Some { size, ranges } => (size, Some(ranges)),
        };
        if size > BLOB_BYTES_MAX {
            return Err(AvailabilityError::Size(size));
        }
        let Some(ranges) = ranges else { return Ok(Self::All { size }) };
        let (groups, end) = (ranges.groups(), ranges.end());
        if ranges.is_empty() || end > groups_of(size) || groups == groups_of(size) {
            return Err(AvailabilityError::NoPart { groups, end, size });
        }
        if ranges.runs().len() > AVAILABILITY_RUNS_MAX {
            return Err(AvailabilityError::Runs(ranges.runs().len()));
        }
        Ok(Self::Some { size, ranges })
    }
}

impl Availability {
    /// What to say of a blob of `size` bytes of which these groups are here. Groups beyond its end
    /// are left out, and of many runs the shortest.
    pub fn of(size: u64, verified: &GroupRanges) -> Self {
        if verified.contains_all(all_groups(size)) {
            return Self::All { size };
        }
        let ranges = longest(verified.within(all_groups(size)).collect(), AVAILABILITY_RUNS_MAX);
        if ranges.is_empty() { Self::None } else { Self::Some { size, ranges } }
    }

    /// The groups. Empty for [`Availability::None`].
    pub fn groups(&self) -> GroupRanges {
        match self {
            Self::None => GroupRanges::new(),
            Self::All { size } => all_groups(*size).into(),
            Self::Some { ranges, .. } => ranges.clone(),
        }
    }

    /// Length of the blob in bytes, unproven.
    pub const fn size(&self) -> Option<u64> {
        match self {
            Self::None => None,
            Self::All { size } | Self::Some { size, .. } => Some(*size),
        }
    }

    const fn runs(&self) -> usize {
        match self {
            Self::None | Self::All { .. } => 0,
            Self::Some { ranges, .. } => ranges.runs().len(),
        }
    }
}

/// The longest `count` runs of the set.
fn longest(ranges: GroupRanges, count: usize) -> GroupRanges {
    if ranges.runs().len() <= count {
        return ranges;
    }
    let mut runs = ranges.runs().to_vec();
    runs.sort_by_key(|run| (std::cmp::Reverse(run.groups()), run.start()));
    runs.truncate(count);
    runs.sort();
    runs.into_iter().collect()
}

/// The answer to [`BlobRequest::Have`]: one availability for every blob, in the order asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Availability>")]
pub struct Holdings(Vec<Availability>);

impl TryFrom<Vec<Availability>> for Holdings {
    type Error = AvailabilityError;

    fn try_from(items: Vec<Availability>) -> Result<Self, AvailabilityError> {
        if items.len() > BLOB_ITEMS_PER_REQUEST_MAX {
            return Err(AvailabilityError::Items(items.len()));
        }
        let runs = items.iter().fold(0_usize, |sum, item| sum.saturating_add(item.runs()));
        if runs > AVAILABILITY_RUNS_PER_ANSWER_MAX {
            return Err(AvailabilityError::Runs(runs));
        }
        Ok(Self(items))
    }
}

impl Canonical for Holdings {
    const BYTES_MAX: usize = 4
        + BLOB_ITEMS_PER_REQUEST_MAX * (1 + 9 + 3)
        + AVAILABILITY_RUNS_PER_ANSWER_MAX * RUN_BYTES_MAX;
}

impl Holdings {
    /// Puts an answer together. When the runs are too many, the later blobs name fewer of them.
    pub fn new(items: impl IntoIterator<Item = Availability>) -> Self {
        let mut left = AVAILABILITY_RUNS_PER_ANSWER_MAX;
        let items = items.into_iter().take(BLOB_ITEMS_PER_REQUEST_MAX).map(|item| {
            let Availability::Some { size, ranges } = item else { return item };
            let ranges = longest(ranges, left.min(AVAILABILITY_RUNS_MAX));
            left = left.saturating_sub(ranges.runs().len());
            if ranges.is_empty() { Availability::None } else { Availability::Some { size, ranges } }
        });
        Self(items.collect())
    }

    /// One for every blob, in the order asked.
    pub fn as_slice(&self) -> &[Availability] {
        &self.0
    }

    /// One for every blob, in the order asked.
    pub fn into_vec(self) -> Vec<Availability> {
        self.0
    }
}

/// The parts in which the groups of `want` are sent, of a blob of `size` bytes: every group once.
///
/// Cut at multiples of [`PART_GROUPS`], in ascending order; for [`Want::Start`] the last group
/// comes first and alone. Groups beyond the end are left out.
pub fn parts(want: &Want, size: u64) -> Parts {
    match want {
        Want::Start { whole_groups_max } => {
            let last = last_group(size);
            let whole = groups_of(size) <= u64::from(*whole_groups_max);
            let before = GroupRange::new(0, last.start()).filter(|_| whole);
            Parts::new(Some(last), before.into_iter().collect())
        }
        Want::Ranges(ranges) => Parts::new(None, ranges.within(all_groups(size)).collect()),
    }
}

/// See [`parts`].
#[derive(Clone, Debug)]
pub struct Parts {
    alone: Option<GroupRange>,
    current: Option<GroupRange>,
    runs: std::vec::IntoIter<GroupRange>,
}

impl Parts {
    fn new(alone: Option<GroupRange>, runs: Vec<GroupRange>) -> Self {
        Self { alone, current: None, runs: runs.into_iter() }
    }

    /// The parts of these groups.
    pub fn of(ranges: &GroupRanges) -> Self {
        Self::new(None, ranges.runs().to_vec())
    }
}

impl Iterator for Parts {
    type Item = GroupRange;

    fn next(&mut self) -> Option<GroupRange> {
        if let Some(alone) = self.alone.take() {
            return Some(alone);
        }
        let run = match self.current.take() {
            Some(run) => run,
            None => self.runs.next()?,
        };
        let (part, rest) = run.split(window_of(run.start()).end());
        self.current = rest;
        part
    }
}

/// The aligned window of [`PART_GROUPS`] groups in which `group` lies.
pub const fn window_of(group: u64) -> GroupRange {
    let number = group / PART_GROUPS;
    let start = number.saturating_mul(PART_GROUPS);
    match GroupRange::new(start, start.saturating_add(PART_GROUPS)) {
        Some(window) => window,
        None => GroupRange::one(group),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{self, CodecError};

    fn set(runs: &[(u64, u64)]) -> GroupRanges {
        runs.iter().filter_map(|(start, end)| GroupRange::new(*start, *end)).collect()
    }

    fn get(want: Want) -> BlobRequest {
        BlobRequest::Get(vec![GetItem { hash: ContentHash::of(b"x"), want }])
    }

    #[test]
    fn both_ends_cut_the_same_parts() {
        let size = |groups: u64| groups * GROUP_BYTES;
        let check = |want: &Want, size: u64, expect: &[(u64, u64)]| {
            let found: Vec<_> = parts(want, size).map(|part| (part.start(), part.end())).collect();
            assert_eq!(found, expect, "{want:?} of {size}");
        };
        let start = |whole_groups_max| Want::Start { whole_groups_max };
        check(&start(0), 0, &[(0, 1)]);
        check(&start(256), 1, &[(0, 1)]);
        check(&start(256), size(70), &[(69, 70), (0, 32), (32, 64), (64, 69)]);
        check(&start(69), size(70), &[(69, 70)]);
        check(&start(70), size(65), &[(64, 65), (0, 32), (32, 64)]);
        let ranges = Want::Ranges(set(&[(3, 5), (30, 100), (128, 129), (4_000, 5_000)]));
        check(&ranges, size(1_000), &[(3, 5), (30, 32), (32, 64), (64, 96), (96, 100), (128, 129)]);
        check(&ranges, size(31), &[(3, 5), (30, 31)]);
        check(&ranges, 1, &[]);
        assert_eq!(ranges.groups(size(31)), set(&[(3, 5), (30, 31)]));
    }

    #[test]
    fn requests_are_bounded() {
        let full: GroupRanges = (0..BLOB_RUNS_PER_ITEM_MAX as u64)
            .map(|run| GroupRange::one(BLOB_GROUPS_MAX - 1 - 2 * run))
            .collect();
        let item = GetItem { hash: ContentHash::of(b"x"), want: Want::Ranges(full.clone()) };
        let largest = BlobRequest::Get(vec![item.clone(); BLOB_ITEMS_PER_REQUEST_MAX]);
        let bytes = codec::encode_checked(&largest).expect("within the bounds");
        assert_eq!(codec::decode(&bytes), Ok(largest));

        let mut more = full;
        more.insert(GroupRange::one(0));
        let check = |request: BlobRequest, error: RequestError| {
            assert_eq!(request.check(), Err(error));
            let refused = codec::decode::<BlobRequest>(&codec::encode(&request));
            assert!(matches!(refused, Err(CodecError::Malformed(_) | CodecError::TooLarge { .. })));
        };
        check(get(Want::Ranges(more)), RequestError::Runs(65));
        check(get(Want::Ranges(GroupRanges::new())), RequestError::Runs(0));
        let beyond = GroupRange::one(BLOB_GROUPS_MAX).into();
        check(get(Want::Ranges(beyond)), RequestError::Groups(BLOB_GROUPS_MAX + 1));
        check(get(Want::Start { whole_groups_max: 257 }), RequestError::Whole(257));
        check(BlobRequest::Get(vec![]), RequestError::Items(0));
        check(BlobRequest::Get(vec![item; 257]), RequestError::Items(257));
        check(BlobRequest::Have(vec![]), RequestError::Items(0));
        check(BlobRequest::Have(vec![ContentHash::of(b"x"); 257]), RequestError::Items(257));
    }

    #[test]
    fn heads_are_bounded() {
        let head = ItemHead::Found { size: BLOB_BYTES_MAX };
        assert_eq!(codec::decode(&codec::encode(&head)), Ok(head));
        let head = ItemHead::Found { size: BLOB_BYTES_MAX + 1 };
        assert!(codec::decode::<ItemHead>(&codec::encode(&head)).is_err());
    }

    #[test]
    fn availability_is_canonical_and_bounded() {
        let size = 100 * GROUP_BYTES;
        assert_eq!(Availability::of(size, &GroupRanges::new()), Availability::None);
        assert_eq!(Availability::of(size, &all_groups(size).into()), Availability::All { size });
        assert_eq!(Availability::of(size, &set(&[(200, 300)])), Availability::None);
        let part = Availability::of(size, &set(&[(3, 5), (90, 300)]));
        assert_eq!(part.groups(), set(&[(3, 5), (90, 100)]));
        for bad in [set(&[]), set(&[(0, 100)]), set(&[(99, 101)])] {
            let bad = Holdings(vec![Availability::Some { size, ranges: bad }]);
            assert!(codec::decode::<Holdings>(&codec::encode(&bad)).is_err(), "{bad:?}");
        }
        let bad = Holdings(vec![Availability::All { size: BLOB_BYTES_MAX + 1 }]);
        assert!(codec::decode::<Holdings>(&codec::encode(&bad)).is_err());
    }

    #[test]
    fn who_has_many_runs_names_the_longest() {
        let scattered: GroupRanges = (0..5_000)
            .filter_map(|run| GroupRange::new(run * 4, run * 4 + 1 + u64::from(run >= 4_500)))
            .collect();
        let size = BLOB_BYTES_MAX;
        let one = Availability::of(size, &scattered);
        assert_eq!(one.runs(), AVAILABILITY_RUNS_MAX);
        assert!(one.groups().contains(4_999 * 4 + 1), "a longer run");
        assert!(scattered.is_superset(&one.groups()));
        let answer = Holdings::new(vec![one; 300]);
        let runs: Vec<_> = answer.as_slice().iter().map(Availability::runs).collect();
        assert_eq!(runs.len(), BLOB_ITEMS_PER_REQUEST_MAX);
        assert_eq!(runs[..6], [1_024, 1_024, 1_024, 1_024, 0, 0]);
        let bytes = codec::encode_checked(&answer).expect("within the bounds");
        assert_eq!(codec::decode(&bytes), Ok(answer));
    }
}
