//! The router's side of the local API.

use super::leave;
use crate::command::attach;
use crate::daemon::{NodeHandle, Request, TargetRefusal};
use axum::extract::{ConnectInfo, Path, State, connect_info::Connected};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use weft_gossip::JoinToken;
use weft_ipam_crdt::RequestId;
use weft_wire::api::{
    AddressPlace, AdoptRequest, ApiError, EncryptionRequest, EncryptionSetting, ErrorReason, FreeRequest,
    KeepRequest, PodAddresses, PodRequest, RemovalAsked, RemoveRequest, Target, TargetRequest,
};
use weft_wire::fastpath::Encryption;

/// Mode of the socket: its owner and its group.
const SOCKET_MODE: u32 = 0o660;
/// Group whose members may read.
const SOCKET_GROUP: &str = "weft";
/// Largest request body: a pod request is below 1 KiB.
const BODY_MAX: usize = 16 << 10;

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    #[error("socket {path}: {source}; name another with --socket")]
    Bind { path: PathBuf, source: std::io::Error },
    #[error("another weft router answers on {path}: stop it, or name another socket with --socket")]
    InUse { path: PathBuf },
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy)]
pub(super) struct Caller {
    uid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self {
            uid: stream.io().peer_cred().ok().map(|cred| cred.uid()),
        }
    }
}

/// What the handlers share.
#[derive(Clone)]
pub(super) struct Api {
    node: NodeHandle,
    asked: Arc<AtomicU64>,
}

impl Api {
    pub(super) async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, Refusal> {
        let (answer, answered) = oneshot::channel();
        let stopping = || Refusal::new(ErrorReason::Stopping, "the router is stopping");
        self.node.send(request(answer)).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())
    }

    /// A number that no other request of the address space has.
    fn number(&self) -> RequestId {
        RequestId(self.asked.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// Says that nobody waits for an answer any longer, when it is dropped before the answer has come: the server drops
/// a handler whose client has hung up.
struct Waiting<'a> {
    node: &'a NodeHandle,
    request: RequestId,
    is_answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // While the router stops there is no runtime, and nobody to tell.
        if !self.is_answered
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (node, request) = (self.node.clone(), self.request);
            runtime.spawn(async move { node.send(Request::Cancel(request)).await });
        }
    }
}

/// A refusal; its status follows from the reason.
pub(super) struct Refusal(pub(super) ApiError);

impl Refusal {
    pub(super) fn new(reason: ErrorReason, error: impl Into<String>) -> Self {
        Self(ApiError::new(reason, error))
    }

    fn status(&self) -> StatusCode {
        match self.0.reason {
            ErrorReason::Malformed => StatusCode::BAD_REQUEST,
            ErrorReason::Forbidden => StatusCode::FORBIDDEN,
            ErrorReason::UnknownCall | ErrorReason::NotFound => StatusCode::NOT_FOUND,
            ErrorReason::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            ErrorReason::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::CONFLICT,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status(), Json(self.0)).into_response()
    }
}

/// Binds the socket. A socket file that nobody answers on is left over from a killed router and is replaced.
pub(crate) fn bind(path: &std::path::Path) -> Result<UnixListener, ServerError> {
    let failed = |source| ServerError::Bind {
        path: path.into(),
        source,
    };
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .map_err(failed)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(ServerError::InUse { path: path.into() });
    }
    match std::fs::symlink_metadata(path) {
        Ok(meta) if std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type()) => {
            std::fs::remove_file(path).map_err(failed)?;
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
    if let Some(group) = group_id(SOCKET_GROUP)
        && let Err(error) = std::os::unix::fs::chown(path, None, Some(group))
    {
        tracing::warn!(%error, socket = %path.display(), "group {SOCKET_GROUP} was not given the socket");
    }
    Ok(listener)
}

