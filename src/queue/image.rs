//! The book's image inside a snapshot: written from one book, read into an empty one. Little-endian, versioned by the
//! snapshot file around it.

use std::cell::Cell;
use std::io::{self, Read, Write};

use super::book::Book;
use super::campaign::{Campaign, loaded_bytes, new_winners};
use super::command::Replay;
use super::keys::Keys;
use super::winners::{FIELD_MAX, Held, Kept, Winners};
use crate::limits;
use crate::sale::campaign::{AdminState, check_turnover};
use crate::sale::red_packet::Seed;
use crate::sale::{
    CampaignKind, CampaignNo, CampaignSpec, CartKey, ClaimId, Durability, KeyHash, LocalDay, MAX_JSON_INT, Money, Seq,
    Timestamp, Units,
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
        put(out, self.carts.keys_born.0 as u64)?;
        for keys in &self.carts.keys {
            put(out, keys.iter().count() as u64)?;
            for (key, seq) in keys.iter() {
                out.write_all(&key.hash.0.to_le_bytes())?;
                put(out, key.payload)?;
                put(out, seq.0)?;
            }
        }
        Ok(())
    }

    /// Reads an image into an empty book.
    ///
    /// # Errors
    /// The reader's, or `InvalidData` for what no book writes, and for campaigns that take more than [`limits::IMAGE_ROOM`]
    /// times the memory that the book may promise. The book is of no use then.
    pub fn load(&mut self, from: &mut dyn Read) -> io::Result<()> {
        assert!(self.campaigns.is_empty() && self.last == Seq(0), "an image is loaded into an empty book");
        self.last = Seq(get(from)?);
        self.time = Timestamp(get(from)? as i64);
        let campaigns = get(from)?;
        if self.last.0 > MAX_JSON_INT as u64 || campaigns > limits::CAMPAIGNS_MAX as u64 {
            return Err(invalid());
        }
        for no in 0..campaigns {
            let room = self.memory_max.saturating_mul(limits::IMAGE_ROOM).saturating_sub(self.reserved);
            let campaign = load_campaign(from, room)?;
            if !is_sound(&campaign) || self.by_id.contains_key(&campaign.spec.id) {
                return Err(invalid());
            }
            self.enter(CampaignNo(no as u32), campaign);
        }
        self.carts.keys_born = Timestamp(get(from)? as i64);
        if self.carts.keys_born < Timestamp(0) {
            return Err(invalid());
        }
        for keys in &mut self.carts.keys {
            for _ in 0..get(from)? {
                let hash = KeyHash(u128::from_le_bytes(take(from)?));
                keys.insert(CartKey { hash, payload: get(from)? }, Seq(get(from)?));
            }
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
        c.key_capacity.0,
        c.acknowledged,
        c.closed_at.map_or(NEVER, |at| at.0) as u64,
        c.released.into(),
        c.last.0,
        c.today.map_or(NO_DAY, |day| day.0.into()),
        c.admin_keys.len() as u64,
        c.returned.len() as u64,
        c.winners.len(),
    ] {
        put(out, word)?;
    }
    for (key, payload) in &c.admin_keys {
        out.write_all(&key.0.to_le_bytes())?;
        put(out, *payload)?;
    }
    for share in &c.returned {
        put(out, share.0 as u64)?;
    }
    for kept in c.winners.iter() {
        save_winner(out, &kept)?;
    }
    for keys in [&c.keys, &c.old_keys] {
        put(out, keys.iter().count() as u64)?;
        for (key, replay) in keys.iter() {
            save_key(out, key, &replay)?;
        }
    }
    Ok(())
}

fn save_winner(out: &mut dyn Write, kept: &Kept) -> io::Result<()> {
    let held = &kept.held;
    put(out, kept.fingerprint)?;
    out.write_all(&held.claim_id.0)?;
    put(out, u64::from(held.quantity) << 32 | u64::from(held.hold))?;
    let flags = u64::from(held.settled) | u64::from(kept.is_stranger()) << 1;
    put(out, flags << 32 | u64::from(held.order))?;
    put(out, kept.amount.map_or(0, |a| a.0) as u64)?;
    put(out, kept.due.map_or(NEVER, |due| due.0) as u64)?;
    if kept.is_stranger() { put(out, kept.address) } else { Ok(()) }
}

fn load_winner(from: &mut dyn Read) -> io::Result<Kept> {
    let (fingerprint, claim_id) = (get(from)?, ClaimId(take(from)?));
    let (units, order, amount, due) = (get(from)?, get(from)?, Money(get(from)? as i64), get(from)? as i64);
    let settled = order >> 32 & 1 == 1;
    let address = if order >> 32 & 2 == 2 { get(from)? } else { claim_id.address() };
    let held = Held { claim_id, quantity: (units >> 32) as u32, hold: units as u32, order: order as u32, settled };
    if held.quantity == 0 || held.quantity.max(held.hold) > FIELD_MAX || due == 0 {
        return Err(invalid());
    }
    Ok(Kept { fingerprint, address, held, amount: Some(amount), due: (due != NEVER).then_some(Timestamp(due)) })
}

