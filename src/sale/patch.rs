//! A change of a running campaign, as the operator asks for it.

use serde::{Deserialize, Serialize};

use super::Timestamp;
use super::campaign::{AdminState, instant};
use super::field::{FieldError, Object, from_json};

/// A change of a running campaign; what is absent stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CampaignPatch {
    /// Open, pause or close.
    pub state: Option<AdminState>,
    /// Units to add; negative takes free units away.
    pub add_stock: Option<i64>,
    /// Minor units to add to a red packet, together with `add_stock`.
    pub add_total: Option<i64>,
    /// A new opening.
    pub opens_at: Option<Timestamp>,
    /// A new end.
    pub closes_at: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPatch {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    add_stock: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    add_total: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    opens_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    closes_at: Option<String>,
}

impl CampaignPatch {
    /// Reads the contract's JSON form.
    ///
    /// # Errors
    /// The field that is wrong; a patch that changes nothing is refused too.
    pub fn parse(json: &[u8]) -> Result<Self, FieldError> {
        let Object(raw) = from_json::<Object<RawPatch>>(json)?;
        let patch = Self {
            state: raw.state.as_deref().map(state).transpose()?,
            add_stock: raw.add_stock,
            add_total: raw.add_total,
            opens_at: raw.opens_at.as_deref().map(|t| instant("opens_at", t)).transpose()?,
            closes_at: raw.closes_at.as_deref().map(|t| instant("closes_at", t)).transpose()?,
        };
        if patch == Self::default() {
            let m = "changes nothing; expected one of state, add_stock, add_total, opens_at, closes_at";
            return Err(FieldError::new("", m));
        }
        Ok(patch)
    }

    /// The contract's JSON form.
    pub fn to_json(&self) -> serde_json::Value {
        let raw = RawPatch {
            state: self.state.map(|state| state.as_str().to_owned()),
            add_stock: self.add_stock,
            add_total: self.add_total,
            opens_at: self.opens_at.map(|t| t.to_string()),
            closes_at: self.closes_at.map(|t| t.to_string()),
        };
        serde_json::to_value(raw).unwrap_or_default()
    }
}

fn state(text: &str) -> Result<AdminState, FieldError> {
    let m = || format!("{text:?} given; expected \"open\", \"paused\" or \"closed\"");
    AdminState::parse(text).ok_or_else(|| FieldError::new("state", m()))
}
