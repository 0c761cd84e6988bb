//! From leased entries to the rows of one transaction. Pure: the campaigns' names are an argument.

use std::collections::HashMap;

use crate::plant::{self, Bug};
use crate::queue::Lease;
use crate::queue::mark::mark;
use crate::sale::campaign::{AdminState, CampaignPatch};
use crate::sale::{
    CampaignId, CampaignKind, CampaignNo, CampaignSpec, Claim, ClaimId, Currency, Durability, Entry, Event,
    MAX_JSON_INT, Money, Seq, Sku, Timestamp, Units, UserId,
};
use crate::store::{Batch, CampaignRow, CartRow, ClaimRow, EndRow, Row};

/// What a row needs to know of its campaign: its name, the currency of its amounts, and whether it is a check-in.
pub type Name = (CampaignId, Option<Currency>, bool);

/// A campaign that has an entry, and no name yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("campaign number {} is not published yet", .0.0)]
pub struct Unnamed(pub CampaignNo);

/// The rows of `lease`; `name` knows the campaigns that were published before. One that was created in the lease itself
/// may not have been.
///
/// # Errors
/// [`Unnamed`]: ask again when the campaign is published.
pub fn of(lease: &Lease, name: impl Fn(CampaignNo) -> Option<Name>) -> Result<Batch, Unnamed> {
    let mut created: Vec<(CampaignNo, Name)> = Vec::new();
    let mut rows = Vec::with_capacity(lease.entries.len());
    let mut last: Option<(CampaignNo, Name)> = None;
    for (entry, place) in lease.entries.iter().zip(1..) {
        assert_eq!(entry.seq, lease.after.plus(place), "a lease is dense");
        let mut named = |no| match last {
            Some((known, name)) if known == no => Ok(name),
            _ => {
                let found =
                    name(no).or_else(|| created.iter().find(|(c, _)| *c == no).map(|(_, n)| *n)).ok_or(Unnamed(no))?;
                last = Some((no, found));
                Ok(found)
            }
        };
        rows.push(match &entry.event {
            Event::Claimed(claim) => {
                let (campaign, currency, is_check_in) = named(claim.campaign)?;
                Row::Claim(ClaimRow { claim: *claim, campaign, currency, is_check_in })
            }
            Event::Created(c) => {
                created.push((c.no, (c.spec.id, c.spec.currency, c.spec.check_in.is_some())));
                Row::Campaign(campaign(entry, c.no, c.spec.id, "created", &c.asked.by, &c.spec.to_json()))
            }
            Event::Changed(c) => {
                Row::Campaign(campaign(entry, c.no, named(c.no)?.0, "changed", &c.asked.by, &c.patch.to_json()))
            }
            Event::Moved(moved) => {
                let (campaign, ..) = named(moved.campaign)?;
                Row::End(EndRow { seq: entry.seq, at: entry.at, campaign, moved: moved.clone() })
            }
            Event::Carted(carted) => Row::Cart(CartRow {
                seq: entry.seq,
                at: entry.at,
                user: carted.user,
                sku: carted.sku,
                quantity: carted.quantity,
                address: carted.address,
            }),
            Event::Void => Row::Void(entry.seq),
            Event::Released(no) => {
                let closed = CampaignPatch { state: Some(AdminState::Closed), ..CampaignPatch::default() };
                Row::Campaign(campaign(entry, *no, named(*no)?.0, "released", RELEASED_BY, &closed.to_json()))
            }
        });
    }
    if plant::on(Bug::DoubledCartAdd) {
        double_adds(&mut rows);
    }
    let mark = lease.entries.last().map_or(0, mark);
    Ok(Batch { after: lease.after, upto: lease.after.plus(rows.len() as u64), rows, mark })
}

/// The planted bug: of several rows about one line of a cart each adds the others' clicks again.
fn double_adds(rows: &mut [Row]) {
    let mut clicks: HashMap<(UserId, Sku), u32> = HashMap::new();
    for row in rows.iter() {
        let Row::Cart(row) = row else { continue };
        *clicks.entry((row.user, row.sku)).or_default() += 1;
    }
    for row in rows.iter_mut() {
        let Row::Cart(row) = row else { continue };
        row.quantity += clicks.get(&(row.user, row.sku)).map_or(0, |clicks| clicks - 1);
    }
}

/// Who closes a campaign that is long over.
const RELEASED_BY: &str = "forebay";

fn campaign(
    entry: &Entry,
    no: CampaignNo,
    id: CampaignId,
    action: &'static str,
    by: &str,
    detail: &serde_json::Value,
) -> CampaignRow {
    CampaignRow { no, id, seq: entry.seq, at: entry.at, action, by: by.to_owned(), detail: detail.to_string() }
}

