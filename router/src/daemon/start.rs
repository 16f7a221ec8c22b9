//! Everything before the first packet: state, founding or joining, sockets, kernel, engine.

use super::underlay::{self, Underlay};
use super::{Daemon, EVENTS_MAX, Ended, bridge, disk, firewall, listeners, tcp};
use crate::api::server;
use crate::command::{BRIDGE, TAP};
use crate::config::{LogFormat, LogLevel, Multicast, Settings};
use crate::random;
use anyhow::{Context, anyhow, bail};
use ipnet::IpNet;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use weft_fastpath::{Snooping, View};
use weft_gossip::{DurableState, Identity, JoinToken};
use weft_ipam_crdt::genesis::{Expected, Terms};
use weft_ipam_crdt::{AddressSpace, Role};
use weft_kernel::link;
use weft_node::{FastpathConfig, Node, NodeConfig};
use weft_sleeve::Cipher;
use weft_sleeve_engine::EngineConfig;
use weft_store::{MachineId, Save, State, Store};
use weft_wire::fastpath::{Ability, Encryption, VXLAN_PORT};
use weft_wire::mtu::{OVERHEAD, pod_mtu};
use weft_wire::record::Genesis;
use weft_wire::{ClusterSecret, NodeKey, NoiseKeypair, Time};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// A bridge port without spanning tree forwards within milliseconds of its carrier.
const PORT_READY: Duration = Duration::from_secs(5);
/// How long callers of the local API may take to read their last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// Requests of the local API that wait for the node.
const REQUESTS_MAX: usize = 64;

/// `weft up`: runs until a signal, `weft down`, or a failure.
pub(crate) fn run(settings: Settings) -> anyhow::Result<()> {
    init_logging(settings.log_level, settings.log_format);
    if !weft_kernel::userns::has_cap_net_admin() {
        bail!("the router needs CAP_NET_ADMIN to make a bridge and a TAP device: run it as root");
    }
    weft_kernel::tap::check_tun_device()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("weft-control")
        .enable_all()
        .build()
        .context("no async runtime")?;
    let outcome = runtime.block_on(start(settings));
    // A name that is still being looked up must not hold the process.
    runtime.shutdown_background();
    outcome
}

