//! What an entry is known by where only its position is remembered: two copies of one journal that went on apart have the
//! same positions, and other entries behind them.
//!
//! It is made of what no version writes otherwise, so that a database that one binary wrote is understood by the next.

use crate::sale::{Entry, Event};

/// The mark of `entry`: the CRC-32C of its position, its time, what it is, and the claim or the campaign that it is about.
pub fn mark(entry: &Entry) -> u32 {
    let (kind, about) = match &entry.event {
        Event::Claimed(claim) => (1, u128::from_le_bytes(claim.claim_id.0)),
        Event::Created(created) => (2, created.no.0.into()),
        Event::Changed(changed) => (3, changed.no.0.into()),
        Event::Moved(moved) => (4, u128::from_le_bytes(moved.claim_id.0)),
        Event::Released(no) => (5, no.0.into()),
        Event::Carted(carted) => (6, carted.address.into()),
        Event::Void => (7, 0),
    };
    let mut bytes = [0; 33];
    bytes[..8].copy_from_slice(&entry.seq.0.to_le_bytes());
    bytes[8..16].copy_from_slice(&entry.at.0.to_le_bytes());
    bytes[16] = kind;
    bytes[17..].copy_from_slice(&about.to_le_bytes());
    crc32c::crc32c(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sale::{CampaignNo, Seq, Timestamp};

    #[test]
    fn position_time_kind_and_subject_all_make_another_mark() {
        let released = |seq, at, no| Entry { seq: Seq(seq), at: Timestamp(at), event: Event::Released(CampaignNo(no)) };
        let one = mark(&released(7, 1_000, 3));
        assert_eq!(one, mark(&released(7, 1_000, 3)));
        for other in [released(8, 1_000, 3), released(7, 1_001, 3), released(7, 1_000, 4)] {
            assert_ne!(mark(&other), one, "{other:?}");
        }
    }

    #[test]
    fn a_mark_that_a_database_holds_never_changes_its_meaning() {
        let entry = Entry { seq: Seq(7), at: Timestamp(1_000), event: Event::Released(CampaignNo(3)) };
        let bytes = [&7u64.to_le_bytes()[..], &1_000i64.to_le_bytes(), &[5], &3u128.to_le_bytes()];
        assert_eq!(mark(&entry), crc32c::crc32c(&bytes.concat()));
    }
}
