//! Asks the router over its local socket: one small HTTP/1.1 exchange (RFC 9112) a question, then the connection
//! closes. A plugin runs once for each pod, so it does without an async runtime.

use crate::failure::{Code, Failure};
use ipnet::IpNet;
use serde::Serialize;
use serde::de::DeserializeOwned;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use weft_wire::api::{ApiError, ErrorReason, FreeRequest, PodAddresses, PodPlan, PodRequest};

/// A router answers within 10 s, also when an address has to come from another host. What takes twice as long is stuck.
const PATIENCE: Duration = Duration::from_secs(20);
/// Largest answer that is read, headers included: a plan, or a list of one pod's addresses.
const ANSWER_MAX: u64 = 64 << 10;
/// Headers of an answer; a router sends a handful.
const HEADERS_MAX: usize = 32;

/// Why the router gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// Nothing was asked: nobody is there to be asked.
    #[error("no weft router answers at {}", socket.display())]
    NobodyThere { socket: PathBuf },
    /// Nothing was asked: the socket refuses.
    #[error("the weft router's socket {} cannot be used: {source}", socket.display())]
    Closed { socket: PathBuf, source: io::Error },
    /// It was asked, and what became of it is not known.
    #[error("the weft router at {} broke off: {source}", socket.display())]
    BrokeOff { socket: PathBuf, source: io::Error },
    /// It answered what this plugin cannot read.
    #[error("the weft router's answer to {path} is not understood: {reason}")]
    NotUnderstood { path: &'static str, reason: String },
    /// It cannot do it now.
    #[error("{sentence}")]
    NotNow { sentence: String },
    /// It does not do it.
    #[error("{sentence}")]
    Refused { reason: ErrorReason, sentence: String },
}

impl Trouble {
    /// Whether the router may have done what it was asked for.
    pub(crate) fn leaves_doubt(&self) -> bool {
        matches!(self, Self::BrokeOff { .. } | Self::NotUnderstood { .. })
    }

    /// What the runtime is told.
    pub(crate) fn into_failure(self) -> Failure {
        let (code, cure) = match &self {
            Self::NobodyThere { .. } => (
                Code::TryAgain,
                "start it with `weft up`, or name its socket with the key \"socket\" of the network configuration",
            ),
            Self::Closed { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
                (Code::Router, "the runtime must call the plugin as root")
            }
            Self::Closed { .. } | Self::BrokeOff { .. } => (
                Code::TryAgain,
                "`weft status` and the router's log say how it does",
            ),
            Self::NotUnderstood { .. } => (
                Code::Router,
                "install weft and weft-cni of one version on this host",
            ),
            Self::NotNow { .. } => (
                Code::TryAgain,
                "`weft status` and `weft ipam` say what the router waits for",
            ),
            Self::Refused { reason, .. } => match reason {
                ErrorReason::BadAddress => (
                    Code::Config,
                    "name another address, or none, in the network configuration or the runtime's arguments",
                ),
                ErrorReason::BadSubnet => (
                    Code::Config,
                    "correct the key \"subnet\" of the network configuration; `weft ipam` shows the cluster's range",
                ),
                ErrorReason::AddressTaken => (
                    Code::Router,
                    "name another address, or none; `weft ipam lookup` says where this one is",
                ),
                _ => (Code::Router, "`weft status` and `weft ipam` say more"),
            },
        };
        Failure::new(code, self.to_string(), cure)
    }
}

/// The router behind one socket.
pub(crate) struct Router<'a> {
    socket: &'a Path,
}

impl<'a> Router<'a> {
    /// A router that listens at `socket`; nothing is sent yet.
    pub(crate) fn new(socket: &'a Path) -> Self {
        Self { socket }
    }

    /// An address for the pod `id`, of `subnet` if one is named; the same as before when it has one.
    pub(crate) fn allocate(
        &self,
        id: &str,
        address: Option<IpAddr>,
        subnet: Option<IpNet>,
    ) -> Result<PodPlan, Trouble> {
        let request = PodRequest {
            id: id.into(),
            address,
            subnet,
            timeout_ms: None,
        };
        self.post("/v1/pods", &request)
    }

    /// Gives back one address of the pod `id`, or all. An address that it does not have is no error.
    pub(crate) fn free(&self, id: &str, address: Option<IpAddr>) -> Result<Vec<IpAddr>, Trouble> {
        let request = FreeRequest {
            id: id.into(),
            address,
        };
        let freed: PodAddresses = self.post("/v1/pods/free", &request)?;
        Ok(freed.addresses)
    }

