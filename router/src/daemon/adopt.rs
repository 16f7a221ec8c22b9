//! The shell's part when this host becomes a new member: its state is replaced, and whoever asked for it hears how it went.

use super::{Daemon, SaveToken};
use crate::config::parse_peer;
use tokio::sync::oneshot;
use weft_node::Input;
use weft_node::again::{Beginning, Token};
use weft_store::{Again, Save};
use weft_wire::Psk;
use weft_wire::api::{AdoptRequest, Adopted, ApiError, ErrorReason};

impl Daemon {
    /// The operator wants this host and the others of its cluster to adopt another one.
    pub(super) fn adopt(
        &mut self,
        request: AdoptRequest,
        psk: Option<Psk>,
        answer: oneshot::Sender<Result<Adopted, ApiError>>,
    ) {
        let AdoptRequest { peer, token } = request;
        let target = match peer.map(|peer| parse_peer(&peer, self.port)).transpose() {
            Ok(target) => target,
            Err(error) => {
                // Whoever asked may have gone; then nobody needs the answer.
                let _ = answer.send(Err(ApiError::new(ErrorReason::Malformed, error.to_string())));
                return;
            }
        };
        self.adopting.retain(|other| !other.is_closed());
        if !self.adopting.is_empty() {
            let _ = answer.send(Err(ApiError::new(
                ErrorReason::JoiningAnother,
                "this host joins another cluster already: wait for how that goes",
            )));
            return;
        }
        if let Some(why) = &self.disk_trouble {
            let _ = answer.send(Err(ApiError::new(ErrorReason::Unwritable, why.clone())));
            return;
        }
        let token = token.zip(psk).map(|(text, psk)| Token { text, psk });
        self.adopting.push(answer);
        self.input(Input::Adopt { target, token });
    }

    pub(super) fn adopted(&mut self, result: Result<Adopted, String>) {
        let result = result.map_err(|why| ApiError::new(ErrorReason::NotAdopted, why));
        for answer in self.adopting.drain(..) {
            let _ = answer.send(result.clone());
        }
    }

    /// Has all that this host was replaced by what it is from now on.
    pub(super) fn begin_again(&mut self, beginning: Beginning) {
        let Beginning {
            key,
            noise,
            state,
            claims,
            token,
            targets,
        } = beginning;
        let again = Again {
            key,
            noise,
            durable: state,
            claims,
            token,
            targets,
        };
        self.save(SaveToken::Again, Save::Again(Box::new(again)));
    }
}
