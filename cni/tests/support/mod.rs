//! Hosts with routers, and calls of the plugin as a runtime makes them.
#![allow(dead_code, reason = "each test takes what it needs of it")]

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use weft_kernel::link::{self, Link};
use weft_kernel::{Namespace, addr, route};
use weft_lab::{Api, Host, Lab, Output, Router, Station, Switch};

/// The plugin under test.
pub(crate) const PLUGIN: &str = env!("CARGO_BIN_EXE_weft-cni");
/// For anything that needs no timeout to pass first.
pub(crate) const SOON: Duration = Duration::from_secs(15);

/// Hosts with these names on one switch, in one mesh, the first of them the founder.
pub(crate) fn cluster(lab: &Lab, names: &[&str]) -> (Switch, Vec<Router>) {
    lab.cluster(names, &[], SOON).unwrap()
}

/// What a runtime knows of one interface of one container.
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) ifname: String,
    pub(crate) netns: Namespace,
}

impl Container {
    pub(crate) fn new(id: &str) -> Self {
        Self {
            id: id.into(),
            ifname: "eth0".into(),
            netns: Namespace::new().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> String {
        self.netns.path().display().to_string()
    }

    /// The names of the interfaces in its namespace.
    pub(crate) fn interfaces(&self) -> Vec<String> {
        let links = self.netns.run(link::list).unwrap().unwrap();
        links.into_iter().map(|link| link.name).collect()
    }

    /// The container as a place from which traffic can be sent, with the address of a result.
    pub(crate) fn station(&self, host: &Host, result: &Value) -> Station {
        let name = format!("{}-{}", host.name(), self.id);
        host.foreign_pod(&name, self.netns.clone(), &self.ifname, vec![address(result)])
            .unwrap()
    }
}

/// The address in a result of version 0.3.0 or later.
pub(crate) fn address(result: &Value) -> IpAddr {
    let text = result["ips"][0]["address"].as_str().unwrap();
    text.split_once('/').unwrap().0.parse().unwrap()
}

/// The configuration for a host's router, with these members besides.
pub(crate) fn config(host: &Host, more: &Value) -> Value {
    let mut config =
        json!({"cniVersion": "1.0.0", "name": "weft", "type": "weft-cni", "socket": host.socket()});
    let members = more.as_object().unwrap().clone();
    config.as_object_mut().unwrap().extend(members);
    config
}

/// Calls the plugin with these variables and nothing else in its environment.
pub(crate) fn call(host: &Host, variables: &[(&str, &str)], input: &str) -> Output {
    let mut command = Command::new(PLUGIN);
    command.env_clear().envs(variables.iter().copied());
    host.run(command, Some(input)).unwrap()
}

/// A verb for a container, as a runtime calls it.
pub(crate) fn verb(host: &Host, verb: &str, container: &Container, config: &Value) -> Output {
    let path = container.path();
    let variables = [
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", container.id.as_str()),
        ("CNI_NETNS", path.as_str()),
        ("CNI_IFNAME", container.ifname.as_str()),
        ("CNI_PATH", "/opt/cni/bin"),
        ("CNI_ARGS", "K8S_POD_NAME=web;IgnoreUnknown=1"),
    ];
    call(host, &variables, &config.to_string())
}

/// The result of a call that succeeds.
pub(crate) fn result(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stderr, "");
    serde_json::from_str(&output.stdout).unwrap()
}

/// Code and message of a call that fails.
pub(crate) fn failure(output: &Output) -> (u64, String) {
    assert!(!output.status.success(), "{output:?}");
    let error: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    assert!(
        error["cniVersion"].is_string() && error["details"].is_string(),
        "{error}"
    );
    (
        error["code"].as_u64().unwrap(),
        error["msg"].as_str().unwrap().to_owned(),
    )
}

/// A `DEL` that succeeds, and says nothing.
pub(crate) fn delete(host: &Host, container: &Container) {
    let output = verb(host, "DEL", container, &config(host, &json!({})));
    assert!(output.status.success(), "{output:?}");
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));
}

/// The addresses that pods of a host have, each with the pod's id.
pub(crate) fn used(host: &Host) -> Vec<(IpAddr, String)> {
    let status = Api::connect(host).unwrap().ipam().unwrap();
    let used = status.used.into_iter();
    used.map(|used| (used.address, used.id)).collect()
}

/// Interfaces, addresses and routes of a host, one a line. What comes a moment after its cause is not among them: a
/// carrier, the port that opens or closes with it, the link-local address that the kernel makes then.
pub(crate) fn kernel_state(host: &Host) -> Vec<String> {
    let own = |address: IpAddr| !matches!(address, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let read = || -> weft_kernel::Result<Vec<String>> {
        let mut lines = Vec::new();
        for link in link::list()? {
            let mut addresses = addr::list(&link.name)?;
            addresses.retain(|found| own(found.address.addr()));
            let link = Link {
                carrier: false,
                forwarding: false,
                ..link
            };
            lines.push(format!("{link:?} {addresses:?}"));
        }
        let routes = route::list()?.into_iter();
        lines.extend(
            routes
                .filter(|route| own(route.destination.addr()))
                .map(|route| format!("{route:?}")),
        );
        Ok(lines)
    };
    host.namespace().run(read).unwrap().unwrap()
}
