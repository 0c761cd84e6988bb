//! A timed sale: its definition, its window and what may be changed about it while it runs.
//!
//! A [`CampaignSpec`] that exists is sound: [`CampaignSpec::parse`] is the only way to make one from the outside, and
//! whatever could overflow, or could never be paid out, is refused there by the name of the field.

use serde::{Deserialize, Serialize};

use super::check_in::{CheckInSpec, Zone};
pub use super::field::{FieldError, Object, from_json, without_controls};
pub use super::patch::CampaignPatch;
use super::{CampaignId, Currency, MAX_JSON_INT, Money, Span, Timestamp, Units};
use crate::limits;

/// What is being sold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CampaignKind {
    /// Units at a price.
    FlashSale,
    /// Shares of a sum.
    RedPacket,
    /// Units without a price.
    Coupon,
    /// Points, once a buyer and local day.
    CheckIn,
}

impl CampaignKind {
    /// The contract's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FlashSale => "flash_sale",
            Self::RedPacket => "red_packet",
            Self::Coupon => "coupon",
            Self::CheckIn => "check_in",
        }
    }

    /// Reads the contract's word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::FlashSale, Self::RedPacket, Self::Coupon, Self::CheckIn].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// How a red packet's shares differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// By chance, each with the same mean.
    Random,
    /// As equal as whole minor units allow.
    Even,
}

/// A red packet's sum and the bounds of a share, in minor units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedPacketSpec {
    /// The sum of all shares.
    pub total: Money,
    /// The smallest share, at least 1.
    pub min: Money,
    /// The largest share; none for no bound.
    pub max: Option<Money>,
    /// Random or even.
    pub split: Split,
}

/// What the operator last asked of a campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminState {
    /// Sells within its window.
    Open,
    /// Sells nothing until opened again.
    Paused,
    /// Over for good.
    Closed,
}

impl AdminState {
    /// The contract's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Paused => "paused",
            Self::Closed => "closed",
        }
    }

    /// Reads the contract's word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Open, Self::Paused, Self::Closed].into_iter().find(|state| state.as_str() == text)
    }
}

/// What a campaign is to a buyer at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CampaignState {
    /// Its window has not begun.
    Scheduled,
    /// It sells.
    Open,
    /// Held by the operator.
    Paused,
    /// Its window is over.
    Ended,
    /// Closed by the operator for good.
    Closed,
}

impl CampaignState {
    /// The state that follows from the operator's wish and the window [opens_at, closes_at).
    pub fn at(now: Timestamp, wish: AdminState, opens_at: Timestamp, closes_at: Timestamp) -> Self {
        match wish {
            AdminState::Closed => Self::Closed,
            _ if now >= closes_at => Self::Ended,
            AdminState::Paused => Self::Paused,
            AdminState::Open if now < opens_at => Self::Scheduled,
            AdminState::Open => Self::Open,
        }
    }

    /// The contract's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Open => "open",
            Self::Paused => "paused",
            Self::Ended => "ended",
            Self::Closed => "closed",
        }
    }
}

