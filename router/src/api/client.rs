//! The command line's side of the local API.

use anyhow::{Context, anyhow, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::Method;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use weft_wire::api::ApiError;

/// A router that does not answer for so long is stuck: an address takes longest, when it has to come from another host.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(weft_ipam_crdt::ALLOCATE_DEADLINE.as_secs() + 10);
/// Largest answer that is read: the status of thousands of peers.
const ANSWER_MAX: usize = 64 << 20;

/// Asks the router behind one socket.
pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the router at `socket`; connects at each call.
    pub(crate) fn new(socket: &Path) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// `GET path`.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let body = self.call(Method::GET, path, Bytes::new()).await?;
        serde_json::from_slice(&body).context("the router's answer cannot be read: is it of another version?")
    }

    /// `POST path` with a JSON body and a JSON answer.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        let body = self
            .call(Method::POST, path, serde_json::to_vec(body)?.into())
            .await?;
        serde_json::from_slice(&body).context("the router's answer cannot be read: is it of another version?")
    }

    /// `POST path` without a body.
    pub(crate) async fn post_empty(&self, path: &str) -> anyhow::Result<Bytes> {
        self.call(Method::POST, path, Bytes::new()).await
    }

    /// Stops the router and waits until it has closed its socket. False when none was running.
    pub(crate) async fn stop(&self) -> anyhow::Result<bool> {
        Ok(self.end("/v1/stop").await?.is_some())
    }

    /// Calls what ends the router, and waits until it has closed its socket. None when none was running.
    pub(crate) async fn end(&self, path: &str) -> anyhow::Result<Option<Bytes>> {
        match UnixStream::connect(&self.socket).await {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
            Err(e) => Err(e).with_context(|| format!("socket {}", self.socket.display())),
            Ok(witness) => {
                let answer = self.call(Method::POST, path, Bytes::new()).await?;
                // The router closes what it accepted when it ends.
                let ended = async {
                    while witness.readable().await.is_ok() {
                        match witness.try_read(&mut [0; 64]) {
                            Ok(1..) => {}
                            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                            Ok(0) | Err(_) => return,
                        }
                    }
                };
                tokio::time::timeout(ANSWER_TIMEOUT, ended)
                    .await
                    .context("the router does not stop")?;
                Ok(Some(answer))
            }
        }
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Bytes> {
        tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(method, path, body))
            .await
            .map_err(|_| anyhow!("the router at {} does not answer", self.socket.display()))?
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Bytes> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| match e.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => anyhow!(
                "no weft router answers at {}: start one with `weft up`, or name its socket with --socket",
                self.socket.display()
            ),
            ErrorKind::PermissionDenied => anyhow!(
                "socket {}: permission denied; be root or a member of group weft",
                self.socket.display()
            ),
            _ => anyhow!("socket {}: {e}", self.socket.display()),
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the exchange; its error shows in the answer.
        let driver = tokio::spawn(connection);
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "weft")
            .header("content-type", "application/json")
            .header("connection", "close")
            .body(Full::new(body))?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_MAX)
            .collect()
            .await
            .map_err(|e| anyhow!("the router's answer broke off: {e}"))?
            .to_bytes();
        driver.abort();
        if status.is_success() {
            return Ok(body);
        }
        match serde_json::from_slice::<ApiError>(&body) {
            Ok(refusal) => bail!(refusal.error),
            Err(_) => bail!("the router answered {status}"),
        }
    }
}
