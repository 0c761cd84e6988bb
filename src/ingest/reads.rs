//! What buyers and shops ask: where a claim stands, what is on sale, what a buyer holds.
//!
//! **A buyer always sees what it was told.** A claim is in the buffer until it is in the database, in this order: row
//! committed, then retired from the buffer. So every read looks into the buffer first and into the database afterwards;
//! and since a claim may enter and leave the buffer while the database is being read, a miss counts only if nothing
//! was retired in between. What the cache may answer follows from the same order ([`crate::cache::local`]).

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::{HeaderMap, header};
use siphasher::sip::SipHasher13;

use super::reply::{self, ClaimDocument, Problem, Reply};
use super::routes::{Query, has_etag};
use super::waits::{Place, Waits};
use super::{App, Door};
use crate::clock::Seldom;
use crate::limits;
use crate::queue::pending::Waiting;
use crate::queue::{Away, CampaignView, Unsettled};
use crate::sale::{CampaignId, Claim, ClaimId, ClaimStatus, Currency, Fate, Seq, UserId};
use crate::store::{Store, StoreError, StoredClaim};

/// How often a miss is looked for again because the drain moved meanwhile. Twice in a row is chance; more is a store so
/// slow that "unknown" is no worse an answer than waiting.
const LOOKS: usize = 3;

/// A claim as a reader gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// In the buffer or in the database; `waiting` is its last entry that is in the buffer. One that is `accepted` and does
    /// not wait is in the dead letters.
    Held { claim: Claim, campaign: CampaignId, currency: Option<Currency>, status: ClaimStatus, waiting: Option<Seq> },
    /// Its caller was told that the outcome is unknown, and no entry says more.
    Unsettled { id: ClaimId, user: UserId, state: Unsettled },
}

impl Seen {
    /// Where the claim stands.
    pub(super) fn status(&self) -> ClaimStatus {
        match self {
            Self::Held { status, .. } => *status,
            Self::Unsettled { state: Unsettled::Unknown, .. } => ClaimStatus::Unknown,
            Self::Unsettled { state: Unsettled::Rejected, .. } => ClaimStatus::Rejected,
        }
    }

    /// Counts the changes that a reader can see.
    fn version(&self) -> u64 {
        match self.status() {
            ClaimStatus::Unknown => 0,
            ClaimStatus::Accepted | ClaimStatus::Rejected => 1,
            ClaimStatus::Persisted => 2,
            ClaimStatus::Settled | ClaimStatus::Cancelled | ClaimStatus::Expired => 3,
        }
    }

    fn etag(&self) -> String {
        format!("\"{}\"", self.version())
    }

    fn may_change_soon(&self) -> bool {
        matches!(self.status(), ClaimStatus::Accepted | ClaimStatus::Unknown)
    }

    /// The same claim after its end, if that waits. What the database says has become of it was final.
    fn with_end(mut self, found: &Waiting) -> Self {
        if let Self::Held { claim, status, waiting, .. } = &mut self
            && matches!(status, ClaimStatus::Accepted | ClaimStatus::Persisted)
            && let Some(end) = found.end_of(claim.claim_id)
        {
            (*status, *waiting) = (end.moved.to.status(), Some(end.seq));
        }
        self
    }

    /// The same claim after an end that is durable now.
    pub(super) fn after(mut self, to: Fate) -> Self {
        if let Self::Held { status, .. } = &mut self {
            *status = to.status();
        }
        self
    }

    /// Its document, with its ETag.
    pub(super) fn reply(&self, app: &App) -> Reply {
        let mut body = Vec::with_capacity(448);
        match self {
            Self::Held { claim, campaign, currency, status, .. } => {
                let (currency, version) = (*currency, self.version());
                ClaimDocument { claim, campaign, currency, status: *status, version }.write(&mut body, &app.receipts);
            }
            Self::Unsettled { id, user, .. } => {
                let known = serde_json::json!({
                    "claim_id": id.to_string(), "campaign": null, "user": user.as_str(), "quantity": null,
                    "amount": null, "currency": null, "status": self.status().as_str(), "version": self.version(),
                    "seq": null, "accepted_at": null, "durability": null, "receipt": null,
                });
                body = known.to_string().into_bytes();
            }
        }
        let mut reply = reply::json(body);
        reply::set_etag(&mut reply, &self.etag());
        reply
    }
}

