//! The kernel's VXLAN and a bridge on each host, as one makes them by hand.

use crate::sleeve::contender::{self, Contender};
use ipnet::{IpNet, Ipv4Net};
use std::net::Ipv4Addr;
use weft_kernel::link::{self, Vxlan};
use weft_lab::Lab;

const DEVICE: &str = "vx0";
/// Its number and port (RFC 7348 §5).
const ID: u32 = 6_502;
const PORT: u16 = 4_789;
/// What is left of 1500: outer IPv4, UDP, VXLAN and inner Ethernet take 20, 8, 8 and 14.
const MTU: u32 = 1_450;

pub(super) fn build(lab: &Lab) -> anyhow::Result<Contender> {
    let hosts = contender::hosts(lab, "vxlan", |host| host)?;
    let [a, b] = &hosts;
    let pod = |host: &weft_lab::Host, other: &weft_lab::Host, number: u8| -> anyhow::Result<_> {
        let vxlan = Vxlan {
            id: ID,
            local: host.ipv4()?,
            remote: other.ipv4()?,
            port: PORT,
        };
        host.namespace().run(|| -> weft_kernel::Result<()> {
            link::create_vxlan(DEVICE, &vxlan)?;
            link::set_ipv6(DEVICE, false)?;
            link::set_mtu(DEVICE, MTU)
        })??;
        let address = Ipv4Net::new(Ipv4Addr::new(10, 40, 0, number), 24)?;
        contender::bridged_pod(host, &[DEVICE], IpNet::V4(address), MTU)
    };
    let pods = [pod(a, b, 1)?, pod(b, a, 2)?];
    Contender::new(lab, hosts, pods, Vec::new())
}
