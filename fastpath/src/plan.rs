//! From what the node knows to what the kernel should hold, and the steps between.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use weft_wire::Mac;

use crate::state::{Bridge, Change, KernelState, Port, PortFlags, Tap, TapLink};

/// Five minutes, in hundredths of a second: the kernel's own value, and longer than hosts keep ARP entries unused.
const AGEING: u32 = 30_000;

/// What the node knows that decides the kernel state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The pod MTU in bytes.
    pub mtu: u32,
    /// Addresses of pods on other hosts, reached through the router.
    pub remote_macs: BTreeSet<Mac>,
}

/// The kernel state of a host with this view.
///
/// Addresses that cannot be one host's (group addresses, all zero) are left out: the kernel
/// would refuse them, and nothing is ever sent *from* them.
#[must_use]
pub fn desired(view: &View) -> KernelState {
    let fixed = view
        .remote_macs
        .iter()
        .copied()
        .filter(|mac| mac.is_valid_source())
        .collect();
    let bridge = Bridge {
        mtu: view.mtu,
        up: true,
        // Every group goes to the router, which knows who listens on other hosts.
        multicast_snooping: false,
        // The overlay has no loops of its own making, and a pod must be reachable at once.
        spanning_tree: false,
        forward_delay: 0,
        ageing: AGEING,
        // With a VLAN, the kernel keeps each entry twice.
        default_pvid: 0,
        // The bridge is no host: it must not solicit or report into the overlay.
        ipv6: false,
    };
    let flags = PortFlags {
        // Where a remote address is, the router knows; a frame from the TAP must not teach otherwise.
        learning: false,
        // Ports to other hosts never exchange frames: what one brings, no other takes out again.
        isolated: true,
        // What the kernel does not know, the router delivers.
        unicast_flood: true,
        broadcast_flood: true,
        multicast_flood: true,
        multicast_router: false,
        // Suppression would swallow gratuitous ARP and the probes of address detection.
        neighbour_suppression: false,
        hairpin: false,
    };
    KernelState {
        bridge: Some(bridge),
        tap: Some(Tap {
            link: TapLink {
                mtu: view.mtu,
                ipv6: false,
            },
            up: true,
            port: Some(Port {
                flags,
                fixed,
                movable: BTreeSet::new(),
            }),
        }),
    }
}

/// The changes that lead from `actual` to `desired` (which has no movable entries), in an order in which each finds what it needs:
/// what is too much goes first; then bridge, TAP, port and entries; the TAP comes up last, so that
/// no frame passes a port that is half set up. Empty when nothing differs.
#[must_use]
pub fn delta(actual: &KernelState, desired: &KernelState) -> Vec<Change> {
    let mut changes = Vec::new();
    if desired.bridge.is_none() && actual.bridge.is_some() {
        changes.push(Change::RemoveBridge);
    }
    if let Some(bridge) = desired.bridge
        && actual.bridge != Some(bridge)
    {
        changes.push(Change::SetBridge(bridge));
    }
    match (&actual.tap, &desired.tap) {
        (_, None) => changes.extend(actual.tap.as_ref().map(|_| Change::RemoveTap)),
        (actual_tap, Some(tap)) => {
            let found = actual_tap.as_ref();
            if found.map(|found| found.link) != Some(tap.link) {
                changes.push(Change::SetTapLink(tap.link));
            }
            // Removing the bridge has taken the port along.
            let port = found
                .and_then(|found| found.port.as_ref())
                .filter(|_| desired.bridge.is_some());
            let up = found.is_some_and(|found| found.up);
            if up && !tap.up {
                changes.push(Change::SetTapUp(false));
            }
            delta_port(port, tap.port.as_ref(), &mut changes);
            if tap.up && !up {
                changes.push(Change::SetTapUp(true));
            }
        }
    }
    changes
}

