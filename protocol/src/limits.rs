//! Every bound of the protocol, with its unit and its reason.

/// A block: header, transactions, certificate. Bounds proposal parts, log entries and sync.
pub const BLOCK_BYTES_MAX: usize = 1024 * 1024;
/// One transaction. Also the gossip limit of the transaction topic, so a batch can hold one.
pub const TRANSACTION_BYTES_MAX: usize = 16 * 1024;
/// One gossip batch of transactions.
pub const TRANSACTION_BATCH_BYTES_MAX: usize = 64 * 1024;
/// How long a transaction waits for others to share its gossip batch, in milliseconds.
pub const TRANSACTION_BATCH_WAIT_MS: u64 = 10;
/// Signed transactions in one request of the local interface; each costs a signature to check.
pub const SUBMIT_BYTES_MAX: usize = 1024 * 1024;
/// Transactions in one block: bounds the work to apply it.
pub const BLOCK_TRANSACTIONS_MAX: usize = 4_096;
/// Bytes of transactions in one block: half of it, so that header, certificate and evidence always
/// fit beside them.
pub const BLOCK_TRANSACTION_BYTES_MAX: usize = BLOCK_BYTES_MAX / 2;
/// Evidence items in one block: each costs two signatures to check.
pub const BLOCK_EVIDENCE_MAX: usize = 32;
/// Characters of an unknown name that an error repeats.
pub const NAME_SHOWN_MAX: usize = 80;
/// Active validators.
pub const VALIDATORS_MAX: usize = 100;
/// Pending transactions of one (account, key) in a mempool.
pub const MEMPOOL_PER_KEY_MAX: usize = 64;
/// All paying transactions in a mempool: 100,000 transfers, which is what a chain at full speed
/// takes in half a minute.
pub const MEMPOOL_BYTES_MAX: usize = 72 * 1024 * 1024;
/// All stamped transactions in a mempool: what the lane takes in some hundred blocks.
pub const MEMPOOL_STAMPED_BYTES_MAX: usize = 1024 * 1024;
/// Pending transactions of one account: sixteen of the largest, or 64 small ones of several keys.
pub const MEMPOOL_PER_ACCOUNT_BYTES_MAX: usize = 272 * 1024;
/// What a pending transaction counts for besides its encoded bytes: its decoded form and its
/// places in the pool's orders.
pub const MEMPOOL_ENTRY_BYTES: usize = 512;
/// Blocks after which a pending transaction is dropped: some minutes at full speed, hours on an
/// idle chain.
pub const MEMPOOL_EXPIRY_BLOCKS: u64 = 4_096;
/// Consensus gossip message: a block and its envelope.
pub const CONSENSUS_MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bodies kept for one (height, round): an equivocating proposer costs at most this many.
pub const BODIES_PER_ROUND_MAX: usize = 2;
/// Proposals further ahead than this many rounds are not kept.
pub const ROUNDS_AHEAD_MAX: u32 = 16;

