//! `ayni data`: datasets, and the blobs and folders that they and everything else are made of.

mod add;
mod blobs;
mod datasets;
mod get;
mod keep;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use protocol::api::{FetchPriority, PinName};
use protocol::ids::ContentHash;

use crate::context::Context;
use crate::failure::Failure;

pub(crate) use datasets::absolute;
pub(crate) use get::locate;

/// What to do with data.
#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Take a file or folder into the node's store, pin it and tell others
    #[command(after_help = "Examples:\n  \
        ayni data add suite.txt\n  \
        ayni data add ./corpus --name corpus:2026\n  \
        ayni data add /big/weights.safetensors --in-place\n\n\
        The first line printed is the hash by which anybody can fetch it. A folder becomes a\n\
        collection: its files are cut by their contents, so that a later version of it shares\n\
        what did not change; with --in-place and --reflink they stay whole. Use `publish` for a dataset that models are trained on.")]
    Add(AddArguments),
    /// Fetch a blob or a folder by its hash, from everybody who has it at once
    #[command(after_help = "Examples:\n  \
        ayni data get HASH ./corpus\n  \
        ayni data get HASH --pin corpus:2026\n  \
        ayni data get HASH weights.bin --from NODE --priority urgent\n\n\
        Every byte is verified before it is kept. A fetch that was stopped, also by a crash,\n\
        goes on where it was when the same command runs again. Without a target the data stays\n\
        in the store under a pin.")]
    Get(GetArguments),
    /// List datasets, the private folder, and the blobs of the store
    #[command(after_help = "Examples:\n  ayni data ls\n  ayni data ls --pins\n  \
        ayni data ls --collections --json\n\n\
        Shows the first 1000 blobs unless told --all.")]
    Ls(LsArguments),
    /// Show a blob: size, how much of it is here, pins, and the files of a collection
    #[command(after_help = "Example:\n  ayni data show HASH\n\nShows the first 1000 files \
        unless told --all.")]
    Show {
        /// Its hash
        hash: ContentHash,
        /// Show every file
        #[arg(long)]
        all: bool,
    },
    /// Keep a blob, and everything in a collection, under a name
    #[command(after_help = "Examples:\n  ayni data pin HASH --name corpus:2026\n  \
        ayni data pin HASH --days 30\n\n\
        A name keeps its blob for ever, and is moved when it is given to another one.")]
    Pin(PinArguments),
    /// Keep a blob no more; `gc` removes it then
    #[command(after_help = "Examples:\n  ayni data unpin corpus:2026\n  ayni data unpin HASH\n\n\
        A hash takes away every pin of that blob.")]
    Unpin {
        /// Name of a pin, or a hash
        pin: PinName,
    },
    /// Remove a blob, and of a collection every chunk that nothing else needs
    #[command(after_help = "Examples:\n  ayni data rm HASH\n  ayni data rm HASH --force\n\n\
        Refused while a pin with a name keeps it, unless forced, and while the node needs it.")]
    Rm {
        /// Its hash
        hash: ContentHash,
        /// Also when pins name it: they go with it
        #[arg(long)]
        force: bool,
    },
    /// Remove everything that no pin keeps and the node does not need
    #[command(after_help = "Examples:\n  ayni data gc --dry-run\n  ayni data gc")]
    Gc {
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
    /// Read what is stored again and compare it with its hash
    #[command(after_help = "Examples:\n  ayni data verify\n  ayni data verify HASH\n  \
        ayni data verify --repair\n\n\
        Exits with 1 when something is damaged and was not repaired. What cannot be mended is\n\
        removed by --repair; `get` fetches it again.")]
    Verify {
        /// One blob or collection; everything without
        hash: Option<ContentHash>,
        /// Mend what can be mended, remove what cannot
        #[arg(long)]
        repair: bool,
    },
    /// Show who says that it has a blob
    #[command(after_help = "Example:\n  ayni data providers HASH\n\n\
        What they say is not proven; what they send is verified.")]
    Providers {
        /// Its hash
        hash: ContentHash,
    },
    /// Publish a folder as a dataset that everybody can train on
    #[command(after_help = "Examples:\n  \
        ayni data publish ./texts --name my-texts --licence CC-BY-4.0\n  \
        ayni data publish posts.jsonl --format jsonl --text body --held-out 0.02 --name posts \\\n      \
            --licence CC0-1.0\n  \
        ayni data publish ./digits --format images --for digits --name digits --licence MIT\n\n\
        Without --format every UTF-8 file is a document. Images lie in one folder per class;\n\
        `--for` names the classifier that the records are for. The held-out part is cut off by\n\
        content, so that no document is on both sides, and pinned: it can be a model's suite.\n\
        What is published can be copied by anybody and cannot be taken back.")]
    Publish(datasets::PublishArguments),
    /// Train on a folder of text that never leaves this node
    #[command(after_help = "Example:\n  ayni data private ~/diary\n\n\
        The text is not uploaded, but without differential privacy a delta trained on it\n\
        may still reveal parts of it.")]
    Private {
        /// Folder of text
        path: PathBuf,
    },
}