async fn start(settings: Settings) -> anyhow::Result<()> {
    let clock = Instant::now();
    // From here on a signal ends the router in order, however early it comes.
    let stop = stop_signal()?;
    let underlay = underlay::find(settings.listen, &settings.advertise, settings.port)?;
    // Before state and kernel are touched, everything that others may hold is taken: ports and the API's socket.
    let api = server::bind(&settings.socket)?;
    let socket_file = SocketFile(settings.socket.clone());
    let (listener, udp) = bind(settings.listen, settings.port)?;
    let mut rng = ChaCha20Rng::from_seed(random::seed()?);
    let Opened {
        store,
        state,
        token,
        terms,
    } = open_state(&settings, &underlay, &mut rng)?;
    let token_text = token.as_ref().map(|(text, _)| text.clone());
    let bridge_mtu = bridge_mtu(&settings, &underlay);
    let (events, taken) = mpsc::channel(EVENTS_MAX);
    let driver = bridge::driver()?;
    let found = driver.found()?;
    let empty = View {
        snooping: match settings.multicast {
            Multicast::Flood => Snooping::Off,
            Multicast::Snoop => Snooping::On,
        },
        ..View::new(u32::from(bridge_mtu))
    };
    let bridge = bridge::start(driver, empty, found.has_vxlan, events.clone()).await?;
    let firewall = firewall::start().await?;

    let (failures, failed) = mpsc::channel(1);
    let (requests, asked) = mpsc::channel(REQUESTS_MAX);
    let engine_events = events.clone();
    let engine = weft_sleeve_engine::start(
        settings.engine.into(),
        EngineConfig {
            tap: TAP.into(),
            socket: udp,
            events: Box::new(move |event| engine_events.try_send(super::NodeEvent::Engine(event)).is_ok()),
        },
    )?;
    for lack in engine.description().degradations {
        tracing::warn!("{lack}");
    }
    // Until its port forwards, the bridge drops what comes from the TAP without telling anybody.
    let forwarding = tokio::task::spawn_blocking(|| link::wait_forwarding(TAP, PORT_READY));
    if !forwarding.await.context("the kernel was not asked")?? {
        bail!("port {TAP} of bridge {BRIDGE} does not forward: `weft down` removes both, then start again");
    }
    announce(&settings, &state, terms.as_ref(), &underlay, &store);
    let mut targets = settings.peers;
    // Until it has heard from the others after it began again, this is all that it knows of them.
    if state
        .durable
        .as_ref()
        .is_some_and(|durable| durable.peers().next().is_none())
    {
        targets.extend(state.targets);
    }
    let space = state.durable.as_ref().map(|durable| durable.genesis());
    let space = space.and_then(|genesis| AddressSpace::of_genesis(genesis).ok());
    let mut claims = state.claims;
    for claim in super::attached::unknown(state.ipam.as_ref().zip(space)) {
        if !claims.contains(&claim) {
            tracing::info!(pod = claim.id, address = %claim.address, "the state does not have this pod's address: it is claimed");
            claims.push(claim);
        }
    }
    let ability = ability(settings.no_fastpath, &settings.trust);
    let has_setting = state.settings.encryption.number > 0;
    let mut closed = BTreeSet::from([settings.port]);
    closed.extend(underlay.endpoints.iter().map(SocketAddr::port));
    let node = Node::new(
        Time::from_start(clock.elapsed()),
        NodeConfig {
            identity: Identity {
                key: state.key,
                noise: state.noise,
                incarnation: state.incarnation,
                boot_nonce: rng.next_u64(),
                name: settings.name,
            },
            token: token.map(|(_, token)| token.psk()),
            durable: state.durable,
            agreement: terms.map(|terms| (terms, state.agreement)),
            role: if settings.observer {
                Role::Observer
            } else {
                Role::Owner
            },
            ipam: state.ipam,
            claims,
            targets,
            endpoints: underlay.endpoints,
            underlay_mtu: underlay.mtu,
            mtu: settings.mtu,
            bridge: BRIDGE.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ciphers: ciphers(),
            fastpath: FastpathConfig {
                port: settings.vxlan_port,
                ability,
                trusted: settings.trust,
                settings: state.settings,
                closed,
            },
            seed: random::seed()?,
        },
    )?;
    let syncs = store.syncs();
    let (saves, writer) = disk::start(store, token_text, events.clone(), failures)?;
    tokio::spawn(tcp::accept(listener, events.clone()));
    listeners::start(settings.multicast, events.clone())?;
    let (end_api, api_ended) = tokio::sync::oneshot::channel();
    let api = tokio::spawn(server::serve(api, requests, api_ended));
    let mut daemon = Daemon {
        clock,
        node,
        connections: tcp::Connections::new(events.clone()),
        engine,
        saves,
        save_trouble: None,
        disk_trouble: None,
        is_set_aside: false,
        syncs,
        askers: super::askers::Askers::default(),
        adopting: Vec::new(),
        kernel: bridge.wanted,
        multicast: settings.multicast,
        events: events.clone(),
        is_looking: false,
        announced: Instant::now(),
        probes: super::probes::Probes::new(events.clone()),
        setting: Vec::new(),
        bridge_trouble: bridge.trouble,
        firewall,
        accepted: 0,
        port: settings.port,
        log: super::notices::Log::default(),
        loops: super::loops::Loops::default(),
    };
    daemon.input(weft_node::Input::KernelFound {
        entries: found.entries,
        has_vxlan: found.has_vxlan,
    });
    if let Some(encrypt) = settings.encrypt.filter(|_| !has_setting) {
        daemon.input(weft_node::Input::SetEncryption(encrypt.into()));
    }
    if let Some(after) = settings.remove_after {
        daemon.input(weft_node::Input::RemoveAfter(Some(after)));
    }
    let ended = daemon.run(taken, asked, failed, stop).await;
    daemon.stop().await;
    drop(end_api);
    // Whoever asked the router to stop is to read that it does. Of what goes wrong here nobody would want to hear.
    let _ = tokio::time::timeout(LAST_ANSWERS, api).await;
    // The state that was handed over last is on disk before the process ends.
    let _ = tokio::task::spawn_blocking(move || writer.join()).await;
    drop(socket_file);
    match ended {
        Ended::Stopped => {
            tracing::info!(
                "stopped; bridge {BRIDGE}, its ports and the pods stay as they are (`weft down` removes them)"
            );
            Ok(())
        }
        Ended::Failed(why) => Err(anyhow!(why)),
    }
}