/// Rows that every sound database takes, for a trial that is rolled back: a campaign that nobody has, and a claim on
/// it. When these are refused, too, no row is at fault.
///
/// Number and positions are beyond what an engine ever gives out, so that they collide with nothing.
pub fn canary() -> Vec<Row> {
    const NAME: &str = "forebay-canary";
    let last = MAX_JSON_INT as u64;
    let (no, at) = (CampaignNo(i32::MAX as u32), Timestamp(0));
    let (Ok(id), Ok(user), currency) = (CampaignId::parse(NAME), UserId::parse(NAME), Currency::parse("XXX")) else {
        unreachable!("the canary's names are identifiers")
    };
    let spec = CampaignSpec {
        id,
        kind: CampaignKind::FlashSale,
        title: String::new(),
        opens_at: at,
        closes_at: at.plus_micros(1_000_000),
        per_user_limit: Units(1),
        stock: Units(1),
        currency,
        price: Some(Money(1)),
        red_packet: None,
        check_in: None,
        reservation_ttl: None,
    };
    let claim = Claim {
        claim_id: ClaimId([0xff; 16]),
        campaign: no,
        user,
        quantity: Units(1),
        amount: Some(Money(1)),
        hold: 0,
        receipt_key: 1,
        key: None,
        seq: Seq(last),
        accepted_at: at,
        durability: Durability::Disk,
    };
    let detail = spec.to_json().to_string();
    let created = CampaignRow { no, id, seq: Seq(last - 1), at, action: "created", by: NAME.to_owned(), detail };
    vec![Row::Campaign(created), Row::Claim(ClaimRow { claim, campaign: id, currency, is_check_in: false })]
}

/// Whether `row` is one of [`canary`]'s: for stores of tests, which tell rows apart by who made them.
pub fn is_canary(row: &Row) -> bool {
    row.seq().0 >= MAX_JSON_INT as u64 - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sale::red_packet::Seed;
    use crate::sale::{Asked, Changed, Created};
    use crate::workers::fake;

    fn created(seq: u64) -> Entry {
        let Row::Campaign(row) = &canary()[0] else { panic!("a campaign comes first") };
        let spec = CampaignSpec::parse(row.detail.as_bytes()).unwrap();
        let asked = Asked { by: "ann".into(), key: None };
        let event = Event::Created(Box::new(Created { no: CampaignNo(0), spec, seed: Seed([0; 16]), asked }));
        Entry { seq: Seq(seq), at: Timestamp(5), event }
    }

    fn changed(seq: u64) -> Entry {
        let patch = CampaignPatch { add_stock: Some(3), ..CampaignPatch::default() };
        let asked = Asked { by: "bob".into(), key: None };
        Entry {
            seq: Seq(seq),
            at: Timestamp(6),
            event: Event::Changed(Box::new(Changed { no: CampaignNo(0), patch, asked })),
        }
    }

    #[test]
    fn each_entry_becomes_its_row_with_the_campaigns_name() {
        let entries = vec![created(8), fake::entry(9, 0), changed(10)];
        let batch = of(&Lease { after: Seq(7), entries }, |_| None).unwrap();
        assert_eq!((batch.after, batch.upto), (Seq(7), Seq(10)));
        let [Row::Campaign(first), Row::Claim(claim), Row::Campaign(third)] = &batch.rows[..] else {
            panic!("{batch:?}")
        };
        assert_eq!((first.action, first.by.as_str(), first.seq, first.at), ("created", "ann", Seq(8), Timestamp(5)));
        assert_eq!((claim.campaign, claim.currency), (first.id, Currency::parse("XXX")));
        assert_eq!((third.action, third.by.as_str(), third.id), ("changed", "bob", first.id));
        assert_eq!(CampaignPatch::parse(third.detail.as_bytes()).unwrap().add_stock, Some(3));
    }

    #[test]
    fn a_position_that_nobody_has_keeps_its_place_among_the_rows() {
        let void = |seq| Entry { seq: Seq(seq), at: Timestamp(5), event: Event::Void };
        let batch = of(&Lease { after: Seq(7), entries: vec![void(8), created(9), void(10)] }, |_| None).unwrap();
        assert_eq!((batch.upto, batch.mark), (Seq(10), mark(&void(10))));
        assert!(matches!(&batch.rows[..], [Row::Void(Seq(8)), Row::Campaign(_), Row::Void(Seq(10))]), "{batch:?}");
    }

    #[test]
    fn a_campaign_that_nobody_has_published_is_waited_for() {
        let lease = Lease { after: Seq(0), entries: vec![fake::entry(1, 4)] };
        assert_eq!(of(&lease, |_| None), Err(Unnamed(CampaignNo(4))));
        assert!(of(&lease, |no| Some((CampaignId::parse("c").unwrap(), None, false)).filter(|_| no.0 == 4)).is_ok());
    }

    #[test]
    fn the_canary_is_recognised_and_nothing_else_is() {
        assert!(canary().iter().all(is_canary));
        let lease = Lease { after: Seq(7), entries: vec![created(8), fake::entry(9, 0)] };
        assert!(!of(&lease, |_| None).unwrap().rows.iter().any(is_canary));
    }
}
