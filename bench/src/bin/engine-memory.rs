//! Nothing but an engine, with as many sessions as it is told, all with one other such process: `cargo bench -p bench --
//! sleeve --row memory` reads how much memory it needs. It answers when each session has carried frames both ways, and
//! runs on until it is ended.
#![forbid(unsafe_code)]

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Parser;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use weft_sleeve::{Cipher, ForwardingTable, PeerPath, SessionKeys};
use weft_sleeve_engine::{EngineChoice, EngineConfig};
use weft_wire::{Mac, NodeId, SessionIndex};

/// Frames that each session has carried each way before the memory is read.
const FRAMES: u64 = 4;
/// Octets of UDP payload that an underlay of 1500 carries.
const DATAGRAM: u16 = 1_472;
/// Between two looks at the counters.
const GLANCE: Duration = Duration::from_millis(20);

/// An engine with sessions that nobody had to agree on.
#[derive(Parser)]
struct Args {
    /// TAP device; it exists.
    #[arg(long)]
    tap: String,
    /// Address to listen at.
    #[arg(long)]
    listen: SocketAddr,
    /// Address of the other process.
    #[arg(long)]
    peer: SocketAddr,
    /// How many sessions there are.
    #[arg(long)]
    peers: u16,
    /// 0 here and 1 there, or the other way round.
    #[arg(long)]
    side: u8,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let config = EngineConfig {
        tap: args.tap,
        socket: UdpSocket::bind(args.listen).with_context(|| args.listen.to_string())?,
        events: Box::new(|_| true),
    };
    let engine = weft_sleeve_engine::start(EngineChoice::Best, config)?;
    let mut table = ForwardingTable::empty(NodeId([args.side; 32]).peer_hash());
    for number in 0..args.peers {
        let (peer, keys) = session(number, args.side);
        engine.install(&keys)?;
        table.peers.push(PeerPath {
            peer,
            hash: peer.peer_hash(),
            session: Some(keys.local),
            endpoint: Some(args.peer),
            by_relay: false,
            datagram: DATAGRAM,
        });
        table.macs.insert(Mac(bench::sleeve::peer_mac(number)), number);
    }
    engine.publish(&table);
    loop {
        let counters = engine.counters();
        let carried = counters
            .peers
            .values()
            .filter(|traffic| traffic.tx_frames.min(traffic.rx_frames) >= FRAMES)
            .count();
        if carried == usize::from(args.peers) {
            println!("engine: {}", engine.description().name);
            println!("resident octets: {}", resident()?);
            // Until it is ended.
            loop {
                std::thread::park();
            }
        }
        std::thread::sleep(GLANCE);
    }
}

/// A peer in the order of ids, and keys that both sides make alike.
fn session(number: u16, side: u8) -> (NodeId, SessionKeys) {
    let [high, low] = number.to_be_bytes();
    let mut id = [0; 32];
    (id[0], id[1]) = (high, low);
    let mut seed = [9; 32];
    (seed[0], seed[1]) = (high, low);
    let mut keys = [[0; 32]; 2];
    let mut random = ChaCha20Rng::from_seed(seed);
    keys.iter_mut().for_each(|key| random.fill_bytes(key));
    let [one, other] = keys;
    let (send, receive) = if side == 0 { (one, other) } else { (other, one) };
    let index = SessionIndex(u32::from(number) + 1);
    let peer = NodeId(id);
    let keys = SessionKeys {
        local: index,
        remote: index,
        peer,
        cipher: Cipher::Aes256Gcm,
        send,
        receive,
    };
    (peer, keys)
}

/// Resident memory of this process in octets (proc_pid_status(5)).
fn resident() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.ok_or_else(|| anyhow!("/proc/self/status lacks VmRSS"))? * 1_024)
}
