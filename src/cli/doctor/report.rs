//! The report for people.

use std::fmt::Write as _;

use super::figures::{Figures, RedisFigures};
use super::verdict::{Finding, RedisSale, Sale, Severity};

/// All of it.
pub fn text(figures: &Figures, findings: &[Finding], sale: Option<&Sale>) -> String {
    let mut out = measured(figures);
    out.push_str(&figures.redis.as_ref().map_or(String::new(), redis));
    out.push_str("\nfindings\n");
    for finding in findings {
        let severity = match finding.severity {
            Severity::Danger => "DANGER ",
            Severity::Warning => "warning",
            Severity::Fine => "fine   ",
        };
        let _ = writeln!(out, "  {severity}  {}: {}", finding.check, finding.what);
        if !finding.advice.is_empty() {
            let _ = writeln!(out, "           → {}", finding.advice);
        }
    }
    out.push_str(&sale.map_or(String::new(), fits));
    let dangers = findings.iter().filter(|f| f.severity == Severity::Danger).count();
    let _ = match dangers {
        0 => writeln!(out, "\nnothing is dangerous"),
        1 => writeln!(out, "\n1 thing is dangerous"),
        n => writeln!(out, "\n{n} things are dangerous"),
    };
    out
}

fn measured(figures: &Figures) -> String {
    let (sync, claims, rows) = (&figures.sync, &figures.claims, &figures.rows);
    let mut out = format!("measured, with the journal in {}\n", figures.machine.data_dir.display());
    let _ = writeln!(
        out,
        "  sync     {} in the median, {} at the 99th percentile, {} at most; {} of processor each ({} syncs of {} bytes)",
        seconds(sync.median_seconds),
        seconds(sync.p99_seconds),
        seconds(sync.max_seconds),
        seconds(sync.processor_seconds),
        count(sync.count as f64),
        sync.bytes
    );
    for rate in &claims.rates {
        let _ = writeln!(
            out,
            "  claims   {}/s decided and made durable by one core, {} at a time; {} of processor each",
            count(rate.per_second),
            rate.batch,
            seconds(rate.processor_seconds)
        );
    }
    let note = if figures.redis.is_some() {
        "           (the journal's disk with a book's work: a gate writes to such a journal what Redis has accepted)\n"
    } else {
        "           (book, sequencer and journal in this process; not over HTTP, which costs a core far more)\n"
    };
    out.push_str(note);
    let _ = writeln!(
        out,
        "  rows     {}/s into a fresh {} database, {} a transaction ({} in the median, {} at most), {:.0} bytes a row with \
         its indexes",
        count(rows.per_second),
        if figures.machine.store_server.is_some() { "PostgreSQL" } else { "SQLite" },
        rows.batch,
        seconds(rows.transaction_median_seconds),
        seconds(rows.transaction_max_seconds),
        rows.bytes
    );
    if let Some(winners) = &figures.winners {
        let _ = writeln!(
            out,
            "  winner   {:.1} bytes of memory promised a unit; {:.1} resident, {:.1} with an idempotency key",
            winners.table_bytes, winners.resident_bytes, winners.resident_bytes_with_key
        );
    }
    let _ = writeln!(
        out,
        "  waiting  {:.1} bytes of memory and {:.1} of journal an entry",
        claims.waiting_bytes, claims.journal_bytes
    );
    out
}

fn redis(redis: &RedisFigures) -> String {
    let trip = &redis.round_trip;
    let mut out = format!(
        "  redis    {}: {} there and back in the median, {} at most ({} times)\n",
        redis.name,
        seconds(trip.median_seconds),
        seconds(trip.max_seconds),
        trip.count
    );
    let Some(calls) = &redis.calls else {
        out.push_str("           it takes no claims, so none were measured\n");
        return out;
    };
    let processor = calls
        .processor_seconds
        .map_or(String::new(), |each| format!("; {} of its processor each, others' work included", seconds(each)));
    let _ = writeln!(
        out,
        "           {} claims/s decided over one connection, {} a call, which takes {} in the median, {} at most{processor}",
        count(calls.per_second),
        calls.batch,
        seconds(calls.call_median_seconds),
        seconds(calls.call_max_seconds)
    );
    let _ = writeln!(
        out,
        "           {:.0} bytes a claim while it waits, {:.0} once it is in the database; {:.0} and {:.0} with an idempotency key",
        calls.waiting_bytes, calls.held_bytes, calls.waiting_bytes_with_key, calls.held_bytes_with_key
    );
    out
}

