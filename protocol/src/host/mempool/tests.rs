//! The pool against a model that keeps a list and looks at all of it every time.

use proptest::prelude::*;

use super::*;
use crate::amount::{Credits, PPM};
use crate::ids::{ChainId, ContentHash, NodeId};
use crate::keys::SecretKey;
use crate::ledger::entries::{Account, Clock};
use crate::ledger::parameters::LedgerParameters;
use crate::model::DataKind;
use crate::store::MemoryState;
use crate::transaction::{
    Capabilities, NodeKeys, Payload, RegisterNode, SignedTransaction, Transaction, Work, WorkStamp,
};

const ACCOUNTS: usize = 4;
const CHAIN: ChainId = ChainId::from_bytes([7; 32]);

fn key(index: usize) -> SecretKey {
    SecretKey::from_seed(&[u8::try_from(index + 1).expect("few"); 32])
}

/// A signed transaction whose size grows with `padding`.
fn transaction(
    index: usize,
    nonce: u64,
    tip: u64,
    moved: u64,
    padding: usize,
) -> VerifiedTransaction {
    let key = key(index);
    let payload = if padding == 0 {
        Payload::Transfer { to: key.public().account_id(), amount: Credits::from_micro(moved) }
    } else {
        Payload::PublishDataset {
            manifest: ContentHash::default(),
            name: "x".repeat(padding),
            shards: 1,
            bytes: 1,
            kind: DataKind::Text,
            node: NodeId::default(),
        }
    };
    let transaction = Transaction {
        chain: CHAIN,
        account: key.public().account_id(),
        key: key.public(),
        nonce,
        tip: Credits::from_micro(tip),
        fee_max: Credits::from_micro(fee_max(tip, moved)),
        stamp: None,
        fee_payer: None,
        payload,
    };
    SignedTransaction::sign(transaction, &key).verify(&CHAIN).expect("just signed")
}

/// Some transactions stop being affordable when the base fee rises.
const fn fee_max(tip: u64, moved: u64) -> u64 {
    if moved.is_multiple_of(3) { tip + 20 * 200 } else { 1_000_000 }
}

struct World {
    state: MemoryState,
}

impl World {
    fn new(balances: [u64; ACCOUNTS]) -> Self {
        let empty = MemoryState::default();
        let mut state = State::new(&empty);
        state.put_parameters(&LedgerParameters::default());
        state.put_clock(&Clock { base_fee: Credits::from_micro(10), ..Clock::default() });
        for (index, balance) in balances.into_iter().enumerate() {
            let account = Account { balance: Credits::from_micro(balance), ..Account::default() };
            state.put_account(&key(index).public().account_id(), &account);
        }
        let changes = state.into_changes();
        let mut memory = MemoryState::default();
        memory.apply(&changes);
        Self { state: memory }
    }

    fn balance(&self, index: usize) -> u64 {
        State::new(&self.state).account(&key(index).public().account_id()).balance.micro()
    }

    fn base_fee(&self) -> u64 {
        State::new(&self.state).clock().base_fee.micro()
    }

    fn turn_clock(&mut self, base_fee: u64) {
        let mut state = State::new(&self.state);
        let mut clock = state.clock();
        clock.height = clock.height.plus(1);
        clock.base_fee = Credits::from_micro(base_fee);
        state.put_clock(&clock);
        let changes = state.into_changes();
        self.state.apply(&changes);
    }

    /// Applies a transaction as the ledger would: the nonce, and its cost gone.
    fn spend(&mut self, index: usize, cost: u64) {
        let public = key(index).public();
        let mut state = State::new(&self.state);
        let mut account = state.account(&public.account_id());
        let left = account.balance.micro().saturating_sub(cost);
        account.balance = Credits::from_micro(left);
        state.put_account(&public.account_id(), &account);
        state.bump_nonce(&public.account_id(), &public);
        let changes = state.into_changes();
        self.state.apply(&changes);
    }
}

#[derive(Clone, Debug)]
struct Known {
    transaction: VerifiedTransaction,
    account: usize,
    nonce: u64,
    tip: u64,
    cost: u64,
    arrival: u64,
    since: u64,
}

impl Known {
    fn size(&self) -> u128 {
        self.transaction.size() as u128
    }

    fn fee(&self, base_fee: u64) -> u64 {
        base_fee * self.transaction.size() as u64 + self.tip
    }

    fn fee_max(&self) -> u64 {
        self.transaction.transaction().fee_max.micro()
    }

    fn weight(&self) -> usize {
        self.transaction.size() + limits::MEMPOOL_ENTRY_BYTES
    }

