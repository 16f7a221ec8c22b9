//! The hash over everything that happens, and the lines of a trace.

use blake2::{Blake2s256, Digest as _};
use std::collections::VecDeque;
use weft_wire::Time;

/// Lines that a failure shows.
const LINES_KEPT: usize = 60;

/// What becomes of the lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lines {
    /// They are not even made.
    None,
    /// The last ones are kept.
    Last,
    /// They are printed as they come.
    Print,
}

/// Takes down what happens.
pub(crate) struct Record {
    hash: Blake2s256,
    pub(crate) count: u64,
    lines: Lines,
    kept: VecDeque<String>,
}

impl Record {
    pub(crate) fn new(lines: Lines) -> Self {
        Self {
            hash: Blake2s256::new(),
            count: 0,
            lines,
            kept: VecDeque::new(),
        }
    }

    /// One thing that happened at a host: its kind, its octets, and how a person would say it.
    pub(crate) fn note(
        &mut self,
        now: Time,
        host: usize,
        kind: &str,
        octets: &[&[u8]],
        text: impl FnOnce() -> String,
    ) {
        self.count += 1;
        self.hash.update(now.as_nanos().to_be_bytes());
        self.hash.update((host as u64).to_be_bytes());
        for part in std::iter::once(&kind.as_bytes()).chain(octets) {
            self.hash.update((part.len() as u64).to_be_bytes());
            self.hash.update(part);
        }
        if self.lines == Lines::None {
            return;
        }
        let line = format!(
            "{:>12.6} host{host:<3} {kind:<12} {}",
            now.since_start().as_secs_f64(),
            text()
        );
        match self.lines {
            Lines::Print => println!("{line}"),
            _ => {
                if self.kept.len() == LINES_KEPT {
                    self.kept.pop_front();
                }
                self.kept.push_back(line);
            }
        }
    }

    /// The hash and the lines that were kept.
    pub(crate) fn finish(self) -> ([u8; 32], Vec<String>) {
        (self.hash.finalize().into(), self.kept.into())
    }
}
