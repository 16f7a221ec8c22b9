//! JSON bodies of the local API: what the router reads from clients, and the command from the router.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use weft_wire::api::{
    AddressPlace, ApiError, FreeRequest, IpamStatus, PodAddresses, PodPlan, PodRequest, Status, TargetRequest,
};

/// Any of the bodies.
pub fn json(data: &[u8]) {
    body::<PodRequest>(data);
    body::<FreeRequest>(data);
    body::<TargetRequest>(data);
    body::<PodAddresses>(data);
    body::<AddressPlace>(data);
    body::<PodPlan>(data);
    body::<ApiError>(data);
    body::<IpamStatus>(data);
    body::<Status>(data);
}

fn body<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(data) else {
        return;
    };
    let written = serde_json::to_vec(&value).expect("what was read can be written");
    let again: T = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(again, value);
}

/// One body of each kind.
pub fn json_seeds() -> Vec<Vec<u8>> {
    [
        r#"{"id":"a"}"#,
        r#"{"id":"a","address":"10.32.0.1"}"#,
        r#"{"id":"a","address":null}"#,
        r#"{"target":"h:1"}"#,
        r#"{"id":"a","addresses":["10.32.0.1","fd00::1"]}"#,
        r#"{"address":"fd00::1","place":"x"}"#,
        r#"{"address":"10.32.0.1/12","mac":"02:00:00:00:00:01","mtu":1400,"bridge":"weft"}"#,
        r#"{"error":"\u00e9\ud83d\ude00"}"#,
        r#"{"range":"10.32.0.0/12","slot_size":16,"ranges":[{"first":"10.32.0.0","last":"10.32.0.9","owner":"a","owner_name":"b","frozen":false}],"free":1,"used":[{"address":"10.32.0.1","id":"p"}],"lent":0,"borrowed":0,"resting":0,"waiting":0,"epoch":1,"epoch_members":2,"hindrance":null}"#,
        r#"{"version":"0","node":"a","name":"b","cluster":{"state":"member","genesis":"g","range":"10.32.0.0/12","members":2},"encryption":"e","pod_mtu":1400,"engine":"plain","endpoints":["[::1]:6783"],"peers":[{"node":"n","name":"","mesh":"up","mesh_rtt_us":1,"mode":"sleeve","reason":"","encrypted":true,"cipher":"c","endpoint":"192.0.2.1:1","since_s":1,"traffic":{"tx_frames":1,"tx_bytes":2,"rx_frames":3,"rx_bytes":4}}],"pods":[{"id":"p","address":"10.32.0.1/12","mac":"m"}],"targets":[{"target":"t","reason":"r"}],"drops":{"d":1},"refusals":{},"warnings":["w"],"uptime_s":9}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}
