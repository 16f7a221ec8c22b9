//! The packages of the workspace and what each may import: the one place where this is written down.

/// What kind of code a package holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Pure: no clock, no randomness, no sockets, no files; builds without `std`.
    Core,
    /// Talks to the kernel, the network and the disk.
    Shell,
    /// Only tests and their tools.
    Test,
}

/// One package.
#[derive(Clone, Copy, Debug)]
pub struct Package {
    /// The name in its `Cargo.toml`.
    pub name: &'static str,
    /// Its folder, relative to the root.
    pub folder: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// The project's packages it may import.
    pub imports: &'static [&'static str],
}

const WIRE: &str = "weft-wire";
const GOSSIP: &str = "weft-gossip";
const IPAM: &str = "weft-ipam-crdt";
const SLEEVE: &str = "weft-sleeve";
const ENGINE: &str = "weft-sleeve-engine";
const FASTPATH: &str = "weft-fastpath";
const DRIVER: &str = "weft-fastpath-driver";
const NODE: &str = "weft-node";
const STORE: &str = "weft-store";
const KERNEL: &str = "weft-kernel";
/// The package of network tests; any shell may use it in its own tests.
pub const LAB: &str = "weft-lab";

/// Every package. Cores import nothing but the shared vocabulary; the node composes them; a shell
/// imports its core and the kernel.
pub const PACKAGES: &[Package] = &[
    core(WIRE, "wire", &[]),
    core(GOSSIP, "gossip", &[WIRE]),
    core(IPAM, "ipam-crdt", &[WIRE]),
    core(SLEEVE, "sleeve", &[WIRE]),
    core(FASTPATH, "fastpath", &[WIRE]),
    core(NODE, "router/node", &[WIRE, GOSSIP, IPAM, SLEEVE, FASTPATH]),
    shell(KERNEL, "kernel", &[]),
    shell(ENGINE, "sleeve/engine", &[WIRE, SLEEVE, KERNEL]),
    shell(DRIVER, "fastpath/driver", &[WIRE, FASTPATH, KERNEL]),
    shell(STORE, "router/store", &[WIRE, GOSSIP, IPAM]),
    shell(
        "weft",
        "router",
        &[
            WIRE, GOSSIP, IPAM, SLEEVE, ENGINE, FASTPATH, DRIVER, NODE, STORE, KERNEL, LAB,
        ],
    ),
    shell("weft-cni", "cni", &[WIRE, KERNEL]),
    shell(
        "bench",
        "bench",
        &[WIRE, GOSSIP, IPAM, SLEEVE, ENGINE, STORE, KERNEL, LAB],
    ),
    // The store for the names of its write points.
    test(LAB, "tests/lab", &[WIRE, KERNEL, STORE]),
    test("weft-sim", "tests/sim", &[WIRE, GOSSIP, IPAM, SLEEVE, NODE]),
    test("weft-model", "tests/model", &[WIRE, IPAM]),
    test("weft-conformance", "tests/conformance", &[]),
    test("weft-fuzz", "fuzz", &[WIRE, GOSSIP, IPAM, SLEEVE]),
];

/// Crates that bring in a clock, randomness, sockets or the system. None may be below a core.
pub const IMPURE: &[&str] = &["tokio", "socket2", "libc", "rustix", "rand"];

/// The package whose folder alone may hold `unsafe`.
pub const UNSAFE_HOME: &str = KERNEL;

/// The cores.
pub fn cores() -> impl Iterator<Item = &'static Package> {
    PACKAGES.iter().filter(|package| package.kind == Kind::Core)
}

/// The package of a name.
pub fn by_name(name: &str) -> Option<&'static Package> {
    PACKAGES.iter().find(|package| package.name == name)
}

const fn core(name: &'static str, folder: &'static str, imports: &'static [&'static str]) -> Package {
    Package {
        name,
        folder,
        kind: Kind::Core,
        imports,
    }
}

const fn shell(name: &'static str, folder: &'static str, imports: &'static [&'static str]) -> Package {
    Package {
        name,
        folder,
        kind: Kind::Shell,
        imports,
    }
}

const fn test(name: &'static str, folder: &'static str, imports: &'static [&'static str]) -> Package {
    Package {
        name,
        folder,
        kind: Kind::Test,
        imports,
    }
}
