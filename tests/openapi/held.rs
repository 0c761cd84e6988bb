//! Holds answers against the document, and notes which of the documented ones were given.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::Value;

use crate::document::{self, Listener, Operation};
use crate::schema;
use crate::support::Server;
use crate::support::http::{Answer, Request};

/// Headers that belong to HTTP itself, of which the document says nothing.
const OF_HTTP: [&str; 5] = ["content-type", "content-length", "date", "transfer-encoding", "connection"];

/// An operation, a status and a problem's slug.
pub type Case = (String, String, String);

/// The document, and what was seen of it.
pub struct Held {
    /// `docs/openapi.yaml`.
    pub document: Value,
    /// Its operations.
    pub operations: Vec<Operation>,
    seen: RefCell<BTreeSet<Case>>,
}

impl Held {
    /// Nothing has been seen.
    pub fn new() -> Self {
        let document = document::load();
        let operations = document::operations(&document);
        Self { document, operations, seen: RefCell::default() }
    }

    /// An operation by its id.
    pub fn operation(&self, id: &str) -> &Operation {
        self.operations.iter().find(|o| o.id == id).unwrap_or_else(|| panic!("the document has no operation {id}"))
    }

    /// Asks for an operation on its own listener, and holds the answer to the document and to `status` and `slug`.
    pub fn ask(&self, server: &Server, id: &str, request: &Request, status: u16, slug: &str) -> Answer {
        let answer = match self.operation(id).listener {
            Listener::Public => server.call(request),
            Listener::Admin => server.ask_admin(request),
        };
        self.check(id, &answer);
        let got = (answer.status, answer.slug());
        assert_eq!(got, (status, slug.to_owned()), "{id}: {request:?}: {}", answer.text());
        answer
    }

    /// Holds an answer that an operation gave to the document.
    pub fn check(&self, id: &str, answer: &Answer) {
        let status = answer.status.to_string();
        let response = &self.operation(id).object["responses"][&status];
        assert!(!response.is_null(), "{id} answers {status}, which is not documented: {}", answer.text());
        self.check_response(&format!("{id} {status}"), response, answer);
        self.seen.borrow_mut().insert((id.to_owned(), status, answer.slug()));
    }

    /// Holds an answer to one of the responses that any request may get.
    pub fn check_shared(&self, name: &str, answer: &Answer) {
        let response = &self.document["components"]["responses"][name];
        assert!(!response.is_null(), "the document has no response {name}");
        self.check_response(name, response, answer);
    }

    fn check_response(&self, what: &str, response: &Value, answer: &Answer) {
        let response = document::resolve(&self.document, response);
        let mut faults = self.faults_of_headers(&response["headers"], answer);
        faults.extend(self.faults_of_body(&response["content"], answer));
        assert!(faults.is_empty(), "{what}: {faults:#?}\n{:?}\n{}", answer.headers, answer.text());
    }

    fn faults_of_headers(&self, documented: &Value, answer: &Answer) -> Vec<String> {
        let mut faults = Vec::new();
        let mut known: BTreeSet<String> = OF_HTTP.iter().map(|&name| name.to_owned()).collect();
        for (name, header) in document::members(documented) {
            let header = document::resolve(&self.document, header);
            let lower = name.to_ascii_lowercase();
            match answer.header(&lower) {
                Some(value) => {
                    let is_number = header["schema"]["type"] == "integer";
                    let value =
                        if is_number { value.parse::<i64>().map_or(value.into(), Value::from) } else { value.into() };
                    let wrong = schema::faults(&self.document, &header["schema"], &value);
                    faults.extend(wrong.into_iter().map(|fault| format!("{name}: {fault}")));
                }
                None if header["required"] == true => faults.push(format!("the header {name} is missing")),
                None => {}
            }
            known.insert(lower);
        }
        let strangers = answer.headers.iter().filter(|(name, _)| !known.contains(name));
        faults.extend(strangers.map(|(name, _)| format!("the header {name} is not documented")));
        faults
    }

    fn faults_of_body(&self, documented: &Value, answer: &Answer) -> Vec<String> {
        let Some(contents) = documented.as_object() else {
            return if answer.body.is_empty() { vec![] } else { vec!["a body where none is documented".to_owned()] };
        };
        let media = answer.header("content-type").unwrap_or_default();
        let media = media.split(';').next().unwrap_or_default().trim();
        let Some(content) = contents.get(media) else { return vec![format!("{media:?} is not documented")] };
        let body = if media.ends_with("json") { answer.json() } else { answer.text().into() };
        schema::faults(&self.document, &content["schema"], &body)
    }

    /// What is documented.
    pub fn documented(&self) -> BTreeSet<Case> {
        let mut all = BTreeSet::new();
        for operation in &self.operations {
            for (status, response) in document::members(&operation.object["responses"]) {
                let slugs = document::slugs(&self.document, response);
                all.extend(slugs.into_iter().map(|slug| (operation.id.clone(), status.clone(), slug)));
            }
        }
        all
    }

    /// What is documented and was never seen.
    pub fn unseen(&self) -> Vec<Case> {
        let seen = self.seen.borrow();
        self.documented().into_iter().filter(|case| !seen.contains(case)).collect()
    }
}
