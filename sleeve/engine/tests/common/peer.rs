//! The other end of a session: a bare socket, which seals with another cryptography library than the engine's.

use std::net::{SocketAddr, UdpSocket};

use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _};
use quinn_udp::{Transmit, UdpSocketState};
use weft_kernel::Namespace;
use weft_sleeve::Cipher;
use weft_sleeve_engine::EngineChoice;
use weft_wire::datagram::{FloodPrefix, FragPrefix, Header, Kind, Meta, nonce};
use weft_wire::{Mac, NodeId, PeerHash, SessionIndex};

use super::{Host, PATIENCE, frame, keys};

pub(crate) const POD: Mac = Mac([2, 0, 0, 0, 0, 0xa]);
pub(crate) const FAR: Mac = Mac([2, 0, 0, 0, 0, 0xb]);
pub(crate) const LOCAL: SessionIndex = SessionIndex(100);
pub(crate) const REMOTE: SessionIndex = SessionIndex(200);
pub(crate) const PEER: NodeId = NodeId([2; 32]);
pub(crate) const SEND: [u8; 32] = [11; 32];
pub(crate) const RECEIVE: [u8; 32] = [22; 32];

/// The other end of a session with a [`Host`].
pub(crate) struct Peer {
    pub(crate) namespace: Namespace,
    pub(crate) socket: UdpSocket,
    pub(crate) to: SocketAddr,
    /// Number of the last datagram.
    pub(crate) counter: u64,
}

pub(crate) fn host_and_peer(engine: EngineChoice) -> (Host, Peer) {
    let namespace = Namespace::new().unwrap();
    let host = Host::new(&namespace, 1, 1_400, "127.0.0.1:0".parse().unwrap(), engine);
    let peer = Peer {
        socket: socket(&namespace),
        namespace,
        to: host.address,
        counter: 0,
    };
    host.engine
        .install(&keys(
            PEER,
            Cipher::ChaCha20Poly1305,
            LOCAL.0,
            REMOTE.0,
            SEND[0],
            RECEIVE[0],
        ))
        .unwrap();
    host.publish(
        PEER,
        Some(LOCAL.0),
        Some(peer.socket.local_addr().unwrap()),
        &[FAR],
    );
    (host, peer)
}

pub(crate) fn socket(namespace: &Namespace) -> UdpSocket {
    let socket = namespace.run(|| UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

pub(crate) fn sealed(header: Header, content: &[u8]) -> Vec<u8> {
    let header_bytes = header.to_bytes();
    let payload = Payload {
        msg: content,
        aad: &header_bytes,
    };
    let sealed = ChaCha20Poly1305::new(&RECEIVE.into())
        .encrypt(&nonce(header.counter).into(), payload)
        .unwrap();
    [&header_bytes[..], &sealed].concat()
}

pub(crate) fn data(frame: &[u8]) -> Vec<u8> {
    [&Meta::default().to_bytes()[..], frame].concat()
}

pub(crate) fn flood(origin: PeerHash, frame: &[u8]) -> Vec<u8> {
    let prefix = FloodPrefix { origin, sequence: 1 };
    [&Meta::default().to_bytes()[..], &prefix.to_bytes(), frame].concat()
}

impl Peer {
    pub(crate) fn header(&mut self, kind: Kind) -> Header {
        self.counter += 1;
        Header::new(kind, LOCAL, self.counter)
    }

    pub(crate) fn datagram(&mut self, kind: Kind, content: &[u8]) -> Vec<u8> {
        sealed(self.header(kind), content)
    }

    pub(crate) fn send(&self, datagram: &[u8]) {
        assert_eq!(self.socket.send_to(datagram, self.to).unwrap(), datagram.len());
    }

    /// Sends a good frame and waits until it reaches the pod: all that was sent before has been dealt with.
    pub(crate) fn send_frame(&mut self, host: &mut Host) {
        let frame = frame(POD, FAR, &[0x88, 0xb5], 60);
        let datagram = self.datagram(Kind::Data, &data(&frame));
        self.send(&datagram);
        assert_eq!(host.read(), frame);
    }

    /// Sends datagrams of one size, of which the last may be shorter, in one call: they arrive as one (UDP_GRO).
    pub(crate) fn send_at_once(&self, datagrams: &[Vec<u8>]) {
        let state = UdpSocketState::new((&self.socket).into()).unwrap();
        assert!(
            state.max_gso_segments() >= datagrams.len(),
            "the kernel lacks UDP_SEGMENT"
        );
        let transmit = Transmit {
            destination: self.to,
            ecn: None,
            contents: &datagrams.concat(),
            segment_size: Some(datagrams[0].len()),
            src_ip: None,
        };
        state.try_send((&self.socket).into(), &transmit).unwrap();
    }

    pub(crate) fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; 2_000];
        let (length, from) = self.socket.recv_from(&mut buffer).expect("no datagram came");
        assert_eq!(from, self.to);
        buffer.truncate(length);
        buffer
    }
}

pub(crate) fn piece(frame: u64, offset: u32, length: u32, octets: &[u8]) -> Vec<u8> {
    let prefix = FragPrefix {
        frame,
        offset,
        length,
    };
    [&prefix.to_bytes()[..], octets].concat()
}
