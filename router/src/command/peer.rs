//! `weft peer`: hosts that are to leave the cluster without their own doing.

use crate::api::client::Client;
use crate::cli::{KeepArgs, PeerArgs, PeerCommand, RemoveArgs};
use std::cell::RefCell;
use std::time::Duration;
use weft_wire::api::{
    HostName, IpamStatus, KeepRequest, RemovalAsked, RemovalDone, RemovalStatus, RemoveRequest,
};

/// How often the router is asked how far it is.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Without a terminal, what it waits for is said when it changes, and after this the first time.
const FIRST_WORD: Duration = Duration::from_secs(2);

pub(crate) fn peer(args: &PeerArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.socket);
    match &args.command {
        PeerCommand::Remove(what) => remove(&client, what, args.json),
        PeerCommand::Keep(what) => keep(&client, what, args.json),
    }
}

fn remove(client: &Client, args: &RemoveArgs, is_json: bool) -> anyhow::Result<()> {
    let request = RemoveRequest {
        hosts: args.hosts.clone(),
        fenced: args.fenced,
        force: args.force,
    };
    let asked: RemovalAsked = super::block_on(super::ASKING, client.post("/v1/peers/remove", &request))?;
    let hosts = asked.hosts;
    let names = join(&hosts);
    if args.no_wait {
        let words = format!("{names}: asked for; `weft ipam` says what it waits for");
        return super::print(is_json, &RemovalDone { hosts, done: false }, &words);
    }
    let what = format!("removing {names} (Ctrl-C leaves it going on)");
    let waits_for = RefCell::new(None);
    let detail = async || waits_for.borrow().clone();
    super::block_on_watched(&what, detail, async { wait(client, &hosts, &waits_for).await })?;
    let words = format!("removed {names}; all their addresses have a new owner");
    super::print(is_json, &RemovalDone { hosts, done: true }, &words)
}

/// Waits until hosts are removed and nobody is missing for their slots.
async fn wait(
    client: &Client,
    hosts: &[HostName],
    waits_for: &RefCell<Option<String>>,
) -> anyhow::Result<()> {
    let is_loud = !std::io::IsTerminal::is_terminal(&std::io::stderr());
    let begun = tokio::time::Instant::now();
    loop {
        let status: IpamStatus = client.get("/v1/ipam").await?;
        let open = open(&status, hosts);
        if open.is_empty() && hosts.iter().all(|host| is_among(host, &status.removed)) {
            return Ok(());
        }
        let words = open.first().map(|removal| removal.waits_for.clone());
        let is_news = *waits_for.borrow() != words;
        if is_loud && is_news && begun.elapsed() >= FIRST_WORD {
            eprintln!("weft: {}", words.as_deref().unwrap_or("waiting for the members"));
        }
        if !is_loud || begun.elapsed() >= FIRST_WORD {
            *waits_for.borrow_mut() = words;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Removals that concern these hosts.
fn open<'a>(status: &'a IpamStatus, hosts: &[HostName]) -> Vec<&'a RemovalStatus> {
    let concerns = |removal: &&RemovalStatus| removal.hosts.iter().any(|host| is_among(host, hosts));
    status.removals.iter().filter(concerns).collect()
}

fn is_among(host: &HostName, hosts: &[HostName]) -> bool {
    hosts.iter().any(|other| other.node == host.node)
}

fn keep(client: &Client, args: &KeepArgs, is_json: bool) -> anyhow::Result<()> {
    let request = KeepRequest {
        hosts: args.hosts.clone(),
    };
    let asked: RemovalAsked = super::block_on(super::ASKING, client.post("/v1/peers/keep", &request))?;
    let words = format!(
        "{}: no longer asked for here; what is decided already stays so",
        join(&asked.hosts)
    );
    super::print(is_json, &asked, &words)
}

fn join(hosts: &[HostName]) -> String {
    let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
    names.join(", ")
}
