//! `weft ipam check`, against addresses, ports and files that are broken for real.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::time::Duration;

use weft_kernel::attach::host_ifname;
use weft_kernel::{addr, link};
use weft_lab::{Api, Host, Lab, Schema};
use weft_wire::api::IpamCheck;

/// For anything that needs no timeout to pass first.
const SOON: Duration = Duration::from_secs(15);
/// Frames that nobody answers, so that a host's traffic is seen.
const SHOUTS: u16 = 3;

/// Checks a host: whether the command succeeded, and the kinds of what was found, the wrong ones first.
fn check(host: &Host) -> (bool, Vec<String>) {
    let output = host.ask(&["ipam", "check", "--json"]).unwrap();
    Schema::published()
        .unwrap()
        .check("IpamCheck", &output.stdout)
        .unwrap();
    let found: IpamCheck = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(found.unchecked, Vec::<String>::new());
    let mut kinds: Vec<String> = found
        .findings
        .iter()
        .map(|finding| format!("{}{}", if finding.wrong { "" } else { "note " }, finding.kind))
        .collect();
    kinds.sort();
    (output.status.success(), kinds)
}

#[test]
fn each_thing_that_is_broken_is_found_and_its_cure_cures() {
    let lab = Lab::new("check").unwrap();
    let (_switch, routers) = lab.cluster(&["a", "b"], &[], SOON).unwrap();
    let [a, b] = &routers[..] else { unreachable!() };
    let host = a.host();
    let names = ["web", "stray", "mac", "off", "half", "free"];
    let pods = names.map(|name| host.pod_any(name).unwrap());
    let [web, stray, mac, off, half, free] = &pods;
    for router in [a, b] {
        let (is_well, kinds) = check(router.host());
        assert!(is_well, "{}: {kinds:?}", router.host().name());
        assert_eq!(kinds, Vec::<String>::new());
    }
    let shown = host.ask(&["ipam", "check"]).unwrap().success().unwrap().stdout;
    assert!(
        shown.contains("6 pods") && shown.ends_with("all is well\n"),
        "{shown}"
    );

    let of = |text: &str| format!("{text}/12").parse().unwrap();
    let had = web.address().unwrap().to_string();
    let inside = |pod: &weft_lab::Pod, work: &(dyn Fn(&str) + Sync)| {
        pod.namespace().run(|| work(pod.interface())).unwrap();
    };
    inside(web, &|interface| {
        addr::remove(interface, of(&had)).unwrap();
    });
    inside(stray, &|interface| {
        addr::add(interface, of("10.33.44.55")).unwrap()
    });
    inside(mac, &|interface| {
        link::set_mac(interface, [2, 0xee, 0, 0, 0, 1]).unwrap()
    });
    // A namespace that nobody holds any longer takes both ends of its pair with it; so does this.
    let gone = "/run/netns/weft-lab-no-such-namespace";
    let lost = host.pod_any("lost").unwrap();
    lost.detach().unwrap();
    let path = lost.namespace().path().display().to_string();
    host.ask(&["attach", &path, "--id", gone])
        .unwrap()
        .success()
        .unwrap();
    host.namespace()
        .run(|| {
            link::set_master(&host_ifname(off.name()), None).unwrap();
            link::set_alias(&host_ifname(half.name()), "").unwrap();
            assert!(link::delete(&host_ifname(gone)).unwrap());
        })
        .unwrap();
    host.ask(&["ipam", "free", free.name()])
        .unwrap()
        .success()
        .unwrap();
    std::fs::remove_file(host.state_dir().join("state")).unwrap();

    let (is_well, kinds) = check(host);
    assert!(!is_well);
    let all = [
        "address-missing",
        "half-done",
        "leaked",
        "not-held",
        "note unattached",
        "off-bridge",
        "other-mac",
        "state-file",
        "stray-address",
    ];
    assert_eq!(kinds, all);
    let output = host.ask(&["ipam", "check"]).unwrap();
    for part in [
        format!("wrong       pod web was given {had}, and its interface eth0 does not have it\n"),
        format!("`weft detach {gone}` gives it back"),
        "7 things are wrong".to_owned(),
    ] {
        assert!(
            output.stdout.contains(&part),
            "{part} is missing in:\n{}",
            output.stdout
        );
    }

    // As each cure says. The state file was mended when it was found missing.
    for pod in [web, mac, off, half] {
        pod.attach_again().unwrap().success().unwrap();
    }
    inside(stray, &|interface| {
        addr::remove(interface, of("10.33.44.55")).unwrap();
    });
    let address = free.address().unwrap().to_string();
    host.ask(&["ipam", "claim", free.name(), &address])
        .unwrap()
        .success()
        .unwrap();
    host.ask(&["detach", gone]).unwrap().success().unwrap();
    let (is_well, kinds) = check(host);
    assert!(is_well, "{kinds:?}");
    assert_eq!(kinds, Vec::<String>::new());
    // The file is there again, with all that happened; and what a pod has is claimed for it when the router starts.
    host.ask(&["ipam", "free", free.name()])
        .unwrap()
        .success()
        .unwrap();
    a.restart().unwrap();
    a.wait_until("all addresses are held", SOON, |_| {
        let used = Api::connect(host).unwrap().ipam().unwrap().used;
        used.iter().any(|used| used.id == free.name()) && used.len() == pods.len()
    })
    .unwrap();
    a.wait_for_peers(1, SOON).unwrap();

    // What another host sends with the address of a pod here.
    let other = b.host().pod_any("double").unwrap();
    let twin = web.mac().unwrap();
    inside(&other, &|interface| link::set_mac(interface, twin).unwrap());
    // In the other host's part of the range, so the questions reach it; nobody answers.
    let nobody = [10, 39, 255, 250].into();
    let _ = other.ping(nobody, SHOUTS);
    a.wait_until("the twin is found", SOON, |_| {
        check(host).1.contains(&"seen-elsewhere".to_owned())
    })
    .unwrap();
}
