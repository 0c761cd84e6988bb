//! A plan, carried out: what is said of it, and what is done where that was asked.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use super::aside::Aside;
use super::fill;
use super::plan::{Fill, Plan, Rebuild};
use super::reading::{Lost, stretch};
use super::{Found, Wish, rebuild};
use crate::clock::{Clock, SystemClock};
use crate::plant;
use crate::queue::drained;
use crate::sale::{Seq, Timestamp};
use crate::store::{Database, Mend, Position, Recovery};

/// What is said of a right pair.
pub(super) const RIGHT: &str = "the pair is right: there is nothing to recover\n";
const ASKED: &str = "nothing was changed; --yes does it\n";

/// What a plan is carried out with.
pub(super) struct Work<'a> {
    pub data_dir: &'a Path,
    pub store: &'a Arc<Database>,
    pub found: &'a Found,
    pub wish: &'a Wish,
}

impl Work<'_> {
    /// Says what is done, and does it where that was asked. Whether the pair is right afterwards.
    ///
    /// # Errors
    /// The system's or the database's: run it again.
    pub async fn carry_out(&self, plan: Plan, text: &mut String, aside: &mut Aside) -> anyhow::Result<bool> {
        match plan {
            Plan::Nothing => {
                text.push_str(RIGHT);
                Ok(true)
            }
            Plan::Stuck(why) => {
                let _ = writeln!(text, "nothing was done: {why}");
                Ok(false)
            }
            Plan::Forget => {
                text.push_str(if self.wish.yes { "it is set aside\n" } else { ASKED });
                if self.wish.yes {
                    aside.set(&self.data_dir.join(drained::DRAINED))?;
                }
                Ok(self.wish.yes)
            }
            Plan::Fill(fill) => self.fill(fill, text, aside).await,
            Plan::Rebuild(rebuild) => self.rebuild(self.store, rebuild, text, aside).await,
        }
    }

    /// The database gets what it lacks.
    async fn fill(&self, fill: Fill, text: &mut String, aside: &mut Aside) -> anyhow::Result<bool> {
        let at: Timestamp = SystemClock.now();
        let last = self.last();
        let waiting = last.0.saturating_sub(fill.cursor.0);
        let gone: Vec<_> = [fill.below, fill.beyond].into_iter().flatten().map(stretch).collect();
        let (mut lost, mut mend) = (Vec::new(), Mend::default());
        if gone.is_empty() {
            let _ = writeln!(
                text,
                "the journal has every entry that the database lacks: {waiting}, up to {last}; the next start writes them into it"
            );
        } else {
            let _ = writeln!(text, "{} are in neither side", gone.join(" and "));
        }
        if fill.below.is_some() {
            (lost, mend) = self.mend(&fill, at).await?;
            say_lost(&lost, "are lost", text);
            if !mend.ends.is_empty() {
                let count = mend.ends.len();
                let _ =
                    writeln!(text, "  {count} claims of the database came to their end within them; their rows follow");
            }
        }
        if fill.beyond.is_some() {
            text.push_str(
                "  what the last of them held is not known: their buyers can claim again. So that no position is used twice, \
                 the database gets what the journal has, and then a new journal is made from it\n",
            );
        }
        if fill.is_aside {
            let _ = writeln!(text, "{} is set aside, and a new one is filled", self.store.name());
        }
        if !gone.is_empty() && !self.wish.accept_loss {
            text.push_str(
                "put a newer copy of the database back if there is one. With --accept-loss it goes on without them; what the \
                 journal's book still holds of them the balance shows as an error\n",
            );
            return Ok(false);
        }
        if !self.wish.yes {
            text.push_str(ASKED);
            return Ok(false);
        }
        let recovery = match (fill.below, fill.from) {
            (Some(below), _) => action(at, "loss", Some(below), serde_json::json!({ "lost": detail(&lost) })),
            (None, Some(_)) => action(at, "accepted", None, serde_json::json!({ "waiting": waiting })),
            (None, None) => action(at, "bound", None, serde_json::json!({ "waiting": waiting })),
        };
        self.bind(&fill, &mend, &recovery, text, aside).await
    }

    /// What is still known of what the entries did that are in neither side.
    async fn mend(&self, fill: &Fill, at: Timestamp) -> anyhow::Result<(Vec<Lost>, Mend)> {
        let Some(reading) = &self.found.reading else { return Ok((Vec::new(), Mend::default())) };
        let fill::Survey { ids, ends } = match fill.from {
            Some(_) => fill::survey(self.store, reading, fill.cursor, at).await?,
            None => fill::Survey::default(),
        };
        let (lost, ids) = reading.lost(&ids);
        Ok((lost, Mend { campaigns: reading.campaigns(), ends, lost: ids }))
    }

    /// Makes the database the journal's, and goes on to a new journal where positions would come twice.
    async fn bind(
        &self,
        fill: &Fill,
        mend: &Mend,
        recovery: &Recovery,
        text: &mut String,
        aside: &mut Aside,
    ) -> anyhow::Result<bool> {
        let Some(side) = &self.found.pair.journal else { return Ok(false) };
        let to = Position { journal: side.identity.journal, cursor: fill.cursor };
        let mut store = self.store;
        let fresh;
        if fill.is_aside {
            fresh = Arc::new(self.away(text, aside).await?);
            plant::crash_point("recover.database_away");
            store = &fresh;
        }
        store.migrate().await?;
        plant::crash_point("recover.migrated");
        store.rebind(fill.from, to, mend, recovery).await?;
        let is_right = if let Some(beyond) = fill.beyond {
            plant::crash_point("recover.bound");
            // What the folder remembers stays until the new journal is there: a run that is killed here finds it.
            fill::drain(self.data_dir, store, side, fill.cursor).await?;
            plant::crash_point("recover.drained");
            let from = Position { cursor: self.last(), ..to };
            self.rebuild(store, Rebuild { from, lost: Some(beyond), is_chosen: true }, text, aside).await?
        } else {
            rebuild::remember(self.data_dir, to, aside)?;
            let _ = writeln!(text, "done: the database is journal {:032x}'s, up to entry {}", to.journal, to.cursor);
            true
        };
        if fill.is_aside {
            store.close().await;
        }
        Ok(is_right)
    }

    /// Sets the database aside; gives the one that stands in its place, which is not there yet.
    async fn away(&self, text: &mut String, aside: &mut Aside) -> anyhow::Result<Database> {
        match &**self.store {
            Database::Sqlite(store) => {
                store.fold().await?;
                store.close().await;
                aside.database(store.path())?;
                Ok(Database::Sqlite(Box::new(store.again())))
            }
            Database::Postgres(store) => {
                let schema = format!("before_recover_{}", aside.stamp.to_lowercase());
                store.set_aside(&schema).await?;
                store.close().await;
                let _ = writeln!(text, "the tables of {} are now in its schema {schema}", store.name());
                Ok(Database::Postgres(Box::new(store.again()?)))
            }
        }
    }

    async fn rebuild(
        &self,
        store: &Database,
        plan: Rebuild,
        text: &mut String,
        aside: &mut Aside,
    ) -> anyhow::Result<bool> {
        let from = plan.from;
        if self.wish.yes {
            store.migrate().await?;
        }
        let known = self.found.pair.remembered.map_or(Seq(0), |drained| drained.cursor);
        let last_known = from.cursor.max(self.last()).max(known);
        let made = rebuild::make(self.data_dir, store, from, last_known).await?;
        say_made(&made, text);
        let only_here = self.only_in_the_journal(store, from).await?;
        self.say_what_goes(&made, &plan, &only_here, text);
        let is_loss = plan.lost.is_some() || !only_here.is_empty() && !plan.is_chosen;
        if is_loss && !self.wish.accept_loss {
            text.push_str("put the newer one back if there is one. With --accept-loss it goes on without them\n");
            return Ok(false);
        }
        if !self.wish.yes {
            text.push_str(ASKED);
            return Ok(false);
        }
        let (found, lost) = (self.found.journal(), plan.lost);
        let noted = rebuild::Noted { found, lost, stamp: &aside.stamp, report: text };
        let note = rebuild::prepare(self.data_dir, &made, from, noted)?;
        rebuild::finish(self.data_dir, store, &note, aside).await?;
        let (journal, next) = (note.to.journal, note.to.cursor.next());
        let _ = writeln!(
            text,
            "done: the database is now journal {journal:032x}'s, whose entries go on from {next}. Make a backup of it now: \
             to an older one this journal has no way"
        );
        Ok(true)
    }

    /// Claims that this database's own journal has, and the database does not.
    async fn only_in_the_journal(&self, store: &Database, from: Position) -> anyhow::Result<Vec<Lost>> {
        let own = self.found.pair.journal.filter(|side| side.identity.journal == from.journal);
        let Some(reading) = self.found.reading.as_ref().filter(|_| own.is_some()) else { return Ok(Vec::new()) };
        Ok(reading.unknown_to(&rebuild::ids(store).await?))
    }

    fn say_what_goes(&self, made: &rebuild::Made, plan: &Rebuild, only_here: &[Lost], text: &mut String) {
        text.push_str(
            "it can't know: acknowledgements that were in the lost journal only, and keys of campaigns' changes\n",
        );
        if !made.has_old_key {
            text.push_str(
                "  nor idempotency keys: the secret that they were hashed with went with the journal's identity\n",
            );
        }
        if !self.data_dir.join("receipt-keys").exists() {
            text.push_str("  nor the keys of receipts: those that were given out can't be verified any more\n");
        }
        let side = self.found.pair.journal.as_ref().filter(|side| side.identity.journal == plan.from.journal);
        if let Some(last) = side.and_then(|side| side.last).filter(|last| *last > plan.from.cursor) {
            let gone = stretch((plan.from.cursor.next(), last));
            let _ = writeln!(text, "  nor {gone}, which only the journal has that is set aside");
        }
        say_lost(only_here, "are only in the journal that is set aside", text);
        if let Some(lost) = plan.lost {
            let _ = writeln!(text, "  {} are in neither side: a database was known to have them", stretch(lost));
        }
    }

    fn last(&self) -> Seq {
        self.found.pair.journal.as_ref().and_then(|side| side.last).unwrap_or_default()
    }
}

