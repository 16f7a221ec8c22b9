//! `weft status`: one screen.

use crate::api::client::Client;
use crate::cli::StatusArgs;
use comfy_table::{Table, presets};
use std::fmt::Write as _;
use weft_wire::api::{
    ClusterStatus, FastpathState, IpamSummary, LinkState, NodeRole, PeerStatus, Status, WaitingRequest,
};

/// Peers that the screen shows; the others are counted, and are in the JSON.
const PEERS_SHOWN: usize = 24;
/// Requests for addresses that the screen shows.
const WAITING_SHOWN: usize = 4;
/// Pods that the screen shows.
const PODS_SHOWN: usize = 8;

pub(crate) fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.router.socket);
    let status: Status = super::block_on(super::ASKING, async { client.get("/v1/status").await })?;
    super::print(args.router.json, &status, render(&status).trim_end())
}

pub(crate) fn peers(args: &StatusArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.router.socket);
    let status: Status = super::block_on(super::ASKING, async { client.get("/v1/status").await })?;
    let words = match status.peers.as_slice() {
        [] => "no other host is known yet".to_owned(),
        peers => peer_table(peers, Reasons::All).to_string(),
    };
    super::print(args.router.json, &status.peers, &words)
}

fn render(status: &Status) -> String {
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = write_screen(&mut out, status);
    out
}

fn write_screen(out: &mut String, status: &Status) -> std::fmt::Result {
    writeln!(out, "encryption  {}", status.encryption)?;
    writeln!(
        out,
        "host        {} ({}), weft {}",
        status.name,
        short(&status.node),
        status.version
    )?;
    match &status.cluster {
        ClusterStatus::AwaitingAdmission => writeln!(
            out,
            "cluster     none yet: waiting for a peer to let this host in"
        )?,
        ClusterStatus::Agreeing {
            there,
            reason,
            differing,
            ..
        } => {
            writeln!(out, "cluster     none yet: {reason}")?;
            writeln!(out, "there       {}", there.join(", "))?;
            for host in differing {
                writeln!(out, "differs     {host}")?;
            }
        }
        ClusterStatus::Member {
            genesis,
            range,
            members,
        } => {
            let noun = if *members == 1 { "member" } else { "members" };
            writeln!(
                out,
                "cluster     {}, {members} {noun}, range {range}",
                short(genesis)
            )?;
        }
    }
    if status.role == NodeRole::Observer {
        writeln!(
            out,
            "role        observer: never votes, owns no addresses, lives on lent ones"
        )?;
    }
    let endpoints: Vec<String> = status.endpoints.iter().map(ToString::to_string).collect();
    writeln!(
        out,
        "reached at  {}",
        if endpoints.is_empty() {
            "nothing advertised".into()
        } else {
            endpoints.join(", ")
        }
    )?;
    writeln!(
        out,
        "engine      {}, pod MTU {}, up {}",
        status.engine,
        status.pod_mtu,
        duration(status.uptime_s)
    )?;
    if let Some(ipam) = &status.ipam {
        write_ipam(out, ipam)?;
    }
    if status.relayed.datagrams > 0 {
        writeln!(
            out,
            "relayed     {} datagrams, {}, for other hosts",
            status.relayed.datagrams,
            bytes(status.relayed.octets)
        )?;
    }
    for warning in &status.warnings {
        writeln!(out, "warning     {warning}")?;
    }
    for finding in &status.firewall {
        writeln!(out, "firewall    {finding}")?;
    }
    for target in &status.targets {
        writeln!(out, "not reached {}: {}", target.target, target.reason)?;
    }
    if !status.peers.is_empty() {
        let shown = &status.peers[..status.peers.len().min(PEERS_SHOWN)];
        writeln!(out, "\n{}", peer_table(shown, Reasons::OfTrouble))?;
        if status.peers.len() > PEERS_SHOWN {
            writeln!(out, "and {} more: weft peers", status.peers.len() - PEERS_SHOWN)?;
        }
    }
    if !status.pods.is_empty() {
        writeln!(out)?;
        for pod in status.pods.iter().take(PODS_SHOWN) {
            write!(out, "pod         {}", pod.address)?;
            for address in &pod.further {
                write!(out, ",{address}")?;
            }
            writeln!(out, "  {}  {}", pod.mac, pod.id)?;
        }
        if status.pods.len() > PODS_SHOWN {
            writeln!(
                out,
                "and {} more: weft status --json",
                status.pods.len() - PODS_SHOWN
            )?;
        }
    }
    let counted = status.drops.iter().map(|(reason, n)| ("dropped", reason, n));
    let counted: Vec<_> = counted
        .chain(status.refusals.iter().map(|(r, n)| ("refused", r, n)))
        .collect();
    if !counted.is_empty() {
        writeln!(out)?;
        for (what, reason, count) in counted {
            writeln!(out, "{what}     {count} {}", reason.replace('_', " "))?;
        }
    }
    Ok(())
}

