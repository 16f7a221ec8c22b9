//! Each rule is broken in a copy of the workspace and must be seen to be broken: the checkers by what they
//! report, the compiler and clippy by their refusal. The unbroken copy is checked first, so that nothing is
//! refused for another reason.

use std::path::Path;

use weft_conformance::table::{self, Package};
use weft_conformance::tree::{Copy, Tree};
use weft_conformance::{Error, Rule, Violation, dependencies, sources};

type Checker = fn(&Tree) -> Result<Vec<Violation>, Error>;

fn copy() -> Copy {
    Copy::new(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance"))
        .expect("the workspace can be copied")
}

fn package(name: &str) -> &'static Package {
    table::by_name(name).expect("the package is in the table")
}

/// The file with the attributes: the library's root, or the program's where there is no library.
fn root_of(package: &Package) -> String {
    let library = format!("{}/src/lib.rs", package.folder);
    match Tree::real().root().join(&library).is_file() {
        true => library,
        false => format!("{}/src/main.rs", package.folder),
    }
}

/// Sees that `rule` holds at `place`, makes the change, and sees that it is reported there.
#[track_caller]
fn reported(checker: Checker, rule: Rule, place: &str, change: impl FnOnce(&Copy)) {
    let copy = copy();
    let breaches = |copy: &Copy| -> Vec<String> {
        let found = checker(copy.tree()).expect("the copy can be checked");
        found
            .into_iter()
            .filter(|v| v.rule == rule && v.place == place)
            .map(|v| v.to_string())
            .collect()
    };
    assert_eq!(
        breaches(&copy),
        Vec::<String>::new(),
        "the copy is broken before the change"
    );
    change(&copy);
    assert_ne!(
        breaches(&copy),
        Vec::<String>::new(),
        "the broken rule {rule:?} was not seen at {place}"
    );
}

/// Adds a dependency to a package of the copy.
fn depend(copy: &Copy, on: &str, package: &Package) {
    let manifest = format!("{}/Cargo.toml", package.folder);
    let text =
        String::from_utf8(copy.tree().read(&manifest).expect("it has a manifest")).expect("it is text");
    let changed = text.replace(
        "[dependencies]\n",
        &format!("[dependencies]\n{on}.workspace = true\n"),
    );
    copy.write(&manifest, changed.as_bytes())
        .expect("the copy can be written");
}

#[test]
fn a_core_with_tokio_below_it_is_reported() {
    let core = package("weft-fastpath");
    reported(dependencies::check, Rule::PureDependencies, core.name, |copy| {
        depend(copy, "tokio", core)
    });
}

#[test]
fn an_impure_crate_is_found_through_another() {
    // tempfile brings rustix.
    let core = package("weft-ipam-crdt");
    reported(dependencies::check, Rule::PureDependencies, core.name, |copy| {
        depend(copy, "tempfile", core)
    });
}

#[test]
fn a_core_that_imports_another_is_reported() {
    let core = package("weft-fastpath");
    reported(dependencies::check, Rule::Imports, core.name, |copy| {
        depend(copy, "weft-gossip", core)
    });
}

#[test]
fn a_shell_that_imports_another_core_is_reported() {
    let shell = package("weft-sleeve-engine");
    reported(dependencies::check, Rule::Imports, shell.name, |copy| {
        depend(copy, "weft-gossip", shell)
    });
}

#[test]
fn a_package_outside_the_table_is_reported() {
    reported(dependencies::check, Rule::Listed, "stray", |copy| {
        copy.write("stray/src/lib.rs", b"")
            .expect("the copy can be written");
        copy.write(
            "stray/Cargo.toml",
            b"[package]\nname = \"stray\"\nedition = \"2024\"\n",
        )
        .expect("the copy can be written");
        let manifest =
            String::from_utf8(copy.tree().read("Cargo.toml").expect("it is there")).expect("it is text");
        let changed = manifest.replace("members = [", "members = [\n    \"stray\",");
        copy.write("Cargo.toml", changed.as_bytes())
            .expect("the copy can be written");
    });
}

#[test]
fn unsafe_outside_the_kernel_package_is_reported() {
    let place = root_of(package("weft-fastpath-driver"));
    reported(sources::check, Rule::Unsafe, &place, |copy| {
        copy.append(
            &place,
            "\nfn read(at: *const u8) -> u8 {\n    unsafe { *at }\n}\n",
        )
        .expect("it is there");
    });
}

#[test]
fn unsafe_in_a_comment_or_a_string_is_not_reported() {
    let copy = copy();
    let place = root_of(package("weft-fastpath"));
    copy.append(
        &place,
        "\n// unsafe\n/// unsafe\npub const WORD: &str = \"unsafe {}\";\n",
    )
    .expect("it is there");
    let found = sources::check(copy.tree()).expect("the copy can be checked");
    assert!(
        !found.iter().any(|v| v.rule == Rule::Unsafe && v.place == place),
        "{found:?}"
    );
}

