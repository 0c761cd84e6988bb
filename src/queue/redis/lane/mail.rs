//! A batch as a call carries it: claims in bundles where they can be, and all else by itself. Bundles are first, so a buyer's claim is
//! in none where another one of the same buyer and campaign came before it and is not: one request may carry both, and they are
//! decided in the order in which they stand there. What different buyers ask at once has no order.

use std::collections::HashSet;

use super::super::super::command::Command;
use super::super::super::sequencer::Submission;
use super::super::protocol::Bundle;
use super::Lane;
use crate::sale::{CampaignNo, UserHash};

/// What a call carries.
#[derive(Default)]
pub(super) struct Mail {
    /// Claims, by campaign.
    pub bundles: Vec<Bundle>,
    /// The places in the batch of the claims of each bundle.
    pub bundled: Vec<Vec<usize>>,
    /// All other commands.
    pub commands: Vec<Vec<u8>>,
    /// Their places in the batch.
    pub others: Vec<usize>,
}

impl Mail {
    /// A campaign's bundle, among those that there are.
    fn bundle(&self, no: CampaignNo) -> Option<usize> {
        self.bundles.iter().position(|bundle| bundle.campaign() == no)
    }
}

impl Lane {
    /// Packs a batch.
    pub(super) fn pack(&self, batch: &[Submission]) -> Mail {
        let views = self.lanes.gate.published().views.load();
        let mut mail = Mail::default();
        let mut apart: HashSet<(CampaignNo, UserHash)> = HashSet::new();
        for (i, submission) in batch.iter().enumerate() {
            if let Command::Claim(claim) = &submission.command
                && Bundle::is_plain(claim)
                && (apart.is_empty() || !apart.contains(&(claim.campaign, claim.user_hash)))
            {
                let at = mail.bundle(claim.campaign).or_else(|| {
                    let view = views.number(claim.campaign).filter(|view| Bundle::takes(&view.spec.load()))?;
                    mail.bundles.push(Bundle::new(view.no, view.price));
                    mail.bundled.push(Vec::new());
                    Some(mail.bundles.len() - 1)
                });
                if let Some(at) = at
                    && mail.bundles[at].push(claim)
                {
                    mail.bundled[at].push(i);
                    continue;
                }
            }
            if let Command::Claim(claim) = &submission.command {
                apart.insert((claim.campaign, claim.user_hash));
            }
            mail.commands.push(self.encode(&submission.command));
            mail.others.push(i);
        }
        mail
    }
}
