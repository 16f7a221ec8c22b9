//! What the packages import, as cargo resolves it.

use serde_json::Value;

use crate::table::{self, Kind, Package};
use crate::tree::Tree;
use crate::{Error, Rule, Violation};

/// The platform for which the tree below a core is judged. It is fixed, so that the answer is the same on
/// every machine: on aarch64 `cpufeatures` reads the CPU's features through libc.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// The rules about dependencies.
///
/// # Errors
/// When cargo cannot answer.
pub fn check(tree: &Tree) -> Result<Vec<Violation>, Error> {
    let metadata = metadata(tree)?;
    let members = metadata["packages"]
        .as_array()
        .ok_or_else(|| Error::Metadata("no packages".into()))?;
    let mut found = Vec::new();
    for member in members {
        let name = text(member, "name")?;
        match table::by_name(name) {
            Some(package) if folder(&metadata, member)? == package.folder => {
                imports(package, member, &mut found)?;
            }
            _ => found.push(Violation::new(
                Rule::Listed,
                name,
                "is not in the table of tests/conformance/src/table.rs under this folder: add it there, with its \
                 kind and imports",
            )),
        }
    }
    for package in table::PACKAGES {
        if !members.iter().any(|member| member["name"] == package.name) {
            found.push(Violation::new(
                Rule::Listed,
                package.name,
                "is in the table and not in the workspace",
            ));
        } else if package.kind == Kind::Core {
            purity(tree, package, &mut found)?;
        }
    }
    Ok(found)
}

/// A package's direct imports of other packages of the project.
fn imports(package: &Package, member: &Value, found: &mut Vec<Violation>) -> Result<(), Error> {
    let dependencies = member["dependencies"]
        .as_array()
        .ok_or_else(|| Error::Metadata("no dependencies".into()))?;
    for dependency in dependencies {
        let name = text(dependency, "name")?;
        // A dependency without a path comes from the registry.
        if dependency["path"].is_null() || package.imports.contains(&name) {
            continue;
        }
        let only_in_tests = dependency["kind"] == "dev";
        if package.kind != Kind::Core && only_in_tests && name == table::LAB {
            continue;
        }
        found.push(Violation::new(
            Rule::Imports,
            package.name,
            format!("may not import {name}; it may import {:?}", package.imports),
        ));
    }
    Ok(())
}

/// Everything below a core.
fn purity(tree: &Tree, package: &Package, found: &mut Vec<Violation>) -> Result<(), Error> {
    let arguments = [
        "tree",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--target",
        PLATFORM,
        "--package",
        package.name,
    ];
    let listing = succeed(tree, &arguments)?;
    for &impure in table::IMPURE {
        // Each line is `name vVERSION ...`.
        if listing.lines().any(|line| line.split(' ').next() == Some(impure)) {
            found.push(Violation::new(
                Rule::PureDependencies,
                package.name,
                format!(
                    "has {impure} below it; `cargo tree -e normal -p {} -i {impure}` shows how",
                    package.name
                ),
            ));
        }
    }
    Ok(())
}

fn metadata(tree: &Tree) -> Result<Value, Error> {
    let answer = succeed(tree, &["metadata", "--format-version", "1", "--no-deps"])?;
    serde_json::from_str(&answer).map_err(|error| Error::Metadata(error.to_string()))
}

/// The folder of a member relative to the root of the workspace.
fn folder<'a>(metadata: &'a Value, member: &'a Value) -> Result<&'a str, Error> {
    let root = text(metadata, "workspace_root")?;
    let manifest = text(member, "manifest_path")?;
    manifest
        .strip_prefix(root)
        .and_then(|path| path.strip_prefix('/')?.strip_suffix("/Cargo.toml"))
        .ok_or_else(|| Error::Metadata(format!("{manifest} is not below {root}")))
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str, Error> {
    value[key]
        .as_str()
        .ok_or_else(|| Error::Metadata(format!("no {key}")))
}

fn succeed(tree: &Tree, arguments: &[&str]) -> Result<String, Error> {
    let output = tree.cargo(arguments)?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let output = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(Error::Cargo {
            arguments: arguments.join(" "),
            output,
        })
    }
}
