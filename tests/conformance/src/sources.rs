//! What the files of the workspace must and must not say.

use std::path::Path;
use std::str::FromStr;

use proc_macro2::{TokenStream, TokenTree};

use crate::table::{self, Kind, Package};
use crate::tree::Tree;
use crate::{Error, Rule, Violation};

/// The longest source file, in lines. Longer ones hold more than one subject.
pub const MAX_LINES: usize = 900;

/// Words that mark something unfinished, spelled so that this file does not hold them.
const MARKERS: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME")];

/// Macros that stand for code which is not there.
const PLACEHOLDERS: &[&str] = &["todo", "unimplemented"];

/// Folders of people and of build machines; a path below one is true on one machine only.
const PLACES: &[&str] = &[
    concat!("/ho", "me/"),
    concat!("/Use", "rs/"),
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
];

/// Attributes of the crate root of a core.
const CORE_ATTRIBUTES: &[&str] = &[
    "cfg_attr(not(test),no_std)",
    "forbid(unsafe_code)",
    "deny(clippy::iter_over_hash_type)",
];

/// Attributes of the crate root of every other package outside the kernel's.
const SHELL_ATTRIBUTES: &[&str] = &["forbid(unsafe_code)"];

/// The rules about files.
///
/// # Errors
/// When a file cannot be read.
pub fn check(tree: &Tree) -> Result<Vec<Violation>, Error> {
    let mut found = Vec::new();
    for file in tree.files()? {
        // What is not text is nobody's source.
        let Ok(content) = String::from_utf8(tree.read(&file)?) else {
            continue;
        };
        let name = file.display().to_string();
        for place in PLACES.iter().filter(|place| names_place(&content, place)) {
            found.push(Violation::new(
                Rule::Places,
                &name,
                format!("names a folder of one machine, below {place}"),
            ));
        }
        if file.extension().is_some_and(|extension| extension == "rs") {
            rust(&file, &name, &content, &mut found);
        }
    }
    for package in table::PACKAGES {
        clippy_config(tree, package, &mut found)?;
    }
    Ok(found)
}

/// The rules about one Rust file.
fn rust(file: &Path, name: &str, content: &str, found: &mut Vec<Violation>) {
    let lines = content.lines().count();
    if lines > MAX_LINES {
        found.push(Violation::new(
            Rule::Length,
            name,
            format!("has {lines} lines, over {MAX_LINES}: split it"),
        ));
    }
    for marker in MARKERS.iter().filter(|marker| content.contains(**marker)) {
        found.push(Violation::new(
            Rule::Finished,
            name,
            format!("holds the marker {marker}: do it, or drop it"),
        ));
    }
    let Ok(tokens) = TokenStream::from_str(content) else {
        found.push(Violation::new(
            Rule::Readable,
            name,
            "is not a sequence of Rust tokens",
        ));
        return;
    };
    let Some(package) = owner(file) else {
        found.push(Violation::new(
            Rule::Listed,
            name,
            "belongs to no package of tests/conformance/src/table.rs",
        ));
        return;
    };
    if is_crate_root(file, package) && package.name != table::UNSAFE_HOME {
        attributes(package, name, &tokens, found);
    }
    words(package, name, tokens, found);
}

/// Rules about words in the code itself; comments and strings are not looked at.
fn words(package: &Package, name: &str, tokens: TokenStream, found: &mut Vec<Violation>) {
    let mut words = Vec::new();
    flatten(tokens, &mut words);
    if package.name != table::UNSAFE_HOME && words.iter().any(|word| word == "unsafe") {
        let detail = format!("holds `unsafe`, which lives in {} only", table::UNSAFE_HOME);
        found.push(Violation::new(Rule::Unsafe, name, detail));
    }
    for placeholder in PLACEHOLDERS {
        if words
            .windows(2)
            .any(|pair| pair[0] == *placeholder && pair[1] == "!")
        {
            found.push(Violation::new(
                Rule::Finished,
                name,
                format!("calls {placeholder}!"),
            ));
        }
    }
    if package.kind == Kind::Core && words.windows(3).any(|three| three == ["extern", "crate", "std"]) {
        found.push(Violation::new(
            Rule::NoStd,
            name,
            "brings std back into a core; take alloc and core",
        ));
    }
}

