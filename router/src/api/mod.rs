//! The local API: HTTP with JSON bodies on a unix socket.
//!
//! | call | who | what |
//! |---|---|---|
//! | `GET /v1/status` | whoever may open the socket | [`weft_wire::api::Status`] |
//! | `POST /v1/pods` | root | an address for a pod, and how to wire it: [`weft_wire::api::PodPlan`] |
//! | `POST /v1/pods/free` | root | a pod is gone: [`weft_wire::api::PodAddresses`] |
//! | `GET /v1/pods/{id}` | whoever may open the socket | [`weft_wire::api::PodAddresses`] |
//! | `GET /v1/addresses/{address}` | whoever may open the socket | [`weft_wire::api::AddressPlace`] |
//! | `GET /v1/ipam` | whoever may open the socket | [`weft_wire::api::IpamStatus`] |
//! | `POST /v1/connect`, `POST /v1/forget` | root | try an address, or stop trying it |
//! | `POST /v1/stop` | root | stops the router; kernel objects stay |

pub(crate) mod client;
pub(crate) mod server;
