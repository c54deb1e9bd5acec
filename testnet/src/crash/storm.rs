//! The storm itself: blows, what is left after each, and the way back.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::future::join_all;
use protocol::amount::Height;
use protocol::config::Config;
use protocol::ids::ValidatorId;
use protocol::ledger::parameters::LedgerParameters;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::clients::{self, Over};
use super::report::Report;
use super::signatures::Signatures;
use super::strike::{Moment, Strike};
use super::told::{self, Shared, Told};
use super::{Options, check};
use crate::crash_store::chain::Draw;
use crate::network::accounts::Accounts;
use crate::network::{Plan, Validators};
use crate::workspace::Workspace;

/// Validators: with one of them down, the rest is just more than two thirds.
pub(super) const NODES: usize = 4;
/// Of them, those that keep every block; the others prune, so that pruning is killed too.
const ARCHIVES: usize = 2;
/// Signers of each node's submitting client.
const SIGNERS: usize = NODES;
/// Transfers signed beforehand for each signer, for each kill and besides.
const TRANSFERS_PER_KILL: usize = 150;
const TRANSFERS_MORE: usize = 2_000;
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// A condition must hold within this: a few rounds of consensus on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// Kills between two lines of progress.
const TELL_EVERY: u64 = 10;

/// A network under blows.
pub(super) struct Storm {
    pub(super) network: Validators,
    pub(super) told: Shared,
    pub(super) signatures: Signatures,
    pub(super) report: Report,
    pub(super) validators: Vec<ValidatorId>,
    draw: Draw,
    over: Over,
    started: Instant,
    folder: String,
    sending: Vec<JoinHandle<()>>,
    submitting: Vec<JoinHandle<Result<()>>>,
    rejoined: Vec<Duration>,
}

fn configure(index: usize, config: &mut Config) {
    config.chain.archive = index < ARCHIVES;
    // Fast blocks: more moments for the same time.
    config.chain.block_wait_ms = 100;
    config.log.level =
        "info,libp2p=warn,arc_malachitebft=warn,arc_malachitebft_sync=info".to_owned();
}

fn parameters() -> LedgerParameters {
    LedgerParameters {
        // As often as the rules allow, so that snapshots and pruning are killed too.
        snapshot_interval_blocks: 20,
        // Absence is what this command brings about; jailing for it is not its subject.
        absence_missed_ppm: 1_000_000,
        ..LedgerParameters::default()
    }
}

impl Storm {
    /// Starts the network and the clients.
    pub(super) async fn begin(workspace: &Workspace, options: &Options) -> Result<Self> {
        eprintln!("crash: {NODES} validators start");
        let plan = Plan {
            folder: workspace.target().join("crash"),
            name: "ayni-crash",
            validators: NODES,
            signers: SIGNERS,
            parameters: parameters(),
            configure,
        };
        let network = Validators::start(workspace, &plan).await?;
        let keys = network.nodes.iter().map(|node| &node.identity.keys.consensus);
        let mut storm = Self {
            told: Told::new(NODES),
            signatures: Signatures::default(),
            report: Report { seed: options.seed, ..Report::default() },
            validators: keys.map(protocol::keys::PublicKey::validator_id).collect(),
            network,
            draw: Draw(options.seed),
            over: Rc::new(Cell::new(false)),
            started: Instant::now(),
            folder: plan.folder.display().to_string(),
            sending: Vec::new(),
            submitting: Vec::new(),
            rejoined: Vec::new(),
        };
        storm.start_clients(usize::try_from(options.kills)?)?;
        Ok(storm)
    }

    fn start_clients(&mut self, kills: usize) -> Result<()> {
        let each = TRANSFERS_MORE + TRANSFERS_PER_KILL * kills;
        let genesis = &self.network.genesis;
        let mut accounts = Accounts::sign(genesis, NODES, SIGNERS, each * SIGNERS)?;
        for (index, node) in self.network.nodes.iter().enumerate() {
            let client = || node.client.clone();
            let told = || Rc::clone(&self.told);
            let next = &self.network.nodes[(index + 1) % NODES];
            let to = next.identity.account;
            tokio::task::spawn_local(told::listen(index, client(), told()));
            let sending = clients::send(client(), to, told(), Rc::clone(&self.over));
            self.sending.push(tokio::task::spawn_local(sending));
            let transfers = accounts.take(index, each);
            let submitting = clients::submit(client(), transfers, told(), Rc::clone(&self.over));
            self.submitting.push(tokio::task::spawn_local(submitting));
        }
        Ok(())
    }

