//! A connection to a router's local API that stays open, for stories that ask thousands of times.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ipnet::IpNet;
use weft_wire::api::{ApiError, FreeRequest, IpamStatus, PodAddresses, PodPlan, PodRequest};

use crate::error::{Error, Result};
use crate::host::Host;

/// An answer that takes longer is missing: a router gives an address, or says why not, within 10 s.
const PATIENCE: Duration = Duration::from_secs(20);
/// Header lines of an answer; a router sends a handful.
const HEADERS_MAX: usize = 64;
/// The longest answer is the address space with ten thousand addresses in use.
const ANSWER_MAX: usize = 64 << 20;

/// One connection to the router of a host, with one request at a time on it (HTTP/1.1, RFC 9112).
#[derive(Debug)]
pub struct Api {
    place: String,
    stream: BufReader<UnixStream>,
}

impl Api {
    /// Connects to the socket of the host's router.
    ///
    /// # Errors
    /// When no router answers there.
    pub fn connect(host: &Host) -> Result<Self> {
        let open = || {
            let stream = UnixStream::connect(host.socket())?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(BufReader::new(stream))
        };
        let stream = open().map_err(|e| Error::io(format!("reach the router on {}", host.name()), e))?;
        Ok(Self {
            place: host.name().to_owned(),
            stream,
        })
    }

    /// Gets an address for `id`: one that the router chooses.
    ///
    /// # Errors
    /// [`Error::Refused`] with the router's sentence.
    pub fn allocate(&mut self, id: &str) -> Result<IpAddr> {
        self.give(id, None)
    }

    /// Gets this address for `id`.
    ///
    /// # Errors
    /// [`Error::Refused`] with the router's sentence.
    pub fn claim(&mut self, id: &str, address: IpAddr) -> Result<IpAddr> {
        self.give(id, Some(address))
    }

    fn give(&mut self, id: &str, address: Option<IpAddr>) -> Result<IpAddr> {
        self.request(&PodRequest {
            id: id.to_owned(),
            address,
            subnet: None,
            timeout_ms: None,
        })
    }

    /// Gets an address for `id` of this part of the range, or this address of it.
    ///
    /// # Errors
    /// [`Error::Refused`] with the router's sentence.
    pub fn allocate_in(&mut self, id: &str, address: Option<IpAddr>, subnet: IpNet) -> Result<IpAddr> {
        self.request(&PodRequest {
            id: id.to_owned(),
            address,
            subnet: Some(subnet),
            timeout_ms: None,
        })
    }

    fn request(&mut self, request: &PodRequest) -> Result<IpAddr> {
        let path = "/v1/pods";
        let body = serde_json::to_vec(request).map_err(|e| self.not_json(path, e))?;
        let answer = self.call("POST", path, &body)?;
        let plan: PodPlan = serde_json::from_slice(&answer).map_err(|e| self.not_json(path, e))?;
        Ok(plan.address.addr())
    }

    /// Gives every address of `id` back, and returns them.
    ///
    /// # Errors
    /// [`Error::Refused`] with the router's sentence.
    pub fn free(&mut self, id: &str) -> Result<Vec<IpAddr>> {
        let request = FreeRequest {
            id: id.to_owned(),
            address: None,
        };
        let path = "/v1/pods/free";
        let body = serde_json::to_vec(&request).map_err(|e| self.not_json(path, e))?;
        let answer = self.call("POST", path, &body)?;
        let freed: PodAddresses = serde_json::from_slice(&answer).map_err(|e| self.not_json(path, e))?;
        Ok(freed.addresses)
    }

    /// The address space as the router sees it.
    ///
    /// # Errors
    /// [`Error::Refused`] while the host belongs to no cluster.
    pub fn ipam(&mut self) -> Result<IpamStatus> {
        let answer = self.call("GET", "/v1/ipam", &[])?;
        serde_json::from_slice(&answer).map_err(|e| self.not_json("/v1/ipam", e))
    }

    /// Sends any request, with a JSON body or an empty one, and returns status and body of the answer.
    ///
    /// # Errors
    /// When the router hangs up, or answers with something else than HTTP.
    pub fn raw(&mut self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        let (status, answer) = self
            .exchange(method, path, body.as_bytes())
            .map_err(|e| Error::io(format!("ask the router on {} for {path}", self.place), e))?;
        Ok((status, String::from_utf8_lossy(&answer).into_owned()))
    }

    /// Asks for an address without waiting for the answer: the request is open until the connection is dropped.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub fn begin_claim(&mut self, id: &str, address: IpAddr) -> Result<()> {
        let path = "/v1/pods";
        let request = PodRequest {
            id: id.to_owned(),
            address: Some(address),
            subnet: None,
            timeout_ms: None,
        };
        let body = serde_json::to_vec(&request).map_err(|e| self.not_json(path, e))?;
        self.send("POST", path, &body)
            .map_err(|e| Error::io(format!("ask the router on {} for {path}", self.place), e))
    }

    fn call(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>> {
        let (status, answer) = self
            .exchange(method, path, body)
            .map_err(|e| Error::io(format!("ask the router on {} for {path}", self.place), e))?;
        if status == 200 {
            return Ok(answer);
        }
        let sentence = match serde_json::from_slice::<ApiError>(&answer) {
            Ok(error) => error.error,
            Err(_) => String::from_utf8_lossy(&answer).into_owned(),
        };
        Err(Error::Refused {
            place: self.place.clone(),
            request: format!("{method} {path}"),
            sentence,
        })
    }

    fn exchange(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<(u16, Vec<u8>)> {
        self.send(method, path, body)?;
        let wrong = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let status = self
            .line()?
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .ok_or_else(|| wrong("the answer has no status line"))?;
        let mut length = None;
        for _ in 0..HEADERS_MAX {
            let line = self.line()?;
            if line.is_empty() {
                // RFC 9110 §15.3.5: 204 has no body.
                let length = if status == 204 { Some(0) } else { length };
                let length = length
                    .filter(|length| *length <= ANSWER_MAX)
                    .ok_or_else(|| wrong("the answer has no usable length"))?;
                let mut answer = vec![0; length];
                self.stream.read_exact(&mut answer)?;
                return Ok((status, answer));
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().ok();
            }
        }
        Err(wrong("the answer has too many headers"))
    }

    fn send(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<()> {
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nhost: weft\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.stream.get_mut().write_all(&request)
    }

    /// A line without its end.
    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        let limit = u64::try_from(ANSWER_MAX).unwrap_or(u64::MAX);
        if (&mut self.stream).take(limit).read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    fn not_json(&self, path: &str, error: serde_json::Error) -> Error {
        Error::io(
            format!("exchange JSON with the router on {} at {path}", self.place),
            error.into(),
        )
    }
}
