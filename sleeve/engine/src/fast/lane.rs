//! Sealed datagrams for one peer, until they leave as one run.

use std::io;

use weft_sleeve::Content;
use weft_sleeve::path_mtu::FLOOR;
use weft_sleeve::segment::expand;
use weft_wire::DropReason;
use weft_wire::datagram::{FloodPrefix, HEADER_LEN, Header, Kind, Meta, TAG_LEN};

use crate::common::outlet::Outlet;
use crate::common::pieces;
use crate::common::shared::send_reason;
use crate::view::Path;

/// Octets of one run: what the kernel takes in one call, the longest UDP payload of IPv4 (RFC 768, RFC 791).
const RUN_OCTETS: usize = 65_507;
/// Datagrams in one run: `UDP_MAX_SEGMENTS` of kernels before 6.9.
const RUN_DATAGRAMS: usize = 64;
/// Peers whose datagrams are held at once; the lane that waits for longest is flushed for another peer.
const LANES: usize = 8;
const _: () = assert!(
    LANES * RUN_OCTETS <= 1 << 20,
    "what is held for peers stays below a megabyte"
);

/// Room for the datagrams of all lanes, kept from one turn to the next.
pub(super) struct Buffers {
    lanes: [Box<[u8]>; LANES],
    /// Room for a datagram that is sent on its own.
    single: Vec<u8>,
    frame: Vec<u8>,
    /// False once the kernel has refused a run whose datagrams it took one by one.
    takes_runs: bool,
}

impl Buffers {
    pub(super) fn new() -> Self {
        Self {
            lanes: std::array::from_fn(|_| vec![0; RUN_OCTETS].into()),
            single: Vec::new(),
            frame: Vec::new(),
            takes_runs: true,
        }
    }
}

/// Datagrams of one size that wait to leave, the last of which may be shorter.
#[derive(Clone, Copy, Default)]
struct Lane<'v> {
    path: Option<&'v Path>,
    /// Octets of each datagram but the last, with its shim if they go by relay.
    size: usize,
    count: usize,
    len: usize,
    /// The last one is shorter: nothing can be appended.
    is_closed: bool,
    /// What is counted when they have left.
    frames: u64,
    octets: usize,
    large: u64,
}

/// The lanes for one turn of the sending worker, under one view.
pub(super) struct Lanes<'v, 'b> {
    lanes: [Lane<'v>; LANES],
    buffers: &'b mut Buffers,
    outlet: &'b mut Outlet,
    next: usize,
}

impl<'v, 'b> Lanes<'v, 'b> {
    pub(super) fn new(buffers: &'b mut Buffers, outlet: &'b mut Outlet) -> Self {
        Self {
            lanes: [Lane::default(); LANES],
            buffers,
            outlet,
            next: 0,
        }
    }

    pub(super) fn outlet(&mut self) -> &mut Outlet {
        self.outlet
    }

    /// Appends one datagram with this content. `frames` and `octets` are counted as sent when it has left.
    pub(super) fn push(
        &mut self,
        path: &'v Path,
        kind: Kind,
        counter: u64,
        content: &[u8],
        (frames, octets): (u64, usize),
    ) {
        let shim = path.hop.shim.as_ref().map_or(&[][..], |shim| shim);
        let size = HEADER_LEN + content.len() + TAG_LEN;
        let whole = shim.len() + size;
        let at = self.lane_for(path, whole);
        let (Some(lane), Some(buffer)) = (self.lanes.get_mut(at), self.buffers.lanes.get_mut(at)) else {
            return;
        };
        let Some(room) = buffer.get_mut(lane.len..lane.len + whole) else {
            return self.outlet.shared.tally.drop(DropReason::OversizeFrame, None);
        };
        let (before, room) = room.split_at_mut(shim.len());
        before.copy_from_slice(shim);
        let sealed = path
            .session
            .seal_from(kind, path.hop.flags(), counter, content, room);
        if let Err(reason) = sealed {
            return self.outlet.shared.tally.drop(reason, Some(path.hop.endpoint));
        }
        lane.path = Some(path);
        if lane.count == 0 {
            lane.size = whole;
        }
        lane.is_closed = whole < lane.size;
        lane.count += 1;
        lane.len += whole;
        lane.frames += frames;
        lane.octets += octets;
        lane.large += u64::from(size > usize::from(FLOOR));
    }

