//! Options of `weft up`: from the command line, the environment and a TOML file, in that order of precedence.

use crate::wish::parse_long;
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use serde::Deserialize;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use weft_node::silence::{REMOVE_AFTER_MAX, REMOVE_AFTER_MIN};
use weft_wire::fastpath::{Encryption, VXLAN_PORT};
use weft_wire::limits::{DEFAULT_PORT, ENDPOINTS_MAX, FOUNDERS_MAX, NAME_MAX};
use weft_wire::mtu::{POD_MTU_CAP, POD_MTU_MIN};

use weft_ipam_crdt::genesis::Expected;
use weft_sleeve_engine::EngineChoice;
use weft_store::{CrashAt, DEFAULT_MACHINE_ID_FILE};

/// File that is read when it exists and `--config` names no other.
const DEFAULT_CONFIG_FILE: &str = "/etc/weft/weft.toml";
/// Where the state is kept unless said otherwise.
pub(crate) const DEFAULT_STATE_DIR: &str = "/var/lib/weft";
/// Where the router is asked unless said otherwise.
pub(crate) const DEFAULT_SOCKET: &str = "/run/weft/weft.sock";
/// Range of a new cluster unless said otherwise.
const DEFAULT_RANGE: &str = "10.32.0.0/12";
/// Largest configuration file: a hundred times what all keys need.
const CONFIG_FILE_MAX: u64 = 1 << 20;
/// Networks that an operator can trust: each pair is compared with each.
const TRUSTED_MAX: usize = 64;
/// Peers that an operator can name.
const TARGETS_MAX: usize = 256;

/// Shape of log lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// How much is logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogLevel {
    /// Only what ends or endangers the router.
    Error,
    /// And what somebody should look at.
    Warn,
    /// And each change of state.
    #[default]
    Info,
    /// And addresses and handshakes.
    Debug,
    /// And single packets.
    Trace,
}

/// What carries the frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EngineName {
    /// The fastest that the kernel allows.
    #[default]
    Best,
    /// One frame at a time, without offloads: slow, and the same on every kernel.
    Plain,
}

/// Which multicast other hosts send here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Multicast {
    /// That of groups to which pods here listen, as they say by IGMP and MLD.
    #[default]
    Snoop,
    /// All of it, for pods that listen without saying so; and here every pod gets it.
    Flood,
}

impl From<EngineName> for EngineChoice {
    fn from(name: EngineName) -> Self {
        match name {
            EngineName::Best => Self::Best,
            EngineName::Plain => Self::Plain,
        }
    }
}

/// Which traffic between hosts is encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EncryptName {
    /// All but that of pairs of hosts on networks taken for trusted, which goes at the speed of the kernel.
    Auto,
    /// All.
    All,
}

impl From<EncryptName> for Encryption {
    fn from(name: EncryptName) -> Self {
        match name {
            EncryptName::Auto => Self::Auto,
            EncryptName::All => Self::All,
        }
    }
}

