//! The workspace on disk, and a copy of it in which a test may break a rule.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::Error;

/// Folders that hold no sources.
const SKIPPED: &[&str] = &["target", ".git"];

/// A workspace on disk.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    // Where cargo puts what it builds, when not where the user's cargo puts it.
    target: Option<PathBuf>,
}

impl Tree {
    /// The workspace this crate was built from.
    pub fn real() -> Self {
        // The manifest's folder is tests/conformance, two below the root.
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .nth(2)
            .unwrap_or(Path::new("/"));
        Self {
            root: root.to_path_buf(),
            target: None,
        }
    }

    /// The folder of the workspace's `Cargo.toml`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Every file of the sources, relative to the root, sorted.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn files(&self) -> Result<Vec<PathBuf>, Error> {
        let mut files = Vec::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            let path = self.root.join(&folder);
            for entry in fs::read_dir(&path).map_err(at(&path))? {
                let entry = entry.map_err(at(&path))?;
                let name = folder.join(entry.file_name());
                let kind = entry.file_type().map_err(at(&path))?;
                if kind.is_dir() && !SKIPPED.iter().any(|skipped| entry.file_name() == *skipped) {
                    folders.push(name);
                } else if kind.is_file() {
                    files.push(name);
                }
            }
        }
        files.sort();
        Ok(files)
    }

    /// The bytes of one file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, file: impl AsRef<Path>) -> Result<Vec<u8>, Error> {
        let path = self.root.join(file);
        fs::read(&path).map_err(at(&path))
    }

    /// Runs cargo in this tree, offline, and gives back what it wrote, whether or not it succeeded.
    ///
    /// # Errors
    /// When cargo cannot be started.
    pub fn cargo(&self, arguments: &[&str]) -> Result<Output, Error> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .args(arguments)
            .current_dir(&self.root)
            .env("CARGO_NET_OFFLINE", "true");
        // An exported CLIPPY_CONF_DIR would replace every package's own clippy.toml.
        command
            .env_remove("CLIPPY_CONF_DIR")
            .env("CARGO_TERM_COLOR", "never");
        if let Some(target) = &self.target {
            command.env("CARGO_TARGET_DIR", target);
        }
        command.output().map_err(|error| Error::Cargo {
            arguments: arguments.join(" "),
            output: error.to_string(),
        })
    }
}

/// A copy of the real tree, at a fixed place, so that cargo compiles only what a test has changed.
///
/// One test at a time holds it; making it removes whatever the test before has changed. It has a target
/// folder of its own: cargo knows a member by its path below the root, so in a shared one it would take
/// what it built from the copy for the user's own.
#[derive(Debug)]
pub struct Copy {
    tree: Tree,
    // Held for its lock, which ends with the file.
    _lock: File,
}

impl Copy {
    /// A fresh copy below `scratch`, waiting for the one who holds it now.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn new(scratch: &Path) -> Result<Self, Error> {
        let root = scratch.join("tree");
        fs::create_dir_all(&root).map_err(at(&root))?;
        let lock_path = scratch.join("lock");
        let lock = File::create(&lock_path).map_err(at(&lock_path))?;
        lock.lock().map_err(at(&lock_path))?;

        let real = Tree::real();
        let tree = Tree {
            root,
            target: Some(scratch.join("target")),
        };
        let wanted = real.files()?;
        for stale in tree
            .files()?
            .iter()
            .filter(|file| wanted.binary_search(file).is_err())
        {
            let path = tree.root.join(stale);
            fs::remove_file(&path).map_err(at(&path))?;
        }
        let copy = Self { tree, _lock: lock };
        for file in &wanted {
            copy.write(file, &real.read(file)?)?;
        }
        Ok(copy)
    }

    /// The copy as a tree.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Writes one file. One that already holds these bytes keeps its time, so cargo leaves it alone.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, file: impl AsRef<Path>, bytes: &[u8]) -> Result<(), Error> {
        let path = self.tree.root.join(file);
        if fs::read(&path).is_ok_and(|old| old == bytes) {
            return Ok(());
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(at(folder))?;
        }
        fs::write(&path, bytes).map_err(at(&path))
    }

    /// Adds text at the end of one file.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn append(&self, file: impl AsRef<Path>, text: &str) -> Result<(), Error> {
        let mut bytes = self.tree.read(&file)?;
        bytes.extend_from_slice(text.as_bytes());
        self.write(file, &bytes)
    }

    /// Removes one file.
    ///
    /// # Errors
    /// When it is not there or cannot be removed.
    pub fn remove(&self, file: impl AsRef<Path>) -> Result<(), Error> {
        let path = self.tree.root.join(file);
        fs::remove_file(&path).map_err(at(&path))
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::File {
        path: path.display().to_string(),
        source,
    }
}