    /// Where homes and logs are.
    pub(super) fn folder(&self) -> String {
        self.folder.clone()
    }

    /// Kills until `kills` processes are dead.
    pub(super) async fn kill_many(&mut self, kills: u64) -> Result<()> {
        let mut progress = 0;
        while self.report.kills < kills {
            let strike = Strike::draw(&mut self.draw, NODES, kills - self.report.kills);
            self.strike(&strike)
                .await
                .with_context(|| format!("after {} kills, {strike:?}", self.report.kills))?;
            if self.submitting.iter().any(JoinHandle::is_finished) {
                break;
            }
            if self.report.kills / TELL_EVERY > progress {
                progress = self.report.kills / TELL_EVERY;
                self.tell(kills);
            }
        }
        Ok(())
    }

    /// Ends the clients, lets everything come to rest, and asks the nodes whether they agree.
    pub(super) async fn settle(&mut self) -> Result<()> {
        eprintln!("crash: the clients end, the nodes come to rest");
        self.over.set(true);
        for submitting in self.submitting.drain(..) {
            submitting.await.context("a client failed")??;
        }
        for sending in self.sending.drain(..) {
            sending.await.context("a client failed")?;
        }
        check::at_rest(self).await
    }

    fn tell(&self, kills: u64) {
        let told = self.told.borrow();
        eprintln!(
            "  {} of {kills} kills in {:.0} s: height {}, {} transfers final, {} accepted",
            self.report.kills,
            self.started.elapsed().as_secs_f64(),
            told.tip(),
            told.finals.len(),
            told.accepted.len()
        );
    }

    async fn strike(&mut self, strike: &Strike) -> Result<()> {
        if strike.moment == Moment::AfterBlock {
            let now = self.told.borrow().tip();
            self.until("a block", |told| told.tip() > now).await?;
        }
        sleep(strike.delay).await;
        self.kill(&strike.victims).await?;
        self.report.strikes += 1;
        self.report.strikes_at_all += u64::from(strike.victims.len() == NODES);
        self.report.strikes_at_some += u64::from((2..NODES).contains(&strike.victims.len()));
        match strike.moment {
            Moment::Any | Moment::AfterBlock => sleep(strike.down).await,
            Moment::Starting { life } => {
                sleep(strike.down).await;
                self.spawn(&strike.victims)?;
                sleep(life).await;
                self.kill(&strike.victims).await?;
                self.report.kills_while_starting += strike.victims.len() as u64;
            }
            Moment::CatchingUp { away, life } => {
                let goal = self.told.borrow().tip().plus(away);
                self.until("blocks without the victim", |told| told.tip() >= goal).await?;
                self.spawn(&strike.victims)?;
                for victim in &strike.victims {
                    self.answer(*victim).await?;
                }
                sleep(life).await;
                self.kill(&strike.victims).await?;
                self.report.kills_while_catching_up += strike.victims.len() as u64;
            }
        }
        self.come_back(&strike.victims).await
    }

    /// Kills nodes at once, and holds what each left on disk to what it had said.
    async fn kill(&mut self, victims: &[usize]) -> Result<()> {
        let hit = self.network.nodes.iter_mut().filter(|node| victims.contains(&node.index));
        for killed in join_all(hit.map(async |node| node.kill().await)).await {
            killed?;
        }
        for victim in victims {
            self.report.kills += 1;
            *self.report.kills_by_node.entry(format!("node-{victim}")).or_default() += 1;
            // The last that it said may still be on its way to us.
            self.until("the end of its news", |told| !told.is_listening(*victim)).await?;
            self.examine(*victim)?;
        }
        Ok(())
    }

