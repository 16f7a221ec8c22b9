//! `weft token`: print the join token, or make one.

use crate::cli::TokenArgs;
use anyhow::{Context, bail};
use std::io::ErrorKind;
use std::path::Path;
use weft_gossip::JoinToken;
use weft_wire::api::Token;

pub(crate) fn token(args: &TokenArgs) -> anyhow::Result<()> {
    let token = if args.generate {
        generate()?
    } else {
        stored(&args.state_dir.join("token"))?
    };
    super::print(
        args.json,
        &Token {
            token: token.trim_end().to_owned(),
        },
        token.trim_end(),
    )
}

fn stored(path: &Path) -> anyhow::Result<String> {
    match std::fs::read_to_string(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => bail!(
            "{} does not exist: this host holds no join token. Ask on a host that does, or name its state \
             directory with --state-dir",
            path.display()
        ),
        read => read.with_context(|| format!("{}", path.display())),
    }
}

/// A new token of 160 random bits, as text.
pub(crate) fn generate() -> anyhow::Result<String> {
    Ok(JoinToken::generate(&mut crate::random::rng()?).to_string())
}