/// A sound definition of a campaign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CampaignSpec {
    /// Its public name.
    pub id: CampaignId,
    /// What is sold.
    pub kind: CampaignKind,
    /// For people, up to [`limits::TITLE_MAX`] characters.
    pub title: String,
    /// The first instant at which a claim is taken.
    pub opens_at: Timestamp,
    /// The first instant at which none is taken any more.
    pub closes_at: Timestamp,
    /// Units one buyer may hold, from 1.
    pub per_user_limit: Units,
    /// Units (or shares) at creation; 0 for a check-in, which has no stock.
    pub stock: Units,
    /// The currency of price, shares and amounts.
    pub currency: Option<Currency>,
    /// The price of a unit; none where claims carry no amount.
    pub price: Option<Money>,
    /// The sum and its bounds; exactly where `kind` is [`CampaignKind::RedPacket`].
    pub red_packet: Option<RedPacketSpec>,
    /// Points and calendar; exactly where `kind` is [`CampaignKind::CheckIn`].
    pub check_in: Option<CheckInSpec>,
    /// After how long a claim that was not settled expires; none for never.
    pub reservation_ttl: Option<Span>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSpec {
    id: String,
    kind: String,
    #[serde(default)]
    title: Option<String>,
    opens_at: String,
    closes_at: String,
    #[serde(default = "one")]
    per_user_limit: u64,
    #[serde(default)]
    stock: Option<u64>,
    #[serde(default)]
    currency: Option<String>,
    #[serde(default)]
    price: Option<i64>,
    #[serde(default)]
    red_packet: Option<Object<RawPacket>>,
    #[serde(default)]
    check_in: Option<Object<RawCheckIn>>,
    #[serde(default)]
    reservation_ttl: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCheckIn {
    points: i64,
    time_zone: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPacket {
    total: i64,
    #[serde(default = "one_minor")]
    min: i64,
    #[serde(default)]
    max: Option<i64>,
    #[serde(default = "random")]
    split: String,
}

fn one() -> u64 {
    1
}

fn one_minor() -> i64 {
    1
}

fn random() -> String {
    "random".to_owned()
}

impl CampaignSpec {
    /// Reads the contract's JSON form and checks every rule.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn parse(json: &[u8]) -> Result<Self, FieldError> {
        let spec = Self::restore(json)?;
        without_controls("title", &spec.title)?;
        spec.check()?;
        Ok(spec)
    }

    /// Reads a definition that was sound when it was made and has been changed since: a restock may have taken the stock
    /// to a number at which nobody could create the campaign anew.
    ///
    /// # Errors
    /// A field of the wrong type or form.
    pub fn restore(json: &[u8]) -> Result<Self, FieldError> {
        let Object(raw) = from_json::<Object<RawSpec>>(json)?;
        Ok(Self {
            id: CampaignId::parse(&raw.id)
                .map_err(|e| FieldError::new("id", format!("{:?} given; expected {e}", raw.id)))?,
            kind: kind(&raw.kind)?,
            title: raw.title.clone().unwrap_or_default(),
            opens_at: instant("opens_at", &raw.opens_at)?,
            closes_at: instant("closes_at", &raw.closes_at)?,
            per_user_limit: Units(raw.per_user_limit),
            stock: stock(&raw)?,
            currency: raw.currency.as_deref().map(currency).transpose()?,
            price: raw.price.map(Money),
            red_packet: raw.red_packet.as_ref().map(|Object(raw)| packet(raw)).transpose()?,
            check_in: raw.check_in.as_ref().map(|Object(raw)| check_in(raw)).transpose()?,
            reservation_ttl: raw.reservation_ttl.as_deref().map(reservation_ttl).transpose()?,
        })
    }

    /// The contract's JSON form, which [`Self::parse`] reads back.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "id": self.id.as_str(), "kind": self.kind.as_str(), "title": self.title,
            "opens_at": self.opens_at.to_string(), "closes_at": self.closes_at.to_string(),
            "per_user_limit": self.per_user_limit.0, "stock": self.has_stock().then_some(self.stock.0),
            "currency": self.currency.as_ref().map(Currency::as_str), "price": self.price.map(|p| p.0),
            "red_packet": self.red_packet.map(|p| serde_json::json!({
                "total": p.total.0, "min": p.min.0, "max": p.max.map(|m| m.0), "split": p.split,
            })),
            "check_in": self.check_in.as_ref().map(|c| serde_json::json!({
                "points": c.points.0, "time_zone": c.zone.as_str(),
            })),
            "reservation_ttl": self.reservation_ttl.map(|ttl| ttl.to_string()),
        })
    }

    /// Whether its claims take units of a stock; a check-in's don't.
    pub fn has_stock(&self) -> bool {
        self.kind != CampaignKind::CheckIn
    }

    /// Checks every rule about numbers and times, which hold for definitions of older journals, too.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self) -> Result<(), FieldError> {
        if self.title.chars().count() > limits::TITLE_MAX {
            return Err(FieldError::new("title", format!("longer than {} characters", limits::TITLE_MAX)));
        }
        check_window(self.opens_at, self.closes_at)?;
        whole("per_user_limit", self.per_user_limit.0, 1, limits::PER_USER_LIMIT_MAX)?;
        if self.has_stock() {
            whole("stock", self.stock.0, 1, limits::STOCK_MAX)?;
        }
        if let Some(ttl) = self.reservation_ttl {
            check_ttl(ttl)?;
        }
        let kind = self.kind;
        let has = |field: &str, is_there: bool, kinds: &[CampaignKind]| {
            let wrong = is_there && !kinds.contains(&kind);
            let m = || format!("given for a {}; expected null", kind.as_str());
            if wrong { Err(FieldError::new(field, m())) } else { Ok(()) }
        };
        use CampaignKind::{CheckIn, Coupon, FlashSale, RedPacket};
        has("red_packet", self.red_packet.is_some(), &[RedPacket])?;
        has("check_in", self.check_in.is_some(), &[CheckIn])?;
        has("price", self.price.is_some(), &[FlashSale])?;
        has("currency", self.currency.is_some(), &[FlashSale, RedPacket])?;
        has("reservation_ttl", self.reservation_ttl.is_some(), &[FlashSale, RedPacket, Coupon])?;
        match self.kind {
            FlashSale => self.check_price(),
            RedPacket => self.check_packet(),
            Coupon => Ok(()),
            CheckIn => self.check_check_in(),
        }
    }

    fn check_check_in(&self) -> Result<(), FieldError> {
        let spec = self.check_in.as_ref().ok_or_else(|| FieldError::new("check_in", "missing for a check_in"))?;
        if self.per_user_limit != Units(1) {
            let m = format!("{} given; a check_in is one a buyer a local day: expected 1", self.per_user_limit);
            return Err(FieldError::new("per_user_limit", m));
        }
        if !(1..=limits::POINTS_MAX).contains(&spec.points.0) {
            let m = format!("{} given; expected 1 to {}", spec.points.0, limits::POINTS_MAX);
            return Err(FieldError::new("check_in.points", m));
        }
        Ok(())
    }

    fn check_price(&self) -> Result<(), FieldError> {
        let Some(price) = self.price else { return Ok(()) };
        if self.currency.is_none() {
            return Err(FieldError::new("currency", "missing; a price needs its ISO 4217 code"));
        }
        if price.0 < 0 {
            return Err(FieldError::new("price", format!("{} given; expected 0 or more minor units", price.0)));
        }
        check_turnover(price, self.stock)
    }

    fn check_packet(&self) -> Result<(), FieldError> {
        if self.currency.is_none() {
            return Err(FieldError::new("currency", "missing; a red packet needs its ISO 4217 code"));
        }
        let packet = self.red_packet.ok_or_else(|| FieldError::new("red_packet", "missing for a red_packet"))?;
        if packet.total.0 < 1 || packet.total.0 > MAX_JSON_INT {
            let m = format!("{} given; expected 1 to {MAX_JSON_INT} minor units", packet.total.0);
            return Err(FieldError::new("red_packet.total", m));
        }
        if packet.min.0 < 1 {
            return Err(FieldError::new("red_packet.min", format!("{} given; expected at least 1", packet.min.0)));
        }
        packet.check_feasible(packet.total, self.stock)
    }
}

