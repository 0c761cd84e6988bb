//! Rates as people write them: `10/s`, `600/m`, `36000/h`, `off`.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::RATE_MAX;

/// How many requests a key may make in a window, all of them at once if it likes; afterwards evenly spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Rate {
    /// No limit.
    Off,
    /// At most `limit` (1 to [`RATE_MAX`]) in a burst, replenished evenly over `window`.
    Per {
        /// Requests in a window, and the size of the burst.
        limit: NonZeroU32,
        /// The time in which a spent burst is whole again.
        window: Window,
    },
}

/// A second, a minute or an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// `/s`
    Second,
    /// `/m`
    Minute,
    /// `/h`
    Hour,
}

impl Window {
    /// Its length in seconds.
    pub fn seconds(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
        }
    }

    fn suffix(self) -> char {
        match self {
            Self::Second => 's',
            Self::Minute => 'm',
            Self::Hour => 'h',
        }
    }
}

/// Why a text is no rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// Not of the form.
    #[error("{0:?} is not a rate: expected a number and \"/s\", \"/m\" or \"/h\" such as \"10/s\", or \"off\"")]
    Malformed(String),
    /// A number that can't be a limit.
    #[error(
        "the rate {0:?} is out of range: expected 1 to {RATE_MAX} per second, minute or hour, or \"off\" for no limit"
    )]
    OutOfRange(String),
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let malformed = || RateError::Malformed(text.to_owned());
        let (number, window) = text.split_once('/').ok_or_else(malformed)?;
        let window = match window {
            "s" => Window::Second,
            "m" => Window::Minute,
            "h" => Window::Hour,
            _ => return Err(malformed()),
        };
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(malformed());
        }
        let limit = number.parse().ok().filter(|limit: &NonZeroU32| limit.get() <= RATE_MAX);
        let limit = limit.ok_or_else(|| RateError::OutOfRange(text.to_owned()))?;
        Ok(Self::Per { limit, window })
    }
}

impl TryFrom<String> for Rate {
    type Error = RateError;

    fn try_from(text: String) -> Result<Self, RateError> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        rate.to_string()
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Per { limit, window } => write!(f, "{limit}/{}", window.suffix()),
        }
    }
}
