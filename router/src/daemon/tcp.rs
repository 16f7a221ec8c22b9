//! TCP connections of the mesh: frames in, frames out. What they mean is the mesh's concern.

use super::NodeEvent;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use weft_gossip::{ConnId, DialTarget};

/// A dial that takes longer is given up; SYN retransmissions come after 1 and 3 s.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// What a closed connection still has to say, it must say within this.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(1);
/// Frames between the mesh and one socket: the one that is under way and a last word.
const OUTBOX_FRAMES: usize = 2;
/// Pause of the accept loop when the process is out of file descriptors or the like.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(200);

/// The connections that the mesh knows.
pub(super) struct Connections {
    events: mpsc::Sender<NodeEvent>,
    open: BTreeMap<ConnId, Connection>,
}

struct Connection {
    outbox: mpsc::Sender<Vec<u8>>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

impl Connection {
    /// Reads no more; writes what was handed over before, for a while.
    async fn finish(self) {
        self.reader.abort();
        drop(self.outbox);
        let writer = self.writer.abort_handle();
        if tokio::time::timeout(LAST_WORD_TIMEOUT, self.writer)
            .await
            .is_err()
        {
            writer.abort();
        }
    }
}

impl Connections {
    pub(super) fn new(events: mpsc::Sender<NodeEvent>) -> Self {
        Self {
            events,
            open: BTreeMap::new(),
        }
    }

    /// Looks the target up, dials its addresses in turn and reports how it went.
    pub(super) fn dial(&mut self, conn: ConnId, to: DialTarget) {
        let events = self.events.clone();
        tokio::spawn(async move {
            let event = match tokio::time::timeout(DIAL_TIMEOUT, connect(&to)).await {
                Ok(Ok(stream)) => NodeEvent::Dialled { conn, stream },
                Ok(Err(why)) => NodeEvent::DialFailed { conn, why },
                Err(_) => NodeEvent::DialFailed {
                    conn,
                    why: "no answer".into(),
                },
            };
            // The node has stopped when nobody listens.
            let _ = events.send(event).await;
        });
    }

    /// Begins to read and write a connection.
    pub(super) fn open(&mut self, conn: ConnId, stream: TcpStream) {
        // Only costs latency when it fails.
        let _ = stream.set_nodelay(true);
        let (reading, writing) = stream.into_split();
        let (outbox, frames) = mpsc::channel(OUTBOX_FRAMES);
        let reader = tokio::spawn(read(conn, reading, self.events.clone()));
        let writer = tokio::spawn(write(conn, writing, frames, self.events.clone()));
        self.open.insert(
            conn,
            Connection {
                outbox,
                reader,
                writer,
            },
        );
    }

    /// Hands a frame to the socket's writer.
    pub(super) fn send(&mut self, conn: ConnId, frame: Vec<u8>) {
        if let Some(connection) = self.open.get(&conn)
            && connection.outbox.try_send(frame).is_err()
        {
            // The mesh sends one frame and a last word at most; a writer that has ended reports it by itself.
            tracing::debug!(?conn, "a frame for a connection that is closing was dropped");
        }
    }

    /// Writes what was handed over before, then closes.
    pub(super) fn close(&mut self, conn: ConnId) {
        if let Some(connection) = self.open.remove(&conn) {
            tokio::spawn(connection.finish());
        }
    }

    /// Closes all, and waits until their last words are written.
    pub(super) async fn close_all(&mut self) {
        let finishing: Vec<_> = std::mem::take(&mut self.open)
            .into_values()
            .map(|connection| tokio::spawn(connection.finish()))
            .collect();
        for task in finishing {
            let _ = task.await;
        }
    }
}

async fn connect(to: &DialTarget) -> Result<TcpStream, String> {
    let addresses: Vec<SocketAddr> = match to {
        DialTarget::Address(address) => vec![*address],
        DialTarget::Name(name) => tokio::net::lookup_host(name.as_str())
            .await
            .map_err(|e| format!("the name cannot be looked up: {e}"))?
            .collect(),
    };
    let mut last = "the name has no address".to_owned();
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = format!("{address}: {error}"),
        }
    }
    Err(last)
}

/// Accepts until the node stops.
pub(super) async fn accept(listener: TcpListener, events: mpsc::Sender<NodeEvent>) {
    loop {
        let event = match listener.accept().await {
            Ok((stream, from)) => NodeEvent::Accepted {
                stream,
                from: canonical(from),
            },
            Err(error) => {
                tracing::warn!(%error, "a mesh connection could not be accepted");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

/// An IPv4 address that a dual-stack socket reports as IPv6, as IPv4 (RFC 4291 §2.5.5.2).
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Reads frames: length 2, then as many octets.
async fn read(conn: ConnId, mut stream: OwnedReadHalf, events: mpsc::Sender<NodeEvent>) {
    loop {
        let mut length = [0; 2];
        if stream.read_exact(&mut length).await.is_err() {
            break;
        }
        let mut frame = vec![0; usize::from(u16::from_be_bytes(length))];
        if stream.read_exact(&mut frame).await.is_err() {
            break;
        }
        if events
            .send(NodeEvent::Frame { conn, bytes: frame })
            .await
            .is_err()
        {
            return;
        }
    }
    let _ = events.send(NodeEvent::Closed { conn }).await;
}

async fn write(
    conn: ConnId,
    mut stream: OwnedWriteHalf,
    mut frames: mpsc::Receiver<Vec<u8>>,
    events: mpsc::Sender<NodeEvent>,
) {
    while let Some(frame) = frames.recv().await {
        // Noise messages, and so frames, have at most 65,535 octets.
        let Ok(length) = u16::try_from(frame.len()) else {
            continue;
        };
        let mut bytes = Vec::with_capacity(2 + frame.len());
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&frame);
        let event = match stream.write_all(&bytes).await {
            Ok(()) => NodeEvent::Written { conn },
            Err(_) => NodeEvent::Closed { conn },
        };
        if events.send(event).await.is_err() {
            break;
        }
    }
    let _ = stream.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_ipv4() {
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:6783".parse().unwrap();
        assert_eq!(canonical(mapped).to_string(), "192.0.2.1:6783");
    }
}
