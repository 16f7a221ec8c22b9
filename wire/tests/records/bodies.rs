//! Arbitrary bodies of every kind of record, within their bounds. The tests of gossip include this file as well.

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use std::net::{IpAddr, SocketAddr};
use weft_wire::adopt::{AdoptRecord, TOKEN_TEXT_MAX};
use weft_wire::codec::DecodeError;
use weft_wire::envelope::KindNumber;
use weft_wire::fastpath::{
    Ability, Encryption, FastpathRecord, POD_MTU_SET_MAX, SETTING_NUMBER_MAX, Setting, Settings,
};
use weft_wire::group::{GROUPS_MAX, Group, GroupsRecord, Listening};
use weft_wire::ipam::{
    Accepted, BORROWERS_MAX, Ballot, EPOCH_CHANGES_MAX, EXCEPTIONS_MAX, Epoch, Exception, ExceptionsRecord,
    GIVEN_MAX, GRANT_RUNS_MAX, Grant, LENT_MAX, LentRecord, Loan, Off, Proposal, SLOT_RUNS_MAX, SlotRun,
    SlotsRecord, Version, VoteRecord, Wish,
};
use weft_wire::limits::{ENDPOINTS_MAX, PUBLISHED_LINKS_MAX};
use weft_wire::reclaim::{MISSING_MAX, Proof, Reclaim, ReclaimRecord};
use weft_wire::record::{Admission, Body, LinksRecord, PeerRecord, PublishedLink, Signature64};
use weft_wire::{Envelope, GenesisId, Mac, NodeId, NoisePublic, codec};

/// What reads a record of one kind and writes it again.
pub(crate) type Again = fn(&Envelope) -> Result<Vec<u8>, DecodeError>;

fn again<B: Body>(envelope: &Envelope) -> Result<Vec<u8>, DecodeError> {
    B::from_envelope(envelope).map(|body| codec::encode(&body))
}

/// One body: its kind, its octets, and what reads it.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) kind: KindNumber,
    pub(crate) body: Vec<u8>,
    pub(crate) again: Again,
}

fn record<B: Body + std::fmt::Debug + 'static>(
    bodies: impl Strategy<Value = B> + 'static,
) -> BoxedStrategy<Record> {
    bodies
        .prop_map(|body| {
            assert!(body.is_within_bounds(), "{body:?}");
            Record {
                kind: B::KIND,
                body: codec::encode(&body),
                again: again::<B>,
            }
        })
        .boxed()
}

fn node() -> impl Strategy<Value = NodeId> {
    any::<[u8; 32]>().prop_map(NodeId)
}

fn nodes(most: usize) -> impl Strategy<Value = Vec<NodeId>> {
    btree_set(any::<[u8; 32]>(), 0..=most).prop_map(|all| all.into_iter().map(NodeId).collect())
}

fn signature() -> impl Strategy<Value = Signature64> {
    any::<([u8; 32], [u8; 32])>().prop_map(|(a, b)| Signature64(a, b))
}

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just((0, 0)), any::<(u32, u32)>(), (0..9u32, 0..9u32)]
        .prop_map(|(epoch, seq)| Version { epoch, seq })
}

/// Runs in order, each behind a gap.
fn runs(least: usize, most: usize) -> impl Strategy<Value = Vec<SlotRun>> {
    vec((0..40u32, 1..60u32, version()), least..=most).prop_map(|parts| {
        let mut first = 0;
        let next = |(gap, count, version): (u32, u32, Version)| {
            let run = SlotRun {
                first: first + gap,
                count,
                version,
            };
            first = run.slots().end;
            run
        };
        parts.into_iter().map(next).collect()
    })
}

fn grant() -> impl Strategy<Value = Grant> {
    (node(), node(), runs(1, GRANT_RUNS_MAX), signature()).prop_map(|(from, to, runs, signature)| Grant {
        from,
        to,
        runs,
        signature,
    })
}

fn reclaim() -> impl Strategy<Value = Reclaim> {
    let votes = vec((any::<u16>(), signature()), 0..6);
    (node(), 1..=u32::MAX, runs(1, 12), votes).prop_map(|(to, epoch, mut runs, votes)| {
        for run in &mut runs {
            run.version = Version { epoch, seq: 0 };
        }
        Reclaim { to, runs, votes }
    })
}