    /// Whether it pays more per byte, or came first where it pays the same.
    fn is_better(&self, other: &Self) -> bool {
        let (mine, others) =
            (u128::from(self.tip) * other.size(), u128::from(other.tip) * self.size());
        mine > others || (mine == others && self.arrival < other.arrival)
    }
}

/// The pool as a list.
struct Model {
    bounds: Bounds,
    height: u64,
    base_fee: u64,
    arrivals: u64,
    expected: [u64; ACCOUNTS],
    list: Vec<Known>,
}

impl Model {
    fn find(&self, account: usize, nonce: u64) -> Option<&Known> {
        self.list.iter().find(|known| (known.account, known.nonce) == (account, nonce))
    }

    fn runs(&self, account: usize, nonce: u64) -> bool {
        (self.expected[account]..nonce).all(|before| self.find(account, before).is_some())
    }

    fn insert(&mut self, world: &World, account: usize, new: &VerifiedTransaction) -> &'static str {
        let inner = new.transaction();
        let (nonce, tip) = (inner.nonce, inner.tip.micro());
        if self.list.iter().any(|known| known.transaction.hash() == new.hash()) {
            return "known";
        }
        if nonce < self.expected[account] {
            return "nonce_used";
        }
        if nonce >= self.expected[account] + self.bounds.per_key as u64 {
            return "nonce_too_far";
        }
        let moved = match &inner.payload {
            Payload::Transfer { amount, .. } => amount.micro(),
            _ => 0,
        };
        let known = Known {
            transaction: new.clone(),
            account,
            nonce,
            tip,
            cost: self.base_fee * new.size() as u64 + tip + moved,
            arrival: self.arrivals,
            since: self.height,
        };
        if self.base_fee * new.size() as u64 + tip > inner.fee_max.micro() {
            return "fee_too_low";
        }
        if let Some(old) = self.find(account, nonce) {
            let least = old.tip + old.tip.div_ceil(10).max(new.size() as u64);
            let same_rate = u128::from(tip) * old.size() == u128::from(old.tip) * known.size();
            if tip < least || same_rate || !known.is_better(old) {
                return "underpriced";
            }
        }
        let others = |known: &&Known| (known.account, known.nonce) != (account, nonce);
        let mut list: Vec<Known> = self.list.iter().filter(others).cloned().collect();
        let mine = list.iter().filter(|known| known.account == account);
        if mine.clone().map(|known| known.cost).sum::<u64>() + known.cost > world.balance(account) {
            return "insufficient_funds";
        }
        if mine.map(Known::weight).sum::<usize>() + known.weight() > self.bounds.account_bytes {
            return "account_full";
        }
        let runs = self.runs(account, nonce);
        let old_arrival = self.find(account, nonce).map(|old| old.arrival);
        let mut candidates = self.list.clone();
        while list.iter().map(Known::weight).sum::<usize>() + known.weight()
            > self.bounds.paying_bytes
        {
            let tails = candidates.iter().filter(|tail| {
                !candidates.iter().any(|k| k.account == tail.account && k.nonce > tail.nonce)
            });
            let worst =
                tails.map(|tail| (self.runs(tail.account, tail.nonce), tail)).reduce(|a, b| {
                    let b_worse = if a.0 == b.0 { a.1.is_better(b.1) } else { !b.0 };
                    if b_worse { b } else { a }
                });
            let Some((worst_runs, worst)) = worst else { return "pool_full" };
            let is_worse = !worst_runs && runs || worst_runs == runs && known.is_better(worst);
            if !is_worse || worst.account == account && worst.nonce <= nonce {
                return "pool_full";
            }
            let arrival = worst.arrival;
            assert_ne!(Some(arrival), old_arrival, "the replaced one is never a victim");
            candidates.retain(|k| k.arrival != arrival);
            list.retain(|k| k.arrival != arrival);
        }
        list.push(known);
        self.arrivals += 1;
        self.list = list;
        "accepted"
    }

    fn order(&self) -> Vec<TransactionHash> {
        let mut next = self.expected;
        let mut order = Vec::new();
        loop {
            let heads = (0..ACCOUNTS)
                .filter_map(|a| self.find(a, next[a]))
                .filter(|head| head.fee(self.base_fee) <= head.fee_max());
            let best = heads.reduce(|a, b| if b.is_better(a) { b } else { a });
            let Some(best) = best else { return order };
            next[best.account] += 1;
            order.push(best.transaction.hash());
        }
    }

    /// One block with these transactions, whose costs are gone from the world.
    fn applied(&mut self, world: &World, spent: &[(usize, u64)]) {
        self.height += 1;
        self.base_fee = world.base_fee();
        for (account, nonce) in spent {
            self.expected[*account] = nonce + 1;
            self.list.retain(|k| k.account != *account || k.nonce > *nonce);
        }
        for (account, _) in spent {
            loop {
                let mine = self.list.iter().filter(|k| k.account == *account);
                if mine.clone().map(|k| k.cost).sum::<u64>() <= world.balance(*account) {
                    break;
                }
                let last = mine.map(|k| k.nonce).max().expect("something costs");
                self.list.retain(|k| (k.account, k.nonce) != (*account, last));
            }
        }
        let (height, expiry) = (self.height, self.bounds.expiry_blocks);
        self.list.retain(|k| k.since + expiry > height);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert {
        account: usize,
        ahead: u64,
        tip: u64,
        moved: u64,
        padding: usize,
    },
    /// A block with the first so many candidates.
    Block {
        takes: usize,
        extra_cost: u64,
        base_fee: u64,
    },
    /// The best candidate was refused at its turn.
    Refuse,
}