    fn post<T: DeserializeOwned>(&self, path: &'static str, body: &impl Serialize) -> Result<T, Trouble> {
        let not_understood = |reason: String| Trouble::NotUnderstood { path, reason };
        let body = serde_json::to_vec(body).map_err(|e| not_understood(e.to_string()))?;
        let bytes = self.exchange(path, &body)?;
        let answer = parse(&bytes).map_err(|wrong| match wrong {
            Unusable::CutOff => Trouble::BrokeOff {
                socket: self.socket.into(),
                source: ErrorKind::UnexpectedEof.into(),
            },
            Unusable::Wrong(reason) => not_understood(reason),
        })?;
        if answer.status == 200 {
            return serde_json::from_slice(answer.body).map_err(|e| not_understood(e.to_string()));
        }
        let refusal = serde_json::from_slice::<ApiError>(answer.body);
        let ApiError { error, reason } = refusal.unwrap_or_else(|_| {
            let sentence = format!("the weft router answered {path} with status {}", answer.status);
            ApiError::new(ErrorReason::Other, sentence)
        });
        // A word that this plugin does not know says less than the status.
        let is_passing = match reason {
            ErrorReason::Other => matches!(answer.status, 409 | 500..=599),
            reason => reason.may_pass(),
        };
        let sentence = error;
        Err(match is_passing {
            true => Trouble::NotNow { sentence },
            false => Trouble::Refused { reason, sentence },
        })
    }

    /// Sends a request and reads to the end of the connection.
    fn exchange(&self, path: &str, body: &[u8]) -> Result<Vec<u8>, Trouble> {
        let end = Instant::now() + PATIENCE;
        let mut stream = connect(self.socket).map_err(|source| match source.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Trouble::NobodyThere {
                socket: self.socket.into(),
            },
            _ => Trouble::Closed {
                socket: self.socket.into(),
                source,
            },
        })?;
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nhost: weft\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        stream
            .write_all(&request)
            .and_then(|()| read_to_end(&mut stream, end))
            .map_err(|source| Trouble::BrokeOff {
                socket: self.socket.into(),
                source,
            })
    }
}

/// Connecting waits, for a limited time, where the router is behind with accepting.
fn connect(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket)
}

fn read_to_end(stream: &mut Socket, end: Instant) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(
                ErrorKind::TimedOut,
                format!("no answer within {PATIENCE:?}"),
            ));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece) {
            Ok(0) => return Ok(answer),
            Ok(count) => answer.extend_from_slice(&piece[..count]),
            // The time is over, or a signal came: looked at above.
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(e) => return Err(e),
        }
        if answer.len() as u64 > ANSWER_MAX {
            return Err(io::Error::new(
                ErrorKind::FileTooLarge,
                format!("the answer is longer than {ANSWER_MAX} octets"),
            ));
        }
    }
}

/// Status and body of an answer.
#[derive(PartialEq, Eq, Debug)]
struct Answer<'a> {
    status: u16,
    body: &'a [u8],
}

/// Why octets are no answer.
#[derive(PartialEq, Eq, Debug)]
enum Unusable {
    /// The connection ended before the answer did.
    CutOff,
    /// They are something else.
    Wrong(String),
}

