//! Identifiers: inline, `Copy`, checked once where they enter and never again.

use std::fmt;

/// Why a text is not a stock keeping unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("1 to 64 visible ASCII characters")]
pub struct SkuError;

/// Why a text is not an identifier. The text itself is not repeated: the caller knows it and decides what to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("1 to 64 characters of A-Z a-z 0-9 . _ : @ | + = -, the first a letter or a digit")]
pub struct IdError;

/// An identifier of 1 to 64 ASCII bytes, held inline so that a command needs no allocation and frees nothing on
/// another thread (an allocator pays for blocks freed on a thread that did not allocate them).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Text {
    bytes: [u8; Text::MAX],
    len: u8,
}

impl Text {
    const MAX: usize = 64;

    fn parse(text: &str) -> Result<Self, IdError> {
        let source = text.as_bytes();
        let first = *source.first().ok_or(IdError)?;
        if source.len() > Self::MAX || !first.is_ascii_alphanumeric() {
            return Err(IdError);
        }
        if !source.iter().all(|&b| ALLOWED[b as usize]) {
            return Err(IdError);
        }
        Ok(Self::hold(source))
    }

    fn parse_visible(text: &str) -> Result<Self, SkuError> {
        let source = text.as_bytes();
        if source.is_empty() || source.len() > Self::MAX || !source.iter().all(u8::is_ascii_graphic) {
            return Err(SkuError);
        }
        Ok(Self::hold(source))
    }

    /// At most [`Self::MAX`] bytes.
    fn hold(source: &[u8]) -> Self {
        let mut bytes = [0; Self::MAX];
        bytes[..source.len()].copy_from_slice(source);
        Self { bytes, len: source.len() as u8 }
    }

    fn as_str(&self) -> &str {
        // Parsed from ASCII only, so this can't fail; an empty text would show a bug without ending the process.
        std::str::from_utf8(&self.bytes[..self.len as usize]).unwrap_or_default()
    }
}

impl std::hash::Hash for Text {
    /// Only the characters: what lies behind them is always zero, and hashing it would cost more than the text.
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write(&self.bytes[..self.len as usize]);
        state.write_u8(self.len);
    }
}