impl RedPacketSpec {
    /// Whether `shares` shares within the bounds can sum to `left`.
    ///
    /// # Errors
    /// The bound that makes it hopeless.
    pub fn check_feasible(&self, left: Money, shares: Units) -> Result<(), FieldError> {
        let (left, shares) = (i128::from(left.0), i128::from(shares.0));
        let least = i128::from(self.min.0) * shares;
        if least > left {
            let m = format!("{} × {shares} shares = {least}, more than the {left} there is", self.min.0);
            return Err(FieldError::new("red_packet.min", m));
        }
        let Some(max) = self.max else {
            return if shares == 0 && left > 0 {
                Err(FieldError::new("red_packet.total", format!("{left} left for 0 shares")))
            } else {
                Ok(())
            };
        };
        if max.0 > MAX_JSON_INT {
            return Err(FieldError::new("red_packet.max", format!("{} given; expected at most {MAX_JSON_INT}", max.0)));
        }
        if max < self.min {
            return Err(FieldError::new("red_packet.max", format!("{} is below min {}", max.0, self.min.0)));
        }
        let most = i128::from(max.0) * shares;
        if most < left {
            let m = format!("{} × {shares} shares = {most}, less than the {left} to give out", max.0);
            return Err(FieldError::new("red_packet.max", m));
        }
        Ok(())
    }
}

