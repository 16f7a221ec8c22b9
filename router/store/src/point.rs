//! The places at which a crash makes a difference, named, and dying there on purpose: a test aid of the shipped
//! program. `weft up --crash-at start-file-renamed:2` ends by SIGKILL when it gets there for the second time.

use std::fmt;
use std::io::Write as _;
use std::str::FromStr;

/// For what a file is replaced as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Occasion {
    /// The state of a new node; a crash before the rename leaves none.
    First,
    /// The higher incarnation of a start.
    Start,
    /// The log of a running router becomes a snapshot.
    Fold,
    /// The join token, in a file of its own.
    Token,
    /// What the host was before it began again is kept aside.
    Former,
    /// What it is from then on takes its place.
    Again,
}

/// How far the replacing is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The new file is there, empty, beside the old one.
    Made,
    /// All octets are handed to the kernel.
    Written,
    /// They are on the disk.
    Synced,
    /// The new file has the name of the old one.
    Renamed,
    /// The name is on the disk.
    Durable,
}

/// How far appending to the log is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Append {
    /// The first half of the octets is handed to the kernel: a torn tail.
    Torn,
    /// All are.
    Written,
    /// They are on the disk, and nobody has heard of it.
    Synced,
}

/// A place at which a crash makes a difference to what the next start finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WritePoint {
    /// The state directory was made, with nothing in it.
    DirectoryMade,
    /// In the middle of replacing a file.
    File(Occasion, Step),
    /// In the middle of appending to the log.
    Records(Append),
    /// The same, of what binds a host while it makes a cluster together with others.
    Agreement(Append),
}

impl WritePoint {
    /// Every one.
    pub const ALL: [Self; 37] = {
        use Occasion::{Again, First, Fold, Former, Start, Token};
        use Step::{Durable, Made, Renamed, Synced, Written};
        [
            Self::DirectoryMade,
            Self::File(First, Made),
            Self::File(First, Written),
            Self::File(First, Synced),
            Self::File(First, Renamed),
            Self::File(First, Durable),
            Self::File(Start, Made),
            Self::File(Start, Written),
            Self::File(Start, Synced),
            Self::File(Start, Renamed),
            Self::File(Start, Durable),
            Self::File(Fold, Made),
            Self::File(Fold, Written),
            Self::File(Fold, Synced),
            Self::File(Fold, Renamed),
            Self::File(Fold, Durable),
            Self::File(Token, Made),
            Self::File(Token, Written),
            Self::File(Token, Synced),
            Self::File(Token, Renamed),
            Self::File(Token, Durable),
            Self::File(Former, Made),
            Self::File(Former, Written),
            Self::File(Former, Synced),
            Self::File(Former, Renamed),
            Self::File(Former, Durable),
            Self::File(Again, Made),
            Self::File(Again, Written),
            Self::File(Again, Synced),
            Self::File(Again, Renamed),
            Self::File(Again, Durable),
            Self::Records(Append::Torn),
            Self::Records(Append::Written),
            Self::Records(Append::Synced),
            Self::Agreement(Append::Torn),
            Self::Agreement(Append::Written),
            Self::Agreement(Append::Synced),
        ]
    };
}

impl fmt::Display for WritePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (occasion, step) = match self {
            Self::DirectoryMade => return f.write_str("directory-made"),
            Self::Records(Append::Torn) => return f.write_str("records-torn"),
            Self::Records(Append::Written) => return f.write_str("records-written"),
            Self::Records(Append::Synced) => return f.write_str("records-synced"),
            Self::Agreement(Append::Torn) => return f.write_str("agreement-torn"),
            Self::Agreement(Append::Written) => return f.write_str("agreement-written"),
            Self::Agreement(Append::Synced) => return f.write_str("agreement-synced"),
            Self::File(occasion, step) => (occasion, step),
        };
        let occasion = match occasion {
            Occasion::First => "first",
            Occasion::Start => "start",
            Occasion::Fold => "fold",
            Occasion::Token => "token",
            Occasion::Former => "former",
            Occasion::Again => "again",
        };
        let step = match step {
            Step::Made => "made",
            Step::Written => "written",
            Step::Synced => "synced",
            Step::Renamed => "renamed",
            Step::Durable => "durable",
        };
        write!(f, "{occasion}-file-{step}")
    }
}

/// Where to die, and at which time of getting there: `POINT` or `POINT:N`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CrashAt {
    point: WritePoint,
    nth: u32,
}

/// The text names no write point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no write point: name one of {names}, with :N for the N-th time",
    names = WritePoint::ALL.map(|point| point.to_string()).join(", ")
)]
pub struct CrashAtError(String);

impl FromStr for CrashAt {
    type Err = CrashAtError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || CrashAtError(text.to_owned());
        let (name, nth) = match text.split_once(':') {
            Some((name, digits)) => (name, digits.parse().ok().filter(|nth| *nth > 0)),
            None => (text, Some(1)),
        };
        let point = WritePoint::ALL
            .into_iter()
            .find(|point| point.to_string() == name)
            .ok_or_else(refused)?;
        let nth = nth.ok_or_else(refused)?;
        Ok(Self { point, nth })
    }
}

/// What a store does at its write points: nothing, unless it was told to die at one.
#[derive(Debug)]
pub(crate) struct Points {
    armed: Option<CrashAt>,
}

impl Points {
    pub(crate) fn new(armed: Option<CrashAt>) -> Self {
        Self { armed }
    }

    /// The store has got to this point.
    pub(crate) fn reach(&mut self, point: WritePoint) {
        if let Some(armed) = &mut self.armed
            && armed.point == point
        {
            armed.nth -= 1;
            if armed.nth == 0 {
                die(point);
            }
        }
    }

    /// True when the store is to die at this point, at this or a later time.
    pub(crate) fn awaits(&self, point: WritePoint) -> bool {
        self.armed.is_some_and(|armed| armed.point == point)
    }

    /// True when the store is to die while it folds its log, which a test cannot fill in time: then each write folds.
    pub(crate) fn awaits_fold(&self) -> bool {
        self.armed
            .is_some_and(|armed| matches!(armed.point, WritePoint::File(Occasion::Fold, _)))
    }
}

/// Ends the process as `kill -9` does.
fn die(point: WritePoint) -> ! {
    let _ = writeln!(
        std::io::stderr(),
        "weft: dies at write point {point}, as --crash-at says"
    );
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    // The signal is delivered before the call returns; this is for a kernel that refuses it.
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_point_has_a_name_of_its_own_and_is_found_by_it() {
        let names: BTreeSet<String> = WritePoint::ALL.map(|point| point.to_string()).into();
        assert_eq!(names.len(), WritePoint::ALL.len());
        for point in WritePoint::ALL {
            let nth = |nth| Ok(CrashAt { point, nth });
            assert_eq!(point.to_string().parse(), nth(1));
            assert_eq!(format!("{point}:7").parse(), nth(7));
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_names() {
        for text in [
            "",
            "start",
            "records-synced:",
            "records-synced:0",
            "records-synced:x",
            "Directory-Made",
        ] {
            let refusal = text.parse::<CrashAt>().unwrap_err().to_string();
            for point in WritePoint::ALL {
                assert!(refusal.contains(&point.to_string()), "{text:?}: {refusal}");
            }
        }
    }
}
