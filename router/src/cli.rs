//! The command line.

use crate::config::{DEFAULT_SOCKET, EncryptName, UpOptions};
use crate::demo::DemoArgs;
use crate::wish::{Named, parse_timeout};
use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A container network: one encrypted Ethernet for the pods of many hosts.
#[derive(Parser)]
#[command(name = "weft", version, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  weft up                                        make a cluster on this host
  weft token                                     print the token that lets others join
  weft up --peer 192.0.2.1 --token-file token    join it on another host
  weft attach /run/netns/pod1                    connect a network namespace
  weft status                                    see who is connected, and how
  weft demo                                      see all of it on this one machine";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run the router: make a cluster, or join one.
    #[command(after_help = UP_EXAMPLES)]
    Up(Box<UpOptions>),
    /// Show this host's router: who is connected, how, and what is wrong.
    #[command(after_help = STATUS_EXAMPLES)]
    Status(StatusArgs),
    /// List all peers, with how frames reach them and why.
    #[command(after_help = PEERS_EXAMPLES)]
    Peers(StatusArgs),
    /// Show to which multicast groups pods listen, and which hosts get their frames.
    #[command(after_help = MULTICAST_EXAMPLES)]
    Multicast(StatusArgs),
    /// Remove hosts that are gone for good from the cluster.
    #[command(after_help = PEER_EXAMPLES)]
    Peer(PeerArgs),
    /// Try an address at which a host of the cluster listens, until it answers.
    #[command(after_help = CONNECT_EXAMPLES)]
    Connect(TargetArgs),
    /// Stop trying an address; a connection that stands stays.
    #[command(after_help = FORGET_EXAMPLES)]
    Forget(TargetArgs),
    /// Show what is encrypted between hosts, or say it for the whole cluster.
    #[command(after_help = ENCRYPT_EXAMPLES)]
    Encrypt(EncryptArgs),
    /// Connect a network namespace to the cluster's Ethernet.
    #[command(after_help = ATTACH_EXAMPLES)]
    Attach(AttachArgs),
    /// Disconnect a network namespace.
    #[command(after_help = DETACH_EXAMPLES)]
    Detach(DetachArgs),
    /// Print the token that lets other hosts join this cluster.
    #[command(after_help = TOKEN_EXAMPLES)]
    Token(TokenArgs),
    /// Stop the router and remove bridge and ports from the kernel.
    #[command(after_help = DOWN_EXAMPLES)]
    Down(DownArgs),
    /// Show who owns which addresses, and give addresses out by hand.
    #[command(after_help = IPAM_EXAMPLES)]
    Ipam(IpamArgs),
    /// Print completions for a shell, to be sourced.
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Show weft at work on this one machine: hosts and pods in namespaces, real routers, real traffic.
    #[command(after_help = DEMO_EXAMPLES)]
    Demo(DemoArgs),
}

const UP_EXAMPLES: &str = "\
Examples:
  weft up                                              make a cluster
  weft up --peer a.example --token-file /etc/weft/token    join one
  weft up --found --peer b.example --token-file token  make one that b will join
  weft up --expect 3 --peer a,b,c --token-file token   on a, b and c, in any order: make one
                                                       together; the token is of
                                                       `weft token --generate`

Ctrl-C or SIGTERM stops the router and leaves bridge and pods as they are;
`weft down` removes them.";

const ATTACH_EXAMPLES: &str = "\
Examples:
  weft attach /run/netns/pod1
  weft attach /proc/4711/ns/net --ip 10.32.0.2 --id web
  weft attach /run/netns/pod1 --subnet 10.32.7.0/24       an address of this part of the range
  weft attach /run/netns/pod1 --ip 10.32.7.5/24 --subnet 10.32.8.0/24    two on one interface";

const STATUS_EXAMPLES: &str = "\
Examples:
  weft status                                       one screen
  weft status --json | jq -r '.warnings[]'          what somebody should look at
  weft status --json | jq '.ipam.waiting'           which pods wait for an address, and for what";

const PEERS_EXAMPLES: &str = "\
Examples:
  weft peers
  weft peers --json | jq -r '.[] | select(.mode == \"none\") | .name + \": \" + .reason'";

