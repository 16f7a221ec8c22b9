//! The local API: HTTP with JSON bodies on a unix socket.
//!
//! | call | who | what |
//! |---|---|---|
//! | `GET /v1/status` | whoever may open the socket | [`weft_wire::api::Status`] |
//! | `POST /v1/pods` | root | how to wire a pod: [`weft_wire::api::PodPlan`] |
//! | `POST /v1/connect`, `POST /v1/forget` | root | try an address, or stop trying it |
//! | `POST /v1/stop` | root | stops the router; kernel objects stay |

pub(crate) mod client;
pub(crate) mod server;
