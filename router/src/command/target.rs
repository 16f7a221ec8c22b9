//! `weft connect` and `weft forget`: which addresses the router tries.

use crate::api::client::Client;
use crate::cli::TargetArgs;
use weft_wire::api::{Target, TargetRequest};

pub(crate) fn connect(args: &TargetArgs) -> anyhow::Result<()> {
    let told = tell(args, "/v1/connect")?;
    let words = format!("trying {}; `weft status` shows how it goes", told.target);
    super::print(args.router.json, &told, &words)
}

pub(crate) fn forget(args: &TargetArgs) -> anyhow::Result<()> {
    let told = tell(args, "/v1/forget")?;
    let words = format!("no longer trying {}; a connection that stands stays", told.target);
    super::print(args.router.json, &told, &words)
}

fn tell(args: &TargetArgs, path: &str) -> anyhow::Result<Target> {
    let request = TargetRequest {
        target: args.target.clone(),
    };
    let client = Client::new(&args.router.socket);
    super::block_on(super::ASKING, client.post(path, &request))
}
