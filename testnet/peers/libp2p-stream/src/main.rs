//! Raw libp2p QUIC of the version that Ayni uses, as a peer to measure against: one stream, large
//! buffers, no hashes and no files. `libp2p-perf` is built on an older libp2p and moves 1 KiB at a
//! time, which costs more than the transport itself.
//!
//! `provide` serves until standard input ends; `fetch ADDRESS BYTES` downloads that many bytes.
//! Each prints one JSON object: what the other end needs, or what the fetch cost.
//!
//! Deliberately absent: any setting of the transport. It is libp2p as it comes.

#[path = "../../cost.rs"]
mod cost;

use std::io::Read as _;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, Stream, StreamProtocol, Swarm, SwarmBuilder};
use serde_json::json;

use cost::Cost;

/// A request is a number of bytes, the answer is as many.
const PROTOCOL: StreamProtocol = StreamProtocol::new("/ayni-bench/raw/1");
/// One read or write; larger ones gain nothing here.
const BUFFER_BYTES: usize = 64 << 10;
/// Longer than a run.
const IDLE_MAX: Duration = Duration::from_secs(300);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match arguments.as_slice() {
        ["provide"] => runtime.block_on(provide()),
        ["fetch", address, bytes] => runtime.block_on(fetch(address.parse()?, bytes.parse()?)),
        _ => Err(anyhow!("usage: provide | fetch ADDRESS BYTES")),
    }
}

fn swarm() -> Result<Swarm<libp2p_stream::Behaviour>> {
    let builder = SwarmBuilder::with_new_identity().with_tokio().with_quic();
    let builder = builder.with_behaviour(|_| libp2p_stream::Behaviour::new())?;
    Ok(builder.with_swarm_config(|c| c.with_idle_connection_timeout(IDLE_MAX)).build())
}

async fn provide() -> Result<()> {
    let mut swarm = swarm()?;
    let mut incoming = swarm.behaviour().new_control().accept(PROTOCOL)?;
    tokio::spawn(async move {
        while let Some((_, stream)) = incoming.next().await {
            tokio::spawn(async move {
                if let Err(error) = answer(stream).await {
                    eprintln!("a stream broke: {error:#}");
                }
            });
        }
    });
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

async fn answer(mut stream: Stream) -> Result<()> {
    let mut length = [0; 8];
    stream.read_exact(&mut length).await?;
    let mut left = usize::try_from(u64::from_be_bytes(length))?;
    let buffer = vec![7; BUFFER_BYTES];
    while left > 0 {
        let bytes = left.min(BUFFER_BYTES);
        stream.write_all(&buffer[..bytes]).await?;
        left -= bytes;
    }
    stream.close().await?;
    Ok(())
}

async fn fetch(address: Multiaddr, bytes: u64) -> Result<()> {
    let mut swarm = swarm()?;
    let mut control = swarm.behaviour().new_control();
    let before = Cost::now()?;
    let start = Instant::now();
    swarm.dial(address)?;
    let peer = loop {
        match swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished { peer_id, .. } => break peer_id,
            SwarmEvent::OutgoingConnectionError { error, .. } => return Err(error.into()),
            _ => {}
        }
    };
    tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    let mut stream = control.open_stream(peer, PROTOCOL).await?;
    stream.write_all(&bytes.to_be_bytes()).await?;
    stream.flush().await?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut received = 0;
    while received < bytes {
        let read = stream.read(&mut buffer).await?;
        ensure!(read > 0, "the stream ended after {received} of {bytes} bytes");
        received += u64::try_from(read)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let mut cost = before.since()?;
    cost["seconds"] = seconds.into();
    cost["bytes"] = received.into();
    println!("{cost}");
    Ok(())
}