/// What Redis holds of a sale.
fn held(redis: &RedisSale, rate: f64) -> String {
    let number = |value: Option<u64>| value.map_or("?".to_owned(), |value| count(value as f64));
    let after = |value: Option<f64>| value.map_or("an unknown time".to_owned(), seconds);
    let room = redis.room_bytes.map_or("unknown".to_owned(), |room| bytes(room as f64));
    format!(
        "  redis    {room} of room ({}): {} claims that wait ({} with keys), or {} that are in the database ({} with \
         keys); {} claims/s fill it after {} with the drain at full speed, after {} without\n",
        if redis.is_bounded { "until gates refuse" } else { "until its machine is full, which no setting prevents" },
        number(redis.waiting_entries),
        number(redis.waiting_entries_with_key),
        number(redis.held_claims),
        number(redis.held_claims_with_key),
        count(rate),
        after(redis.seconds_until_full),
        after(redis.seconds_until_full_without_drain)
    )
}

fn fits(sale: &Sale) -> String {
    let without = seconds(sale.seconds_until_full_without_drain);
    let full = match sale.seconds_until_full {
        Some(after) => {
            format!("fill it after {} with the drain at full speed, after {without} without", seconds(after))
        }
        None => format!("do not fill it while the drain has time; without the drain after {without}"),
    };
    let units = sale.units.map_or("?".to_owned(), |units| count(units as f64));
    let mut out = format!(
        "\nhow large a sale fits\n  units    {units} in memory, all campaigns together\n  buffer   {} entries may wait: {} \
         claims/s {full}\n",
        count(sale.buffer_entries as f64),
        count(sale.rate_per_second),
    );
    out.push_str(&sale.redis.as_ref().map_or(String::new(), |redis| held(redis, sale.rate_per_second)));
    let _ = writeln!(out, "  journal  {} an hour at that rate (written, not kept)", bytes(sale.journal_bytes_per_hour));
    out
}

/// A time with a unit that keeps three digits.
pub fn seconds(value: f64) -> String {
    let (value, unit) = match value {
        v if v >= 7_200.0 => (v / 3_600.0, "h"),
        v if v >= 1.0 => (v, "s"),
        v if v >= 1e-3 => (v * 1e3, "ms"),
        v => (v * 1e6, "µs"),
    };
    format!("{} {unit}", digits(value))
}

/// An amount of bytes with a unit; what is less than nothing is nothing.
pub fn bytes(value: f64) -> String {
    const UNITS: [&str; 6] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = value.max(0.0);
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", if unit == 0 { format!("{value:.0}") } else { digits(value) }, UNITS[unit])
}

fn digits(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// A number with its thousands apart.
fn count(value: f64) -> String {
    let plain = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in plain.chars().enumerate() {
        if at > 0 && (plain.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_for_people() {
        let times =
            [(0.0, "0.00 µs"), (98.4e-6, "98.4 µs"), (2.5e-3, "2.50 ms"), (61.0, "61.0 s"), (7_200.0, "2.00 h")];
        times.iter().for_each(|(value, text)| assert_eq!(seconds(*value), *text));
        let sizes =
            [(-5.0, "0 bytes"), (1_023.0, "1023 bytes"), (1_536.0, "1.50 KiB"), (250.0 * 1_048_576.0, "250 MiB")];
        sizes.iter().for_each(|(value, text)| assert_eq!(bytes(*value), *text));
        let counts = [(0.0, "0"), (999.0, "999"), (1_000.0, "1,000"), (1_234_567.4, "1,234,567")];
        counts.iter().for_each(|(value, text)| assert_eq!(count(*value), *text));
    }
}