fn say_made(made: &rebuild::Made, text: &mut String) {
    let (mut claims, mut units, mut money) = (0, 0, 0);
    for campaign in &made.campaigns {
        let _ = writeln!(
            text,
            "  campaign {}: {} claims, {} units, {} minor units; {} claims were given back",
            campaign.campaign, campaign.claims, campaign.units, campaign.money.0, campaign.returned
        );
        claims += campaign.claims;
        units += campaign.units.0;
        money += campaign.money.0;
    }
    let count = made.campaigns.len();
    let _ = writeln!(
        text,
        "a new journal is made from the database: {count} campaigns, {claims} claims, {units} units, {money} minor units"
    );
}

fn say_lost(lost: &[Lost], what: &str, text: &mut String) {
    for Lost { campaign, claims, units, money } in lost {
        let _ = writeln!(text, "  campaign {campaign}: {claims} claims, {units} units, {money} minor units {what}");
    }
}

fn detail(lost: &[Lost]) -> Vec<serde_json::Value> {
    let entry = |l: &Lost| serde_json::json!({ "campaign": l.campaign, "claims": l.claims, "units": l.units, "money": l.money });
    lost.iter().map(entry).collect()
}

/// A line for the database's own record.
pub(super) fn action(
    at: Timestamp,
    action: &'static str,
    lost: Option<(Seq, Seq)>,
    detail: serde_json::Value,
) -> Recovery {
    Recovery { at, action, lost, detail }
}