impl From<StoredClaim> for Seen {
    fn from(stored: StoredClaim) -> Self {
        let row = stored.row;
        let (campaign, currency, status) = (row.campaign, row.currency, stored.status);
        Self::Held { claim: row.claim, campaign, currency, status, waiting: None }
    }
}

/// A read that failed. While the database is away that is every one of them.
pub(super) fn unavailable(error: StoreError) -> Problem {
    static NEWS: Seldom = Seldom::new();
    if let Some(others) = NEWS.is_due(Duration::from_millis(limits::READ_TELL_MILLIS)) {
        tracing::warn!(%error, others, "a read failed");
    }
    Problem::StoreUnavailable
}

/// `GET /v1/claims/{claim_id}?wait=`
///
/// # Errors
/// The problem to answer with.
pub async fn claim(
    door: &Rc<Door>,
    waits: &Rc<Waits>,
    id: &str,
    query: &Query<'_>,
    headers: &HeaderMap,
) -> Result<Reply, Problem> {
    let app = &*door.app;
    let [wait] = query.read(["wait"])?;
    let wait = wait.map_or(Ok(0), |w| whole("wait", &w, 0, limits::WAIT_MAX_SECS))?;
    let id = ClaimId::parse(id).ok_or(Problem::UnknownClaim)?;
    let mut seen = look(door, id).await?;
    let is_news = |seen: &Seen| match headers.contains_key(header::IF_NONE_MATCH) {
        true => !has_etag(headers, &seen.etag()),
        false => !seen.may_change_soon(),
    };
    if wait > 0
        && !is_news(&seen)
        && let Some(_place) = Place::take(&app.waiters)
    {
        let mut limit = pin!(tokio::time::sleep(Duration::from_secs(wait)));
        while !is_news(&seen) && !waits.is_over() {
            let is_over = tokio::select! {
                biased;
                () = change_of(app, waits, &seen) => false,
                () = &mut limit => true,
            };
            match look(door, id).await {
                Ok(now) => seen = now,
                // A claim that was seen does not vanish for a reader that waits, even where its row was deleted by hand.
                Err(Problem::UnknownClaim) => break,
                Err(other) => return Err(other),
            }
            if is_over {
                break;
            }
        }
    }
    let etag = seen.etag();
    Ok(if has_etag(headers, &etag) { reply::not_modified(&etag) } else { seen.reply(app) })
}

/// Waits until it is worth looking again.
async fn change_of(app: &App, waits: &Rc<Waits>, seen: &Seen) {
    match seen {
        // Its end may come while its row still waits.
        Seen::Held { waiting: Some(seq), .. } => {
            tokio::select! {
                () = waits.until_retired(*seq) => {}
                () = tokio::time::sleep(Duration::from_millis(limits::END_POLL_MILLIS)) => {}
            }
        }
        // Paid or given back: nothing comes after that.
        Seen::Held { status: ClaimStatus::Settled | ClaimStatus::Cancelled | ClaimStatus::Expired, .. } => {
            waits.until_over().await;
        }
        // A row changes when its claim comes to its end, which nobody is told of: it is looked for now and then.
        Seen::Held { .. } => {
            tokio::select! {
                () = waits.until_over() => {}
                () = tokio::time::sleep(Duration::from_millis(limits::END_POLL_MILLIS)) => {}
            }
        }
        Seen::Unsettled { id, state, .. } => {
            let now = Some(*state);
            if *state == Unsettled::Rejected {
                return waits.until_over().await;
            }
            while !waits.is_over() && app.buffer.unsettled(*id).map(|(_, state)| state) == now {
                tokio::time::sleep(Duration::from_millis(limits::UNKNOWN_POLL_MILLIS)).await;
            }
        }
    }
}

