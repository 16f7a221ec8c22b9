//! The Noise XXpsk3 handshake of a mesh link, one type for each thing that is awaited.
//!
//! ```text
//! initiator                                   responder
//! e, key id of the psk               ──1──▶
//!                                    ◀──2──   e, ee, s, es            (or the refusal frame)
//! s, se, psk, initiator's Hello      ──3──▶
//!                                    ◀──────  first transport message: responder's Hello
//! first transport message            ──────▶
//! ```
//!
//! The psk is mixed in last, so both Hellos, and nothing before them, are under the full key. The key id in
//! message 1 is readable by anyone; it is part of the transcript, so it cannot be changed unnoticed.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use rand_chacha::ChaCha20Rng;
use snow::params::NoiseParams;
use snow::{Builder, HandshakeState, TransportState};
use weft_wire::limits::MESH_FRAME_MAX;
use weft_wire::mesh::{Hello, Message, REFUSAL_MARK, decode_hello};
use weft_wire::noise::{MESH_PATTERN, MESH_PROLOGUE, SeededResolver, remote_static};
use weft_wire::{KeyId, NoiseKeypair, NoisePublic, Psk, RejectReason, codec};

/// Octets of the authentication tag (Noise §5.1).
pub const TAG_LEN: usize = 16;
/// Octets of message 1: ephemeral key, key id, tag.
pub const INITIATION_LEN: usize = 32 + 8 + TAG_LEN;
/// Octets of message 2: ephemeral key, sealed static key, tag of the empty payload.
pub const RESPONSE_LEN: usize = 32 + 32 + TAG_LEN + TAG_LEN;
/// Position of the psk in the pattern (Noise §9.1: psk3 comes at the end of message 3).
const PSK_POSITION: u8 = 3;

/// Which secret a key comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum KeyRole {
    /// The current cluster secret.
    Cluster,
    /// The cluster secret before that.
    PreviousCluster,
    /// The join token.
    Token,
}

/// The keys under which this host answers.
#[derive(Clone, Default, Debug)]
pub struct Keyring {
    entries: Vec<(KeyRole, Psk)>,
}

impl Keyring {
    /// A keyring of at most one key for each role; a later one of the same role replaces the earlier.
    pub fn new(entries: impl IntoIterator<Item = (KeyRole, Psk)>) -> Self {
        let mut ring = Self::default();
        for (role, psk) in entries {
            ring.entries.retain(|(held, _)| *held != role);
            ring.entries.push((role, psk));
        }
        ring
    }

    /// The key with this id.
    pub fn find(&self, id: &KeyId) -> Option<(KeyRole, &Psk)> {
        self.entries
            .iter()
            .find(|(_, psk)| psk.id == *id)
            .map(|(role, psk)| (*role, psk))
    }

    /// The key of this role.
    pub fn get(&self, role: KeyRole) -> Option<&Psk> {
        self.entries.iter().find(|(r, _)| *r == role).map(|(_, psk)| psk)
    }
}

/// The clear frame that takes the place of message 2 when the responder refuses.
pub fn refusal_frame(reason: RejectReason) -> Vec<u8> {
    vec![REFUSAL_MARK, reason.code()]
}

/// The reason in a refusal frame. It is not authenticated: a hint for people and for the choice of key.
pub fn read_refusal(frame: &[u8]) -> Option<RejectReason> {
    match frame {
        [REFUSAL_MARK, code] => Some(RejectReason::from_code(*code).unwrap_or(RejectReason::BadHandshake)),
        _ => None,
    }
}

fn builder<'a>(local: &'a NoiseKeypair, rng: &mut ChaCha20Rng) -> Result<Builder<'a>, RejectReason> {
    let params: NoiseParams = MESH_PATTERN.parse().map_err(|_| RejectReason::BadHandshake)?;
    Builder::with_resolver(params, Box::new(SeededResolver::new(rng)))
        .prologue(MESH_PROLOGUE)
        .and_then(|b| b.local_private_key(&local.secret))
        .map_err(|_| RejectReason::BadHandshake)
}

fn write(state: &mut HandshakeState, payload: &[u8]) -> Result<Vec<u8>, RejectReason> {
    if payload.len() > MESH_FRAME_MAX - 2 * RESPONSE_LEN {
        return Err(RejectReason::BadMessage);
    }
    // Keys and tags add fewer octets than two whole messages 2.
    let mut out = vec![0; payload.len() + 2 * RESPONSE_LEN];
    let written = state
        .write_message(payload, &mut out)
        .map_err(|_| RejectReason::BadHandshake)?;
    out.truncate(written);
    Ok(out)
}

fn read(state: &mut HandshakeState, frame: &[u8]) -> Result<Vec<u8>, RejectReason> {
    let mut out = vec![0; frame.len()];
    let read = state
        .read_message(frame, &mut out)
        .map_err(|_| RejectReason::BadHandshake)?;
    out.truncate(read);
    Ok(out)
}

fn into_transport(state: HandshakeState) -> Result<(Transport, NoisePublic), RejectReason> {
    let remote = remote_static(state.get_remote_static()).ok_or(RejectReason::BadHandshake)?;
    let state = state
        .into_transport_mode()
        .map_err(|_| RejectReason::BadHandshake)?;
    Ok((Transport { state }, remote))
}

fn check_certificate(hello: &Hello, remote: &NoisePublic) -> Result<(), RejectReason> {
    if hello
        .node
        .verify_noise_static(remote, &hello.noise_certificate.into())
    {
        Ok(())
    } else {
        Err(RejectReason::BadCertificate)
    }
}

/// Initiator: message 1 is out, message 2 is awaited.
pub struct AwaitingResponse(HandshakeState);

