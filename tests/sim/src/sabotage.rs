//! Shells that are broken on purpose: each must be caught by an invariant, or the invariants are worth nothing.

/// What a broken shell does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Sabotage {
    /// Says that a state is durable before it is.
    EarlyPersisted,
    /// Says that an address is durable before it is.
    EarlyAnswer,
    /// Seals two datagrams under one counter now and then.
    ReusedCounter,
    /// Opens what it has opened before.
    NoReplayWindow,
    /// Starts with the incarnation of the start before.
    SameIncarnation,
    /// Takes a peer's path away when its mesh link goes down.
    VerdictCutsPath,
    /// Hands a stranger the cluster's token.
    LeakedToken,
    /// Sends a frame for one peer to another now and then.
    WrongPeer,
    /// Says that a promise in making a cluster is durable before it is.
    EarlyPromise,
    /// Takes the slots of a host that is to be removed without asking anybody.
    PlainTakeover,
    /// Gives out what is free on its disk once the node refuses, since its host was removed.
    Unremoved,
}

impl Sabotage {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::EarlyPersisted,
        Self::EarlyAnswer,
        Self::ReusedCounter,
        Self::NoReplayWindow,
        Self::SameIncarnation,
        Self::VerdictCutsPath,
        Self::LeakedToken,
        Self::WrongPeer,
        Self::EarlyPromise,
        Self::PlainTakeover,
        Self::Unremoved,
    ];
}
