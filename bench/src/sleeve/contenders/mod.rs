//! Who is measured: each module builds one [`Contender`], with everything that it needs.

mod naive;
mod vpncloud;
mod vxlan;
mod weft;
mod wireguard;

use super::Options;
use super::contender::Contender;
use weft_lab::Lab;

/// A contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// The real `weft up` on both hosts.
    Weft,
    /// The kernel's VXLAN and a bridge: no encryption, and no process at all.
    Vxlan,
    /// The yardstick of this package.
    Naive,
    /// `wireguard-go`, with pods routed over it.
    WireguardGo,
    /// `vpncloud`.
    Vpncloud,
}

/// Built, with what there is to say about it.
type Built = (Contender, Vec<String>);

/// Why a contender is not there.
pub(super) enum Failure {
    /// Its program is not installed, which is no error: a sentence that says so.
    Missing(String),
    /// It should be there.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Kind {
    pub(super) const ALL: [Self; 5] = [
        Self::Weft,
        Self::Vxlan,
        Self::Naive,
        Self::WireguardGo,
        Self::Vpncloud,
    ];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Weft => "weft",
            Self::Vxlan => "kernel VXLAN",
            Self::Naive => "naive sleeve",
            Self::WireguardGo => "wireguard-go",
            Self::Vpncloud => "vpncloud",
        }
    }

    pub(super) fn build(self, lab: &Lab, options: &Options) -> Result<Built, Failure> {
        match self {
            Self::Weft => Ok(weft::build(lab, options)?),
            Self::Vxlan => Ok((vxlan::build(lab)?, Vec::new())),
            Self::Naive => Ok((naive::build(lab, options)?, Vec::new())),
            Self::WireguardGo => wireguard::build(lab),
            Self::Vpncloud => vpncloud::build(lab),
        }
    }
}