/// A claim, wherever it is.
///
/// # Errors
/// [`Problem::UnknownClaim`], or that the database can't be read.
pub(super) async fn look(door: &Rc<Door>, id: ClaimId) -> Result<Seen, Problem> {
    let app = &*door.app;
    let mut is_away = false;
    for _ in 0..LOOKS {
        // Where what waits can't be looked at now, what the database has is still true.
        let found = app.buffer.find(&door.front, id).await.unwrap_or_else(|Away| {
            is_away = true;
            Waiting::default()
        });
        if let Some(seen) = found.claims.first().and_then(|claim| accepted(app, *claim)) {
            return Ok(seen.with_end(&found));
        }
        let before = app.buffer.retired();
        // How far the database is can't be told then either, so what the caches have may be too old.
        let stored =
            if is_away { app.store.claim(id).await } else { app.cache.claim(id, || app.store.claim(id)).await };
        if let Some(stored) = stored.map_err(unavailable)? {
            return Ok(Seen::from(stored).with_end(&found));
        }
        if is_away {
            return Err(Problem::StoreUnavailable);
        }
        let found = app.buffer.find(&door.front, id).await.map_err(|Away| Problem::StoreUnavailable)?;
        if let Some(seen) = found.claims.first().and_then(|claim| accepted(app, *claim)) {
            return Ok(seen.with_end(&found));
        }
        if app.buffer.retired() == before {
            break;
        }
    }
    let (user, state) = app.buffer.unsettled(id).ok_or(Problem::UnknownClaim)?;
    Ok(Seen::Unsettled { id, user, state })
}

fn accepted(app: &App, claim: Claim) -> Option<Seen> {
    let campaigns = app.buffer.campaigns();
    let view = campaigns.number(claim.campaign)?;
    let (status, waiting) = (ClaimStatus::Accepted, Some(claim.seq));
    Some(Seen::Held { claim, campaign: view.id, currency: view.currency, status, waiting })
}

/// `GET /v1/users/{user}/claims?limit=&cursor=`
///
/// # Errors
/// The problem to answer with.
pub async fn claims_of(door: &Rc<Door>, user: &str, query: &Query<'_>) -> Result<Reply, Problem> {
    let app = &*door.app;
    let [limit, cursor] = query.read(["limit", "cursor"])?;
    let limit =
        limit.map_or(Ok(limits::PAGE_DEFAULT.into()), |l| whole("limit", &l, 1, limits::PAGE_MAX.into()))? as u32;
    let before = cursor.map(|c| read_cursor(&c)).transpose()?;
    let user = UserId::parse(user).map_err(|e| Problem::invalid("user", format!("expected {e}")))?;

    // The buffer first: what it retires meanwhile is in the database by then, and is shown as what it is there.
    let hash = app.buffer.hash_key().user(&user);
    let waiting = app.buffer.claims_of(&door.front, &user, hash).await.map_err(|Away| Problem::StoreUnavailable)?;
    let stored = page_of(app, user, before, limit).await.map_err(unavailable)?;
    let pending = waiting.claims.iter().filter(|claim| before.is_none_or(|before| claim.seq < before));
    let pending = pending.filter_map(|claim| accepted(app, *claim)).map(|seen| seen.with_end(&waiting));
    let page = merge(pending, stored.into_iter().map(|stored| Seen::from(stored).with_end(&waiting)));

    let more = page.len() > limit as usize;
    let page = &page[..page.len().min(limit as usize)];
    let last = page.last().map(|(seq, _)| *seq).filter(|_| more);
    Ok(reply::json(page_json(app, page, last)))
}

/// A page of what the database has, and one more, if there is, to tell that there is. The first is cached, as large as a page
/// may be.
async fn page_of(app: &App, user: UserId, before: Option<Seq>, limit: u32) -> Result<Vec<StoredClaim>, StoreError> {
    if before.is_some() {
        return app.store.claims_of(&user, before, limit + 1).await;
    }
    let read = async || app.store.claims_of(&user, None, limits::PAGE_MAX + 1).await.map(Arc::new);
    let page = app.cache.page(user, app.buffer.hash_key().user(&user), read).await?;
    Ok(page.iter().take(limit as usize + 1).cloned().collect())
}

