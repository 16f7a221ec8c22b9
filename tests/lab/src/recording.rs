//! Everything an interface sends and receives, counted and searched for a text.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use weft_kernel::Namespace;
use weft_kernel::capture::Capture;

use crate::error::{Error, Result};

/// How long one wait for a frame lasts at most: longer than the kernel keeps a half full block.
const GLANCE: Duration = Duration::from_millis(50);
/// The smallest ring: about 10,000 full frames between two looks of the reading thread.
const MIN_RING: usize = 16 << 20;
/// The largest ring; it is memory that cannot be swapped out.
const MAX_RING: usize = 512 << 20;

/// A capture that runs. Dropped, it stops.
#[derive(Debug)]
pub struct Recording {
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<weft_kernel::Result<Recorded>>>,
}

/// What a capture saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Frames in both directions.
    pub frames: u64,
    /// Their octets, Ethernet headers included.
    pub bytes: u64,
    /// Frames that went by unseen, because the reading thread was too slow.
    pub missed: u64,
    /// Places at which the text was found.
    pub found: u64,
}

impl Recording {
    pub(crate) fn start(
        namespace: &Namespace,
        interface: &str,
        needle: &[u8],
        expected: usize,
    ) -> Result<Self> {
        if needle.is_empty() {
            return Err(Error::invalid(
                "a search for nothing",
                "the text has at least one octet",
            ));
        }
        // Frames have headers, the kernel's record of a frame has some too, and blocks have rests.
        let ring = (expected / 2 * 3).clamp(MIN_RING, MAX_RING);
        let capture = namespace.run(|| Capture::open(interface, ring))??;
        let stop = Arc::new(AtomicBool::new(false));
        let (needle, stopped) = (needle.to_vec(), Arc::clone(&stop));
        let reader = std::thread::Builder::new()
            .name("weft-lab-record".into())
            .spawn(move || record(capture, &needle, &stopped))
            .map_err(|e| Error::io("start the thread of a capture", e))?;
        Ok(Self {
            stop,
            reader: Some(reader),
        })
    }

    /// Stops, and tells what was seen until now.
    ///
    /// # Errors
    /// When the capture failed.
    pub fn stop(mut self) -> Result<Recorded> {
        let reader = self.reader.take();
        self.stop.store(true, Ordering::Relaxed);
        match reader.map(JoinHandle::join) {
            Some(Ok(recorded)) => Ok(recorded?),
            _ => Err(Error::io(
                "read a capture",
                std::io::Error::other("its thread panicked"),
            )),
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn record(mut capture: Capture, needle: &[u8], stop: &AtomicBool) -> weft_kernel::Result<Recorded> {
    let mut recorded = Recorded::default();
    // Frames of before the stop may still be in the ring; those of after it end the reading.
    let mut end = None;
    loop {
        if end.is_none() && stop.load(Ordering::Relaxed) {
            end = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok();
        }
        match capture.next_frame(GLANCE)? {
            Some(frame) if end.is_some_and(|end| frame.time > end) => break,
            Some(frame) => {
                recorded.frames += 1;
                recorded.bytes += frame.wire_length as u64;
                recorded.found += count(frame.data, needle);
            }
            None if stop.load(Ordering::Relaxed) => break,
            None => {}
        }
    }
    recorded.missed = capture.stats()?.drops;
    Ok(recorded)
}

/// How often `needle`, which is not empty, stands in `hay` without overlap.
fn count(hay: &[u8], needle: &[u8]) -> u64 {
    let mut found = 0;
    let mut rest = hay;
    while let Some(at) = position(rest, needle) {
        found += 1;
        rest = &rest[at + needle.len()..];
    }
    found
}

fn position(hay: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    loop {
        // Looking for one octet first is several times as fast as comparing at every place.
        let at = from + hay.get(from..)?.iter().position(|octet| *octet == first)?;
        if hay.get(at..at + needle.len())? == needle {
            return Some(at);
        }
        from = at + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn a_text_is_found_wherever_it_stands() {
        assert_eq!(count(b"weft", b"weft"), 1);
        assert_eq!(count(b"wwefwefta weft", b"weft"), 2);
        assert_eq!(count(b"aaaa", b"aa"), 2);
        assert_eq!(count(b"wef", b"weft"), 0);
        assert_eq!(count(b"", b"weft"), 0);
    }
}
