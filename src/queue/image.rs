//! The book's image inside a snapshot: written from one book, read into an empty one. Little-endian, versioned by the
//! snapshot file around it.

use std::io::{self, Read, Write};

use super::book::{Book, Campaign, table_bytes};
use super::command::Replay;
use super::keys::Keys;
use super::winners::{Held, Winners};
use crate::sale::campaign::AdminState;
use crate::sale::red_packet::Seed;
use crate::sale::{
    CampaignKind, CampaignNo, CampaignSpec, ClaimId, Durability, KeyHash, Money, Seq, Timestamp, Units, UserHash,
};

impl Book {
    /// Writes the image.
    ///
    /// # Errors
    /// The writer's.
    pub fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        put(out, self.last.0)?;
        put(out, self.time.0 as u64)?;
        put(out, self.campaigns.len() as u64)?;
        for campaign in &self.campaigns {
            save_campaign(out, campaign)?;
        }
        Ok(())
    }

    /// Reads an image into an empty book.
    ///
    /// # Errors
    /// The reader's, or `InvalidData` for what no book writes.
    pub fn load(&mut self, from: &mut dyn Read) -> io::Result<()> {
        assert!(self.campaigns.is_empty() && self.last == Seq(0), "an image is loaded into an empty book");
        self.last = Seq(get(from)?);
        self.time = Timestamp(get(from)? as i64);
        for no in 0..get(from)? {
            let campaign = load_campaign(from)?;
            self.by_id.insert(campaign.spec.id, CampaignNo(no as u32));
            self.reserved += table_bytes(campaign.capacity, campaign.spec.kind);
            self.campaigns.push(campaign);
        }
        Ok(())
    }
}

fn save_campaign(out: &mut dyn Write, c: &Campaign) -> io::Result<()> {
    let spec = c.spec.to_json().to_string();
    put(out, spec.len() as u64)?;
    out.write_all(spec.as_bytes())?;
    out.write_all(&c.seed.0)?;
    let wish = match c.wish {
        AdminState::Open => 0,
        AdminState::Paused => 1,
        AdminState::Closed => 2,
    };
    for word in [
        wish,
        c.free.0,
        c.left.0 as u64,
        c.version,
        c.stock_version,
        c.drawn,
        c.order.into(),
        c.capacity.0,
        c.admin_keys.len() as u64,
        c.winners.len(),
    ] {
        put(out, word)?;
    }
    for (key, payload) in &c.admin_keys {
        out.write_all(&key.0.to_le_bytes())?;
        put(out, *payload)?;
    }
    for (fingerprint, held, amount) in c.winners.iter() {
        put(out, fingerprint)?;
        out.write_all(&held.claim_id.0)?;
        put(out, u64::from(held.quantity) << 32 | u64::from(held.hold))?;
        put(out, held.order.into())?;
        put(out, amount.map_or(0, |a| a.0) as u64)?;
    }
    put(out, c.keys.iter().count() as u64)?;
    for (key, replay) in c.keys.iter() {
        save_key(out, key, &replay)?;
    }
    Ok(())
}

fn save_key(out: &mut dyn Write, key: KeyHash, replay: &Replay) -> io::Result<()> {
    out.write_all(&key.0.to_le_bytes())?;
    out.write_all(&replay.claim_id.0)?;
    let flags = u64::from(replay.durability == Durability::Memory) | u64::from(replay.amount.is_some()) << 1;
    for word in [
        u64::from(replay.quantity) << 32 | u64::from(replay.receipt_key) << 8 | flags,
        replay.amount.map_or(0, |a| a.0) as u64,
        replay.seq.0,
        replay.at.0 as u64,
    ] {
        put(out, word)?;
    }
    Ok(())
}

fn load_campaign(from: &mut dyn Read) -> io::Result<Campaign> {
    let mut spec = vec![0; usize::try_from(get(from)?).ok().filter(|&n| n <= 1 << 20).ok_or_else(invalid)?];
    from.read_exact(&mut spec)?;
    let spec = CampaignSpec::restore(&spec).map_err(|_| invalid())?;
    let seed = Seed(take(from)?);
    let wish = match get(from)? {
        0 => AdminState::Open,
        1 => AdminState::Paused,
        2 => AdminState::Closed,
        _ => return Err(invalid()),
    };
    let (free, left, version, stock_version) = (Units(get(from)?), Money(get(from)? as i64), get(from)?, get(from)?);
    let (drawn, order, capacity) = (get(from)?, get(from)? as u32, Units(get(from)?));
    let (admin_count, winner_count) = (get(from)?, get(from)?);
    if capacity.0 > 2 * crate::limits::STOCK_MAX || winner_count > capacity.0 {
        return Err(invalid());
    }
    let admin_keys = (0..admin_count).map(|_| Ok((KeyHash(u128::from_le_bytes(take(from)?)), get(from)?)));
    let admin_keys = admin_keys.collect::<io::Result<_>>()?;
    let mut winners = Winners::new(capacity, spec.kind == CampaignKind::RedPacket);
    for _ in 0..winner_count {
        let (fingerprint, claim_id) = (get(from)?, ClaimId(take(from)?));
        let (units, order, amount) = (get(from)?, get(from)? as u32, Money(get(from)? as i64));
        let user = UserHash(u128::from(claim_id.address()) << 88 | u128::from(fingerprint));
        let held = Held { claim_id, quantity: (units >> 32) as u32, hold: units as u32, order };
        winners.insert(user, &held, Some(amount));
    }
    let mut keys = Keys::new(capacity);
    for _ in 0..get(from)? {
        let (key, replay) = load_key(from)?;
        keys.insert(key, &replay);
    }
    let campaign = Campaign {
        spec,
        wish,
        free,
        left,
        version,
        stock_version,
        seed,
        drawn,
        order,
        capacity,
        winners,
        keys,
        admin_keys,
    };
    Ok(campaign)
}

fn load_key(from: &mut dyn Read) -> io::Result<(KeyHash, Replay)> {
    let (key, claim_id) = (KeyHash(u128::from_le_bytes(take(from)?)), ClaimId(take(from)?));
    let (packed, amount, seq, at) = (get(from)?, get(from)? as i64, Seq(get(from)?), Timestamp(get(from)? as i64));
    let replay = Replay {
        claim_id,
        quantity: (packed >> 32) as u32,
        receipt_key: (packed >> 8) as u16,
        amount: (packed & 2 != 0).then_some(Money(amount)),
        seq,
        at,
        durability: if packed & 1 == 1 { Durability::Memory } else { Durability::Disk },
    };
    Ok((key, replay))
}

fn put(out: &mut dyn Write, word: u64) -> io::Result<()> {
    out.write_all(&word.to_le_bytes())
}

fn get(from: &mut dyn Read) -> io::Result<u64> {
    take(from).map(u64::from_le_bytes)
}

fn take<const N: usize>(from: &mut dyn Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn invalid() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the snapshot's payload is not a book")
}
