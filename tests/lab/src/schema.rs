//! Whether what `weft` says is exactly what its published schema says.
//!
//! The schema tells others to ignore fields they do not know. The test must not: a field that the schema has not is an
//! error here, and so is a keyword of the schema that this module does not check.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// docs/api.schema.json.
#[derive(Debug)]
pub struct Schema(Value);

impl Schema {
    /// Reads it from the source tree.
    ///
    /// # Errors
    /// When it is not there or is no JSON.
    pub fn published() -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api.schema.json");
        let failed = |e| Error::io(format!("read {}", path.display()), e);
        let text = std::fs::read(&path).map_err(failed)?;
        let value = serde_json::from_slice(&text).map_err(|e| failed(e.into()))?;
        Ok(Self(value))
    }

    /// Checks a JSON text against the type of this name in the schema (JSON Schema 2020-12, the part of it that the
    /// schema uses), with no field more and none less.
    ///
    /// # Errors
    /// A sentence with the place of the first difference.
    pub fn check(&self, name: &str, text: &str) -> std::result::Result<Value, String> {
        let value: Value = serde_json::from_str(text).map_err(|e| format!("{name}: {e} in {text:?}"))?;
        self.matches(self.definition(name)?, &value, name)?;
        Ok(value)
    }

    fn definition(&self, name: &str) -> std::result::Result<&Value, String> {
        let found = self.0.get("$defs").and_then(|all| all.get(name));
        found.ok_or_else(|| format!("the schema has no {name}"))
    }

    fn matches(&self, schema: &Value, value: &Value, at: &str) -> std::result::Result<(), String> {
        let Some(schema) = schema.as_object() else {
            return Err(format!("{at}: {schema} is no schema"));
        };
        for (keyword, rule) in schema {
            let holds = match keyword.as_str() {
                // For people.
                "description" | "title" | "default" => true,
                // Together with `properties` below.
                "required" | "additionalProperties" => true,
                "$ref" => {
                    let name = rule.as_str().and_then(|rule| rule.strip_prefix("#/$defs/"));
                    let name =
                        name.ok_or_else(|| format!("{at}: {rule} is no reference within the schema"))?;
                    self.matches(self.definition(name)?, value, at)?;
                    true
                }
                "type" => list(rule).iter().any(|kind| is_of(value, kind)),
                "const" => rule == value,
                "enum" => list(rule).contains(value),
                "format" => value.is_null() || has_format(value, rule)?,
                "minimum" => value.is_null() || value.as_f64() >= rule.as_f64(),
                "maximum" => value.is_null() || value.as_f64() <= rule.as_f64(),
                "items" => {
                    for (number, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.matches(rule, item, &format!("{at}[{number}]"))?;
                    }
                    true
                }
                "properties" => {
                    self.object(schema, rule, value, at)?;
                    true
                }
                "oneOf" | "anyOf" => {
                    let results: Vec<_> = list(rule)
                        .iter()
                        .map(|one| self.matches(one, value, at))
                        .collect();
                    let count = results.iter().filter(|result| result.is_ok()).count();
                    if count == 0 {
                        let reasons: Vec<String> = results.into_iter().filter_map(|r| r.err()).collect();
                        return Err(format!("{at} is none of these: {}", reasons.join("; ")));
                    }
                    keyword == "anyOf" || count == 1
                }
                other => return Err(format!("{at}: the keyword {other} is not checked")),
            };
            if !holds {
                return Err(format!("{at}: {value} is not as `{keyword}` says: {rule}"));
            }
        }
        // A map whose keys are not fixed.
        if let (Some(rule), None, Some(map)) = (
            schema.get("additionalProperties"),
            schema.get("properties"),
            value.as_object(),
        ) {
            for (key, entry) in map {
                self.matches(rule, entry, &format!("{at}.{key}"))?;
            }
        } else if is_object(schema) && schema.get("properties").is_none() {
            return Err(format!("{at}: the schema says nothing about its fields"));
        }
        Ok(())
    }

    fn object(
        &self,
        schema: &Map<String, Value>,
        properties: &Value,
        value: &Value,
        at: &str,
    ) -> std::result::Result<(), String> {
        let (Some(properties), Some(fields)) = (properties.as_object(), value.as_object()) else {
            return Err(format!("{at}: {value} is no object"));
        };
        for (field, inner) in fields {
            match properties.get(field) {
                Some(rule) => self.matches(rule, inner, &format!("{at}.{field}"))?,
                None => return Err(format!("{at}.{field} is not in the schema")),
            }
        }
        let required = schema.get("required").map(list).unwrap_or_default();
        let missing = required
            .iter()
            .filter_map(Value::as_str)
            .find(|field| !fields.contains_key(*field));
        missing.map_or(Ok(()), |field| Err(format!("{at}.{field} is missing")))
    }
}

fn is_object(schema: &Map<String, Value>) -> bool {
    schema.get("type").and_then(Value::as_str) == Some("object")
}

/// An array's items, or the one value that stands for an array of one.
fn list(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items.clone(),
        one => vec![one.clone()],
    }
}

fn is_of(value: &Value, kind: &Value) -> bool {
    match kind.as_str() {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("number") => value.is_number(),
        Some("string") => value.is_string(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => false,
    }
}

fn has_format(value: &Value, format: &Value) -> std::result::Result<bool, String> {
    let text = value.as_str().unwrap_or_default();
    let below = |bits: u32| value.as_u64().is_some_and(|n| bits == 64 || n >> bits == 0);
    Ok(match format.as_str() {
        Some("ip") => text.parse::<IpAddr>().is_ok(),
        Some("cidr") => text.parse::<IpNet>().is_ok(),
        Some("uint16") => below(16),
        Some("uint32") => below(32),
        Some("uint64") => below(64),
        _ => return Err(format!("the format {format} is not checked")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_added_removed_or_changed_is_seen() {
        let schema = Schema::published().unwrap();
        let good = json!({ "id": "web", "addresses": ["10.32.0.9"] });
        schema.check("PodAddresses", &good.to_string()).unwrap();
        for (bad, why) in [
            (
                json!({ "id": "web", "addresses": [], "more": 1 }),
                "PodAddresses.more is not in the schema",
            ),
            (json!({ "id": "web" }), "PodAddresses.addresses is missing"),
            (
                json!({ "id": 1, "addresses": [] }),
                "PodAddresses.id: 1 is not as `type`",
            ),
            (
                json!({ "id": "web", "addresses": ["10.32.0.9/12"] }),
                "PodAddresses.addresses[0]",
            ),
            (json!([]), "is no object"),
        ] {
            let error = schema.check("PodAddresses", &bad.to_string()).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let member = json!({
            "state": "member", "genesis": "00", "range": "10.32.0.0/12", "members": 3,
        });
        schema.check("ClusterStatus", &member.to_string()).unwrap();
        let mut lonely = member.clone();
        lonely["members"] = json!(-1);
        schema.check("ClusterStatus", &lonely.to_string()).unwrap_err();
        lonely["members"] = json!(1u64 << 32);
        schema.check("ClusterStatus", &lonely.to_string()).unwrap_err();
        schema
            .check("ClusterStatus", r#"{ "state": "lost" }"#)
            .unwrap_err();
        assert!(schema.check("Nothing", "1").unwrap_err().contains("no Nothing"));
    }
}