fn write_ipam(out: &mut String, ipam: &IpamSummary) -> std::fmt::Result {
    write!(
        out,
        "addresses   {} owned, {} free, {} used",
        ipam.owned, ipam.free, ipam.used
    )?;
    for (count, what) in [
        (ipam.resting, "resting"),
        (ipam.lent, "lent to others"),
        (ipam.borrowed, "borrowed"),
    ] {
        if count > 0 {
            write!(out, ", {count} {what}")?;
        }
    }
    writeln!(out)?;
    write_waiting(out, &ipam.waiting)?;
    if let Some(hindrance) = &ipam.hindrance {
        writeln!(out, "hindrance   {hindrance}")?;
    }
    Ok(())
}

/// Who waits for an address, and for what.
pub(super) fn write_waiting(out: &mut String, waiting: &[WaitingRequest]) -> std::fmt::Result {
    for request in waiting.iter().take(WAITING_SHOWN) {
        writeln!(out, "waiting     {}: {}", request.id, request.reason)?;
    }
    if waiting.len() > WAITING_SHOWN {
        writeln!(
            out,
            "and {} more wait: weft ipam --json",
            waiting.len() - WAITING_SHOWN
        )?;
    }
    Ok(())
}

/// For which peers the reason of their mode is shown.
#[derive(Clone, Copy, PartialEq)]
enum Reasons {
    All,
    OfTrouble,
}

fn peer_table(peers: &[PeerStatus], reasons: Reasons) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "PEER", "MESH", "RTT", "MODE", "SINCE", "MTU", "PATH MTU", "ENDPOINT", "SENT", "RECEIVED", "",
    ]);
    for peer in peers {
        let name = if peer.name.is_empty() {
            short(&peer.node)
        } else {
            peer.name.clone()
        };
        let mut mode = match &peer.relay {
            Some(relay) => format!("{} via {relay}", peer.mode),
            None => peer.mode.clone(),
        };
        if peer.encrypted {
            mode.push_str(", encrypted");
        } else if peer.mode == "fastpath" {
            mode.push_str(", NOT encrypted");
        }
        table.add_row([
            name,
            mesh(peer.mesh).to_owned(),
            peer.mesh_rtt_us.map(rtt).unwrap_or_default(),
            mode,
            duration(peer.since_s),
            peer.mtu.map(|mtu| mtu.to_string()).unwrap_or_default(),
            peer.path_mtu.map(|mtu| mtu.to_string()).unwrap_or_default(),
            peer.endpoint.map(|e| e.to_string()).unwrap_or_default(),
            bytes(peer.traffic.tx_bytes),
            bytes(peer.traffic.rx_bytes),
            if reasons == Reasons::All || !["sleeve", "fastpath"].contains(&peer.mode.as_str()) {
                reason(peer)
            } else {
                String::new()
            },
        ]);
    }
    table
}

/// Why frames travel as they do, and why not through the kernel.
fn reason(peer: &PeerStatus) -> String {
    let Some(path) = &peer.fastpath else {
        return peer.reason.clone();
    };
    let kernel = match (&path.why, path.state) {
        (Some(why), _) => format!("not through the kernel: {why}"),
        (None, FastpathState::RouterSilent) => {
            "through the kernel; its router is silent on every way, and frames go on".to_owned()
        }
        (None, _) => match path.rtt_us {
            Some(us) => format!("through the kernel, {} there and back", rtt(us)),
            None => "through the kernel".to_owned(),
        },
    };
    format!("{}; {kernel}", peer.reason)
}

fn mesh(state: LinkState) -> &'static str {
    match state {
        LinkState::Up => "up",
        LinkState::Connecting => "connecting",
        LinkState::Down => "down",
    }
}

fn short(hex: &str) -> String {
    hex.chars().take(10).collect()
}

fn rtt(us: u64) -> String {
    if us < 1_000 {
        format!("{us} us")
    } else {
        format!("{:.1} ms", us as f64 / 1e3)
    }
}

pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

