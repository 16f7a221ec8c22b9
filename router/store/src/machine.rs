//! The machine that a state file is bound to.

use std::path::{Path, PathBuf};
use weft_wire::hash::hash;

/// Where systemd keeps the machine id (machine-id(5)).
pub const DEFAULT_MACHINE_ID_FILE: &str = "/etc/machine-id";

/// The id of this machine: 32 hexadecimal digits.
#[derive(Clone, PartialEq, Eq)]
pub struct MachineId(String);

/// Why there is no machine id.
#[derive(Debug, thiserror::Error)]
pub enum MachineIdError {
    /// The file cannot be read.
    #[error(
        "machine id {path}: {source}. A node's identity is bound to its machine: in a container mount the host's \
         /etc/machine-id, or name another file of 32 hexadecimal digits with --machine-id-file"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error(
        "{path} holds no machine id (32 hexadecimal digits): make one with systemd-machine-id-setup, or name \
         another file with --machine-id-file"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

impl MachineId {
    /// Reads the id from a file.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn read(path: &Path) -> Result<Self, MachineIdError> {
        let text = std::fs::read_to_string(path).map_err(|source| MachineIdError::Unreadable {
            path: path.into(),
            source,
        })?;
        Self::from_text(text.trim()).ok_or(MachineIdError::Malformed { path: path.into() })
    }

    /// An id from its 32 digits; all zero is none.
    pub fn from_text(text: &str) -> Option<Self> {
        let well_formed = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        (well_formed && text.bytes().any(|b| b != b'0')).then(|| Self(text.to_ascii_lowercase()))
    }

    /// What the state file keeps of the id: machine-id(5) asks that the id itself stays on the machine.
    pub(crate) fn binding(&self) -> [u8; 32] {
        hash("weft machine binding v1", &[self.0.as_bytes()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_32_digits_and_not_all_zero() {
        assert!(MachineId::from_text("0123456789ABCDEF0123456789abcdef").is_some());
        for bad in [
            "",
            "uninitialized",
            "00000000000000000000000000000000",
            "0123456789abcdef0123456789abcdeg",
        ] {
            assert!(MachineId::from_text(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_missing_file_says_what_to_mount() {
        let error = MachineId::read(Path::new("/nonexistent/machine-id"))
            .err()
            .unwrap();
        assert!(error.to_string().contains("mount"), "{error}");
    }
}
