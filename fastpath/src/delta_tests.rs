use super::*;
use crate::state::*;
use crate::view::*;
use core::net::{IpAddr, Ipv4Addr};
use proptest::collection::{btree_map, btree_set};
use proptest::option;
use proptest::prelude::*;
use weft_wire::{Group, Mac};

fn mac() -> impl Strategy<Value = Mac> {
    // Few distinct addresses, so that two sets overlap; group addresses among them.
    (0..4_u8, 0..4_u8).prop_map(|(a, b)| Mac([a, 0, 0, 0, 0, b]))
}

/// Outer addresses, useless ones among them.
fn host() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        4 => (1..4_u8).prop_map(|last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))),
        4 => (1..4_u16).prop_map(|last| IpAddr::V6([0xfd00, 0, 0, 0, 0, 0, 0, last].into())),
        1 => Just(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        1 => Just(IpAddr::V4(Ipv4Addr::new(239, 1, 1, 1))),
    ]
}

fn neighbours() -> impl Strategy<Value = BTreeMap<Ipv4Addr, Mac>> {
    btree_map(
        (0..6_u8).prop_map(|last| Ipv4Addr::new(10, 0, 0, last)),
        mac(),
        0..4,
    )
}

fn group() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0..3_u8).prop_map(|last| IpAddr::V4(Ipv4Addr::new(239, 0, 0, last))),
        (0..2_u16).prop_map(|last| IpAddr::V6([0xff0e, 0, 0, 0, 0, 0, 0, last].into())),
    ]
}

fn vni() -> impl Strategy<Value = Vni> {
    (1..4_u32).prop_map(|number| Vni::new(number).unwrap())
}

prop_compose! {
    fn vxlan()(
        port in 1..3_u16,
        data_vni in vni(),
        probe_vni in vni(),
        families in any::<(bool, bool)>(),
        accepted in btree_set(host(), 0..4),
        probes in btree_map(mac(), host(), 0..4),
        mtu in 1000..1003_u32,
        closed in btree_set(1..3_u16, 0..2),
    ) -> Vxlan {
        Vxlan { port, data_vni, probe_vni, ipv4: families.0, ipv6: families.1, accepted, probes, mtu, closed }
    }
}

fn via() -> impl Strategy<Value = Via> {
    prop_oneof![Just(Via::Router), host().prop_map(Via::Kernel)]
}

prop_compose! {
    fn listeners()(router in any::<bool>(), kernel in btree_set(host(), 0..3)) -> Listeners {
        Listeners { router, kernel }
    }
}

prop_compose! {
    fn view()(
        mtu in 1390..1392_u32,
        remote in btree_map(mac(), via(), 0..12),
        neighbours in neighbours(),
        groups in btree_map(group().prop_map(|group| Group::new(group).unwrap()), listeners(), 0..3),
        on in 0..3_usize,
        vxlan in option::of(vxlan()),
    ) -> View {
        let snooping = [Snooping::Off, Snooping::On, Snooping::OnWithRouter][on];
        View { mtu, remote, neighbours, groups, snooping, vxlan }
    }
}

/// What the next view of a running host may be: the same devices, other entries.
fn next() -> impl Strategy<Value = (View, View)> {
    (view(), view(), any::<bool>()).prop_map(|(one, mut other, alike)| {
        if alike && let (Some(before), Some(after)) = (&one.vxlan, &mut other.vxlan) {
            (other.mtu, other.snooping) = (one.mtu, one.snooping);
            *after = Vxlan {
                accepted: after.accepted.clone(),
                probes: after.probes.clone(),
                ..before.clone()
            };
        }
        (one, other)
    })
}

fn on(bits: u8, bit: u8) -> bool {
    bits & (1 << bit) != 0
}

prop_compose! {
    fn bridge()(bits in any::<u8>(), mtu in 1000..1003_u32, time in 0..2_u32) -> Bridge {
        Bridge {
            mtu,
            up: on(bits, 0),
            multicast_snooping: on(bits, 1),
            multicast_querier: on(bits, 5),
            igmp_version: 2 + u8::from(on(bits, 6)),
            mld_version: 1 + u8::from(on(bits, 7)),
            spanning_tree: on(bits, 2),
            forward_delay: time,
            ageing: time,
            default_pvid: u16::from(on(bits, 3)),
            ipv6: on(bits, 4),
        }
    }
}

