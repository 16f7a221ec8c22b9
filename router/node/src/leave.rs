//! How far a host that leaves has come with handing on what it owns, in words.

use crate::node::Node;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use weft_ipam_crdt::Departure;
use weft_wire::NodeId;
use weft_wire::api::LeaveStatus;

/// Silent hosts that are named.
const NAMED_MAX: usize = 4;

impl Node {
    /// Where leaving stands; `None` for a host that stays.
    pub fn leave_status(&self) -> Option<LeaveStatus> {
        let ipam = &self.member.as_ref()?.ipam;
        let leaving = ipam.leaving()?;
        let mut waits_for: Vec<String> = Vec::new();
        let mut wait = |count: u64, what: &str| {
            if count > 0 {
                waits_for.push(format!("{count} {what}"));
            }
        };
        wait(leaving.used, "addresses are still held for pods");
        wait(leaving.returning, "borrowed addresses are on their way back");
        if !leaving.is_alone {
            wait(leaving.left, "free addresses are to be handed on");
            wait(
                leaving.unconfirmed,
                "addresses are handed on and not confirmed yet",
            );
            wait(leaving.resting, "freed addresses rest for up to a minute first");
        }
        if !leaving.silent.is_empty() && leaving.left + leaving.unconfirmed > 0 {
            let mut names: Vec<String> = leaving
                .silent
                .iter()
                .take(NAMED_MAX)
                .map(|node| self.name_of(node))
                .collect();
            if leaving.silent.len() > NAMED_MAX {
                names.push(format!("{} more", leaving.silent.len() - NAMED_MAX));
            }
            waits_for.push(format!("no answer from {}", names.join(", ")));
        }
        let removed = matches!(leaving.departure, Departure::AwaitingWitness | Departure::Known);
        match &leaving.departure {
            // What is decided cannot be waited for any longer.
            Departure::Known => waits_for.clear(),
            Departure::AwaitingWitness => {
                waits_for = ["it is decided that the other hosts go on without this one; none of them has said yet that it \
                              knows"
                    .to_string()]
                .into();
            }
            Departure::AwaitingMajority { needed, missing } => {
                waits_for.push(self.missing_words(*needed, missing));
                waits_for.extend(ipam.standing_hindrance());
            }
            Departure::AwaitingHandover => waits_for.extend(ipam.standing_hindrance()),
        }
        let goes = match removed {
            true => "goes to another host",
            false => "goes to another host when this one is removed",
        };
        let mut stays: Vec<String> = Vec::new();
        if leaving.lent > 0 {
            stays.push(format!(
                "{} addresses are lent to other hosts, whose pods keep them; their part of the range {goes}",
                leaving.lent
            ));
        }
        if leaving.stuck > 0 {
            stays.push(format!(
                "{} addresses have changed hands too often to be handed on once more; their part of the range {goes}",
                leaving.stuck
            ));
        }
        let rest = leaving.left + leaving.unconfirmed + leaving.resting + leaving.used;
        if removed && rest > 0 {
            stays.push(format!(
                "{rest} addresses were not handed on in time; another host takes them over, and gives them out in a day"
            ));
        }
        if leaving.is_alone {
            stays.push("there is no other host that could own addresses".to_string());
        }
        Some(LeaveStatus {
            done: leaving.is_done(),
            handed: leaving.handed,
            left: leaving.left,
            unconfirmed: leaving.unconfirmed,
            resting: leaving.resting,
            returning: leaving.returning,
            used: leaving.used,
            lent: leaving.lent,
            waits_for,
            stays,
            removed,
        })
    }

    /// True for a host that leaves the cluster.
    pub(crate) fn goes_for_good(&self) -> bool {
        self.member
            .as_ref()
            .is_some_and(|member| member.ipam.is_leaving())
    }

    fn missing_words(&self, needed: usize, missing: &[NodeId]) -> String {
        if missing.is_empty() {
            return "the members decide just now to go on without this host".to_string();
        }
        let mut names: Vec<String> = missing.iter().map(|node| self.name_of(node)).collect();
        names.sort();
        format!(
            "{needed} votes decide to go on without this host, and these are missing: {}",
            names.join(", ")
        )
    }
}
