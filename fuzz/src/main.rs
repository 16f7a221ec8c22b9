//! `weft-fuzz`: lists the targets, writes their seeds, and runs one on files, without an engine.
#![forbid(unsafe_code)]

use anyhow::{Context, bail};
use std::path::Path;
use weft_fuzz::{TARGETS, Target, by_name};

const USAGE: &str = "usage: weft-fuzz list                   names and longest inputs
       weft-fuzz seeds TARGET FOLDER    writes the inputs from which the engine starts
       weft-fuzz run TARGET FILE...     feeds each file to the target; a panic is a finding";

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["list"] => {
            for target in TARGETS {
                println!("{} {}", target.name, target.max_len);
            }
        }
        ["seeds", name, folder] => {
            for (number, seed) in (named(name)?.seeds)().into_iter().enumerate() {
                let path = Path::new(folder).join(format!("seed-{number:02}"));
                std::fs::write(&path, seed).with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
        ["run", name, files @ ..] if !files.is_empty() => {
            let target = named(name)?;
            for file in files {
                let octets = std::fs::read(file).with_context(|| format!("cannot read {file}"))?;
                (target.run)(&octets);
                println!("{file}: {} octets, nothing broke", octets.len());
            }
        }
        _ => bail!("{USAGE}"),
    }
    Ok(())
}

fn named(name: &str) -> anyhow::Result<&'static Target> {
    by_name(name).with_context(|| format!("there is no target {name}; `weft-fuzz list` names them"))
}
