//! The network configuration that the runtime writes to standard input (CNI 1.0.0, section 1).

use crate::call::{NAME_RULE, is_name};
use crate::failure::{Code, Failure};
use crate::version::SpecVersion;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Largest configuration that is read. Kubernetes lets a pod's annotations grow to 256 KiB, and runtimes pass them on.
pub(crate) const MAX: usize = 1 << 20;
/// Where a router listens unless it is told otherwise.
const DEFAULT_SOCKET: &str = "/run/weft/weft.sock";
/// The longest path of a unix socket (unix(7)): 108 octets with the zero at the end.
const SOCKET_MAX: usize = 107;
/// The smallest MTU: every IPv4 host takes a packet of this size (RFC 791, section 3.1).
const MTU_MIN: u32 = 576;

/// A configuration, decoded.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(crate) struct Config {
    name: Option<String>,
    socket: Option<PathBuf>,
    /// MTU of the pod's interface; the overlay's own when it is left out.
    pub(crate) mtu: Option<u32>,
    /// Part of the cluster's range of which the addresses are, with its prefix length.
    pub(crate) subnet: Option<IpNet>,
    /// Goes into the result as it is.
    #[serde(default)]
    pub(crate) dns: Option<Dns>,
    ipam: Option<Value>,
    #[serde(rename = "prevResult")]
    previous: Option<Value>,
}

/// Name servers for the container (CNI 1.0.0, section 5).
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Dns {
    #[serde(skip_serializing_if = "Option::is_none")]
    nameservers: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    search: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    options: Option<Vec<String>>,
}

/// Decodes what was read. Nothing at all is an empty object, which is enough for `VERSION`.
pub(crate) fn object(bytes: &[u8]) -> Result<Map<String, Value>, Failure> {
    if bytes.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    let value = serde_json::from_slice(bytes).map_err(|error| {
        Failure::new(
            Code::Decode,
            format!("the network configuration on standard input is not JSON: {error}"),
            "the runtime writes it there; look at its file in /etc/cni/net.d",
        )
    })?;
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(invalid("the network configuration is no JSON object", "")),
    }
}

/// The version for which a configuration is written.
pub(crate) fn version(object: &Map<String, Value>) -> Result<SpecVersion, Failure> {
    match object.get("cniVersion") {
        None | Some(Value::Null) => Ok(SpecVersion::UNSTATED),
        Some(Value::String(text)) => SpecVersion::parse(text),
        Some(other) => Err(invalid(
            format!("cniVersion is {other}"),
            "it is a text, such as \"1.0.0\"",
        )),
    }
}

impl Config {
    /// Takes what this plugin knows; other keys are for others.
    pub(crate) fn read(object: Map<String, Value>) -> Result<Self, Failure> {
        let config: Self = serde_json::from_value(Value::Object(object)).map_err(|error| {
            invalid(
                format!("the network configuration has a value of the wrong kind: {error}"),
                "`weft-cni --help` lists the keys",
            )
        })?;
        match config.name.as_deref() {
            None | Some("") => return Err(invalid("the network configuration has no name", NAME_RULE)),
            Some(name) if !is_name(name) => {
                return Err(invalid(format!("the name {name:?} is not usable"), NAME_RULE));
            }
            Some(_) => {}
        }
        let socket = config.socket();
        if !socket.is_absolute() || socket.as_os_str().len() > SOCKET_MAX {
            return Err(invalid(
                format!("the socket {} is not usable", socket.display()),
                format!("it is an absolute path of at most {SOCKET_MAX} octets"),
            ));
        }
        if let Some(mtu) = config.mtu.filter(|mtu| *mtu < MTU_MIN) {
            return Err(invalid(
                format!("the mtu {mtu} is too small"),
                format!("it is {MTU_MIN} at least; leave it out to get the overlay's own"),
            ));
        }
        if let Some(subnet) = config.subnet.filter(|subnet| subnet.trunc() != *subnet) {
            return Err(invalid(
                format!("the subnet {subnet} has bits set behind its prefix"),
                format!("did you mean {}?", subnet.trunc()),
            ));
        }
        Ok(config)
    }

    /// The network's name.
    pub(crate) fn name(&self) -> &str {
        // `read` lets nothing through without one.
        self.name.as_deref().unwrap_or_default()
    }

    /// The router's socket.
    pub(crate) fn socket(&self) -> &Path {
        self.socket.as_deref().unwrap_or(Path::new(DEFAULT_SOCKET))
    }

    /// Refuses what `ADD` would otherwise do in another way than it is written.
    pub(crate) fn check_for_add(&self) -> Result<(), Failure> {
        let refuse = |key: &str, value: &Value, why: &str| {
            Err(Failure::new(
                Code::UnsupportedField,
                format!("{key} is not supported, and has the value {value}"),
                why,
            ))
        };
        match &self.ipam {
            None | Some(Value::Null) => {}
            Some(Value::Object(ipam)) if ipam.is_empty() => {}
            Some(other) => {
                return refuse(
                    "ipam",
                    other,
                    "weft gives out the addresses itself: leave ipam out of the configuration",
                );
            }
        }
        match &self.previous {
            None | Some(Value::Null) => Ok(()),
            Some(other) => refuse(
                "prevResult",
                other,
                "weft-cni makes the interface: it must be the first plugin of its list",
            ),
        }
    }
}

