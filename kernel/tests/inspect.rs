//! What is read of the pods, against what was done to them.
#![allow(clippy::unwrap_used, missing_docs)]

use weft_kernel::attach::{AttachRequest, attach, detach, host_ifname};
use weft_kernel::inspect::{Port, ports};
use weft_kernel::link::{self, BridgeAttributes, VethEnd};
use weft_kernel::{Namespace, addr};

const BRIDGE: &str = "weft-test";

#[test]
fn both_ends_are_read_as_they_are_now() {
    let (host, pod) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    let look = || host.run(|| ports(BRIDGE)).unwrap().unwrap();
    assert_eq!(look(), [], "there is no bridge yet");
    host.run(|| {
        link::create_bridge(BRIDGE, &BridgeAttributes::default()).unwrap();
        link::set_up(BRIDGE).unwrap();
        attach(&AttachRequest {
            pod_netns: &pod,
            bridge: BRIDGE,
            id: "web-1",
            ifname: "eth0",
            mac: [2, 0, 0, 0, 0, 1],
            address: "10.32.0.1/12".parse().unwrap(),
            further: &[],
            mtu: 1390,
            gateway: None,
        })
        .unwrap();
        // Somebody else's veth pair is no pod.
        link::create_veth(&VethEnd::here("other0"), &VethEnd::here("other1")).unwrap();
    })
    .unwrap();

    let end = |ports: &[Port]| ports[0].pod.clone().unwrap();
    let found = look();
    assert_eq!(found.len(), 1);
    assert!(found[0].on_bridge);
    assert_eq!(found[0].record.as_ref().unwrap().id, "web-1");
    let seen = end(&found);
    assert_eq!(
        (seen.ifname.as_str(), seen.mac, seen.up),
        ("eth0", Some([2, 0, 0, 0, 0, 1]), true)
    );
    assert_eq!(seen.addresses, ["10.32.0.1/12".parse().unwrap()]);

    pod.run(|| {
        addr::remove("eth0", "10.32.0.1/12".parse().unwrap()).unwrap();
        addr::add("eth0", "10.32.0.9/12".parse().unwrap()).unwrap();
        link::set_mac("eth0", [2, 0, 0, 0, 0, 9]).unwrap();
        link::set_down("eth0").unwrap();
    })
    .unwrap();
    host.run(|| link::set_master(&host_ifname("web-1"), None).unwrap())
        .unwrap();
    let found = look();
    assert!(!found[0].on_bridge);
    let seen = end(&found);
    assert_eq!((seen.mac, seen.up), (Some([2, 0, 0, 0, 0, 9]), false));
    assert_eq!(seen.addresses, ["10.32.0.9/12".parse().unwrap()]);

    host.run(|| link::set_alias(&host_ifname("web-1"), "half done").unwrap())
        .unwrap();
    assert_eq!(look()[0].record, None);
    host.run(|| detach("web-1").unwrap()).unwrap();
    assert_eq!(look(), []);
}
