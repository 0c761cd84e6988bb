//! Input that can't be used: which field, and what was expected of it.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// An input that can't be used: which field, and what was expected of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FieldError {
    /// The field's path, `red_packet.min`; empty for the whole document.
    pub field: String,
    /// What was found and what was expected.
    pub message: String,
}

impl FieldError {
    /// An error about `field`.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// Whether a text for people is without control characters: line breaks, escapes of terminals, and NUL, which not every
/// database can keep.
///
/// # Errors
/// The first of them, by its number.
pub fn without_controls(field: &str, text: &str) -> Result<(), FieldError> {
    match text.chars().find(|c| c.is_control()) {
        None => Ok(()),
        Some(c) => Err(FieldError::new(field, format!("U+{:04X} given; expected no control characters", c as u32))),
    }
}

/// What is written as an object. serde's derived readers of structs take a list of the fields' values as well, in the
/// order of the source, which nobody who writes one can mean.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

/// Reads a JSON document into `T`, and an error into the path of the field that is wrong. A derived struct belongs into an
/// [`Object`].
///
/// # Errors
/// [`FieldError`] with serde's own words for what was found and expected.
pub fn from_json<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, FieldError> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|e| {
        let path = e.path().to_string();
        let message = e.into_inner().to_string();
        // A document that ends inside a name has a path that nobody knows yet, which serde writes as a question mark.
        let known = path.trim_end_matches('?').trim_end_matches('.');
        // Of a missing, unknown or duplicate field the path ends at the object that should have it, or should not.
        // Where serde knows the field's name by itself, the path has it already.
        let field = match named_field(&message) {
            named if known.is_empty() => named,
            named if known == named || known.ends_with(&format!(".{named}")) => known.to_owned(),
            named if named.is_empty() => known.to_owned(),
            named => format!("{known}.{named}"),
        };
        FieldError::new(field, message)
    })?;
    reader.end().map_err(|e| FieldError::new("", e.to_string()))?;
    Ok(value)
}

/// serde names a missing, unknown or duplicate field only in its message, between backquotes.
fn named_field(message: &str) -> String {
    let names_it = ["missing field", "unknown field", "duplicate field"].iter().any(|m| message.starts_with(m));
    let name = message.split('`').nth(1).filter(|_| names_it);
    name.unwrap_or_default().to_owned()
}