fn proof() -> impl Strategy<Value = Proof> {
    prop_oneof![grant().prop_map(Proof::Grant), reclaim().prop_map(Proof::Reclaim)]
}

fn slots() -> impl Strategy<Value = SlotsRecord> {
    let numbers = any::<(u64, u32, u8, u8)>();
    (
        numbers,
        runs(0, SLOT_RUNS_MAX),
        vec(grant(), 0..=GIVEN_MAX),
        vec(proof(), 0..4),
    )
        .prop_map(
            |((serial, epoch, free_slots, free_addresses), runs, given, proofs)| {
                let mut record = SlotsRecord {
                    serial,
                    epoch,
                    free_slots,
                    free_addresses,
                    runs,
                    given,
                    proofs: vec![],
                };
                for proof in proofs {
                    if proof.cost() <= record.room() {
                        record.proofs.push(proof);
                    }
                }
                record
            },
        )
}

fn lent() -> impl Strategy<Value = LentRecord> {
    let loans = btree_set(any::<u32>(), 0..=LENT_MAX);
    (nodes(BORROWERS_MAX), loans, any::<u8>(), any::<u32>()).prop_map(|(borrowers, loans, at, number)| {
        let count = borrowers.len();
        let loan = |offset: u32| Loan {
            offset,
            borrower: (usize::from(at.wrapping_add(offset as u8)) % count.max(1)) as u8,
            number: number ^ offset,
        };
        let loans = loans.into_iter().filter(|_| count > 0).map(loan).collect();
        LentRecord { borrowers, loans }
    })
}

fn ballot() -> impl Strategy<Value = Ballot> {
    (any::<u32>(), node()).prop_map(|(round, proposer)| Ballot { round, proposer })
}

fn off() -> impl Strategy<Value = Off> {
    btree_set(any::<u16>(), 0..=EPOCH_CHANGES_MAX).prop_map(|all| all.into_iter().collect())
}

fn epoch() -> impl Strategy<Value = Epoch> {
    let hosts = (nodes(EPOCH_CHANGES_MAX), nodes(EPOCH_CHANGES_MAX), node());
    (any::<u32>(), any::<[u8; 32]>(), hosts, node(), any::<bool>()).prop_map(
        |(number, parent, (mut added, removed, another), reclaimer, fenced)| {
            if added.is_empty() && removed.is_empty() {
                added.push(another);
            }
            let is_removal = !removed.is_empty();
            Epoch {
                number,
                parent,
                added,
                removed,
                reclaimer: is_removal.then_some(reclaimer),
                fenced: fenced && is_removal,
            }
        },
    )
}

fn vote() -> impl Strategy<Value = VoteRecord> {
    let accepted =
        (ballot(), off(), epoch(), signature()).prop_map(|(ballot, off, epoch, signature)| Accepted {
            ballot,
            off,
            epoch,
            signature,
        });
    let proposal = (ballot(), off(), proptest::option::of(epoch()))
        .prop_map(|(ballot, off, value)| Proposal { ballot, off, value });
    let wishes = (nodes(EPOCH_CHANGES_MAX), any::<u32>()).prop_map(|(hosts, bits)| {
        let wish = |(at, host): (usize, NodeId)| Wish {
            host,
            fenced: bits >> (at % 32) & 1 == 1,
        };
        hosts.into_iter().enumerate().map(wish).collect::<Vec<Wish>>()
    });
    let parts = (
        proptest::option::of(ballot()),
        proptest::option::of(accepted),
        proptest::option::of(proposal),
    );
    (1..=u32::MAX, any::<[u8; 32]>(), any::<bool>(), wishes, parts).prop_map(
        |(number, parent, wants, wishes, (promised, accepted, proposal))| VoteRecord {
            number,
            parent,
            wants,
            wishes,
            promised,
            accepted,
            proposal,
        },
    )
}

fn exceptions() -> impl Strategy<Value = ExceptionsRecord> {
    let exception = prop_oneof![
        any::<IpAddr>().prop_map(Exception::Static),
        any::<IpAddr>().prop_map(Exception::Claimed),
        any::<IpAddr>().prop_map(Exception::Virtual),
        any::<[u8; 6]>().prop_map(|octets| Exception::ForeignMac(Mac(octets))),
    ];
    btree_set(exception, 0..=EXCEPTIONS_MAX).prop_map(|all| ExceptionsRecord {
        entries: all.into_iter().collect(),
    })
}