/// Starts a handshake under `psk`; the frame is message 1.
pub fn initiate(
    local: &NoiseKeypair,
    psk: &Psk,
    rng: &mut ChaCha20Rng,
) -> Result<(AwaitingResponse, Vec<u8>), RejectReason> {
    let mut state = builder(local, rng)?
        .psk(PSK_POSITION, &psk.key)
        .and_then(Builder::build_initiator)
        .map_err(|_| RejectReason::BadHandshake)?;
    let frame = write(&mut state, &psk.id.0)?;
    Ok((AwaitingResponse(state), frame))
}

impl AwaitingResponse {
    /// Reads message 2 and answers with message 3, which carries `hello`. A refusal frame gives its reason.
    pub fn read_response(
        mut self,
        frame: &[u8],
        hello: &Hello,
    ) -> Result<(AwaitingConfirmation, Vec<u8>), RejectReason> {
        if let Some(reason) = read_refusal(frame) {
            return Err(reason);
        }
        if frame.len() != RESPONSE_LEN || !read(&mut self.0, frame)?.is_empty() {
            return Err(RejectReason::BadHandshake);
        }
        let frame = write(&mut self.0, &codec::encode(hello))?;
        let (transport, remote) = into_transport(self.0)?;
        Ok((AwaitingConfirmation { transport, remote }, frame))
    }
}

/// Initiator: message 3 is out, the responder's Hello is awaited.
pub struct AwaitingConfirmation {
    transport: Transport,
    remote: NoisePublic,
}

impl AwaitingConfirmation {
    /// Reads the responder's Hello. A Goodbye in its place gives its reason.
    pub fn read_hello(mut self, frame: &[u8]) -> Result<(Transport, Hello), Refused> {
        let hello = self.transport.open(frame).and_then(|plaintext| {
            match Message::decode(&plaintext).map_err(|_| RejectReason::BadMessage)? {
                Some(Message::Hello(hello)) => {
                    check_certificate(&hello, &self.remote)?;
                    Ok(hello)
                }
                Some(Message::Goodbye(reason)) => Err(reason),
                _ => Err(RejectReason::BadMessage),
            }
        });
        match hello {
            Ok(hello) => Ok((self.transport, hello)),
            Err(reason) => Err((reason, Some(Box::new(self.transport)))),
        }
    }

    /// Gives up the handshake; the transport can still carry a Goodbye.
    pub fn into_transport(self) -> Transport {
        self.transport
    }
}

/// Responder: message 2 is out, message 3 is awaited.
pub struct AwaitingHello {
    state: HandshakeState,
    role: KeyRole,
}

/// Reads message 1, finds its key by the key id, and answers with message 2.
pub fn respond(
    local: &NoiseKeypair,
    keyring: &Keyring,
    frame: &[u8],
    rng: &mut ChaCha20Rng,
) -> Result<(AwaitingHello, Vec<u8>), RejectReason> {
    if frame.len() != INITIATION_LEN {
        return Err(RejectReason::BadHandshake);
    }
    let mut state = builder(local, rng)?
        .build_responder()
        .map_err(|_| RejectReason::BadHandshake)?;
    let id: [u8; 8] = read(&mut state, frame)?
        .try_into()
        .map_err(|_| RejectReason::BadHandshake)?;
    let (role, psk) = keyring.find(&KeyId(id)).ok_or(RejectReason::UnknownKey)?;
    state
        .set_psk(usize::from(PSK_POSITION), &psk.key)
        .map_err(|_| RejectReason::BadHandshake)?;
    let frame = write(&mut state, &[])?;
    Ok((AwaitingHello { state, role }, frame))
}

impl AwaitingHello {
    /// Which secret the initiator used.
    pub fn role(&self) -> KeyRole {
        self.role
    }

    /// Reads message 3 and checks that the Hello's node certified the static key of this handshake. When the
    /// seal opened but the Hello is wrong, the transport comes back so that a Goodbye can tell why.
    pub fn read_hello(mut self, frame: &[u8]) -> Result<(Transport, Hello), Refused> {
        let payload = read(&mut self.state, frame).map_err(|reason| (reason, None))?;
        let (transport, remote) = into_transport(self.state).map_err(|reason| (reason, None))?;
        let checked = decode_hello(&payload)
            .map_err(|_| RejectReason::BadMessage)
            .and_then(|hello| check_certificate(&hello, &remote).map(|()| hello));
        match checked {
            Ok(hello) => Ok((transport, hello)),
            Err(reason) => Err((reason, Some(Box::new(transport)))),
        }
    }
}

/// Why a Hello was refused, with the keys for a Goodbye once there are some.
pub type Refused = (RejectReason, Option<Box<Transport>>);

/// The two keys of a finished handshake (Noise §5.2, one counter for each direction).
pub struct Transport {
    state: TransportState,
}

impl Transport {
    /// Seals a plaintext of at most [`MESH_FRAME_MAX`] octets into a frame.
    pub fn seal(&mut self, plaintext: &[u8]) -> Result<Vec<u8>, RejectReason> {
        let mut out = vec![0; plaintext.len() + TAG_LEN];
        let written = self
            .state
            .write_message(plaintext, &mut out)
            .map_err(|_| RejectReason::BadMessage)?;
        out.truncate(written);
        Ok(out)
    }

    /// Opens the next frame; frames must come in the order in which they were sealed.
    pub fn open(&mut self, frame: &[u8]) -> Result<Vec<u8>, RejectReason> {
        if frame.len() < TAG_LEN {
            return Err(RejectReason::BadMessage);
        }
        let mut out = vec![0; frame.len()];
        let read = self
            .state
            .read_message(frame, &mut out)
            .map_err(|_| RejectReason::BadMessage)?;
        out.truncate(read);
        Ok(out)
    }
}
