//! Sealing and opening on one core: the sessions of the engine, without the workers around them.

use super::Row;
use crate::figure::Sample;
use crate::goal::Goal;
use anyhow::anyhow;
use std::time::{Duration, Instant};
use weft_sleeve::Cipher;
use weft_sleeve_engine::measure::SessionPair;
use weft_wire::datagram::{HEADER_LEN, TAG_LEN};

/// Octets of content.
const CONTENT: usize = 1_400;
/// Datagrams that are sealed, and then opened: few enough for the cache, as a batch of an engine is.
const BATCH: usize = 44;
/// How long each direction takes at least.
const TIME: Duration = Duration::from_millis(200);

pub(super) const ROW: Row = Row {
    name: "seal",
    about: "sealing and opening datagrams of 1400 octets on one core, as the engine does",
    contenders: &[],
    round: |stand, _| {
        let mut figures = Vec::new();
        for (cipher, name, goal) in [
            (Cipher::Aes256Gcm, "AES-256-GCM", Some(Goal::at_least(5.0, 7.0))),
            (Cipher::ChaCha20Poly1305, "ChaCha20-Poly1305", None),
        ] {
            stand.gate.pass()?;
            let (sealing, opening) = measure(cipher)?;
            for (what, speed) in [("seal", sealing), ("open", opening)] {
                let sample = Sample::new(
                    format!("{what}, one core, {CONTENT} octets, {name}"),
                    "GB/s",
                    speed,
                );
                figures.push(match goal {
                    Some(goal) => sample.goal(goal),
                    None => sample,
                });
            }
        }
        Ok(figures)
    },
};

/// GB/s of content, of sealing and of opening.
fn measure(cipher: Cipher) -> anyhow::Result<(f64, f64)> {
    let pair = SessionPair::new(cipher, [7; 32])?;
    let mut batch = vec![[0x5a; HEADER_LEN + CONTENT + TAG_LEN]; BATCH];
    let (mut sealing, mut opening, mut octets) = (Duration::ZERO, Duration::ZERO, 0);
    while sealing < TIME || opening < TIME {
        let begin = Instant::now();
        for datagram in &mut batch {
            pair.seal(datagram)
                .map_err(|reason| anyhow!("not sealed: {reason:?}"))?;
        }
        let between = Instant::now();
        for datagram in &mut batch {
            octets += pair
                .open(datagram)
                .map_err(|reason| anyhow!("not opened: {reason:?}"))?
                .len();
        }
        sealing += between - begin;
        opening += between.elapsed();
    }
    let speed = |time: Duration| octets as f64 / time.as_secs_f64() / 1e9;
    Ok((speed(sealing), speed(opening)))
}