const ALLOWED: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 256 {
        let c = b as u8;
        table[b] = c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b':' | b'@' | b'|' | b'+' | b'=' | b'-');
        b += 1;
    }
    table
};

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $(#[$rule:meta])* $parse:ident, $error:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Text);

        impl $name {
            $(#[$rule])*
            pub fn parse(text: &str) -> Result<Self, $error> {
                Text::$parse(text).map(Self)
            }

            /// The text's bytes, for where they need not be text again.
            pub fn as_bytes(&self) -> &[u8] {
                &self.0.bytes[..self.0.len as usize]
            }

            /// The text, as it came in.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.as_str())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

text_id! {
    /// A campaign's public name.
    CampaignId,
    /// Checks `text` against `[A-Za-z0-9][A-Za-z0-9._:@|+=-]{0,63}`.
    parse, IdError
}
text_id! {
    /// A buyer, as the shop names it.
    UserId,
    /// Checks `text` against `[A-Za-z0-9][A-Za-z0-9._:@|+=-]{0,63}`.
    parse, IdError
}
text_id! {
    /// What lies in a cart: a stock keeping unit, as the shop names it.
    Sku,
    /// Checks that `text` is 1 to 64 visible ASCII characters.
    parse_visible, SkuError
}

/// A campaign's place in the book: dense from 0, given at creation, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CampaignNo(pub u32);

/// An entry's position in the journal: dense and increasing from 1. 0 means "nothing yet".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub u64);

impl Seq {
    /// The position after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The position `n` further on.
    pub fn plus(self, n: u64) -> Self {
        Self(self.0 + n)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A buyer within a campaign, as 128 bits of keyed hash (SipHash-1-3 with the data folder's secret key): nobody who
/// lacks the key can choose two buyers that collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UserHash(pub u128);

impl UserHash {
    /// The 40 bits that a claim id carries: the address of the buyer's slots in the book.
    pub fn address(self) -> u64 {
        (self.0 >> 88) as u64
    }

    /// What every id of this buyer's claims has in its bytes 6 to 11, the last two bits cleared: see [`ClaimId::tag`].
    pub fn tag(self) -> [u8; 6] {
        ClaimId::new(super::Timestamp(0), self, 0).tag()
    }

    /// 64 further bits, stored beside the claim id, that tell two buyers with one address apart.
    pub fn fingerprint(self) -> u64 {
        self.0 as u64
    }
}

/// An `Idempotency-Key` scoped to its buyer and campaign, as 128 bits of keyed hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash(pub u128);

/// A claim's id: a UUID of version 8 (RFC 9562, section 5.8), made by the front end before anything is decided, so
/// that an answer whose outcome is unknown can name the claim.
///
/// | bits | content |
/// |---|---|
/// | 48 | Unix time in milliseconds: new rows land at the end of the primary key's tree |
/// | 4 | version 8 |
/// | 12 | the top of the buyer's 40-bit address |
/// | 2 | variant |
/// | 28 | the rest of the address: the book finds a claim by its id without a second index |
/// | 34 | random |
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimId(pub [u8; 16]);

impl ClaimId {
    /// Puts an id together; `random` gives its low 34 bits.
    pub fn new(now: super::Timestamp, user: UserHash, random: u64) -> Self {
        let millis = (now.0.max(0) as u64 / 1_000) & ((1 << 48) - 1);
        let address = user.address();
        let high = (millis << 16) | (8 << 12) | (address >> 28);
        let low = (0b10 << 62) | ((address & ((1 << 28) - 1)) << 34) | (random & ((1 << 34) - 1));
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&high.to_be_bytes());
        bytes[8..].copy_from_slice(&low.to_be_bytes());
        Self(bytes)
    }

    /// The buyer's address (40 bits) that the id carries.
    pub fn address(self) -> u64 {
        let (high, low) = self.halves();
        ((high & 0xfff) << 28) | ((low >> 34) & ((1 << 28) - 1))
    }

    /// The buyer in six bytes of the id as they stand: the address with version and variant in it, and nothing random. Two
    /// buyers share one with a chance of 2^−40.
    pub fn tag(self) -> [u8; 6] {
        std::array::from_fn(|i| if i == 5 { self.0[11] & !3 } else { self.0[6 + i] })
    }

    /// Milliseconds since the Unix epoch at which a front end made the id.
    pub fn millis(self) -> u64 {
        self.halves().0 >> 16
    }

    fn halves(self) -> (u64, u64) {
        let high = u64::from_be_bytes(std::array::from_fn(|i| self.0[i]));
        let low = u64::from_be_bytes(std::array::from_fn(|i| self.0[i + 8]));
        (high, low)
    }

    /// The 36 characters of the UUID form, lower case.
    pub fn to_text(self) -> [u8; 36] {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut out = [b'-'; 36];
        let mut at = 0;
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                at += 1;
            }
            out[at] = HEX[(byte >> 4) as usize];
            out[at + 1] = HEX[(byte & 15) as usize];
            at += 2;
        }
        out
    }

    /// Reads the UUID form; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let source: &[u8; 36] = text.as_bytes().try_into().ok()?;
        let mut bytes = [0; 16];
        let mut at = 0;
        for (i, byte) in bytes.iter_mut().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                if source[at] != b'-' {
                    return None;
                }
                at += 1;
            }
            *byte = (nibble(source[at])? << 4) | nibble(source[at + 1])?;
            at += 2;
        }
        Some(Self(bytes))
    }
}

fn nibble(c: u8) -> Option<u8> {
    (c as char).to_digit(16).map(|d| d as u8)
}

impl fmt::Display for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.to_text()).unwrap_or_default())
    }
}

impl fmt::Debug for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sale::Timestamp;

    #[test]
    fn ids_take_the_contracts_alphabet_and_nothing_else() {
        for good in ["a", "7", "u1", "A.b_c:d@e|f+g=h-i", &"x".repeat(64)] {
            assert_eq!(UserId::parse(good).map(|u| u.as_str().to_owned()), Ok(good.to_owned()));
        }
        for bad in ["", "-a", ".a", "a b", "a/b", "é", "a\0", &"x".repeat(65)] {
            assert_eq!(UserId::parse(bad), Err(IdError), "{bad:?}");
        }
    }

    #[test]
    fn a_claim_id_carries_its_buyers_address_and_survives_its_text() {
        for (millis, hash, random) in [(0, 0, 0), (1_763_640_000_123, u128::MAX, u64::MAX), (77, 0xfeed << 100, 99)] {
            let user = UserHash(hash);
            let id = ClaimId::new(Timestamp(millis * 1_000 + 999), user, random);
            assert_eq!(id.address(), user.address());
            assert_eq!(id.tag(), user.tag());
            for bit in 0..40 {
                assert_ne!(UserHash(hash ^ 1 << (88 + bit)).tag(), user.tag(), "bit {bit} of the address");
            }
            assert_eq!(id.millis(), millis as u64);
            assert_eq!(ClaimId::parse(&id.to_string()), Some(id));
            assert_eq!(id.to_string().as_bytes()[14], b'8');
        }
        for bad in [
            "",
            "0192f0c1-7d2e-7c3a-8f00-3a6b1c2d4e5",
            "0192f0c1+7d2e-7c3a-8f00-3a6b1c2d4e5f",
            "g192f0c1-7d2e-7c3a-8f00-3a6b1c2d4e5f",
        ] {
            assert_eq!(ClaimId::parse(bad), None, "{bad:?}");
        }
    }
}
