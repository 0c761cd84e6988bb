//! The simulated database as the product sees it.

use forebay::sale::{CampaignId, ClaimId, Seq, UserId};
use forebay::store::{
    Batch, ClaimRow, DeadLetter, DeadRow, Dealt, LetterEnd, Position, Row, Store, StoreError, StoredCart, StoredClaim,
    Totals, Written,
};

use crate::database::SimDb;

impl Store for SimDb {
    async fn bind(&self, journal: u128) -> Result<Position, StoreError> {
        let mut inner = self.lock();
        inner.readable()?;
        let bound = *inner.journal.get_or_insert(journal);
        Ok(Position { journal: bound, cursor: Seq(inner.cursor) })
    }

    async fn write(&self, batch: &Batch, dead: &[DeadRow]) -> Result<Written, StoreError> {
        self.transact(false, |inner| inner.commit(batch, dead), |_, second| second).await
    }

    async fn probe(&self, rows: &[Row]) -> Result<(), StoreError> {
        let mut inner = self.lock();
        inner.readable()?;
        inner.check(rows, &[])
    }

    async fn claim(&self, id: ClaimId) -> Result<Option<StoredClaim>, StoreError> {
        let mut inner = self.lock();
        inner.readable()?;
        let row = inner.by_id.get(&id).map(|&at| &inner.rows[at]);
        let row = row.or_else(|| inner.letters.claim(id));
        Ok(row.map(|row| inner.stored(row)))
    }

    async fn claims_of(&self, user: &UserId, before: Option<Seq>, limit: u32) -> Result<Vec<StoredClaim>, StoreError> {
        let mut inner = self.lock();
        inner.readable()?;
        let mine = inner.rows.iter().rev().filter(|r| r.claim.user == *user);
        Ok(mine
            .filter(|r| before.is_none_or(|b| r.claim.seq < b))
            .take(limit as usize)
            .map(|r| inner.stored(r))
            .collect())
    }

    async fn scan(
        &self,
        campaign: Option<&CampaignId>,
        after: Seq,
        limit: u32,
    ) -> Result<Vec<StoredClaim>, StoreError> {
        let mut inner = self.lock();
        inner.readable()?;
        let rows = inner.rows.iter().filter(|r| campaign.is_none_or(|c| r.campaign == *c) && r.claim.seq > after);
        Ok(rows.take(limit as usize).map(|r| inner.stored(r)).collect())
    }

    async fn totals(&self) -> Result<Vec<Totals>, StoreError> {
        let mut inner = self.lock();
        inner.readable()?;
        Ok(inner.totals.values().copied().collect())
    }

    async fn cart(&self, user: &UserId) -> Result<StoredCart, StoreError> {
        let mut inner = self.lock();
        inner.readable()?;
        Ok(inner.carts.get(user).cloned().unwrap_or_default())
    }

    async fn cart_owners(&self, after: Option<&UserId>, limit: u32) -> Result<(Vec<UserId>, u64), StoreError> {
        let mut inner = self.lock();
        inner.readable()?;
        let behind = inner.carts.keys().filter(|user| after.is_none_or(|after| **user > *after));
        Ok((behind.take(limit as usize).copied().collect(), inner.carts.len() as u64))
    }

    async fn dead_letters(&self, after: u64, limit: u32) -> Result<Vec<DeadLetter>, StoreError> {
        let mut inner = self.lock();
        inner.readable()?;
        Ok(inner.letters.list(after, limit))
    }

    async fn dead_letter(&self, id: u64) -> Result<Option<DeadLetter>, StoreError> {
        let mut inner = self.lock();
        inner.readable()?;
        Ok(inner.letters.list(id.saturating_sub(1), 1).into_iter().find(|letter| letter.id == id))
    }

    async fn requeue(&self, id: u64) -> Result<Dealt, StoreError> {
        let done = self.transact(true, |inner| Ok(inner.requeue(id)), |first, _| first).await;
        // Counted when it is over: only then does the drain have the cart forgotten.
        self.lock().requeues += 1;
        done
    }

    async fn discard(&self, id: u64, _: &str, _: &str) -> Result<Dealt, StoreError> {
        self.transact(true, |inner| Ok(inner.discard(id)), |first, _| first).await
    }

    async fn closed_letter(&self, id: u64) -> Result<Option<LetterEnd>, StoreError> {
        let mut inner = self.lock();
        inner.readable()?;
        Ok(inner.closed(id))
    }

    async fn dead_claims(&self, after: Seq, limit: u32) -> Result<Vec<ClaimRow>, StoreError> {
        let mut inner = self.lock();
        inner.readable()?;
        let dead = inner.letters.open_claims().filter(|row| row.claim.seq > after);
        Ok(dead.take(limit as usize).copied().collect())
    }

    async fn dead_count(&self) -> Result<u64, StoreError> {
        Ok(self.lock().letters.open_count())
    }
}
