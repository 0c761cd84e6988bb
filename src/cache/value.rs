//! Values as bytes, for a cache that several processes share. Pure. What can't be read back is no value: the database is asked.

use std::sync::Arc;

use crate::sale::{
    CampaignId, CampaignNo, Claim, ClaimId, ClaimStatus, Currency, Durability, KeyHash, Money, Seq, Sku, Timestamp,
    Units, UserId,
};
use crate::store::{ClaimRow, StoredCart, StoredClaim};

/// Of the layout of the bytes below, and of those around them: another one's values are none.
pub(super) const FORMAT: u8 = 1;

const STATUSES: [ClaimStatus; 5] =
    [ClaimStatus::Accepted, ClaimStatus::Persisted, ClaimStatus::Settled, ClaimStatus::Cancelled, ClaimStatus::Expired];

const DURABILITIES: [Durability; 2] = [Durability::Disk, Durability::Memory];

/// Something that can be kept as bytes.
pub(super) trait Value: Sized {
    /// Appends it.
    fn write(&self, to: &mut Vec<u8>);

    /// Takes it off the front.
    fn read(from: &mut &[u8]) -> Option<Self>;

    /// It as bytes.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256);
        self.write(&mut bytes);
        bytes
    }

    /// Reads [`Self::encode`] back.
    fn decode(mut bytes: &[u8]) -> Option<Self> {
        Self::read(&mut bytes).filter(|_| bytes.is_empty())
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Value for $number {
            fn write(&self, to: &mut Vec<u8>) {
                to.extend_from_slice(&self.to_le_bytes());
            }

            fn read(from: &mut &[u8]) -> Option<Self> {
                let (bytes, rest) = from.split_first_chunk()?;
                *from = rest;
                Some(Self::from_le_bytes(*bytes))
            }
        }
    )*};
}

numbers!(u8, u16, u32, u64, i64, u128);

/// Texts of at most 255 bytes: no id and no sku is longer than 64.
fn write_text(text: &str, to: &mut Vec<u8>) {
    debug_assert!(text.len() <= usize::from(u8::MAX), "an id of {} bytes", text.len());
    to.push(text.len() as u8);
    to.extend_from_slice(text.as_bytes());
}

fn read_text<'a>(from: &mut &'a [u8]) -> Option<&'a str> {
    let len = u8::read(from)?;
    let (text, rest) = from.split_at_checked(len.into())?;
    *from = rest;
    std::str::from_utf8(text).ok()
}

impl<T: Value> Value for Option<T> {
    fn write(&self, to: &mut Vec<u8>) {
        to.push(u8::from(self.is_some()));
        if let Some(value) = self {
            value.write(to);
        }
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        match u8::read(from)? {
            0 => Some(None),
            1 => T::read(from).map(Some),
            _ => None,
        }
    }
}

impl<T: Value> Value for Vec<T> {
    fn write(&self, to: &mut Vec<u8>) {
        (self.len() as u32).write(to);
        self.iter().for_each(|value| value.write(to));
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        // No room is made for a length that nobody has seen the values of.
        (0..u32::read(from)?).map(|_| T::read(from)).collect()
    }
}

