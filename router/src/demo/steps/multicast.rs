//! UDP multicast: one pod sends, members on every host hear it, once.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use weft_lab::{Host, Pod, Router, TapWatch};

use super::{Outcome, Progress, Stage, Step};

/// In the block for use inside one organisation (RFC 2365).
const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 77, 0, 1), 7700);
/// Another group in that block.
const ONE_HOST: Ipv4Addr = Ipv4Addr::new(239, 77, 0, 2);
/// Frames that are sent to it.
const FRAMES: usize = 100;
/// Where services are looked for (RFC 6762 §3).
const DISCOVERY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 251), 5353);
const PATIENCE: Duration = Duration::from_secs(5);
/// A second copy would come by another way within this time.
const QUIET: Duration = Duration::from_millis(300);
/// Sent until all members are known.
const CALL: &[u8] = b"weft demo: who is a member?";
const NEWS: &[u8] = b"weft demo: news for all members";

pub(super) const STEP: Step = Step {
    what: "UDP multicast",
    expected: "once at members on every host",
    take: to_members,
};

pub(super) const ONE_HOST_STEP: Step = Step {
    what: "multicast where members are",
    expected: "frames at the host with a member, none at others",
    take: to_one_host,
};

pub(super) const DISCOVERY_STEP: Step = Step {
    what: "discovery, as mDNS does it",
    expected: "every pod answers for itself",
    take: discover,
};

/// A pod's socket that belongs to a group.
fn member(pod: &Pod, group: SocketAddrV4) -> anyhow::Result<UdpSocket> {
    let IpAddr::V4(own) = pod.ipv4()? else {
        bail!("{} has no IPv4 address", pod.name());
    };
    let socket = pod
        .namespace()
        .run(|| -> std::io::Result<UdpSocket> {
            let socket = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, group.port()))?;
            socket.join_multicast_v4(group.ip(), &own)?;
            socket.set_multicast_loop_v4(false)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(socket)
        })?
        .with_context(|| format!("{} cannot join the group {}", pod.name(), group.ip()))?;
    Ok(socket)
}

/// A pod's socket that sends by its interface.
fn member_of_none(pod: &Pod) -> anyhow::Result<UdpSocket> {
    let IpAddr::V4(own) = pod.ipv4()? else {
        bail!("{} has no IPv4 address", pod.name());
    };
    Ok(pod
        .namespace()
        .run(|| UdpSocket::bind(SocketAddrV4::new(own, 0)))??)
}

/// How many datagrams with the news arrive, the first within [`PATIENCE`] and no other within `quiet`.
fn heard(socket: &UdpSocket, quiet: Duration) -> anyhow::Result<usize> {
    let (mut count, mut buffer) = (0, [0; 128]);
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => count += usize::from(buffer.get(..length) == Some(NEWS)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(count);
            }
            Err(error) => return Err(error.into()),
        }
        socket.set_read_timeout(Some(quiet.max(Duration::from_millis(1))))?;
    }
}

/// Sends until the socket hears it: from then on its host is known to have a member.
fn wait_for_membership(sender: &UdpSocket, member: &UdpSocket, group: SocketAddrV4) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    member.set_read_timeout(Some(QUIET))?;
    while Instant::now() < end {
        sender.send_to(CALL, group)?;
        if member.recv(&mut [0; 128]).is_ok() {
            member.set_read_timeout(Some(PATIENCE))?;
            return Ok(());
        }
    }
    bail!("a pod that has joined {} hears nothing", group.ip())
}

fn to_members(stage: &Stage, _: &Progress) -> anyhow::Result<Outcome> {
    let (from, others) = stage.pods.split_first().context("there are no pods")?;
    let members: Vec<UdpSocket> = others
        .iter()
        .map(|pod| member(pod, GROUP))
        .collect::<Result<_, _>>()?;
    let sender = member(from, GROUP)?;
    for socket in &members {
        wait_for_membership(&sender, socket, GROUP)?;
    }
    sender.send_to(NEWS, GROUP)?;
    let mut quiet = QUIET;
    let mut once = 0;
    for socket in &members {
        // While the first is waited for, what the others hear waits for them.
        once += usize::from(heard(socket, std::mem::take(&mut quiet))? == 1);
    }
    Ok(Outcome {
        expected: format!(
            "once at each of {} members on {} hosts",
            members.len(),
            stage.routers.len()
        ),
        seen: format!("once at {once}"),
        passed: once == members.len(),
    })
}

/// A member on one host: the frames go there and to no other.
fn to_one_host(stage: &Stage, _: &Progress) -> anyhow::Result<Outcome> {
    let (from, to) = (stage.pods.first(), stage.pods.last());
    let (from, to) = from.zip(to).context("there are no pods")?;
    let group = SocketAddrV4::new(ONE_HOST, GROUP.port());
    let (socket, sender) = (member(to, group)?, member_of_none(from)?);
    wait_for_membership(&sender, &socket, group)?;
    let idle = stage.routers.iter().map(Router::host);
    let idle = idle.filter(|host| ![from.host().name(), to.host().name()].contains(&host.name()));
    let mut taps = idle.map(Host::watch_tap).collect::<Result<Vec<TapWatch>, _>>()?;
    for _ in 0..FRAMES {
        sender.send_to(NEWS, group)?;
    }
    let seen = heard(&socket, QUIET)?;
    let mut stray = 0;
    for tap in &mut taps {
        stray += tap.count(NEWS, Duration::from_millis(20))?.0;
    }
    Ok(Outcome {
        expected: format!("{FRAMES} at the one with a member, 0 at {} others", taps.len()),
        seen: format!("{seen} and {stray}"),
        passed: seen == FRAMES && stray == 0,
    })
}

fn discover(stage: &Stage, _: &Progress) -> anyhow::Result<Outcome> {
    let (asker, others) = stage.pods.split_first().context("there are no pods")?;
    let services: Vec<UdpSocket> = others
        .iter()
        .map(|pod| member(pod, DISCOVERY))
        .collect::<Result<_, _>>()?;
    let socket = member(asker, DISCOVERY)?;
    socket.send_to(b"who is there?", DISCOVERY)?;
    let mut buffer = [0; 128];
    for (pod, service) in others.iter().zip(&services) {
        let (_, from) = service
            .recv_from(&mut buffer)
            .with_context(|| format!("{} does not hear the question", pod.name()))?;
        service.send_to(pod.name().as_bytes(), from)?;
    }
    let mut found = std::collections::BTreeSet::new();
    for _ in others {
        let (length, from) = socket.recv_from(&mut buffer).context("an answer is missing")?;
        let name = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        let named = others.iter().find(|pod| pod.name() == name);
        if named.is_some_and(|pod| pod.ipv4().is_ok_and(|own| own == from.ip())) {
            found.insert(name);
        }
    }
    Ok(Outcome {
        expected: format!("{} pods answer with their names", others.len()),
        seen: format!("{} found", found.len()),
        passed: found.len() == others.len(),
    })
}
