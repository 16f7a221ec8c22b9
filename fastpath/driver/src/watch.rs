//! The kernel's notifications about devices of ours, what they forward, and the table in the packet filter.
//!
//! Of groups and of gates nothing is heard; for them, as for lost notifications, there is the regular look.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt as _;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::MulticastGroup;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, TokioSocket, protocols::NETLINK_NETFILTER};
use weft_fastpath::Device;
use weft_kernel::nft;

use crate::driver::Driver;
use crate::fence;

/// The kernel puts no more than two pages of events into a datagram.
const EVENT_BUFFER: usize = 32 * 1024;

/// Wakes up when somebody, this program included, changes something that a [`Driver`] has set.
///
/// It remembers only *that* something changed: however much happens, it holds one bit.
#[derive(Debug)]
pub struct Watch {
    changed: Arc<Notify>,
    /// Reads the socket and sorts the messages; ends with this handle.
    tasks: JoinSet<()>,
}

impl Watch {
    /// Starts to watch, in the network namespace of the calling thread, inside a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub fn open(driver: &Driver) -> std::io::Result<Self> {
        let groups = [MulticastGroup::Link, MulticastGroup::Neigh];
        let (connection, handle, mut messages) = rtnetlink::new_multicast_connection(&groups)?;
        let mut devices = Devices::of(driver);
        let changed = Arc::new(Notify::new());
        let notify = Arc::clone(&changed);
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        tasks.spawn(async move {
            // The connection lives as long as its handle.
            let _handle = handle;
            while let Some((message, _)) = messages.next().await {
                if devices.concerns(&message.payload) {
                    notify.notify_one();
                }
            }
        });
        if nft::is_available() {
            let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
            socket.socket_mut().bind_auto()?;
            socket.socket_mut().add_membership(nft::EVENTS_GROUP)?;
            tasks.spawn(watch_table(socket, Arc::clone(&changed)));
        }
        Ok(Self { changed, tasks })
    }

    /// Waits for the next change since the last call returned.
    ///
    /// # Errors
    /// When the kernel's socket has ended; then open a new watch and reconcile.
    pub async fn changed(&mut self) -> std::io::Result<()> {
        tokio::select! {
            () = self.changed.notified() => Ok(()),
            _ = self.tasks.join_next() => Err(std::io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

/// Ends when the socket does; lost events are events.
async fn watch_table(socket: TokioSocket, changed: Arc<Notify>) {
    let mut buffer = Vec::with_capacity(EVENT_BUFFER);
    loop {
        buffer.clear();
        match socket.recv(&mut buffer).await {
            Ok(_) if !nft::concerns_table(&buffer, fence::TABLE) => {}
            Ok(_) => changed.notify_one(),
            Err(error) if error.raw_os_error() == Some(NO_BUFFER_SPACE) => changed.notify_one(),
            Err(_) => return,
        }
    }
}

/// `ENOBUFS`.
const NO_BUFFER_SPACE: i32 = 105;

/// The devices of ours, with their indexes once a message has told them.
struct Devices(BTreeMap<String, Option<u32>>);

impl Devices {
    fn of(driver: &Driver) -> Self {
        let vxlan = Device::ALL.map(|device| driver.device(device));
        let all = [driver.bridge().to_owned(), driver.tap().to_owned()];
        // Indexes of what is there are known from the beginning; of what comes, a message will tell.
        let index = |name: &String| {
            let link = weft_kernel::link::find(name).ok().flatten();
            link.map(|link| link.index)
        };
        Self(
            all.into_iter()
                .chain(vxlan)
                .map(|name| (name.clone(), index(&name)))
                .collect(),
        )
    }

    fn concerns(&mut self, payload: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
        match payload {
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link),
            ) => {
                let known = name(link).and_then(|name| self.0.get_mut(name));
                let concerns = known.is_some();
                if let Some(index) = known {
                    *index = Some(link.header.index);
                }
                concerns
            }
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewNeighbour(entry) | RouteNetlinkMessage::DelNeighbour(entry),
            ) => self.0.values().any(|index| *index == Some(entry.header.ifindex)),
            // Messages were lost: anything may have changed.
            NetlinkPayload::Overrun(_) => true,
            _ => false,
        }
    }
}

fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}