/// Newest first, each once; the database's word counts where both have one.
fn merge(pending: impl Iterator<Item = Seen>, stored: impl Iterator<Item = Seen>) -> Vec<(Seq, Seen)> {
    let seq = |seen: Seen| match &seen {
        Seen::Held { claim, .. } => Some((claim.seq, seen)),
        Seen::Unsettled { .. } => None,
    };
    let mut all: Vec<(Seq, Seen)> = stored.chain(pending).filter_map(seq).collect();
    // Stable: of two with one seq the database's stays in front.
    all.sort_by_key(|(seq, _)| std::cmp::Reverse(*seq));
    all.dedup_by_key(|(seq, _)| *seq);
    all
}

fn page_json(app: &App, page: &[(Seq, Seen)], last: Option<Seq>) -> Vec<u8> {
    let mut body = Vec::with_capacity(64 + page.len() * 448);
    body.extend_from_slice(b"{\"claims\":[");
    for (i, (_, seen)) in page.iter().enumerate() {
        if i > 0 {
            body.push(b',');
        }
        if let Seen::Held { claim, campaign, currency, status, .. } = seen {
            let (currency, version) = (*currency, seen.version());
            ClaimDocument { claim, campaign, currency, status: *status, version }.write(&mut body, &app.receipts);
        }
    }
    body.extend_from_slice(b"],\"next_cursor\":");
    match last {
        Some(seq) => body.extend_from_slice(format!("\"{}\"", write_cursor(seq)).as_bytes()),
        None => body.extend_from_slice(b"null"),
    }
    body.push(b'}');
    body
}

/// Where a page ended, opaque to the caller.
pub(super) fn write_cursor(seq: Seq) -> String {
    URL_SAFE_NO_PAD.encode(seq.0.to_be_bytes())
}

pub(super) fn read_cursor(text: &str) -> Result<Seq, Problem> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok().and_then(|b| <[u8; 8]>::try_from(b).ok());
    let seq = bytes.map(u64::from_be_bytes).filter(|seq| (1..=i64::MAX as u64).contains(seq));
    seq.map(Seq).ok_or_else(|| Problem::invalid("cursor", "expected a next_cursor of an earlier page"))
}

pub(super) fn whole(field: &str, text: &str, least: u64, most: u64) -> Result<u64, Problem> {
    // `parse` alone would take a sign.
    let value = text.parse().ok().filter(|v| text.bytes().all(|b| b.is_ascii_digit()) && (least..=most).contains(v));
    value.ok_or_else(|| Problem::invalid(field, format!("expected a whole number from {least} to {most}")))
}

/// `GET /v1/campaigns`
///
/// # Errors
/// The problem to answer with.
pub async fn campaigns(app: &App, headers: &HeaderMap) -> Result<Reply, Problem> {
    let body = campaigns_json(app).await;
    // Not keyed: whoever makes two bodies with one hash has changed the campaigns to do so.
    let etag = format!("\"{:016x}\"", SipHasher13::new().hash(&body));
    Ok(tagged(headers, &etag, body))
}

/// All campaigns as a document, by the time they were created.
pub async fn campaigns_json(app: &App) -> Vec<u8> {
    /// Campaigns are few as a rule; where there are thousands, the thread's other requests get their turn in between.
    const AT_ONCE: usize = 64;
    let all = app.buffer.campaigns().all().to_vec();
    let mut body = b"{\"campaigns\":[".to_vec();
    for (i, view) in all.iter().enumerate() {
        if i > 0 {
            body.push(b',');
        }
        if i % AT_ONCE == AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
        body.extend_from_slice(&campaign_json(app, view).1);
    }
    body.extend_from_slice(b"]}");
    body
}

/// `GET /v1/campaigns/{campaign}`, on both listeners.
///
/// # Errors
/// The problem to answer with.
pub fn campaign(app: &App, id: &str, headers: &HeaderMap) -> Result<Reply, Problem> {
    let id = CampaignId::parse(id).map_err(|_| Problem::UnknownCampaign)?;
    let campaigns = app.buffer.campaigns();
    let view = campaigns.get(&id).ok_or(Problem::UnknownCampaign)?;
    let (etag, body) = campaign_json(app, view);
    Ok(tagged(headers, &etag, body))
}

