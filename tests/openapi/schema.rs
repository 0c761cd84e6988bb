//! A JSON Schema validator (2020-12) for the keywords that the document uses, and no others: a schema with a keyword
//! that is not understood here is a panic, never a pass.

use regex::Regex;
use serde_json::{Map, Value};

/// Says something to people, and nothing about values.
const ANNOTATIONS: &[&str] = &["title", "description", "default"];

/// What is wrong with `value`, each as "where: what"; empty where `schema` allows it. References lead into `document`.
pub fn faults(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    Check { document, faults: &mut faults }.any(schema, value, "$");
    faults
}

struct Check<'a> {
    document: &'a Value,
    faults: &'a mut Vec<String>,
}

impl Check<'_> {
    fn any(&mut self, schema: &Value, value: &Value, at: &str) {
        let schema = schema.as_object().unwrap_or_else(|| panic!("{at}: no schema: {schema}"));
        for (keyword, wanted) in schema {
            if ANNOTATIONS.contains(&keyword.as_str()) {
                continue;
            }
            if let Err(fault) = self.keyword(schema, keyword, wanted, value, at) {
                self.faults.push(format!("{at}: {fault}"));
            }
        }
    }

    fn keyword(
        &mut self,
        all: &Map<String, Value>,
        name: &str,
        wanted: &Value,
        v: &Value,
        at: &str,
    ) -> Result<(), String> {
        let verdict = |holds: bool| if holds { Ok(()) } else { Err(format!("{v} breaks {name} {wanted}")) };
        match name {
            "$ref" => self.any(&super::document::follow(self.document, wanted), v, at),
            "type" => return verdict(list(wanted).any(|t| is_of_type(v, text(t)))),
            "const" => return verdict(v == wanted),
            "enum" => return verdict(list(wanted).any(|w| w == v)),
            "minimum" => return verdict(number(v).is_none_or(|n| n >= whole(wanted))),
            "maximum" => return verdict(number(v).is_none_or(|n| n <= whole(wanted))),
            "maxLength" => return verdict(v.as_str().is_none_or(|s| s.chars().count() as i128 <= whole(wanted))),
            "pattern" => return verdict(v.as_str().is_none_or(|s| pattern(text(wanted)).is_match(s))),
            "format" => {
                assert_eq!(wanted, "date-time", "{at}: a format that is not understood");
                return verdict(v.as_str().is_none_or(|s| s.parse::<jiff::Timestamp>().is_ok()));
            }
            "minItems" => return verdict(v.as_array().is_none_or(|a| a.len() as i128 >= whole(wanted))),
            "maxItems" => return verdict(v.as_array().is_none_or(|a| a.len() as i128 <= whole(wanted))),
            "minProperties" => return verdict(v.as_object().is_none_or(|o| o.len() as i128 >= whole(wanted))),
            "items" => {
                for (i, item) in v.as_array().into_iter().flatten().enumerate() {
                    self.any(wanted, item, &format!("{at}[{i}]"));
                }
            }
            "required" => return self.required(wanted, v),
            "properties" => self.properties(wanted, v, at),
            "additionalProperties" => return additional(all, wanted, v),
            "oneOf" => return self.one_of(wanted, v),
            other => panic!("{at}: the keyword {other:?} is not understood"),
        }
        Ok(())
    }

    fn required(&self, names: &Value, value: &Value) -> Result<(), String> {
        let Some(object) = value.as_object() else { return Ok(()) };
        let missing: Vec<_> = list(names).map(text).filter(|n| !object.contains_key(*n)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} missing in {value}")) }
    }

    fn properties(&mut self, properties: &Value, value: &Value, at: &str) {
        for (name, schema) in properties.as_object().into_iter().flatten() {
            if let Some(member) = value.get(name) {
                self.any(schema, member, &format!("{at}.{name}"));
            }
        }
    }

    fn one_of(&self, schemas: &Value, value: &Value) -> Result<(), String> {
        let tried: Vec<_> = list(schemas).map(|schema| faults(self.document, schema, value)).collect();
        match tried.iter().filter(|f| f.is_empty()).count() {
            1 => Ok(()),
            0 => Err(format!("{value} fits none of oneOf: {tried:#?}")),
            n => Err(format!("{value} fits {n} of oneOf")),
        }
    }
}

fn additional(all: &Map<String, Value>, wanted: &Value, value: &Value) -> Result<(), String> {
    assert_eq!(wanted, false, "only additionalProperties: false is understood");
    let known = all.get("properties").and_then(Value::as_object);
    let strangers = value.as_object().into_iter().flatten().map(|(name, _)| name);
    let strangers: Vec<_> = strangers.filter(|name| known.is_none_or(|k| !k.contains_key(*name))).collect();
    if strangers.is_empty() { Ok(()) } else { Err(format!("{strangers:?} are not documented in {value}")) }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice).iter()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// A whole number; none of anything else, a fraction included, which no type of the document allows.
fn number(value: &Value) -> Option<i128> {
    value.as_i64().map(i128::from).or(value.as_u64().map(i128::from))
}

fn whole(value: &Value) -> i128 {
    number(value).unwrap_or_else(|| panic!("no whole number of 64 bits: {value}"))
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("the type {other:?} is not understood"),
    }
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[test]
fn the_validator_takes_what_fits_and_names_what_does_not() {
    let document = serde_json::json!({"short": {"type": "string", "maxLength": 2}});
    let schema = serde_json::json!({
        "type": "object", "required": ["a"], "additionalProperties": false,
        "properties": {
            "a": {"type": ["integer", "null"], "minimum": 1, "maximum": 3},
            "b": {"$ref": "#/short"},
            "c": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"enum": ["x", 1]}},
            "d": {"oneOf": [{"const": "k"}, {"type": "string", "pattern": "^[k-m]$"}]},
            "e": {"format": "date-time"},
        },
    });
    for (value, fits) in [
        (r#"{"a":1}"#, true),
        (r#"{"a":null,"b":"éé","c":["x",1],"d":"l","e":"2026-11-20T12:00:00+08:00"}"#, true),
        (r#"{"b":""}"#, false),
        (r#"{"a":0}"#, false),
        (r#"{"a":4}"#, false),
        (r#"{"a":1.0}"#, false),
        (r#"{"a":"1"}"#, false),
        (r#"{"a":1,"b":"abc"}"#, false),
        (r#"{"a":1,"c":[]}"#, false),
        (r#"{"a":1,"c":["x","x","x"]}"#, false),
        (r#"{"a":1,"c":["y"]}"#, false),
        (r#"{"a":1,"d":"n"}"#, false),
        (r#"{"a":1,"d":"k"}"#, false),
        (r#"{"a":1,"e":"soon"}"#, false),
        (r#"{"a":1,"z":1}"#, false),
        ("[]", false),
    ] {
        let faults = faults(&document, &schema, &serde_json::from_str(value).unwrap());
        assert_eq!(faults.is_empty(), fits, "{value}: {faults:?}");
    }
}

#[test]
#[should_panic(expected = "is not understood")]
fn a_keyword_that_is_not_understood_is_no_pass() {
    faults(&Value::Null, &serde_json::json!({"multipleOf": 2}), &Value::from(1));
}
