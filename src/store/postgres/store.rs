//! The contract of a [`Store`], call by call.

use std::sync::Arc;

use super::super::fold::Owner;
use super::super::{
    Batch, ClaimRow, DeadLetter, DeadRow, Dealt, LetterEnd, Position, Row, Store, StoreError, StoredCart, StoredClaim,
    Totals, Written,
};
use super::{PostgresStore, carts, letters, pair, read, write};
use crate::sale::{CampaignId, ClaimId, Seq, UserId};

impl PostgresStore {
    fn owner(&self) -> Result<Arc<Owner>, StoreError> {
        self.sessions.owner().ok_or_else(|| StoreError::Fenced("bound to no journal".to_owned()))
    }
}

impl Store for PostgresStore {
    async fn bind(&self, journal: u128) -> Result<Position, StoreError> {
        let (position, taken) = self.change(move |sql| Box::pin(pair::bind(sql, journal))).await?;
        let Some((epoch, change)) = taken else {
            return Err(StoreError::Fenced(format!(
                "{} belongs to journal {:032x}, this one is {journal:032x}: give each data folder a database of its own",
                self.name(),
                position.journal
            )));
        };
        self.sessions.set_owner(Owner { journal: format!("{journal:032x}"), epoch });
        self.sessions.tell(change);
        Ok(position)
    }

    async fn write(&self, batch: &Batch, dead: &[DeadRow]) -> Result<Written, StoreError> {
        assert!(batch.after < batch.upto, "a batch from {} to {}", batch.after, batch.upto);
        let inside = |row: &Row| batch.after < row.seq() && row.seq() <= batch.upto;
        assert!(batch.rows.iter().all(inside), "a row outside its batch");
        let owner = self.owner()?;
        // The work outlives its caller, if it must: it owns what it needs.
        let (batch, dead, sessions) = (batch.clone(), dead.to_vec(), self.sessions.clone());
        self.change(move |sql| {
            Box::pin(async move {
                sessions.make_days(sql, &batch.rows).await;
                write::batch(sql, &owner, &batch, &dead, &|change| sessions.tell(change)).await
            })
        })
        .await
    }

    async fn probe(&self, rows: &[Row]) -> Result<(), StoreError> {
        let rows = rows.to_vec();
        self.change(move |sql| Box::pin(async move { write::probe(sql, &rows).await })).await
    }

    async fn claim(&self, id: ClaimId) -> Result<Option<StoredClaim>, StoreError> {
        self.read_anywhere(move |sql| Box::pin(read::claim(sql, id))).await
    }

    async fn claims_of(&self, user: &UserId, before: Option<Seq>, limit: u32) -> Result<Vec<StoredClaim>, StoreError> {
        let user = *user;
        self.read_anywhere(move |sql| Box::pin(read::claims_of(sql, user, before, limit))).await
    }

    async fn scan(
        &self,
        campaign: Option<&CampaignId>,
        after: Seq,
        limit: u32,
    ) -> Result<Vec<StoredClaim>, StoreError> {
        let campaign = campaign.copied();
        self.read_anywhere(move |sql| Box::pin(read::scan(sql, campaign, after, limit))).await
    }

    async fn totals(&self) -> Result<Vec<Totals>, StoreError> {
        self.read(|sql| Box::pin(read::totals(sql))).await
    }

    async fn dead_claims(&self, after: Seq, limit: u32) -> Result<Vec<ClaimRow>, StoreError> {
        self.read(move |sql| Box::pin(read::dead_claims(sql, after, limit))).await
    }

    async fn cart(&self, user: &UserId) -> Result<StoredCart, StoreError> {
        let user = *user;
        self.read_anywhere(move |sql| Box::pin(carts::read(sql, user))).await
    }

    async fn cart_owners(&self, after: Option<&UserId>, limit: u32) -> Result<(Vec<UserId>, u64), StoreError> {
        let after = after.copied();
        self.read(move |sql| Box::pin(carts::owners(sql, after, limit))).await
    }

    async fn dead_letters(&self, after: u64, limit: u32) -> Result<Vec<DeadLetter>, StoreError> {
        self.read(move |sql| Box::pin(letters::list(sql, after, limit))).await
    }

    async fn dead_letter(&self, id: u64) -> Result<Option<DeadLetter>, StoreError> {
        self.read(move |sql| Box::pin(letters::one(sql, id))).await
    }

    async fn requeue(&self, id: u64) -> Result<Dealt, StoreError> {
        let (sessions, owner) = (self.sessions.clone(), self.owner()?);
        self.change(move |sql| {
            Box::pin(async move { letters::requeue(sql, &owner, id, &|change| sessions.tell(change)).await })
        })
        .await
    }

    async fn discard(&self, id: u64, by: &str, reason: &str) -> Result<Dealt, StoreError> {
        let (sessions, owner, by, reason) = (self.sessions.clone(), self.owner()?, by.to_owned(), reason.to_owned());
        self.change(move |sql| {
            let tell = move |change| sessions.tell(change);
            Box::pin(async move { letters::discard(sql, &owner, id, (&by, &reason), &tell).await })
        })
        .await
    }

    async fn closed_letter(&self, id: u64) -> Result<Option<LetterEnd>, StoreError> {
        self.read(move |sql| Box::pin(letters::closed(sql, id))).await
    }

    async fn dead_count(&self) -> Result<u64, StoreError> {
        self.read(|sql| Box::pin(letters::count(sql))).await
    }
}
