//! Instants: microseconds since the Unix epoch, UTC, and their RFC 3339 form; and spans between them.

use std::fmt;

/// Microseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Reads RFC 3339 with any offset; finer than a microsecond is cut off.
    ///
    /// # Errors
    /// The reason, for a person.
    pub fn parse(text: &str) -> Result<Self, String> {
        let instant: jiff::Timestamp = text.parse().map_err(|e: jiff::Error| e.to_string())?;
        Ok(Self(instant.as_microsecond()))
    }

    /// This instant, `micros` later.
    pub fn plus_micros(self, micros: i64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// `YYYY-MM-DDTHH:MM:SS.ffffffZ`, always 27 characters: an answer's length must not depend on the time of day.
    /// Years outside 0..=9999 are clamped to that range.
    pub fn to_text(self) -> [u8; 27] {
        let micros = self.0.clamp(-62_167_219_200_000_000, 253_402_300_799_999_999);
        let (days, rest) = (micros.div_euclid(86_400_000_000), micros.rem_euclid(86_400_000_000));
        let (year, month, day) = civil(days);
        let mut out = *b"0000-00-00T00:00:00.000000Z";
        digits(&mut out[0..4], year as u64);
        digits(&mut out[5..7], month);
        digits(&mut out[8..10], day);
        let seconds = rest as u64 / 1_000_000;
        digits(&mut out[11..13], seconds / 3_600);
        digits(&mut out[14..16], seconds / 60 % 60);
        digits(&mut out[17..19], seconds % 60);
        digits(&mut out[20..26], rest as u64 % 1_000_000);
        out
    }
}

fn digits(out: &mut [u8], mut value: u64) {
    for byte in out.iter_mut().rev() {
        *byte = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Days since the epoch to year, month, day: Howard Hinnant's `civil_from_days`
/// (chrono-compatible low-level date algorithms), proleptic Gregorian.
fn civil(days: i64) -> (i64, u64, u64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097) as u64;
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe as i64 + era * 400 + i64::from(month <= 2), month, day)
}

/// A span of time in microseconds, 0 or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Span(pub i64);

impl Span {
    /// Reads `500ms`, `30s`, `15m`, `24h`; none for anything else, or where it overflows.
    pub fn parse(text: &str) -> Option<Self> {
        let split = text.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = text[..split].parse().ok()?;
        let unit = UNITS.iter().find(|(name, _)| *name == &text[split..])?;
        number.checked_mul(unit.1).map(Self)
    }
}

/// The units of a span in microseconds, the largest first.
const UNITS: [(&str, i64); 4] = [("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000)];

impl fmt::Display for Span {
    /// The largest unit of which it is a whole number; what is finer than a millisecond is cut off.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, micros) = UNITS.iter().find(|(_, micros)| self.0 % micros == 0).unwrap_or(&UNITS[3]);
        write!(f, "{}{name}", self.0 / micros)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.to_text()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_agrees_with_jiff_over_the_whole_range() {
        let mut micros: i64 = -62_000_000_000_000_000;
        while micros < 253_000_000_000_000_000 {
            let ours = Timestamp(micros);
            assert_eq!(Timestamp::parse(&ours.to_string()), Ok(ours), "{ours}");
            micros += 86_401_234_567_891;
        }
    }

    #[test]
    fn a_span_is_read_and_written_in_its_largest_unit() {
        for (text, micros, written) in [
            ("0s", 0, "0h"),
            ("500ms", 500_000, "500ms"),
            ("90s", 90_000_000, "90s"),
            ("60s", 60_000_000, "1m"),
            ("24h", 86_400_000_000, "24h"),
        ] {
            assert_eq!(Span::parse(text), Some(Span(micros)), "{text}");
            assert_eq!(Span(micros).to_string(), written);
            assert_eq!(Span::parse(written), Some(Span(micros)));
        }
        for bad in ["", "s", "5", "-5s", "1.5s", "5d", "5 s", "5S", "99999999999999999999s", "9223372036854775807h"] {
            assert_eq!(Span::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn input_takes_any_offset_and_output_is_utc() {
        let noon = Timestamp::parse("2026-11-20T20:00:00+08:00").unwrap();
        assert_eq!(noon.to_string(), "2026-11-20T12:00:00.000000Z");
        assert!(Timestamp::parse("2026-11-20").is_err());
        assert!(Timestamp::parse("tomorrow").is_err());
    }
}
