//! What the runtime asks for: the variables of CNI 1.0.0, section "Parameters".

use crate::failure::{Code, Failure};
use ipnet::IpNet;
use sha2::{Digest as _, Sha256};
use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::path::PathBuf;
use weft_kernel::{attach, link};

/// The variable without which nobody calls a plugin.
pub(crate) const COMMAND: &str = "CNI_COMMAND";
const CONTAINER: &str = "CNI_CONTAINERID";
const NETNS: &str = "CNI_NETNS";
const IFNAME: &str = "CNI_IFNAME";
const ARGS: &str = "CNI_ARGS";
const VERBS: [&str; 3] = ["ADD", "DEL", "VERSION"];

/// A verb with what belongs to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    /// Which versions are spoken?
    Version,
    /// A container gets an interface.
    Add {
        /// Which interface.
        place: Place,
        /// The container's network namespace, as the runtime wrote it.
        netns: PathBuf,
        /// The address that `CNI_ARGS` asks for, with its prefix length where it names one.
        address: Option<(IpAddr, Option<IpNet>)>,
    },
    /// A container's interface goes. Its namespace may be gone long since, and is not looked at.
    Delete {
        /// Which interface.
        place: Place,
    },
}

/// An interface of a container.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    container: String,
    ifname: String,
}

impl Place {
    /// The interface's name inside the container.
    pub(crate) fn ifname(&self) -> &str {
        &self.ifname
    }

    /// Names the attachment to router and kernel: `cni/<network>/<container>/<interface>`, which is what
    /// tells attachments apart. A hash stands for what is too long.
    pub(crate) fn id(&self, network: &str) -> String {
        // None of the three holds a slash, so two of them never make one id.
        let id = format!("cni/{network}/{}/{}", self.container, self.ifname);
        if id.len() <= attach::MAX_ID {
            return id;
        }
        let digest = Sha256::digest(id.as_bytes());
        let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("cni/{digits}")
    }
}

impl Call {
    /// Reads the variables. `CNI_PATH` is not needed: no other plugin is called.
    pub(crate) fn read(variable: &impl Fn(&str) -> Option<OsString>) -> Result<Self, Failure> {
        let text = |name: &str| variable(name).map(OsString::into_string).transpose();
        match text(COMMAND) {
            Ok(Some(verb)) => match verb.as_str() {
                "ADD" => {
                    let place = place(variable, &[CONTAINER, NETNS, IFNAME])?;
                    Ok(Self::Add {
                        place,
                        netns: variable(NETNS).unwrap_or_default().into(),
                        address: address(variable(ARGS))?,
                    })
                }
                "DEL" => Ok(Self::Delete {
                    place: place(variable, &[CONTAINER, IFNAME])?,
                }),
                "VERSION" => Ok(Self::Version),
                other => Err(unknown_verb(OsStr::new(other))),
            },
            Ok(None) => Err(unknown_verb(OsStr::new(""))),
            Err(other) => Err(unknown_verb(&other)),
        }
    }
}

fn unknown_verb(verb: &OsStr) -> Failure {
    Failure::new(
        Code::Environment,
        format!("{COMMAND} is {verb:?}"),
        format!(
            "this plugin knows {}; with \"disableCheck\": true in the network list no runtime calls CHECK",
            VERBS.join(", ")
        ),
    )
}

fn place(variable: &impl Fn(&str) -> Option<OsString>, needed: &[&str]) -> Result<Place, Failure> {
    let missing: Vec<&str> = needed
        .iter()
        .copied()
        .filter(|name| variable(name).is_none_or(|value| value.is_empty()))
        .collect();
    if !missing.is_empty() {
        return Err(Failure::new(
            Code::Environment,
            format!("{} missing or empty in the environment", missing.join(", ")),
            "the runtime must set what CNI_COMMAND needs",
        ));
    }
    let (container, ifname) = (variable(CONTAINER), variable(IFNAME));
    let usable = |value: Option<OsString>, name: &str, rule: &str, test: fn(&str) -> bool| {
        let value = value.unwrap_or_default();
        value
            .to_str()
            .filter(|text| test(text))
            .map(str::to_owned)
            .ok_or_else(|| Failure::new(Code::Environment, format!("{name} {value:?} is not usable"), rule))
    };
    Ok(Place {
        container: usable(container, CONTAINER, NAME_RULE, is_name)?,
        ifname: usable(ifname, IFNAME, IFNAME_RULE, is_ifname)?,
    })
}

