//! What gates look up in Redis, against what is on paper: waiting claims, carts, balances, and how campaigns have changed.

use std::collections::BTreeMap;

use forebay::queue::redis::protocol::{self, CampaignNow, layout};
use forebay::sale::{CampaignNo, Seq, UserId};
use rand::Rng;
use redis::Value;

use crate::admission::Pair;
use crate::paper::{DISK, KEY};

/// Something to look up.
#[derive(Debug)]
pub enum Look {
    Waiting(UserId),
    Cart(UserId),
    Balance(CampaignNo),
}

/// What a gate knows of campaigns.
#[derive(Debug, Default)]
pub struct Views {
    since: Seq,
    known: BTreeMap<CampaignNo, CampaignNow>,
}

impl Look {
    pub fn command(&self) -> Vec<u8> {
        match self {
            Self::Waiting(user) => protocol::look_claim(KEY.user(user).tag()),
            Self::Cart(user) => protocol::look_cart(user),
            Self::Balance(no) => protocol::look_balance(*no),
        }
    }
}

impl Pair {
    pub fn draw_looks(&mut self) -> Vec<Look> {
        let rng = &mut self.draws.rng;
        let mut user = |many| UserId::parse(&format!("u{}", rng.random_range(0..many))).expect("a name");
        let mut looks = vec![Look::Waiting(user(30)), Look::Waiting(user(30)), Look::Cart(user(8))];
        let many = self.paper.book.campaigns().len() as u32;
        looks.push(Look::Balance(CampaignNo(rng.random_range(0..=many))));
        looks.truncate(rng.random_range(0..5));
        looks
    }

    pub fn check_look(&mut self, look: &Look, answer: &Value) {
        match look {
            Look::Waiting(user) => {
                let tag = KEY.user(user).tag();
                let known = self.paper.waiting.iter().filter(|entry| layout::tag(&entry.event) == Some(tag));
                let known: Vec<_> = known.cloned().collect();
                self.count(if known.is_empty() { "nothing waits" } else { "found waiting" });
                assert_eq!(protocol::looked_waiting(answer, DISK), Ok(known), "{user}");
            }
            Look::Cart(user) => match protocol::looked_cart(answer).expect("a cart") {
                Some((version, lines)) => {
                    let cart = self.paper.carts.get(user).cloned().unwrap_or_default();
                    assert_eq!((version, lines.into_iter().collect()), cart, "{user}'s cart");
                    self.count("carts seen");
                }
                None => assert_eq!(self.paper.carts.get(user), self.paper.stored.get(user), "{user}'s cart"),
            },
            Look::Balance(no) if self.paper.book.campaign(*no).is_none() => {
                assert_eq!(protocol::looked_balance(answer), Ok(forebay::queue::Balance::default()));
            }
            Look::Balance(no) => {
                let balance = self.paper.balance(*no);
                assert_eq!(protocol::looked_balance(answer), Ok(balance), "campaign {no:?}");
                self.count("balances");
            }
        }
    }

    /// Of no buyer there is an entry that waits.
    pub fn check_nothing_waits(&mut self) {
        assert!(self.paper.waiting.is_empty());
        for n in 0..30 {
            let look = Look::Waiting(UserId::parse(&format!("u{n}")).expect("a name"));
            let said = self.submit(vec![look.command()]);
            self.check_look(&look, &said.answers[0]);
        }
    }

    pub fn check_balance(&mut self, no: CampaignNo) {
        let look = Look::Balance(no);
        let said = self.submit(vec![look.command()]);
        assert_eq!(said.count, 0);
        self.check_look(&look, &said.answers[0]);
    }

    /// A gate asks what has changed until it knows everything.
    pub fn poll(&mut self) {
        let limit = self.draws.rng.random_range(1..4usize);
        let last = self.paper.book.last_seq();
        while self.views.since < last {
            let args = [self.views.since.to_string(), limit.to_string()];
            let answer = self.gate.call("changes", &args).unwrap_or_else(|error| panic!("{error}"));
            let changes = protocol::changes(&answer).expect("campaigns");
            assert!(changes.campaigns.len() <= limit && changes.seq > self.views.since);
            assert_eq!((changes.epoch, changes.retired), (self.gate.epoch, self.paper.retired));
            assert_eq!(changes.entries, self.paper.waiting.len() as u64);
            self.views.since = changes.seq;
            self.views.known.extend(changes.campaigns.into_iter().map(|campaign| (campaign.no, campaign)));
        }
        assert_eq!(self.views.since, last);
        for (no, campaign) in self.paper.book.campaigns().iter().enumerate() {
            let view = &self.views.known[&CampaignNo(no as u32)];
            let held = campaign.spec.stock.minus(campaign.free);
            let former = !campaign.released && held.is_none_or(|held| held.0 != campaign.acknowledged);
            let mine = (&campaign.spec, campaign.wish, campaign.free, campaign.left, campaign.version);
            assert_eq!((&view.spec, view.wish, view.free, view.left, view.version), mine, "{no}");
            let mine = (campaign.stock_version, campaign.drawn, campaign.acknowledged, campaign.closed_at);
            assert_eq!((view.stock_version, view.drawn, view.acknowledged, view.closed_at), mine, "{no}");
            let mine = (campaign.released, former, campaign.today());
            assert_eq!((view.is_released, view.former, view.today), mine, "{no}");
        }
        self.count("polls");
    }
}