prop_compose! {
    fn flags()(bits in any::<u8>()) -> PortFlags {
        PortFlags {
            learning: on(bits, 0),
            isolated: on(bits, 1),
            unicast_flood: on(bits, 2),
            broadcast_flood: on(bits, 3),
            multicast_flood: on(bits, 4),
            multicast_router: match bits >> 5 & 3 {
                0 => MulticastRouter::Never,
                1 => MulticastRouter::Always,
                _ => MulticastRouter::Learned,
            },
            neighbour_suppression: on(bits, 6),
            hairpin: on(bits, 7),
        }
    }
}

fn link() -> impl Strategy<Value = Link> {
    (1000..1003_u32, any::<bool>()).prop_map(|(mtu, ipv6)| Link { mtu, ipv6 })
}

fn port() -> impl Strategy<Value = Port> {
    (0..3_usize).prop_map(|n| Port::ALL[n])
}

fn lasting() -> impl Strategy<Value = Lasting> {
    prop_oneof![3 => Just(Lasting::Permanent), 1 => Just(Lasting::Otherwise)]
}

fn destination() -> impl Strategy<Value = Destination> {
    prop_oneof![3 => host().prop_map(Destination::To), 1 => Just(Destination::Odd)]
}

prop_compose! {
    fn device()(
        tunnel in (option::of(vni()), 1..3_u16, any::<bool>(), any::<bool>()),
        link in link(),
        bits in any::<(bool, bool)>(),
        port in option::of(flags()),
        destinations in btree_map(mac(), destination(), 0..6),
        listeners in btree_map((group(), option::of(host()), host()), lasting(), 0..4),
    ) -> VxlanDevice {
        let (vni, port_number, keep_whole, plain) = tunnel;
        VxlanDevice {
            tunnel: Tunnel { vni, port: port_number, keep_whole, plain },
            link,
            gate: bits.0,
            up: bits.1,
            port,
            destinations,
            listeners: listeners
                .into_iter()
                .map(|((group, source, host), lasting)| (Listener { group, source, host }, lasting))
                .collect(),
        }
    }
}

fn fence() -> impl Strategy<Value = Fence> {
    let rules = (1..3_u16, btree_set(1..3_u16, 0..2)).prop_map(|(port, closed)| Rules { port, closed });
    (option::weighted(0.7, rules), btree_set(host(), 0..4))
        .prop_map(|(rules, accepted)| Fence { rules, accepted })
}

prop_compose! {
    fn any_state()(
        bridge in option::weighted(0.8, bridge()),
        tap in option::of((link(), any::<bool>(), option::of(flags()))),
        vxlan in btree_map((0..4_usize).prop_map(|n| Device::ALL[n]), device(), 0..4),
        entries in btree_map(mac(), (port(), any::<bool>()), 0..12),
        neighbours in neighbours(),
        groups in btree_map((port(), group(), option::of(host())), lasting(), 0..5),
        fence in option::of(fence()),
    ) -> KernelState {
        let mut state = KernelState {
            bridge,
            tap: tap.map(|(link, up, port)| Tap { link, up, port }),
            vxlan,
            fence,
            ..KernelState::default()
        };
        for (device, found) in &mut state.vxlan {
            if device.port().is_none() {
                found.port = None;
                found.listeners.clear();
            }
        }
        if bridge.is_none() {
            // There is no port without a bridge.
            state.tap.iter_mut().for_each(|tap| tap.port = None);
            state.vxlan.values_mut().for_each(|device| device.port = None);
        } else {
            state.neighbours = neighbours;
        }
        let ports = Port::ALL.map(|port| state.port(port).is_some().then_some(port));
        let has = |port: Port| ports.contains(&Some(port));
        state.entries = entries
            .into_iter()
            .filter(|(_, (port, _))| has(*port))
            .map(|(mac, (port, fixed))| (mac, Entry { port, fixed }))
            .collect();
        if bridge.is_some_and(|bridge| bridge.multicast_snooping) {
            state.groups = groups
                .into_iter()
                .filter(|((port, ..), _)| has(*port))
                .map(|((port, group, source), lasting)| (Registration { port, group, source }, lasting))
                .collect();
        }
        state
    }
}

/// What can be wanted: nothing that weft does not make.
fn wanted_state() -> impl Strategy<Value = KernelState> {
    any_state().prop_map(|mut state| {
        state.entries.values_mut().for_each(|entry| entry.fixed = true);
        state
            .groups
            .values_mut()
            .for_each(|lasting| *lasting = Lasting::Permanent);
        for device in state.vxlan.values_mut() {
            device.gate = true;
            device
                .destinations
                .retain(|_, destination| *destination != Destination::Odd);
            device
                .listeners
                .values_mut()
                .for_each(|lasting| *lasting = Lasting::Permanent);
        }
        if state.fence.as_ref().is_some_and(|fence| fence.rules.is_none()) {
            state.fence = None;
        }
        state
    })
}

