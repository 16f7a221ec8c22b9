//! The result of `ADD` in the shape of each version (CNI 1.0.0, section 5, and its predecessors).

use crate::config::Dns;
use crate::version::SpecVersion;
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use std::path::Path;
use weft_kernel::MacAddr;
use weft_kernel::route::Route;
use weft_wire::Mac;

/// An interface as the result names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) mac: Option<MacAddr>,
}

/// What `ADD` has made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Outcome<'a> {
    /// The bridge.
    pub(crate) bridge: Interface,
    /// The end of the veth pair on the bridge.
    pub(crate) host: Interface,
    /// The end of the veth pair in the container.
    pub(crate) container: Interface,
    /// The container's namespace, as the runtime wrote it.
    pub(crate) sandbox: &'a Path,
    /// Address of the container, with the length of the prefix that is on the link.
    pub(crate) address: IpNet,
    /// Routes that this attachment brought; the connected prefix is not among them.
    pub(crate) routes: Vec<Route>,
    /// Name servers from the configuration.
    pub(crate) dns: Option<&'a Dns>,
}

/// Where [`Outcome::to_json`] puts the container's interface.
const CONTAINER_INDEX: usize = 2;

impl Outcome<'_> {
    /// The result in the shape of a version.
    pub(crate) fn to_json(&self, version: SpecVersion) -> Value {
        let mut result = Map::new();
        result.insert("cniVersion".into(), version.text().into());
        let routes: Vec<Value> = self.routes.iter().map(route).collect();
        if version < SpecVersion::V0_3_0 {
            result.insert(
                match self.address {
                    IpNet::V4(_) => "ip4",
                    IpNet::V6(_) => "ip6",
                }
                .into(),
                json!({"ip": self.address.to_string(), "routes": routes}),
            );
        } else {
            let mut container = interface(&self.container);
            container["sandbox"] = self.sandbox.to_string_lossy().into();
            result.insert(
                "interfaces".into(),
                json!([interface(&self.bridge), interface(&self.host), container]),
            );
            let mut ip = json!({"address": self.address.to_string(), "interface": CONTAINER_INDEX});
            if version < SpecVersion::V1_0_0 {
                ip["version"] = match self.address {
                    IpNet::V4(_) => "4",
                    IpNet::V6(_) => "6",
                }
                .into();
            }
            result.insert("ips".into(), json!([ip]));
            if !routes.is_empty() {
                result.insert("routes".into(), routes.into());
            }
        }
        result.insert("dns".into(), json!(self.dns.cloned().unwrap_or_default()));
        Value::Object(result)
    }
}

fn interface(interface: &Interface) -> Value {
    match interface.mac {
        Some(mac) => json!({"name": interface.name, "mac": Mac(mac).to_string()}),
        None => json!({"name": interface.name}),
    }
}

fn route(route: &Route) -> Value {
    match route.gateway {
        Some(gateway) => json!({"dst": route.destination.to_string(), "gw": gateway.to_string()}),
        None => json!({"dst": route.destination.to_string()}),
    }
}

/// The answer to `VERSION`. `asked` is what the runtime speaks, which it gets back.
pub(crate) fn versions(asked: Option<&str>) -> Value {
    json!({
        "cniVersion": asked.unwrap_or(SpecVersion::NEWEST.text()),
        "supportedVersions": SpecVersion::ALL.map(SpecVersion::text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(version: SpecVersion, address: &str) -> Value {
        let interface = |name: &str, last| Interface {
            name: name.into(),
            mac: Some([2, 0, 0, 0, 0, last]),
        };
        Outcome {
            bridge: interface("weft", 1),
            host: interface("vw0", 2),
            container: interface("eth0", 3),
            sandbox: Path::new("/run/netns/x"),
            address: address.parse().unwrap(),
            routes: vec![Route {
                destination: "224.0.0.0/4".parse().unwrap(),
                gateway: None,
                interface: Some(7),
            }],
            dns: None,
        }
        .to_json(version)
    }

    #[test]
    fn each_version_has_its_shape() {
        let routes = json!([{"dst": "224.0.0.0/4"}]);
        let interfaces = json!([
            {"name": "weft", "mac": "02:00:00:00:00:01"},
            {"name": "vw0", "mac": "02:00:00:00:00:02"},
            {"name": "eth0", "mac": "02:00:00:00:00:03", "sandbox": "/run/netns/x"},
        ]);
        assert_eq!(
            shape(SpecVersion::V1_0_0, "10.32.0.5/12"),
            json!({
                "cniVersion": "1.0.0", "interfaces": interfaces, "routes": routes, "dns": {},
                "ips": [{"address": "10.32.0.5/12", "interface": 2}],
            })
        );
        for version in [SpecVersion::V0_3_0, SpecVersion::V0_3_1, SpecVersion::V0_4_0] {
            assert_eq!(
                shape(version, "fd00::5/64"),
                json!({
                    "cniVersion": version.text(), "interfaces": interfaces, "routes": routes, "dns": {},
                    "ips": [{"version": "6", "address": "fd00::5/64", "interface": 2}],
                })
            );
        }
        assert_eq!(
            shape(SpecVersion::V0_2_0, "10.32.0.5/12"),
            json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.32.0.5/12", "routes": routes}, "dns": {}})
        );
        assert_eq!(
            shape(SpecVersion::V0_1_0, "fd00::5/64"),
            json!({"cniVersion": "0.1.0", "ip6": {"ip": "fd00::5/64", "routes": routes}, "dns": {}})
        );
    }

    #[test]
    fn the_versions_are_listed() {
        assert_eq!(
            versions(Some("0.4.0")),
            json!({
                "cniVersion": "0.4.0",
                "supportedVersions": ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"],
            })
        );
        assert_eq!(versions(None)["cniVersion"], "1.0.0");
    }
}
