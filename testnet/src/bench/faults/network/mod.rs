//! `bench faults --network`: real nodes killed while they train, show, review and merge.
//!
//! Four daemons with real workers train a model. Kill after kill, a node that the seed draws is
//! ended with SIGKILL, its worker with it, in the midst of what the seed wants it to have in hand,
//! is started again after a while, and must catch up; the next kill waits for that, and for a round
//! that was certified since. What any node ever said was final is written down ([`committed`]).
//!
//! Told are: how much of the text that was trained on came into a head, how long after each kill
//! the next round was certified, and what was lost of what was final, which must be nothing.
//! Deliberately absent: the loss; half of the benchmark without `--network` measures that.

mod committed;
mod report;
mod strike;

use std::collections::BTreeMap;
use std::net::{SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use protocol::amount::Height;
use protocol::api::{Round, Status};
use protocol::model::{Architecture, RoundParameters};
use protocol::review::Verdict;
use tokio::time::{Instant, sleep, sleep_until};

use self::committed::Committed;
use self::report::{Kill, Report, Work};
use self::strike::{Moment, Strike};
use super::Options;
use crate::bench::training::meter::now_ms;
use crate::bench::training::record::{Job, Kind};
use crate::bench::training::site::{NODES, Setting, Site};
use crate::network::PATIENCE;
use crate::network::process::NodeProcess;
use crate::workspace::Workspace;

/// Small, so that a round takes seconds and there is time for many kills.
const ARCHITECTURE: Architecture =
    Architecture::BytesGpt { layers: 2, width: 64, heads: 2, context: 128 };
/// Inner steps of a round: some seconds.
const STEPS: u32 = 80;
/// Rounds opened beside one for each kill: those that end while a node catches up.
const ROUNDS_SPARE: u32 = 2;
/// How often the victim's worker is looked at before a kill.
const GLANCE: Duration = Duration::from_millis(40);
/// Glances between two looks at the rounds.
const GLANCES: u32 = 6;
/// A moment that does not come by then is not waited for: the node is killed whatever it does.
const MOMENT_MAX: Duration = Duration::from_secs(45);
/// A round must be certified within this of a kill.
const ROUND_MAX: Duration = Duration::from_secs(240);

/// Deadlines that let a round go on within seconds without a member that does not come back; those
/// that come back are given time to.
fn parameters() -> Result<RoundParameters> {
    let members = u32::try_from(NODES)?;
    Ok(RoundParameters {
        inner_steps: STEPS,
        batch: 8,
        keep_per_chunk: 64,
        review_windows: 64,
        // Every delta: else hardly anybody would show anything.
        replay_ppm: 1_000_000,
        members_min: members - 1,
        members_max: members,
        overlap: true,
        join_ms: 8_000,
        train_ms: 45_000,
        submit_ms: 12_000,
        review_ms: 45_000,
        reveal_ms: 12_000,
        attest_ms: 30_000,
        ..RoundParameters::default()
    })
}

/// Kills, restarts and watches; the figures.
pub(super) async fn measure(workspace: &Workspace, options: &Options) -> Result<Report> {
    let folder = workspace.target().join("bench").join("faults-network");
    let corpus =
        Setting::texts(workspace, options.data.as_deref(), options.seed, &folder.join("corpus"))?;
    let setting = Setting {
        folder: folder.join("nodes"),
        architecture: ARCHITECTURE,
        seed: options.seed,
        upload_bytes_per_s: 0,
        corpus,
    };
    eprintln!("bench faults: starting {NODES} nodes");
    let site = Site::start(workspace, &setting).await?;
    let mut storm = Storm {
        site,
        parameters: parameters()?,
        committed: Committed::default(),
        certified: BTreeMap::new(),
        openings: Vec::new(),
        opened: 0,
        turn: 0,
        down: None,
        kills: Vec::new(),
    };
    let strikes = strike::draw(options.seed, options.kills, NODES);
    let described = || format!("seed {}; homes and logs are in {}", options.seed, folder.display());
    let outcome = storm.run(&strikes).await;
    let stopped = storm.site.network.stop().await;
    let report = outcome.with_context(described)?;
    stopped.with_context(described)?;
    Ok(report)
}

/// The socket address in `/ip4/ADDRESS/udp/PORT/..`.
fn udp(address: &str) -> Option<SocketAddrV4> {
    let mut parts = address.split('/').skip(1);
    let ip = (parts.next()? == "ip4").then(|| parts.next())??;
    let port = (parts.next()? == "udp").then(|| parts.next())??;
    Some(SocketAddrV4::new(ip.parse().ok()?, port.parse().ok()?))
}

struct Storm {
    site: Site,
    parameters: RoundParameters,
    committed: Committed,
    /// When a round was first seen certified.
    certified: BTreeMap<u32, Instant>,
    /// When rounds were opened, in milliseconds since 1970, and how many there were before.
    openings: Vec<(u64, u32)>,
    /// Rounds opened in all.
    opened: u32,
    /// Whose turn it is to be asked.
    turn: usize,
    /// Who is not asked.
    down: Option<usize>,
    kills: Vec<Kill>,
}

impl Storm {
    async fn run(&mut self, strikes: &[Strike]) -> Result<Report> {
        let started = Instant::now();
        for (number, strike) in strikes.iter().enumerate() {
            let left = u32::try_from(strikes.len() - number)?;
            self.keep_open(left, strike.victim).await?;
            let kill = self.strike(strike).await?;
            eprintln!("  kill {} of {}: {}", number + 1, strikes.len(), kill.said());
            self.kills.push(kill);
        }
        self.finish(started).await
    }

    /// Sees to it that rounds go on for as long as there are kills.
    async fn keep_open(&mut self, kills_left: u32, of: usize) -> Result<()> {
        if self.finished().await? < self.opened {
            return Ok(());
        }
        let more = kills_left + ROUNDS_SPARE;
        self.openings.push((now_ms()?, self.opened));
        self.site.open(of, more, &self.parameters).await?;
        self.opened += more;
        Ok(())
    }

    /// Looks at the rounds through the next node that runs.
    async fn look(&mut self) -> Result<()> {
        for _ in 0..NODES {
            self.turn = (self.turn + 1) % NODES;
            if self.down != Some(self.turn) {
                break;
            }
        }
        let newest = self.certified.last_key_value().map_or(1, |(round, _)| *round);
        let rounds = self.site.rounds(self.turn, newest).await?;
        self.hear(self.turn, &rounds)
    }

    /// Looks at the rounds until it is time.
    async fn look_until(&mut self, when: Instant) -> Result<()> {
        while Instant::now() < when {
            self.look().await?;
            sleep_until(when.min(Instant::now() + GLANCE * GLANCES)).await;
        }
        Ok(())
    }

    fn hear(&mut self, node: usize, rounds: &[Round]) -> Result<()> {
        let now = Instant::now();
        for round in rounds.iter().filter(|round| round.head.is_some()) {
            self.certified.entry(round.round).or_insert(now);
        }
        let name = self.site.node(node)?.name();
        self.committed.hear(&name, rounds);
        Ok(())
    }

    async fn finished(&self) -> Result<u32> {
        let rounds = self.site.rounds(self.turn, 1).await?;
        Ok(u32::try_from(rounds.iter().filter(|round| round.phase.is_finished()).count())?)
    }

    /// One kill, up to the next certified round.
    async fn strike(&mut self, strike: &Strike) -> Result<Kill> {
        self.await_moment(strike).await?;
        // With a look right before the kill: what was certified earlier does not come after it.
        self.look_until(Instant::now() + strike.wait).await?;
        self.look().await?;
        let victim = strike.victim;
        let Status { height, listen, .. } = self.site.node(victim)?.client.status().await?;
        let at = Instant::now();
        self.node(victim)?.kill().await?;
        // Else another program's connection may get its port before it comes back.
        let ports: Vec<UdpSocket> =
            listen.iter().filter_map(|address| UdpSocket::bind(udp(address)?).ok()).collect();
        let in_hand = self.site.jobs_of(victim)?;
        let back = self.bring_back(victim, at + strike.down, ports).await?;
        let answers_s = at.elapsed().as_secs_f64();
        ensure!(
            back >= height,
            "node-{victim} came back at height {back}, below {height}: it forgot blocks"
        );
        let next = self.await_round(at).await?;
        self.await_caught_up(victim).await?;
        Ok(Kill {
            node: victim,
            wanted: strike.moment,
            in_hand: Moment::now(&in_hand),
            down_s: strike.down.as_secs_f64(),
            answers_s,
            next_round_s: next.duration_since(at).as_secs_f64(),
        })
    }

    /// Starts a killed node again when it is time, looking at the others meanwhile; the height at
    /// which it comes back.
    async fn bring_back(
        &mut self,
        victim: usize,
        when: Instant,
        ports: Vec<UdpSocket>,
    ) -> Result<Height> {
        self.down = Some(victim);
        self.look_until(when).await?;
        drop(ports);
        self.node(victim)?.spawn()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(status) = self.site.node(victim)?.client.status().await {
                self.down = None;
                return Ok(status.height);
            }
            self.node(victim)?.check_runs()?;
            ensure!(Instant::now() < deadline, "node-{victim} does not answer");
            self.look().await?;
            sleep(GLANCE).await;
        }
    }

    fn node(&mut self, index: usize) -> Result<&mut NodeProcess> {
        self.site.network.nodes.get_mut(index).with_context(|| format!("there is no node {index}"))
    }

    /// Waits until the victim's worker has begun with what it is to have in hand.
    async fn await_moment(&mut self, strike: &Strike) -> Result<()> {
        let deadline = Instant::now() + MOMENT_MAX;
        let begun = |jobs: &[Job]| jobs.iter().filter(|job| job.task.kind != Kind::Start).count();
        let before = begun(&self.site.jobs_of(strike.victim)?);
        for glance in 1_u32.. {
            let jobs = self.site.jobs_of(strike.victim)?;
            if Moment::now(&jobs) == strike.moment && begun(&jobs) > before {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Ok(());
            }
            if glance.is_multiple_of(GLANCES) {
                self.look().await?;
                self.keep_open(1, self.turn).await?;
            }
            sleep(GLANCE).await;
        }
        Ok(())
    }

    /// When a round was certified that was not before the kill at `since`.
    async fn await_round(&mut self, since: Instant) -> Result<Instant> {
        loop {
            self.look().await?;
            let newest = self.certified.values().max().filter(|at| **at > since);
            if let Some(at) = newest {
                return Ok(*at);
            }
            ensure!(since.elapsed() < ROUND_MAX, "no round in {} s", ROUND_MAX.as_secs());
            self.keep_open(1, self.turn).await?;
            sleep(GLANCE * GLANCES).await;
        }
    }

    async fn await_caught_up(&self, victim: usize) -> Result<()> {
        let mut target = Height::new(0);
        for node in self.site.network.nodes.iter().filter(|node| node.index != victim) {
            target = target.max(node.client.status().await?.height);
        }
        let node = self.site.node(victim)?;
        node.wait_status("the others' height", PATIENCE, |s| s.height >= target).await?;
        Ok(())
    }

    /// Lets the open rounds end, then holds everything against everything.
    async fn finish(&mut self, started: Instant) -> Result<Report> {
        let mut moved = (Instant::now(), 0);
        loop {
            self.look().await?;
            let finished = self.finished().await?;
            if finished >= self.opened {
                break;
            }
            if finished > moved.1 {
                moved = (Instant::now(), finished);
            }
            ensure!(moved.0.elapsed() < ROUND_MAX, "no round in {} s", ROUND_MAX.as_secs());
            sleep(GLANCE * GLANCES).await;
        }
        let (height, blocks_agree) = self.tip().await?;
        let mut heads = Vec::new();
        for index in 0..NODES {
            let rounds = self.site.rounds(index, 1).await?;
            let name = self.site.node(index)?.name();
            self.committed.check(&name, &rounds);
            heads.push(self.site.node(index)?.client.model(&self.site.model().into()).await?);
        }
        let (mut double_signs, mut conserved, mut pending) = (0, true, Vec::new());
        for node in &self.site.network.nodes {
            let audit = node.client.audit().await?;
            double_signs = audit.double_signs.max(double_signs);
            conserved &= audit.credits_conserved;
            pending.push(node.client.status().await?.mempool_transactions);
        }
        let rounds = self.site.rounds(0, 1).await?;
        let work = self.work(&rounds)?;
        let Some(first) = heads.first() else { bail!("a network has nodes") };
        Ok(Report::new(report::Found {
            kills: std::mem::take(&mut self.kills),
            work,
            rounds: rounds.len(),
            certified: self.committed.rounds(),
            paid_micro: self.committed.paid_micro(),
            lost: self.committed.lost().to_vec(),
            heads_agree: heads.iter().all(|model| model.head_id == first.head_id),
            heads_held: heads.iter().filter(|model| model.head_held).count(),
            height,
            blocks_agree,
            conserved,
            pending,
            double_signs,
            seconds: started.elapsed().as_secs_f64(),
        }))
    }

    /// A last block, and whether all nodes have the same there: its header names the state of all.
    async fn tip(&self) -> Result<(Height, bool)> {
        let mut tip = Height::new(0);
        for node in &self.site.network.nodes {
            tip = tip.max(node.client.status().await?.height);
        }
        let mut hashes = Vec::new();
        for node in &self.site.network.nodes {
            node.wait_status("the last block", PATIENCE, |s| s.height >= tip).await?;
            hashes.push(node.client.block(tip).await?.summary.hash);
        }
        Ok((tip, hashes.windows(2).all(|pair| pair.first() == pair.last())))
    }

    /// What was trained, and what came of it.
    fn work(&self, rounds: &[Round]) -> Result<Work> {
        let step_tokens = u64::from(self.parameters.batch) * self.site.spec.window_bytes();
        let mut work = Work::default();
        let mut reached: BTreeMap<(usize, u32), u64> = BTreeMap::new();
        for (node, jobs) in self.site.jobs()?.iter().enumerate() {
            for job in jobs.iter().filter(|job| job.task.kind == Kind::Train) {
                let (Some(round), Some((first, last))) = (job.task.round, job.steps()) else {
                    continue;
                };
                work.computed += (last - first) * step_tokens;
                // What is recorded counts from where the rounds were opened.
                let earlier = self.openings.iter().rev().find(|(at, _)| *at <= job.begin_ms);
                let (_, before) = earlier.context("a training before there was a round")?;
                let reached = reached.entry((node, before + round)).or_default();
                *reached = last.max(*reached);
            }
        }
        work.once = reached.values().sum::<u64>() * step_tokens;
        for delta in rounds.iter().filter(|r| r.head.is_some()).flat_map(|round| &round.deltas) {
            let author = self.site.network.nodes.iter().find(|n| n.identity.node == delta.author);
            let author = author.context("a delta of a stranger")?.index;
            let steps = reached.get(&(author, delta.round)).copied().unwrap_or(0);
            match delta.verdict {
                Some(Verdict::Accept) => work.integrated += steps * step_tokens,
                _ => work.refused += steps * step_tokens,
            }
        }
        Ok(work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_found_in_addresses() {
        let found = udp("/ip4/127.0.0.1/udp/4001/quic-v1").expect("an address");
        assert_eq!(found.to_string(), "127.0.0.1:4001");
        for other in ["/ip4/127.0.0.1/tcp/4001", "/ip6/::1/udp/1/quic-v1", "/ip4/x/udp/1", ""] {
            assert!(udp(other).is_none(), "{other}");
        }
    }
}