const MULTICAST_EXAMPLES: &str = "\
Examples:
  weft multicast
  weft multicast --json | jq -r '.groups[] | select(.group == \"239.1.1.1\") | .hosts[]'

Groups of the link, 224.0.0.0/24 and ff02::/16, go to every host and are not listed.";

const PEER_EXAMPLES: &str = "\
Examples:
  weft peer remove c                  a majority of the members decides it
  weft peer remove c d --fenced       they are off for good: you vouch for it
  weft peer keep c                    ask no longer";

const REMOVE_EXAMPLES: &str = "\
Examples:
  weft peer remove c                  waits, and says whose word is missing
  weft peer remove c --no-wait        weft ipam shows how far it is
  weft peer remove c --fenced         also where no majority is left, as one of two hosts

The addresses of a removed host rest a day before they are given out, because it may
be alive and not know. --fenced gives them out at once, and counts only the votes
of the hosts that stay. If a host that you vouch for is alive after all, both sides
give out the same addresses until they meet.";

const KEEP_EXAMPLES: &str =
    "Examples:\n  weft peer keep c                    what is decided already stays so";

const CONNECT_EXAMPLES: &str = "\
Examples:
  weft connect 192.0.2.1
  weft connect a.example:6783";

const ENCRYPT_EXAMPLES: &str = "\
Examples:
  weft encrypt                    what is in force, and who does not follow yet
  weft encrypt all                everything; waits until every host does so
  weft encrypt auto               hosts on private networks exchange frames at the speed of
                                  the kernel, unencrypted

One word on one host is enough. What is under way is not lost in either direction.";

const FORGET_EXAMPLES: &str = "\
Examples:
  weft forget 192.0.2.1          its other addresses are still tried
  weft status                    names the addresses that are tried and not reached";

const DETACH_EXAMPLES: &str = "\
Examples:
  weft detach /run/netns/pod1    as it was given to `weft attach`
  weft detach web                or its --id";

const TOKEN_EXAMPLES: &str = "\
Examples:
  weft token > token             then copy it to the host that shall join
  weft token --generate > token  for a cluster that is still to be made: copy it to all hosts,
                                 then on each: weft up --expect 3 --peer a,b,c --token-file token";

const DOWN_EXAMPLES: &str = "\
Examples:
  weft down                      refuses while pods are attached
  weft down --force              takes the network away from under them
  weft down --leave              hands this host's addresses to the others first, and does not come back";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  source <(weft completions bash)
  weft completions fish > ~/.config/fish/completions/weft.fish";

const DEMO_EXAMPLES: &str = "\
Examples:
  weft demo
  weft demo --hosts 3 --bytes 1G
  weft demo --keep               and step in";

const IPAM_EXAMPLES: &str = "\
Examples:
  weft ipam                           who owns which ranges, what is free here
  weft ipam check                     whether all of it agrees with kernel, disk and other hosts
  weft ipam allocate db               an address for something that weft does not attach
  weft ipam claim db 10.32.0.9        this address
  weft ipam lookup 10.32.0.9          where it lives
  weft ipam lookup db                 which addresses db has
  weft ipam free db                   give them back";

const CHECK_EXAMPLES: &str = "\
Examples:
  weft ipam check
  weft ipam check --json | jq -r '.findings[] | select(.wrong) | .what + \": \" + .cure'";
const ALLOCATE_EXAMPLES: &str = "\
Examples:
  weft ipam allocate db
  weft ipam allocate db --subnet 10.32.7.0/24    a further one, of this part of the range";
const CLAIM_EXAMPLES: &str = "\
Examples:
  weft ipam claim db 10.32.0.9
  weft ipam claim db 10.32.7.5/24 --timeout 2s   as one of a subnet";
const FREE_EXAMPLES: &str = "Examples:\n  weft ipam free db                 all that it has\n  weft ipam free db 10.32.0.9       this one";
const ADOPT_EXAMPLES: &str = "\
Examples:
  weft status                                               names the other cluster and a host of it
  weft ipam adopt --peer 192.0.2.1                          both clusters have the same token
  weft ipam adopt --peer 192.0.2.1 --token-file token       they have not
  weft ipam                                                 lists addresses that somebody else has there

