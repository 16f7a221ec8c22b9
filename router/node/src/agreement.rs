//! A host without a cluster that was told to make one with others: what it says to them, and for whom it waits, in words.

use crate::io::{Notice, Output};
use crate::node::Node;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use weft_ipam_crdt::genesis::{Agreement, AgreementInput, AgreementOutput, Progress, Waits};
use weft_wire::api::ClusterStatus;
use weft_wire::{NodeId, Time};

/// The agreement, and what was last said of it in the log.
pub(crate) struct Founding {
    pub(crate) machine: Agreement,
    told: String,
}

impl Founding {
    pub(crate) fn new(machine: Agreement) -> Self {
        Self {
            machine,
            told: String::new(),
        }
    }
}

impl Node {
    /// Gives the agreement an input, if this host takes part in one.
    pub(crate) fn agreement(&mut self, now: Time, input: AgreementInput) {
        if let Some(founding) = &mut self.founding {
            founding.machine.handle(now, input);
            let sentence = sentence(&founding.machine.progress());
            if sentence != founding.told {
                founding.told.clone_from(&sentence);
                self.outputs
                    .push_back(Output::Notice(Notice::Gathering(sentence)));
            }
        }
    }

    pub(crate) fn agreement_timeout(&self) -> Option<Time> {
        self.founding.as_ref()?.machine.poll_timeout()
    }

    pub(crate) fn on_agreement_output(&mut self, now: Time, output: AgreementOutput) {
        match output {
            AgreementOutput::Send { to, bytes } => {
                self.mesh.handle(now, weft_gossip::Input::Agree { to, bytes });
            }
            AgreementOutput::Persist { token, state } => {
                self.outputs.push_back(Output::PersistAgreement { token, state });
            }
            AgreementOutput::Decided(charter) => self.mesh.handle(
                now,
                weft_gossip::Input::Found {
                    genesis: charter.genesis,
                    secret: charter.secret,
                },
            ),
            AgreementOutput::Differs { name, what } => {
                let sentence = format!("host {name} does not count for a cluster with this host: {what}");
                self.outputs.push_back(Output::Notice(Notice::Warning(sentence)));
            }
        }
    }

    /// For the status of a host without a cluster.
    pub(crate) fn agreeing(&self) -> Option<ClusterStatus> {
        let progress = self.founding.as_ref()?.machine.progress();
        Some(ClusterStatus::Agreeing {
            expected: progress.expected,
            reason: sentence(&progress),
            differing: progress
                .differing
                .iter()
                .map(|(name, what)| format!("{name}: {what}"))
                .collect(),
            there: progress.there,
        })
    }
}

/// For whom a host waits.
fn sentence(progress: &Progress) -> String {
    let expected = progress.expected;
    let missing = (expected as usize).saturating_sub(progress.there.len());
    let hosts = if expected == 1 { "host" } else { "hosts" };
    match &progress.waits {
        Waits::Hosts(names) if names.is_empty() => {
            format!("waiting for {missing} of {expected} expected {hosts}")
        }
        Waits::Hosts(names) => {
            let count = names.len();
            format!(
                "waiting for {count} of {expected} expected {hosts}: {}",
                names.join(", ")
            )
        }
        Waits::Names(name) => {
            format!("two hosts are named {name}: give each its own --name, then start them again")
        }
        Waits::Others => {
            "other hosts make a cluster without this one; one of them lets it in afterwards".to_string()
        }
        Waits::Majority(absent) => {
            let ids: Vec<String> = absent.iter().map(NodeId::short).collect();
            format!(
                "a cluster was begun with {}, and too few of these hosts are there: start them again. If their disks \
                 are lost, stop this host, remove its state directory, and start it again",
                ids.join(", ")
            )
        }
        Waits::Decision => format!("all of {expected} expected {hosts} are there: agreeing on a cluster"),
    }
}
