//! Feeds every target what is committed for it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use weft_fuzz::{TARGETS, by_name};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries
        .map(|entry| {
            entry
                .expect("the folder can be read")
                .file_name()
                .into_string()
                .expect("names are plain")
        })
        .collect()
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names(&corpus()), targets);
}

/// Names the input that broke a target: the panic itself does not.
struct Culprit<'a>(&'a str, &'a str);

impl Drop for Culprit<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Culprit(target, input) = self;
            eprintln!("target {target} broke on {input}");
        }
    }
}

fn feed(name: &str) {
    let target = by_name(name).expect("it is in the table");
    (target.run)(&[]);
    for (number, seed) in (target.seeds)().iter().enumerate() {
        let input = format!("seed {number}");
        let _culprit = Culprit(name, &input);
        (target.run)(seed);
    }
    let folder = corpus().join(name);
    let files = names(&folder);
    assert!(!files.is_empty(), "{name} has no corpus");
    for file in files {
        let octets = fs::read(folder.join(&file)).expect("the file can be read");
        let _culprit = Culprit(name, &file);
        (target.run)(&octets);
    }
}

macro_rules! feed {
    ($($test:ident: $target:literal),*) => {
        $(#[test]
        fn $test() {
            feed($target);
        })*

        #[test]
        fn no_target_is_left_out() {
            assert_eq!([$($target),*].as_slice(), TARGETS.iter().map(|t| t.name).collect::<Vec<_>>());
        }
    };
}

feed!(
    datagram: "datagram",
    super_frame: "super-frame",
    fragments: "fragments",
    record: "record",
    text: "text",
    mesh_message: "mesh-message",
    ipam_message: "ipam-message",
    api: "api",
    stored: "stored",
    mesh: "mesh",
    sleeve: "sleeve",
    ipam: "ipam"
);
