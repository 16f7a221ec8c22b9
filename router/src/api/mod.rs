//! The local API: HTTP with JSON bodies on a unix socket. docs/api.md lists the calls; [`weft_wire::api`] has the bodies.
//!
//! | module | what it holds |
//! |---|---|
//! | [`server`] | the router's side: who may call what, and passing it on to the node's task |
//! | [`check`] | `weft ipam check`: asks node, kernel and disk |
//! | [`leave`] | `weft down --leave`: handing on, and giving the identity up |
//! | [`client`] | the command line's side |
//!
//! Whoever may open the socket may read; only root changes anything. The data path never waits for any of it: the
//! engine's threads do not know the API, and the node's task answers from memory.

mod check;
pub(crate) mod client;
mod leave;
pub(crate) mod server;