    /// Reads what a dead node has on disk.
    pub(super) fn examine(&mut self, victim: usize) -> Result<()> {
        let node = &self.network.nodes[victim];
        let chain = self.network.genesis.chain_id();
        let found = storage::repair::examine(&node.home.data(), &chain)
            .with_context(|| format!("{} cannot be examined", node.name()))?;
        let told = self.told.borrow();
        let (said, kept) = (told.highest(victim), found.good.map_or(Height::ZERO, |t| t.height));
        let lost = said.get().saturating_sub(kept.get());
        if lost > 0 {
            let name = node.name();
            self.report.failures.push(format!("{name} told of block {said} and has {kept}"));
        }
        self.report.blocks_lost += lost;
        // A short last record is what a kill leaves; what it would have been was told to nobody.
        self.report.torn_writes += u64::from(found.damage.is_some());
        if let Some(tip) = found.good
            && let Some(hash) = told.blocks.get(&tip.height)
            && *hash != tip.block
        {
            let (name, height) = (node.name(), tip.height);
            let failure = format!("{name} has {} at height {height}, told was {hash}", tip.block);
            self.report.failures.push(failure);
            self.report.blocks_lost += 1;
        }
        let validator = self.validators[victim];
        self.signatures
            .read(&node.home, validator, &chain)
            .with_context(|| format!("what {} signed", node.name()))
    }

    fn spawn(&mut self, victims: &[usize]) -> Result<()> {
        victims.iter().try_for_each(|victim| self.network.nodes[*victim].spawn())
    }

    /// Waits until a started node answers, and notes what it says.
    async fn answer(&mut self, victim: usize) -> Result<()> {
        // Its news of later blocks may overtake the answer.
        let said = self.told.borrow().highest(victim);
        let status = self.network.nodes[victim].answer().await?;
        let mut told = self.told.borrow_mut();
        ensure!(
            status.height >= said,
            "node-{victim} told of block {said} and came back at {}",
            status.height
        );
        told.block(victim, status.height, status.block_hash);
        Ok(())
    }

    /// Starts nodes and waits until each has a block that was made after it answered.
    pub(super) async fn come_back(&mut self, victims: &[usize]) -> Result<()> {
        let since = Instant::now();
        self.spawn(victims)?;
        for victim in victims {
            self.answer(*victim).await?;
        }
        let goal = self.told.borrow().tip().plus(1);
        for victim in victims {
            self.until(&format!("node-{victim} at height {goal}"), |told| {
                told.highest(*victim) >= goal
            })
            .await?;
            self.rejoined.push(since.elapsed());
        }
        Ok(())
    }

    /// Waits until a node has ended without being asked; what it said.
    pub(super) async fn ends_by_itself(
        &mut self,
        index: usize,
        patience: Duration,
    ) -> Result<String> {
        let node = &mut self.network.nodes[index];
        let (status, said) = node.ends_by_itself(patience).await?;
        ensure!(!status.success(), "{} ended as if all were well: {said}", node.name());
        self.until("the end of its news", |told| !told.is_listening(index)).await?;
        Ok(said)
    }

    /// Waits until what was told holds a condition. A node that ended by itself is an error.
    pub(super) async fn until(
        &mut self,
        what: &str,
        mut done: impl FnMut(&Told) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if done(&self.told.borrow()) {
                return Ok(());
            }
            for node in &mut self.network.nodes {
                node.check_runs()?;
            }
            if Instant::now() > deadline {
                self.describe().await;
                bail!("waited {} s in vain for {what}; see the nodes above", PATIENCE.as_secs());
            }
            sleep(LOOK).await;
        }
    }

    /// Tells how each node is, for whoever looks for the cause.
    async fn describe(&self) {
        for node in &self.network.nodes {
            match node.client.status().await {
                Ok(status) => eprintln!(
                    "  {}: height {}, {} peers, best known {}, {} pending, refused {:?}, {:?}",
                    node.name(),
                    status.height,
                    status.peers,
                    status.best_known_height,
                    status.mempool_transactions,
                    status.refused_messages,
                    status.warnings
                ),
                Err(error) => eprintln!("  {}: {error}", node.name()),
            }
        }
    }

    /// Stops all nodes.
    pub(super) async fn stop(&mut self) -> Result<()> {
        self.over.set(true);
        self.network.stop().await
    }

    /// Reads everything that the stopped nodes hold, and closes the report.
    pub(super) fn judge(mut self) -> Result<Report> {
        self.rejoined.sort_unstable();
        let seconds = |at: usize| self.rejoined.get(at).map_or(0.0, Duration::as_secs_f64);
        self.report.rejoin_p50_s = seconds(self.rejoined.len() / 2);
        self.report.rejoin_max_s = seconds(self.rejoined.len().saturating_sub(1));
        check::offline(&mut self)?;
        self.report.seconds = self.started.elapsed().as_secs_f64();
        Ok(self.report)
    }
}
