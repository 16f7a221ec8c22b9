//! The record by which hosts agree whether frames between them may travel unencrypted, in the kernel.

use crate::envelope::KindNumber;
use crate::id::NodeId;
use crate::mtu::POD_MTU_MIN;
use crate::record::Body;
use serde::{Deserialize, Serialize};

/// UDP port of VXLAN unless `--vxlan-port` says otherwise: one above [`crate::limits::DEFAULT_PORT`]. The port of RFC 7348,
/// 4789, is often taken by another network of the same host.
pub const VXLAN_PORT: u16 = 6_784;
/// Largest pod MTU that can be set: jumbo frames of common Ethernet cards, 9,216 octets, less nothing.
pub const POD_MTU_SET_MAX: u16 = 9_216;

/// Which traffic between hosts is encrypted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Encryption {
    /// A pair of hosts that finds its path trusted exchanges frames unencrypted; all others encrypt.
    #[default]
    Auto,
    /// Everything is encrypted, and no VXLAN device exists.
    All,
}

impl Encryption {
    /// Its name for the command line and in JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::All => "all",
        }
    }
}

/// A setting of the whole cluster: the one with the highest number is in force; of two with one number, the one of the
/// higher origin; of two with one origin, which no honest host makes, the higher value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Setting<T> {
    /// One more than the highest that its origin had seen; 0 for what nobody ever set.
    pub number: u64,
    /// Where it was set.
    pub origin: NodeId,
    /// What was set.
    pub value: T,
}

impl<T: Default> Default for Setting<T> {
    fn default() -> Self {
        Self {
            number: 0,
            origin: NodeId([0; 32]),
            value: T::default(),
        }
    }
}

impl<T: Copy + Ord> Setting<T> {
    /// Takes over the other one, if that is in force. True when it is another one than this.
    pub fn merge(&mut self, other: &Self) -> bool {
        let is_newer = other > self;
        if is_newer {
            *self = *other;
        }
        is_newer
    }

    /// The setting by which `origin` replaces this one.
    #[must_use]
    pub fn replaced_by(&self, origin: NodeId, value: T) -> Self {
        Self {
            number: self.number.saturating_add(1),
            origin,
            value,
        }
    }
}

/// Highest number of a setting: 2^53, which no operator reaches, and which JSON carries exactly.
pub const SETTING_NUMBER_MAX: u64 = 1 << 53;

/// All settings of the cluster, as one host knows them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Settings {
    /// Which traffic is encrypted.
    pub encryption: Setting<Encryption>,
    /// The pods' MTU in octets; 0 for what follows from the underlay.
    pub mtu: Setting<u16>,
}

impl Settings {
    /// Takes over what is in force of the other one. True when something is.
    pub fn merge(&mut self, other: &Self) -> bool {
        self.encryption.merge(&other.encryption) | self.mtu.merge(&other.mtu)
    }

    /// False when a field is outside its documented bounds.
    pub fn is_within_bounds(&self) -> bool {
        let mtu = self.mtu.value;
        self.encryption.number <= SETTING_NUMBER_MAX
            && self.mtu.number <= SETTING_NUMBER_MAX
            && (mtu == 0 || (POD_MTU_MIN..=usize::from(POD_MTU_SET_MAX)).contains(&usize::from(mtu)))
    }
}

/// Whether a host's kernel can carry frames to others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Ability {
    /// It can.
    Able,
    /// The operator of that host does not want it: `--no-fastpath`.
    Declined,
    /// Its kernel cannot make the devices that this takes.
    NoDevice,
}

/// What a host says of frames in the kernel. Each host copies the settings that are in force into its own record, so the
/// end of the host where one was made changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct FastpathRecord {
    /// The settings of the cluster, as this host knows them.
    pub settings: Settings,
    /// What it does at the moment. A host for which `All` stands here lets no unencrypted frame in or out.
    pub obeys: Encryption,
    /// UDP port on which its kernel takes VXLAN (RFC 7348), never 0.
    pub port: u16,
    /// Whether its kernel takes part.
    pub ability: Ability,
}

impl Body for FastpathRecord {
    const KIND: KindNumber = KindNumber(7);
    fn is_within_bounds(&self) -> bool {
        self.port != 0 && self.settings.is_within_bounds()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    fn setting(number: u64, origin: u8, value: Encryption) -> Setting<Encryption> {
        Setting {
            number,
            origin: NodeId([origin; 32]),
            value,
        }
    }

    #[test]
    fn the_same_setting_is_in_force_in_whatever_order_they_come() {
        let all = [
            Setting::default(),
            setting(1, 5, Encryption::All),
            setting(2, 1, Encryption::Auto),
            setting(2, 3, Encryption::All),
            setting(2, 3, Encryption::Auto),
        ];
        for a in all {
            for b in all {
                for c in all {
                    let [mut x, mut y] = [a, c];
                    x.merge(&b);
                    x.merge(&c);
                    y.merge(&a);
                    y.merge(&b);
                    assert_eq!(x, y);
                    assert!(!x.merge(&x.clone()), "again changes nothing");
                }
            }
        }
        let mut newest = all[3];
        assert!(newest.merge(&newest.replaced_by(NodeId([0; 32]), Encryption::Auto)));
    }

    #[test]
    fn the_record_has_the_octets_of_the_page() {
        let record = FastpathRecord {
            settings: Settings {
                encryption: setting(3, 0x11, Encryption::All),
                mtu: Setting {
                    number: 1,
                    origin: NodeId([0x22; 32]),
                    value: 8_000,
                },
            },
            obeys: Encryption::Auto,
            port: VXLAN_PORT,
            ability: Ability::Able,
        };
        let mut octets = vec![3];
        octets.extend([0x11; 32]);
        octets.extend([1, 1]);
        octets.extend([0x22; 32]);
        octets.extend([251, 0x1f, 0x40, 0, 251, 0x1a, 0x80, 0]);
        assert_eq!(codec::encode(&record), octets);
        assert!(record.is_within_bounds());
        for broken in [
            FastpathRecord { port: 0, ..record },
            with_mtu(record, 1_279),
            with_mtu(record, POD_MTU_SET_MAX + 1),
        ] {
            assert!(!broken.is_within_bounds(), "{broken:?}");
        }
        assert!(with_mtu(record, 0).is_within_bounds());
    }

    fn with_mtu(mut record: FastpathRecord, mtu: u16) -> FastpathRecord {
        record.settings.mtu.value = mtu;
        record
    }
}
