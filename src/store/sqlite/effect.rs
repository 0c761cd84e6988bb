//! What a batch does to a campaign's row, folded into one statement.
//!
//! Sums, restocks, window and state arrive together, so that the table's guards (`persisted_units <= stock`) are
//! checked once, against what is true after the batch.

use std::collections::BTreeMap;

use sqlx::SqliteConnection;

use super::super::{CampaignRow, Row, StoreError};
use super::error::before;
use super::write::Work;
use crate::sale::campaign::{AdminState, CampaignPatch};
use crate::sale::{CampaignId, CampaignNo, CampaignSpec, Seq, Timestamp};

/// A campaign's part in a batch.
pub(super) struct Effect<'a> {
    no: CampaignNo,
    id: CampaignId,
    created: Option<(CampaignSpec, &'a str)>,
    patch: CampaignPatch,
    /// The last entry here that was about the campaign itself.
    changed: Option<(Seq, Timestamp)>,
    /// The last entry here of any kind: what a row begins with where there is none yet.
    last: (Seq, Timestamp),
    persisted: Sum,
    dead: Sum,
}

#[derive(Default, Clone, Copy)]
struct Sum {
    units: i64,
    money: i64,
}

impl Sum {
    fn add(&mut self, row: &super::super::ClaimRow) {
        self.units += row.claim.quantity.0 as i64;
        self.money += row.claim.amount.map_or(0, |m| m.0);
    }
}

/// One effect a campaign, in the campaigns' order.
pub(super) fn of<'a>(work: &Work<'a>) -> Result<Vec<Effect<'a>>, StoreError> {
    let mut all: BTreeMap<CampaignNo, Effect<'a>> = BTreeMap::new();
    for row in &work.claims {
        let claim = &row.claim;
        entry(&mut all, claim.campaign, row.campaign, (claim.seq, claim.accepted_at)).persisted.add(row);
    }
    for (row, _) in &work.dead {
        if let Row::Claim(row) = row {
            let claim = &row.claim;
            entry(&mut all, claim.campaign, row.campaign, (claim.seq, claim.accepted_at)).dead.add(row);
        }
    }
    for row in &work.log {
        entry(&mut all, row.no, row.id, (row.seq, row.at)).fold(row)?;
    }
    Ok(all.into_values().collect())
}

fn entry<'m, 'a>(
    all: &'m mut BTreeMap<CampaignNo, Effect<'a>>,
    no: CampaignNo,
    id: CampaignId,
    last: (Seq, Timestamp),
) -> &'m mut Effect<'a> {
    let (persisted, dead) = (Sum::default(), Sum::default());
    let new =
        || Effect { no, id, created: None, patch: CampaignPatch::default(), changed: None, last, persisted, dead };
    let effect = all.entry(no).or_insert_with(new);
    effect.last = effect.last.max(last);
    effect
}

impl<'a> Effect<'a> {
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

    pub(super) async fn apply(&self, sql: &mut SqliteConnection) -> Result<(), StoreError> {
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
        let text = "INSERT INTO campaigns (no, id, kind, title, state, opens_at, closes_at, per_user_limit, stock, \
                    currency, price, total, definition, seq, updated_at, persisted_units, persisted_money, dead_units, \
                    dead_money) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)";
        let (seq, at) = self.changed.unwrap_or(self.last);
        sqlx::query(text)
            .bind(i64::from(self.no.0))
            .bind(self.id.as_str())
            .bind(spec.kind.as_str())
            .bind(spec.title.as_str())
            .bind(self.patch.state.unwrap_or(AdminState::Open).as_str())
            .bind(self.patch.opens_at.unwrap_or(spec.opens_at).to_string())
            .bind(self.patch.closes_at.unwrap_or(spec.closes_at).to_string())
            .bind(spec.per_user_limit.0 as i64)
            .bind(spec.stock.0 as i64 + self.patch.add_stock.unwrap_or(0))
            .bind(spec.currency.map(|c| c.as_str().to_owned()))
            .bind(spec.price.map(|p| p.0))
            .bind(spec.red_packet.map(|p| p.total.0 + self.patch.add_total.unwrap_or(0)))
            .bind(definition)
            .bind(seq.0 as i64)
            .bind(at.to_string())
            .bind(self.persisted.units)
            .bind(self.persisted.money)
            .bind(self.dead.units)
            .bind(self.dead.money)
            .execute(sql)
            .await
            .map(|_| ())
            .map_err(before)
    }

    /// Whether there was a row to update.
    async fn update(&self, sql: &mut SqliteConnection) -> Result<bool, StoreError> {
        let text = "UPDATE campaigns SET persisted_units = persisted_units + ?1, persisted_money = persisted_money + ?2, \
                    dead_units = dead_units + ?3, dead_money = dead_money + ?4, stock = stock + ?5, total = total + ?6, \
                    state = coalesce(?7, state), opens_at = coalesce(?8, opens_at), closes_at = coalesce(?9, closes_at), \
                    seq = coalesce(?10, seq), updated_at = coalesce(?11, updated_at) WHERE no = ?12 AND id = ?13";
        let done = sqlx::query(text)
            .bind(self.persisted.units)
            .bind(self.persisted.money)
            .bind(self.dead.units)
            .bind(self.dead.money)
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
        let text = "INSERT INTO campaigns (no, id, seq, updated_at, persisted_units, persisted_money, dead_units, \
                    dead_money) VALUES (?,?,?,?,?,?,?,?)";
        sqlx::query(text)
            .bind(i64::from(self.no.0))
            .bind(self.id.as_str())
            .bind(self.last.0.0 as i64)
            .bind(self.last.1.to_string())
            .bind(self.persisted.units)
            .bind(self.persisted.money)
            .bind(self.dead.units)
            .bind(self.dead.money)
            .execute(sql)
            .await
            .map(|_| ())
            .map_err(before)
    }
}