fn applied(mut state: KernelState, changes: &[Change]) -> KernelState {
    changes.iter().for_each(|change| state.apply(change));
    state
}

/// Whether each address that leads to a VXLAN device finds a destination there, and one behind a gate.
fn nothing_is_lost(state: &KernelState) -> bool {
    state.entries.iter().all(|(mac, entry)| match entry.port {
        Port::Tap => true,
        Port::Vxlan(family) => {
            let device = &state.vxlan[&Device::Data(family)];
            device.up && matches!(device.destinations.get(mac), Some(Destination::To(_)))
        }
    })
}

/// Whether each group that leads to a VXLAN device has somebody behind it.
fn groups_have_listeners(state: &KernelState) -> bool {
    state.groups.keys().all(|found| match found.port {
        Port::Tap => true,
        Port::Vxlan(family) => state.vxlan[&Device::Data(family)]
            .listeners
            .keys()
            .any(|listener| listener.group == found.group),
    })
}

/// Whether no device can bring in a frame that the packet filter did not mark, and none floods.
fn nothing_leaks(state: &KernelState) -> bool {
    state.vxlan.values().all(|device| {
        device.gate
            && (!device.up
                || device
                    .port
                    .is_none_or(|port| !port.broadcast_flood && port.isolated))
            && (!device.up || state.fence.is_some())
    })
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
        prop_assert_eq!(step(&view, &view), []);
    }

    #[test]
    fn an_interrupted_delta_is_finished_by_the_next(actual in any_state(), wanted in wanted_state(), part in 0..40_usize) {
        let changes = delta(&actual, &wanted);
        let between = applied(actual, &changes[..part.min(changes.len())]);
        prop_assert_eq!(applied(between.clone(), &delta(&between, &wanted)), wanted);
    }

    #[test]
    fn from_one_view_to_the_next_no_state_in_between_loses_or_leaks((one, other) in next()) {
        let mut state = desired(&one);
        prop_assert!(nothing_is_lost(&state) && nothing_leaks(&state) && groups_have_listeners(&state));
        for change in delta(&state, &desired(&other)) {
            state.apply(&change);
            prop_assert!(nothing_is_lost(&state), "{:?} {:?}", change, state);
            prop_assert!(nothing_leaks(&state), "{:?} {:?}", change, state);
            prop_assert!(groups_have_listeners(&state), "{:?} {:?}", change, state);
        }
    }

    #[test]
    fn from_nothing_no_state_in_between_loses_or_leaks(view in view()) {
        let mut state = KernelState::default();
        for change in delta(&state, &desired(&view)) {
            state.apply(&change);
            prop_assert!(nothing_is_lost(&state) && nothing_leaks(&state), "{:?} {:?}", change, state);
        }
    }

    #[test]
    fn a_step_is_the_delta((one, other) in next()) {
        prop_assert_eq!(step(&one, &other), delta(&desired(&one), &desired(&other)));
    }

    #[test]
    fn a_flip_is_one_step_for_each_address(remote in btree_map(mac(), host(), 1..12), vxlan in vxlan()) {
        let vxlan = Vxlan { ipv4: true, ipv6: true, ..vxlan };
        let by_router = View {
            remote: remote.keys().map(|mac| (*mac, Via::Router)).collect(),
            vxlan: Some(vxlan),
            ..View::new(1390)
        };
        let by_kernel = View {
            remote: remote.iter().map(|(mac, host)| (*mac, Via::Kernel(*host))).collect(),
            ..by_router.clone()
        };
        for (one, other) in [(&by_router, &by_kernel), (&by_kernel, &by_router)] {
            let mut flipped = BTreeSet::new();
            for change in step(one, other) {
                match change {
                    Change::SetEntry(mac, _) => prop_assert!(flipped.insert(mac)),
                    Change::SetDestination(_, mac, _) => prop_assert!(!flipped.contains(&mac)),
                    Change::RemoveDestination(_, mac) => prop_assert!(flipped.contains(&mac)),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
    }
}

#[test]
fn from_nothing_the_tap_comes_up_last() {
    let view = View {
        remote: [(Mac([2, 0, 0, 0, 0, 1]), Via::Router)].into(),
        ..View::new(1400)
    };
    let changes = delta(&KernelState::default(), &desired(&view));
    assert!(matches!(changes.first(), Some(Change::SetBridge(_))));
    assert_eq!(changes.last(), Some(&Change::SetTapUp(true)));
}