fn bytes(octets: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = octets as f64;
    let mut unit = 0;
    while value >= 1_000.0 && unit + 1 < UNITS.len() {
        value /= 1_000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{octets} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_wire::api::{DiskStatus, Pod, Relayed, TargetStatus, Traffic};

    #[test]
    fn the_screen_says_what_matters_first_and_fits() {
        let peer = |name: &str, mode: &str| PeerStatus {
            node: "ab".repeat(32),
            name: name.into(),
            mesh: LinkState::Up,
            mesh_rtt_us: Some(1_500),
            mode: mode.into(),
            reason: "no answer from 192.0.2.9:6783".into(),
            encrypted: mode != "none",
            cipher: None,
            mtu: Some(1316),
            endpoint: None,
            path_mtu: Some(1_452),
            since_s: 61,
            traffic: Traffic {
                tx_bytes: 1_500_000,
                ..Traffic::default()
            },
            silence: None,
            relay: (mode == "relay").then(|| "b7".into()),
            fastpath: None,
        };
        let status = Status {
            version: "0.1.0".into(),
            node: "cd".repeat(32),
            name: "a".into(),
            cluster: ClusterStatus::Member {
                genesis: "ef".repeat(32),
                range: "10.32.0.0/12".parse().unwrap(),
                members: 3,
            },
            encryption: "all traffic between hosts is encrypted".into(),
            pod_mtu: 1366,
            engine: "plain".into(),
            endpoints: vec!["192.0.2.1:6783".parse().unwrap()],
            peers: [peer("silent", "none"), peer("behind", "relay")]
                .into_iter()
                .chain((0..40).map(|i| peer(&format!("b{i}"), "sleeve")))
                .collect(),
            ipam: Some(IpamSummary {
                owned: 1_024,
                free: 1_016,
                used: 6,
                lent: 2,
                borrowed: 0,
                resting: 0,
                waiting: (0..9)
                    .map(|at| WaitingRequest {
                        id: format!("db{at}"),
                        reason: "waiting for host b to lend an address".into(),
                    })
                    .collect(),
                hindrance: Some("it has just started".into()),
            }),
            pods: vec![Pod {
                id: "web".into(),
                address: "10.32.0.1/12".parse().unwrap(),
                mac: "02:ef:00:00:00:01".into(),
                further: vec!["10.32.7.1/24".parse().unwrap()],
            }],
            targets: vec![TargetStatus {
                target: "c:6783".into(),
                reason: "connection refused".into(),
            }],
            drops: [("bad_seal".to_owned(), 2)].into(),
            refusals: [("unknown_key".to_owned(), 1)].into(),
            warnings: vec!["something".into()],
            firewall: vec!["chain FORWARD drops".into()],
            uptime_s: 90_061,
            role: NodeRole::Owner,
            disk: DiskStatus::default(),
            relayed: Relayed {
                datagrams: 12,
                octets: 17_000,
            },
            encrypt: Default::default(),
        };
        let screen = render(&status);
        assert!(
            screen.starts_with("encryption  all traffic between hosts is encrypted"),
            "{screen}"
        );
        for part in [
            "1 d 1 h",
            "3 members",
            "no answer from 192.0.2.9:6783",
            "1.5 ms",
            "1452",
            "1.5 MB",
            "sleeve, encrypted",
            "and 18 more",
            "relay via b7, encrypted",
            "relayed     12 datagrams, 17.0 kB, for other hosts",
            "10.32.0.1/12,10.32.7.1/24  02:ef:00:00:00:01  web",
            "c:6783: connection refused",
            "2 bad seal",
            "1 unknown key",
            "warning     something",
            "1316",
            "addresses   1024 owned, 1016 free, 6 used, 2 lent to others\n",
            "waiting     db0: waiting for host b to lend an address",
            "and 5 more wait",
            "firewall    chain FORWARD drops",
            "hindrance   it has just started",
        ] {
            assert!(screen.contains(part), "{part} is missing in:\n{screen}");
        }
        assert!(screen.lines().count() <= 58, "{screen}");
        let waiting = render(&Status {
            cluster: ClusterStatus::Agreeing {
                expected: 3,
                there: vec!["a".into(), "b".into()],
                reason: "waiting for 1 of 3 expected hosts".into(),
                differing: vec!["c: it was started with --expect 4".into()],
            },
            role: NodeRole::Observer,
            ..status
        });
        for line in [
            "cluster     none yet: waiting for 1 of 3 expected hosts\n",
            "there       a, b\n",
            "differs     c: it was started with --expect 4\n",
            "role        observer",
        ] {
            assert!(waiting.contains(line), "{line} is missing in:\n{waiting}");
        }
    }
}