/// The inner attributes of a crate root.
fn attributes(package: &Package, name: &str, tokens: &TokenStream, found: &mut Vec<Violation>) {
    let tokens: Vec<TokenTree> = tokens.clone().into_iter().collect();
    let present: Vec<String> = tokens
        .windows(3)
        .filter_map(|window| match window {
            [
                TokenTree::Punct(hash),
                TokenTree::Punct(bang),
                TokenTree::Group(group),
            ] if hash.as_char() == '#' && bang.as_char() == '!' => {
                let mut words = Vec::new();
                flatten(group.stream(), &mut words);
                Some(words.concat())
            }
            _ => None,
        })
        .collect();
    let wanted = if package.kind == Kind::Core {
        CORE_ATTRIBUTES
    } else {
        SHELL_ATTRIBUTES
    };
    for attribute in wanted
        .iter()
        .filter(|wanted| !present.iter().any(|present| present == *wanted))
    {
        found.push(Violation::new(
            Rule::Attributes,
            name,
            format!("lacks `#![{attribute}]`"),
        ));
    }
}

/// Clippy takes the nearest `clippy.toml` upwards and no other: cores carry one, and a shell inside a
/// core's folder carries the root's again.
fn clippy_config(tree: &Tree, package: &Package, found: &mut Vec<Violation>) -> Result<(), Error> {
    let nearest = Path::new(package.folder)
        .ancestors()
        .map(|folder| folder.join("clippy.toml"))
        .find(|file| {
            // The last ancestor is the empty path, which is the root.
            tree.root().join(file).is_file()
        });
    let model = match (package.kind, table::cores().next()) {
        (Kind::Core, Some(first)) => Path::new(first.folder).join("clippy.toml"),
        _ => Path::new("clippy.toml").to_path_buf(),
    };
    let at_home = nearest.as_deref().and_then(Path::parent) == Some(Path::new(package.folder));
    let place = nearest
        .as_ref()
        .map_or(String::from("clippy.toml"), |file| file.display().to_string());
    if package.kind == Kind::Core && !at_home {
        let detail = format!("{} has no clippy.toml of its own", package.name);
        found.push(Violation::new(Rule::ClippyConfig, place, detail));
    } else if let Some(nearest) = nearest
        && tree.read(&nearest)? != tree.read(&model)?
    {
        let detail = format!(
            "{} is linted with this file, which differs from {}",
            package.name,
            model.display()
        );
        found.push(Violation::new(Rule::ClippyConfig, place, detail));
    }
    Ok(())
}

/// The package with the deepest folder around a file.
fn owner(file: &Path) -> Option<&'static Package> {
    table::PACKAGES
        .iter()
        .filter(|package| file.starts_with(package.folder))
        .max_by_key(|package| package.folder.len())
}

fn is_crate_root(file: &Path, package: &Package) -> bool {
    let source = Path::new(package.folder).join("src");
    file == source.join("lib.rs") || file == source.join("main.rs")
}

/// All words and signs of a token stream, in order, without the brackets' shape being lost.
fn flatten(tokens: TokenStream, words: &mut Vec<String>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    proc_macro2::Delimiter::Parenthesis => ("(", ")"),
                    proc_macro2::Delimiter::Brace => ("{", "}"),
                    proc_macro2::Delimiter::Bracket => ("[", "]"),
                    proc_macro2::Delimiter::None => ("", ""),
                };
                words.push(open.into());
                flatten(group.stream(), words);
                words.push(close.into());
            }
            TokenTree::Ident(ident) => words.push(ident.to_string()),
            TokenTree::Punct(punct) => words.push(punct.as_char().into()),
            TokenTree::Literal(literal) => words.push(literal.to_string()),
        }
    }
}

/// Whether a text holds `place` as the beginning of a path, not as a part of a longer one.
fn names_place(content: &str, place: &str) -> bool {
    content.match_indices(place).any(|(at, _)| {
        let before = content[..at].chars().next_back();
        !before.is_some_and(|sign| sign.is_alphanumeric() || "._-~}/*".contains(sign))
    })
}