fn invalid(message: impl Into<String>, details: impl Into<String>) -> Failure {
    Failure::new(Code::Config, message, details)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(value: Value) -> Result<Config, Failure> {
        Config::read(object(&serde_json::to_vec(&value).unwrap())?)
    }

    #[test]
    fn a_configuration_is_read_and_unknown_keys_are_left_alone() {
        let config = read(json!({
            "cniVersion": "1.0.0", "name": "net-1", "type": "weft-cni", "socket": "/tmp/s", "mtu": 1400, "subnet": "10.32.7.0/24",
            "dns": {"nameservers": ["10.32.0.1"], "search": ["pods"]}, "ipam": {}, "prevResult": null,
            "runtimeConfig": {"portMappings": [{"HostPort": 1}], "io.kubernetes.cri.pod-annotations": null},
            "capabilities": {"portMappings": true}, "args": {"cni": {}},
        }))
        .unwrap();
        assert_eq!((config.name(), config.mtu), ("net-1", Some(1400)));
        assert_eq!(config.socket(), Path::new("/tmp/s"));
        assert_eq!(config.subnet, Some("10.32.7.0/24".parse().unwrap()));
        assert_eq!(
            serde_json::to_value(&config.dns).unwrap(),
            json!({"nameservers": ["10.32.0.1"], "search": ["pods"]})
        );
        assert_eq!(config.check_for_add(), Ok(()));
        let config = read(json!({"name": "a"})).unwrap();
        assert_eq!(config.socket(), Path::new(DEFAULT_SOCKET));
    }

    #[test]
    fn the_example_in_the_help_is_a_configuration() {
        let list: Value = serde_json::from_str(crate::help::EXAMPLE).unwrap();
        let mut plugin = list["plugins"][0].as_object().unwrap().clone();
        assert_eq!(plugin["type"], "weft-cni");
        // What a runtime adds to it.
        for key in ["cniVersion", "name"] {
            plugin.insert(key.into(), list[key].clone());
        }
        assert_eq!(version(&plugin), Ok(SpecVersion::NEWEST));
        Config::read(plugin).unwrap().check_for_add().unwrap();
        // CHECK is not there yet, so no runtime may call it.
        assert_eq!(list["disableCheck"], true);
    }

    #[test]
    fn each_fault_has_its_code() {
        for (config, code, word) in [
            (json!([]), Code::Config, "object"),
            (json!({}), Code::Config, "no name"),
            (json!({"name": ""}), Code::Config, "no name"),
            (json!({"name": "a/b"}), Code::Config, "a/b"),
            (json!({"name": 1}), Code::Config, "kind"),
            (json!({"name": "a", "mtu": "1400"}), Code::Config, "kind"),
            (json!({"name": "a", "mtu": 100}), Code::Config, "100"),
            (
                json!({"name": "a", "subnet": "10.32.7.1/24"}),
                Code::Config,
                "10.32.7.1/24",
            ),
            (json!({"name": "a", "subnet": "10.32.7.0"}), Code::Config, "kind"),
            (
                json!({"name": "a", "socket": "weft.sock"}),
                Code::Config,
                "weft.sock",
            ),
            (
                json!({"name": "a", "socket": "/".repeat(108)}),
                Code::Config,
                "socket",
            ),
            (
                json!({"name": "a", "dns": {"nameservers": "x"}}),
                Code::Config,
                "kind",
            ),
        ] {
            let failure = read(config.clone()).unwrap_err();
            assert_eq!(failure.code, code, "{config}");
            assert!(failure.message.contains(word), "{failure:?}");
        }
        assert_eq!(object(b"{").unwrap_err().code, Code::Decode);
        assert_eq!(object(&[b'['; 4096]).unwrap_err().code, Code::Decode);
        assert_eq!(object(b" \n").unwrap(), Map::new());
        assert_eq!(version(&Map::new()), Ok(SpecVersion::UNSTATED));
        let number = object(br#"{"cniVersion":1}"#).unwrap();
        assert_eq!(version(&number).unwrap_err().code, Code::Config);
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_key_and_value() {
        for (key, value) in [
            ("ipam", json!({"type": "host-local"})),
            ("prevResult", json!({"ips": []})),
        ] {
            let failure = read(json!({"name": "a", key: value}))
                .unwrap()
                .check_for_add()
                .unwrap_err();
            assert_eq!(failure.code, Code::UnsupportedField);
            assert!(failure.message.contains(key) && failure.message.contains(&value.to_string()));
        }
    }

    proptest! {
        #[test]
        fn no_octets_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(object) = object(&bytes) {
                let _ = (version(&object), Config::read(object));
            }
        }

        #[test]
        fn no_values_panic(
            keys in prop::collection::vec(
                (
                    prop::sample::select(vec![
                        "cniVersion", "name", "socket", "mtu", "dns", "ipam", "prevResult", "args", "subnet",
                    ]),
                    prop::sample::select(vec![
                        "null", "true", "-1", "1400", "1e99", "\"\"", "\"1.0.0\"", "\"a\"", "[]", "{}",
                        "{\"nameservers\":[1]}", "\"\\u0000\"", "\"/\"", "[[[[]]]]",
                    ]),
                ),
                0..8,
            ),
        ) {
            let members: Vec<String> = keys.iter().map(|(key, value)| format!("{key:?}:{value}")).collect();
            let text = format!("{{{}}}", members.join(","));
            let object = object(text.as_bytes()).unwrap();
            let _ = version(&object);
            if let Ok(config) = Config::read(object) {
                prop_assert!(is_name(config.name()) && config.socket().is_absolute());
                let _ = config.check_for_add();
            }
        }
    }
}