/// Options of `weft up`; the same keys stand in the TOML file.
#[derive(Args, Deserialize, Debug, Default, Clone)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct UpOptions {
    /// A host that is already in the cluster, HOST or HOST:PORT; may be given several times. Names are looked up again at
    /// every try.
    #[arg(long = "peer", value_name = "HOST", env = "WEFT_PEER", value_delimiter = ',')]
    peer: Vec<String>,

    /// File that holds the join token; WEFT_TOKEN holds the token itself.
    #[arg(long, value_name = "FILE", env = "WEFT_TOKEN_FILE")]
    token_file: Option<PathBuf>,

    /// Make a cluster if this host belongs to none, although a peer or a token is given.
    #[arg(long, env = "WEFT_FOUND")]
    found: bool,

    /// Make a cluster together with other hosts that have none: so many in all, this one included, all started with the
    /// same --expect, --range and token. They wait for each other; hosts beyond are let in afterwards.
    #[arg(long, value_name = "N", env = "WEFT_EXPECT")]
    expect: Option<u32>,

    /// As --expect, with the nicknames of exactly the hosts that make the cluster.
    #[arg(long = "seed", value_name = "NAME", env = "WEFT_SEED", value_delimiter = ',')]
    seed: Vec<String>,

    /// Never vote and own no addresses: this host lives on addresses that others lend it.
    #[arg(long, env = "WEFT_OBSERVER")]
    observer: bool,

    /// Ask for the removal of a member that no host has heard of for so long while a majority was there, such as 24h; at
    /// least 10s. A majority of the members decides it [default: never].
    #[arg(long, value_name = "TIME", env = "WEFT_REMOVE_AFTER")]
    remove_after: Option<String>,

    /// Nickname of this host [default: its host name].
    #[arg(long, env = "WEFT_NAME")]
    name: Option<String>,

    /// Address to listen on, TCP and UDP [default: all, IPv4 and IPv6].
    #[arg(long, value_name = "ADDRESS", env = "WEFT_LISTEN")]
    listen: Option<IpAddr>,

    /// Address at which others reach this host, ADDRESS or ADDRESS:PORT; may be given several times [default: the
    /// addresses of its interfaces].
    #[arg(long, value_name = "ADDRESS", env = "WEFT_ADVERTISE", value_delimiter = ',')]
    advertise: Vec<String>,

    /// TCP and UDP port [default: 6783].
    #[arg(long, env = "WEFT_PORT")]
    port: Option<u16>,

    /// Addresses that pods get; decided once, when a cluster is made [default: 10.32.0.0/12].
    #[arg(long, value_name = "CIDR", env = "WEFT_RANGE")]
    range: Option<IpNet>,

    /// MTU of the pods [default: what the underlay leaves].
    #[arg(long, env = "WEFT_MTU")]
    mtu: Option<u16>,

    /// What carries the frames of the pods; `weft status` names it [default: best].
    #[arg(long, value_enum, env = "WEFT_ENGINE")]
    engine: Option<EngineName>,

    /// Which multicast other hosts send to this one; `weft multicast` shows it [default: snoop].
    #[arg(long, value_enum, env = "WEFT_MULTICAST")]
    multicast: Option<Multicast>,
    /// Keep this host's kernel out of it: its frames to and from other hosts always travel encrypted, through the router.
    #[arg(long, env = "WEFT_NO_FASTPATH")]
    no_fastpath: bool,

    /// UDP port of VXLAN, by which kernels exchange frames unencrypted on trusted networks; the same on all hosts
    /// [default: 6784].
    #[arg(long, value_name = "PORT", env = "WEFT_VXLAN_PORT")]
    vxlan_port: Option<u16>,

    /// A network that is yours: frames to hosts there may travel unencrypted through the kernels of both, and so may those to
    /// hosts with private addresses that nobody translates. Without it none do. May be given several times.
    #[arg(long, value_name = "CIDR", env = "WEFT_TRUST", value_delimiter = ',')]
    trust: Vec<IpNet>,

    /// What is encrypted in a cluster where nobody has said so yet; later `weft encrypt` changes it [default: auto].
    #[arg(long, value_enum, env = "WEFT_ENCRYPT")]
    encrypt: Option<EncryptName>,

    /// Directory of the durable state [default: /var/lib/weft].
    #[arg(long, value_name = "DIR", env = "WEFT_STATE_DIR")]
    state_dir: Option<PathBuf>,

    /// Unix socket on which the router is asked [default: /run/weft/weft.sock].
    #[arg(long, value_name = "FILE", env = "WEFT_SOCKET")]
    socket: Option<PathBuf>,

    /// File that holds the machine id [default: /etc/machine-id].
    #[arg(long, value_name = "FILE", env = "WEFT_MACHINE_ID_FILE")]
    machine_id_file: Option<PathBuf>,

    /// How much is logged [default: info].
    #[arg(long, value_enum, env = "WEFT_LOG_LEVEL")]
    log_level: Option<LogLevel>,

    /// Shape of log lines [default: text].
    #[arg(long, value_enum, env = "WEFT_LOG_FORMAT")]
    log_format: Option<LogFormat>,

    /// TOML file with these options as keys [default: /etc/weft/weft.toml if it exists].
    #[arg(long, value_name = "FILE", env = "WEFT_CONFIG")]
    #[serde(skip)]
    config: Option<PathBuf>,

    /// Test aid: die as by SIGKILL at this write point, POINT or POINT:N for the N-th time.
    #[arg(long, value_name = "POINT", hide = true)]
    #[serde(skip)]
    crash_at: Option<CrashAt>,
}

