//! `weft connect` and `weft forget`: which addresses the router tries.

use crate::api::client::Client;
use crate::cli::TargetArgs;
use weft_wire::api::TargetRequest;

pub(crate) fn connect(args: &TargetArgs) -> anyhow::Result<()> {
    tell(args, "/v1/connect")?;
    println!("trying {}; `weft status` shows how it goes", args.target);
    Ok(())
}

pub(crate) fn forget(args: &TargetArgs) -> anyhow::Result<()> {
    tell(args, "/v1/forget")?;
    println!("no longer trying {}; a connection that stands stays", args.target);
    Ok(())
}

fn tell(args: &TargetArgs, path: &str) -> anyhow::Result<()> {
    let request = TargetRequest {
        target: args.target.clone(),
    };
    let client = Client::new(&args.router.socket);
    super::block_on(async { client.tell(path, &request).await })
}
