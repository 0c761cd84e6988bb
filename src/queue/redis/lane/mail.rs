//! A batch as a call carries it: claims in bundles where they can be, and all else by itself. What arrived together has no order
//! but that of one buyer's commands, which come one after the other: so bundles may be first.

use super::super::super::command::Command;
use super::super::super::sequencer::Submission;
use super::super::protocol::Bundle;
use super::Lane;
use crate::sale::CampaignNo;

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
        for (i, submission) in batch.iter().enumerate() {
            if let Command::Claim(claim) = &submission.command
                && Bundle::is_plain(claim)
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
            mail.commands.push(self.encode(&submission.command));
            mail.others.push(i);
        }
        mail
    }
}
