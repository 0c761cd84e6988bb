//! What a batch does to a campaign's row, folded into one statement.
//!
//! Sums, restocks, window and state arrive together, so that the table's guards (`persisted_units <= stock`) are
//! checked once, against what is true after the batch.

use std::collections::BTreeMap;

use sqlx::SqliteConnection;

use super::super::{CampaignRow, ClaimRow, EndRow, StoreError};
use super::bulk::Bound;
use super::error::before;
use crate::sale::campaign::{AdminState, CampaignPatch};
use crate::sale::{CampaignId, CampaignNo, CampaignSpec, Fate, Money, Seq, Timestamp, Units};

/// Which of a campaign's sums a claim is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A row that is neither paid nor given back.
    Persisted,
    /// Paid.
    Settled,
    /// Given back or expired.
    Returned,
    /// A dead letter that was not given back.
    Dead,
}

impl Place {
    /// Where a row belongs after its end.
    pub(super) fn of(fate: Fate) -> Self {
        if fate.returns_units() { Self::Returned } else { Self::Settled }
    }
}

/// One effect a campaign, applied in the campaigns' order.
#[derive(Default)]
pub(super) struct Effects<'a>(BTreeMap<CampaignNo, Effect<'a>>);

impl<'a> Effects<'a> {
    /// A claim came to `place`.
    pub(super) fn claim(&mut self, row: &ClaimRow, place: Place) {
        let claim = &row.claim;
        let last = (claim.seq, claim.accepted_at);
        self.entry(claim.campaign, row.campaign, last).add(place, 1, claim.quantity, claim.amount);
    }

    /// A claim that was in the dead letters became a row in `place`.
    pub(super) fn revived(&mut self, row: &ClaimRow, place: Place) {
        self.claim(row, place);
        let claim = &row.claim;
        let last = (claim.seq, claim.accepted_at);
        self.entry(claim.campaign, row.campaign, last).add(Place::Dead, -1, claim.quantity, claim.amount);
    }

    /// A claim that was counted in `from` came to its end. One that was paid and is in the dead letters stays counted there.
    pub(super) fn end(&mut self, row: &EndRow, from: Place) {
        let moved = &row.moved;
        let to = Place::of(moved.to);
        if from == Place::Dead && to == Place::Settled {
            return;
        }
        let effect = self.entry(moved.campaign, row.campaign, (row.seq, row.at));
        effect.add(from, -1, moved.quantity, moved.amount);
        effect.add(to, 1, moved.quantity, moved.amount);
    }

    /// A campaign was created or changed.
    pub(super) fn log(&mut self, row: &'a CampaignRow) -> Result<(), StoreError> {
        self.entry(row.no, row.id, (row.seq, row.at)).fold(row)
    }

    /// One statement a campaign.
    pub(super) async fn apply(&self, sql: &mut SqliteConnection) -> Result<(), StoreError> {
        for effect in self.0.values() {
            effect.apply(sql).await?;
        }
        Ok(())
    }

    fn entry(&mut self, no: CampaignNo, id: CampaignId, last: (Seq, Timestamp)) -> &mut Effect<'a> {
        let patch = CampaignPatch::default();
        let new = || Effect { no, id, created: None, patch, changed: None, last, sums: [Sum::default(); 4] };
        let effect = self.0.entry(no).or_insert_with(new);
        effect.last = effect.last.max(last);
        effect
    }
}

/// A campaign's part in a batch.
struct Effect<'a> {
    no: CampaignNo,
    id: CampaignId,
    created: Option<(CampaignSpec, &'a str)>,
    patch: CampaignPatch,
    /// The last entry here that was about the campaign itself.
    changed: Option<(Seq, Timestamp)>,
    /// The last entry here of any kind: what a row begins with where there is none yet.
    last: (Seq, Timestamp),
    /// By [`Place`].
    sums: [Sum; 4],
}

#[derive(Default, Clone, Copy)]
struct Sum {
    units: i64,
    money: i64,
}

impl<'a> Effect<'a> {
    fn add(&mut self, place: Place, sign: i64, units: Units, money: Option<Money>) {
        let sum = &mut self.sums[place as usize];
        sum.units += sign * units.0 as i64;
        sum.money += sign * money.map_or(0, |m| m.0);
    }