fn reclaimed() -> impl Strategy<Value = ReclaimRecord> {
    (any::<u32>(), 0..=65_536u32, nodes(MISSING_MAX), any::<u16>()).prop_map(
        |(epoch, slots, missing, more)| ReclaimRecord {
            epoch,
            slots,
            missing,
            more,
        },
    )
}

/// An IPv6 address without flow and scope, which do not travel.
fn socket() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn peer() -> impl Strategy<Value = PeerRecord> {
    let texts = ("[a-z0-9 ._-]{1,63}", "[a-z0-9]{0,63}", "[0-9.]{0,20}");
    let endpoints = vec(socket(), 0..=ENDPOINTS_MAX);
    (texts, any::<[u8; 32]>(), endpoints, any::<(u16, u64, u64)>()).prop_map(
        |((name, zone, version), noise, endpoints, (underlay_mtu, capabilities, boot_nonce))| PeerRecord {
            name,
            noise_static: NoisePublic(noise),
            endpoints,
            underlay_mtu,
            capabilities,
            zone,
            version,
            boot_nonce,
        },
    )
}

fn links() -> impl Strategy<Value = LinksRecord> {
    (nodes(PUBLISHED_LINKS_MAX), any::<u8>()).prop_map(|(nodes, rtt)| {
        let link = |(at, neighbour): (usize, NodeId)| PublishedLink {
            neighbour,
            rtt_log2_us: rtt.wrapping_add(at as u8),
        };
        LinksRecord {
            links: nodes.into_iter().enumerate().map(link).collect(),
        }
    })
}

fn adopt() -> impl Strategy<Value = AdoptRecord> {
    let token = vec(b'a'..=b'z', 0..=TOKEN_TEXT_MAX);
    (any::<[u8; 32]>(), token, vec(socket(), 1..=ENDPOINTS_MAX)).prop_map(|(genesis, token, endpoints)| {
        AdoptRecord {
            genesis: GenesisId(genesis),
            token: String::from_utf8(token).unwrap_or_default(),
            endpoints,
        }
    })
}

fn groups() -> impl Strategy<Value = GroupsRecord> {
    let group = prop_oneof![
        any::<u32>().prop_map(|n| IpAddr::V4((n | 0xe000_0000).into())),
        any::<u128>().prop_map(|n| IpAddr::V6((n | 0xff << 120).into())),
    ];
    let listed = vec(group, 0..=GROUPS_MAX).prop_map(|all| {
        let groups = all.into_iter().filter_map(Group::new);
        GroupsRecord::new(&Listening::to(groups))
    });
    prop_oneof![any::<u8>().prop_map(GroupsRecord::Everything), listed]
}

fn setting<T: std::fmt::Debug + Clone>(
    values: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Setting<T>> {
    (0..=SETTING_NUMBER_MAX, node(), values).prop_map(|(number, origin, value)| Setting {
        number,
        origin,
        value,
    })
}

fn fastpath() -> impl Strategy<Value = FastpathRecord> {
    let modes = || prop_oneof![Just(Encryption::Auto), Just(Encryption::All)];
    let mtu = prop_oneof![Just(0), 1_280..=POD_MTU_SET_MAX];
    let able = prop_oneof![
        Just(Ability::Able),
        Just(Ability::Declined),
        Just(Ability::NoDevice)
    ];
    (setting(modes()), setting(mtu), modes(), 1..=u16::MAX, able).prop_map(
        |(encryption, mtu, obeys, port, ability)| FastpathRecord {
            settings: Settings { encryption, mtu },
            obeys,
            port,
            ability,
        },
    )
}

fn admission() -> impl Strategy<Value = Admission> {
    (any::<[u8; 32]>(), node(), node()).prop_map(|(genesis, subject, admitter)| Admission {
        genesis: GenesisId(genesis),
        subject,
        admitter,
    })
}

/// A strategy for each kind that a host writes of itself.
pub(crate) fn own_kinds() -> Vec<BoxedStrategy<Record>> {
    vec![
        record(peer()),
        record(links()),
        record(adopt()),
        record(groups()),
        record(fastpath()),
        record(slots()),
        record(lent()),
        record(vote()),
        record(reclaimed()),
        record(exceptions()),
    ]
}

/// Those, and admissions, which others write of it.
pub(crate) fn kinds() -> Vec<BoxedStrategy<Record>> {
    let mut all = own_kinds();
    all.push(record(admission()));
    all
}
