//! The operations of the ledger: the chain and credits.

use bytes::Bytes;
use protocol::api::{
    Accounts, Audit, Balance, BlockDetail, BlockRef, Blocks, BlocksQuery, ChainParameters,
    HistoryPage, HistoryQuery, SendRequest, TransactionDetail, TransactionReceipt, Validators,
    ValidatorsQuery,
};
use protocol::ids::{AccountId, TransactionHash};

use super::Client;
use super::methods::{Answer, query, text};

impl Client {
    /// Blocks at a glance.
    pub async fn blocks(&self, range: BlocksQuery) -> Answer<Blocks> {
        let parameters = [("from", text(range.from)), ("limit", text(range.limit))];
        self.get(&query("/v1/chain/blocks", &parameters)).await
    }

    /// One block, by height or hash.
    pub async fn block(&self, block: impl Into<BlockRef>) -> Answer<BlockDetail> {
        self.get(&format!("/v1/chain/block/{}", block.into())).await
    }

    /// One transaction, final or pending.
    pub async fn transaction(&self, hash: TransactionHash) -> Answer<TransactionDetail> {
        self.get(&format!("/v1/chain/tx/{hash}")).await
    }

    /// Validators of the height in progress, or of one near it.
    pub async fn validators(&self, of: ValidatorsQuery) -> Answer<Validators> {
        self.get(&query("/v1/chain/validators", &[("height", text(of.height))])).await
    }

    /// The numbers of the rules.
    pub async fn parameters(&self) -> Answer<ChainParameters> {
        self.get("/v1/chain/params").await
    }

    /// A recount of all credits.
    pub async fn audit(&self) -> Answer<Audit> {
        self.get("/v1/chain/audit").await
    }

    /// The genesis file.
    pub async fn genesis(&self) -> Answer<Bytes> {
        self.get_bytes("/v1/chain/genesis").await
    }

    /// Credits of `account`, or of the node's own.
    pub async fn balance(&self, account: Option<AccountId>) -> Answer<Balance> {
        self.get(&query("/v1/credits/balance", &[("account", text(account))])).await
    }

    /// Every account with what it earned.
    pub async fn accounts(&self) -> Answer<Accounts> {
        self.get("/v1/credits/accounts").await
    }

    /// Sends credits; returns when the transfer is final.
    pub async fn send(&self, request: &SendRequest) -> Answer<TransactionReceipt> {
        self.post("/v1/credits/send", request).await
    }

    /// An account's transactions, newest first.
    pub async fn history(&self, page: HistoryQuery) -> Answer<HistoryPage> {
        let parameters = [
            ("account", text(page.account)),
            ("before", text(page.before)),
            ("limit", text(page.limit)),
        ];
        self.get(&query("/v1/credits/history", &parameters)).await
    }
}