/// Checks that a window is one.
///
/// # Errors
/// Names `closes_at` where it is not after `opens_at`.
pub fn check_window(opens_at: Timestamp, closes_at: Timestamp) -> Result<(), FieldError> {
    if closes_at <= opens_at {
        let m = format!("{closes_at} given; expected an instant after opens_at {opens_at}");
        return Err(FieldError::new("closes_at", m));
    }
    Ok(())
}

/// Checks that all units at this price sum to a number that JSON readers keep exact.
///
/// # Errors
/// Names `price`.
pub fn check_turnover(price: Money, stock: Units) -> Result<(), FieldError> {
    let turnover = i128::from(price.0) * i128::from(stock.0);
    if turnover > i128::from(MAX_JSON_INT) {
        let m = format!("{} × {stock} units = {turnover}, more than {MAX_JSON_INT} (2^53 − 1)", price.0);
        return Err(FieldError::new("price", m));
    }
    Ok(())
}

fn kind(text: &str) -> Result<CampaignKind, FieldError> {
    CampaignKind::parse(text).ok_or_else(|| {
        let m = format!("{text:?} given; expected \"flash_sale\", \"red_packet\", \"coupon\" or \"check_in\"");
        FieldError::new("kind", m)
    })
}

fn stock(raw: &RawSpec) -> Result<Units, FieldError> {
    let is_check_in = raw.kind == CampaignKind::CheckIn.as_str();
    match raw.stock {
        Some(stock) if is_check_in => {
            Err(FieldError::new("stock", format!("{stock} given for a check_in, which has none; expected null")))
        }
        None if is_check_in => Ok(Units(0)),
        Some(stock) => Ok(Units(stock)),
        None => Err(FieldError::new("stock", "missing; expected a whole number from 1")),
    }
}

fn check_in(raw: &RawCheckIn) -> Result<CheckInSpec, FieldError> {
    Ok(CheckInSpec { points: Money(raw.points), zone: Zone::parse("check_in.time_zone", &raw.time_zone)? })
}

fn reservation_ttl(text: &str) -> Result<Span, FieldError> {
    let m = || format!("{text:?} given; expected a duration such as \"30s\", \"15m\", \"24h\"");
    Span::parse(text).ok_or_else(|| FieldError::new("reservation_ttl", m()))
}

fn check_ttl(ttl: Span) -> Result<(), FieldError> {
    let (least, most) = (Span(limits::RESERVATION_TTL_MICROS.0), Span(limits::RESERVATION_TTL_MICROS.1));
    if (least..=most).contains(&ttl) {
        return Ok(());
    }
    Err(FieldError::new("reservation_ttl", format!("{ttl} given; expected {least} to {most}")))
}

fn packet(raw: &RawPacket) -> Result<RedPacketSpec, FieldError> {
    let split = match raw.split.as_str() {
        "random" => Split::Random,
        "even" => Split::Even,
        other => {
            let m = format!("{other:?} given; expected \"random\" or \"even\"");
            return Err(FieldError::new("red_packet.split", m));
        }
    };
    Ok(RedPacketSpec { total: Money(raw.total), min: Money(raw.min), max: raw.max.map(Money), split })
}

fn currency(text: &str) -> Result<Currency, FieldError> {
    let m = || format!("{text:?} given; expected three capital letters such as \"CNY\" (ISO 4217)");
    Currency::parse(text).ok_or_else(|| FieldError::new("currency", m()))
}

/// Reads an RFC 3339 instant.
///
/// # Errors
/// Names `field`.
pub fn instant(field: &str, text: &str) -> Result<Timestamp, FieldError> {
    let m = |e| format!("{text:?} given; expected RFC 3339 such as \"2026-11-20T12:00:00Z\" ({e})");
    let instant = Timestamp::parse(text).map_err(|e| FieldError::new(field, m(e)))?;
    // What is written into the journal must be read back as the same instant.
    let kept = Timestamp::parse(&instant.to_string()) == Ok(instant);
    if kept { Ok(instant) } else { Err(FieldError::new(field, m("the year must be 0000 to 9999".to_owned()))) }
}

fn whole(field: &str, value: u64, least: u64, most: u64) -> Result<(), FieldError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(FieldError::new(field, format!("{value} given; expected {least} to {most}")))
}