    /// Units and money of each place, in the places' order.
    fn bind_sums<'q>(&self, query: Bound<'q>) -> Bound<'q> {
        self.sums.iter().fold(query, |query, sum| query.bind(sum.units).bind(sum.money))
    }

    fn fold(&mut self, row: &'a CampaignRow) -> Result<(), StoreError> {
        let wrong = |e: String| StoreError::Row(format!("campaign {} (entry {}): {e}", row.id, row.seq));
        self.changed = Some((row.seq, row.at));
        if row.action == "created" {
            let spec = CampaignSpec::parse(row.detail.as_bytes()).map_err(|e| wrong(e.to_string()))?;
            self.created = Some((spec, row.detail.as_str()));
            return Ok(());
        }
        let next = CampaignPatch::parse(row.detail.as_bytes()).map_err(|e| wrong(e.to_string()))?;
        let sum = |a: Option<i64>, b: Option<i64>| match (a, b) {
            (Some(a), Some(b)) => a.checked_add(b).map(Some).ok_or_else(|| wrong("the sum overflows".to_owned())),
            (a, b) => Ok(a.or(b)),
        };
        self.patch = CampaignPatch {
            state: next.state.or(self.patch.state),
            add_stock: sum(self.patch.add_stock, next.add_stock)?,
            add_total: sum(self.patch.add_total, next.add_total)?,
            opens_at: next.opens_at.or(self.patch.opens_at),
            closes_at: next.closes_at.or(self.patch.closes_at),
        };
        Ok(())
    }

    async fn apply(&self, sql: &mut SqliteConnection) -> Result<(), StoreError> {
        match &self.created {
            Some((spec, definition)) => self.insert(sql, spec, definition).await,
            None if self.update(sql).await? => Ok(()),
            None => self.insert_sums(sql).await,
        }
    }

    async fn insert(
        &self,
        sql: &mut SqliteConnection,
        spec: &CampaignSpec,
        definition: &str,
    ) -> Result<(), StoreError> {
        // A row that is there has only sums, because its creation was in the dead letters: see `insert_sums`.
        let text = "INSERT INTO campaigns (no, id, kind, title, state, opens_at, closes_at, per_user_limit, stock, \
                    currency, price, total, definition, seq, updated_at, persisted_units, persisted_money, \
                    settled_units, settled_money, returned_units, returned_money, dead_units, dead_money) \
                    VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) \
                    ON CONFLICT (no) DO UPDATE SET kind = excluded.kind, title = excluded.title, \
                    state = excluded.state, opens_at = excluded.opens_at, closes_at = excluded.closes_at, \
                    per_user_limit = excluded.per_user_limit, stock = excluded.stock, currency = excluded.currency, \
                    price = excluded.price, total = excluded.total, definition = excluded.definition, \
                    seq = excluded.seq, updated_at = excluded.updated_at, \
                    persisted_units = persisted_units + excluded.persisted_units, \
                    persisted_money = persisted_money + excluded.persisted_money, \
                    settled_units = settled_units + excluded.settled_units, \
                    settled_money = settled_money + excluded.settled_money, \
                    returned_units = returned_units + excluded.returned_units, \
                    returned_money = returned_money + excluded.returned_money, \
                    dead_units = dead_units + excluded.dead_units, dead_money = dead_money + excluded.dead_money \
                    WHERE definition IS NULL AND id = excluded.id";
        let (seq, at) = self.changed.unwrap_or(self.last);
        let stock = spec.has_stock().then(|| spec.stock.0 as i64 + self.patch.add_stock.unwrap_or(0));
        let query = sqlx::query(text)
            .bind(i64::from(self.no.0))
            .bind(self.id.as_str())
            .bind(spec.kind.as_str())
            .bind(spec.title.as_str())
            .bind(self.patch.state.unwrap_or(AdminState::Open).as_str())
            .bind(self.patch.opens_at.unwrap_or(spec.opens_at).to_string())
            .bind(self.patch.closes_at.unwrap_or(spec.closes_at).to_string())
            .bind(spec.per_user_limit.0 as i64)
            .bind(stock)
            .bind(spec.currency.map(|c| c.as_str().to_owned()))
            .bind(spec.price.map(|p| p.0))
            .bind(spec.red_packet.map(|p| p.total.0 + self.patch.add_total.unwrap_or(0)))
            .bind(definition)
            .bind(seq.0 as i64)
            .bind(at.to_string());
        let done = self.bind_sums(query).execute(sql).await.map_err(before)?;
        if done.rows_affected() == 1 {
            return Ok(());
        }
        Err(StoreError::Row(format!("campaign {} (number {}) is there already", self.id, self.no.0)))
    }

    /// Whether there was a row to update.
    async fn update(&self, sql: &mut SqliteConnection) -> Result<bool, StoreError> {
        let text = "UPDATE campaigns SET persisted_units = persisted_units + ?1, persisted_money = persisted_money + ?2, \
                    settled_units = settled_units + ?3, settled_money = settled_money + ?4, \
                    returned_units = returned_units + ?5, returned_money = returned_money + ?6, \
                    dead_units = dead_units + ?7, dead_money = dead_money + ?8, stock = stock + ?9, total = total + ?10, \
                    state = coalesce(?11, state), opens_at = coalesce(?12, opens_at), \
                    closes_at = coalesce(?13, closes_at), seq = coalesce(?14, seq), \
                    updated_at = coalesce(?15, updated_at) WHERE no = ?16 AND id = ?17";
        let done = self
            .bind_sums(sqlx::query(text))
            .bind(self.patch.add_stock.unwrap_or(0))
            .bind(self.patch.add_total.unwrap_or(0))
            .bind(self.patch.state.map(AdminState::as_str))
            .bind(self.patch.opens_at.map(|t| t.to_string()))
            .bind(self.patch.closes_at.map(|t| t.to_string()))
            .bind(self.changed.map(|(seq, _)| seq.0 as i64))
            .bind(self.changed.map(|(_, at)| at.to_string()))
            .bind(i64::from(self.no.0))
            .bind(self.id.as_str())
            .execute(sql)
            .await
            .map_err(before)?;
        Ok(done.rows_affected() == 1)
    }

    /// A campaign whose creation is in the dead letters still has its sums.
    async fn insert_sums(&self, sql: &mut SqliteConnection) -> Result<(), StoreError> {
        let text = "INSERT INTO campaigns (no, id, seq, updated_at, persisted_units, persisted_money, settled_units, \
                    settled_money, returned_units, returned_money, dead_units, dead_money) \
                    VALUES (?,?,?,?,?,?,?,?,?,?,?,?)";
        let query = sqlx::query(text)
            .bind(i64::from(self.no.0))
            .bind(self.id.as_str())
            .bind(self.last.0.0 as i64)
            .bind(self.last.1.to_string());
        self.bind_sums(query).execute(sql).await.map(|_| ()).map_err(before)
    }
}