fn delta_port(actual: Option<&Port>, desired: Option<&Port>, changes: &mut Vec<Change>) {
    let Some(desired) = desired else {
        changes.extend(actual.map(|_| Change::LeaveBridge));
        return;
    };
    let fresh = Port::default();
    let actual = actual.unwrap_or_else(|| {
        changes.push(Change::JoinBridge);
        &fresh
    });
    if actual.flags != desired.flags {
        changes.push(Change::SetPortFlags(desired.flags));
    }
    let found = actual.fixed.union(&actual.movable);
    changes.extend(
        found
            .filter(|mac| !desired.fixed.contains(mac))
            .map(|mac| Change::RemoveEntry(*mac)),
    );
    changes.extend(
        desired
            .fixed
            .difference(&actual.fixed)
            .map(|mac| Change::FixEntry(*mac)),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn macs() -> impl Strategy<Value = BTreeSet<Mac>> {
        // Few distinct addresses, so that two sets overlap; group addresses among them.
        proptest::collection::btree_set(
            (0..4_u8, 0..4_u8).prop_map(|(a, b)| Mac([a, 0, 0, 0, 0, b])),
            0..12,
        )
    }

    fn view() -> impl Strategy<Value = View> {
        (prop_oneof![Just(1390), Just(1400)], macs()).prop_map(|(mtu, remote_macs)| View { mtu, remote_macs })
    }

    prop_compose! {
        fn bridge()(bits in any::<u8>(), mtu in 1000..1003_u32, time in 0..2_u32) -> Bridge {
            let on = |bit: u8| bits & (1 << bit) != 0;
            Bridge {
                mtu,
                up: on(0),
                multicast_snooping: on(1),
                spanning_tree: on(2),
                forward_delay: time,
                ageing: time,
                default_pvid: u16::from(on(3)),
                ipv6: on(4),
            }
        }
    }

    prop_compose! {
        fn port()(bits in any::<u8>(), macs in macs(), others in macs()) -> Port {
            let on = |bit: u8| bits & (1 << bit) != 0;
            Port {
                flags: PortFlags {
                    learning: on(0),
                    isolated: on(1),
                    unicast_flood: on(2),
                    broadcast_flood: on(3),
                    multicast_flood: on(4),
                    multicast_router: on(5),
                    neighbour_suppression: on(6),
                    hairpin: on(7),
                },
                // An address has one entry.
                movable: others.difference(&macs).copied().collect(),
                fixed: macs,
            }
        }
    }

    prop_compose! {
        fn tap()(up in any::<bool>(), ipv6 in any::<bool>(), mtu in 1000..1003_u32, port in proptest::option::of(port())) -> Tap {
            Tap { link: TapLink { mtu, ipv6 }, up, port }
        }
    }

    prop_compose! {
        fn any_state()(bridge in proptest::option::of(bridge()), tap in proptest::option::of(tap())) -> KernelState {
            let mut state = KernelState { bridge, tap };
            if state.bridge.is_none() && let Some(tap) = &mut state.tap {
                // There is no port without a bridge.
                tap.port = None;
            }
            state
        }
    }

    /// What can be wanted: no entry that may move.
    fn wanted_state() -> impl Strategy<Value = KernelState> {
        any_state().prop_map(|mut state| {
            if let Some(port) = state.tap.as_mut().and_then(|tap| tap.port.as_mut()) {
                port.movable.clear();
            }
            state
        })
    }

    fn applied(mut state: KernelState, changes: &[Change]) -> KernelState {
        changes.iter().for_each(|change| state.apply(change));
        state
    }

    proptest! {
        #[test]
        fn the_delta_leads_from_any_state_to_any_other(actual in any_state(), wanted in wanted_state()) {
            let changes = delta(&actual, &wanted);
            prop_assert_eq!(applied(actual, &changes), wanted, "{:?}", changes);
        }

        #[test]
        fn the_delta_leads_from_any_state_to_the_desired_one(actual in any_state(), view in view()) {
            let wanted = desired(&view);
            let changes = delta(&actual, &wanted);
            prop_assert_eq!(applied(actual, &changes), wanted, "{:?}", changes);
        }

        #[test]
        fn nothing_is_done_when_nothing_differs(state in wanted_state(), view in view()) {
            prop_assert_eq!(delta(&state, &state), []);
            prop_assert_eq!(delta(&desired(&view), &desired(&view)), []);
        }

        #[test]
        fn an_interrupted_delta_is_finished_by_the_next(actual in any_state(), wanted in wanted_state(), part in 0..40_usize) {
            let changes = delta(&actual, &wanted);
            let between = applied(actual, &changes[..part.min(changes.len())]);
            prop_assert_eq!(applied(between.clone(), &delta(&between, &wanted)), wanted);
        }

        #[test]
        fn between_two_views_only_entries_change(one in view(), macs in macs()) {
            let other = View { remote_macs: macs, ..one.clone() };
            for change in delta(&desired(&one), &desired(&other)) {
                prop_assert!(matches!(change, Change::FixEntry(_) | Change::RemoveEntry(_)), "{:?}", change);
            }
        }
    }

    #[test]
    fn group_addresses_get_no_entry() {
        let remote_macs = [Mac::BROADCAST, Mac([0; 6]), Mac([2, 0, 0, 0, 0, 1])].into();
        let port = desired(&View {
            mtu: 1400,
            remote_macs,
        })
        .tap
        .and_then(|tap| tap.port)
        .unwrap();
        assert_eq!(
            port.fixed.into_iter().collect::<Vec<_>>(),
            [Mac([2, 0, 0, 0, 0, 1])]
        );
    }

    #[test]
    fn from_nothing_the_tap_comes_up_last() {
        let remote_macs = [Mac([2, 0, 0, 0, 0, 1])].into();
        let changes = delta(
            &KernelState::default(),
            &desired(&View {
                mtu: 1400,
                remote_macs,
            }),
        );
        assert!(matches!(changes.first(), Some(Change::SetBridge(_))));
        assert_eq!(changes.last(), Some(&Change::SetTapUp(true)));
    }
}
