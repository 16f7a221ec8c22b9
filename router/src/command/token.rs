//! `weft token`: print the join token, or make one.

use crate::cli::TokenArgs;
use anyhow::{Context, bail};
use std::io::ErrorKind;
use weft_gossip::JoinToken;

pub(crate) fn token(args: &TokenArgs) -> anyhow::Result<()> {
    if args.generate {
        println!("{}", generate()?);
        return Ok(());
    }
    let path = args.state_dir.join("token");
    match std::fs::read_to_string(&path) {
        Ok(text) => print!("{text}"),
        Err(e) if e.kind() == ErrorKind::NotFound => bail!(
            "{} does not exist: this host holds no join token. Ask on a host that does, or name its state \
             directory with --state-dir",
            path.display()
        ),
        Err(e) => return Err(e).with_context(|| format!("{}", path.display())),
    }
    Ok(())
}

/// A new token of 160 random bits, as text.
pub(crate) fn generate() -> anyhow::Result<String> {
    Ok(JoinToken::generate(&mut crate::random::rng()?).to_string())
}
