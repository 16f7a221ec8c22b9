//! Hosts with a driver each, in network namespaces on one switch.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use weft_fastpath::{Change, View, Vni, Vxlan, desired};
use weft_fastpath_driver::Driver;
use weft_kernel::capture::Capture;
use weft_kernel::link::{self, VethEnd};
use weft_kernel::{Namespace, addr, sysctl};
use weft_wire::Mac;

pub const BRIDGE: &str = "weft";
pub const TAP: &str = "weft-tap";
pub const PORT: u16 = 6784;
pub const MESH: u16 = 6783;
pub const DATA: u32 = 0x00_1234;
pub const MTU: u32 = 1390;
/// What is awaited comes within milliseconds, on a busy machine within seconds.
pub const SOON: Duration = Duration::from_secs(10);

pub fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

pub fn ipv4(last: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, last).into()
}

pub fn ipv6(last: u8) -> IpAddr {
    IpAddr::V6([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)].into())
}

pub fn vxlan(accepted: impl IntoIterator<Item = IpAddr>) -> Vxlan {
    Vxlan {
        port: PORT,
        data_vni: Vni::new(DATA).unwrap(),
        probe_vni: Vni::new(DATA + 1).unwrap(),
        ipv4: true,
        ipv6: true,
        accepted: accepted.into_iter().collect(),
        probes: [].into(),
        mtu: 1430,
        closed: [MESH].into(),
    }
}

/// Reconciles, and makes sure that the kernel then is as desired and stays so.
pub fn settle(driver: &Driver, view: &View) -> Vec<Change> {
    let report = driver.reconcile_blocking(view).unwrap();
    assert_eq!(driver.read().unwrap(), desired(view));
    assert_eq!(driver.reconcile_blocking(view).unwrap().changes, []);
    report.changes
}

/// Runs a program of Debian's in a namespace.
pub fn program(namespace: &Namespace, line: &str) -> String {
    let mut words = line.split(' ');
    let mut command = Command::new("/usr/sbin/".to_owned() + words.next().unwrap());
    command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = namespace
        .spawn(command)
        .unwrap_or_else(|error| panic!("{error}: install the Debian package nftables"));
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A host: 192.0.2.N and fd00::N on the wire.
pub struct Host {
    pub namespace: Namespace,
    pub driver: Driver,
    pub number: u8,
}

impl Host {
    pub fn run<T: Send>(&self, work: impl FnOnce(&Driver) -> T + Send) -> T {
        self.namespace.run(|| work(&self.driver)).unwrap()
    }

    pub fn settle(&self, view: &View) -> Vec<Change> {
        self.run(|driver| settle(driver, view))
    }

    /// A pod on its bridge, 10.0.0.N, with an address of weft's kind.
    pub fn pod(&self, number: u8) -> Pod {
        let namespace = Namespace::new().unwrap();
        let port = format!("vwtest{number}");
        self.run(|_| {
            let inside = VethEnd::inside("eth0", &namespace).mac(mac(number).0).mtu(MTU);
            link::create_veth(&VethEnd::here(&port).mtu(MTU), &inside).unwrap();
            link::set_ipv6(&port, false).unwrap();
            link::set_master(&port, Some(BRIDGE)).unwrap();
            link::set_up(&port).unwrap();
        });
        namespace
            .run(|| {
                link::set_ipv6("eth0", false).unwrap();
                link::set_up("lo").unwrap();
                link::set_up("eth0").unwrap();
                addr::add("eth0", format!("10.0.0.{number}/24").parse().unwrap()).unwrap();
            })
            .unwrap();
        assert!(self.run(|_| link::wait_forwarding(&port, SOON)).unwrap());
        Pod { namespace, number }
    }
}

pub struct Pod {
    pub namespace: Namespace,
    pub number: u8,
}

impl Pod {
    pub fn mac(&self) -> Mac {
        mac(self.number)
    }

    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, self.number)
    }

    pub fn capture(&self) -> Capture {
        self.namespace
            .run(|| Capture::open("eth0", 1 << 20))
            .unwrap()
            .unwrap()
    }

    pub fn socket(&self, port: u16) -> UdpSocket {
        self.namespace
            .run(|| {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
                socket.set_broadcast(true).unwrap();
                socket
            })
            .unwrap()
    }
}

/// Hosts on one switch, which lives as long as the first value.
pub fn hosts<const N: usize>() -> (Namespace, [Host; N]) {
    let switch = Namespace::new().unwrap();
    switch
        .run(|| {
            link::create_bridge("sw", &link::BridgeAttributes::default()).unwrap();
            link::set_ipv6("sw", false).unwrap();
            link::set_up("sw").unwrap();
        })
        .unwrap();
    let hosts = std::array::from_fn(|index| {
        let number = u8::try_from(index + 1).unwrap();
        let namespace = Namespace::new().unwrap();
        let port = format!("p{number}");
        switch
            .run(|| {
                link::create_veth(&VethEnd::here(&port), &VethEnd::inside("eth0", &namespace)).unwrap();
                link::set_master(&port, Some("sw")).unwrap();
                link::set_up(&port).unwrap();
            })
            .unwrap();
        namespace
            .run(|| {
                link::set_up("lo").unwrap();
                sysctl::set("net/ipv6/conf/eth0/accept_dad", "0").unwrap();
                link::set_up("eth0").unwrap();
                addr::add("eth0", format!("{}/24", ipv4(number)).parse().unwrap()).unwrap();
                addr::add("eth0", format!("{}/64", ipv6(number)).parse().unwrap()).unwrap();
            })
            .unwrap();
        assert!(
            switch
                .run(|| link::wait_forwarding(&port, SOON))
                .unwrap()
                .unwrap()
        );
        let driver = Driver::new(BRIDGE, TAP).unwrap();
        Host {
            namespace,
            driver,
            number,
        }
    });
    (switch, hosts)
}

/// A VXLAN datagram (RFC 7348, section 5) with a broadcast frame that ends with `text`.
pub fn datagram(vni: u32, text: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    let mut bytes = vec![8, 0, 0, 0, a, b, c, 0];
    bytes.extend([0xff; 6]);
    bytes.extend(mac(0x77).0);
    // IEEE 802 local experimental ethertype 2.
    bytes.extend([0x88, 0xb6]);
    bytes.resize(60, 0);
    bytes.extend(text);
    bytes
}

/// Whether a capture sees a frame that ends with `wanted`, and none that ends with `forbidden` before it.
pub fn sees_only(capture: &mut Capture, wanted: &[u8], forbidden: &[u8]) -> bool {
    let end = Instant::now() + SOON;
    while Instant::now() < end {
        let Some(frame) = capture.next_frame(SOON).unwrap() else {
            break;
        };
        if frame.data.ends_with(forbidden) {
            println!("came: {:02x?}", frame.data);
            return false;
        }
        if frame.data.ends_with(wanted) {
            return true;
        }
    }
    panic!("{} did not come", String::from_utf8_lossy(wanted));
}

/// Makes sure that two hosts know each other's link-layer addresses, so that what is sent next arrives at once.
pub fn acquaint(from: &Namespace, host: &Namespace, to: IpAddr) {
    let there = host.run(|| UdpSocket::bind((to, 7)).unwrap()).unwrap();
    there.set_read_timeout(Some(SOON)).unwrap();
    from.run(|| {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let here = UdpSocket::bind(any).unwrap();
        here.send_to(b"hello", (to, 7)).unwrap();
        there.recv(&mut [0; 8]).unwrap();
    })
    .unwrap();
}