    /// The lane of a path, with room for one more datagram of this size.
    fn lane_for(&mut self, path: &'v Path, size: usize) -> usize {
        let is_this = |lane: &Lane<'_>| lane.path.is_some_and(|other| std::ptr::eq(other, path));
        if let Some(at) = self.lanes.iter().position(is_this) {
            let fits = self.lanes.get(at).is_some_and(|lane| {
                lane.count == 0
                    || (!lane.is_closed
                        && size <= lane.size
                        && lane.count < RUN_DATAGRAMS
                        && lane.len + size <= RUN_OCTETS)
            });
            if !fits {
                self.flush_at(at);
            }
            return at;
        }
        if let Some(at) = self.lanes.iter().position(|lane| lane.path.is_none()) {
            return at;
        }
        let at = self.next % LANES;
        self.next = at + 1;
        self.flush_at(at);
        at
    }

    /// Sends all that waits.
    pub(super) fn flush(&mut self) {
        for at in 0..LANES {
            self.flush_at(at);
        }
    }

    fn flush_at(&mut self, at: usize) {
        let Some(lane) = self.lanes.get_mut(at).map(std::mem::take) else {
            return;
        };
        let Some(path) = lane.path.filter(|_| lane.count > 0) else {
            return;
        };
        let session = &path.session;
        session.count_frames(lane.count as u64, lane.large);
        match self.transmit(at, &lane, path) {
            Ok(()) => session.traffic.sent(lane.frames, lane.octets),
            Err(reason) => {
                self.outlet
                    .shared
                    .tally
                    .drop_many(reason, lane.count as u64, Some(path.hop.endpoint))
            }
        }
    }

    fn transmit(&mut self, at: usize, lane: &Lane<'_>, path: &Path) -> Result<(), DropReason> {
        let Some(run) = self
            .buffers
            .lanes
            .get_mut(at)
            .and_then(|buffer| buffer.get_mut(..lane.len))
        else {
            return Ok(());
        };
        if lane.count == 1 || self.buffers.takes_runs {
            let size = Some(lane.size).filter(|_| lane.count > 1);
            match self.outlet.send_run(path.hop.endpoint, run, size) {
                Ok(()) => return Ok(()),
                Err(error) if lane.count == 1 && !is_too_big(&error) => return Err(send_reason(&error)),
                Err(_) => {}
            }
        }
        // The kernel refuses the run, or datagrams of this size.
        let mut was_too_big = false;
        for datagram in run.chunks_mut(lane.size) {
            match self.outlet.send_run(path.hop.endpoint, datagram, None) {
                Ok(()) => {}
                Err(error) if is_too_big(&error) => {
                    let shim = path.hop.shim.map_or(0, |shim| shim.len());
                    let datagram = datagram.get_mut(shim..).unwrap_or_default();
                    if !was_too_big {
                        let size = u16::try_from(datagram.len()).unwrap_or(u16::MAX);
                        path.refused(size, |event| self.outlet.emit(event));
                    }
                    was_too_big = true;
                    let (single, frame) = (&mut self.buffers.single, &mut self.buffers.frame);
                    resend(self.outlet, path, datagram, single, frame)?;
                }
                Err(error) => return Err(send_reason(&error)),
            }
        }
        if lane.count > 1 && !was_too_big && self.buffers.takes_runs {
            self.buffers.takes_runs = false;
            self.outlet.shared.lacks(
                "the kernel does not take several datagrams at once (UDP_SEGMENT), so every one costs a call: look \
                 at `ethtool -k` of the interface for tx-udp-segmentation and tx-checksumming",
            );
        }
        Ok(())
    }