/// The number of a group in /etc/group (group(5)); none when the group or the file is missing.
fn group_id(name: &str) -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// Serves until `ended` comes, or its sender is gone; then what is being answered is still answered.
pub(crate) async fn serve(
    listener: UnixListener,
    node: NodeHandle,
    ended: oneshot::Receiver<()>,
) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/pods", post(allocate))
        // A pod may have this very name.
        .route(
            "/v1/pods/free",
            post(free).get(|api| addresses_of(api, Path("free".to_owned()))),
        )
        .route("/v1/pods/{id}", get(addresses_of))
        .route("/v1/addresses/{address}", get(lookup))
        .route("/v1/multicast", get(multicast))
        .route("/v1/ipam", get(ipam))
        .route("/v1/ipam/check", get(super::check::check))
        .route("/v1/ipam/adopt", post(adopt))
        .route(
            "/v1/connect",
            post(|api, caller, body| target(api, caller, body, Request::Connect)),
        )
        .route(
            "/v1/forget",
            post(|api, caller, body| target(api, caller, body, Request::Forget)),
        )
        .route("/v1/encryption", post(encrypt))
        .route("/v1/peers/remove", post(remove))
        .route("/v1/peers/keep", post(keep))
        .route("/v1/leave", post(leave::begin))
        .route("/v1/leave/depart", post(leave::depart))
        .route("/v1/leave/end", post(leave::end))
        .route("/v1/stay", post(leave::stay))
        .route("/v1/stop", post(stop))
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .layer(axum::extract::DefaultBodyLimit::max(BODY_MAX))
        .with_state(Api {
            node,
            asked: Arc::default(),
        });
    let ended = async move {
        // A sender that is gone says the same.
        let _ = ended.await;
    };
    axum::serve(listener, routes.into_make_service_with_connect_info::<Caller>())
        .with_graceful_shutdown(ended)
        .await
}

type Body<T> = Result<Json<T>, axum::extract::rejection::JsonRejection>;

/// The body, or what is wrong with it.
fn accept<T>(body: Body<T>) -> Result<T, Refusal> {
    body.map(|Json(value)| value)
        .map_err(|e| Refusal::new(ErrorReason::Malformed, e.body_text()))
}

pub(super) fn root_only(caller: Caller) -> Result<(), Refusal> {
    match caller.uid {
        Some(0) => Ok(()),
        _ => Err(Refusal::new(
            ErrorReason::Forbidden,
            "only root may change what the router does: use sudo",
        )),
    }
}

/// A path that is not there, or not with this method.
async fn unknown(method: Method, uri: Uri) -> Refusal {
    Refusal::new(
        ErrorReason::UnknownCall,
        format!(
            "this router has no {method} {}: is it of another version?",
            uri.path()
        ),
    )
}

async fn status(State(api): State<Api>) -> Result<Response, Refusal> {
    let mut status = api.ask(Request::Status).await?;
    // The kernel is asked here, not in the node's task.
    match tokio::task::spawn_blocking(attach::pods).await {
        Ok(Ok(pods)) => status.pods = pods,
        Ok(Err(error)) => status
            .warnings
            .push(format!("the pods of this host cannot be listed: {error:#}")),
        Err(error) => status
            .warnings
            .push(format!("the pods of this host cannot be listed: {error}")),
    }
    let blocking = tokio::task::spawn_blocking(move || {
        let hints = crate::hints::of(&status);
        status.warnings.extend(hints);
        status
    });
    let status = blocking.await.map_err(|error| {
        Refusal::new(
            ErrorReason::Internal,
            format!("the status could not be completed: {error}"),
        )
    })?;
    Ok(Json(status).into_response())
}

async fn allocate(
    State(api): State<Api>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    body: Body<PodRequest>,
) -> Result<Response, Refusal> {
    root_only(caller)?;
    let request = accept(body)?;
    let number = api.number();
    let mut waiting = Waiting {
        node: &api.node,
        request: number,
        is_answered: false,
    };
    let answer = api.ask(|answer| Request::Allocate(number, request, answer)).await;
    waiting.is_answered = true;
    match answer? {
        Ok(plan) => Ok(Json(plan).into_response()),
        Err(error) => Err(Refusal(error)),
    }
}

async fn free(
    State(api): State<Api>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    body: Body<FreeRequest>,
) -> Result<Response, Refusal> {
    root_only(caller)?;
    let request = accept(body)?;
    let id = request.id.clone();
    match api
        .ask(|answer| Request::Free(api.number(), request, answer))
        .await?
    {
        Ok(addresses) => Ok(Json(PodAddresses { id, addresses }).into_response()),
        Err(error) => Err(Refusal(error)),
    }
}

async fn addresses_of(State(api): State<Api>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let asked = id.clone();
    let addresses = api.ask(|answer| Request::AddressesOf(asked, answer)).await?;
    Ok(Json(PodAddresses { id, addresses }).into_response())
}

