//! What the cluster wants encrypted, and what this host says of itself.

use crate::io::{Notice, Output};
use crate::node::Node;
use alloc::format;
use alloc::string::String;
use weft_fastpath::policy::obeys;
use weft_wire::fastpath::{Encryption, FastpathRecord, Settings};
use weft_wire::record::Body;
use weft_wire::{NodeId, Time, codec};

impl Node {
    /// The cluster's settings, as this host knows them.
    pub fn settings(&self) -> Settings {
        self.fastpath.settings
    }

    /// The operator of this host sets what is encrypted, for the whole cluster.
    pub(crate) fn set_encryption(&mut self, value: Encryption) {
        let origin = self.id();
        let encryption = &mut self.fastpath.settings.encryption;
        *encryption = encryption.replaced_by(origin, value);
        self.settings_changed(&origin);
    }

    /// A peer's record says what it knows of the settings.
    pub(crate) fn on_fastpath_record(&mut self, peer: &NodeId) {
        self.fastpath.look_again();
        let Some(record) = self.mesh.registers().body::<FastpathRecord>(peer) else {
            return;
        };
        let before = self.fastpath.settings.encryption.value;
        if self.fastpath.settings.merge(&record.settings) {
            let origin = self.fastpath.settings.encryption.origin;
            if self.fastpath.settings.encryption.value == before {
                self.keep_settings();
            } else {
                self.settings_changed(&origin);
            }
        }
    }

    fn settings_changed(&mut self, origin: &NodeId) {
        let sentence = match self.fastpath.settings.encryption.value {
            Encryption::All => "all traffic between hosts is encrypted from now on",
            Encryption::Auto => "traffic between hosts on trusted networks may go unencrypted from now on",
        };
        let sentence = format!("{sentence}, as was said at {}", self.host_name(origin).name);
        self.outputs
            .push_back(Output::Notice(Notice::Encryption(sentence)));
        self.keep_settings();
    }

    fn keep_settings(&mut self) {
        self.fastpath.look_again();
        self.outputs
            .push_back(Output::PersistSettings(self.fastpath.settings));
    }

    /// Whether the kernel has VXLAN devices, now that it is as the last view wants it.
    pub(crate) fn on_kernel_follows(&mut self, has_device: bool) {
        let wants = self
            .fastpath
            .shown
            .as_ref()
            .is_some_and(|view| view.vxlan.is_some());
        self.fastpath.has_device = has_device || wants;
    }

    /// What this host does at the moment.
    fn obeys(&self) -> Encryption {
        obeys(self.fastpath.settings.encryption.value, self.fastpath.has_device)
    }

    /// Publishes this host's record if it says something else than before. True when it did.
    pub(crate) fn say_fastpath(&mut self, now: Time) -> bool {
        if self.member.is_none() {
            return false;
        }
        let record = FastpathRecord {
            settings: self.fastpath.settings,
            obeys: self.obeys(),
            port: self.fastpath.config.port,
            ability: self.fastpath.config.ability,
        };
        if self.fastpath.said == Some(record) {
            return false;
        }
        self.fastpath.said = Some(record);
        self.mesh.handle(
            now,
            weft_gossip::Input::SetRecord {
                kind: FastpathRecord::KIND,
                body: codec::encode(&record),
            },
        );
        true
    }

    /// Hosts of the cluster that do not yet do what the setting says, by name.
    pub fn disobedient(&self) -> alloc::vec::Vec<String> {
        let wish = self.fastpath.settings.encryption;
        let own = Some(self.id()).filter(|_| wish.value == Encryption::All && self.obeys() != wish.value);
        let others = self.mesh.members().into_iter().filter(|peer| {
            let record = self.mesh.registers().body::<FastpathRecord>(peer);
            *peer != self.id()
                && !self.mesh.is_removed(peer)
                && record.is_none_or(|record| {
                    record.settings.encryption != wish
                        || (wish.value == Encryption::All && record.obeys != Encryption::All)
                })
        });
        own.into_iter()
            .chain(others)
            .map(|peer| self.host_name(&peer).name)
            .collect()
    }
}