/// A campaign's ETag and its document.
pub fn campaign_json(app: &App, view: &CampaignView) -> (String, Vec<u8>) {
    // The version is read before the definition, which is published first: a reader that gets a newer definition under
    // an older version asks again, and not the other way round.
    let (version, stock_version) = (view.version(), view.stock_version());
    let free = view.shown_free().map_or(serde_json::Value::Null, |units| units.0.into());
    let state = view.state(app.clock.now()).as_str();
    let mut document = view.spec.load().to_json();
    for (name, value) in [
        ("state", state.into()),
        ("free", free.clone()),
        ("stock_version", stock_version.into()),
        ("version", serde_json::Value::from(version)),
    ] {
        document[name] = value;
    }
    (format!("\"{version}.{stock_version}.{free}.{state}\""), document.to_string().into_bytes())
}

fn tagged(headers: &HeaderMap, etag: &str, body: Vec<u8>) -> Reply {
    if has_etag(headers, etag) {
        return reply::not_modified(etag);
    }
    let mut reply = reply::json(body);
    reply::set_etag(&mut reply, etag);
    reply
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sale::{CampaignNo, Durability, Timestamp, Units};

    fn held(seq: u64, status: ClaimStatus) -> Seen {
        let claim = Claim {
            claim_id: ClaimId([seq as u8; 16]),
            campaign: CampaignNo(0),
            user: UserId::parse("u1").unwrap(),
            quantity: Units(1),
            amount: None,
            hold: 0,
            receipt_key: 1,
            key: None,
            seq: Seq(seq),
            accepted_at: Timestamp(0),
            durability: Durability::Disk,
        };
        let waiting = (status == ClaimStatus::Accepted).then_some(Seq(seq));
        Seen::Held { claim, campaign: CampaignId::parse("c").unwrap(), currency: None, status, waiting }
    }

    #[test]
    fn a_claim_that_moved_while_it_was_read_is_shown_once_as_persisted() {
        let (accepted, persisted) = (ClaimStatus::Accepted, ClaimStatus::Persisted);
        let pending = [held(4, accepted), held(7, accepted), held(9, accepted)];
        let stored = [held(7, persisted), held(4, persisted), held(2, persisted)];
        let merged = merge(pending.into_iter(), stored.into_iter());
        let shown: Vec<_> = merged.iter().map(|(seq, seen)| (seq.0, seen.status())).collect();
        assert_eq!(shown, [(9, accepted), (7, persisted), (4, persisted), (2, persisted)]);
    }

    #[test]
    fn a_cursor_is_read_back_and_anything_else_is_refused() {
        for seq in [1, 40, i64::MAX as u64] {
            assert_eq!(read_cursor(&write_cursor(Seq(seq))).unwrap(), Seq(seq));
        }
        let zero = write_cursor(Seq(0));
        for bad in ["", "1", "AAAA", "AAAAAAAAAAAAAA==", "//////////8", &zero, &write_cursor(Seq(u64::MAX))] {
            let refused = read_cursor(bad);
            assert!(matches!(refused, Err(Problem::Invalid { ref field, .. }) if field == "cursor"), "{bad:?}");
        }
    }

    #[test]
    fn numbers_in_a_query_are_digits_within_their_range() {
        assert_eq!(whole("limit", "100", 1, 100).unwrap(), 100);
        for bad in ["", "0", "101", "-1", "+1", " 1", "1.0", "1e1", "٣", "99999999999999999999"] {
            let refused = whole("limit", bad, 1, 100);
            assert!(matches!(refused, Err(Problem::Invalid { ref field, .. }) if field == "limit"), "{bad:?}");
        }
    }

    #[test]
    fn a_claims_etag_changes_with_its_status() {
        let etags = [ClaimStatus::Accepted, ClaimStatus::Persisted].map(|status| held(1, status).etag());
        assert_eq!(etags, ["\"1\"", "\"2\""]);
        let (id, user) = (ClaimId([0; 16]), UserId::parse("u1").unwrap());
        let unknown = Seen::Unsettled { id, user, state: Unsettled::Unknown };
        assert_eq!((unknown.etag().as_str(), unknown.may_change_soon()), ("\"0\"", true));
        let rejected = Seen::Unsettled { id, user, state: Unsettled::Rejected };
        assert_eq!((rejected.etag().as_str(), rejected.may_change_soon()), ("\"1\"", false));
    }
}
