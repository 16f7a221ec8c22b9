//! The steps from one kernel state to another, and from one view to the next.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use crate::change::Change;
use weft_wire::Mac;

use crate::plan::desired;
use crate::state::{Destination, Device, Entry, KernelState, Lasting, Port, PortFlags, VxlanDevice};
use crate::view::{View, Vxlan};

/// The changes that lead from `actual` to `desired`, in an order in which each finds what it needs and no frame is lost, doubled
/// or let in by a state in between. Empty when nothing differs.
///
/// 1. Groups leave ports, then ARP answers go, then what is too much: nothing is sent twice.
/// 2. Bridge and TAP, then the fence, then VXLAN devices with gate and port flags: nothing passes what is half set up.
/// 3. Destinations and listeners of VXLAN devices, which come up with them: what is to lead there finds its way on.
/// 4. Entries of the bridge, one step an address: this is the flip. Then ARP answers and groups; the TAP comes up last.
/// 5. Destinations, listeners, sources and devices that nothing leads to any more.
#[must_use]
pub fn delta(actual: &KernelState, desired: &KernelState) -> Vec<Change> {
    let mut changes = Vec::new();
    withdraw(actual, desired, &mut changes);
    // What a port has goes when it leaves, or the device or the bridge does.
    let kept = Port::ALL.map(|port| (port, keeps_port(actual, desired, port)));
    let keeps = |port: Port| kept.contains(&(port, true));
    if desired.bridge.is_none() && actual.bridge.is_some() {
        changes.push(Change::RemoveBridge);
    }
    if let Some(bridge) = desired.bridge
        && actual.bridge != Some(bridge)
    {
        changes.push(Change::SetBridge(bridge));
    }
    delta_tap(actual, desired, &mut changes);
    delta_fence(actual, desired, &mut changes);
    for (device, wanted) in &desired.vxlan {
        delta_device(*device, actual, wanted, desired, &mut changes);
    }
    delta_entries(actual, desired, &keeps, &mut changes);
    let has_bridge = actual.bridge.is_some() && desired.bridge.is_some();
    changes.extend(
        desired
            .neighbours
            .iter()
            .filter(|(address, mac)| !has_bridge || actual.neighbours.get(address) != Some(mac))
            .map(|(address, mac)| Change::SetNeighbour(*address, *mac)),
    );
    let registers = desired
        .groups
        .keys()
        .filter(|wanted| !keeps(wanted.port) || actual.groups.get(wanted) != Some(&Lasting::Permanent));
    changes.extend(registers.map(|wanted| Change::Register(*wanted)));
    if desired.tap.is_some_and(|tap| tap.up) && !actual.tap.is_some_and(|tap| tap.up) {
        changes.push(Change::SetTapUp(true));
    }
    for (device, found) in &actual.vxlan {
        match desired.vxlan.get(device) {
            Some(wanted) if !is_remade(found, wanted) => forget(*device, found, wanted, &mut changes),
            Some(_) => {}
            None => changes.push(Change::RemoveVxlan(*device)),
        }
    }
    match (&actual.fence, &desired.fence) {
        (Some(_), None) => changes.push(Change::RemoveFence),
        (Some(found), Some(wanted)) if found.rules == wanted.rules => {
            let refused = found.accepted.difference(&wanted.accepted);
            changes.extend(refused.map(|source| Change::Refuse(*source)));
        }
        _ => {}
    }
    changes
}

/// Groups that are to leave a port, and ARP answers that are to end.
fn withdraw(actual: &KernelState, desired: &KernelState, changes: &mut Vec<Change>) {
    if desired.bridge.is_none() {
        return;
    }
    let groups = actual
        .groups
        .iter()
        .filter(|(found, lasting)| **lasting != Lasting::Permanent || !desired.groups.contains_key(found));
    changes.extend(groups.map(|(found, _)| Change::Unregister(*found)));
    let neighbours = actual
        .neighbours
        .keys()
        .filter(|address| !desired.neighbours.contains_key(address));
    changes.extend(neighbours.map(|address| Change::RemoveNeighbour(*address)));
}

