//! Why a call failed: the error object of CNI 1.0.0, section "Error".

use crate::version::SpecVersion;
use serde_json::{Value, json};

/// The numbers of CNI 1.0.0 section "Error" that this plugin uses, and its own from 100 on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Code {
    /// The configuration is written for a version that is not spoken here.
    IncompatibleVersion = 1,
    /// The configuration asks for something that this plugin cannot do.
    UnsupportedField = 2,
    /// A variable of the environment is missing or wrong.
    Environment = 4,
    /// The configuration cannot be read from standard input.
    Io = 5,
    /// The configuration is not JSON.
    Decode = 6,
    /// A value of the configuration is not possible.
    Config = 7,
    /// The router cannot answer now, or has no address now.
    TryAgain = 11,
    /// The kernel does not do what is asked of it.
    Kernel = 100,
    /// Something that weft did not make for this attachment is in its place.
    InTheWay = 101,
    /// The router refuses for good, or its answer is not understood.
    Router = 102,
}

/// Longest message, in octets. It ends in logs and in events of an orchestrator, and may hold a value of any length
/// that somebody wrote into a configuration.
const MESSAGE_MAX: usize = 1024;

/// A failed call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Failure {
    /// What a runtime reads.
    pub(crate) code: Code,
    /// What is wrong, in one line.
    pub(crate) message: String,
    /// The cure, and what else is worth knowing; may be empty.
    pub(crate) details: String,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<String>, details: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_MAX {
            message.truncate(message.floor_char_boundary(MESSAGE_MAX));
            message.push_str("...");
        }
        Self {
            code,
            message,
            details: details.into(),
        }
    }

    /// With one more sentence in the details.
    pub(crate) fn and(mut self, more: &str) -> Self {
        if !self.details.is_empty() {
            self.details.push_str("; ");
        }
        self.details.push_str(more);
        self
    }

    /// The object that goes to standard output.
    pub(crate) fn to_json(&self, version: SpecVersion) -> Value {
        json!({
            "cniVersion": version.text(),
            "code": self.code as u8,
            "msg": self.message,
            "details": self.details,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let failure = Failure::new(Code::Config, format!("a{}", "\u{e4}".repeat(MESSAGE_MAX)), "");
        assert_eq!(failure.message.len(), MESSAGE_MAX - 1 + "...".len());
    }

    #[test]
    fn the_object_has_the_four_keys_of_the_specification() {
        let failure = Failure::new(Code::TryAgain, "no router", "start one").and("or wait");
        assert_eq!(
            failure.to_json(SpecVersion::V0_4_0),
            json!({"cniVersion": "0.4.0", "code": 11, "msg": "no router", "details": "start one; or wait"})
        );
    }
}
