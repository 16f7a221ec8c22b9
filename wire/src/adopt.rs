//! The record by which a host tells the others of its cluster that they all move to another one.

use crate::envelope::KindNumber;
use crate::id::GenesisId;
use crate::limits::ENDPOINTS_MAX;
use crate::record::Body;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;
use serde::{Deserialize, Serialize};

/// Octets of a token's text in the record: a generated one has 42, a password rarely a third of this.
pub const TOKEN_TEXT_MAX: usize = 256;

/// "We adopt this cluster": a host writes it when it has been let in there, before it goes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptRecord {
    /// The cluster that is joined.
    pub genesis: GenesisId,
    /// Its join token, which members tell each other as they tell newcomers the cluster secret; empty when it is the
    /// one that both clusters have.
    pub token: String,
    /// Where hosts of that cluster listen; at least one.
    pub endpoints: Vec<SocketAddr>,
}

impl core::fmt::Debug for AdoptRecord {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // Whoever has the token can join.
        write!(f, "AdoptRecord({:?} at {:?})", self.genesis, self.endpoints)
    }
}

impl Body for AdoptRecord {
    const KIND: KindNumber = KindNumber(6);
    fn is_within_bounds(&self) -> bool {
        (1..=ENDPOINTS_MAX).contains(&self.endpoints.len()) && self.token.len() <= TOKEN_TEXT_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Stamp;
    use crate::id::NodeKey;

    #[test]
    fn it_survives_its_envelope_and_names_somebody_to_ask() {
        let key = NodeKey::from_seed([1; 32]);
        let stamp = Stamp {
            incarnation: 1,
            version: 1,
        };
        let mut record = AdoptRecord {
            genesis: GenesisId([7; 32]),
            token: "weft1-secret".into(),
            endpoints: alloc::vec!["192.0.2.1:6783".parse().unwrap()],
        };
        assert!(!format!("{record:?}").contains("secret"));
        let envelope = record.to_envelope(&key, key.id(), stamp).unwrap();
        assert_eq!(AdoptRecord::from_envelope(&envelope), Ok(record.clone()));
        record.token = "x".repeat(TOKEN_TEXT_MAX + 1);
        assert!(!record.is_within_bounds());
        record.token.clear();
        record.endpoints.clear();
        assert!(!record.is_within_bounds());
    }
}
