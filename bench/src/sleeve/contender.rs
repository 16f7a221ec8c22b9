//! Two pods that something connects, and what is measured between them.

use super::gate::Idle;
use super::iperf::{self, Process};
use super::processors::Since;
use ipnet::IpNet;
use std::any::Any;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;
use weft_kernel::link::{self, BridgeAttributes, VethEnd};
use weft_kernel::{Namespace, addr, offload, route};
use weft_lab::{Host, HostBuilder, Lab, PingPlan, Station};

/// The hosts' interface to each other.
pub(super) const UNDERLAY: &str = "eth0";
/// The bridge of a host that has no router.
pub(super) const BRIDGE: &str = "br0";
/// The pod's end and the host's end of what connects them.
const POD: &str = "eth0";
const PORT: &str = "pod0";
/// By then the contender carries frames.
pub(super) const ECHO_PATIENCE: Duration = Duration::from_secs(20);
/// Time between two echo requests on an idle machine, and beside a transfer.
const ECHO_IDLE: Duration = Duration::from_millis(3);
const ECHO_LOADED: Duration = Duration::from_millis(10);
/// Echo requests of one measurement on an idle machine.
const ECHOES: u16 = 400;

/// Something that a contender lives on.
pub(super) type Part = Box<dyn Any + Send + Sync>;

/// Two pods that something connects.
pub(super) struct Contender {
    /// An iperf3 server in the second pod, and whatever else is to end before pods and hosts do.
    _parts: Vec<Part>,
    pods: [Station; 2],
    hosts: [Host; 2],
    /// What [`Contender::cut`] has turned off.
    turned_off: Vec<String>,
}

/// What a transfer by TCP came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    /// Gbit/s of payload.
    pub(super) gbit: f64,
    /// Processor seconds of the whole machine for a GB (10^9 octets) of payload, less what it uses when idle.
    pub(super) seconds_per_gb: f64,
}

/// Round-trip times in microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundTrip {
    pub(super) p50: f64,
    pub(super) p99: f64,
}

impl Contender {
    /// Waits until the pods reach each other.
    pub(super) fn new(
        lab: &Lab,
        hosts: [Host; 2],
        pods: [Station; 2],
        mut parts: Vec<Part>,
    ) -> anyhow::Result<Self> {
        let [first, second] = &pods;
        let log = lab.folder().join(format!("iperf3-{}.log", second.name()));
        parts.insert(0, Box::new(iperf::serve(second, &log)?));
        first.ping_until(second.ipv4()?, ECHO_PATIENCE)?;
        Ok(Self {
            _parts: parts,
            pods,
            hosts,
            turned_off: Vec::new(),
        })
    }

    fn server(&self) -> anyhow::Result<IpAddr> {
        Ok(self.pods[1].ipv4()?)
    }

    /// A transfer by TCP from the first pod to the second.
    pub(super) fn tcp(&self, streams: u32, seconds: u32, idle: &Idle) -> anyhow::Result<Flow> {
        let since = Since::now()?;
        let received = iperf::tcp(&self.pods[0], self.server()?, streams, seconds)?;
        let usage = since.usage()?;
        let busy = usage.busy - idle.processors * usage.elapsed.as_secs_f64();
        Ok(Flow {
            gbit: received.gbit_per_second(),
            seconds_per_gb: busy * 1e9 / received.octets,
        })
    }

    /// Datagrams of so many octets of payload that arrive in a second, when the sender sends what it can.
    pub(super) fn udp(&self, payload: u32, seconds: u32) -> anyhow::Result<f64> {
        let received = iperf::udp(&self.pods[0], self.server()?, payload, seconds)?;
        Ok(received.octets / f64::from(payload) / received.seconds)
    }

    /// Echo requests on an idle machine.
    pub(super) fn echo(&self) -> anyhow::Result<RoundTrip> {
        self.echoes(ECHOES, ECHO_IDLE)
    }

    /// Echo requests beside a transfer by TCP of one stream.
    pub(super) fn echo_beside_tcp(&self, seconds: u32, idle: &Idle) -> anyhow::Result<(RoundTrip, Flow)> {
        // The last one leaves before the transfer ends.
        let time = Duration::from_secs(seconds.into()).mul_f64(0.9);
        let count = u16::try_from(time.as_millis() / ECHO_LOADED.as_millis()).unwrap_or(u16::MAX);
        std::thread::scope(|scope| {
            let transfer = scope.spawn(|| self.tcp(1, seconds, idle));
            let echoes = self.echoes(count, ECHO_LOADED);
            let flow = transfer
                .join()
                .unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")));
            Ok((echoes?, flow?))
        })
    }

    fn echoes(&self, count: u16, interval: Duration) -> anyhow::Result<RoundTrip> {
        let plan = PingPlan {
            count,
            interval,
            ..PingPlan::default()
        };
        let report = self.pods[0].ping_with(self.server()?, &plan)?;
        let mut times: Vec<Duration> = report.answers.values().copied().collect();
        if times.len() * 2 < usize::from(count) {
            anyhow::bail!("{} of {count} echo requests were lost", report.lost());
        }
        let (p50, p99) = crate::figure::median_and_p99(&mut times);
        Ok(RoundTrip { p50, p99 })
    }

