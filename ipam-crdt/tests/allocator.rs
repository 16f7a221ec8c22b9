//! The allocator of one host against a naive bitmap, with a crash at every point where something is written.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use weft_ipam_crdt::{
    AddressSpace, AllocError, Input, Ipam, IpamConfig, IpamState, Output, REST, Request, RequestId, Role,
};
use weft_wire::record::Genesis;
use weft_wire::{NodeKey, Time};

#[derive(Clone, Debug)]
enum Op {
    Allocate(u8),
    Claim(u8, u8),
    Free(u8),
    /// Dies after so many more writes have become durable.
    CrashAfter(u8),
    Wait(u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (0..20u8).prop_map(Op::Allocate),
        2 => (0..20u8, 0..16u8).prop_map(|(id, at)| Op::Claim(id, at)),
        3 => (0..20u8).prop_map(Op::Free),
        1 => (0..4u8).prop_map(Op::CrashAfter),
        2 => (1..70u8).prop_map(Op::Wait),
    ]
}

/// Addresses as a bitmap would hold them.
#[derive(Default)]
struct Model {
    by_id: BTreeMap<String, BTreeSet<IpAddr>>,
    /// When each freed address may be given again at the earliest.
    rests: BTreeMap<IpAddr, Time>,
}

impl Model {
    fn is_held(&self, address: &IpAddr) -> bool {
        self.by_id.values().any(|addresses| addresses.contains(address))
    }
}

struct Rig {
    genesis: Genesis,
    key: NodeKey,
    space: AddressSpace,
    disk: IpamState,
    ipam: Ipam,
    now: Time,
    incarnation: u64,
    requests: u64,
    /// Writes that still succeed before the host dies.
    lives: Option<u8>,
}

enum Answer {
    Address(Result<IpAddr, AllocError>),
    Freed(Vec<IpAddr>),
    Died,
}

impl Rig {
    fn new() -> Self {
        let key = NodeKey::from_seed([1; 32]);
        let range = "10.32.0.0/28".parse().unwrap();
        let space = AddressSpace::of_range(range).unwrap();
        let genesis = Genesis {
            founders: vec![key.id()],
            nonce: [0; 16],
            range,
            slot_size: 1,
        };
        let disk = IpamState::genesis(&genesis).unwrap();
        let ipam = Self::machine(&genesis, &key, space, &disk, 1, Time::ZERO);
        Self {
            genesis,
            key,
            space,
            disk,
            ipam,
            now: Time::ZERO,
            incarnation: 1,
            requests: 0,
            lives: None,
        }
    }

    fn machine(
        g: &Genesis,
        key: &NodeKey,
        space: AddressSpace,
        disk: &IpamState,
        incarnation: u64,
        now: Time,
    ) -> Ipam {
        let config = IpamConfig {
            node: key.id(),
            key: key.clone(),
            space,
            genesis: g.clone(),
            incarnation,
            durable: disk.clone(),
            expected: 1,
            role: Role::Owner,
            seed: [3; 32],
        };
        let mut ipam = Ipam::new(config, now).unwrap();
        ipam.handle(now, Input::MembersChanged(vec![key.id()]));
        ipam
    }

    fn restart(&mut self) {
        self.incarnation += 1;
        self.lives = None;
        self.ipam = Self::machine(
            &self.genesis,
            &self.key,
            self.space,
            &self.disk,
            self.incarnation,
            self.now,
        );
    }

    fn give(&mut self, input: Input) -> Option<Answer> {
        self.ipam.handle(self.now, input);
        let mut answer = None;
        while let Some(output) = self.ipam.poll_output() {
            match output {
                Output::Persist { token, changes } => {
                    if self.lives == Some(0) {
                        self.restart();
                        return Some(Answer::Died);
                    }
                    self.lives = self.lives.map(|lives| lives - 1);
                    for change in &changes {
                        self.disk.apply(change);
                    }
                    self.ipam.handle(self.now, Input::Persisted(token));
                }
                Output::Answer { result, .. } => {
                    answer = Some(Answer::Address(
                        result.map(|allocation| allocation.address.addr()),
                    ));
                }
                Output::Freed { addresses, .. } => answer = Some(Answer::Freed(addresses)),
                Output::Removal { .. } | Output::Publish { .. } | Output::Send { .. } | Output::Event(_) => {}
            }
        }
        answer
    }

