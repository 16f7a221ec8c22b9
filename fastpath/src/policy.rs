//! Which pairs of hosts may exchange frames unencrypted, and why others may not.

use alloc::format;
use alloc::string::{String, ToString};
use core::net::{IpAddr, SocketAddr};
use ipnet::IpNet;
use weft_wire::fastpath::{Ability, Encryption, FastpathRecord};

/// What this host brings to the question.
#[derive(Clone, Copy, Debug)]
pub struct Ours<'a> {
    /// The cluster's setting, as this host knows it.
    pub wish: Encryption,
    /// Whether its kernel takes part.
    pub ability: Ability,
    /// Its UDP port of VXLAN.
    pub port: u16,
    /// Networks that its operator trusts whatever their addresses look like.
    pub trusted: &'a [IpNet],
}

/// Where an authenticated session shows the peer to be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Observed {
    /// There is no session.
    Nowhere,
    /// It is reached through another host.
    ByRelay,
    /// Its datagrams come from here.
    At(SocketAddr),
}

/// What is known of the peer.
#[derive(Clone, Copy, Debug)]
pub struct Theirs<'a> {
    /// Its record, when it has written one.
    pub record: Option<&'a FastpathRecord>,
    /// Where it says that it listens.
    pub endpoints: &'a [SocketAddr],
    /// Where it is seen.
    pub observed: Observed,
    /// The cluster goes on without it: that alone ends nothing that works.
    pub is_removed: bool,
}

/// What this end says of a pair. The other end says it for itself, and shows that it agrees by its probes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    /// It cannot be said now. What works goes on, and nothing begins.
    Open(Lacks),
    /// Frames may go to this address unencrypted.
    Plain(IpAddr),
    /// They may not.
    No(Refusal),
}

/// What is not known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Lacks {
    /// No session shows where the peer is.
    Session,
    /// The session goes through another host, which shows nothing of where the peer is.
    DirectSession,
    /// The peer has not said whether its kernel takes part: it has just started, or is of a version before this.
    Record,
    /// The peer was removed from the cluster.
    Membership,
}

/// Why frames may not travel unencrypted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Refusal {
    /// The cluster's setting is to encrypt everything.
    EncryptAll,
    /// The operator of this host does not want it.
    DeclinedHere,
    /// This host's kernel cannot make the devices.
    NoDeviceHere,
    /// The peer encrypts everything.
    PeerEncryptsAll,
    /// The operator of the peer does not want it.
    PeerDeclined,
    /// The peer's kernel cannot make the devices.
    PeerHasNoDevice,
    /// The peer takes VXLAN on another UDP port than this host.
    OtherPort(u16),
    /// The peer's address is no private one, and not in a trusted network.
    Untrusted(IpAddr),
    /// The peer is seen at another address than those where it listens.
    Translated(IpAddr),
}

/// True for addresses that lie in networks of one organisation: RFC 1918 and, in IPv6, unique local ones (RFC 4193).
pub fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_private(),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

/// Whether frames may travel to this peer unencrypted. What this host refuses is said before what the peer does, and
/// what is refused before what is not known.
pub fn judge(ours: &Ours<'_>, theirs: &Theirs<'_>) -> Verdict {
    match (ours.wish, ours.ability) {
        (Encryption::All, _) => return Verdict::No(Refusal::EncryptAll),
        (Encryption::Auto, Ability::Declined) => return Verdict::No(Refusal::DeclinedHere),
        (Encryption::Auto, Ability::NoDevice) => return Verdict::No(Refusal::NoDeviceHere),
        (Encryption::Auto, Ability::Able) => {}
    }
    if let Some(record) = theirs.record {
        match (record.obeys, record.ability) {
            // What it does is not yet what it knows to be in force.
            (Encryption::Auto, _) if record.settings.encryption.value == Encryption::All => {
                return Verdict::No(Refusal::PeerEncryptsAll);
            }
            (Encryption::All, _) => return Verdict::No(Refusal::PeerEncryptsAll),
            (Encryption::Auto, Ability::Declined) => return Verdict::No(Refusal::PeerDeclined),
            (Encryption::Auto, Ability::NoDevice) => return Verdict::No(Refusal::PeerHasNoDevice),
            (Encryption::Auto, Ability::Able) => {}
        }
        if record.port != ours.port {
            return Verdict::No(Refusal::OtherPort(record.port));
        }
    }
    let at = match theirs.observed {
        Observed::Nowhere => return Verdict::Open(Lacks::Session),
        Observed::ByRelay => return Verdict::Open(Lacks::DirectSession),
        Observed::At(at) => at,
    };
    let address = at.ip().to_canonical();
    if !ours.trusted.iter().any(|network| network.contains(&address)) {
        if !is_private(address) {
            return Verdict::No(Refusal::Untrusted(address));
        }
        if !theirs.endpoints.contains(&at) {
            return Verdict::No(Refusal::Translated(address));
        }
    }
    match theirs.record {
        _ if theirs.is_removed => Verdict::Open(Lacks::Membership),
        Some(_) => Verdict::Plain(address),
        None => Verdict::Open(Lacks::Record),
    }
}

