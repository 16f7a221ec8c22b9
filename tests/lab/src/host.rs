//! A host: a namespace with interfaces, an identity, and the folders of one `weft up`.

use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use weft_kernel::{MacAddr, Namespace, addr, link, route, sysctl};

use crate::error::{Error, Result};
use crate::firewall::Firewall;
use crate::frames::{self, Frame};
use crate::lab::{Shared, check_name};
use crate::pod::Pod;
use crate::program::{self, Output};
use crate::router::Router;
use crate::station::Station;
use crate::underlay::{Port, Underlay};

/// How long a port of a bridge may take to open: its work queue waits for up to a second.
const PORT_PATIENCE: Duration = Duration::from_secs(10);
/// MTU of an interface for which none was asked.
const DEFAULT_MTU: u32 = 1500;

/// A host of the lab. It is a [`Station`] on the underlay. Clones are the same host.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

struct Inner {
    station: Station,
    folder: PathBuf,
    ports: Vec<(u32, Port)>,
    /// What the host is plugged into lives as long as the host.
    underlays: Vec<Box<dyn Underlay>>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Host({}, {:?})", self.name(), self.addresses())
    }
}

impl Deref for Host {
    type Target = Station;

    fn deref(&self) -> &Station {
        &self.0.station
    }
}

impl Host {
    /// The host's folder: its machine id, its state, its log.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// The file that holds its machine id.
    #[must_use]
    pub fn machine_id_file(&self) -> PathBuf {
        self.0.folder.join("machine-id")
    }

    /// The folder in which its router keeps what must survive a restart.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.0.folder.join("state")
    }

    /// The unix socket of its router.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.0.folder.join("weft.sock")
    }

    /// What its routers have logged.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.0.folder.join("weft.log")
    }

    /// What it is plugged into, in the order of its interfaces.
    #[must_use]
    pub fn underlays(&self) -> &[Box<dyn Underlay>] {
        &self.0.underlays
    }

    /// The port by which it is plugged into an underlay of that number.
    pub(crate) fn port_on(&self, underlay: u32) -> Option<Port> {
        self.0
            .ports
            .iter()
            .find(|(number, _)| *number == underlay)
            .map(|(_, port)| *port)
    }

    /// Starts the real `weft up` here, with this host's identity, folders and name, and these
    /// arguments after them. It returns at once; wait for what the story needs.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn up<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<Router> {
        let arguments = arguments
            .into_iter()
            .map(|argument| argument.as_ref().to_owned())
            .collect();
        Router::start(self, Vec::new(), arguments)
    }

    /// Runs `weft` here, as it is given, to its end.
    ///
    /// # Errors
    /// When it cannot be started, or does not end. A failure of it is in the [`Output`].
    pub fn weft<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<Output> {
        let mut command = self.weft_command()?;
        command.args(arguments);
        program::run(&self.lab, self.namespace(), self.name(), command, None)
    }

    /// Runs another program here, to its end, found where root's PATH leads.
    ///
    /// # Errors
    /// When it is missing, or does not end. A failure of it is in the [`Output`].
    pub fn run_program<S: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Output> {
        let found = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .map(|folder| Path::new(folder).join(program))
            .into_iter()
            .find(|path| path.is_file());
        let mut command = program::command(found.unwrap_or_else(|| program.into()));
        command.args(arguments);
        program::run(&self.lab, self.namespace(), self.name(), command, None)
    }

    /// As [`Host::up`], under another program: `wrapper` is its command line, to which that of `weft` is added.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn up_under<S: AsRef<OsStr>>(
        &self,
        wrapper: &[&str],
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Router> {
        let owned = |text: &OsStr| text.to_owned();
        Router::start(
            self,
            wrapper.iter().map(|word| owned(word.as_ref())).collect(),
            arguments.into_iter().map(|word| owned(word.as_ref())).collect(),
        )
    }

    pub(crate) fn weft_command(&self) -> Result<Command> {
        let program = self.lab.program();
        if !program.is_file() {
            return Err(Error::NoProgram(program.to_owned()));
        }
        Ok(program::command(program))
    }

    /// Makes a namespace and attaches it to this host's overlay with `weft attach`.
    ///
    /// # Errors
    /// When the kernel or `weft attach` refuses.
    pub fn pod(&self, name: &str, address: impl Into<IpAddr>) -> Result<Pod> {
        Pod::attach(self, name, vec!["--ip".into(), address.into().to_string()])
    }

    /// As [`Host::pod`], with whatever `weft attach` can be told of its addresses.
    ///
    /// # Errors
    /// When the kernel or `weft attach` refuses.
    pub fn pod_with(&self, name: &str, arguments: &[&str]) -> Result<Pod> {
        Pod::attach(self, name, arguments.iter().map(ToString::to_string).collect())
    }

    /// As [`Host::pod`], with an address that the router chooses.
    ///
    /// # Errors
    /// When the kernel or `weft attach` refuses.
    pub fn pod_any(&self, name: &str) -> Result<Pod> {
        Pod::attach(self, name, Vec::new())
    }

    /// A pod that something else than `weft attach` has put on this host's overlay.
    ///
    /// # Errors
    /// When the name is unusable.
    pub fn foreign_pod(
        &self,
        name: &str,
        namespace: Namespace,
        interface: &str,
        addresses: Vec<IpAddr>,
    ) -> Result<Station> {
        check_name(name)?;
        Ok(Station {
            lab: Arc::clone(&self.lab),
            name: name.to_owned(),
            namespace,
            interface: interface.to_owned(),
            addresses,
        })
    }

    /// The packet filter of this host.
    #[must_use]
    pub fn firewall(&self) -> Firewall {
        Firewall::new(self.0.station.clone())
    }
}