/// What [`is_name`] tests, in words.
pub(crate) const NAME_RULE: &str =
    "it begins with a letter or digit; letters, digits, underscores, dots and hyphens follow";
const IFNAME_RULE: &str = "it has 1 to 15 octets, is neither . nor .., and holds no slash, colon or space";

/// Whether a text can name a network or a container (CNI 1.0.0, sections 1 and 2).
pub(crate) fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_ifname(text: &str) -> bool {
    link::check_name(text).is_ok() && !text.contains(|c: char| c.is_whitespace() || c == ':')
}

/// `IP=` of `CNI_ARGS`, `KEY=VALUE` pairs with semicolons between them. Runtimes add keys of their own, which
/// are none of ours; what would be answered by something else than asked for is refused.
fn address(args: Option<OsString>) -> Result<Option<(IpAddr, Option<IpNet>)>, Failure> {
    let args = args.unwrap_or_default();
    let wrong = |what: String, rule: &str| Failure::new(Code::Environment, format!("{ARGS}: {what}"), rule);
    let text = args
        .to_str()
        .ok_or_else(|| wrong(format!("{args:?}"), "it must be UTF-8"))?;
    let mut found = None;
    for pair in text.split(';').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("IP", ip)) => {
                let plain = ip.parse().map(|ip: IpAddr| (ip, None));
                let ip = plain
                    .or_else(|_| ip.parse().map(|net: IpNet| (net.addr(), Some(net.trunc()))))
                    .map_err(|_| wrong(format!("{pair:?}"), "write one IPv4 or IPv6 address after IP="))?;
                if found.replace(ip).is_some_and(|earlier| earlier != ip) {
                    return Err(wrong(format!("{text:?}"), "IP may stand in it once"));
                }
            }
            Some(("MAC", mac)) => {
                return Err(wrong(
                    format!("MAC={mac}"),
                    "weft makes an interface's MAC address from its IP address; leave MAC out",
                ));
            }
            Some(_) => {}
            None => return Err(wrong(format!("{pair:?}"), "it has the form KEY=VALUE;KEY=VALUE")),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::os::unix::ffi::OsStringExt as _;

    const ID: &str = "0a1b2c";

    fn read(pairs: &[(&str, &str)]) -> Result<Call, Failure> {
        let map: BTreeMap<_, _> = pairs.iter().copied().collect();
        Call::read(&|name| map.get(name).map(OsString::from))
    }

    fn add(container: &str, ifname: &str, args: &str) -> Result<Call, Failure> {
        read(&[
            (COMMAND, "ADD"),
            (CONTAINER, container),
            (NETNS, "/run/netns/x"),
            (IFNAME, ifname),
            (ARGS, args),
            ("TRACEPARENT", "00-1-2-01"),
        ])
    }

    #[test]
    fn the_three_verbs_are_read() {
        let place = Place {
            container: ID.into(),
            ifname: "eth0".into(),
        };
        assert_eq!(
            add(ID, "eth0", "IgnoreUnknown=1;K8S_POD_NAME=web;IP=10.32.0.9;"),
            Ok(Call::Add {
                place: place.clone(),
                netns: "/run/netns/x".into(),
                address: Some(("10.32.0.9".parse().unwrap(), None)),
            })
        );
        assert_eq!(
            add(ID, "eth0", "IP=10.32.7.9/24"),
            Ok(Call::Add {
                place: place.clone(),
                netns: "/run/netns/x".into(),
                address: Some((
                    "10.32.7.9".parse().unwrap(),
                    Some("10.32.7.0/24".parse().unwrap())
                )),
            })
        );
        for netns in [None, Some((NETNS, "")), Some((NETNS, "/run/netns/gone"))] {
            let mut pairs = vec![(COMMAND, "DEL"), (CONTAINER, ID), (IFNAME, "eth0")];
            pairs.extend(netns);
            assert_eq!(read(&pairs), Ok(Call::Delete { place: place.clone() }));
        }
        let dummies = [(COMMAND, "VERSION"), (NETNS, "dummy"), (CONTAINER, "")];
        assert_eq!(read(&dummies), Ok(Call::Version));
    }

    #[test]
    fn what_is_missing_is_named_all_at_once() {
        let failure = read(&[(COMMAND, "ADD"), (IFNAME, "")]).unwrap_err();
        assert_eq!(failure.code, Code::Environment);
        assert!(
            failure
                .message
                .starts_with("CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME ")
        );
        for verb in ["", "add", "CHECK", "GC", "STATUS"] {
            let failure = read(&[(COMMAND, verb)]).unwrap_err();
            assert_eq!(failure.code, Code::Environment, "{verb}");
            assert!(failure.message.contains("CNI_COMMAND"), "{failure:?}");
        }
    }

    #[test]
    fn unusable_values_are_refused_by_name() {
        for container in ["-a", "a/b", "a:b", "a b", "é", ".."] {
            let failure = add(container, "eth0", "").unwrap_err();
            assert_eq!(failure.code, Code::Environment);
            assert!(failure.message.starts_with("CNI_CONTAINERID"), "{failure:?}");
        }
        for ifname in [".", "..", "a/b", "a:b", "a b", "a\tb", "sixteen-letters-"] {
            let failure = add(ID, ifname, "").unwrap_err();
            assert_eq!(failure.code, Code::Environment);
            assert!(failure.message.starts_with("CNI_IFNAME"), "{failure:?}");
        }
        for args in [
            "IP=",
            "IP=10.0.0.1/33",
            "IP=10.0.0.1;IP=10.0.0.2",
            "MAC=02:00:00:00:00:01",
            "word",
        ] {
            let failure = add(ID, "eth0", args).unwrap_err();
            assert_eq!(failure.code, Code::Environment);
            assert!(failure.message.starts_with("CNI_ARGS"), "{failure:?}");
        }
    }

    #[test]
    fn ids_differ_where_attachments_do_and_fit_the_kernel() {
        let place = |container: &str, ifname: &str| Place {
            container: container.into(),
            ifname: ifname.into(),
        };
        assert_eq!(place(ID, "eth0").id("weft"), "cni/weft/0a1b2c/eth0");
        assert_ne!(place(ID, "eth0").id("weft"), place(ID, "eth1").id("weft"));
        assert_ne!(place(ID, "eth0").id("weft"), place(ID, "eth0").id("other"));
        let (long, longer) = ("a".repeat(200), "a".repeat(201));
        let ids = [place(&long, "eth0").id("weft"), place(&longer, "eth0").id("weft")];
        assert_ne!(ids[0], ids[1]);
        assert!(ids.iter().all(|id| id.len() <= attach::MAX_ID));
    }

    proptest! {
        #[test]
        fn no_environment_panics(
            verb in prop::sample::select(vec!["ADD", "DEL", "VERSION"]),
            values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 4),
        ) {
            let names = [CONTAINER, NETNS, IFNAME, ARGS];
            let call = Call::read(&|name| match names.iter().position(|known| *known == name) {
                Some(index) => Some(OsString::from_vec(values[index].clone())),
                None => Some(verb.into()),
            });
            // What is accepted can be asked of router and kernel.
            if let Ok(Call::Add { place, .. } | Call::Delete { place }) = call {
                let id = place.id("weft");
                prop_assert!((1..=attach::MAX_ID).contains(&id.len()));
                prop_assert!(id.bytes().all(|b| b.is_ascii_graphic() && b != b':'));
                prop_assert!(link::check_name(place.ifname()).is_ok());
            }
        }
    }
}
