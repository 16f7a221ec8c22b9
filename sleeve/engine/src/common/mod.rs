//! What every engine is made of.
//!
//! | module | what it holds |
//! |---|---|
//! | [`shared`] | socket, sessions and tables: what all workers and the control thread use |
//! | [`probes`] | questions about the path, and answers to those of peers |
//! | [`inlet`] | from a datagram to the frame in it: every check that all engines make |
//! | [`outlet`] | the socket as a sending worker sees it |
//! | [`relay`] | datagrams of others, passed on unread |
//! | [`pieces`] | frames larger than the path |
//! | [`workers`] | the threads, and their end |

pub(crate) mod inlet;
pub(crate) mod outlet;
pub(crate) mod pieces;
mod probes;
pub(crate) mod relay;
pub(crate) mod shared;
pub(crate) mod workers;
