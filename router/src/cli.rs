//! The command line.

use crate::config::{DEFAULT_SOCKET, UpOptions};
use crate::demo::DemoArgs;
use clap::{Args, Parser, Subcommand};
use std::net::IpAddr;
use std::path::PathBuf;

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
    Status(StatusArgs),
    /// List all peers, with how frames reach them and why.
    Peers(StatusArgs),
    /// Try an address at which a host of the cluster listens, until it answers.
    Connect(TargetArgs),
    /// Stop trying an address; a connection that stands stays.
    Forget(TargetArgs),
    /// Connect a network namespace to the cluster's Ethernet.
    #[command(after_help = ATTACH_EXAMPLES)]
    Attach(AttachArgs),
    /// Disconnect a network namespace.
    Detach(DetachArgs),
    /// Print the token that lets other hosts join this cluster.
    Token(TokenArgs),
    /// Stop the router and remove bridge and ports from the kernel.
    Down(DownArgs),
    /// Show who owns which addresses, and give addresses out by hand.
    #[command(after_help = IPAM_EXAMPLES)]
    Ipam(IpamArgs),
    /// Print completions for a shell, to be sourced.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Show weft at work on this one machine: hosts and pods in namespaces, real routers, real traffic.
    Demo(DemoArgs),
}

const UP_EXAMPLES: &str = "\
Examples:
  weft up                                              make a cluster
  weft up --peer a.example --token-file /etc/weft/token    join one
  weft up --found --peer b.example --token-file token  make one that b will join

Ctrl-C or SIGTERM stops the router and leaves bridge and pods as they are;
`weft down` removes them.";

const ATTACH_EXAMPLES: &str = "\
Examples:
  weft attach /run/netns/pod1
  weft attach /proc/4711/ns/net --ip 10.32.0.2 --id web";

const IPAM_EXAMPLES: &str = "\
Examples:
  weft ipam                           who owns which ranges, what is free here
  weft ipam allocate db               an address for something that weft does not attach
  weft ipam claim db 10.32.0.9        this address
  weft ipam lookup 10.32.0.9          where it lives
  weft ipam lookup db                 which addresses db has
  weft ipam free db                   give them back";

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
    /// Give an address to ID; the same ID gets the same one again.
    Allocate {
        /// Name of what gets it.
        id: String,
    },
    /// Give this address to ID.
    Claim {
        /// Name of what gets it.
        id: String,
        /// The address.
        address: IpAddr,
    },
    /// Take back the addresses of ID, or one of them.
    Free {
        /// Name of what has them.
        id: String,
        /// This one only.
        address: Option<IpAddr>,
    },
    /// Tell which addresses an ID has, or where an address lives.
    Lookup {
        /// An ID or an address.
        what: String,
    },
}

/// Where the router is asked.
#[derive(Args)]
pub(crate) struct SocketArg {
    /// Unix socket of the router.
    #[arg(long, value_name = "FILE", env = "WEFT_SOCKET", default_value = DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,
}

#[derive(Args)]
pub(crate) struct StatusArgs {
    /// Print JSON; its fields are stable.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) router: SocketArg,
}

#[derive(Args)]
pub(crate) struct AttachArgs {
    /// The namespace: a path as /run/netns/NAME or /proc/PID/ns/net, or a name under /run/netns.
    pub(crate) netns: PathBuf,
    /// Address for the pod, from the cluster's range [default: weft chooses one].
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip: Option<IpAddr>,
    /// Name of the attachment on this host [default: the namespace as given].
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// Name of the interface inside the pod.
    #[arg(long, default_value = "eth0")]
    pub(crate) ifname: String,
    /// Print JSON; its fields are stable.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) router: SocketArg,
}

#[derive(Args)]
pub(crate) struct DetachArgs {
    /// The namespace as it was given to `weft attach`, or the --id.
    pub(crate) netns: PathBuf,
    #[command(flatten)]
    pub(crate) router: SocketArg,
}

#[derive(Args)]
pub(crate) struct TokenArgs {
    /// Make a new token instead, for a cluster that is still to be made.
    #[arg(long)]
    pub(crate) generate: bool,
    /// Directory of the durable state.
    #[arg(long, value_name = "DIR", env = "WEFT_STATE_DIR", default_value = crate::config::DEFAULT_STATE_DIR)]
    pub(crate) state_dir: PathBuf,
}

#[derive(Args)]
pub(crate) struct TargetArgs {
    /// HOST or HOST:PORT.
    pub(crate) target: String,
    #[command(flatten)]
    pub(crate) router: SocketArg,
}

#[derive(Args)]
pub(crate) struct DownArgs {
    /// Detach the pods that are still attached.
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) router: SocketArg,
}