/// Describes a host before it is made.
#[must_use]
pub struct HostBuilder {
    lab: Arc<Shared>,
    name: String,
    interfaces: Vec<Interface>,
    gateways: Vec<IpAddr>,
    forwarding: bool,
    misuse: Option<&'static str>,
}

struct Interface {
    underlay: Box<dyn Underlay>,
    ipv4: Choice<Ipv4Net>,
    ipv6: Choice<Ipv6Net>,
    mtu: u32,
}

/// Which address an interface gets.
enum Choice<T> {
    /// Made from the numbers of underlay and host.
    Automatic,
    Given(T),
    None,
}

impl HostBuilder {
    pub(crate) fn new(lab: Arc<Shared>, name: &str) -> Self {
        Self {
            lab,
            name: name.to_owned(),
            interfaces: Vec::new(),
            gateways: Vec::new(),
            forwarding: false,
            misuse: None,
        }
    }

    /// With one more interface, `eth0` and so on, on this underlay. The following calls are about it.
    pub fn on(mut self, underlay: &dyn Underlay) -> Self {
        self.interfaces.push(Interface {
            underlay: underlay.handle(),
            ipv4: Choice::Automatic,
            ipv6: Choice::Automatic,
            mtu: DEFAULT_MTU,
        });
        self
    }

    /// With this IPv4 address instead of an automatic one.
    pub fn ipv4(self, address: Ipv4Net) -> Self {
        self.last(|interface| interface.ipv4 = Choice::Given(address))
    }

    /// With this IPv6 address instead of an automatic one.
    pub fn ipv6(self, address: Ipv6Net) -> Self {
        self.last(|interface| interface.ipv6 = Choice::Given(address))
    }

    /// Without an IPv4 address.
    pub fn without_ipv4(self) -> Self {
        self.last(|interface| interface.ipv4 = Choice::None)
    }

    /// Without an IPv6 address, and with IPv6 off.
    pub fn without_ipv6(self) -> Self {
        self.last(|interface| interface.ipv6 = Choice::None)
    }

    /// With this MTU.
    pub fn mtu(self, bytes: u32) -> Self {
        self.last(|interface| interface.mtu = bytes)
    }

    /// With a default route through this address.
    pub fn gateway(mut self, address: impl Into<IpAddr>) -> Self {
        self.gateways.push(address.into());
        self
    }

    /// Passing on packets between its interfaces.
    pub fn forwarding(mut self) -> Self {
        self.forwarding = true;
        self
    }

    fn last(mut self, change: impl FnOnce(&mut Interface)) -> Self {
        match self.interfaces.last_mut() {
            Some(interface) => change(interface),
            None => self.misuse = Some("call .on(&underlay) before what is about the interface"),
        }
        self
    }