/// Whether a port that is there stays with what it has, until entries have been looked at.
fn keeps_port(actual: &KernelState, desired: &KernelState, port: Port) -> bool {
    let stays = match port {
        Port::Tap => desired.tap.is_some_and(|tap| tap.port.is_some()),
        Port::Vxlan(family) => {
            let device = Device::Data(family);
            match (actual.vxlan.get(&device), desired.vxlan.get(&device)) {
                (Some(found), Some(wanted)) => !is_remade(found, wanted) && wanted.port.is_some(),
                // It is removed at the end.
                _ => true,
            }
        }
    };
    stays && actual.port(port).is_some() && desired.bridge.is_some()
}

/// What is said when a device is made cannot be changed later.
fn is_remade(found: &VxlanDevice, wanted: &VxlanDevice) -> bool {
    found.tunnel != wanted.tunnel
}

fn delta_tap(actual: &KernelState, desired: &KernelState, changes: &mut Vec<Change>) {
    let Some(wanted) = desired.tap else {
        changes.extend(actual.tap.map(|_| Change::RemoveTap));
        return;
    };
    let found = actual.tap;
    if found.map(|found| found.link) != Some(wanted.link) {
        changes.push(Change::SetTapLink(wanted.link));
    }
    if found.is_some_and(|found| found.up) && !wanted.up {
        changes.push(Change::SetTapUp(false));
    }
    // Removing the bridge has taken the port along.
    let port = found
        .and_then(|found| found.port)
        .filter(|_| desired.bridge.is_some());
    delta_port(Port::Tap, port, wanted.port, changes);
}

fn delta_port(port: Port, actual: Option<PortFlags>, desired: Option<PortFlags>, changes: &mut Vec<Change>) {
    let Some(desired) = desired else {
        changes.extend(actual.map(|_| Change::Leave(port)));
        return;
    };
    let actual = actual.unwrap_or_else(|| {
        changes.push(Change::Join(port));
        PortFlags::default()
    });
    if actual != desired {
        changes.push(Change::SetPortFlags(port, desired));
    }
}

fn delta_fence(actual: &KernelState, desired: &KernelState, changes: &mut Vec<Change>) {
    let Some(wanted) = &desired.fence else { return };
    match (&actual.fence, &wanted.rules) {
        (Some(found), rules) if found.rules == *rules => {
            let accepted = wanted.accepted.difference(&found.accepted);
            changes.extend(accepted.map(|source| Change::Accept(*source)));
        }
        (_, Some(rules)) => changes.push(Change::SetFence(rules.clone(), wanted.accepted.clone())),
        // Nobody desires rules that are not as they should be.
        (_, None) => {}
    }
}

/// Everything of a device that is wanted, up to its being up; not what is too much.
fn delta_device(
    device: Device,
    actual: &KernelState,
    wanted: &VxlanDevice,
    desired: &KernelState,
    changes: &mut Vec<Change>,
) {
    let mut found = actual.vxlan.get(&device);
    if found.is_some_and(|found| is_remade(found, wanted)) {
        changes.push(Change::RemoveVxlan(device));
        found = None;
    }
    match found {
        None => changes.push(Change::MakeVxlan(device, wanted.tunnel, wanted.link)),
        Some(found) => {
            if !found.gate {
                changes.push(Change::CloseGate(device));
            }
            if found.link != wanted.link {
                changes.push(Change::SetVxlanLink(device, wanted.link));
            }
            if found.up && !wanted.up {
                changes.push(Change::SetVxlanUp(device, false));
            }
        }
    }
    if let Some(port) = device.port() {
        let flags = found
            .and_then(|found| found.port)
            .filter(|_| desired.bridge.is_some());
        delta_port(port, flags, wanted.port, changes);
    }
    let destinations = found.map(|found| &found.destinations);
    for (mac, destination) in &wanted.destinations {
        let before = destinations.and_then(|found| found.get(mac));
        if let Destination::To(host) = destination
            && before != Some(destination)
        {
            // Nobody knows what a replacement would leave of it.
            if before == Some(&Destination::Odd) {
                changes.push(Change::RemoveDestination(device, *mac));
            }
            changes.push(Change::SetDestination(device, *mac, *host));
        }
    }
    if let Device::Data(family) = device {
        for listener in wanted.listeners.keys() {
            let before = found.and_then(|found| found.listeners.get(listener));
            if before == Some(&Lasting::Otherwise) {
                changes.push(Change::RemoveListener(family, *listener));
            }
            if before != Some(&Lasting::Permanent) {
                changes.push(Change::AddListener(family, *listener));
            }
        }
    }
    if wanted.up && !found.is_some_and(|found| found.up) {
        changes.push(Change::SetVxlanUp(device, true));
    }
}

