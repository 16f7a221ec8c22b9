//! Addresses given out over the routers' own sockets; what the steps about addresses have in common.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_lab::{Api, Router};

use super::Stage;

/// Gets `count` addresses from every router, from all of them at once. They come in order of router and
/// number, for ids that have `label` in them.
pub(super) fn give_out(stage: &Stage, label: &str, count: usize) -> anyhow::Result<Vec<IpAddr>> {
    let ask = |router: &Router| -> weft_lab::Result<Vec<IpAddr>> {
        let mut api = Api::connect(router.host())?;
        (0..count)
            .map(|number| api.allocate(&format!("{label}-{number}")))
            .collect()
    };
    let answers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = stage
            .routers
            .iter()
            .map(|router| scope.spawn(move || ask(router)))
            .collect();
        threads
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join)
            .collect()
    });
    let mut all = Vec::new();
    for answer in answers {
        all.extend(answer.map_err(|_| anyhow::anyhow!("a thread that asks a router panicked"))??);
    }
    Ok(all)
}

/// How many addresses are in use on all hosts together, and how many different ones these are.
pub(super) fn in_use(stage: &Stage) -> weft_lab::Result<(usize, usize)> {
    let (mut all, mut different) = (0, BTreeSet::new());
    for router in &stage.routers {
        let used = Api::connect(router.host())?.ipam()?.used;
        all += used.len();
        different.extend(used.into_iter().map(|used| used.address));
    }
    Ok((all, different.len()))
}

/// What there is to say about addresses of which so many are different.
pub(super) fn in_words(all: usize, different: usize) -> String {
    match all - different {
        0 => format!("{all}, none twice"),
        twice => format!("{all}, {twice} of them more than once"),
    }
}