    /// Makes the host.
    ///
    /// # Errors
    /// When a name is unusable or taken, or the kernel refuses.
    pub fn build(self) -> Result<Host> {
        check_name(&self.name)?;
        if let Some(rule) = self.misuse {
            return Err(Error::invalid(format!("the host {}", self.name), rule));
        }
        let number = self.lab.next_host()?;
        let folder = self.lab.folder().join(&self.name);
        fs::create_dir(&folder)
            .map_err(|e| Error::io(format!("make the folder of the host {}", self.name), e))?;
        // 32 hexadecimal digits, as machine-id(5) has it; any number will do that no other host has.
        fs::write(folder.join("machine-id"), format!("{number:032x}\n"))
            .map_err(|e| Error::io("write a machine id", e))?;

        let namespace = Namespace::new()?;
        let (mut addresses, mut ports) = (Vec::new(), Vec::new());
        for (index, interface) in self.interfaces.iter().enumerate() {
            let ifname = format!("eth{index}");
            let port = interface.underlay.plug(&namespace, &ifname, interface.mtu)?;
            let wanted = interface.addresses(number);
            let ipv6 = !matches!(interface.ipv6, Choice::None);
            namespace.run(|| configure(&ifname, &wanted, ipv6))??;
            if let Some((post, bridge)) = interface.underlay.listening_post() {
                await_port(&self.lab, &self.name, (&namespace, &ifname), (post, bridge))?;
            }
            addresses.extend(wanted.iter().map(IpNet::addr));
            ports.push((interface.underlay.number(), port));
        }
        namespace.run(|| -> Result<()> {
            if self.forwarding {
                sysctl::set("net/ipv4/ip_forward", "1")?;
                sysctl::set("net/ipv6/conf/all/forwarding", "1")?;
            }
            for gateway in &self.gateways {
                let ifname = self.interface_towards(*gateway, number)?;
                route::add_default(&ifname, *gateway)?;
            }
            Ok(())
        })??;
        let station = Station {
            lab: self.lab,
            name: self.name,
            namespace,
            interface: "eth0".into(),
            addresses,
        };
        Ok(Host(Arc::new(Inner {
            station,
            folder,
            ports,
            underlays: self
                .interfaces
                .into_iter()
                .map(|interface| interface.underlay)
                .collect(),
        })))
    }

    fn interface_towards(&self, gateway: IpAddr, number: u32) -> Result<String> {
        let on_link = |interface: &Interface| {
            interface
                .addresses(number)
                .iter()
                .any(|net| net.contains(&gateway))
        };
        self.interfaces
            .iter()
            .position(on_link)
            .map(|index| format!("eth{index}"))
            .ok_or_else(|| {
                Error::invalid(
                    format!("the gateway {gateway} of {}", self.name),
                    "it must be in the network of an interface",
                )
            })
    }
}

impl Interface {
    /// IPv4 first.
    fn addresses(&self, number: u32) -> Vec<IpNet> {
        let ipv4 = match self.ipv4 {
            Choice::Automatic => {
                let net = self.underlay.ipv4_net();
                // The lab makes no more hosts than fit a /24.
                let address = Ipv4Addr::from_bits(net.addr().to_bits() | number);
                Some(Ipv4Net::new_assert(address, net.prefix_len()).into())
            }
            Choice::Given(address) => Some(address.into()),
            Choice::None => None,
        };
        let ipv6 = match self.ipv6 {
            Choice::Automatic => {
                let net = self.underlay.ipv6_net();
                let address = Ipv6Addr::from_bits(net.addr().to_bits() | u128::from(number));
                Some(Ipv6Net::new_assert(address, net.prefix_len()).into())
            }
            Choice::Given(address) => Some(address.into()),
            Choice::None => None,
        };
        ipv4.into_iter().chain(ipv6).collect()
    }
}

/// Sends frames from a new interface to a bridge until one arrives, so that from then on none is dropped.
fn await_port(
    lab: &Arc<Shared>,
    host: &str,
    (namespace, ifname): (&Namespace, &str),
    (post, bridge): (&Namespace, &str),
) -> Result<()> {
    let mac = |namespace: &Namespace, name: &str| -> Result<MacAddr> {
        let found = namespace.run(|| link::get(name))??.mac;
        found.ok_or_else(|| Error::invalid(format!("the MAC of {name}"), "it has none"))
    };
    let source = mac(namespace, ifname)?;
    // To the bridge's own address, so that no other host hears it.
    let probe = frames::build(mac(post, bridge)?, source, frames::LOCAL_EXPERIMENT, &[0; 46]);
    let filter = Box::new(move |frame: &Frame<'_>| {
        frame.source() == source && frame.ethertype() == frames::LOCAL_EXPERIMENT
    });
    let mut ear = post.run(|| frames::listen(Arc::clone(lab), host, bridge, filter))??;
    let end = Instant::now() + PORT_PATIENCE;
    loop {
        namespace.run(|| frames::send(ifname, &[&probe]))??;
        match ear.expect(1, Duration::ZERO) {
            Err(Error::TimedOut { .. }) if Instant::now() < end => {}
            result => return result.map(drop),
        }
    }
}

/// Brings an interface up with its addresses, all usable at once.
fn configure(ifname: &str, addresses: &[IpNet], ipv6: bool) -> Result<()> {
    sysctl::set_ipv6(ifname, ipv6)?;
    if ipv6 {
        // Also the link-local address, which the kernel makes by itself, need not be probed for: it
        // comes from a MAC address that nobody else has.
        sysctl::set(&format!("net/ipv6/conf/{ifname}/accept_dad"), "0")?;
    }
    link::set_up(ifname)?;
    for address in addresses {
        addr::add(ifname, *address)?;
    }
    Ok(())
}
