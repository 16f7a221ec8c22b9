//! What a person gets who runs the plugin by hand.

use crate::version::SpecVersion;

/// A network list as it can be installed.
pub(crate) const EXAMPLE: &str = include_str!("../10-weft.conflist");

/// The whole help.
pub(crate) fn text() -> String {
    let versions = SpecVersion::ALL.map(SpecVersion::text).join(", ");
    format!(
        "weft-cni {}: attaches containers to weft's network, as a CNI plugin

A container runtime calls it with CNI_COMMAND in the environment and a network configuration on
standard input; it asks the router of this host for an address and wires the container. By hand,
use `weft attach` instead.

To install it, put this program into /opt/cni/bin and this file into /etc/cni/net.d:

{EXAMPLE}
Keys beside those of the CNI specification, all optional:
  socket   unix socket of the router [default: /run/weft/weft.sock]
  mtu      MTU of the container's interface [default: the largest that the network carries]
  subnet   part of the cluster's range of which the addresses are [default: the whole range]
  dns      goes into the result as it is
The key ipam must be absent: weft gives out the addresses. IP=ADDRESS in CNI_ARGS asks for one; with
a prefix length behind it, for one of that subnet.

Verbs: ADD, DEL, VERSION
Versions of the CNI specification: {versions}
",
        env!("CARGO_PKG_VERSION")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_and_documentation_show_the_file_that_is_installed() {
        assert!(text().contains(EXAMPLE));
        assert!(include_str!("../../docs/cni.md").contains(EXAMPLE));
    }
}
