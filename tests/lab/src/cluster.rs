//! Hosts on one switch with a router on each, in one mesh.

use std::time::Duration;

use weft_wire::api::ClusterStatus;

use crate::error::Result;
use crate::lab::Lab;
use crate::router::Router;
use crate::switch::Switch;

impl Lab {
    /// Makes hosts with these names on one switch and waits until each has a session with every other. The first founds
    /// the cluster, with `found` as further arguments; the others join it.
    ///
    /// # Errors
    /// When the kernel or the program refuses, or when a step takes longer than `patience`.
    pub fn cluster(
        &self,
        names: &[&str],
        found: &[&str],
        patience: Duration,
    ) -> Result<(Switch, Vec<Router>)> {
        let switch = self.switch()?;
        let mut routers: Vec<Router> = Vec::new();
        for name in names {
            let host = self.host(name).on(&switch).build()?;
            let router = match routers.first() {
                None => host.up([&["--found"], found].concat())?,
                Some(founder) => {
                    let peer = founder.host().address()?.to_string();
                    let token = self.secret_file("token", &founder.token()?)?;
                    host.up([
                        "--peer".as_ref(),
                        peer.as_ref(),
                        "--token-file".as_ref(),
                        token.as_os_str(),
                    ])?
                }
            };
            router.wait_until("it is a member", patience, |status| {
                matches!(status.cluster, ClusterStatus::Member { .. })
            })?;
            routers.push(router);
        }
        for router in &routers {
            router.wait_for_peers(names.len().saturating_sub(1), patience)?;
        }
        Ok((switch, routers))
    }
}