Run it on one host of the side that shall yield; the other hosts of that side follow.";
const LOOKUP_EXAMPLES: &str = "Examples:\n  weft ipam lookup 10.32.0.9        where it lives\n  weft ipam lookup db               which it has";

#[derive(Args)]
pub(crate) struct IpamArgs {
    #[command(subcommand)]
    pub(crate) command: Option<IpamCommand>,
    /// Print JSON; its fields are stable.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Unix socket of the router.
    #[arg(long, global = true, value_name = "FILE", env = "WEFT_SOCKET", default_value = DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,
}

#[derive(Subcommand)]
pub(crate) enum IpamCommand {
    /// Check that addresses, kernel, disk and the other hosts agree, and say what to do where they do not. Fails when
    /// something is wrong.
    #[command(after_help = CHECK_EXAMPLES)]
    Check,
    /// Give an address to ID; the same ID gets the same one again.
    #[command(after_help = ALLOCATE_EXAMPLES)]
    Allocate {
        /// Name of what gets it.
        id: String,
        /// Part of the cluster's range of which the address shall be [default: the whole range].
        #[arg(long, value_name = "CIDR")]
        subnet: Option<IpNet>,
        #[command(flatten)]
        patience: Patience,
    },
    /// Give this address to ID.
    #[command(after_help = CLAIM_EXAMPLES)]
    Claim {
        /// Name of what gets it.
        id: String,
        /// The address; with a prefix length, as 10.32.7.5/24, it is one of that subnet.
        address: Named,
        #[command(flatten)]
        patience: Patience,
    },
    /// Take back the addresses of ID, or one of them.
    #[command(after_help = FREE_EXAMPLES)]
    Free {
        /// Name of what has them.
        id: String,
        /// This one only.
        address: Option<IpAddr>,
    },
    /// Leave this cluster for another one that was met, with all hosts of this one; pods run on and keep their addresses
    /// where nobody else has them.
    #[command(after_help = ADOPT_EXAMPLES)]
    Adopt {
        /// HOST or HOST:PORT of the other cluster [default: one that was met].
        #[arg(long, value_name = "HOST")]
        peer: Option<String>,
        /// File that holds the other cluster's join token [default: the token of this cluster].
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
    /// Tell which addresses an ID has, or where an address lives.
    #[command(after_help = LOOKUP_EXAMPLES)]
    Lookup {
        /// An ID or an address.
        what: String,
    },
}

/// How long an address may take.
#[derive(Args)]
pub(crate) struct Patience {
    /// How long to wait for an address that has to come from another host, as 500ms or 5s; 60s at most [default: 10s].
    #[arg(long, value_name = "TIME", value_parser = parse_timeout)]
    pub(crate) timeout: Option<Duration>,
}

/// Where the router is asked, and how its answer is shown.
#[derive(Args)]
pub(crate) struct RouterArgs {
    /// Print JSON; its fields are stable.
    #[arg(long)]
    pub(crate) json: bool,
    /// Unix socket of the router.
    #[arg(long, value_name = "FILE", env = "WEFT_SOCKET", default_value = DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,
}

#[derive(Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) router: RouterArgs,
}

#[derive(Args)]
pub(crate) struct AttachArgs {
    /// The namespace: a path as /run/netns/NAME or /proc/PID/ns/net, or a name under /run/netns.
    pub(crate) netns: PathBuf,
    /// Address for the pod, from the cluster's range [default: weft chooses one]. With a prefix length, as
    /// 10.32.7.5/24, it is one of that subnet. Given several times, the pod gets them all.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip: Vec<Named>,
    /// Part of the cluster's range of which weft chooses an address. Given several times, the pod gets one of each,
    /// behind those of --ip.
    #[arg(long, value_name = "CIDR")]
    pub(crate) subnet: Vec<IpNet>,
    #[command(flatten)]
    pub(crate) patience: Patience,
    /// Name of the attachment on this host [default: the namespace as given].
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// Name of the interface inside the pod.
    #[arg(long, default_value = "eth0")]
    pub(crate) ifname: String,
    #[command(flatten)]
    pub(crate) router: RouterArgs,
}

#[derive(Args)]
pub(crate) struct DetachArgs {
    /// The namespace as it was given to `weft attach`, or the --id.
    pub(crate) netns: PathBuf,
    #[command(flatten)]
    pub(crate) router: RouterArgs,
}

