//! What is printed.

use comfy_table::{Table, presets};
use serde::Serialize;

use super::Options;
use super::replay::CatchingUp;

/// Figures of one run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    /// Seconds measured.
    pub(super) seconds: f64,
    /// Blocks in them.
    pub(super) blocks: u64,
    /// Transfers in these blocks.
    pub(super) transactions: u64,
    /// Blocks a second.
    pub(super) blocks_per_s: f64,
    /// Transfers a second.
    pub(super) tx_per_s: f64,
    /// Time between two blocks.
    pub(super) block_gap_p50_ms: Option<f64>,
    /// Time between two blocks, the slow ones.
    pub(super) block_gap_p99_ms: Option<f64>,
    /// From before the request to the news of the block, at the same node.
    pub(super) finality_p50_ms: Option<f64>,
    /// The same, the slow ones.
    pub(super) finality_p99_ms: Option<f64>,
    /// CPU time of one validator, over the transfers.
    pub(super) cpu_us_per_tx_and_validator: Option<f64>,
    /// CPU time of one validator, over the blocks.
    pub(super) cpu_us_per_block_and_validator: Option<f64>,
    /// Cores that all validators used.
    pub(super) cpu_cores_of_validators: f64,
    /// Cores that the load generator used.
    pub(super) cpu_cores_of_generator: f64,
    /// Growth of a validator's data folder, over the transfers.
    pub(super) disk_bytes_per_tx_and_validator: Option<f64>,
    /// Growth of the block log alone.
    pub(super) block_log_bytes_per_tx: Option<f64>,
}

/// The whole benchmark.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    /// Validator processes.
    pub(super) validators: usize,
    /// Accounts that signed.
    pub(super) accounts: usize,
    /// Cores of the machine.
    pub(super) cores: usize,
    /// Transfers a second that the steady run was given.
    pub(super) rate: u64,
    /// Transfers on the way in the saturated run.
    pub(super) window: usize,
    /// One strict verification of a signature in this run, in microseconds.
    pub(super) verification_us: f64,
    /// CPU time of one validator per transfer at saturation, in such verifications.
    pub(super) cpu_verifications_per_tx: Option<f64>,
    /// Without transactions, blocks as fast as the engine makes them.
    pub(super) empty: Figures,
    /// At the steady rate.
    pub(super) steady: Figures,
    /// Saturated.
    pub(super) saturated: Figures,
    /// A node without state replays the saturated chain from its own log.
    pub(super) replay: CatchingUp,
    /// A new node fetches the saturated chain from the validators.
    pub(super) sync: CatchingUp,
}

impl Report {
    pub(super) fn new(
        options: &Options,
        verification_us: f64,
        [empty, steady, saturated]: [Figures; 3],
        replay: CatchingUp,
        sync: CatchingUp,
    ) -> Self {
        Self {
            validators: options.validators,
            accounts: options.accounts,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            rate: options.rate,
            window: options.window,
            verification_us,
            cpu_verifications_per_tx: saturated
                .cpu_us_per_tx_and_validator
                .map(|cpu| cpu / verification_us),
            empty,
            steady,
            saturated,
            replay,
            sync,
        }
    }
}

fn shown(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
}

/// Prints the table.
pub(super) fn print(report: &Report, missed: &[String]) {
    println!(
        "\n{} validators on {} cores, {} signing accounts",
        report.validators, report.cores, report.accounts
    );
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    let steady = format!("{} tx/s", report.rate);
    table.set_header(["", "empty blocks", &steady, "saturated"]);
    type Row = (&'static str, fn(&Figures) -> Option<f64>);
    let rows: [Row; 13] = [
        ("transfers/s", |f| Some(f.tx_per_s)),
        ("finality p50, ms", |f| f.finality_p50_ms),
        ("finality p99, ms", |f| f.finality_p99_ms),
        ("CPU per transfer and validator, us", |f| f.cpu_us_per_tx_and_validator),
        ("CPU per block and validator, us", |f| f.cpu_us_per_block_and_validator),
        ("blocks/s", |f| Some(f.blocks_per_s)),
        ("time between blocks p50, ms", |f| f.block_gap_p50_ms),
        ("time between blocks p99, ms", |f| f.block_gap_p99_ms),
        ("disk per transfer and validator, bytes", |f| f.disk_bytes_per_tx_and_validator),
        ("of these in the block log", |f| f.block_log_bytes_per_tx),
        ("cores used by the validators", |f| Some(f.cpu_cores_of_validators)),
        ("cores used by the load generator", |f| Some(f.cpu_cores_of_generator)),
        ("seconds measured", |f| Some(f.seconds)),
    ];
    for (name, value) in rows {
        let cells = [&report.empty, &report.steady, &report.saturated].map(|f| shown(value(f)));
        table.add_row([[name.to_owned()].as_slice(), cells.as_slice()].concat());
    }
    println!("{table}");
    println!(
        "One verification of a signature takes {:.1} us in this run; saturated, a transfer costs \
         each validator the CPU time of {}",
        report.verification_us,
        shown(report.cpu_verifications_per_tx)
    );
    println!("A node that is behind, on the saturated chain");
    print_catching_up(report);
    if missed.is_empty() {
        println!("every aim stated for this benchmark is met");
    }
}

fn print_catching_up(report: &Report) {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["", "replay of its own log", "blocks from peers"]);
    type Row = (&'static str, fn(&CatchingUp) -> Option<f64>);
    let rows: [Row; 8] = [
        ("transfers/s", |c| Some(c.tx_per_s)),
        ("over those of the saturated chain (aim above 1)", |c| Some(c.over_chain)),
        ("blocks/s", |c| Some(c.blocks_per_s)),
        ("CPU per transfer, us", |c| c.cpu_us_per_tx),
        ("transfers", |c| Some(c.transactions as f64)),
        ("blocks", |c| Some(c.blocks as f64)),
        ("seconds", |c| Some(c.seconds)),
        ("seconds from the start of the process", |c| Some(c.seconds_from_start)),
    ];
    for (name, value) in rows {
        table.add_row([name.to_owned(), shown(value(&report.replay)), shown(value(&report.sync))]);
    }
    println!("{table}");
}
