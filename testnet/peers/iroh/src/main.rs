//! iroh-blobs from the registry, as a peer to measure against: one process that provides a blob,
//! one that fetches it.
//!
//! `provide STORE FILE` adds the file to a file store and serves it until standard input ends;
//! `fetch STORE HASH PEER ADDRESS` downloads it by its hash into a file store of its own. Both
//! print JSON objects, one a line: first what the other end needs, last what it cost.
//!
//! Deliberately absent: relays, discovery, port mapping (the address is given) and exports. What
//! is measured is the download alone, from the dial until the store has the whole blob.

#[path = "../../cost.rs"]
mod cost;

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use iroh::endpoint::presets;
use iroh::protocol::Router;
use iroh::{Endpoint, EndpointAddr, RelayMode, TransportAddr};
use iroh_blobs::store::fs::FsStore;
use iroh_blobs::{BlobsProtocol, Hash};
use serde_json::json;

use cost::Cost;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match arguments.as_slice() {
        ["provide", store, file] => runtime.block_on(provide(store.as_ref(), file.as_ref())),
        ["fetch", store, hash, peer, address] => {
            runtime.block_on(fetch(store.as_ref(), hash, peer, address))
        }
        _ => bail!("usage: provide STORE FILE | fetch STORE HASH PEER ADDRESS"),
    }
}

async fn endpoint() -> Result<Endpoint> {
    let builder = Endpoint::builder(presets::Minimal).relay_mode(RelayMode::Disabled);
    Ok(builder.clear_ip_transports().bind_addr("127.0.0.1:0")?.bind().await?)
}

async fn provide(store: &Path, file: &Path) -> Result<()> {
    let store = FsStore::load(store).await?;
    let endpoint = endpoint().await?;
    let tag = store.blobs().add_path(std::path::absolute(file)?).await?;
    let sockets = endpoint.bound_sockets();
    let address = sockets.iter().find(|socket| socket.is_ipv4()).context("no IPv4 socket")?;
    let router = Router::builder(endpoint.clone())
        .accept(iroh_blobs::ALPN, BlobsProtocol::new(&store, None))
        .spawn();
    let (hash, peer) = (tag.hash.to_string(), endpoint.id().to_string());
    println!("{}", json!({"hash": hash, "peer": peer, "address": address.to_string()}));
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    router.shutdown().await?;
    Ok(())
}

async fn fetch(store: &Path, hash: &str, peer: &str, address: &str) -> Result<()> {
    let hash: Hash = hash.parse()?;
    let address: SocketAddr = address.parse()?;
    let address = EndpointAddr::from_parts(peer.parse()?, [TransportAddr::Ip(address)]);
    let store = FsStore::load(store).await?;
    let endpoint = endpoint().await?;
    let before = Cost::now()?;
    let start = Instant::now();
    let connection = endpoint.connect(address, iroh_blobs::ALPN).await?;
    let stats = store.remote().fetch(connection, hash).await?;
    let seconds = start.elapsed().as_secs_f64();
    let mut cost = before.since()?;
    cost["seconds"] = seconds.into();
    cost["bytes"] = stats.payload_bytes_read.into();
    println!("{cost}");
    endpoint.close().await;
    store.shutdown().await?;
    Ok(())
}
