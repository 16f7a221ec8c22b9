//! The published schema is what these types say, and the page for people names all of it.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use super::*;
use alloc::borrow::Cow;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Set to write the schema anew instead of comparing it.
const UPDATE: &str = "WEFT_UPDATE_SCHEMA";

/// An address with a prefix length, as [`IpNet`] is written.
pub(super) struct Network;

impl JsonSchema for Network {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Network".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "cidr" })
    }
}

fn generated() -> Value {
    let mut answers = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let peers = answers.subschema_for::<Vec<PeerStatus>>();
    answers.subschema_for::<Status>();
    answers.subschema_for::<PodPlan>();
    answers.subschema_for::<PodAddresses>();
    answers.subschema_for::<AddressPlace>();
    answers.subschema_for::<IpamStatus>();
    answers.subschema_for::<MulticastStatus>();
    answers.subschema_for::<IpamCheck>();
    answers.subschema_for::<Target>();
    answers.subschema_for::<Adopted>();
    answers.subschema_for::<RemovalAsked>();
    answers.subschema_for::<RemovalDone>();
    answers.subschema_for::<Detached>();
    answers.subschema_for::<TakenDown>();
    answers.subschema_for::<LeaveStatus>();
    answers.subschema_for::<LeaveEnd>();
    answers.subschema_for::<Token>();
    answers.subschema_for::<ApiError>();
    // What may be left out of a request is decided by how it is read.
    let mut requests = SchemaSettings::draft2020_12().for_deserialize().into_generator();
    requests.subschema_for::<PodRequest>();
    requests.subschema_for::<FreeRequest>();
    requests.subschema_for::<TargetRequest>();
    requests.subschema_for::<AdoptRequest>();
    requests.subschema_for::<RemoveRequest>();
    requests.subschema_for::<KeepRequest>();
    requests.subschema_for::<EncryptionRequest>();

    let mut definitions: Map<String, Value> = answers.take_definitions(true);
    definitions.extend(requests.take_definitions(true));
    definitions.insert("Peers".into(), peers.to_value());
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "weft",
        "description": "Requests and answers of the local API, and what the commands print with --json. Fields are \
            added, never renamed or removed, and never change their type: ignore those that you do not know.",
        "$defs": definitions,
    })
}

#[test]
fn the_published_schema_is_the_one_of_the_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/api.schema.json");
    let schema = generated();
    if std::env::var_os(UPDATE).is_some() {
        let text = serde_json::to_string_pretty(&schema).unwrap();
        std::fs::write(&path, text + "\n").unwrap();
        return;
    }
    let stored: Value = serde_json::from_str(include_str!("../../../docs/api.schema.json")).unwrap();
    assert!(
        stored == schema,
        "docs/api.schema.json is not what wire/src/api.rs says. If the change only adds, write it anew with \
         `{UPDATE}=1 cargo test -p weft-wire schema`, and describe the new fields in docs/api.md"
    );
}

#[test]
fn the_page_for_people_names_every_type_and_field() {
    let page = include_str!("../../../docs/api.md");
    let mut missing = Vec::new();
    let schema = generated();
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        let section = page
            .split("\n### ")
            .find(|section| section.lines().next() == Some(name.as_str()));
        let Some(section) = section else {
            missing.push(name.clone());
            continue;
        };
        fields(definition, &mut |field| {
            if !section.contains(&format!("`{field}`")) {
                missing.push(format!("{name}.{field}"));
            }
        });
    }
    assert!(
        missing.is_empty(),
        "docs/api.md has no section, or no field in it, for {missing:?}"
    );
}

/// Names of the fields of a type, those of its variants included.
fn fields(schema: &Value, seen: &mut impl FnMut(&str)) {
    for name in schema["properties"].as_object().into_iter().flat_map(Map::keys) {
        seen(name);
    }
    for variant in schema["oneOf"].as_array().into_iter().flatten() {
        fields(variant, seen);
    }
}
