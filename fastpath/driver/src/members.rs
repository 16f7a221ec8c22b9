//! To which multicast groups pods of this host listen, as the bridge has heard it from them.

use std::collections::BTreeSet;
use std::io;

use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, TokioSocket, protocols::NETLINK_ROUTE};
use weft_kernel::{link, mdb};
use weft_wire::Group;

use crate::driver::{Driver, Result};

/// How the names of VXLAN devices of ours begin.
const VXLAN_PREFIX: &str = "weft-vx";
/// Of an event only that it came counts; what does not fit is cut off.
const EVENT_BUFFER: usize = 64;

/// What the ports of pods want, and the host itself if it listens on the bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Groups with a listener.
    pub groups: BTreeSet<Group>,
    /// A port leads to a multicast router: somebody there sends IGMP queries.
    pub router: bool,
    /// The bridge looks into IGMP and MLD; if it does not, the rest says nothing.
    pub snooping: bool,
}

impl Driver {
    /// Reads who listens, on the calling thread. What leads to our own ports is left out: that is what others want.
    ///
    /// # Errors
    /// When there is no bridge, or it cannot be read.
    pub fn members_blocking(&self) -> Result<Members> {
        let links = link::list()?;
        let ours: BTreeSet<u32> = links
            .iter()
            .filter(|link| {
                link.name == self.tap()
                    || (link.kind.as_deref() == Some("vxlan") && link.name.starts_with(VXLAN_PREFIX))
            })
            .map(|link| link.index)
            .collect();
        let bridge = links.iter().find(|link| link.name == self.bridge());
        let found = mdb::dump(self.bridge())?;
        let of_pods = found.registrations.iter().filter(|one| !ours.contains(&one.port));
        Ok(Members {
            groups: of_pods.filter_map(|one| Group::new(one.group)).collect(),
            snooping: bridge
                .and_then(|link| link.bridge.as_ref())
                .is_some_and(|bridge| bridge.mcast_snooping),
            router: found.routers.iter().any(|port| !ours.contains(port)),
        })
    }
}

/// Wakes up when the multicast database of some bridge changes.
pub struct MemberWatch {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl MemberWatch {
    /// Starts to watch, in the network namespace of the calling thread, inside a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_mut().add_membership(mdb::EVENTS_GROUP)?;
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(EVENT_BUFFER),
        })
    }

    /// Waits for the next change since the last call returned.
    ///
    /// # Errors
    /// When the socket fails, or events were lost for want of room; then open a new watch and read.
    pub async fn changed(&mut self) -> io::Result<()> {
        self.buffer.clear();
        self.socket.recv(&mut self.buffer).await.map(drop)
    }
}
