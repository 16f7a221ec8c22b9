//! The kernel's notifications about bridge, TAP and the TAP's forwarding entries.

use std::sync::Arc;

use futures_util::StreamExt as _;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::MulticastGroup;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::driver::Driver;

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
        let (driver, changed) = (driver.clone(), Arc::new(Notify::new()));
        let notify = Arc::clone(&changed);
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        tasks.spawn(async move {
            // The connection lives as long as its handle.
            let _handle = handle;
            let mut tap = None;
            while let Some((message, _)) = messages.next().await {
                if concerns(&message.payload, &driver, &mut tap) {
                    notify.notify_one();
                }
            }
        });
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

/// `tap` is the index of the TAP, once a message has told it.
fn concerns(payload: &NetlinkPayload<RouteNetlinkMessage>, driver: &Driver, tap: &mut Option<u32>) -> bool {
    match payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link),
        ) => {
            let name = name(link);
            if name == Some(driver.tap()) {
                *tap = Some(link.header.index);
            }
            name == Some(driver.tap()) || name == Some(driver.bridge())
        }
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewNeighbour(entry) | RouteNetlinkMessage::DelNeighbour(entry),
        ) => tap.is_none_or(|index| entry.header.ifindex == index),
        // Messages were lost: anything may have changed.
        NetlinkPayload::Overrun(_) => true,
        _ => false,
    }
}

fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}