/// What `weft up` runs with: every default filled in, every value checked.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) peers: Vec<String>,
    /// The join token as the operator gave it, if any.
    pub(crate) token: Option<String>,
    pub(crate) found: bool,
    /// The hosts that make a cluster together, if the operator named them.
    pub(crate) expected: Option<Expected>,
    pub(crate) observer: bool,
    /// How long a member may be silent.
    pub(crate) remove_after: Option<Duration>,
    pub(crate) name: String,
    pub(crate) listen: Option<IpAddr>,
    pub(crate) advertise: Vec<SocketAddr>,
    pub(crate) port: u16,
    pub(crate) range: IpNet,
    /// True when the operator named the range.
    pub(crate) range_is_given: bool,
    pub(crate) mtu: Option<u16>,
    pub(crate) engine: EngineName,
    pub(crate) multicast: Multicast,
    pub(crate) no_fastpath: bool,
    pub(crate) vxlan_port: u16,
    pub(crate) trust: Vec<IpNet>,
    pub(crate) encrypt: Option<EncryptName>,
    pub(crate) state_dir: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) machine_id_file: PathBuf,
    pub(crate) log_level: LogLevel,
    pub(crate) log_format: LogFormat,
    /// Where to die, for a test.
    pub(crate) crash_at: Option<CrashAt>,
}

/// Why the options cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("configuration file {path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("configuration file {path}: {message}")]
    Malformed { path: PathBuf, message: String },
    #[error("token file {path}: {source}")]
    TokenFile { path: PathBuf, source: std::io::Error },
    #[error(
        "token file {path} is empty: put the token there that `weft token` prints on a host of the cluster"
    )]
    TokenFileEmpty { path: PathBuf },
    #[error(
        "peer {0:?} is neither HOST nor HOST:PORT; write an IPv6 address with a port as [2001:db8::1]:6783"
    )]
    Peer(String),
    #[error(
        "more than {TARGETS_MAX} peers are named; one that is up is enough, the others are found through it"
    )]
    TooManyPeers,
    #[error(
        "address to advertise {0:?} is neither ADDRESS nor ADDRESS:PORT; write IPv6 with a port as [2001:db8::1]:6783"
    )]
    Advertise(String),
    #[error("more than {ENDPOINTS_MAX} addresses to advertise: name the best ones")]
    TooManyAdvertised,
    #[error("port 0 is none: others must know where this host listens")]
    PortZero,
    #[error("--vxlan-port {0} cannot be used: it is 0, or the port of --port")]
    VxlanPort(u16),
    #[error("more than {TRUSTED_MAX} networks to trust: name larger ones")]
    TooManyTrusted,
    #[error("name {0:?} cannot be used: 1 to {NAME_MAX} characters without control characters")]
    Name(String),
    #[error(
        "--expect {0} is outside 1 to {FOUNDERS_MAX}: hosts beyond are let in by those that made the cluster"
    )]
    Expect(u32),
    #[error("more than {FOUNDERS_MAX} seeds: name some; the other hosts are let in by them")]
    TooManySeeds,
    #[error("--expect and --seed are two ways to say which hosts make the cluster: use one of them")]
    ExpectAndSeed,
    #[error(
        "--found and {0} contradict each other: --found makes a cluster on this host alone, which the others join with \
         --peer; {0} makes it together with them"
    )]
    FoundTogether(&'static str),
    #[error("an observer owns no addresses, so it cannot make a cluster: leave out --found or --observer")]
    FoundingObserver,
    #[error(
        "--remove-after {text}: {why}; a member that is silent for so long is removed if a majority is for it. What is shorter than {} s \
         may be a link that breaks",
        REMOVE_AFTER_MIN.as_secs()
    )]
    RemoveAfter { text: String, why: String },
    #[error("--mtu {0} is outside {POD_MTU_MIN} to {POD_MTU_CAP}")]
    Mtu(u16),
}