fn steps() -> impl Strategy<Value = Step> {
    let tips = prop_oneof![Just(0_u64), 0..400_u64, Just(2_000), Just(100_000)];
    let padding = prop_oneof![3 => Just(0_usize), 1 => 1..300_usize];
    prop_oneof![
        8 => (0..ACCOUNTS, 0..9_u64, tips, 0..20_000_u64, padding).prop_map(
            |(account, ahead, tip, moved, padding)| Step::Insert {
                account, ahead, tip, moved: moved + 1, padding
            }
        ),
        1 => (0..6_usize, prop_oneof![2 => Just(0_u64), 1 => 0..60_000_u64], 10..30_u64)
            .prop_map(|(takes, extra_cost, base_fee)| Step::Block { takes, extra_cost, base_fee }),
        1 => Just(Step::Refuse),
    ]
}

fn compare(pool: &Mempool, model: &Model) -> Result<(), TestCaseError> {
    let order: Vec<_> = pool.candidates(Lane::Paying).map(VerifiedTransaction::hash).collect();
    prop_assert_eq!(&order, &model.order());
    prop_assert_eq!(pool.has_ready(), !order.is_empty());
    prop_assert_eq!(pool.len(), model.list.len());
    prop_assert_eq!(pool.bytes(), model.list.iter().map(Known::weight).sum::<usize>());
    prop_assert!(model.list.iter().all(|k| pool.contains(&k.transaction.hash())));
    prop_assert!(pool.bytes() <= pool.bounds.paying_bytes);
    prop_assert_eq!(pool.arrivals.len(), pool.len());
    prop_assert_eq!(pool.tails.len(), pool.queues.len());
    let pledged: u128 = pool.pledged.values().sum();
    prop_assert_eq!(pledged, model.list.iter().map(|k| u128::from(k.cost)).sum::<u128>());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn the_pool_does_what_the_list_does(script in proptest::collection::vec(steps(), 1..80)) {
        let mut world = World::new([40_000, 150_000, PPM, 100 * PPM]);
        let bounds = Bounds {
            paying_bytes: 9_000,
            stamped_bytes: 2_000,
            account_bytes: 5_000,
            per_key: 8,
            expiry_blocks: 5,
        };
        let mut pool = Mempool::new(bounds, &State::new(&world.state));
        let mut model =
            Model { bounds, height: 0, base_fee: 10, arrivals: 0, expected: [0; ACCOUNTS], list: Vec::new() };
        for step in script {
            match step {
                Step::Insert { account, ahead, tip, moved, padding } => {
                    let nonce = (model.expected[account] + ahead).saturating_sub(1);
                    let new = transaction(account, nonce, tip, moved, padding);
                    let got = pool.insert(&State::new(&world.state), new.clone());
                    let code = got.as_ref().map_or_else(MempoolError::code, |_| "accepted");
                    prop_assert_eq!(code, model.insert(&world, account, &new), "{:?}", got);
                }
                Step::Block { takes, extra_cost, base_fee } => {
                    let order: Vec<_> = model.order().into_iter().take(takes).collect();
                    let mut spent = Vec::new();
                    for hash in order {
                        let known = model.list.iter().find(|k| k.transaction.hash() == hash);
                        let known = known.expect("it is in the order").clone();
                        world.spend(known.account, known.cost + extra_cost);
                        spent.push((known.account, known.nonce));
                    }
                    world.turn_clock(base_fee);
                    model.applied(&world, &spent);
                    let spent = spent.into_iter().map(|(account, nonce)| {
                        let key = key(account).public();
                        Spent { account: key.account_id(), key, nonce }
                    });
                    pool.applied(spent, &State::new(&world.state));
                }
                Step::Refuse => {
                    if let Some(hash) = model.order().first() {
                        pool.remove(hash);
                        model.list.retain(|k| k.transaction.hash() != *hash);
                    }
                }
            }
            compare(&pool, &model)?;
        }
    }
}