fn parse(bytes: &[u8]) -> Result<Answer<'_>, Unusable> {
    let wrong = |reason: &str| Unusable::Wrong(reason.into());
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut answer = httparse::Response::new(&mut headers);
    let head = match answer.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Err(Unusable::CutOff),
        Err(e) => return Err(Unusable::Wrong(e.to_string())),
    };
    let status = answer.code.ok_or_else(|| wrong("it has no status"))?;
    let body = bytes.get(head..).ok_or_else(|| wrong("it has no body"))?;
    let value = |name: &str| {
        let mut headers = answer.headers.iter();
        let found = headers.find(|header| header.name.eq_ignore_ascii_case(name))?;
        Some(String::from_utf8_lossy(found.value).trim().to_owned())
    };
    if let Some(coding) = value("transfer-encoding") {
        return Err(Unusable::Wrong(format!("its transfer-encoding is {coding}")));
    }
    if let Some(length) = value("content-length") {
        match length.parse::<usize>() {
            Ok(length) if length == body.len() => {}
            Ok(length) if length > body.len() => return Err(Unusable::CutOff),
            _ => return Err(Unusable::Wrong(format!("its content-length is {length}"))),
        }
    }
    Ok(Answer { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::net::UnixListener;
    use std::thread;

    /// Answers one connection with these octets after it has read a whole request, which it returns.
    fn serve(answer: &'static [u8], ask: impl FnOnce(&Router<'_>)) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            stream.write_all(answer).unwrap();
            String::from_utf8(request).unwrap()
        });
        ask(&Router::new(&path));
        server.join().unwrap()
    }

    #[test]
    fn a_plan_is_asked_for_and_read() {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 89\r\n\r\n\
            {\"address\":\"10.32.0.1/12\",\"mac\":\"02:00:00:00:00:01\",\"mtu\":1420,\"bridge\":\"weft\",\"new\":[1]}";
        let request = serve(answer, |router| {
            let plan = router
                .allocate("cni/a/b/eth0", None, Some("10.32.0.0/24".parse().unwrap()))
                .unwrap();
            assert_eq!((plan.mtu, plan.bridge.as_str()), (1420, "weft"));
        });
        assert!(request.starts_with("POST /v1/pods HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("connection: close\r\n"));
        assert!(request.ends_with(
            "{\"id\":\"cni/a/b/eth0\",\"address\":null,\"subnet\":\"10.32.0.0/24\",\"timeout_ms\":null}"
        ));
    }

    #[test]
    fn refusals_become_codes() {
        let failure = |answer, address| {
            let mut failure = None;
            serve(answer, |router| {
                let trouble = router.allocate("a", address, None).unwrap_err();
                failure = Some((trouble.leaves_doubt(), trouble.into_failure()));
            });
            let (doubt, failure) = failure.unwrap();
            (doubt, failure.code, failure.message)
        };
        let conflict = b"HTTP/1.1 409 Conflict\r\ncontent-length: 16\r\n\r\n{\"error\":\"none\"}";
        assert_eq!(
            failure(conflict, None),
            (false, Code::TryAgain, "none".to_owned())
        );
        let said = |reason: &str| {
            let body = format!("{{\"error\":\"none\",\"reason\":\"{reason}\"}}");
            let head = format!("HTTP/1.1 409 Conflict\r\ncontent-length: {}\r\n\r\n", body.len());
            &*Box::leak((head + &body).into_boxed_str())
        };
        for (reason, code) in [
            ("no-address", Code::TryAgain),
            ("no-cluster", Code::TryAgain),
            ("unwritable", Code::TryAgain),
            ("address-taken", Code::Router),
            ("frozen", Code::Router),
            ("too-many-addresses", Code::Router),
            ("bad-address", Code::Config),
            ("bad-subnet", Code::Config),
            // Of a later version.
            ("on-fire", Code::TryAgain),
        ] {
            let answer = said(reason).as_bytes();
            for address in [None, Some("10.32.0.1".parse().unwrap())] {
                assert_eq!(
                    failure(answer, address),
                    (false, code, "none".to_owned()),
                    "{reason}"
                );
            }
        }
        let stopping = b"HTTP/1.1 503 Service Unavailable\r\n\r\n";
        assert_eq!(failure(stopping, None).1, Code::TryAgain);
        assert_eq!(failure(b"HTTP/1.1 403 Forbidden\r\n\r\n{}", None).1, Code::Router);
        // What may have been done is told from what was not.
        for answer in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}",
        ] {
            let (doubt, code, message) = failure(answer, None);
            assert!(doubt && code == Code::TryAgain, "{message}");
        }
        for answer in [
            &b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{}"[..],
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n{\"address\":1}",
            b"SSH-2.0-OpenSSH_9.2\r\n",
        ] {
            let (doubt, code, message) = failure(answer, None);
            assert!(doubt && code == Code::Router, "{message}");
        }
    }

    #[test]
    fn an_answer_without_end_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // Until the client has had enough.
            while stream.write_all(&[b'x'; 4096]).is_ok() {}
        });
        let trouble = Router::new(&path).free("a", None).unwrap_err();
        assert!(matches!(trouble, Trouble::BrokeOff { .. }), "{trouble:?}");
        assert_eq!(trouble.into_failure().code, Code::TryAgain);
        server.join().unwrap();
    }

    #[test]
    fn nobody_there_is_a_reason_to_try_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        for _ in 0..2 {
            let trouble = Router::new(&path).free("a", None).unwrap_err();
            assert!(!trouble.leaves_doubt());
            let failure = trouble.into_failure();
            assert_eq!(failure.code, Code::TryAgain);
            assert!(failure.message.contains(path.to_str().unwrap()), "{failure:?}");
            // A router that was killed leaves its socket behind.
            if !path.exists() {
                drop(UnixListener::bind(&path).unwrap());
            }
        }
    }

    proptest! {
        #[test]
        fn no_answer_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), head in any::<bool>()) {
            let start: &[u8] = if head { b"HTTP/1.1 200 OK\r\n" } else { b"" };
            let whole = [start, &bytes].concat();
            if let Ok(answer) = parse(&whole) {
                prop_assert!(answer.body.len() <= whole.len());
            }
        }
    }
}