impl UpOptions {
    /// Fills in the file and the defaults. `token` is what WEFT_TOKEN holds, `host_name` what the kernel says.
    pub(crate) fn resolve(self, token: Option<String>, host_name: &str) -> Result<Settings, ConfigError> {
        let file = match &self.config {
            Some(path) => read_file(path)?,
            None if Path::new(DEFAULT_CONFIG_FILE).exists() => read_file(Path::new(DEFAULT_CONFIG_FILE))?,
            None => Self::default(),
        };
        let port = self.port.or(file.port).unwrap_or(DEFAULT_PORT);
        if port == 0 {
            return Err(ConfigError::PortZero);
        }
        // A token file on the command line or in the environment goes before WEFT_TOKEN only if no WEFT_TOKEN is set:
        // both are said by the same person, and the direct one is meant.
        let token = match (token, self.token_file.or(file.token_file)) {
            (Some(token), _) => Some(token),
            (None, Some(path)) => Some(read_token(&path)?),
            (None, None) => None,
        };
        let name = self.name.or(file.name).unwrap_or_else(|| host_name.to_owned());
        if name.is_empty() || name.len() > NAME_MAX || name.chars().any(char::is_control) {
            return Err(ConfigError::Name(name));
        }
        let mtu = self.mtu.or(file.mtu);
        if let Some(mtu) = mtu
            && !(POD_MTU_MIN..=POD_MTU_CAP).contains(&usize::from(mtu))
        {
            return Err(ConfigError::Mtu(mtu));
        }
        let peers = either(self.peer, file.peer);
        if peers.len() > TARGETS_MAX {
            return Err(ConfigError::TooManyPeers);
        }
        let found = self.found || file.found;
        let observer = self.observer || file.observer;
        if found && observer {
            return Err(ConfigError::FoundingObserver);
        }
        let expected = expected(self.expect.or(file.expect), either(self.seed, file.seed))?;
        match &expected {
            Some(Expected::Count(_)) if found => return Err(ConfigError::FoundTogether("--expect")),
            Some(Expected::Named(_)) if found => return Err(ConfigError::FoundTogether("--seed")),
            _ => {}
        }
        let advertise = either(self.advertise, file.advertise);
        if advertise.len() > ENDPOINTS_MAX {
            return Err(ConfigError::TooManyAdvertised);
        }
        let vxlan_port = self.vxlan_port.or(file.vxlan_port).unwrap_or(match port {
            // The default must not stand in the way of a port that somebody chose.
            VXLAN_PORT => VXLAN_PORT + 1,
            _ => VXLAN_PORT,
        });
        if vxlan_port == 0 || vxlan_port == port {
            return Err(ConfigError::VxlanPort(vxlan_port));
        }
        let trust = match self.trust.as_slice() {
            [] => file.trust,
            _ => self.trust,
        };
        if trust.len() > TRUSTED_MAX {
            return Err(ConfigError::TooManyTrusted);
        }
        Ok(Settings {
            no_fastpath: self.no_fastpath || file.no_fastpath,
            vxlan_port,
            trust,
            encrypt: self.encrypt.or(file.encrypt),
            peers: peers
                .iter()
                .map(|peer| parse_peer(peer, port))
                .collect::<Result<_, _>>()?,
            token,
            found,
            expected,
            observer,
            remove_after: self
                .remove_after
                .or(file.remove_after)
                .map(|text| remove_after(&text))
                .transpose()?,
            name,
            listen: self.listen.or(file.listen),
            advertise: advertise
                .iter()
                .map(|text| parse_advertise(text, port))
                .collect::<Result<_, _>>()?,
            port,
            range_is_given: self.range.or(file.range).is_some(),
            range: match self.range.or(file.range) {
                Some(range) => range,
                None => DEFAULT_RANGE
                    .parse()
                    .unwrap_or_else(|_| unreachable!("the default range is a CIDR")),
            },
            mtu,
            engine: self.engine.or(file.engine).unwrap_or_default(),
            multicast: self.multicast.or(file.multicast).unwrap_or_default(),
            state_dir: self
                .state_dir
                .or(file.state_dir)
                .unwrap_or_else(|| DEFAULT_STATE_DIR.into()),
            socket: self
                .socket
                .or(file.socket)
                .unwrap_or_else(|| DEFAULT_SOCKET.into()),
            machine_id_file: self
                .machine_id_file
                .or(file.machine_id_file)
                .unwrap_or_else(|| DEFAULT_MACHINE_ID_FILE.into()),
            log_level: self.log_level.or(file.log_level).unwrap_or_default(),
            log_format: self.log_format.or(file.log_format).unwrap_or_default(),
            crash_at: self.crash_at,
        })
    }
}