    fn request(&mut self) -> RequestId {
        self.requests += 1;
        RequestId(self.requests)
    }
}

fn run(ops: &[Op]) -> Result<(), TestCaseError> {
    let (mut rig, mut model) = (Rig::new(), Model::default());
    for op in ops {
        match op {
            Op::Allocate(id) => {
                let (id, request) = (format!("pod-{id}"), rig.request());
                match rig.give(Input::Request(Request::Allocate {
                    id: id.clone(),
                    request,
                })) {
                    Some(Answer::Address(Ok(address))) => match model.by_id.get(&id) {
                        Some(held) => {
                            prop_assert!(held.contains(&address), "another address for the same id")
                        }
                        None => {
                            prop_assert!(!model.is_held(&address), "{address} given twice");
                            let rested = model.rests.remove(&address).is_none_or(|until| until <= rig.now);
                            prop_assert!(rested, "{address} given before it had rested");
                            model.by_id.entry(id).or_default().insert(address);
                        }
                    },
                    Some(Answer::Died) => {}
                    None => {
                        // It waits: so nothing can be free.
                        for offset in 1..15 {
                            let address = rig.space.address(offset).unwrap();
                            let rests = rig.ipam.state().addresses().contains_key(&offset);
                            prop_assert!(
                                model.is_held(&address) || rests,
                                "{address} is free and was not given"
                            );
                        }
                        rig.give(Input::Request(Request::Cancel(request)));
                    }
                    Some(Answer::Address(Err(error))) => prop_assert!(false, "{error}"),
                    Some(Answer::Freed(_)) => prop_assert!(false),
                }
            }
            Op::Claim(id, at) => {
                let (id, request) = (format!("pod-{id}"), rig.request());
                let address = rig.space.address(u32::from(*at)).unwrap();
                match rig.give(Input::Request(Request::Claim {
                    id: id.clone(),
                    address,
                    request,
                })) {
                    Some(Answer::Address(Ok(got))) => {
                        prop_assert_eq!(got, address);
                        prop_assert!(rig.space.for_pod(address).is_ok());
                        let own = model.by_id.get(&id).is_some_and(|held| held.contains(&address));
                        prop_assert!(
                            own || !model.is_held(&address),
                            "{} claimed although held",
                            address
                        );
                        // Who names an address may have it while it rests.
                        model.rests.remove(&address);
                        model.by_id.entry(id).or_default().insert(address);
                    }
                    Some(Answer::Address(Err(AllocError::InUse { .. }))) => {
                        let offset = rig.space.offset(address).unwrap();
                        prop_assert!(rig.ipam.state().addresses().contains_key(&offset));
                    }
                    Some(Answer::Address(Err(AllocError::Address(_)))) => {
                        prop_assert!([0, 15].contains(at));
                    }
                    Some(Answer::Died) => {}
                    _ => prop_assert!(false, "a claim in an own slot waits"),
                }
            }
            Op::Free(id) => {
                let (id, request) = (format!("pod-{id}"), rig.request());
                let held = model.by_id.remove(&id).unwrap_or_default();
                match rig.give(Input::Request(Request::Free {
                    id: id.clone(),
                    address: None,
                    request,
                })) {
                    Some(Answer::Freed(freed)) => {
                        let freed: BTreeSet<IpAddr> = freed.into_iter().collect();
                        prop_assert_eq!(&held, &freed);
                        for address in freed {
                            model.rests.insert(address, rig.now + REST);
                        }
                    }
                    // Died before it was durable: nothing has happened.
                    Some(Answer::Died) => {
                        if !held.is_empty() {
                            model.by_id.insert(id, held);
                        }
                    }
                    _ => prop_assert!(false),
                }
            }
            Op::CrashAfter(writes) => rig.lives = Some(*writes),
            Op::Wait(seconds) => {
                rig.now = rig.now + core::time::Duration::from_secs(u64::from(*seconds));
                rig.give(Input::Tick);
            }
        }
        // Everything that was told is on the disk.
        for (id, addresses) in &model.by_id {
            for address in addresses {
                prop_assert!(rig.ipam.addresses_of(id).contains(address), "{id} lost {address}");
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]
    #[test]
    fn the_allocator_does_what_a_bitmap_does(ops in proptest::collection::vec(op(), 1..120)) {
        run(&ops)?;
    }
}
