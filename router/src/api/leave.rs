//! `/v1/leave`, `/v1/leave/depart`, `/v1/leave/end` and `/v1/stay`: a host goes for good.

use super::server::{Api, Caller, Refusal, no_cluster, root_only};
use crate::daemon::Request;
use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use weft_wire::api::{ErrorReason, LeaveEnd};

/// Begins to hand addresses on, or goes on with it; says how far that is.
pub(super) async fn begin(
    State(api): State<Api>,
    ConnectInfo(caller): ConnectInfo<Caller>,
) -> Result<Response, Refusal> {
    root_only(caller)?;
    let status = api.ask(Request::Leave).await?.ok_or_else(no_cluster)?;
    Ok(Json(status).into_response())
}

/// Asks the members to go on without this host, whatever it has still to hand on; says how far that is.
pub(super) async fn depart(
    State(api): State<Api>,
    ConnectInfo(caller): ConnectInfo<Caller>,
) -> Result<Response, Refusal> {
    root_only(caller)?;
    let status = api.ask(Request::Depart).await?.ok_or_else(no_cluster)?;
    Ok(Json(status).into_response())
}

/// Stays after all.
pub(super) async fn stay(
    State(api): State<Api>,
    ConnectInfo(caller): ConnectInfo<Caller>,
) -> Result<Response, Refusal> {
    root_only(caller)?;
    api.ask(Request::Stay).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Gives the identity up, and stops, whether that succeeded or not: nothing is saved any longer.
pub(super) async fn end(
    State(api): State<Api>,
    ConnectInfo(caller): ConnectInfo<Caller>,
) -> Result<Response, Refusal> {
    root_only(caller)?;
    let set_aside = api.ask(Request::SetAside).await?.await;
    api.ask(Request::Stop).await?;
    let refusal = |why: String| {
        Refusal::new(
            ErrorReason::Internal,
            format!(
                "the router stops, but its identity is still in place: {why}. Move the file away by hand"
            ),
        )
    };
    match set_aside {
        Ok(Ok(path)) => Ok(Json(LeaveEnd {
            identity_kept_at: path.display().to_string(),
        })
        .into_response()),
        Ok(Err(error)) => Err(refusal(error.to_string())),
        Err(_) => Err(refusal("the disk takes no writes".to_owned())),
    }
}