#[test]
fn a_foreign_key_cannot_spend_an_accounts_share() {
    let world = World::new([PPM; ACCOUNTS]);
    let mut pool = Mempool::new(Bounds::default(), &State::new(&world.state));
    let mut stolen = transaction(0, 0, 0, 1, 0).transaction().clone();
    stolen.key = key(1).public();
    let stolen = SignedTransaction::sign(stolen, &key(1)).verify(&CHAIN).expect("signed");
    let refused = pool.insert(&State::new(&world.state), stolen);
    assert_eq!(refused, Err(MempoolError::Rejected(Rejection::NotAuthorized)));
    assert!(pool.is_empty());
}

#[test]
fn what_was_passed_over_is_not_followed() {
    let world = World::new([PPM; ACCOUNTS]);
    let mut pool = Mempool::new(Bounds::default(), &State::new(&world.state));
    for (account, nonce, tip) in [(0, 0, 900), (0, 1, 9_000), (1, 0, 500)] {
        let state = State::new(&world.state);
        pool.insert(&state, transaction(account, nonce, tip, 1, 0)).expect("room");
    }
    let mut candidates = pool.candidates(Lane::Paying);
    assert_eq!(candidates.next().map(|t| t.transaction().tip.micro()), Some(900));
    candidates.pass_over();
    assert_eq!(candidates.next().map(|t| t.transaction().tip.micro()), Some(500));
    assert!(candidates.next().is_none());
}

/// A registration that pays with work, or pretends to.
fn stamped(seed: u8, works: bool) -> VerifiedTransaction {
    let key = SecretKey::from_seed(&[seed; 32]);
    let proof = crate::keys::Signature::from_bytes([0; 64]);
    let public = key.public();
    let registration = RegisterNode {
        keys: NodeKeys { node: public, consensus: public, vrf: public, duty: public },
        node_proof: proof,
        consensus_proof: proof,
        vrf_proof: proof,
        duty_proof: proof,
        capabilities: Capabilities::default(),
        allowance: Credits::ZERO,
    };
    let mut transaction = Transaction {
        chain: CHAIN,
        account: public.account_id(),
        key: public,
        nonce: 0,
        tip: Credits::ZERO,
        fee_max: Credits::ZERO,
        stamp: Some(WorkStamp { epoch: 0, nonce: 0 }),
        fee_payer: None,
        payload: Payload::RegisterNode(Box::new(registration)),
    };
    let work = Work::new(&transaction, &Default::default());
    let bits = u32::try_from(LedgerParameters::default().stamp_bits).expect("few");
    let good = work.search(bits, 0, 1 << 26).expect("work succeeds");
    let nonce = if works { good } else { good + 1 };
    transaction.stamp = Some(WorkStamp { epoch: 0, nonce });
    SignedTransaction::sign(transaction, &key).verify(&CHAIN).expect("just signed")
}

#[test]
fn the_lanes_do_not_displace_each_other() {
    let world = World::new([PPM; ACCOUNTS]);
    let state = State::new(&world.state);
    let work = stamped(100, true);
    let bounds = Bounds {
        paying_bytes: 3 * (transaction(0, 0, 0, 1, 0).size() + limits::MEMPOOL_ENTRY_BYTES),
        stamped_bytes: 2 * (work.size() + 8 + limits::MEMPOOL_ENTRY_BYTES),
        ..Bounds::default()
    };
    let mut pool = Mempool::new(bounds, &state);
    for account in 0..3 {
        pool.insert(&state, transaction(account, 0, 0, 1, 0)).expect("room");
    }
    let full = pool.insert(&state, transaction(3, 0, 0, 1, 0));
    assert_eq!(full, Err(MempoolError::Full));

    let idle = pool.insert(&state, stamped(100, false)).expect_err("no work was done");
    assert_eq!(idle.code(), "mismatch", "{idle}");
    let first = pool.insert(&state, work).expect("the lane has its own room");
    let second = pool.insert(&state, stamped(101, true)).expect("the lane has its own room");
    assert_eq!(pool.insert(&state, stamped(102, true)), Err(MempoolError::LaneFull));
    assert_eq!(pool.len(), 5);

    // Paying more displaces one that pays, and nobody else.
    pool.insert(&state, transaction(3, 0, 50, 1, 0)).expect("better than the others");
    assert_eq!(pool.len(), 5);
    let lane: Vec<_> = pool.candidates(Lane::Stamped).map(VerifiedTransaction::hash).collect();
    assert_eq!(lane, [first, second], "in the order of arrival");
    let tips: Vec<_> = pool.candidates(Lane::Paying).map(|t| t.transaction().tip.micro()).collect();
    assert_eq!(tips, [50, 0, 0]);
}
