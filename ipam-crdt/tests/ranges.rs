//! Allocation in every range that a cluster can have, of both families, with every slot size.

#![allow(clippy::unwrap_used)]

use ipnet::IpNet;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use weft_ipam_crdt::{
    AddressSpace, AllocError, Input, Ipam, IpamConfig, IpamState, Output, Request, RequestId, Role, Wanted,
};
use weft_wire::record::Genesis;
use weft_wire::{NodeKey, Time};

/// One host that has founded a cluster with this range, and a disk that is always fast.
struct Rig {
    ipam: Ipam,
    requests: u64,
}

impl Rig {
    fn new(range: IpNet) -> Self {
        let key = NodeKey::from_seed([1; 32]);
        let space = AddressSpace::of_range(range).unwrap();
        let genesis = Genesis {
            founders: vec![key.id()],
            nonce: [0; 16],
            range,
            slot_size: space.slot_size(),
        };
        let config = IpamConfig {
            node: key.id(),
            key,
            space,
            durable: IpamState::genesis(&genesis).unwrap(),
            genesis,
            incarnation: 1,
            expected: 1,
            role: Role::Owner,
            seed: [3; 32],
        };
        let mut rig = Self {
            ipam: Ipam::new(config, Time::ZERO).unwrap(),
            requests: 0,
        };
        rig.give(Input::Tick);
        rig
    }

    fn give(&mut self, input: Input) -> Option<Result<IpNet, AllocError>> {
        self.ipam.handle(Time::ZERO, input);
        let mut answer = None;
        while let Some(output) = self.ipam.poll_output() {
            match output {
                Output::Persist { token, .. } => self.ipam.handle(Time::ZERO, Input::Persisted(token)),
                Output::Answer { result, .. } => answer = Some(result.map(|allocation| allocation.address)),
                _ => {}
            }
        }
        answer
    }

    /// An answer at once.
    fn ask(&mut self, id: &str, wanted: Wanted) -> Result<IpNet, AllocError> {
        self.requests += 1;
        self.give(Input::Request(Request::AllocateIn {
            id: id.to_owned(),
            wanted,
            within: Some(Duration::ZERO),
            request: RequestId(self.requests),
        }))
        .expect("there is no time to wait")
    }
}

/// 10.0.0.0/8 to a /30, fd00::/96 to a /120.
fn range() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (8u8..=30).prop_map(|length| IpNet::new("10.0.0.0".parse().unwrap(), length).unwrap()),
        (96u8..=120).prop_map(|length| IpNet::new("fd00::".parse().unwrap(), length).unwrap()),
    ]
}

/// Addresses that pods of a subnet can have, by the rules alone.
fn usable(subnet: IpNet, range: IpNet) -> BTreeSet<IpAddr> {
    let all = |net: IpNet| (net.network(), net.broadcast());
    let is_v4 = matches!(range, IpNet::V4(_));
    let two = subnet.prefix_len() + 1 >= subnet.max_prefix_len();
    subnet_addresses(subnet)
        .filter(|address| {
            let ends = |(first, last): (IpAddr, IpAddr)| *address == first || (is_v4 && *address == last);
            !ends(all(range)) && (two || !ends(all(subnet)))
        })
        .collect()
}

fn subnet_addresses(subnet: IpNet) -> impl Iterator<Item = IpAddr> {
    let count = 1u128 << (subnet.max_prefix_len() - subnet.prefix_len());
    (0..count).map(move |at| match subnet.network() {
        IpAddr::V4(first) => IpAddr::V4((u32::from(first) + at as u32).into()),
        IpAddr::V6(first) => IpAddr::V6((u128::from(first) + at).into()),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn a_subnet_of_any_range_gives_all_that_it_has_and_nothing_else(
        range in range(),
        bits in 1u8..=6,
        at in any::<u32>(),
    ) {
        let mut rig = Rig::new(range);
        let space = AddressSpace::of_range(range).unwrap();
        let somewhere = space.address((u128::from(at) % space.size()) as u32).unwrap();
        let length = (range.max_prefix_len() - bits).max(range.prefix_len());
        let subnet = IpNet::new(somewhere, length).unwrap().trunc();
        let wanted = Wanted { address: None, subnet: Some(subnet) };
        let mut given = BTreeSet::new();
        let expected = usable(subnet, range);
        for pod in 0..expected.len() {
            let address = rig.ask(&format!("pod-{pod}"), wanted).unwrap();
            prop_assert_eq!(address.trunc(), subnet);
            prop_assert!(given.insert(address.addr()), "{} twice", address);
        }
        prop_assert_eq!(&given, &expected);
        let is_refused = matches!(rig.ask("one too many", wanted), Err(AllocError::Deadline { .. }));
        prop_assert!(is_refused);
        // Its ends are refused by name, and what a pod has is what it gets again.
        for address in subnet_addresses(subnet).filter(|address| !expected.contains(address)) {
            let named = Wanted { address: Some(address), subnet: Some(subnet) };
            prop_assert!(matches!(rig.ask("end", named), Err(AllocError::Address(_))));
        }
        prop_assert_eq!(rig.ask("pod-0", wanted).unwrap(), rig.ask("pod-0", wanted).unwrap());
        // Who asks for no subnet gets what is left of the range, also the ends of a subnet.
        if let Ok(address) = rig.ask("other", Wanted::default()) {
            prop_assert!(!given.contains(&address.addr()));
            prop_assert_eq!(address.trunc(), range);
            prop_assert!(space.for_pod(address.addr()).is_ok());
        }
    }
}