    /// Sends what does not fit the path as a whole, in pieces: single frames with their checksums filled in. `content`
    /// stands behind the meta of its datagram.
    pub(super) fn send_pieces(
        &mut self,
        path: &'v Path,
        meta: &Meta,
        prefix: Option<FloodPrefix>,
        bytes: &[u8],
    ) -> Result<u64, DropReason> {
        // What came before stays before.
        let is_this = |lane: &Lane<'_>| lane.path.is_some_and(|other| std::ptr::eq(other, path));
        if let Some(at) = self.lanes.iter().position(is_this) {
            self.flush_at(at);
        }
        let (single, frame) = (&mut self.buffers.single, &mut self.buffers.frame);
        send_expanded(self.outlet, path, meta, prefix, bytes, single, frame)
    }
}

fn is_too_big(error: &io::Error) -> bool {
    quinn_udp::is_msg_size_err(error)
}

/// Sends a sealed datagram that the kernel refuses for its size: opened again, and in pieces.
fn resend(
    outlet: &mut Outlet,
    path: &Path,
    datagram: &mut [u8],
    single: &mut Vec<u8>,
    frame: &mut Vec<u8>,
) -> Result<(), DropReason> {
    let kind = Header::parse(datagram)
        .map_err(|_| DropReason::DatagramTooShort)?
        .kind;
    path.session.unseal(datagram)?;
    let content = datagram
        .get(HEADER_LEN..datagram.len().saturating_sub(TAG_LEN))
        .unwrap_or_default();
    match Content::parse(kind, content)? {
        Content::Frame { meta, frame: bytes } | Content::Slice { meta, bytes } => {
            send_expanded(outlet, path, &meta, None, bytes, single, frame).map(drop)
        }
        Content::Flood {
            meta,
            prefix,
            frame: bytes,
        } => send_expanded(outlet, path, &meta, Some(prefix), bytes, single, frame).map(drop),
        Content::Piece { .. } | Content::Probe(_) | Content::ProbeAck(_) | Content::Keepalive => {
            Err(DropReason::BadContent)
        }
    }
}

/// Sends the frames that one stands for, each in pieces where it must be.
fn send_expanded(
    outlet: &mut Outlet,
    path: &Path,
    meta: &Meta,
    prefix: Option<FloodPrefix>,
    bytes: &[u8],
    single: &mut Vec<u8>,
    frame: &mut Vec<u8>,
) -> Result<u64, DropReason> {
    let mut count = 0;
    expand(meta, bytes, frame, |frame| {
        single.clear();
        single.resize(HEADER_LEN, 0);
        single.extend_from_slice(&Meta::default().to_bytes());
        let kind = match prefix {
            Some(prefix) => {
                single.extend_from_slice(&prefix.to_bytes());
                Kind::Flood
            }
            None => Kind::Data,
        };
        single.extend_from_slice(frame);
        single.resize(single.len() + TAG_LEN, 0);
        count += 1;
        pieces::send(outlet, path, kind, single)
    })?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_kernel::attach::run_segments;
    use weft_wire::datagram::META_LEN;
    use weft_wire::mtu::ETHERNET_HEADER;

    #[test]
    fn what_a_pod_hands_over_at_once_fills_one_run() {
        for mtu in [1_280, 1_366, 1_500, 8_866] {
            let count = run_segments(mtu) as usize;
            let datagram = mtu as usize + ETHERNET_HEADER + HEADER_LEN + META_LEN + TAG_LEN;
            assert!(count <= RUN_DATAGRAMS && count * datagram <= RUN_OCTETS, "{mtu}");
            assert!(
                count == RUN_DATAGRAMS || (count + 1) * datagram > RUN_OCTETS,
                "{mtu}: one more fits"
            );
        }
        assert_eq!((run_segments(1), run_segments(u32::MAX)), (64, 1));
    }
}
