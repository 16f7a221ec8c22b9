//! The yardstick: an encrypted tunnel for frames as one writes it on the first day.
//!
//! One frame is read from a TAP device of tun-tap, sealed by snow, and sent in one datagram; one datagram is received,
//! opened and written. Two threads, one for each direction. Nothing is batched, offloaded or checked for replays.
//! `cargo bench -p bench -- sleeve` says how many times faster weft is.
#![forbid(unsafe_code)]

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use clap::Parser;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use snow::{Builder, HandshakeState, StatelessTransportState};
use tun_tap::{Iface, Mode};
use weft_wire::noise::SeededResolver;

/// Both ends know one key.
const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
/// Octets of a key and of the seed behind it.
const KEY: usize = 32;
/// The counter that a datagram carries in clear before what is sealed.
const COUNTER: usize = size_of::<u64>();
/// As large as a datagram can be.
const DATAGRAM: usize = 65_535;
/// The first message is repeated this often, until the other end is there.
const REPEAT: Duration = Duration::from_millis(50);
/// By then the other end is there.
const PATIENCE: Duration = Duration::from_secs(20);

/// Carries frames between a TAP device and one other end.
#[derive(Parser)]
struct Args {
    /// TAP device; it exists.
    #[arg(long)]
    tap: String,
    /// Address to listen at.
    #[arg(long)]
    listen: SocketAddr,
    /// Address of the other end.
    #[arg(long)]
    peer: SocketAddr,
    /// File of 64 octets: the key that both ends know, and a seed of this end's own.
    #[arg(long)]
    secret: PathBuf,
    /// Begin the handshake instead of waiting for it.
    #[arg(long)]
    begin: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let tap = Iface::without_packet_info(&args.tap, Mode::Tap).context("the TAP device")?;
    let socket = UdpSocket::bind(args.listen).with_context(|| args.listen.to_string())?;
    socket.connect(args.peer)?;
    let session = handshake(&socket, &args)?;
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| send(&tap, &socket, &session));
        let receiving = receive(&tap, &socket, &session);
        let sending = sending
            .join()
            .unwrap_or_else(|_| Err(anyhow!("a thread panicked")));
        receiving.and(sending)
    })
}

fn handshake(socket: &UdpSocket, args: &Args) -> anyhow::Result<StatelessTransportState> {
    let secret = std::fs::read(&args.secret).with_context(|| args.secret.display().to_string())?;
    let (key, seed) = secret
        .split_first_chunk::<KEY>()
        .context("the file is too short")?;
    let seed = *seed.first_chunk::<KEY>().context("the file is too short")?;
    let resolver = SeededResolver::new(&mut ChaCha20Rng::from_seed(seed));
    let builder = Builder::with_resolver(PATTERN.parse()?, Box::new(resolver)).psk(0, key)?;
    let mut buffer = [0; DATAGRAM];
    if args.begin {
        let mut noise = builder.build_initiator()?;
        let length = noise.write_message(&[], &mut buffer)?;
        let message = buffer[..length].to_vec();
        socket.set_read_timeout(Some(REPEAT))?;
        let end = Instant::now() + PATIENCE;
        let length = loop {
            // Refused while the other end is not there.
            let _ = socket.send(&message);
            match socket.recv(&mut buffer) {
                Ok(length) => break length,
                Err(_) if Instant::now() < end => {}
                Err(error) => bail!("no other end at {}: {error}", args.peer),
            }
        };
        socket.set_read_timeout(None)?;
        accept(&mut noise, &buffer[..length])?;
        Ok(noise.into_stateless_transport_mode()?)
    } else {
        let mut noise = builder.build_responder()?;
        let length = socket.recv(&mut buffer)?;
        accept(&mut noise, &buffer[..length])?;
        let length = noise.write_message(&[], &mut buffer)?;
        socket.send(&buffer[..length])?;
        Ok(noise.into_stateless_transport_mode()?)
    }
}

fn accept(noise: &mut HandshakeState, message: &[u8]) -> anyhow::Result<()> {
    noise.read_message(message, &mut [])?;
    Ok(())
}

fn send(tap: &Iface, socket: &UdpSocket, session: &StatelessTransportState) -> anyhow::Result<()> {
    let (mut frame, mut datagram) = (vec![0; DATAGRAM], vec![0; DATAGRAM]);
    for counter in 0_u64.. {
        let length = tap.recv(&mut frame)?;
        datagram[..COUNTER].copy_from_slice(&counter.to_be_bytes());
        let sealed = session.write_message(counter, &frame[..length], &mut datagram[COUNTER..])?;
        // A full socket buffer and an end that is not there lose a frame, as any wire may.
        let _ = socket.send(&datagram[..COUNTER + sealed]);
    }
    Ok(())
}

fn receive(tap: &Iface, socket: &UdpSocket, session: &StatelessTransportState) -> anyhow::Result<()> {
    let (mut frame, mut datagram) = (vec![0; DATAGRAM], vec![0; DATAGRAM]);
    loop {
        // Refused while the other end is not there.
        let Ok(length) = socket.recv(&mut datagram) else {
            continue;
        };
        let Some((counter, sealed)) = datagram[..length].split_first_chunk::<COUNTER>() else {
            continue;
        };
        // What does not open is no frame: a repeated handshake message, for one.
        let Ok(opened) = session.read_message(u64::from_be_bytes(*counter), sealed, &mut frame) else {
            continue;
        };
        // Lost while the device is down.
        let _ = tap.send(&frame[..opened]);
    }
}