    /// From now on, of the datagrams of the underlay one in so many is lost, each by chance.
    pub(super) fn lose(&self, one_in: NonZeroU32) -> anyhow::Result<()> {
        for host in &self.hosts {
            host.firewall().lose_udp(one_in)?;
        }
        Ok(())
    }

    /// Nothing is lost any more.
    pub(super) fn lose_nothing(&self) -> anyhow::Result<()> {
        for host in &self.hosts {
            host.firewall().clear()?;
        }
        Ok(())
    }

    /// From now on every segment and datagram is cut to its size on the wire before it leaves a host, as with a network
    /// card that cannot do it, and none are merged when they come in.
    pub(super) fn cut(&mut self) -> anyhow::Result<()> {
        let [first, _] = &self.hosts;
        let features = first.namespace().run(|| offload::list(UNDERLAY))??;
        let segmentation = |feature: &offload::Feature| {
            let cuts = feature.name.starts_with("tx-") && feature.name.contains("segmentation");
            feature.active && feature.changeable && (cuts || feature.name.starts_with("rx-gro"))
        };
        self.turned_off = features
            .into_iter()
            .filter(segmentation)
            .map(|feature| feature.name)
            .collect();
        self.set_features(false)
    }

    /// The underlay is again as it was.
    pub(super) fn uncut(&mut self) -> anyhow::Result<()> {
        self.set_features(true)?;
        self.turned_off.clear();
        Ok(())
    }

    fn set_features(&self, on: bool) -> anyhow::Result<()> {
        let names: Vec<&str> = self.turned_off.iter().map(String::as_str).collect();
        for host in &self.hosts {
            host.namespace().run(|| offload::set(UNDERLAY, &names, on))??;
            let features = host.namespace().run(|| offload::list(UNDERLAY))??;
            let refused = features
                .iter()
                .find(|feature| names.contains(&feature.name.as_str()) && feature.active != on);
            if let Some(feature) = refused {
                anyhow::bail!("the underlay's device keeps {} as it was", feature.name);
            }
        }
        Ok(())
    }
}

/// Two hosts that a cable connects; their names begin with `tag`.
pub(super) fn hosts(
    lab: &Lab,
    tag: &str,
    with: impl Fn(HostBuilder) -> HostBuilder,
) -> anyhow::Result<[Host; 2]> {
    let cable = lab.crossover()?;
    let host = |side: &str| -> anyhow::Result<Host> {
        let host = with(lab.host(&format!("{tag}-{side}")).on(&cable).without_ipv6()).build()?;
        Ok(host)
    };
    Ok([host("a")?, host("b")?])
}

/// Makes the bridge of a host, with these ports, and a pod on it.
pub(super) fn bridged_pod(host: &Host, ports: &[&str], address: IpNet, mtu: u32) -> anyhow::Result<Station> {
    let pod = Namespace::new()?;
    host.namespace().run(|| -> weft_kernel::Result<()> {
        link::create_bridge(BRIDGE, &BridgeAttributes::default())?;
        link::set_ipv6(BRIDGE, false)?;
        wire(&pod, mtu)?;
        for port in ports.iter().copied().chain([PORT]) {
            link::set_master(port, Some(BRIDGE))?;
        }
        for device in ports.iter().copied().chain([PORT, BRIDGE]) {
            link::set_up(device)?;
        }
        Ok(())
    })??;
    finish(host, pod, address, None)
}

/// Makes a pod behind a host that routes; `gateway` is the host's address there.
pub(super) fn routed_pod(host: &Host, gateway: IpNet, address: IpNet, mtu: u32) -> anyhow::Result<Station> {
    let pod = Namespace::new()?;
    host.namespace().run(|| -> weft_kernel::Result<()> {
        wire(&pod, mtu)?;
        link::set_up(PORT)?;
        addr::add(PORT, gateway)
    })??;
    finish(host, pod, address, Some(gateway.addr()))
}

fn wire(pod: &Namespace, mtu: u32) -> weft_kernel::Result<()> {
    link::create_veth(&VethEnd::here(PORT).mtu(mtu), &VethEnd::inside(POD, pod).mtu(mtu))?;
    link::set_ipv6(PORT, false)
}

fn finish(host: &Host, pod: Namespace, address: IpNet, gateway: Option<IpAddr>) -> anyhow::Result<Station> {
    pod.run(|| -> weft_kernel::Result<()> {
        link::set_ipv6(POD, false)?;
        link::set_up(POD)?;
        addr::add(POD, address)?;
        gateway.map_or(Ok(()), |gateway| route::add_default(POD, gateway))
    })??;
    Ok(host.foreign_pod(&format!("{}-pod", host.name()), pod, POD, vec![address.addr()])?)
}

/// So that a part which is only to be kept has one type.
pub(super) fn keep(part: impl Any + Send + Sync) -> Part {
    Box::new(part)
}

/// A process whose end means that the contender carries nothing any more.
pub(super) fn process(host: &Host, lab: &Lab, command: std::process::Command) -> anyhow::Result<Process> {
    Process::start(host, command, &lab.folder().join(format!("{}.log", host.name())))
}
