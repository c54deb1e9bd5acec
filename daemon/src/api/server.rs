//! Routes, limits and deadlines, and the life of the server.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use futures::FutureExt as _;
use protocol::api::ApiError;
use protocol::limits::API_BODY_BYTES_MAX;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::access::{Access, Caller};
use super::extract::Failure;
use super::socket::{self, BindError, Socket, SocketFiles};
use super::{Backend, handlers};

/// A JSON body: a prompt of the largest size, with every byte escaped, fits.
const JSON_BYTES_MAX: usize = 1024 * 1024;
/// Uploads held in memory at once; each may have [`API_BODY_BYTES_MAX`].
const UPLOADS_MAX: usize = 2;
/// Uploads that are written to the disk while they come: each needs a piece or two of memory.
const STREAMS_MAX: usize = 8;
/// The one request that takes as long as its body does; it has a deadline on silence.
const UPLOAD_PATH: &str = "/v1/data/upload";
/// A reply must have begun by then. Streams go on for as long as they like.
const REPLY_MAX: Duration = Duration::from_secs(300);
/// Requests in flight at shutdown get this long.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Where and for whom.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Path of the socket.
    pub socket: PathBuf,
    /// File into which that path is written for clients, see
    /// [`protocol::home::Home::socket_note`].
    pub note: Option<PathBuf>,
    /// Whether users of the socket folder's group may read.
    pub group_read: bool,
}

/// A bound server.
pub struct Server {
    // Before the listener, see there.
    files: SocketFiles,
    socket: Socket,
    pub(super) access: Access,
}

pub(super) struct Shared<B> {
    pub(super) backend: Arc<B>,
    pub(super) access: Access,
    pub(super) uploads: Semaphore,
    pub(super) streams: Semaphore,
    pub(super) shutdown: CancellationToken,
}

impl Connected<IncomingStream<'_, Socket>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Socket>) -> Self {
        *stream.remote_addr()
    }
}

impl Server {
    /// Takes the socket. Must be called inside a tokio runtime.
    pub fn bind(options: &ServerOptions) -> Result<Self, BindError> {
        let (files, socket) =
            socket::bind(&options.socket, options.note.as_deref(), options.group_read)?;
        let own_uid = rustix::process::geteuid().as_raw();
        let access = Access { own_uid, group_read: options.group_read };
        Ok(Self { files, socket, access })
    }

    /// Answers until `shutdown`, then removes the socket and lets requests in flight finish for a
    /// few seconds.
    pub async fn serve<B: Backend>(self, backend: Arc<B>, shutdown: CancellationToken) {
        let Self { files, socket, access } = self;
        let shared = Arc::new(Shared {
            backend,
            access,
            uploads: Semaphore::new(UPLOADS_MAX),
            streams: Semaphore::new(STREAMS_MAX),
            shutdown: shutdown.clone(),
        });
        let service = routes(shared).into_make_service_with_connect_info::<Caller>();
        let stop = shutdown.clone();
        let serving = axum::serve(socket, service).with_graceful_shutdown(async move {
            stop.cancelled().await;
            // The listener is closed after this returns: its path is still ours.
            drop(files);
        });
        let expired = async {
            shutdown.cancelled().await;
            tokio::time::sleep(DRAIN_MAX).await;
        };
        tokio::select! {
            result = serving => if let Err(error) = result {
                tracing::error!(%error, "the local interface ended");
            },
            () = expired => tracing::warn!("the local interface cut off requests in flight"),
        }
    }
}

fn routes<B: Backend>(shared: Arc<Shared<B>>) -> Router {
    use handlers as h;
    Router::new()
        .route("/v1/status", get(h::status::<B>))
        .route("/v1/peers", get(h::peers::<B>))
        .route("/v1/join-string", get(h::join_string::<B>))
        .route("/v1/node/stop", post(h::stop::<B>))
        .route("/v1/events", get(h::events::<B>))
        .merge(ledger_routes())
        .route("/v1/transactions", post(h::submit::<B>))
        .route("/v1/transactions/{hash}", get(h::transaction::<B>))
        .merge(data_routes())
        .route("/v1/models", get(h::models::<B>).post(h::create_model::<B>))
        .route("/v1/models/{model}", get(h::model::<B>))
        .route("/v1/models/{model}/generate", post(h::generate::<B>))
        .route("/v1/models/{model}/evaluate", post(h::evaluate::<B>))
        .route("/v1/models/{model}/export", post(h::export::<B>))
        .route("/v1/models/{model}/compare", post(h::compare::<B>))
        .route("/v1/rounds", get(h::rounds::<B>).post(h::open_rounds::<B>))
        .route("/v1/train/join", post(h::train_join::<B>))
        .route("/v1/train/leave", post(h::train_leave::<B>))
        .route("/v1/train/status", get(h::train_status::<B>))
        .route("/v1/reviews", get(h::reviews::<B>))
        .route("/v1/reviews/{contribution}", get(h::review::<B>))
        .route("/v1/jobs/{job}", get(h::job::<B>).delete(h::cancel_job::<B>))
        .route("/v1/jobs/{job}/events", get(h::job_events::<B>))
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(JSON_BYTES_MAX))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), guard::<B>))
        .with_state(shared)
}