fn delta_entries(
    actual: &KernelState,
    desired: &KernelState,
    keeps: &impl Fn(Port) -> bool,
    changes: &mut Vec<Change>,
) {
    let stays = |entry: &&Entry| keeps(entry.port);
    for (mac, wanted) in &desired.entries {
        if actual.entries.get(mac).filter(stays) != Some(wanted) {
            changes.push(Change::SetEntry(*mac, wanted.port));
        }
    }
    // An entry at a port that has left is gone already.
    for (mac, found) in &actual.entries {
        if keeps(found.port) && !desired.entries.contains_key(mac) {
            changes.push(Change::RemoveEntry(*mac, found.port));
        }
    }
}

/// What a device has too much of.
fn forget(device: Device, found: &VxlanDevice, wanted: &VxlanDevice, changes: &mut Vec<Change>) {
    let destinations = found
        .destinations
        .keys()
        .filter(|mac| !wanted.destinations.contains_key(mac));
    changes.extend(destinations.map(|mac| Change::RemoveDestination(device, *mac)));
    if let Device::Data(family) = device {
        let listeners = found
            .listeners
            .keys()
            .filter(|listener| !wanted.listeners.contains_key(listener));
        changes.extend(listeners.map(|listener| Change::RemoveListener(family, *listener)));
    }
}

/// The changes that lead from the desired state of one view to that of another: as [`delta`] of the two, and without the work
/// for what is the same in both.
#[must_use]
pub fn step(before: &View, after: &View) -> Vec<Change> {
    if !is_alike(before, after) {
        return delta(&desired(before), &desired(after));
    }
    // Each entry is by itself, so those that do not differ can be left out.
    let mut macs = differing(&before.remote, &after.remote);
    let both = || before.neighbours.iter().chain(&after.neighbours);
    let differ = |(address, mac): &(&Ipv4Addr, &Mac)| {
        macs.contains(*mac) || before.neighbours.get(*address) != after.neighbours.get(*address)
    };
    let addresses: BTreeSet<Ipv4Addr> = both().filter(differ).map(|(address, _)| *address).collect();
    let answered = both().filter(|(address, _)| addresses.contains(*address));
    macs.extend(answered.map(|(_, mac)| *mac));
    let reduced = |view: &View| View {
        remote: pick(&view.remote, &macs),
        neighbours: pick(&view.neighbours, &addresses),
        groups: view.groups.clone(),
        vxlan: view.vxlan.clone(),
        ..*view
    };
    delta(&desired(&reduced(before)), &desired(&reduced(after)))
}

/// Whether devices, ports and rules are the same for both, so that they differ in entries only.
fn is_alike(before: &View, after: &View) -> bool {
    let fixed = |vxlan: &Vxlan| {
        let numbers = (vxlan.data_vni, vxlan.probe_vni, vxlan.port, vxlan.mtu);
        (numbers, vxlan.ipv4, vxlan.ipv6, vxlan.closed.clone())
    };
    (before.mtu, before.snooping, before.vxlan.as_ref().map(fixed))
        == (after.mtu, after.snooping, after.vxlan.as_ref().map(fixed))
}

fn pick<K: Ord + Copy, V: Copy>(from: &BTreeMap<K, V>, keys: &BTreeSet<K>) -> BTreeMap<K, V> {
    let found = keys.iter().filter_map(|key| Some((*key, *from.get(key)?)));
    found.collect()
}

/// Keys whose values differ, those that only one has among them.
fn differing<K: Ord + Copy, V: PartialEq>(one: &BTreeMap<K, V>, other: &BTreeMap<K, V>) -> BTreeSet<K> {
    let (mut ones, mut others) = (one.iter().peekable(), other.iter().peekable());
    let mut found = BTreeSet::new();
    loop {
        let key = match (ones.peek(), others.peek()) {
            (Some((a, x)), Some((b, y))) if a == b => {
                let (key, differs) = (**a, x != y);
                ones.next();
                others.next();
                if !differs {
                    continue;
                }
                key
            }
            (Some((a, _)), other) if other.is_none_or(|(b, _)| a < b) => {
                let key = **a;
                ones.next();
                key
            }
            (_, Some((b, _))) => {
                let key = **b;
                others.next();
                key
            }
            _ => return found,
        };
        found.insert(key);
    }
}

#[cfg(test)]
#[path = "delta_tests.rs"]
mod tests;