/// What a host does that knows this setting: it encrypts everything only once its kernel has no device left by which a frame
/// could come in or go out unencrypted.
pub fn obeys(wish: Encryption, has_device: bool) -> Encryption {
    match (wish, has_device) {
        (Encryption::All, false) => Encryption::All,
        (Encryption::All, true) | (Encryption::Auto, _) => Encryption::Auto,
    }
}

impl Lacks {
    /// In words.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Session => "no session shows where it is",
            Self::DirectSession => "it is reached through another host",
            Self::Record => "it has not said whether its kernel takes part, as older versions do not",
            Self::Membership => "it was removed from the cluster",
        }
    }
}

impl Refusal {
    /// In words, with the cure where somebody may want one.
    pub fn describe(&self) -> String {
        match self {
            Self::EncryptAll => "everything is encrypted, as `weft encrypt all` says".to_string(),
            Self::DeclinedHere => {
                "this host takes no part: it was started with --no-fastpath, or without --trust".to_string()
            }
            Self::NoDeviceHere => {
                "this host's kernel makes no VXLAN devices: load the module vxlan".to_string()
            }
            Self::PeerEncryptsAll => "it encrypts everything".to_string(),
            Self::PeerDeclined => {
                "it takes no part: it was started with --no-fastpath, or without --trust".to_string()
            }
            Self::PeerHasNoDevice => {
                "its kernel makes no VXLAN devices: load the module vxlan there".to_string()
            }
            Self::OtherPort(port) => {
                format!(
                    "it takes VXLAN on UDP port {port}, this host does not: give both the same --vxlan-port"
                )
            }
            Self::Untrusted(address) => format!(
                "{address} is no private address: if the network between is yours, start both hosts with --trust {address}"
            ),
            Self::Translated(address) => {
                format!("behind NAT: it is seen at {address}, where it does not listen")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_wire::fastpath::{Setting, Settings, VXLAN_PORT};

    fn record() -> FastpathRecord {
        FastpathRecord {
            settings: Settings::default(),
            obeys: Encryption::Auto,
            port: VXLAN_PORT,
            ability: Ability::Able,
        }
    }

    fn ours() -> Ours<'static> {
        Ours {
            wish: Encryption::Auto,
            ability: Ability::Able,
            port: VXLAN_PORT,
            trusted: &[],
        }
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn seen(ours: &Ours<'_>, record: Option<&FastpathRecord>, observed: &str, listens: &str) -> Verdict {
        judge(
            ours,
            &Theirs {
                record,
                endpoints: &[at(listens)],
                observed: Observed::At(at(observed)),
                is_removed: false,
            },
        )
    }

    #[test]
    fn a_private_address_where_the_peer_listens_is_trusted() {
        for address in [
            "10.1.2.3:6783",
            "172.16.0.1:6783",
            "192.168.7.7:1",
            "[fd00::1]:6783",
        ] {
            assert_eq!(
                seen(&ours(), Some(&record()), address, address),
                Verdict::Plain(at(address).ip()),
                "{address}"
            );
        }
        let mapped = seen(
            &ours(),
            Some(&record()),
            "[::ffff:10.0.0.1]:1",
            "[::ffff:10.0.0.1]:1",
        );
        assert_eq!(mapped, Verdict::Plain("10.0.0.1".parse().unwrap()));
        for address in [
            "192.0.2.1:6783",
            "172.32.0.1:6783",
            "100.64.0.1:1",
            "[2001:db8::1]:6783",
        ] {
            assert_eq!(
                seen(&ours(), Some(&record()), address, address),
                Verdict::No(Refusal::Untrusted(at(address).ip())),
                "{address}"
            );
        }
        // Another address, or another port: somebody translates.
        for observed in ["10.0.0.2:6783", "10.0.0.1:40000"] {
            assert_eq!(
                seen(&ours(), Some(&record()), observed, "10.0.0.1:6783"),
                Verdict::No(Refusal::Translated(at(observed).ip()))
            );
        }
    }

    #[test]
    fn a_trusted_network_is_trusted_whatever_it_looks_like() {
        let trusted = ["192.0.2.0/24".parse().unwrap()];
        let ours = Ours {
            trusted: &trusted,
            ..ours()
        };
        let verdict = seen(&ours, Some(&record()), "192.0.2.9:50000", "10.0.0.1:6783");
        assert_eq!(verdict, Verdict::Plain("192.0.2.9".parse().unwrap()));
        let other = seen(&ours, Some(&record()), "192.0.3.9:6783", "192.0.3.9:6783");
        assert!(matches!(other, Verdict::No(Refusal::Untrusted(_))));
    }

    #[test]
    fn both_ends_must_want_it_and_be_able() {
        let address = "10.0.0.1:6783";
        let all = Setting {
            number: 1,
            value: Encryption::All,
            ..Setting::default()
        };
        let mut knows = record();
        knows.settings.encryption = all;
        for (ours, record, refusal) in [
            (
                Ours {
                    wish: Encryption::All,
                    ..ours()
                },
                record(),
                Refusal::EncryptAll,
            ),
            (
                Ours {
                    ability: Ability::Declined,
                    ..ours()
                },
                record(),
                Refusal::DeclinedHere,
            ),
            (
                Ours {
                    ability: Ability::NoDevice,
                    ..ours()
                },
                record(),
                Refusal::NoDeviceHere,
            ),
            (
                ours(),
                FastpathRecord {
                    obeys: Encryption::All,
                    ..record()
                },
                Refusal::PeerEncryptsAll,
            ),
            (ours(), knows, Refusal::PeerEncryptsAll),
            (
                ours(),
                FastpathRecord {
                    ability: Ability::Declined,
                    ..record()
                },
                Refusal::PeerDeclined,
            ),
            (
                ours(),
                FastpathRecord {
                    ability: Ability::NoDevice,
                    ..record()
                },
                Refusal::PeerHasNoDevice,
            ),
            (
                ours(),
                FastpathRecord {
                    port: 4_789,
                    ..record()
                },
                Refusal::OtherPort(4_789),
            ),
        ] {
            let verdict = seen(&ours, Some(&record), address, address);
            assert_eq!(verdict, Verdict::No(refusal));
            assert!(!refusal.describe().is_empty());
        }
    }

    #[test]
    fn what_is_not_known_is_open_and_what_is_refused_is_not() {
        let address = "10.0.0.1:6783";
        assert_eq!(
            seen(&ours(), None, address, address),
            Verdict::Open(Lacks::Record)
        );
        let theirs = |observed, is_removed| Theirs {
            record: None,
            endpoints: &[],
            observed,
            is_removed,
        };
        let judged = |observed| judge(&ours(), &theirs(observed, false));
        assert_eq!(judged(Observed::Nowhere), Verdict::Open(Lacks::Session));
        assert_eq!(judged(Observed::ByRelay), Verdict::Open(Lacks::DirectSession));
        let listens = [at("10.0.0.1:6783")];
        let removed = Theirs {
            record: Some(&record()),
            endpoints: &listens,
            ..theirs(Observed::At(listens[0]), true)
        };
        assert_eq!(judge(&ours(), &removed), Verdict::Open(Lacks::Membership));
        let all = Ours {
            wish: Encryption::All,
            ..ours()
        };
        assert_eq!(
            judge(&all, &theirs(Observed::Nowhere, false)),
            Verdict::No(Refusal::EncryptAll),
            "also before anything is known of the peer"
        );
    }
}
