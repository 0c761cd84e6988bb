//! The document: `docs/openapi.yaml`, its operations and what each of them may answer.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use yaml_rust2::{Yaml, YamlLoader};

/// Which of the two listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// Claims and reads.
    Public,
    /// Campaigns and the node.
    Admin,
}

/// An operation of the document.
#[derive(Debug, Clone)]
pub struct Operation {
    /// `operationId`.
    pub id: String,
    /// Upper case.
    pub method: String,
    /// With its `{parameters}`.
    pub path: String,
    /// Where it is served.
    pub listener: Listener,
    /// The whole operation object.
    pub object: Value,
}

impl Operation {
    /// The path with every parameter set to `value`, but numbers to 7.
    pub fn path_with(&self, value: &str) -> String {
        let segment = |s: &str| match s {
            "{id}" => "7".to_owned(),
            s if s.starts_with('{') => value.to_owned(),
            s => s.to_owned(),
        };
        self.path.split('/').map(segment).collect::<Vec<_>>().join("/")
    }

    /// The scope that a service's key needs; none where it is the operator's token, or nothing.
    pub fn scope(&self) -> Option<&str> {
        self.object["security"].as_array()?.iter().find_map(|one| one["serviceKey"][0].as_str())
    }

    /// Whether a credential may be asked for.
    pub fn is_guarded(&self) -> bool {
        self.object["security"].as_array().is_some_and(|all| !all.is_empty())
    }
}

/// The document as JSON.
pub fn load() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.yaml");
    let text = std::fs::read_to_string(path).expect("docs/openapi.yaml");
    let all = YamlLoader::load_from_str(&text).unwrap_or_else(|e| panic!("docs/openapi.yaml: {e}"));
    assert_eq!(all.len(), 1, "one document");
    json(&all[0])
}

fn json(yaml: &Yaml) -> Value {
    match yaml {
        Yaml::Null => Value::Null,
        Yaml::Boolean(value) => (*value).into(),
        Yaml::Integer(value) => (*value).into(),
        Yaml::String(value) => value.as_str().into(),
        Yaml::Array(items) => items.iter().map(json).collect(),
        Yaml::Hash(members) => {
            let name = |key: &Yaml| key.as_str().unwrap_or_else(|| panic!("{key:?} is no text: quote it")).to_owned();
            Value::Object(members.iter().map(|(key, value)| (name(key), json(value))).collect::<Map<_, _>>())
        }
        other => panic!("{other:?} has no place in this document"),
    }
}

/// What a reference such as `#/components/schemas/Claim` leads to.
pub fn follow(document: &Value, reference: &Value) -> Value {
    let target = reference.as_str().and_then(|r| r.strip_prefix('#')).and_then(|pointer| document.pointer(pointer));
    target.unwrap_or_else(|| panic!("{reference} leads nowhere")).clone()
}

/// `value`, or what it refers to.
pub fn resolve(document: &Value, value: &Value) -> Value {
    match value.get("$ref") {
        Some(reference) => resolve(document, &follow(document, reference)),
        None => value.clone(),
    }
}

/// All operations.
pub fn operations(document: &Value) -> Vec<Operation> {
    const METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];
    let mut found = Vec::new();
    for (path, item) in members(&document["paths"]) {
        for (method, object) in members(item).filter(|(name, _)| METHODS.contains(&name.as_str())) {
            let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{method} {path}: {value}")).to_owned();
            let listener = match object["tags"][0].as_str() {
                Some("public") => Listener::Public,
                Some("admin") => Listener::Admin,
                other => panic!("{method} {path} is on {other:?}"),
            };
            let has_server = item.get("servers").is_some();
            assert_eq!(has_server, listener == Listener::Admin, "{path}: admin paths name their server, others don't");
            let (id, method) = (text(&object["operationId"]), method.to_uppercase());
            found.push(Operation { id, method, path: path.clone(), listener, object: object.clone() });
        }
    }
    let ids: BTreeSet<_> = found.iter().map(|o| &o.id).collect();
    assert_eq!(ids.len(), found.len(), "each operationId once");
    found
}

/// The members of an object; none of anything else.
pub fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// The problems that a response object shows, by their slugs; the empty one stands for a body that is none, or no body.
pub fn slugs(document: &Value, response: &Value) -> BTreeSet<String> {
    let response = resolve(document, response);
    let mut found = BTreeSet::new();
    for (media, content) in members(&response["content"]) {
        if media == "application/problem+json" {
            slugs_of_schema(document, &content["schema"], &mut found);
        } else {
            found.insert(String::new());
        }
    }
    if found.is_empty() {
        found.insert(String::new());
    }
    found
}

fn slugs_of_schema(document: &Value, schema: &Value, found: &mut BTreeSet<String>) {
    let schema = resolve(document, schema);
    for one in schema["oneOf"].as_array().into_iter().flatten() {
        slugs_of_schema(document, one, found);
    }
    if let Some(kind) = schema["properties"]["type"]["const"].as_str() {
        found.insert(kind.strip_prefix("urn:forebay:problem:").expect("our own problem").to_owned());
    }
}