/// The API's socket file, removed when the router ends, however it does.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another router may have taken the path meanwhile only if this one did not answer; then it made a new file.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What the state directory holds, the join token, and what a host without a cluster is told of making one with others.
struct Opened {
    store: Store,
    state: State,
    token: Option<(String, JoinToken)>,
    terms: Option<Terms>,
}

/// What the operator asks of a host that belongs to no cluster.
enum Intent {
    Found,
    Join,
    /// Make a cluster together with others.
    Agree(Expected),
}

/// Founds only where that is unmistakably meant: two hosts that each found are two clusters.
fn intent(settings: &Settings, underlay: &Underlay, has_token: bool) -> anyhow::Result<Intent> {
    if let Some(expected) = &settings.expected {
        if !has_token {
            bail!(
                "--expect and --seed need a token that all of these hosts have: make one with `weft token --generate`, \
                 copy it to each of them and name it with --token-file, or put it into WEFT_TOKEN"
            );
        }
        if settings.peers.is_empty() {
            bail!(
                "--expect and --seed need at least one --peer: name the hosts that make the cluster; this host itself may \
                 be among them"
            );
        }
        refuse_overlap(settings)?;
        // Others are let in once there is a cluster.
        if !settings.observer && expected.may_count(&settings.name) {
            return Ok(Intent::Agree(expected.clone()));
        }
    }
    if settings.found || (settings.token.is_none() && settings.peers.is_empty()) {
        if settings.observer {
            bail!(
                "an observer owns no addresses, so it cannot make a cluster: name a host of the cluster with --peer, and the \
                 token with --token-file"
            );
        }
        refuse_overlap(settings)?;
        return Ok(Intent::Found);
    }
    if settings.peers.is_empty() {
        bail!(
            "a token, but no peer: name a host of the cluster with --peer to join it, or say --found to make a new \
             cluster with this token"
        );
    }
    if !has_token {
        bail!(
            "a peer, but no token: copy what `weft token` prints on a host of the cluster to a file and name it with \
             --token-file, or put it into WEFT_TOKEN"
        );
    }
    let own: Vec<&str> = settings
        .peers
        .iter()
        .map(String::as_str)
        .filter(|peer| underlay.is_own(peer))
        .collect();
    // One command line for all hosts may name them all, but a host that names itself only would wait for ever.
    if own.len() == settings.peers.len() {
        bail!(
            "{} is this host itself: name another host of the cluster with --peer, or leave --peer out to make a new cluster",
            own.join(", ")
        );
    }
    Ok(Intent::Join)
}

/// The range of a new cluster is for ever, and the default fits most hosts, but not all.
fn refuse_overlap(settings: &Settings) -> anyhow::Result<()> {
    let routes = crate::hints::overlapping(settings.range)?;
    if routes.is_empty() || settings.range_is_given {
        return Ok(());
    }
    bail!(
        "the default range {range} overlaps {} of this host: choose addresses for pods that are free with --range, or insist \
         with --range {range}",
        routes.join(" and "),
        range = settings.range,
    )
}