/// `ayni data add`.
#[derive(Debug, Args)]
pub(crate) struct AddArguments {
    /// File or folder
    path: PathBuf,
    /// Name of the pin that keeps it [default: its hash]
    #[arg(long)]
    name: Option<PinName>,
    /// Leave the bytes where they are; the file must not change afterwards
    #[arg(long, conflicts_with = "reflink")]
    in_place: bool,
    /// Share the blocks of the file where the file system can
    #[arg(long)]
    reflink: bool,
    /// Cut a single file by its contents, too, so that another version of it shares what is equal
    #[arg(long, conflicts_with_all = ["in_place", "reflink"])]
    chunked: bool,
    /// Do not tell others that it is here
    #[arg(long)]
    no_announce: bool,
}

/// `ayni data get`.
#[derive(Debug, Args)]
pub(crate) struct GetArguments {
    /// What to fetch
    hash: ContentHash,
    /// File or folder to write; it must not exist
    target: Option<PathBuf>,
    /// Ask this node first: its node id or peer id; may be given several times
    #[arg(long, value_name = "NODE")]
    from: Vec<String>,
    /// How urgent it is
    #[arg(long, value_enum, default_value_t = PriorityArgument::Normal)]
    priority: PriorityArgument,
    /// Replace the target if it exists
    #[arg(long, requires = "target")]
    force: bool,
    /// Keep it in the store under this name
    #[arg(long, value_name = "NAME")]
    pin: Option<PinName>,
    /// Refuse it when it has more bytes
    #[arg(long, value_name = "BYTES")]
    max: Option<u64>,
}

/// See [`FetchPriority`].
#[derive(Clone, Copy, Debug, ValueEnum)]
enum PriorityArgument {
    /// It may take its time
    Bulk,
    /// Somebody waits for it
    Normal,
    /// Before everything else
    Urgent,
}

impl From<PriorityArgument> for FetchPriority {
    fn from(priority: PriorityArgument) -> Self {
        match priority {
            PriorityArgument::Bulk => Self::Bulk,
            PriorityArgument::Normal => Self::Normal,
            PriorityArgument::Urgent => Self::Urgent,
        }
    }
}

/// `ayni data ls`.
#[derive(Debug, Args)]
pub(crate) struct LsArguments {
    /// Only pinned blobs
    #[arg(long, conflicts_with = "collections")]
    pins: bool,
    /// Only collections
    #[arg(long)]
    collections: bool,
    /// Every blob, however many
    #[arg(long)]
    all: bool,
}

/// `ayni data pin`.
#[derive(Debug, Args)]
pub(crate) struct PinArguments {
    /// What to keep; it must be here
    hash: ContentHash,
    /// Its name [default: the hash]
    #[arg(long, conflicts_with = "days")]
    name: Option<PinName>,
    /// Keep it for so many days [default: for ever]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=36_600))]
    days: Option<u64>,
    /// Do not tell others that it is here
    #[arg(long)]
    no_announce: bool,
}

/// Runs it.
pub(crate) async fn run(context: &Context, command: DataCommand) -> Result<(), Failure> {
    match command {
        DataCommand::Add(arguments) => add::run(context, arguments).await,
        DataCommand::Get(arguments) => get::run(context, arguments).await,
        DataCommand::Ls(arguments) => blobs::list(context, &arguments).await,
        DataCommand::Show { hash, all } => blobs::show(context, hash, all).await,
        DataCommand::Providers { hash } => blobs::providers(context, hash).await,
        DataCommand::Pin(arguments) => keep::pin(context, arguments).await,
        DataCommand::Unpin { pin } => keep::unpin(context, pin).await,
        DataCommand::Rm { hash, force } => keep::remove(context, hash, force).await,
        DataCommand::Gc { dry_run } => keep::collect(context, dry_run).await,
        DataCommand::Verify { hash, repair } => keep::verify(context, hash, repair).await,
        DataCommand::Publish(arguments) => datasets::publish(context, arguments).await,
        DataCommand::Private { path } => datasets::private(context, &path).await,
    }
}
