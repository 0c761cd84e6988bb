//! A campaign's claims as CSV, read from the database a page at a time while they are sent: memory holds one page,
//! however many there are.

use std::fmt::Write;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame};

use super::body::Piece;
use crate::limits;
use crate::sale::{CampaignId, Currency, Seq};
use crate::store::{Database, Store, StoreError, StoredClaim};

const HEADER: &str = "claim_id,campaign,user_id,quantity,amount,currency,status,seq,accepted_at\n";

type Page = Pin<Box<dyn Future<Output = Result<Vec<StoredClaim>, StoreError>>>>;

/// The rows on their way out.
pub struct Export {
    store: Arc<Database>,
    campaign: CampaignId,
    state: State,
}

enum State {
    Header,
    Reading(Page),
    Done,
}

impl Export {
    /// All of `campaign`'s claims that are in `store`, oldest first.
    pub fn new(store: Arc<Database>, campaign: CampaignId) -> Self {
        Self { store, campaign, state: State::Header }
    }

    fn read_after(&self, after: Seq) -> State {
        let (store, campaign) = (self.store.clone(), self.campaign);
        State::Reading(Box::pin(async move { store.scan(Some(&campaign), after, limits::EXPORT_PAGE).await }))
    }
}

impl Body for Export {
    type Data = Piece;
    /// A failure ends the connection in the middle of the body: a reader must not take a part for the whole.
    type Error = StoreError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, StoreError>>> {
        let this = &mut *self;
        match &mut this.state {
            State::Done => Poll::Ready(None),
            State::Header => {
                this.state = this.read_after(Seq(0));
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(HEADER.as_bytes()).into()))))
            }
            State::Reading(page) => {
                let rows = ready!(page.as_mut().poll(cx)).inspect_err(|error| {
                    tracing::warn!(%error, "an export broke off");
                });
                this.state = State::Done;
                let rows = rows?;
                let Some(last) = rows.last() else { return Poll::Ready(None) };
                this.state = this.read_after(last.row.claim.seq);
                Poll::Ready(Some(Ok(Frame::data(Bytes::from(lines(&rows)).into()))))
            }
        }
    }
}

/// No value can hold a comma, a quote or a line's end: identifiers, numbers, codes and instants.
fn lines(rows: &[StoredClaim]) -> String {
    let mut out = String::with_capacity(rows.len() * 160);
    for StoredClaim { row, status, .. } in rows {
        let claim = &row.claim;
        let amount = claim.amount.map(|a| a.0.to_string()).unwrap_or_default();
        let currency = row.currency.as_ref().map_or("", Currency::as_str);
        // Writing into a String does not fail.
        let _ = writeln!(
            out,
            "{},{},{},{},{amount},{currency},{},{},{}",
            claim.claim_id,
            row.campaign,
            claim.user,
            claim.quantity,
            status.as_str(),
            claim.seq,
            claim.accepted_at
        );
    }
    out
}
