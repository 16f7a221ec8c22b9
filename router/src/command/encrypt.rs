//! `weft encrypt`: what is encrypted between hosts.

use crate::api::client::Client;
use crate::cli::EncryptArgs;
use crate::config::EncryptName;
use std::cell::RefCell;
use std::time::Duration;
use weft_wire::api::{EncryptionRequest, EncryptionSetting, EncryptionStatus, Status};

/// How often the router is asked who follows.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

pub(crate) fn encrypt(args: &EncryptArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.router.socket);
    let Some(setting) = args.setting else {
        let status: Status = super::block_on(super::ASKING, client.get("/v1/status"))?;
        let words = format!("{}\n{}", words(&status.encrypt), status.encryption);
        return super::print(args.router.json, &status.encrypt, &words);
    };
    let request = EncryptionRequest {
        setting: match setting {
            EncryptName::Auto => EncryptionSetting::Auto,
            EncryptName::All => EncryptionSetting::All,
        },
    };
    let mut status: EncryptionStatus =
        super::block_on(super::ASKING, client.post("/v1/encryption", &request))?;
    if !args.no_wait {
        let missing = RefCell::new(None);
        let detail = async || missing.borrow().clone();
        let wait = async {
            loop {
                let all: Status = client.get("/v1/status").await?;
                // Somebody else may have said otherwise meanwhile; then that is shown.
                if all.encrypt.pending.is_empty() || all.encrypt.setting != request.setting {
                    return Ok(all.encrypt);
                }
                *missing.borrow_mut() = Some(all.encrypt.pending.join(", "));
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        let what = "waiting for every host to follow (Ctrl-C leaves the setting in force)";
        status = super::block_on_watched(what, detail, wait)?;
    }
    super::print(args.router.json, &status, &words(&status))
}

/// What is in force, in words.
fn words(status: &EncryptionStatus) -> String {
    let what = match status.setting {
        EncryptionSetting::Auto => "auto: pairs of hosts on trusted networks may exchange frames unencrypted",
        EncryptionSetting::All => "all: everything between hosts is encrypted",
    };
    let whose = match &status.set_by {
        Some(host) => format!(", as was said at {host}"),
        None => ", since nobody has said otherwise".to_owned(),
    };
    match status.pending.as_slice() {
        [] => format!("{what}{whose}"),
        pending => format!("{what}{whose}; not followed yet by {}", pending.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_who_does_not_follow() {
        let mut status = EncryptionStatus {
            setting: EncryptionSetting::All,
            set_by: Some("a".into()),
            pending: vec!["b".into(), "c".into()],
        };
        let text = words(&status);
        assert!(
            text.contains("everything") && text.contains("said at a") && text.ends_with("by b, c"),
            "{text}"
        );
        status.pending.clear();
        assert!(!words(&status).contains("followed"));
    }
}
