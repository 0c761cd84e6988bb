//! What is asked, drawn from a seed: few buyers, small stocks, windows and midnights that are near.

use forebay::queue::carts::CartBase;
use forebay::queue::{AdminAction, AdminCommand, Book, CartCommand, ClaimCommand, HashKey, MoveCommand};
use forebay::sale::campaign::{AdminState, CampaignPatch};
use forebay::sale::red_packet::Seed;
use forebay::sale::{
    Asked, CampaignId, CampaignNo, CampaignSpec, CartOp, ClaimId, Fate, KeyHash, Sku, Timestamp, UserId,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub const SECOND: i64 = 1_000_000;
/// 2026-11-20T15:59:40Z: twenty seconds before midnight in Shanghai.
pub const START: i64 = 1_795_190_380 * SECOND;

/// One thing that is asked.
#[derive(Debug, Clone)]
pub enum Wish {
    Claim(ClaimCommand),
    End(MoveCommand, UserId),
    Admin(AdminCommand),
    Cart(CartCommand),
}

pub struct Draws {
    pub rng: StdRng,
    pub now: i64,
    key: HashKey,
    serial: u64,
    claims: Vec<ClaimCommand>,
    admins: Vec<AdminCommand>,
    carts: Vec<CartCommand>,
}

impl Draws {
    pub fn new(seed: u64, key: HashKey) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self { rng, now: START, key, serial: 0, claims: Vec::new(), admins: Vec::new(), carts: Vec::new() }
    }

    fn percent(&mut self, of: u32) -> bool {
        self.rng.random_range(0..100) < of
    }

    /// The time goes on, stands still, or steps back and ahead.
    pub fn pass(&mut self) {
        self.now += match self.rng.random_range(0..10) {
            0..6 => self.rng.random_range(0..SECOND),
            6..8 => self.rng.random_range(0..20 * SECOND),
            8 => -self.rng.random_range(0..5 * SECOND),
            _ => 0,
        };
    }

    pub fn ask(&mut self, book: &Book) -> Wish {
        let many = book.campaigns().len();
        if many == 0 || (many < 5 && self.percent(4)) {
            return self.create(many);
        }
        match self.rng.random_range(0..100) {
            0..8 => self.change(book),
            8..10 => self.create(many),
            10..30 => self.end(),
            30..45 => self.cart(),
            _ => self.claim(book),
        }
    }

    fn admin(&mut self, action: AdminAction, name: &str) -> Wish {
        if !self.admins.is_empty() && self.percent(15) {
            let again = self.rng.random_range(0..self.admins.len());
            return Wish::Admin(self.admins[again].clone());
        }
        let key = self.percent(60).then(|| {
            let n = self.rng.random_range(0..6);
            self.key.admin_key(name, &format!("a{n}"))
        });
        let command = AdminCommand { asked: Asked { by: "ops".into(), key }, action };
        self.admins.push(command.clone());
        Wish::Admin(command)
    }

    fn create(&mut self, many: usize) -> Wish {
        let (kind, stock) = (self.rng.random_range(0..10), self.rng.random_range(1..25u64));
        let opens = Timestamp(self.now + self.rng.random_range(-10 * SECOND..10 * SECOND));
        let closes = opens.plus_micros(self.rng.random_range(5 * SECOND..120 * SECOND));
        let limit = if self.percent(50) { 1 } else { self.rng.random_range(1..5) };
        let name = format!("c{}", if self.percent(80) { many } else { self.rng.random_range(0..=many) });
        let ttl = if self.percent(40) {
            format!(r#","reservation_ttl":"{}s""#, self.rng.random_range(1..30))
        } else {
            String::new()
        };
        let window = format!(r#""id":"{name}","opens_at":"{opens}","closes_at":"{closes}""#);
        let json = match kind {
            0..4 => format!(
                r#"{{{window},"kind":"flash_sale","stock":{stock},"per_user_limit":{limit},"currency":"CNY","price":{}{ttl}}}"#,
                self.rng.random_range(0..1000)
            ),
            4..7 => {
                let (min, spare) = (self.rng.random_range(1..5), self.rng.random_range(0..200));
                let total = min * stock as i64 + spare;
                let max = if self.percent(40) {
                    format!(r#","max":{}"#, total / stock as i64 + 1 + spare % 7)
                } else {
                    String::new()
                };
                format!(
                    r#"{{{window},"kind":"red_packet","stock":{stock},"per_user_limit":{limit},"currency":"CNY","red_packet":{{"total":{total},"min":{min}{max}}}{ttl}}}"#
                )
            }
            7 => format!(r#"{{{window},"kind":"coupon","stock":{stock},"per_user_limit":{limit}{ttl}}}"#),
            _ => format!(
                r#"{{"id":"{name}","opens_at":"2020-01-01T00:00:00Z","closes_at":"2040-01-01T00:00:00Z","kind":"check_in","check_in":{{"points":10,"time_zone":"Asia/Shanghai"}}}}"#
            ),
        };
        let spec = CampaignSpec::parse(json.as_bytes()).unwrap_or_else(|error| panic!("{json}: {error}"));
        let seed = Seed(self.rng.random());
        self.admin(AdminAction::Create(spec, seed), &name)
    }

    fn change(&mut self, book: &Book) -> Wish {
        let no = self.rng.random_range(0..book.campaigns().len());
        let campaign = &book.campaigns()[no];
        let (id, packet) = (campaign.spec.id, campaign.spec.red_packet);
        let mut patch = CampaignPatch::default();
        match self.rng.random_range(0..10) {
            0..4 => {
                let add = self.rng.random_range(-6..12);
                patch.add_stock = Some(add);
                if packet.is_some() {
                    let mean = campaign.left.0 / (campaign.free.0.max(1) as i64);
                    patch.add_total = Some(add * mean.max(1) + self.rng.random_range(-3..9));
                }
            }
            4 => patch.state = Some(AdminState::Paused),
            5..7 => patch.state = Some(AdminState::Open),
            7 if self.percent(30) => patch.state = Some(AdminState::Closed),
            _ => {
                let opens = self.now + self.rng.random_range(-5 * SECOND..3 * SECOND);
                patch.opens_at = Some(Timestamp(opens));
                patch.closes_at = Some(Timestamp(opens + self.rng.random_range(SECOND..90 * SECOND)));
            }
        }
        let id = if self.percent(3) { CampaignId::parse("nobody").expect("a name") } else { id };
        self.admin(AdminAction::Change(id, patch), id.as_str())
    }

    fn claim(&mut self, book: &Book) -> Wish {
        self.serial += 1;
        if !self.claims.is_empty() && self.percent(12) {
            // A retry: the same key, another id, sometimes another quantity.
            let again = self.rng.random_range(0..self.claims.len());
            let mut command = self.claims[again];
            command.claim_id = ClaimId::new(Timestamp(self.now), command.user_hash, self.serial);
            command.quantity += u32::from(self.percent(15));
            return Wish::Claim(command);
        }
        let many = book.campaigns().len() as u32 + u32::from(self.percent(2));
        let no = self.rng.random_range(0..many);
        let user = UserId::parse(&format!("u{}", self.rng.random_range(0..30))).expect("a name");
        let user_hash = self.key.user(&user);
        let quantity = if self.percent(60) { 1 } else { self.rng.random_range(0..6) };
        let campaign = CampaignNo(no);
        let key: Option<KeyHash> = self.percent(50).then(|| {
            let n = self.rng.random_range(0..4);
            self.key.key(campaign, &user, &format!("k{n}"))
        });
        let claim_id = ClaimId::new(Timestamp(self.now), user_hash, self.serial);
        let receipt_key = self.rng.random_range(1..4);
        let command = ClaimCommand { campaign, quantity, receipt_key, user, user_hash, claim_id, key };
        self.claims.push(command);
        Wish::Claim(command)
    }

    /// Others who want the same at once: a unit each, without keys.
    pub fn crowd(&mut self, like: &ClaimCommand) -> Vec<Wish> {
        let (first, many) = (self.rng.random_range(0..30), self.rng.random_range(1..6));
        let others = (first..first + many).map(|n| {
            self.serial += 1;
            let user = UserId::parse(&format!("u{}", n % 30)).expect("a name");
            let user_hash = self.key.user(&user);
            let claim_id = ClaimId::new(Timestamp(self.now), user_hash, self.serial);
            Wish::Claim(ClaimCommand { quantity: 1, user, user_hash, claim_id, key: None, ..*like })
        });
        others.collect()
    }

    fn cart(&mut self) -> Wish {
        if !self.carts.is_empty() && self.percent(20) {
            let again = self.rng.random_range(self.carts.len().saturating_sub(15)..self.carts.len());
            let mut command = self.carts[again].clone();
            if self.percent(10)
                && let Some(key) = &mut command.key
            {
                key.payload += 1;
            }
            return Wish::Cart(command);
        }
        self.serial += 1;
        let user = UserId::parse(&format!("u{}", self.rng.random_range(0..8))).expect("a name");
        let sku = Sku::parse(&format!("s{}", self.rng.random_range(0..4))).expect("a name");
        let quantity = if self.percent(85) { self.rng.random_range(1..9) } else { self.rng.random_range(1..1_000_001) };
        let op = match self.rng.random_range(0..10) {
            0..6 => CartOp::Add(quantity),
            6..8 => CartOp::Set(self.rng.random_range(0..quantity + 1)),
            _ => CartOp::Remove,
        };
        let key = self.percent(50).then(|| self.key.cart_key(&user, &self.serial.to_string(), &sku, op));
        let user_hash = self.key.user(&user);
        let command = CartCommand { user, user_hash, sku, op, key, base: CartBase::Unknown };
        self.carts.push(command.clone());
        Wish::Cart(command)
    }

    fn end(&mut self) -> Wish {
        let to = [Fate::Settled, Fate::Cancelled, Fate::Cancelled, Fate::Expired][self.rng.random_range(0..4)];
        let Some(last) = self.claims.len().checked_sub(1) else {
            let user = UserId::parse("u0").expect("a name");
            let claim_id = ClaimId([7; 16]);
            return Wish::End(
                MoveCommand { claim_id, campaign: CampaignNo(0), user, to, by: "orders".into(), reason: "".into() },
                user,
            );
        };
        let claim = self.claims[self.rng.random_range(last.saturating_sub(25)..=last)];
        let reason = if self.percent(30) { "changed my mind" } else { "" };
        let (by, campaign) = ("orders".into(), claim.campaign);
        let (claim_id, user) = (claim.claim_id, claim.user);
        Wish::End(MoveCommand { claim_id, campaign, user, to, by, reason: reason.into() }, user)
    }
}
