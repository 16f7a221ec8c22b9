//! Noise IKpsk2 (Noise §7.5 and §9) over the octets of [`crate::message`].

use crate::io::LocalNode;
use crate::keys::Split;
use crate::message::{
    INIT_PAYLOAD_LEN, InitPayload, NOISE_INIT_LEN, NOISE_RESP_LEN, RESP_PAYLOAD_LEN, RespPayload,
};
use alloc::boxed::Box;
use rand_chacha::ChaCha20Rng;
use snow::params::NoiseParams;
use snow::{Builder, HandshakeState};
use weft_wire::NoisePublic;
use weft_wire::noise::{SLEEVE_PATTERN, SLEEVE_PROLOGUE, SeededResolver, remote_static};

/// Where the psk is mixed in: the `2` of IKpsk2.
const PSK_POSITION: u8 = 2;

fn build(
    local: &LocalNode,
    psk: &[u8; 32],
    rng: &mut ChaCha20Rng,
    responder: Option<&NoisePublic>,
) -> Option<HandshakeState> {
    let params: NoiseParams = SLEEVE_PATTERN.parse().ok()?;
    let builder = Builder::with_resolver(params, Box::new(SeededResolver::new(rng)))
        .local_private_key(&local.noise.secret)
        .and_then(|b| b.psk(PSK_POSITION, psk))
        .and_then(|b| b.prologue(SLEEVE_PROLOGUE))
        .ok()?;
    match responder {
        Some(key) => builder.remote_public_key(&key.0).ok()?.build_initiator().ok(),
        None => builder.build_responder().ok(),
    }
}

/// An initiation that awaits its response.
pub(crate) struct Initiation(Box<HandshakeState>);

impl Initiation {
    /// Makes message 1. `None` only if the primitives are not compiled in.
    pub(crate) fn start(
        local: &LocalNode,
        psk: &[u8; 32],
        rng: &mut ChaCha20Rng,
        responder: &NoisePublic,
        payload: &InitPayload,
    ) -> Option<(Self, [u8; NOISE_INIT_LEN])> {
        let mut noise = build(local, psk, rng, Some(responder))?;
        let mut out = [0; NOISE_INIT_LEN];
        let length = noise.write_message(&payload.to_bytes(), &mut out).ok()?;
        (length == NOISE_INIT_LEN).then(|| (Self(Box::new(noise)), out))
    }

    /// Reads message 2. `None` when it was not made by the responder for this initiation under this psk; then the
    /// initiation goes on waiting, so that a forged answer does not end it.
    pub(crate) fn finish(&mut self, message: &[u8; NOISE_RESP_LEN]) -> Option<(RespPayload, Split)> {
        let mut payload = [0; RESP_PAYLOAD_LEN];
        let length = self.0.read_message(message, &mut payload).ok()?;
        (length == RESP_PAYLOAD_LEN).then(|| (RespPayload::parse(&payload), split(&mut self.0)))
    }
}

/// An initiation that was read and awaits our response.
pub(crate) struct Received {
    noise: HandshakeState,
    /// What the initiator says, authenticated as said by the holder of `initiator`.
    pub(crate) payload: InitPayload,
    /// The initiator's static key.
    pub(crate) initiator: NoisePublic,
}

impl Received {
    /// Reads message 1. `None` when it was not made for us.
    pub(crate) fn read(
        local: &LocalNode,
        psk: &[u8; 32],
        rng: &mut ChaCha20Rng,
        message: &[u8; NOISE_INIT_LEN],
    ) -> Option<Self> {
        let mut noise = build(local, psk, rng, None)?;
        let mut payload = [0; INIT_PAYLOAD_LEN];
        let length = noise.read_message(message, &mut payload).ok()?;
        if length != INIT_PAYLOAD_LEN {
            return None;
        }
        let initiator = remote_static(noise.get_remote_static())?;
        Some(Self {
            noise,
            payload: InitPayload::parse(&payload),
            initiator,
        })
    }

    /// Makes message 2. `None` only if the primitives are not compiled in.
    pub(crate) fn respond(mut self, payload: &RespPayload) -> Option<([u8; NOISE_RESP_LEN], Split)> {
        let mut out = [0; NOISE_RESP_LEN];
        let length = self.noise.write_message(&payload.to_bytes(), &mut out).ok()?;
        (length == NOISE_RESP_LEN).then(|| (out, split(&mut self.noise)))
    }
}

fn split(noise: &mut HandshakeState) -> Split {
    let (initiator, responder) = noise.dangerously_get_raw_split();
    Split { initiator, responder }
}