/// Opens the state, and founds a cluster where that is what the operator asked for.
fn open_state(settings: &Settings, underlay: &Underlay, rng: &mut ChaCha20Rng) -> anyhow::Result<Opened> {
    let space = AddressSpace::of_range(settings.range)?;
    let given = settings.token.as_deref().map(JoinToken::parse).transpose()?;
    let machine = MachineId::read(&settings.machine_id_file)?;
    if !Store::exists(&settings.state_dir) {
        // A refusal leaves no identity behind.
        intent(settings, underlay, given.is_some())?;
    }
    let noise = NoiseKeypair::generate(rng).context("X25519 is not compiled in")?;
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    let (mut store, mut state) = Store::open(&settings.state_dir, machine, settings.crash_at, || {
        (NodeKey::from_seed(seed), noise)
    })?;
    if let (Some(adopted), Some(given)) = (&state.token, &settings.token)
        && adopted != given
    {
        tracing::warn!(
            "the token that was given is not the one of the cluster that this host has adopted: `weft token` prints that \
             one, which is used"
        );
    }
    let given = settings
        .token
        .clone()
        .zip(given)
        .filter(|_| state.token.is_none());
    let token = match (given, store.token()?) {
        (Some(given), _) => Some(given),
        (None, Some(text)) => {
            let token =
                JoinToken::parse(&text).with_context(|| format!("{}", store.token_path().display()))?;
            Some((text, token))
        }
        (None, None) => None,
    };
    if state.durable.is_some() {
        let terms = None;
        return Ok(Opened {
            store,
            state,
            token,
            terms,
        });
    }
    let expected = match bound_to(settings, &state)? {
        Some(expected) => Some(expected),
        None => match intent(settings, underlay, token.is_some())? {
            Intent::Found => None,
            Intent::Join => {
                let terms = None;
                return Ok(Opened {
                    store,
                    state,
                    token,
                    terms,
                });
            }
            Intent::Agree(expected) => Some(expected),
        },
    };
    if let Some(expected) = expected {
        let terms = Some(Terms {
            expected,
            range: space.range(),
            slot_size: space.slot_size(),
        });
        return Ok(Opened {
            store,
            state,
            token,
            terms,
        });
    }
    let (text, token) = token.unwrap_or_else(|| {
        let token = JoinToken::generate(rng);
        (token.to_string(), token)
    });
    let mut nonce = [0; 16];
    rng.fill_bytes(&mut nonce);
    let mut secret = [0; 32];
    rng.fill_bytes(&mut secret);
    let genesis = Genesis {
        founders: vec![state.key.id()],
        nonce,
        range: space.range(),
        slot_size: space.slot_size(),
    };
    let durable = DurableState::founded(
        genesis,
        ClusterSecret {
            number: 1,
            key: secret,
        },
    );
    // The token first: a crash in between leaves a host that founds again, not one that nobody can join.
    store.save_token(&text)?;
    store.save(&[Save::Cluster(durable.clone())])?;
    state.durable = Some(durable);
    Ok(Opened {
        store,
        state,
        token: Some((text, token)),
        terms: None,
    })
}

/// A host that has begun to make a cluster with others goes on with that, and with those.
fn bound_to(settings: &Settings, state: &State) -> anyhow::Result<Option<Expected>> {
    let count = state.agreement.set.len();
    if count == 0 {
        return Ok(None);
    }
    let is_same = match &settings.expected {
        Some(expected) => expected.count() == count,
        None => !settings.found,
    };
    if !is_same {
        bail!(
            "this host has begun to make a cluster together with {} other hosts, and cannot make another one: start it as \
             before, or remove {} to begin anew",
            count - 1,
            settings.state_dir.join("state").display()
        );
    }
    let as_stored = || Expected::Count(count as u32);
    Ok(Some(settings.expected.clone().unwrap_or_else(as_stored)))
}

/// Tells the person at the terminal where things stand and what comes next.
fn announce(settings: &Settings, state: &State, terms: Option<&Terms>, underlay: &Underlay, store: &Store) {
    println!("weft: host {} ({:?})", settings.name, state.key.id());
    println!("weft: {}", encrypted(settings, state));
    if let Some(terms) = terms {
        println!(
            "weft: makes a cluster together with {} other hosts, tried at {}",
            terms.expected.count().saturating_sub(1),
            settings.peers.join(", ")
        );
        return;
    }
    if state.durable.is_none() {
        println!(
            "weft: waiting for {} to let this host in",
            settings.peers.join(", ")
        );
        return;
    }
    let here = underlay
        .endpoints
        .first()
        .map_or_else(|| "ADDRESS".to_owned(), ToString::to_string);
    println!("weft: another host joins with: weft up --peer {here} --token-file FILE");
    println!("weft: FILE is a copy of {}", store.token_path().display());
}

/// In words: what is encrypted, as far as this host can say before it has met another one.
fn encrypted(settings: &Settings, state: &State) -> &'static str {
    let stored = state.settings.encryption;
    let all = match settings.encrypt.filter(|_| stored.number == 0) {
        Some(encrypt) => Encryption::from(encrypt) == Encryption::All,
        None => stored.value == Encryption::All,
    };
    match all || settings.no_fastpath || settings.trust.is_empty() {
        true => "all traffic with other hosts is encrypted",
        false => {
            "traffic with hosts on trusted networks, which are private ones and those of --trust, is NOT encrypted where their \
             kernels reach each other; `weft status` names them, `weft encrypt all` encrypts everything"
        }
    }
}

