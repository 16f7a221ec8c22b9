//! libFuzzer around one target, which the environment names; `./run` builds and starts it.
#![no_main]
#![forbid(unsafe_code)]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use weft_fuzz::{Target, by_name};

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    std::env::var("WEFT_FUZZ_TARGET")
        .ok()
        .and_then(|name| by_name(&name))
        .expect("WEFT_FUZZ_TARGET must name a target: start this with ./run")
});

fuzz_target!(|data: &[u8]| {
    (TARGET.run)(data);
});
