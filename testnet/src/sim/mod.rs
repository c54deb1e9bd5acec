//! The simulator.
pub mod checkers;
mod behaviour;
mod chain;
mod clients;
mod context;
mod disk;
pub mod faults;
mod message;
mod node;
mod random;
mod signatures;
mod world;

/// spike
#[derive(Debug, clap::Args)]
pub struct Options { #[arg(long)] first_seed: u64, #[arg(long)] seeds: u64, #[arg(long)] heights: u64, #[arg(long)] trace: bool }

/// spike
pub fn run(o: &Options) -> anyhow::Result<std::process::ExitCode> {
    for s in o.first_seed..o.first_seed+o.seeds { spike(s, o.heights, o.trace); }
    Ok(std::process::ExitCode::SUCCESS)
}

/// spike
pub fn spike(seed: u64, heights: u64, trace: bool) {
    let dir = std::path::PathBuf::from(format!("/dev/shm/ayni-sim-{}", std::process::id())).join(seed.to_string());
    let start = std::time::Instant::now();
    let out = world::World::new(seed, faults::Mode::Search, heights, &dir, trace).run();
    std::fs::remove_dir_all(&dir).expect("gone");
    println!("seed {seed} heights {} events {} virtual {} s executed {} wall {:?} hash {} {:?}", out.heights, out.events, out.time/1_000_000, out.executed, start.elapsed(), blake3::Hash::from(out.hash).to_hex().as_str()[..8].to_owned(), out.violations);
}