impl<T: Value> Value for Arc<T> {
    fn write(&self, to: &mut Vec<u8>) {
        T::write(self, to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        T::read(from).map(Self::new)
    }
}

impl Value for Currency {
    fn write(&self, to: &mut Vec<u8>) {
        write_text(self.as_str(), to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        Self::parse(read_text(from)?)
    }
}

impl Value for (Sku, u32) {
    fn write(&self, to: &mut Vec<u8>) {
        write_text(self.0.as_str(), to);
        self.1.write(to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        let sku = Sku::parse(read_text(from)?).ok()?;
        Some((sku, u32::read(from)?))
    }
}

impl Value for StoredCart {
    fn write(&self, to: &mut Vec<u8>) {
        self.version.0.write(to);
        self.lines.write(to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        let version = Seq(u64::read(from)?);
        Some(Self { version, lines: Vec::read(from)? })
    }
}

/// Which of `all` it is.
fn place<T: PartialEq>(all: &[T], which: &T) -> u8 {
    // What is in none of them is no status of a row; it is not read back.
    all.iter().position(|each| each == which).map_or(u8::MAX, |at| at as u8)
}

impl Value for Claim {
    fn write(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.claim_id.0);
        self.campaign.0.write(to);
        write_text(self.user.as_str(), to);
        self.quantity.0.write(to);
        self.amount.map(|amount| amount.0).write(to);
        self.hold.write(to);
        self.receipt_key.write(to);
        self.key.map(|key| key.0).write(to);
        self.seq.0.write(to);
        self.accepted_at.0.write(to);
        place(&DURABILITIES, &self.durability).write(to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        let (id, rest) = from.split_first_chunk()?;
        *from = rest;
        Some(Self {
            claim_id: ClaimId(*id),
            campaign: CampaignNo(u32::read(from)?),
            user: UserId::parse(read_text(from)?).ok()?,
            quantity: Units(u64::read(from)?),
            amount: Option::read(from)?.map(Money),
            hold: u32::read(from)?,
            receipt_key: u16::read(from)?,
            key: Option::read(from)?.map(KeyHash),
            seq: Seq(u64::read(from)?),
            accepted_at: Timestamp(i64::read(from)?),
            durability: *DURABILITIES.get(usize::from(u8::read(from)?))?,
        })
    }
}

impl Value for StoredClaim {
    fn write(&self, to: &mut Vec<u8>) {
        self.row.claim.write(to);
        write_text(self.row.campaign.as_str(), to);
        self.row.currency.write(to);
        u8::from(self.row.is_check_in).write(to);
        place(&STATUSES, &self.status).write(to);
        self.ended.map(|seq| seq.0).write(to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        let claim = Claim::read(from)?;
        let campaign = CampaignId::parse(read_text(from)?).ok()?;
        let currency = Option::read(from)?;
        let is_check_in = match u8::read(from)? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let row = ClaimRow { claim, campaign, currency, is_check_in };
        let status = *STATUSES.get(usize::from(u8::read(from)?))?;
        Some(Self { row, status, ended: Option::read(from)?.map(Seq) })
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::super::local::Page;
    use super::*;
    use crate::sale::UserHash;

    fn draw(rng: &mut StdRng) -> StoredClaim {
        let text = |rng: &mut StdRng| "aZ9._:@|+=-".repeat(6)[..rng.random_range(1..=64)].to_owned();
        let user = UserId::parse(&text(rng)).unwrap();
        let claim = Claim {
            claim_id: ClaimId::new(Timestamp(rng.random_range(0..1 << 50)), UserHash(rng.random()), rng.random()),
            campaign: CampaignNo(rng.random()),
            user,
            quantity: Units(rng.random()),
            amount: rng.random::<bool>().then(|| Money(rng.random())),
            hold: rng.random(),
            receipt_key: rng.random(),
            key: rng.random::<bool>().then(|| KeyHash(rng.random())),
            seq: Seq(rng.random()),
            accepted_at: Timestamp(rng.random()),
            durability: DURABILITIES[rng.random_range(0..2)],
        };
        let campaign = CampaignId::parse(&text(rng)).unwrap();
        let currency = rng.random::<bool>().then(|| Currency::parse("CNY").unwrap());
        let row = ClaimRow { claim, campaign, currency, is_check_in: rng.random() };
        let ended = rng.random::<bool>().then(|| Seq(rng.random()));
        StoredClaim { row, status: STATUSES[rng.random_range(0..STATUSES.len())], ended }
    }

    fn is_read_back<V: Value + PartialEq + Debug>(value: &V, rng: &mut StdRng) {
        let bytes = value.encode();
        assert_eq!(V::decode(&bytes).as_ref(), Some(value));
        for len in 0..bytes.len() {
            assert!(V::decode(&bytes[..len]).is_none(), "{len} of {} bytes were taken", bytes.len());
        }
        assert!(V::decode(&[&bytes[..], &[0]].concat()).is_none());
        // Whatever damage does, it is read or it is not: nothing panics, and no memory is taken for a length.
        for _ in 0..50 {
            let mut damaged = bytes.clone();
            let at = rng.random_range(0..damaged.len());
            damaged[at] ^= 1 << rng.random_range(0..8);
            let _ = V::decode(&damaged);
        }
    }

    #[test]
    fn values_are_read_back_whole_or_not_at_all() {
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..50 {
            let claim = draw(&mut rng);
            is_read_back(&claim, &mut rng);
            is_read_back(&Some(claim), &mut rng);
            let page: Page = Arc::new((0..rng.random_range(0..5)).map(|_| draw(&mut rng)).collect());
            is_read_back(&page, &mut rng);
            let line = |n| (Sku::parse(&format!("s\"{n}")).unwrap(), rng.random());
            let lines = (0..3).map(line).collect();
            is_read_back(&Arc::new(StoredCart { version: Seq(9), lines }), &mut rng);
        }
        is_read_back(&None::<StoredClaim>, &mut rng);
        let unknown = StoredClaim { status: ClaimStatus::Unknown, ..draw(&mut rng) };
        assert_eq!(StoredClaim::decode(&unknown.encode()), None, "no row has that status");
    }
}
