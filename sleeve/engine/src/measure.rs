//! What a session costs by itself, for whoever measures it: the sessions of both ends, without the workers around them.

use weft_sleeve::{Cipher, SessionKeys};
use weft_wire::datagram::{Header, Kind};
use weft_wire::{DropReason, NodeId, SessionIndex};

use crate::engine::EngineError;
use crate::session::Session;

/// The sessions of two ends that have agreed on keys.
pub struct SessionPair {
    sender: Session,
    receiver: Session,
}

impl SessionPair {
    /// Sessions that work as those of an engine do; `key` is that of the one direction in which datagrams go.
    ///
    /// # Errors
    /// [`EngineError::Keys`].
    pub fn new(cipher: Cipher, key: [u8; 32]) -> Result<Self, EngineError> {
        let index = SessionIndex(1);
        let keys = SessionKeys {
            local: index,
            remote: index,
            peer: NodeId([0; 32]),
            cipher,
            send: key,
            receive: key,
        };
        let session = || Session::new(&keys, Default::default()).map_err(|_| EngineError::Keys);
        Ok(Self {
            sender: session()?,
            receiver: session()?,
        })
    }

    /// Completes a DATA datagram in place: the content stands behind the room for the header and before the room for
    /// the tag.
    ///
    /// # Errors
    /// When there is no such room.
    pub fn seal(&self, datagram: &mut [u8]) -> Result<(), DropReason> {
        self.sender.seal(Kind::Data, 0, datagram)
    }

    /// Checks and opens, in place, a datagram that was sealed, and returns its content.
    ///
    /// # Errors
    /// When it was not sealed here, or was opened before.
    pub fn open<'a>(&self, datagram: &'a mut [u8]) -> Result<&'a mut [u8], DropReason> {
        let header = Header::parse(datagram).map_err(|_| DropReason::DatagramTooShort)?;
        self.receiver.opening().open(&header, datagram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_wire::datagram::{HEADER_LEN, TAG_LEN};

    #[test]
    fn what_one_end_seals_the_other_opens_once() {
        let pair = SessionPair::new(Cipher::Aes256Gcm, [7; 32]).unwrap();
        let mut datagram = [&[0; HEADER_LEN][..], b"hello", &[0; TAG_LEN]].concat();
        pair.seal(&mut datagram).unwrap();
        let again = datagram.clone();
        assert_eq!(pair.open(&mut datagram).unwrap(), b"hello");
        assert!(pair.open(&mut again.clone()).is_err());
    }
}