/// Which hosts make a cluster together.
fn expected(count: Option<u32>, seeds: Vec<String>) -> Result<Option<Expected>, ConfigError> {
    let bad = |name: &String| name.is_empty() || name.len() > NAME_MAX || name.chars().any(char::is_control);
    match count {
        Some(_) if !seeds.is_empty() => Err(ConfigError::ExpectAndSeed),
        Some(count) if !(1..=FOUNDERS_MAX as u32).contains(&count) => Err(ConfigError::Expect(count)),
        Some(count) => Ok(Some(Expected::Count(count))),
        None if seeds.is_empty() => Ok(None),
        None => match seeds.iter().find(|name| bad(name)) {
            Some(name) => Err(ConfigError::Name(name.clone())),
            None if seeds.len() > FOUNDERS_MAX => Err(ConfigError::TooManySeeds),
            None => Ok(Some(Expected::named(seeds))),
        },
    }
}

/// How long a member may be silent, within its bounds.
fn remove_after(text: &str) -> Result<Duration, ConfigError> {
    let bad = |why: String| ConfigError::RemoveAfter {
        text: text.into(),
        why,
    };
    let after = parse_long(text).map_err(bad)?;
    match after {
        _ if after < REMOVE_AFTER_MIN => Err(bad(format!("at least {} s", REMOVE_AFTER_MIN.as_secs()))),
        _ if after > REMOVE_AFTER_MAX => {
            Err(bad(format!("at most {} d", REMOVE_AFTER_MAX.as_secs() / 86_400)))
        }
        _ => Ok(after),
    }
}

fn either(first: Vec<String>, second: Vec<String>) -> Vec<String> {
    if first.is_empty() { second } else { first }
}

fn read_file(path: &Path) -> Result<UpOptions, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.into(),
        source,
    };
    let malformed = |message: String| ConfigError::Malformed {
        path: path.into(),
        message,
    };
    if std::fs::metadata(path).map_err(unreadable)?.len() > CONFIG_FILE_MAX {
        return Err(malformed(format!(
            "larger than {CONFIG_FILE_MAX} octets: this is no weft configuration"
        )));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    toml::from_str(&text).map_err(|e| malformed(e.to_string()))
}

pub(crate) fn read_token(path: &Path) -> Result<String, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::TokenFile {
        path: path.into(),
        source,
    })?;
    match text.trim() {
        "" => Err(ConfigError::TokenFileEmpty { path: path.into() }),
        token => Ok(token.to_owned()),
    }
}

/// A peer as `HOST:PORT`, with the port filled in.
pub(crate) fn parse_peer(text: &str, port: u16) -> Result<String, ConfigError> {
    let bad = || ConfigError::Peer(text.to_owned());
    if let Ok(address) = parse_advertise(text, port) {
        return Ok(address.to_string());
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, digits)) => (host, digits.parse().map_err(|_| bad())?),
        None => (text, port),
    };
    let host_ok = !host.is_empty()
        && host.len() <= 253
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if host_ok && port != 0 {
        Ok(format!("{host}:{port}"))
    } else {
        Err(bad())
    }
}

