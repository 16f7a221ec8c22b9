//! The areas, and running those that were named.

use crate::figure::{Figure, Sample};
use crate::{ipam, sleeve};
use std::path::PathBuf;

/// What can be measured by name.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it measures.
    pub about: &'static str,
    /// Names of parts of it that can be measured alone; mostly none.
    pub rows: fn() -> Vec<&'static str>,
    measure: fn(&Plan) -> anyhow::Result<Measured>,
}

/// How something is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How often each figure is measured.
    pub runs: usize,
    /// Files are written below this folder.
    pub folder: PathBuf,
    /// What only the area `sleeve` asks.
    pub sleeve: sleeve::Options,
}

/// What an area came to.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Measured {
    /// The figures.
    pub figures: Vec<Figure>,
    /// Sentences that belong to them.
    pub notes: Vec<String>,
}

/// Every area.
pub const AREAS: &[Area] = &[
    Area {
        name: "ipam",
        about: "an address in the core, the same answered durably, one whose space another host has, and merging 65,536 slots",
        rows: Vec::new,
        measure: |plan| repeated(plan, |plan| ipam::run(&plan.folder)),
    },
    Area {
        name: "sleeve",
        about: "pod to pod on two hosts, beside kernel VXLAN and other tunnels; needs root and iperf3",
        rows: sleeve::row_names,
        measure: sleeve::measure,
    },
];

/// An area that is measured whole, one run after the other.
fn repeated(plan: &Plan, run: fn(&Plan) -> anyhow::Result<Vec<Sample>>) -> anyhow::Result<Measured> {
    let runs = (0..plan.runs)
        .map(|_| run(plan))
        .collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Measured {
        figures: Figure::of_runs(&runs),
        notes: Vec::new(),
    })
}

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
    /// Measures it by plan.
    ///
    /// # Errors
    /// A file cannot be written, a part of weft refuses what it should take, or something is missing on this machine.
    pub fn measure(&self, plan: &Plan) -> anyhow::Result<Measured> {
        (self.measure)(plan)
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