#[test]
fn a_crate_root_without_its_attributes_is_reported() {
    for package in table::PACKAGES
        .iter()
        .filter(|package| package.name != table::UNSAFE_HOME)
    {
        let place = root_of(package);
        reported(sources::check, Rule::Attributes, &place, |copy| {
            let text = String::from_utf8(copy.tree().read(&place).expect("it is there")).expect("it is text");
            let changed = text.replace("#![forbid(unsafe_code)]", "");
            copy.write(&place, changed.as_bytes())
                .expect("the copy can be written");
        });
    }
}

#[test]
fn a_core_that_brings_std_back_is_reported() {
    let place = root_of(package("weft-gossip"));
    reported(sources::check, Rule::NoStd, &place, |copy| {
        copy.append(&place, "\nextern crate std;\n").expect("it is there");
    });
}

#[test]
fn something_unfinished_is_reported() {
    let place = root_of(package("weft-lab"));
    for unfinished in [
        concat!("// TO", "DO later"),
        "fn later() {\n    todo!()\n}",
        "fn later() { unimplemented!(\"x\") }",
    ] {
        reported(sources::check, Rule::Finished, &place, |copy| {
            copy.append(&place, &format!("\n{unfinished}\n"))
                .expect("it is there");
        });
    }
}

#[test]
fn a_file_that_is_too_long_is_reported() {
    let place = root_of(package("weft-sleeve"));
    reported(sources::check, Rule::Length, &place, |copy| {
        copy.append(&place, &"\n".repeat(sources::MAX_LINES + 1))
            .expect("it is there");
    });
}

#[test]
fn a_path_of_one_machine_is_reported() {
    let place = "docs/adr/README.md";
    reported(sources::check, Rule::Places, place, |copy| {
        copy.append(place, concat!("\nSee /ho", "me/someone/notes.\n"))
            .expect("it is there");
    });
}

#[test]
fn a_file_that_is_not_rust_is_reported() {
    let place = root_of(package("weft-wire"));
    reported(sources::check, Rule::Readable, &place, |copy| {
        copy.append(&place, "\nfn open( {\n").expect("it is there");
    });
}

#[test]
fn a_package_linted_with_the_wrong_configuration_is_reported() {
    // A core's own file is gone: clippy would take the root's.
    reported(sources::check, Rule::ClippyConfig, "clippy.toml", |copy| {
        copy.remove("router/node/clippy.toml").expect("it is there");
    });
    // A shell inside a core's folder has none: clippy would take the core's.
    reported(sources::check, Rule::ClippyConfig, "sleeve/clippy.toml", |copy| {
        copy.remove("sleeve/engine/clippy.toml").expect("it is there");
    });
    // One core's file is weaker than the others'.
    reported(sources::check, Rule::ClippyConfig, "gossip/clippy.toml", |copy| {
        copy.write("gossip/clippy.toml", b"disallowed-methods = []\n")
            .expect("the copy can be written");
    });
}