/// Octets of the largest TCP segment of the mesh (RFC 9293 §3.7.1): an IPv6 packet of 1,280 octets, which every path
/// carries. The mesh must live where packets that are too large vanish without a word, and moves too little to gain from
/// larger ones.
const MESH_SEGMENT: u32 = 1_220;

/// TCP listener and UDP socket on one port.
fn bind(listen: Option<IpAddr>, port: u16) -> anyhow::Result<(TcpListener, UdpSocket)> {
    let address = SocketAddr::new(listen.unwrap_or_else(any_address), port);
    let tcp = socket(address, Type::STREAM, Protocol::TCP)
        .and_then(|socket| socket.listen(BACKLOG).map(|()| socket))
        .with_context(|| taken("TCP", address))?;
    let udp = socket(address, Type::DGRAM, Protocol::UDP).with_context(|| taken("UDP", address))?;
    Ok((TcpListener::from_std(tcp.into())?, udp.into()))
}

fn taken(protocol: &str, address: SocketAddr) -> String {
    format!(
        "{protocol} {address} cannot be listened on; name another port with --port, or another address with --listen"
    )
}

/// All addresses: one dual-stack socket, or IPv4 alone where the kernel has no IPv6.
fn any_address() -> IpAddr {
    match Socket::new(Domain::IPV6, Type::DGRAM, None)
        .and_then(|s| s.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into()))
    {
        Ok(()) => Ipv6Addr::UNSPECIFIED.into(),
        Err(_) => Ipv4Addr::UNSPECIFIED.into(),
    }
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    if kind == Type::STREAM {
        // Connections of the router that ran before may still be closing.
        socket.set_reuse_address(true)?;
        // Binds both ends of every connection that is accepted here.
        socket.set_tcp_mss(MESH_SEGMENT)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Whether this host's kernel takes part: only where the operator names a network that is trusted, and not if the kernel makes
/// no VXLAN devices.
fn ability(no_fastpath: bool, trusted: &[IpNet]) -> Ability {
    match no_fastpath || trusted.is_empty() {
        true => Ability::Declined,
        false if makes_vxlan() => Ability::Able,
        false => Ability::NoDevice,
    }
}

/// Whether the kernel makes VXLAN devices: one is tried in a network namespace of its own, where it meets nobody's.
fn makes_vxlan() -> bool {
    // A router that may not make namespaces finds out later.
    let Ok(apart) = weft_kernel::Namespace::new() else {
        return true;
    };
    let here = IpAddr::from(Ipv4Addr::LOCALHOST);
    let device = link::Vxlan {
        id: 1,
        local: here,
        remote: here,
        port: VXLAN_PORT,
    };
    let made = apart.run(|| link::create_vxlan("weft-try", &device));
    if let Ok(Err(error)) = &made {
        tracing::warn!("this kernel makes no VXLAN device, so all frames go encrypted: {error}");
    }
    !matches!(made, Ok(Err(_)))
}

/// MTU of bridge and TAP: what the host's own underlay leaves, or what the operator set.
fn bridge_mtu(settings: &Settings, underlay: &Underlay) -> u16 {
    let own = settings
        .mtu
        .unwrap_or_else(|| pod_mtu(usize::from(underlay.mtu)) as u16);
    let whole = usize::from(own) + OVERHEAD;
    if usize::from(underlay.mtu) < whole {
        tracing::warn!(
            "frames of the pods' MTU of {own} need {whole} octets, and the underlay carries {}: the largest go in two \
             pieces, which costs speed",
            underlay.mtu
        );
    }
    own
}

/// AES where the processor has instructions for it, else ChaCha20 first; both are always accepted.
fn ciphers() -> Vec<Cipher> {
    #[cfg(target_arch = "x86_64")]
    let aes = std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    let aes = std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let aes = false;
    match aes {
        true => vec![Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305],
        false => vec![Cipher::ChaCha20Poly1305, Cipher::Aes256Gcm],
    }
}

/// Becomes true at SIGTERM and at Ctrl-C.
fn stop_signal() -> anyhow::Result<watch::Receiver<bool>> {
    let (stop, stopped) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.send_replace(true);
    });
    Ok(stopped)
}

fn init_logging(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(level))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}