async fn lookup(State(api): State<Api>, Path(text): Path<String>) -> Result<Response, Refusal> {
    let address: IpAddr = text
        .parse()
        .map_err(|_| Refusal::new(ErrorReason::Malformed, format!("{text} is not an IP address")))?;
    let place = api.ask(|answer| Request::Lookup(address, answer)).await?;
    Ok(Json(AddressPlace { address, place }).into_response())
}

async fn multicast(State(api): State<Api>) -> Result<Response, Refusal> {
    Ok(Json(api.ask(Request::Multicast).await?).into_response())
}

async fn ipam(State(api): State<Api>) -> Result<Response, Refusal> {
    match api.ask(Request::Ipam).await? {
        Some(status) => Ok(Json(status).into_response()),
        None => Err(no_cluster()),
    }
}

/// The answer of a host without a cluster.
pub(super) fn no_cluster() -> Refusal {
    Refusal::new(
        ErrorReason::NoCluster,
        "this host belongs to no cluster yet, so it has no addresses: `weft status` says what it waits for",
    )
}

/// Leaves this cluster for another one.
async fn adopt(
    State(api): State<Api>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    body: Body<AdoptRequest>,
) -> Result<Response, Refusal> {
    root_only(caller)?;
    let request = accept(body)?;
    let text = request.token.clone();
    // A password is stretched, which takes a processor a while.
    let parsing = tokio::task::spawn_blocking(move || {
        let token = text.as_deref().map(JoinToken::parse).transpose();
        token.map(|token| token.map(|token| token.psk()))
    });
    let psk = parsing
        .await
        .map_err(|error| Refusal::new(ErrorReason::Internal, error.to_string()))?
        .map_err(|error| Refusal::new(ErrorReason::Malformed, error.to_string()))?;
    match api.ask(|answer| Request::Adopt(request, psk, answer)).await? {
        Ok(adopted) => Ok(Json(adopted).into_response()),
        Err(error) => Err(Refusal(error)),
    }
}

/// The answer to a request about a target.
type TargetAnswer = oneshot::Sender<Result<String, TargetRefusal>>;

/// Tries an address from now on, or no longer.
async fn target(
    State(api): State<Api>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    body: Body<TargetRequest>,
    what: fn(String, TargetAnswer) -> Request,
) -> Result<Response, Refusal> {
    root_only(caller)?;
    let request = accept(body)?;
    match api.ask(|answer| what(request.target, answer)).await? {
        Ok(target) => Ok(Json(Target { target }).into_response()),
        Err(TargetRefusal::Malformed(why)) => Err(Refusal::new(ErrorReason::Malformed, why)),
        Err(TargetRefusal::NotTried(why)) => Err(Refusal::new(ErrorReason::NotFound, why)),
    }
}

/// Says what is encrypted in this cluster from now on.
async fn encrypt(
    State(api): State<Api>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    body: Body<EncryptionRequest>,
) -> Result<Response, Refusal> {
    root_only(caller)?;
    let encryption = match accept(body)?.setting {
        EncryptionSetting::Auto => Encryption::Auto,
        EncryptionSetting::All => Encryption::All,
    };
    let status = api.ask(|answer| Request::Encrypt(encryption, answer)).await?;
    Ok(Json(status).into_response())
}

async fn remove(
    State(api): State<Api>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    body: Body<RemoveRequest>,
) -> Result<Response, Refusal> {
    root_only(caller)?;
    let request = accept(body)?;
    let ask = |answer| Request::Remove(api.number(), request, answer);
    let asked = api.ask(ask).await?;
    asked_for(asked)
}

async fn keep(
    State(api): State<Api>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    body: Body<KeepRequest>,
) -> Result<Response, Refusal> {
    root_only(caller)?;
    let request = accept(body)?;
    let ask = |answer| Request::Keep(api.number(), request, answer);
    let asked = api.ask(ask).await?;
    asked_for(asked)
}

fn asked_for(asked: Result<RemovalAsked, ApiError>) -> Result<Response, Refusal> {
    asked.map(|asked| Json(asked).into_response()).map_err(Refusal)
}

async fn stop(State(api): State<Api>, ConnectInfo(caller): ConnectInfo<Caller>) -> Result<Response, Refusal> {
    root_only(caller)?;
    api.ask(Request::Stop).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
