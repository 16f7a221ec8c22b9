//! The areas, and running those that were named.

use crate::figure::{Figure, Sample};
use crate::ipam;
use std::path::Path;

/// What can be measured by name.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it measures.
    pub about: &'static str,
    run: fn(&Path) -> anyhow::Result<Vec<Sample>>,
}

/// Every area.
pub const AREAS: &[Area] = &[Area {
    name: "ipam",
    about: "an address in the core, the same answered durably, one whose space another host has, and merging 65,536 slots",
    run: ipam::run,
}];

/// No area has this name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no area {0:?}; the areas are: {areas}", areas = names())]
pub struct UnknownArea(String);

fn names() -> String {
    AREAS.iter().map(|area| area.name).collect::<Vec<_>>().join(", ")
}

/// The areas of these names, all when none is named.
///
/// # Errors
/// A name is no area's.
pub fn select(names: &[String]) -> Result<Vec<Area>, UnknownArea> {
    if names.is_empty() {
        return Ok(AREAS.to_vec());
    }
    let find = |name: &String| {
        let found = AREAS.iter().find(|area| area.name == name);
        found.copied().ok_or_else(|| UnknownArea(name.clone()))
    };
    names.iter().map(find).collect()
}

impl Area {
    /// Measures it so many times; files are written below `folder`.
    ///
    /// # Errors
    /// A file cannot be written, or a part of weft refuses what it should take.
    pub fn measure(&self, runs: usize, folder: &Path) -> anyhow::Result<Vec<Figure>> {
        let runs = (0..runs)
            .map(|_| (self.run)(folder))
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Figure::of_runs(&runs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_area_is_found_by_its_name_and_an_unknown_one_lists_all() {
        assert_eq!(select(&[]).unwrap().len(), AREAS.len());
        assert_eq!(select(&["ipam".into()]).unwrap()[0].name, "ipam");
        let refusal = select(&["nothing".into()]).unwrap_err().to_string();
        for area in AREAS {
            assert!(refusal.contains(area.name), "{refusal}");
        }
    }
}