/// Runs cargo on some packages; gives back whether it was content, and its error lines.
fn cargo(copy: &Copy, before: &[&str], packages: &[&Package], after: &[&str]) -> (bool, String) {
    let mut arguments = before.to_vec();
    arguments.extend(["--keep-going", "--message-format", "short"]);
    for package in packages {
        arguments.extend(["--package", package.name]);
    }
    // Optimising the procedural macros costs more than it saves here.
    arguments.extend(["--config", "profile.dev.package.'*'.opt-level=0"]);
    arguments.extend(after);
    let output = copy.tree().cargo(&arguments).expect("cargo can be started");
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// Whether cargo's output names an error of this kind in this file.
fn refused(output: &str, place: &str, words: &str) -> bool {
    output
        .lines()
        .any(|line| line.starts_with(place) && line.contains("error") && line.contains(words))
}

#[test]
fn the_compiler_refuses_a_clock_in_a_core() {
    let copy = copy();
    let cores: Vec<&Package> = table::cores().collect();
    let (content, output) = cargo(&copy, &["check"], &cores, &[]);
    assert!(content, "the unbroken cores do not compile:\n{output}");
    // One after the other, because a core above a broken one is not compiled at all.
    for core in cores {
        let place = root_of(core);
        let whole = copy.tree().read(&place).expect("it is there");
        copy.append(&place, "\nuse std::time::Instant;\n")
            .expect("it is there");
        let (content, output) = cargo(&copy, &["check"], &[core], &[]);
        assert!(
            !content && refused(&output, &place, "`std`"),
            "{} took a clock:\n{output}",
            core.name
        );
        copy.write(&place, &whole).expect("the copy can be written");
    }
}

/// Test code that breaks the rules which `no_std` cannot keep, because tests have `std`.
const NOT_DETERMINISTIC: &str = r#"
#[cfg(test)]
mod broken_on_purpose {
    #[test]
    fn reads_the_clock() {
        assert!(std::time::Instant::now().elapsed().as_secs() < 1);
        std::thread::sleep(core::time::Duration::ZERO);
    }

    #[test]
    fn walks_in_random_order() {
        let map: std::collections::HashMap<u8, u8> = core::iter::once((1, 2)).collect();
        for (key, value) in &map {
            assert!(key < value);
        }
    }
}
"#;

#[test]
fn clippy_refuses_clocks_and_random_order_in_the_tests_of_a_core() {
    let copy = copy();
    let cores: Vec<&Package> = table::cores().collect();
    let clippy = |copy| {
        cargo(
            copy,
            &["clippy", "--all-targets"],
            &cores,
            &["--", "-D", "warnings"],
        )
    };
    let (content, output) = clippy(&copy);
    assert!(content, "clippy refuses the unbroken cores:\n{output}");
    for &core in &cores {
        copy.append(root_of(core), NOT_DETERMINISTIC)
            .expect("it is there");
    }
    let (content, output) = clippy(&copy);
    assert!(!content, "clippy took broken cores:\n{output}");
    for core in cores {
        let place = root_of(core);
        for words in [
            "Instant::now",
            "thread::sleep",
            "collections::HashMap",
            "iteration over unordered",
        ] {
            assert!(
                refused(&output, &place, words),
                "{} used {words} unseen:\n{output}",
                core.name
            );
        }
    }
}

/// Reduces a crate root to its attributes, and a manifest to its lints: what the compiler needs to refuse
/// unsafe code, without the minutes of compiling what the package imports.
fn reduce(copy: &Copy, package: &Package, body: &str) {
    let manifest = format!("{}/Cargo.toml", package.folder);
    let text = String::from_utf8(copy.tree().read(&manifest).expect("it is there")).expect("it is text");
    assert!(
        text.contains("[lints]\nworkspace = true\n"),
        "{} has lints of its own",
        package.name
    );
    let reduced = format!(
        "[package]\nname = \"{}\"\nedition.workspace = true\n[lints]\nworkspace = true\n",
        package.name
    );
    copy.write(&manifest, reduced.as_bytes())
        .expect("the copy can be written");
    for root in crate_roots(copy, package) {
        let text = String::from_utf8(copy.tree().read(&root).expect("it is there")).expect("it is text");
        let mut kept: String = text
            .lines()
            .filter(|line| line.starts_with("#!["))
            .fold(String::from("//! Reduced.\n"), |kept, line| kept + line + "\n");
        kept.push_str(if root.ends_with("main.rs") || root.contains("/src/bin/") {
            "fn main() {}\n"
        } else {
            ""
        });
        kept.push_str(body);
        copy.write(&root, kept.as_bytes())
            .expect("the copy can be written");
    }
}

fn crate_roots(copy: &Copy, package: &Package) -> Vec<String> {
    let mut roots: Vec<String> = ["lib.rs", "main.rs"]
        .map(|name| format!("{}/src/{name}", package.folder))
        .into_iter()
        .filter(|root| copy.tree().root().join(root).is_file())
        .collect();
    let programs = format!("{}/src/bin", package.folder);
    if let Ok(entries) = copy.tree().root().join(&programs).read_dir() {
        let names = entries.map(|entry| entry.expect("the folder can be read").file_name());
        roots.extend(names.map(|name| format!("{programs}/{}", name.to_string_lossy())));
    }
    roots
}

#[test]
fn the_compiler_refuses_unsafe_everywhere_but_in_the_kernel_package() {
    const SAFE: &str = "/// Two.\npub fn two() -> u8 {\n    2\n}\n";
    const UNSAFE: &str = "/// One.\npub unsafe fn one() -> u8 {\n    1\n}\n";
    let copy = copy();
    let packages: Vec<&Package> = table::PACKAGES
        .iter()
        .filter(|package| package.name != table::UNSAFE_HOME)
        .collect();
    for (body, accepted) in [(SAFE, true), (UNSAFE, false)] {
        for &package in &packages {
            reduce(&copy, package, body);
        }
        let (content, output) = cargo(&copy, &["check"], &packages, &[]);
        assert_eq!(content, accepted, "{output}");
        for package in &packages {
            // A program is not compiled once the library of its package has failed; that it forbids unsafe code
            // itself is what the rule on attributes looks at.
            for root in crate_roots(&copy, package).into_iter().take(1) {
                assert_eq!(
                    refused(&output, &root, "unsafe"),
                    !accepted,
                    "{root} took unsafe code:\n{output}"
                );
            }
        }
    }
}
