//! `docs/openapi.yaml` and the server say the same. Every operation is asked of the real binary in every way that is
//! known to change its answer; an answer with a status, a header or a field that is not documented fails, and so does a
//! documented status or problem that was never given, but for those of [`OUT_OF_REACH`].

mod admin;
mod document;
mod ends;
mod faults;
mod held;
mod public;
mod schema;
mod sweep;

#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;

use forebay::ingest::reply::SLUGS;
use held::Held;
use serde_json::Value;

/// What is documented and not provoked here: full queues, 16,384 connections, and what has tests of its own: a full disk,
/// which alone keeps a claim from its end, and 512 batches at once.
const OUT_OF_REACH: &[(&str, &str, &str)] = &[
    ("cancelClaim", "503", "buffer-full"),
    ("changeCampaign", "503", "buffer-full"),
    ("claim", "503", "overloaded"),
    ("claimBatch", "503", "overloaded"),
    ("createCampaign", "503", "buffer-full"),
    ("dropDeadLetter", "503", "buffer-full"),
    ("readCampaign", "503", "overloaded"),
    ("readCampaigns", "503", "overloaded"),
    ("settleClaim", "503", "buffer-full"),
];

/// Slugs that no operation of this version answers with: rules are not served yet, and `other` is a counter's name.
const NOT_SERVED: [&str; 2] = ["refused", "other"];

#[test]
fn the_server_answers_what_is_documented_and_nothing_else() {
    let held = Held::new();
    sweep::every_operation(&held);
    sweep::guarded(&held);
    public::claims_and_reads(&held);
    admin::campaigns(&held);
    ends::ends_and_carts(&held);
    ends::dead_letters(&held);
    faults::a_full_buffer_and_the_end(&held);
    faults::a_disk_that_is_slow_and_then_fails(&held);
    faults::a_database_that_can_not_be_read(&held);
    let unseen = held.unseen();
    let unseen: Vec<_> =
        unseen.iter().map(|(id, status, slug)| (id.as_str(), status.as_str(), slug.as_str())).collect();
    assert_eq!(unseen, OUT_OF_REACH, "documented, but never given");
}

#[test]
fn every_problem_of_the_server_is_documented() {
    let held = Held::new();
    let mut documented: BTreeSet<String> = held.documented().into_iter().map(|(_, _, slug)| slug).collect();
    for (_, response) in document::members(&held.document["components"]["responses"]) {
        documented.extend(document::slugs(&held.document, response));
    }
    documented.remove("");
    let served = SLUGS.iter().filter(|slug| !NOT_SERVED.contains(slug)).map(|&slug| slug.to_owned()).collect();
    assert_eq!(documented, served);
}

#[test]
fn every_example_fits_its_schema_and_every_reference_leads_somewhere() {
    let document = document::load();
    let mut examples = 0;
    walk(&document, &mut |value| {
        if let Some(reference) = value.get("$ref") {
            document::follow(&document, reference);
        }
        for (name, example) in document::members(&value["examples"]) {
            let faults = schema::faults(&document, &value["schema"], &example["value"]);
            assert!(faults.is_empty(), "{name}: {faults:#?}");
            examples += 1;
        }
    });
    assert!(examples >= 10, "{examples} examples");
}

#[test]
fn every_component_is_used() {
    let document = document::load();
    let mut used = BTreeSet::new();
    walk(&document, &mut |value| used.extend(value["$ref"].as_str().map(str::to_owned)));
    // These stand for requests that no path item can describe.
    let by_itself = ["responses/OtherMethod", "responses/Unreadable"];
    for (group, members) in document::members(&document["components"]).filter(|(name, _)| *name != "securitySchemes") {
        for (name, _) in document::members(members) {
            let path = format!("{group}/{name}");
            let is_used = used.contains(&format!("#/components/{path}")) || by_itself.contains(&path.as_str());
            assert!(is_used, "nothing refers to {path}");
        }
    }
}

/// Calls `visit` for every object and array below `value`, and for itself.
fn walk(value: &Value, visit: &mut impl FnMut(&Value)) {
    visit(value);
    match value {
        Value::Object(members) => members.values().for_each(|v| walk(v, visit)),
        Value::Array(items) => items.iter().for_each(|v| walk(v, visit)),
        _ => {}
    }
}
