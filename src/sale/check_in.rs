//! A daily check-in: points once a local day, by the calendar of the campaign's time zone.
//!
//! The day is decided once and kept in the entry: a time zone's rules may change in a later binary, what was decided may
//! not.

use std::fmt;

use jiff::tz::TimeZone;

use super::{FieldError, Money, Timestamp};

/// What a check-in gives, and whose calendar counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckInSpec {
    /// Points a check-in, from 1.
    pub points: Money,
    /// The calendar.
    pub zone: Zone,
}

/// A time zone by its IANA name, such as `Asia/Shanghai`.
#[derive(Clone, PartialEq, Eq)]
pub struct Zone {
    name: String,
    rules: TimeZone,
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.name)
    }
}

impl Zone {
    /// Looks a time zone up in the rules that this binary carries.
    ///
    /// # Errors
    /// Names `field`.
    pub fn parse(field: &str, name: &str) -> Result<Self, FieldError> {
        let unknown =
            || FieldError::new(field, format!("{name:?} given; expected an IANA time zone such as \"Asia/Shanghai\""));
        // Names of the machine's own configuration ("Local", a path) mean something else on the next machine.
        let rules = jiff::tz::db().get(name).map_err(|_| unknown())?;
        let name = rules.iana_name().ok_or_else(unknown)?.to_owned();
        Ok(Self { name, rules })
    }

    /// Its IANA name.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The local day that contains `now`. Days differ in length where clocks are put forward or back, and begin at the
    /// first instant that exists, which need not be midnight.
    pub fn day(&self, now: Timestamp) -> Day {
        let outside = Day { no: LocalDay(0), from: Timestamp(i64::MIN), until: Timestamp(i64::MAX) };
        let Ok(instant) = jiff::Timestamp::from_microsecond(now.0) else { return outside };
        let date = instant.to_zoned(self.rules.clone()).date();
        let start = |date: jiff::civil::Date| {
            let zoned = date.to_zoned(self.rules.clone()).and_then(|zoned| zoned.start_of_day());
            zoned.map(|zoned| Timestamp(zoned.timestamp().as_microsecond()))
        };
        let (Ok(from), Some(until)) = (start(date), date.tomorrow().ok().and_then(|date| start(date).ok())) else {
            return outside;
        };
        let epoch = jiff::civil::date(1970, 1, 1);
        let days = date.duration_since(epoch).as_hours() / 24;
        Day { no: LocalDay(days.clamp(0, u16::MAX.into()) as u16), from, until }
    }
}

/// A date of a local calendar, as days since 1970-01-01: to the year 2149.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalDay(pub u16);

impl fmt::Display for LocalDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let midnight = Timestamp(i64::from(self.0) * 86_400_000_000).to_text();
        f.write_str(std::str::from_utf8(&midnight[..10]).unwrap_or_default())
    }
}

/// A local day and the instants [from, until) that it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Day {
    /// Its date.
    pub no: LocalDay,
    /// Its first instant.
    pub from: Timestamp,
    /// The first instant of the next.
    pub until: Timestamp,
}

impl Day {
    /// Whether `now` is in it.
    pub fn contains(&self, now: Timestamp) -> bool {
        self.from <= now && now < self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(name: &str) -> Zone {
        Zone::parse("zone", name).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn a_day_begins_and_ends_at_local_midnight() {
        let day = zone("Asia/Shanghai").day(at("2026-11-21T15:59:59.999999Z"));
        assert_eq!(day.no.to_string(), "2026-11-21");
        assert_eq!((day.from, day.until), (at("2026-11-20T16:00:00Z"), at("2026-11-21T16:00:00Z")));
        assert!(day.contains(day.from) && !day.contains(day.until));
        assert_eq!(zone("Asia/Shanghai").day(day.until).no.to_string(), "2026-11-22");
    }

    #[test]
    fn days_on_which_clocks_change_are_shorter_and_longer() {
        let berlin = zone("Europe/Berlin");
        let hours = |text| {
            let day = berlin.day(at(text));
            (day.no.to_string(), (day.until.0 - day.from.0) / 3_600_000_000)
        };
        assert_eq!(hours("2026-03-29T12:00:00Z"), ("2026-03-29".to_owned(), 23));
        assert_eq!(hours("2026-10-25T12:00:00Z"), ("2026-10-25".to_owned(), 25));
        // Both passes of the repeated hour are one day.
        for text in ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"] {
            assert_eq!(berlin.day(at(text)).no.to_string(), "2026-10-25");
        }
    }

    #[test]
    fn a_day_without_a_midnight_begins_at_the_first_instant_it_has() {
        // Clocks went from 00:00 to 01:00 on 2017-10-15 in Sao Paulo.
        let day = zone("America/Sao_Paulo").day(at("2017-10-15T12:00:00Z"));
        assert_eq!((day.from, day.until), (at("2017-10-15T03:00:00Z"), at("2017-10-16T02:00:00Z")));
        assert_eq!(zone("America/Sao_Paulo").day(Timestamp(day.from.0 - 1)).until, day.from);
    }

    #[test]
    fn days_follow_each_other_without_gap_or_overlap() {
        for name in ["Asia/Shanghai", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia"] {
            let zone = zone(name);
            let mut day = zone.day(at("2026-01-01T00:00:00Z"));
            for _ in 0..800 {
                let next = zone.day(day.until);
                assert_eq!((next.from, next.no.0), (day.until, day.no.0 + 1), "{name}");
                day = next;
            }
        }
    }

    #[test]
    fn an_unknown_zone_is_refused_by_the_name_of_its_field() {
        for bad in ["", "Asia/Shangri-La", "UTC+8", "+08:00", "../etc/passwd"] {
            let error = Zone::parse("check_in.time_zone", bad).unwrap_err();
            assert_eq!(error.field, "check_in.time_zone", "{bad:?}");
        }
        assert_eq!(zone("asia/shanghai").as_str(), "Asia/Shanghai");
    }
}