/// One blob: a large dataset in one file. Its verified ranges and its hashes (a 256th of it) must
/// stay easy to hold.
pub const BLOB_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;
/// The evaluation suite of a model. A rule of the ledger: it does not follow the bound of blobs.
pub const EVALUATION_SUITE_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Slowest limit of uploads in bytes per second: a part of 512 KiB then takes eight seconds, less
/// than a fetcher waits for it.
pub const BLOB_UPLOAD_RATE_MIN: u64 = 64 * 1024;
/// A manifest: parsed as a whole, in memory.
pub const MANIFEST_BYTES_MAX: usize = 1024 * 1024;
/// Shards of one dataset; 4,096 entries fit a manifest.
pub const DATASET_SHARDS_MAX: usize = 4_096;
/// One shard: read as a whole by a worker.
pub const SHARD_BYTES_MAX: u64 = 1024 * 1024;
/// Shard length that `data publish` aims at.
pub const SHARD_BYTES_TARGET: usize = 64 * 1024;
/// Bytes per chunk group of the outboard: log2 of (16 KiB / 1 KiB).
pub const CHUNK_GROUP_LOG: u8 = 4;
/// Bytes of one group: the least that can be verified alone.
pub const GROUP_BYTES: u64 = 1024 << CHUNK_GROUP_LOG;
/// Groups of one part, the unit of transfer: 512 KiB. Larger ones delay the discovery of a lie and
/// cost both ends memory; smaller ones cost more hashes on the way to the root.
pub const PART_GROUPS: u64 = 32;
/// Bytes of a blob that are verified and not yet synced: so much a crash costs at most. A disk that
/// pauses for a quarter of a second must not slow a fetch of 500 MiB/s.
pub const BLOB_UNSYNCED_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Blobs in one request: a batch of small ones costs one round trip.
pub const BLOB_ITEMS_PER_REQUEST_MAX: usize = 256;
/// Runs of groups asked of one blob in one request.
pub const BLOB_RUNS_PER_ITEM_MAX: usize = 64;
/// Runs of groups in an answer to "which ranges have you", of one blob. Who has more runs names
/// the longest.
pub const AVAILABILITY_RUNS_MAX: usize = 1_024;
/// Runs of groups in such an answer, of all blobs together: 40 KiB.
pub const AVAILABILITY_RUNS_PER_ANSWER_MAX: usize = 4_096;
/// Groups of a blob that may come without being asked for, with the proof of its size: 4 MiB, what
/// a fetcher risks when a blob is larger than it thought.
pub const WHOLE_GROUPS_MAX: u64 = 256;
/// A collection's list of files: read as a whole, in memory. Enough for 450,000 chunks.
pub const COLLECTION_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Files of one collection.
pub const COLLECTION_FILES_MAX: usize = 131_072;
/// A path inside a collection: less than any file system's limit, with room for the target folder.
pub const COLLECTION_PATH_BYTES_MAX: usize = 1_024;
/// One component of such a path: what file systems take.
pub const COLLECTION_NAME_BYTES_MAX: usize = 255;
/// A media type: `type/subtype`, each at most 63 characters.
pub const MEDIA_TYPE_BYTES_MAX: usize = 127;

/// Parameters of one model in this version.
pub const MODEL_PARAMETERS_MAX: u64 = 1_000_000_000;
/// One encoded delta of whatever model: all values of the largest at two bits, or of 134 million
/// parameters as f32. What a round's deltas can have follows from model and parameters.
pub const DELTA_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Models on the ledger.
pub const MODELS_MAX: usize = 1_024;
/// Datasets on the ledger; a round's entry lists them all.
pub const DATASETS_MAX: usize = 1_024;
/// One entry of the ledger state. The store refuses more, and a refused commit ends the node, so
/// no rule may write more.
pub const STATE_VALUE_BYTES_MAX: usize = 96 * 1024;
/// Nodes on which one account has stake: a ballot adds all of it up.
pub const DELEGATIONS_PER_ACCOUNT_MAX: usize = 64;
/// Open unbondings of one account from one node, and likewise redelegations to one.
pub const LIABILITIES_PER_DELEGATION_MAX: usize = 16;
/// Unbondings and redelegations that end with one block; the others wait for the next.
pub const LIABILITIES_PER_BLOCK_MAX: usize = 128;
/// Absences of one node that may still reach a liability. A node with so many stays jailed.
pub const ABSENCES_OPEN_MAX: usize = 16;
/// Validators whose work of an epoch is remembered: the active ones and those who left.
pub const ATTENDANCE_ROWS_MAX: usize = 512;
/// Registered nodes.
pub const NODES_MAX: usize = 4_096;
/// Runs of training rounds open at once: each costs work in every block.
pub const ACTIVE_RUNS_MAX: usize = 16;
/// Training rounds in one OpenRounds.
pub const ROUNDS_PER_RUN_MAX: u32 = 100_000;
/// Proposals not yet over: each is read in every block.
pub const PROPOSALS_ACTIVE_MAX: usize = 64;
/// Of them, those of one author: a deposit alone must not fill the agenda.
pub const PROPOSALS_PER_AUTHOR_MAX: usize = 4;
/// Proposals executed in one block; the others wait for the next.
pub const EXECUTIONS_PER_BLOCK_MAX: usize = 4;
/// Proposals kept for people to look up, the newest.
pub const PROPOSALS_KEPT_MAX: u64 = 1_024;
/// Old proposals and ballots deleted in one block: the work that a vote leaves behind is spread.
pub const PROPOSALS_SWEPT_MAX: usize = 64;
/// Bytes of a proposal's title: one line on a terminal.
pub const TITLE_BYTES_MAX: usize = 120;
/// Parameters changed by one proposal: all of them, with room.
pub const PROPOSAL_PARAMETERS_MAX: usize = 64;
/// Datasets that a direction names; the model's entry lists them.
pub const DIRECTION_DATASETS_MAX: usize = 32;
/// Adopted texts that the state lists, the newest.
pub const TEXTS_KEPT_MAX: usize = 64;
/// Blocks between the decision for new rules and their first: time to install the program,
/// besides the timelock.
pub const RULES_NOTICE_BLOCKS_MIN: u64 = 100;
/// Ballots in one page of a reading.
pub const BALLOTS_PAGE_MAX: usize = 256;
/// Ballots passed over to reach a page; a reading must not scan without end.
pub const BALLOTS_OFFSET_MAX: usize = 65_536;
/// Seats of a review panel.
pub const PANEL_SEATS_MAX: usize = 7;