#[derive(Args)]
pub(crate) struct TokenArgs {
    /// Make a new token instead, for a cluster that is still to be made.
    #[arg(long)]
    pub(crate) generate: bool,
    /// Print JSON; its fields are stable.
    #[arg(long)]
    pub(crate) json: bool,
    /// Directory of the durable state.
    #[arg(long, value_name = "DIR", env = "WEFT_STATE_DIR", default_value = crate::config::DEFAULT_STATE_DIR)]
    pub(crate) state_dir: PathBuf,
}

#[derive(Args)]
pub(crate) struct TargetArgs {
    /// HOST or HOST:PORT.
    pub(crate) target: String,
    #[command(flatten)]
    pub(crate) router: RouterArgs,
}

#[derive(Args)]
pub(crate) struct EncryptArgs {
    /// What to encrypt from now on; without it, what is in force is shown.
    #[arg(value_enum)]
    pub(crate) setting: Option<EncryptName>,
    /// Do not wait until every host does what it says.
    #[arg(long, requires = "setting")]
    pub(crate) no_wait: bool,
    #[command(flatten)]
    pub(crate) router: RouterArgs,
}

#[derive(Args)]
pub(crate) struct PeerArgs {
    #[command(subcommand)]
    pub(crate) command: PeerCommand,
    /// Print JSON; its fields are stable.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Unix socket of the router.
    #[arg(long, global = true, value_name = "FILE", env = "WEFT_SOCKET", default_value = DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,
}

#[derive(Subcommand)]
pub(crate) enum PeerCommand {
    /// Remove hosts from the cluster for ever; their addresses get new owners.
    #[command(after_help = REMOVE_EXAMPLES)]
    Remove(RemoveArgs),
    /// Ask for a removal no longer.
    #[command(after_help = KEEP_EXAMPLES)]
    Keep(KeepArgs),
}

#[derive(Args)]
pub(crate) struct RemoveArgs {
    /// Nicknames, ids, or the first eight digits of ids or more.
    #[arg(required = true, value_name = "HOST")]
    pub(crate) hosts: Vec<String>,
    /// Vouch that they are off for good: their votes do not count, and their addresses are given out at once.
    #[arg(long)]
    pub(crate) fenced: bool,
    /// Also a host that is connected just now.
    #[arg(long)]
    pub(crate) force: bool,
    /// Do not wait until it is done.
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Args)]
pub(crate) struct KeepArgs {
    /// Nicknames, ids, or the first eight digits of ids or more.
    #[arg(required = true, value_name = "HOST")]
    pub(crate) hosts: Vec<String>,
}

#[derive(Args)]
pub(crate) struct DownArgs {
    /// Detach the pods that are still attached. With --leave, leave also where not all can be handed on in time.
    #[arg(long)]
    pub(crate) force: bool,
    /// Leave the cluster for good: hand this host's addresses to the others, have them go on without it, and keep its
    /// identity aside.
    #[arg(long)]
    pub(crate) leave: bool,
    /// How long leaving may take, in seconds; freed addresses rest for a minute first.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, requires = "leave")]
    pub(crate) deadline: u64,
    #[command(flatten)]
    pub(crate) router: RouterArgs,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    /// Commands whose output is no answer: a daemon with a log, and a script for a shell.
    const WITHOUT_JSON: [&str; 2] = ["up", "completions"];

    fn check(command: &clap::Command, path: &str) {
        // `help` comes with the library.
        for command in command
            .get_subcommands()
            .filter(|command| command.get_name() != "help")
        {
            let name = command.get_name();
            let path = format!("{path} {name}");
            let help = command.clone().render_long_help().to_string();
            assert!(
                help.contains("Examples:") && help.contains(&path),
                "`{path} --help` shows no example of it:\n{help}"
            );
            let has_json = command.get_arguments().any(|arg| arg.get_long() == Some("json"));
            assert!(
                has_json != WITHOUT_JSON.contains(&name),
                "`{path}` and --json: {has_json}"
            );
            check(command, &path);
        }
    }

    #[test]
    fn every_command_has_examples_and_json() {
        let mut cli = Cli::command();
        // Hands global options down.
        cli.build();
        check(&cli, "weft");
    }
}
