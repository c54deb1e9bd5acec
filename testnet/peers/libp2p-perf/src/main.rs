//! `libp2p-perf` from the registry, as a peer to measure against: what raw libp2p QUIC moves on
//! this machine, without hashes and files.
//!
//! `provide` serves until standard input ends; `fetch ADDRESS BYTES` downloads that many bytes.
//! Each prints one JSON object: what the other end needs, or what the fetch cost.
//!
//! Deliberately absent: TCP and uploads. The swarm is built as the crate's own program builds it.

#[path = "../../cost.rs"]
mod cost;

use std::io::Read as _;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures::StreamExt as _;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, Swarm, SwarmBuilder};
use libp2p_perf::{RunParams, RunUpdate, client, server};
use serde_json::json;

use cost::Cost;

/// As in the crate's own program.
const IDLE_MAX: Duration = Duration::from_secs(300);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match arguments.as_slice() {
        ["provide"] => runtime.block_on(provide()),
        ["fetch", address, bytes] => runtime.block_on(fetch(address.parse()?, bytes.parse()?)),
        _ => bail!("usage: provide | fetch ADDRESS BYTES"),
    }
}

fn swarm<B: NetworkBehaviour + Default>() -> Result<Swarm<B>> {
    let builder = SwarmBuilder::with_new_identity().with_tokio().with_quic();
    let builder = builder.with_behaviour(|_| B::default())?;
    Ok(builder.with_swarm_config(|c| c.with_idle_connection_timeout(IDLE_MAX)).build())
}

async fn provide() -> Result<()> {
    let mut swarm = swarm::<server::Behaviour>()?;
    swarm.listen_on("/ip4/127.0.0.1/udp/0/quic-v1".parse()?)?;
    let mut ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    loop {
        tokio::select! {
            _ = &mut ended => break,
            event = swarm.select_next_some() => {
                if let SwarmEvent::NewListenAddr { address, .. } = event {
                    println!("{}", json!({"address": address.to_string()}));
                }
            }
        }
    }
    Ok(())
}

async fn fetch(address: Multiaddr, bytes: usize) -> Result<()> {
    let mut swarm = swarm::<client::Behaviour>()?;
    let before = Cost::now()?;
    let start = Instant::now();
    swarm.dial(address)?;
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished { peer_id, .. } => {
                let all = RunParams { to_send: 0, to_receive: bytes };
                swarm.behaviour_mut().perf(peer_id, all)?;
            }
            SwarmEvent::Behaviour(client::Event { result: Ok(RunUpdate::Final(_)), .. }) => break,
            SwarmEvent::Behaviour(client::Event { result: Err(error), .. }) => bail!("{error}"),
            SwarmEvent::OutgoingConnectionError { error, .. } => return Err(error.into()),
            SwarmEvent::ConnectionClosed { .. } => bail!("the provider closed the connection"),
            _ => {}
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let mut cost = before.since()?;
    cost["seconds"] = seconds.into();
    cost["bytes"] = bytes.into();
    println!("{cost}");
    Ok(())
}
