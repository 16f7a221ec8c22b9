//! The `weft` program: router, command line and demo.
//!
//! | module | what it holds |
//! |---|---|
//! | [`cli`], [`config`] | the command line, and the options of `weft up` with their sources |
//! | [`check`] | what the address space says against what the kernel has |
//! | [`command`] | commands that ask a running router or the kernel |
//! | [`daemon`] | `weft up` |
//! | [`api`] | the local socket, both sides |
//! | [`random`] | randomness from the kernel |
//! | [`demo`] | `weft demo` |
#![forbid(unsafe_code)]

mod api;
mod check;
mod cli;
mod command;
mod config;
mod daemon;
mod demo;
mod hints;
mod random;
mod wish;

use clap::{CommandFactory as _, Parser};
use cli::{Cli, Command};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("weft: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        // Before any thread starts: it may enter a user namespace.
        Command::Demo(args) => return demo::run(args),
        Command::Up(options) => {
            let host = rustix::system::uname();
            let token = std::env::var("WEFT_TOKEN").ok().filter(|token| !token.is_empty());
            daemon::run(options.resolve(token, &host.nodename().to_string_lossy())?)?;
        }
        Command::Status(args) => command::status::status(&args)?,
        Command::Peers(args) => command::status::peers(&args)?,
        Command::Multicast(args) => command::multicast::multicast(&args)?,
        Command::Peer(args) => command::peer::peer(&args)?,
        Command::Connect(args) => command::target::connect(&args)?,
        Command::Forget(args) => command::target::forget(&args)?,
        Command::Encrypt(args) => command::encrypt::encrypt(&args)?,
        Command::Ipam(args) => return command::ipam::ipam(&args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "weft", &mut std::io::stdout());
        }
        Command::Attach(args) => command::attach::attach(&args)?,
        Command::Detach(args) => command::attach::detach(&args)?,
        Command::Token(args) => command::token::token(&args)?,
        Command::Down(args) => command::down::down(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}
