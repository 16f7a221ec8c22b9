//! One variant for each reason to drop a datagram or refuse a peer; counters and log lines derive from it.

macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident => $label:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum $name { $($(#[doc = $doc])+ $variant,)+ }

        impl $name {
            /// Every variant, in order of declaration; `ALL[r as usize] == r`.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];
            /// How many variants there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Stable name for JSON, metrics and logs.
            pub const fn label(self) -> &'static str {
                match self { $($name::$variant => $label,)+ }
            }

            /// What it means, in a sentence, for people.
            pub const fn describe(self) -> &'static str {
                match self { $($name::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(self.describe())
            }
        }
    };
}

reasons! {
    /// Why a frame or a sleeve datagram was not passed on.
    DropReason {
        /// The datagram is shorter than its kind.
        DatagramTooShort => "datagram_too_short",
        /// The first octet names no kind of datagram.
        UnknownKind => "unknown_kind",
        /// The datagram is of a kind that this host does not serve.
        KindNotServed => "kind_not_served",
        /// The network field is not zero.
        UnknownNetwork => "unknown_network",
        /// No session has this receiver index.
        UnknownIndex => "unknown_index",
        /// The seal does not open: forged, damaged, or sealed with another key.
        BadSeal => "bad_seal",
        /// The counter was seen before.
        Replayed => "replayed",
        /// The counter is older than the replay window.
        TooOld => "too_old",
        /// The sealed part is not laid out as its kind says.
        BadContent => "bad_content",
        /// The frame is shorter than an Ethernet header.
        RuntFrame => "runt_frame",
        /// The frame is longer than the engine carries.
        OversizeFrame => "oversize_frame",
        /// The frame stands for many in a way that the engine cannot take apart.
        UnknownOffload => "unknown_offload",
        /// The piece lies outside its frame, or says another length or kind than the pieces before it.
        BadFragment => "bad_fragment",
        /// The piece repeats octets of its frame that came already.
        OverlappingFragment => "overlapping_fragment",
        /// Pieces of the frame did not come in time.
        ReassemblyTimeout => "reassembly_timeout",
        /// The room for incomplete frames was full, and this frame the oldest.
        ReassemblyFull => "reassembly_full",
        /// The frame's source address is a group address or zero.
        InvalidSource => "invalid_source",
        /// The frame came from another host, and its source address belongs to this one.
        SourceIsHere => "source_is_here",
        /// No session to the host behind the destination is up yet.
        NoSession => "no_session",
        /// The path to the peer does not carry a datagram of this size.
        PathTooSmall => "path_too_small",
        /// The UDP socket did not take the datagram.
        SendFailed => "send_failed",
        /// The TAP did not take the frame.
        TapFailed => "tap_failed",
        /// The queue to the control thread is full.
        ControlQueueFull => "control_queue_full",
        /// mac1 does not match: the sender does not know the cluster secret or means another host.
        BadMac1 => "bad_mac1",
        /// The key id names no secret that this host holds.
        UnknownKeyId => "unknown_key_id",
        /// The handshake message does not decrypt or is malformed.
        BadHandshake => "bad_handshake",
        /// An initiation with this or a later number was seen before.
        StaleInitiation => "stale_initiation",
        /// The handshake names another cluster.
        ForeignCluster => "foreign_cluster",
        /// The certificate in the handshake does not bind node and key.
        BadCertificate => "bad_certificate",
        /// The sender is not a member.
        NotAMember => "not_a_member",
        /// The peer offers no cipher that this host accepts.
        NoCommonCipher => "no_common_cipher",
        /// Of two crossing initiations the other one stands.
        CrossingInitiation => "crossing_initiation",
        /// A response, cookie or answer to a probe that is not awaited.
        NotAwaited => "not_awaited",
        /// Under load: the sender must come back with a cookie.
        CookieRequired => "cookie_required",
        /// Under load: more senders than get a cookie in one second.
        CookieRate => "cookie_rate",
        /// The sender has used up its share of handshakes.
        HandshakeRate => "handshake_rate",
        /// The session table is full of sessions in use.
        SessionTableFull => "session_table_full",
        /// All counters of the session are used: it must be rekeyed first.
        CountersExhausted => "counters_exhausted",
        /// A pod asks for an address of this host: the bridge has delivered the question, no other host can answer it.
        AskedHere => "asked_here",
        /// The destination belongs to this host, and no pod here has it.
        NotHere => "not_here",
        /// The destination is an address of the cluster whose host is not known for certain.
        OwnerUnknown => "owner_unknown",
        /// More frames to a MAC address that nobody is known to have than are sent to every host to find it.
        UnknownDestination => "unknown_destination",
        /// One sender's broadcasts and multicasts beyond its share.
        FloodRateSource => "flood_rate_source",
        /// Copies of broadcasts and multicasts beyond what this host may make.
        FloodRateHost => "flood_rate_host",
        /// The flooded frame has arrived before.
        DuplicateFlood => "duplicate_flood",
        /// Bridges are joined outside the overlay, and the frame would come back or arrive twice.
        Looped => "looped",
        /// An IGMP or MLD message: to what pods listen travels between hosts as a record, and each host asks its own pods.
        MembershipMessage => "membership_message",
        /// A frame to a multicast group to which no pod of another host listens.
        NoListener => "no_listener",
        /// A frame to a multicast group that the kernel carries to all hosts whose pods listen.
        KernelCarries => "kernel_carries",
        /// The datagram to be relayed came from an address at which no neighbour with a live session is.
        RelayNotANeighbour => "relay_not_a_neighbour",
        /// The datagram to be relayed is for a host to which this one has no route.
        RelayNoRoute => "relay_no_route",
        /// The datagram to be relayed has passed as many relays as it may.
        RelayHopLimit => "relay_hop_limit",
        /// The datagram to be relayed would go back to where it came from, or is this host's own.
        RelayLoop => "relay_loop",
        /// The neighbour has more relayed than its share.
        RelayRate => "relay_rate",
        /// What a relayed datagram carries is too short, relayed once more, or not marked as relayed.
        RelayBadInner => "relay_bad_inner",
        /// The message of the mesh is for a host to which no links lead.
        PassNoRoute => "pass_no_route",
        /// The message of the mesh has been passed on by as many hosts as it may.
        PassHopLimit => "pass_hop_limit",
        /// More messages of the mesh wait to be passed on over one link than may: the oldest went.
        PassQueueFull => "pass_queue_full",
        /// The message of the mesh that others passed on is not signed by the host that it names, or that host is no member.
        PassForged => "pass_forged",
        /// The message of the mesh that others passed on is of an earlier process of its sender.
        PassStale => "pass_stale",
    }
}

reasons! {
    /// Why a mesh connection was refused or closed.
    RejectReason {
        /// The other side does not hold the secret this handshake was made with: wrong token, or another cluster.
        UnknownKey => "unknown_key",
        /// The cluster secret is older than the previous one: join again with the token.
        OldKey => "old_key",
        /// The handshake does not decrypt or is malformed.
        BadHandshake => "bad_handshake",
        /// The handshake took longer than allowed.
        HandshakeTimeout => "handshake_timeout",
        /// The certificate does not bind node and key.
        BadCertificate => "bad_certificate",
        /// No admission chain leads from the founder to this node.
        NotAMember => "not_a_member",
        /// The other side belongs to another cluster.
        ForeignCluster => "foreign_cluster",
        /// The other side is this node itself.
        SelfConnection => "self_connection",
        /// Another connection between the same two nodes stands.
        Duplicate => "duplicate",
        /// A message does not decode or may not come in this state.
        BadMessage => "bad_message",
        /// A record's signature, owner or body is wrong.
        BadRecord => "bad_record",
        /// Nothing arrived for longer than the link may be silent.
        LinkTimeout => "link_timeout",
        /// Two processes use one identity: a state directory was copied.
        CopiedIdentity => "copied_identity",
        /// The 8-octet prefix of the node's hash is taken by another member.
        CollidingPeerHash => "colliding_peer_hash",
        /// As many connections are open as this host holds.
        TooManyConnections => "too_many_connections",
        /// Neither side belongs to a cluster yet. Hosts that shall make one together are all started with the same --expect
        /// or --seed.
        NoCluster => "no_cluster",
        /// The other side stops.
        Shutdown => "shutdown",
        /// The connection broke.
        Disconnected => "disconnected",
        /// The other side joins another cluster just now, and lets nobody in.
        Adopting => "adopting",
        /// The other side has become a member meanwhile: the link is made again under the cluster's key.
        Agreed => "agreed",
    }
}

impl RejectReason {
    /// The reason with this number on the wire.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// Number on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn labels_are_unique_and_numbers_read_back() {
        let labels: BTreeSet<_> = DropReason::ALL.iter().map(|r| r.label()).collect();
        assert_eq!(labels.len(), DropReason::COUNT);
        let labels: BTreeSet<_> = RejectReason::ALL.iter().map(|r| r.label()).collect();
        assert_eq!(labels.len(), RejectReason::COUNT);
        for reason in RejectReason::ALL {
            assert_eq!(RejectReason::from_code(reason.code()), Some(*reason));
        }
        assert_eq!(RejectReason::from_code(200), None);
        assert_eq!(DropReason::Replayed.describe(), "The counter was seen before.");
    }
}