/// Of a time that is none.
const NEVER: i64 = i64::MIN;

/// Of a day that is none.
const NO_DAY: u64 = u64::MAX;

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

fn load_campaign(from: &mut dyn Read, room: u64) -> io::Result<Campaign> {
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
    let (drawn, order, capacity, key_capacity) = (get(from)?, get(from)? as u32, Units(get(from)?), Units(get(from)?));
    let (acknowledged, closed_at, released) = (get(from)?, get(from)? as i64, get(from)? == 1);
    let (last, today) = (Seq(get(from)?), get(from)?);
    let (admin_count, returned_count, winner_count) = (get(from)?, get(from)?, get(from)?);
    let fits = capacity.max(key_capacity).0 <= limits::STOCK_MAX && winner_count.max(returned_count) <= capacity.0;
    if !fits || (released && capacity.max(key_capacity).0 > 0) || admin_count > limits::ADMIN_KEYS_MAX as u64 {
        return Err(invalid());
    }
    let bytes = if released { 0 } else { loaded_bytes(&spec, capacity, key_capacity) };
    if bytes > room {
        return Err(too_large(bytes, room));
    }
    let admin_keys = (0..admin_count).map(|_| Ok((KeyHash(u128::from_le_bytes(take(from)?)), get(from)?)));
    let admin_keys = admin_keys.collect::<io::Result<_>>()?;
    let mut returned = Vec::with_capacity(if spec.red_packet.is_some() { capacity.0 as usize } else { 0 });
    for _ in 0..returned_count {
        returned.push(Money(get(from)? as i64));
    }
    let mut winners = if released { Winners::default() } else { new_winners(&spec, capacity) };
    load_winners(from, winner_count, &mut winners)?;
    let mut keys = if released { Keys::default() } else { Keys::new(key_capacity) };
    load_keys(from, &mut keys)?;
    let mut old_keys = if spec.check_in.is_some() && !released { Keys::new(key_capacity) } else { Keys::default() };
    load_keys(from, &mut old_keys)?;
    let bytes = bytes + winners.stranger_bytes();
    Ok(Campaign {
        spec,
        wish,
        free,
        left,
        version,
        stock_version,
        acknowledged,
        closed_at: (closed_at != NEVER).then_some(Timestamp(closed_at)),
        released,
        last,
        seed,
        drawn,
        returned,
        order,
        capacity,
        key_capacity,
        bytes,
        winners,
        keys,
        old_keys,
        today: u16::try_from(today).ok().map(LocalDay),
        looked_up: Cell::new(None),
        admin_keys,
    })
}

/// Whether what the image says of a campaign can be true: whoever reckons with it need not ask again.
fn is_sound(c: &Campaign) -> bool {
    let (spec, packet) = (&c.spec, c.spec.red_packet.as_ref());
    let kind =
        packet.is_some() == (spec.kind == CampaignKind::RedPacket) && spec.check_in.is_some() != spec.has_stock();
    let stock = !spec.has_stock() || (c.free <= spec.stock && (c.released || spec.stock <= c.capacity));
    let price = spec.price.is_none_or(|price| price.0 >= 0 && check_turnover(price, spec.stock).is_ok());
    let shares = c.returned.iter().try_fold(0, |sum: i64, share| sum.checked_add(share.0).filter(|_| share.0 >= 0));
    let money = packet.is_none_or(|packet| {
        let left = shares.is_some_and(|returned| (returned..=packet.total.0).contains(&c.left.0));
        left && c.returned.len() as u64 <= c.free.0
    });
    kind && stock && price && money && (packet.is_some() || c.returned.is_empty())
}

fn load_winners(from: &mut dyn Read, count: u64, winners: &mut Winners) -> io::Result<()> {
    let mut due = Vec::new();
    for _ in 0..count {
        let kept = load_winner(from)?;
        // What falls due goes in last, in its order, whatever places it had.
        match kept.due {
            Some(_) => due.push(kept),
            None => winners.insert(kept.user(), &kept.held, kept.amount, None),
        }
    }
    due.sort_by_key(|kept| (kept.due, kept.held.order));
    for kept in &due {
        winners.insert(kept.user(), &kept.held, kept.amount, kept.due);
    }
    Ok(())
}

fn load_keys(from: &mut dyn Read, keys: &mut Keys) -> io::Result<()> {
    for _ in 0..get(from)? {
        let (key, replay) = load_key(from)?;
        if !keys.has_room() {
            return Err(invalid());
        }
        keys.insert(key, &replay);
    }
    Ok(())
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

fn too_large(bytes: u64, room: u64) -> io::Error {
    let what = format!(
        "a campaign in the snapshot takes {} MiB of memory, {} MiB are left of what this machine could ever give",
        bytes >> 20,
        room >> 20
    );
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn invalid() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the snapshot's payload is not a book")
}
