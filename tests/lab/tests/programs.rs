//! Programs as people run them, in pods of different hosts: an mDNS responder, VRRP, a cluster with a multicast heartbeat.
//!
//! They need packages of Debian, so they run with `./test --long`, which installs them.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use weft_kernel::{addr, link};
use weft_lab::{Lab, Pod, Router};

/// For hosts to meet.
const SOON: Duration = Duration::from_secs(30);
/// For programs that take elections and timeouts of their own.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks at a program's state.
const GLANCE: Duration = Duration::from_millis(200);

/// One pod on each of these hosts.
fn pods(lab: &Lab, names: &[&str]) -> (Vec<Router>, Vec<Pod>) {
    let (_switch, routers) = lab.cluster(names, &[], SOON).unwrap();
    let pod = |router: &Router| {
        let host = router.host();
        host.pod_any(&format!("pod-{}", host.name())).unwrap()
    };
    let pods = routers.iter().map(pod).collect();
    (routers, pods)
}

/// A program that ends with its handle.
struct Running {
    child: Child,
    log: std::path::PathBuf,
}

impl Running {
    /// Starts a shell command in a pod, with folders of its own in place of /run and /var/lib, and its words in a file.
    fn start(lab: &Lab, pod: &Pod, name: &str, script: &str) -> Self {
        let log = lab.folder().join(format!("{}-{name}.log", pod.name()));
        let file = fs::File::create(&log).unwrap();
        let script = format!("mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib && {script}");
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        let child = pod.namespace().spawn(command).unwrap();
        Self { child, log }
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Ends it at once, as a crash does.
    fn kill(&mut self) {
        // It ended before, or it ends now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Fails with a sentence where a program is not installed.
fn needs(program: &str, package: &str) {
    let paths = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let is_there = paths
        .iter()
        .any(|folder| Path::new(folder).join(program).exists());
    assert!(
        is_there,
        "this test needs {program}: install the Debian package {package}, or run ./test --long"
    );
}

/// Looks until `test` is content.
fn wait_for<T>(what: &str, logs: &[&Running], mut test: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        let seen = match test() {
            Ok(value) => return value,
            Err(seen) => seen,
        };
        if Instant::now() >= end {
            let logs: Vec<String> = logs.iter().map(|program| program.log()).collect();
            panic!(
                "{what}: not within {PATIENCE:?}; {seen}\n{}",
                logs.join("\n---\n")
            );
        }
        std::thread::sleep(GLANCE);
    }
}

/// An mDNS question for the IPv4 address of a name, from a port of its own: answers come to it alone (RFC 6762 §6.7).
fn question(name: &str) -> Vec<u8> {
    let mut query = vec![0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

/// True when a pod that asks for a name by mDNS is told this address.
fn resolves(pod: &Pod, name: &str, address: Ipv4Addr) -> Result<(), String> {
    let group: SocketAddr = "224.0.0.251:5353".parse().unwrap();
    let connected = pod.sender(group).unwrap();
    // Answers come from the responder's own address, so the socket must not be tied to the group.
    let local = connected.local_addr().unwrap();
    drop(connected);
    let socket = pod
        .namespace()
        .run(|| std::net::UdpSocket::bind(local))
        .unwrap()
        .map_err(|e| e.to_string())?;
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    pod.namespace()
        .run(|| socket.send_to(&question(name), group))
        .unwrap()
        .map_err(|e| e.to_string())?;
    let mut buffer = [0; 2_000];
    let length = socket.recv(&mut buffer).map_err(|e| format!("{name}: {e}"))?;
    let answer = &buffer[..length];
    match answer.windows(4).any(|part| part == address.octets()) {
        true => Ok(()),
        false => Err(format!("{name}: {answer:?}")),
    }
}

fn ipv4(pod: &Pod) -> Ipv4Addr {
    match pod.ipv4().unwrap() {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => panic!("an IPv4 pod"),
    }
}

#[test]
#[ignore = "needs avahi-daemon: ./test --long"]
fn avahi_finds_names_and_settles_conflicts_between_hosts() {
    needs("avahi-daemon", "avahi-daemon");
    let lab = Lab::new("avahi").unwrap();
    let (_routers, pods) = pods(&lab, &["a", "b", "c"]);
    let avahi = |pod: &Pod| {
        let config = lab.folder().join(format!("{}-avahi.conf", pod.name()));
        let text = format!(
            "[server]\nhost-name=twin\nuse-ipv6=no\nallow-interfaces={}\nenable-dbus=no\n[publish]\n\
             publish-hinfo=no\npublish-workstation=no\n",
            pod.interface()
        );
        fs::write(&config, text).unwrap();
        let run = format!(
            "mkdir -p /run/avahi-daemon && exec avahi-daemon --no-drop-root --no-chroot --no-rlimits -f {}",
            config.display()
        );
        Running::start(&lab, pod, "avahi", &run)
    };
    let first = avahi(&pods[0]);
    wait_for("c finds the name", &[&first], || {
        resolves(&pods[2], "twin.local", ipv4(&pods[0]))
    });
    // The second asks whether the name is free, hears that it is not, and takes another one.
    let second = avahi(&pods[1]);
    let logs = [&first, &second];
    wait_for("c finds the second name", &logs, || {
        resolves(&pods[2], "twin-2.local", ipv4(&pods[1]))
    });
    wait_for("the first name stays", &logs, || {
        resolves(&pods[2], "twin.local", ipv4(&pods[0]))
    });
}

/// What `use_vmac` changes: the address then has a MAC of its own that moves with it.
fn keepalived(lab: &Lab, pod: &Pod, priority: u8, vmac: &str) -> Running {
    let config = lab.folder().join(format!("{}-keepalived.conf", pod.name()));
    let interface = pod.interface();
    let text = format!(
        "vrrp_instance shared {{\n state BACKUP\n interface {interface}\n virtual_router_id 51\n priority {priority}\n \
         advert_int 1\n {vmac}\n virtual_ipaddress {{\n 10.99.0.10/24\n }}\n}}\n"
    );
    fs::write(&config, text).unwrap();
    let run = format!(
        "exec keepalived --dont-fork --log-console --log-detail --vrrp --use-file {}",
        config.display()
    );
    Running::start(lab, pod, "keepalived", &run)
}

fn fails_over(label: &str, vmac: &str) {
    needs("keepalived", "keepalived");
    let lab = Lab::new(label).unwrap();
    let (_routers, pods) = pods(&lab, &["a", "b", "c"]);
    let shared: IpAddr = "10.99.0.10".parse().unwrap();
    for (pod, last) in pods.iter().zip(1_u8..) {
        let own = format!("10.99.0.{last}/24").parse().unwrap();
        pod.namespace()
            .run(|| addr::add(pod.interface(), own))
            .unwrap()
            .unwrap();
    }
    let mut first = keepalived(&lab, &pods[0], 150, vmac);
    wait_for("the first takes the address", &[&first], || {
        match first.log().contains("Entering MASTER STATE") {
            true => Ok(()),
            false => Err("it is not master".into()),
        }
    });
    let second = keepalived(&lab, &pods[1], 100, vmac);
    pods[2].ping_until(shared, SOON).unwrap();
    wait_for("the second stands by", &[&first, &second], || {
        match second.log().contains("Entering BACKUP STATE") {
            true => Ok(()),
            false => Err("it is no backup".into()),
        }
    });
    std::thread::sleep(Duration::from_secs(5));
    assert!(
        !second.log().contains("Entering MASTER STATE"),
        "it hears the first: {}",
        second.log()
    );
    let killed = Instant::now();
    first.kill();
    // Its process is gone, and with it whoever answers for the address; the kernel would go on, so it is taken off.
    let gone = pods[0].namespace().run(|| {
        let net = "10.99.0.10/24".parse().unwrap();
        let links = link::list()?;
        for found in links.iter().filter(|link| link.name != "lo") {
            let _ = addr::remove(&found.name, net);
        }
        Ok::<_, weft_kernel::Error>(())
    });
    gone.unwrap().unwrap();
    wait_for("the second takes over", &[&first, &second], || {
        match second.log().contains("Entering MASTER STATE") {
            true => Ok(()),
            false => Err("it is not master".into()),
        }
    });
    pods[2].ping_until(shared, SOON).unwrap();
    println!(
        "{label}: answered {:?} after the first was killed",
        killed.elapsed()
    );
}

#[test]
#[ignore = "needs keepalived: ./test --long"]
fn an_address_of_vrrp_fails_over_to_another_host() {
    fails_over("vrrp", "");
}

#[test]
#[ignore = "needs keepalived: ./test --long"]
fn an_address_of_vrrp_with_its_own_mac_fails_over_to_another_host() {
    fails_over("vmac", "use_vmac vrrp51\n vmac_xmit_base");
}

#[test]
#[ignore = "needs corosync: ./test --long"]
fn corosync_forms_a_cluster_across_three_hosts_by_multicast() {
    needs("corosync", "corosync");
    needs("corosync-quorumtool", "corosync");
    let lab = Lab::new("corosync").unwrap();
    let (routers, pods) = pods(&lab, &["a", "b", "c"]);
    let config = lab.folder().join("corosync.conf");
    let nodes: Vec<String> = pods
        .iter()
        .zip(1..)
        .map(|(pod, id)| {
            let (address, name) = (ipv4(pod), pod.name());
            format!(" node {{\n ring0_addr: {address}\n name: {name}\n nodeid: {id}\n }}\n")
        })
        .collect();
    let text = format!(
        "totem {{\n version: 2\n cluster_name: lab\n transport: udp\n crypto_cipher: none\n crypto_hash: none\n \
         interface {{\n ringnumber: 0\n mcastaddr: 239.255.1.1\n mcastport: 5405\n ttl: 1\n }}\n}}\n\
         nodelist {{\n{}}}\nquorum {{\n provider: corosync_votequorum\n}}\n\
         logging {{\n to_stderr: yes\n to_syslog: no\n}}\n",
        nodes.concat()
    );
    fs::write(&config, text).unwrap();
    let run = format!(
        "mkdir -p /run/corosync /var/lib/corosync && exec corosync -f -c {}",
        config.display()
    );
    let start = |pod: &Pod| Running::start(&lab, pod, "corosync", &run);
    let mut nodes: Vec<Running> = pods.iter().map(&start).collect();
    let members = |pod: &Pod| -> Result<(usize, bool), String> {
        let mut command = Command::new("corosync-quorumtool");
        command.arg("-s");
        let output = pod.run(command, None).map_err(|e| e.to_string())?;
        let field = |name: &str| {
            let line = output.stdout.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let count = field("Nodes").and_then(|count| count.parse().ok());
        let count = count.ok_or_else(|| format!("{}{}", output.stdout, output.stderr))?;
        Ok((count, field("Quorate").as_deref() == Some("Yes")))
    };
    let all = |nodes: &[Running], pods: &[Pod], wanted: usize| {
        let logs: Vec<&Running> = nodes.iter().collect();
        for pod in pods {
            let what = format!("{} counts {wanted}", pod.name());
            wait_for(&what, &logs, || match members(pod)? {
                (count, true) if count == wanted => Ok(()),
                seen => Err(format!("{seen:?}")),
            });
        }
    };
    all(&nodes, &pods, 3);
    let group = "239.255.1.1".parse().unwrap();
    routers[0].wait_for_group(group, &["b", "c"], SOON).unwrap();
    // One host's program dies; the others notice, and take it back when it has come again.
    nodes[2].kill();
    all(&nodes, &pods[..2], 2);
    nodes[2] = start(&pods[2]);
    all(&nodes, &pods, 3);
}

#[test]
#[ignore = "slow: ./test --long"]
fn a_stream_of_50_mbit_reaches_five_hosts() {
    const SIZE: usize = 1_316;
    const SECONDS: u64 = 10;
    let rate = 50_000_000 / 8 / SIZE as u64;
    let lab = Lab::new("video").unwrap();
    let (routers, pods) = pods(&lab, &["a", "b", "c", "d", "e", "f"]);
    let group: SocketAddr = "239.1.1.1:5004".parse().unwrap();
    let listeners: Vec<_> = pods[1..].iter().map(|pod| pod.join(group).unwrap()).collect();
    routers[0]
        .wait_for_group(group.ip(), &["b", "c", "d", "e", "f"], SOON)
        .unwrap();
    let socket = pods[0].sender(group).unwrap();
    let mut sent = 0_u64;
    let heard: Vec<u64> = std::thread::scope(|scope| {
        let count = |listener: &weft_lab::Listener| {
            let mut heard = 0;
            while listener.hear(Duration::from_secs(2)).unwrap().is_some() {
                heard += 1;
            }
            heard
        };
        let threads: Vec<_> = listeners
            .iter()
            .map(|one| scope.spawn(move || count(one)))
            .collect();
        let (start, datagram) = (Instant::now(), [7; SIZE]);
        // As many as are due, then a millisecond's pause: a source that a real encoder resembles.
        while start.elapsed() < Duration::from_secs(SECONDS) {
            let due = start.elapsed().as_micros() as u64 * rate / 1_000_000;
            while sent < due {
                sent += u64::from(socket.send(&datagram).is_ok());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let drops = routers[0].status().unwrap().drops;
    println!(
        "sent {sent} datagrams of {SIZE} octets in {SECONDS} s; heard {heard:?}; dropped by the sender: {drops:?}"
    );
    assert!(
        sent > rate * SECONDS * 9 / 10,
        "the machine cannot send 50 Mbit/s: {sent}"
    );
    for (count, pod) in heard.iter().zip(&pods[1..]) {
        assert!(
            count * 1_000 >= sent * 995,
            "{} heard {count} of {sent}",
            pod.name()
        );
    }
}
