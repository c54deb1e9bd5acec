//! The operations of the ledger: the chain, credits, governance.

use bytes::Bytes;
use protocol::api::{
    Accounts, Audit, Balance, BalanceProof, BallotRequest, BlockDetail, BlockRef, Blocks,
    BlocksQuery, ChainParameters, HistoryPage, HistoryQuery, ProofQuery, ProposalDetail,
    ProposalQuery, Proposals, ProposalsQuery, ProposeRequest, Proposed, SendRequest, StakeRequest,
    Stakes, StakesQuery, TransactionDetail, TransactionReceipt, Validators, ValidatorsQuery,
};
use protocol::ids::{AccountId, TransactionHash};
use protocol::transaction::ProposalId;

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
    pub async fn find_transaction(&self, hash: TransactionHash) -> Answer<TransactionDetail> {
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

    /// Stakes, unstakes, claims; returns when it is final.
    pub async fn stake(&self, request: &StakeRequest) -> Answer<TransactionReceipt> {
        self.post("/v1/credits/stake", request).await
    }

    /// What an account has at stake.
    pub async fn stakes(&self, of: StakesQuery) -> Answer<Stakes> {
        self.get(&query("/v1/credits/stakes", &[("account", text(of.account))])).await
    }

    /// A proof of a balance; returns when the block that commits it is final.
    pub async fn proof(&self, of: ProofQuery) -> Answer<BalanceProof> {
        let parameters = [
            ("account", text(of.account)),
            ("trusted_height", text(of.trusted_height)),
            ("trusted_hash", text(of.trusted_hash)),
        ];
        self.get(&query("/v1/credits/proof", &parameters)).await
    }

    /// Opens a vote; returns when it is final.
    pub async fn propose(&self, request: &ProposeRequest) -> Answer<Proposed> {
        self.post("/v1/governance/proposals", request).await
    }

    /// Votes; returns when it is final.
    pub async fn ballot(&self, request: &BallotRequest) -> Answer<TransactionReceipt> {
        self.post("/v1/governance/ballots", request).await
    }

    /// Proposals, newest first.
    pub async fn proposals(&self, page: ProposalsQuery) -> Answer<Proposals> {
        let parameters = [
            ("all", text(page.all.then_some(true))),
            ("before", text(page.before)),
            ("limit", text(page.limit)),
        ];
        self.get(&query("/v1/governance/proposals", &parameters)).await
    }

    /// One proposal and a page of its ballots.
    pub async fn proposal(&self, id: ProposalId, page: ProposalQuery) -> Answer<ProposalDetail> {
        let parameters = [("skip", text(page.skip)), ("limit", text(page.limit))];
        self.get(&query(&format!("/v1/governance/proposals/{id}"), &parameters)).await
    }
}
