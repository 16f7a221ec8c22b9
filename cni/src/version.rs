//! The versions of the CNI specification that are spoken here.

use crate::failure::{Code, Failure};

/// A version of the specification. Each has a shape of the result of its own, or shares its predecessor's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum SpecVersion {
    /// 0.1.0
    V0_1_0,
    /// 0.2.0
    V0_2_0,
    /// 0.3.0
    V0_3_0,
    /// 0.3.1
    V0_3_1,
    /// 0.4.0
    V0_4_0,
    /// 1.0.0
    V1_0_0,
}

impl SpecVersion {
    /// Oldest first.
    pub(crate) const ALL: [Self; 6] = [
        Self::V0_1_0,
        Self::V0_2_0,
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
    ];
    /// What is spoken when nobody asked for another.
    pub(crate) const NEWEST: Self = Self::V1_0_0;
    /// What a configuration without `cniVersion` is written for: the first versions did not demand the key.
    pub(crate) const UNSTATED: Self = Self::V0_1_0;

    /// As configurations write it.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
        }
    }

    /// Reads `cniVersion`; an empty one counts as none.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        if text.is_empty() {
            return Ok(Self::UNSTATED);
        }
        Self::ALL
            .into_iter()
            .find(|version| version.text() == text)
            .ok_or_else(|| {
                Failure::new(
                    Code::IncompatibleVersion,
                    format!("cniVersion {text:?} is not supported"),
                    format!("write one of these into the configuration: {}", Self::list()),
                )
            })
    }

    fn list() -> String {
        Self::ALL.map(Self::text).join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_is_read_and_nothing_else() {
        for version in SpecVersion::ALL {
            assert_eq!(SpecVersion::parse(version.text()), Ok(version));
        }
        assert_eq!(SpecVersion::parse(""), Ok(SpecVersion::V0_1_0));
        for other in ["1.1.0", "1.0", "1.0.0 ", "v1.0.0", "0.4.1"] {
            let failure = SpecVersion::parse(other).unwrap_err();
            assert_eq!(failure.code, Code::IncompatibleVersion, "{other}");
            assert!(
                failure
                    .details
                    .contains("0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0")
            );
        }
    }
}