/// One file that a worker writes: a checkpoint of the largest model in f32.
pub const WORKER_FILE_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// One frame between daemon and worker.
pub const WORKER_FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A tokenizer (`tokenizer.json`): the largest in use have 20 MiB.
pub const TOKENIZER_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Prompts of one generation: they share the cache's memory.
pub const PROMPTS_MAX: usize = 32;
/// Texts at which a generation stops.
pub const STOP_TEXTS_MAX: usize = 16;
/// Length of one of them.
pub const STOP_BYTES_MAX: usize = 256;
/// Prompt of a generation request.
pub const PROMPT_BYTES_MAX: usize = 64 * 1024;
/// Bytes generated by one request.
pub const GENERATE_BYTES_MAX: u32 = 16 * 1024;
/// Body of a local API request.
pub const API_BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Header times that make chain time: 2n+1 with n=5. Even, it would have two medians.
pub const CHAIN_TIME_WINDOW: usize = 11;
/// Blocks between the state of a snapshot and the header that commits to it: time to write it.
pub const SNAPSHOT_LAG: u64 = 8;
/// Blocks between an event and the beacon that decides on it.
pub const BEACON_DELAY: u64 = 2;

const _: () = assert!(BLOCK_BYTES_MAX * 2 <= CONSENSUS_MESSAGE_BYTES_MAX);
const _: () = assert!(TRANSACTION_BYTES_MAX < TRANSACTION_BATCH_BYTES_MAX);
const _: () = assert!(TRANSACTION_BATCH_BYTES_MAX < BLOCK_BYTES_MAX);
const _: () = assert!(CHAIN_TIME_WINDOW % 2 == 1);
const _: () = assert!(BLOB_BYTES_MAX.is_multiple_of(GROUP_BYTES * PART_GROUPS));
const _: () = assert!(EVALUATION_SUITE_BYTES_MAX <= BLOB_BYTES_MAX);
const _: () = assert!(AVAILABILITY_RUNS_MAX <= AVAILABILITY_RUNS_PER_ANSWER_MAX);
// A round's entry: datasets (hash and varint), members, late ones, attestors, the rest.
const _: () =
    assert!(DATASETS_MAX * 37 + VALIDATORS_MAX * (2 * 82 + 256) + 4_096 <= STATE_VALUE_BYTES_MAX);
// An attendance row: id, three counters, work.
const _: () = assert!(ATTENDANCE_ROWS_MAX * (32 + 3 * 9 + 17) + 64 <= STATE_VALUE_BYTES_MAX);
const _: () = assert!(VALIDATORS_MAX < ATTENDANCE_ROWS_MAX);