fn parse_advertise(text: &str, port: u16) -> Result<SocketAddr, ConfigError> {
    let bare = text
        .strip_prefix('[')
        .and_then(|t| t.strip_suffix(']'))
        .unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, port));
    }
    text.parse()
        .ok()
        .filter(|a: &SocketAddr| a.port() != 0)
        .ok_or_else(|| ConfigError::Advertise(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        up: UpOptions,
    }

    fn up(args: &[&str]) -> UpOptions {
        Cli::try_parse_from([&["weft"], args].concat()).unwrap().up
    }

    fn with_file(text: &str, args: &[&str]) -> Result<Settings, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weft.toml");
        std::fs::write(&path, text).unwrap();
        up(&[args, &["--config", path.to_str().unwrap()]].concat()).resolve(None, "box")
    }

    #[test]
    fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
        let settings = with_file(
            "port = 7000\nname = \"filed\"\npeer = [\"a\"]",
            &["--port", "7001"],
        )
        .unwrap();
        assert_eq!((settings.port, settings.name.as_str()), (7001, "filed"));
        assert_eq!(settings.peers, ["a:7001"]);
        assert_eq!(settings.socket, Path::new(DEFAULT_SOCKET));
        assert_eq!(with_file("", &[]).unwrap().name, "box");
        let multicast = |file: &str, args: &[&str]| with_file(file, args).unwrap().multicast;
        assert_eq!(multicast("", &[]), Multicast::Snoop);
        assert_eq!(multicast("multicast = \"flood\"", &[]), Multicast::Flood);
        assert_eq!(
            multicast("multicast = \"flood\"", &["--multicast", "snoop"]),
            Multicast::Snoop
        );
        let after = |file: &str, args: &[&str]| with_file(file, args).unwrap().remove_after;
        assert_eq!(after("", &[]), None);
        let day = Duration::from_secs(86_400);
        assert_eq!(after("remove-after = \"24h\"", &[]), Some(day));
        assert_eq!(
            after("remove-after = \"24h\"", &["--remove-after", "2d"]),
            Some(2 * day)
        );
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = with_file("prot = 7000", &[]).unwrap_err().to_string();
        assert!(error.contains("prot") && error.contains("weft.toml"), "{error}");
    }

    #[test]
    fn peers_and_addresses_take_their_usual_forms() {
        for (text, full) in [
            ("192.0.2.1", "192.0.2.1:6783"),
            ("192.0.2.1:7", "192.0.2.1:7"),
            ("2001:db8::1", "[2001:db8::1]:6783"),
            ("[2001:db8::1]", "[2001:db8::1]:6783"),
            ("[2001:db8::1]:7", "[2001:db8::1]:7"),
            ("node-a.example", "node-a.example:6783"),
            ("node-a:7", "node-a:7"),
        ] {
            assert_eq!(parse_peer(text, 6783).unwrap(), full);
        }
        for bad in [
            "",
            ":6783",
            "a:b",
            "a b",
            "a:0",
            "192.0.2.1:0",
            "a:70000",
            "http://a",
        ] {
            assert!(parse_peer(bad, 6783).is_err(), "{bad}");
        }
    }

    #[test]
    fn bad_values_are_refused_with_their_bounds() {
        let refuse = |args: &[&str]| up(args).resolve(None, "box").unwrap_err().to_string();
        assert!(refuse(&["--mtu", "200"]).contains("1280"));
        assert!(refuse(&["--expect", "0"]).contains("1 to 64"));
        assert!(refuse(&["--expect", "3", "--seed", "a,b"]).contains("one of them"));
        assert!(refuse(&["--seed", "a,,b"]).contains("name"));
        assert!(refuse(&["--found", "--expect", "3"]).contains("contradict"));
        assert!(refuse(&["--found", "--observer"]).contains("observer"));
        assert!(refuse(&["--port", "0"]).contains("port 0"));
        assert!(refuse(&["--name", ""]).contains("name"));
        assert!(refuse(&["--remove-after", "9s"]).contains("at least 10 s"));
        assert!(refuse(&["--remove-after", "367d"]).contains("at most 366 d"));
        assert!(refuse(&["--remove-after", "24"]).contains("24h"));
        assert!(refuse(&["--token-file", "/nonexistent/token"]).contains("/nonexistent/token"));
        assert!(refuse(&["--advertise", "nowhere"]).contains("nowhere"));
        let refusal = Cli::try_parse_from(["weft", "--crash-at", "nowhere"])
            .err()
            .unwrap();
        assert!(refusal.to_string().contains("records-synced"), "{refusal}");
    }

    #[test]
    fn a_token_is_trimmed_and_an_empty_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "  secret words here \n").unwrap();
        let args = ["--token-file", path.to_str().unwrap()];
        assert_eq!(
            up(&args).resolve(None, "box").unwrap().token.as_deref(),
            Some("secret words here")
        );
        assert_eq!(
            up(&args)
                .resolve(Some("direct".into()), "box")
                .unwrap()
                .token
                .as_deref(),
            Some("direct")
        );
        std::fs::write(&path, "\n").unwrap();
        assert!(up(&args).resolve(None, "box").is_err());
    }
}
