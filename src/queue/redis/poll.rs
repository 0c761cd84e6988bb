//! What is read of Redis again and again: the campaigns, for whoever needs to know them.

use std::sync::{Arc, Mutex, PoisonError};

use super::super::Published;
use super::super::campaign::Campaign;
use super::super::views::Views;
use super::client::{CallError, Connection};
use super::protocol::{self, CampaignNow, Changes};
use crate::limits;
use crate::sale::red_packet::Seed;
use crate::sale::{CampaignNo, Seq};

/// Reads the campaigns that have changed since `since` and publishes them; gives the position to go on from.
///
/// # Errors
/// Redis', or what no library says.
pub fn refresh(connection: &mut Connection, views: &Views, since: Seq) -> Result<Seq, CallError> {
    let (mut from, mut read) = (since, Vec::new());
    loop {
        let (after, most) = (from.0.to_string(), limits::POLL_CAMPAIGNS_MAX.to_string());
        let answer = connection.call("changes", &[after.as_bytes(), most.as_bytes()])?;
        let changes: Changes = protocol::changes(&answer).map_err(|error| CallError::Protocol(error.0))?;
        let count = changes.campaigns.len();
        read.extend(changes.campaigns.into_iter().map(of));
        from = changes.seq;
        if count < limits::POLL_CAMPAIGNS_MAX {
            break;
        }
    }
    // All at once: their numbers are dense only when none is missing.
    views.publish_from_afar(&read);
    Ok(from)
}

fn of(now: CampaignNow) -> (CampaignNo, Campaign) {
    // The seed is nobody's business who only looks.
    let mut campaign = Campaign::outline(now.spec, Seed([0; 16]));
    campaign.wish = now.wish;
    (campaign.free, campaign.left) = (now.free, now.left);
    (campaign.version, campaign.stock_version) = (now.version, now.stock_version);
    (campaign.drawn, campaign.acknowledged) = (now.drawn, now.acknowledged);
    (campaign.closed_at, campaign.released) = (now.closed_at, now.is_released);
    (now.no, campaign)
}

/// The campaigns of one process: who reads them last, reads on from where the one before has ended.
#[derive(Debug)]
pub struct Feed {
    published: Arc<Published>,
    since: Mutex<Seq>,
}

impl Feed {
    /// Nothing read yet.
    pub fn new(published: Arc<Published>) -> Self {
        Self { published, since: Mutex::new(Seq(0)) }
    }

    /// Publishes what has changed since the last time.
    ///
    /// # Errors
    /// As [`refresh`].
    pub fn refresh(&self, connection: &mut Connection) -> Result<(), CallError> {
        // Under the lock, so that what is older never comes after what is newer.
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = refresh(connection, &self.published.views, *since)?;
        Ok(())
    }

    /// Positions have begun anew: everything is read again.
    pub fn restart(&self) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Seq(0);
    }
}
