//! Replacing a file as a whole, and making a directory, so that both outlive a crash.

use crate::error::StoreError;
use crate::point::{Occasion, Points, Step, WritePoint};
use crate::syncs::Syncs;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Permissions of a directory by which others could change what is in it.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Writes a file so that a crash leaves the old octets or the new ones, never a mixture.
pub(crate) fn replace(
    (directory, name): (&Path, &str),
    bytes: &[u8],
    occasion: Occasion,
    points: &mut Points,
    syncs: &Syncs,
) -> Result<(), StoreError> {
    let path = directory.join(name);
    let beside = directory.join(format!("{name}.new"));
    let mut reach = |step| points.reach(WritePoint::File(occasion, step));
    let mut write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        reach(Step::Made);
        file.write_all(bytes)?;
        reach(Step::Written);
        syncs.measured(|| file.sync_all())?;
        reach(Step::Synced);
        std::fs::rename(&beside, &path)?;
        reach(Step::Renamed);
        let directory = File::open(directory)?;
        syncs.measured(|| directory.sync_all())?;
        reach(Step::Durable);
        Ok(())
    };
    write().map_err(|source| {
        // The old file still stands; what was written beside it is of no use to anybody.
        let _ = std::fs::remove_file(&beside);
        StoreError::of_io(&path, source)
    })
}

/// Makes a directory with all above it, and syncs those that got a new entry. True when it was not there.
pub(crate) fn make_directory(path: &Path) -> io::Result<bool> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|ancestor| !ancestor.as_os_str().is_empty() && !ancestor.exists())
        .collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    for made in &missing {
        let parent = match made.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(parent)?.sync_all()?;
    }
    Ok(!missing.is_empty())
}

/// Renames files of a directory, as far as they are there, so that a crash afterwards does not undo it.
pub(crate) fn rename_all(directory: &Path, names: &[(&str, String)]) -> Result<(), StoreError> {
    for (from, to) in names {
        let (from, to) = (directory.join(from), directory.join(to));
        match std::fs::rename(&from, &to) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            done => done.map_err(|source| StoreError::of_io(&from, source))?,
        }
    }
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| StoreError::of_io(directory, source))
}

/// Refuses a directory in which somebody else could change or replace what the router wrote.
pub(crate) fn check_owner(path: &Path) -> Result<(), StoreError> {
    let found = std::fs::metadata(path).map_err(|source| StoreError::of_io(path, source))?;
    let (owner, user) = (found.uid(), rustix::process::geteuid().as_raw());
    let path = path.into();
    if owner != user {
        return Err(StoreError::OtherOwner { path, owner, user });
    }
    if found.mode() & WRITABLE_BY_OTHERS != 0 {
        let mode = found.mode() & 0o7777;
        return Err(StoreError::Open { path, mode });
    }
    Ok(())
}
