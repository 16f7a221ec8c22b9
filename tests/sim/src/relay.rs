//! Datagrams that a host passes on for others, as the data-path engine does.

use crate::queue::Packet;
use crate::world::World;
use std::net::SocketAddr;
use weft_sleeve::Passed;
use weft_wire::datagram::RelayShim;

fn shim_of(packet: &Packet) -> Option<RelayShim> {
    match packet {
        Packet::Handshake(bytes) => RelayShim::split(bytes).map(|(shim, _)| shim),
        Packet::Sealed(sealed) => sealed.shim,
    }
}

fn with_hop_limit(packet: Packet, shim: RelayShim) -> Packet {
    match packet {
        Packet::Handshake(mut bytes) => {
            let octets = shim.to_bytes();
            bytes[..octets.len()].copy_from_slice(&octets);
            Packet::Handshake(bytes)
        }
        Packet::Sealed(sealed) => Packet::Sealed(crate::engine::Sealed {
            shim: Some(shim),
            ..sealed
        }),
    }
}

impl World {
    /// Passes a datagram on if it is for another host; gives it back if it is for this one.
    pub(crate) fn relay(&mut self, host: usize, from: SocketAddr, packet: Packet) -> Option<Packet> {
        let Some(shim) = shim_of(&packet) else {
            return Some(packet);
        };
        let table = &self.hosts[host].running()?.engine.table;
        match table.relaying.pass(table.origin, from, &shim) {
            Ok(Passed::Here) => Some(packet),
            Ok(Passed::On { to, hop_limit }) => {
                self.record
                    .note(self.now, host, "relay", &[&shim.destination.0], || {
                        format!("from {from} to {to}, {hop_limit} hops left")
                    });
                let shim = RelayShim { hop_limit, ..shim };
                self.send_datagram(host, to, with_hop_limit(packet, shim));
                None
            }
            Err(reason) => {
                self.record
                    .note(self.now, host, "relay", &[&shim.destination.0], || {
                        format!("from {from}: {reason}")
                    });
                None
            }
        }
    }
}