fn data_routes<B: Backend>() -> Router<Arc<Shared<B>>> {
    use handlers::data as h;
    Router::new()
        .route(
            "/v1/blobs",
            post(h::store_blob::<B>).layer(DefaultBodyLimit::max(API_BODY_BYTES_MAX)),
        )
        .route("/v1/data", get(h::data::<B>))
        .route("/v1/data/publish", post(h::publish::<B>))
        .route("/v1/data/private", post(h::set_private::<B>))
        .route("/v1/data/add", post(h::add::<B>))
        .route(UPLOAD_PATH, post(h::upload::<B>))
        .route("/v1/data/get", post(h::get::<B>))
        .route("/v1/data/blobs", get(h::blobs::<B>))
        .route("/v1/data/blobs/{hash}", get(h::blob::<B>))
        .route("/v1/data/pin", post(h::pin::<B>))
        .route("/v1/data/unpin", post(h::unpin::<B>))
        .route("/v1/data/rm", post(h::remove::<B>))
        .route("/v1/data/gc", post(h::collect_garbage::<B>))
        .route("/v1/data/verify", post(h::verify::<B>))
        .route("/v1/data/providers/{hash}", get(h::providers::<B>))
}

fn ledger_routes<B: Backend>() -> Router<Arc<Shared<B>>> {
    use handlers::ledger as h;
    Router::new()
        .route("/v1/chain/blocks", get(h::blocks::<B>))
        .route("/v1/chain/block/{block}", get(h::block::<B>))
        .route("/v1/chain/tx/{hash}", get(h::find_transaction::<B>))
        .route("/v1/chain/validators", get(h::validators::<B>))
        .route("/v1/chain/params", get(h::parameters::<B>))
        .route("/v1/chain/audit", get(h::audit::<B>))
        .route("/v1/chain/genesis", get(h::genesis::<B>))
        .route("/v1/credits/balance", get(h::balance::<B>))
        .route("/v1/credits/accounts", get(h::accounts::<B>))
        .route("/v1/credits/send", post(h::send::<B>))
        .route("/v1/credits/history", get(h::history::<B>))
        .route("/v1/credits/stake", post(h::stake::<B>))
        .route("/v1/credits/stakes", get(h::stakes::<B>))
        .route("/v1/credits/proof", get(h::proof::<B>))
        .route("/v1/governance/proposals", get(h::proposals::<B>).post(h::propose::<B>))
        .route("/v1/governance/proposals/{id}", get(h::proposal::<B>))
        .route("/v1/governance/ballots", post(h::ballot::<B>))
}

/// Around every request: rights, the deadline, faults, the log.
async fn guard<B: Backend>(
    State(shared): State<Arc<Shared<B>>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = match shared.access.check(caller, &method) {
        Err(error) => Failure(error).into_response(),
        Ok(()) => {
            let answer = AssertUnwindSafe(next.run(request)).catch_unwind();
            let limit = if path == UPLOAD_PATH { Duration::MAX } else { REPLY_MAX };
            match tokio::time::timeout(limit, answer).await {
                Ok(Ok(response)) => response,
                Ok(Err(panic)) => fault(&panic),
                Err(_) => Failure(
                    ApiError::timed_out("the node did not answer in time; it may still do it")
                        .with_hint("look with `ayni status` before you ask again"),
                )
                .into_response(),
            }
        }
    };
    tracing::debug!(
        %method,
        path,
        uid = caller.uid,
        status = response.status().as_u16(),
        elapsed_ms = started.elapsed().as_millis(),
        "request"
    );
    response
}

fn fault(panic: &Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = text.unwrap_or("unknown"), "a request ended through a fault");
    Failure(
        ApiError::internal("the request ended through a fault of the node")
            .with_hint("see the log: `ayni node logs`"),
    )
    .into_response()
}

async fn no_such_path() -> Failure {
    Failure(
        ApiError::not_found("there is no such path in this interface")
            .with_hint("are `ayni` and `aynid` of the same version?"),
    )
}

async fn wrong_method() -> Failure {
    Failure(ApiError::bad_request("this path does not take this HTTP method"))
}
