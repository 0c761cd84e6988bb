//! Receipts: the operator's own proof, in the buyer's hands, of what a 202 promised.
//!
//! `k1.` and 43 characters: the key's number, then the base64url HMAC-SHA256 of everything that was promised, in an
//! encoding of one meaning only. A receipt says nothing by itself: it is checked against a claim as it was answered.
//! Status and version are not covered, because they change while the promise does not.
//!
//! - Keys are files `<data_dir>/receipt-keys/k<n>.key` that only this user may read. They are never deleted: the newest
//!   signs, all verify, and a repeated answer is signed by the key it was first signed with, byte for byte the same.
//! - A key is on the disk, name included, before the first receipt that depends on it leaves.
//! - From the outside a forged receipt and one of an unknown key look the same; [`ReceiptError::detail`] is for the
//!   operator.

pub mod sharing;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use rand::TryRngCore;
use serde_json::Value;
use sha2::Sha256;

use crate::sale::{CampaignId, Claim, ClaimId, Currency, Durability, FieldError, Money, Seq, Timestamp, Units, UserId};

/// The keys' folder inside the data folder.
pub const FOLDER: &str = "receipt-keys";

/// The longest receipt: `k65535.` and the MAC.
pub const RECEIPT_MAX: usize = 7 + MAC_TEXT;

const KEY_BYTES: usize = 32;
const MAC_TEXT: usize = 43;

/// What the MAC begins with: another use of a key could never be mistaken for a receipt.
const DOMAIN: &[u8; 8] = b"fb-rcpt1";

/// The longest message: domain, two texts with their lengths, claim id, quantity, amount, currency, seq, time and
/// durability.
const MESSAGE_MAX: usize = 8 + 2 * 65 + 16 + 8 + 9 + 4 + 8 + 8 + 1;

/// What a receipt vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiptFields {
    /// The campaign's public name.
    pub campaign: CampaignId,
    /// The buyer.
    pub user: UserId,
    /// The claim.
    pub claim_id: ClaimId,
    /// Units held.
    pub quantity: Units,
    /// Minor units, where the claim carries any.
    pub amount: Option<Money>,
    /// Their currency.
    pub currency: Option<Currency>,
    /// Its position in the journal.
    pub seq: Seq,
    /// When it was decided.
    pub accepted_at: Timestamp,
    /// What its acceptance promised.
    pub durability: Durability,
}

impl ReceiptFields {
    /// What the receipt of `claim` vouches for.
    pub fn of(claim: &Claim, campaign: CampaignId, currency: Option<Currency>) -> Self {
        Self {
            campaign,
            user: claim.user,
            claim_id: claim.claim_id,
            quantity: claim.quantity,
            amount: claim.amount,
            currency,
            seq: claim.seq,
            accepted_at: claim.accepted_at,
            durability: claim.durability,
        }
    }

    /// Variable parts carry their length and optional ones a flag, so that no two claims have the same encoding.
    fn encode(&self) -> ([u8; MESSAGE_MAX], usize) {
        let (mut out, mut at) = ([0; MESSAGE_MAX], 0);
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(DOMAIN);
        for text in [self.campaign.as_bytes(), self.user.as_bytes()] {
            put(&[text.len() as u8]);
            put(text);
        }
        put(&self.claim_id.0);
        put(&self.quantity.0.to_le_bytes());
        put(&[self.amount.is_some().into()]);
        put(&self.amount.map_or(0, |a| a.0).to_le_bytes());
        put(&[self.currency.is_some().into()]);
        put(self.currency.as_ref().map_or("\0\0\0", Currency::as_str).as_bytes());
        put(&self.seq.0.to_le_bytes());
        put(&self.accepted_at.0.to_le_bytes());
        put(&[match self.durability {
            Durability::Disk => 1,
            Durability::Memory => 2,
        }]);
        (out, at)
    }
}

/// Reads what a receipt vouches for out of a claim as a client received it.
///
/// # Errors
/// The first field that is missing or not what an answer contains.
pub fn fields_from_claim_json(claim: &Value) -> Result<ReceiptFields, FieldError> {
    let wrong = |field: &str, expected: &str| {
        let found = claim.get(field).map_or("nothing".to_owned(), Value::to_string);
        FieldError::new(field, format!("{found} found; expected {expected}"))
    };
    let text = |field: &str, what: &str| claim.get(field).and_then(Value::as_str).ok_or_else(|| wrong(field, what));
    let whole = |field: &str| claim.get(field).and_then(Value::as_u64).ok_or_else(|| wrong(field, "a whole number"));
    let given = |field: &str| claim.get(field).filter(|v| !v.is_null());
    let id = "an identifier";
    let amount = match given("amount") {
        None => None,
        Some(v) => Some(Money(v.as_i64().ok_or_else(|| wrong("amount", "minor units or null"))?)),
    };
    let currency = match given("currency") {
        None => None,
        Some(v) => {
            Some(v.as_str().and_then(Currency::parse).ok_or_else(|| wrong("currency", "an ISO 4217 code or null"))?)
        }
    };
    let durability = text("durability", "disk or memory")?;
    Ok(ReceiptFields {
        campaign: CampaignId::parse(text("campaign", id)?).map_err(|_| wrong("campaign", id))?,
        user: UserId::parse(text("user", id)?).map_err(|_| wrong("user", id))?,
        claim_id: ClaimId::parse(text("claim_id", "a UUID")?).ok_or_else(|| wrong("claim_id", "a UUID"))?,
        quantity: Units(whole("quantity")?),
        amount,
        currency,
        seq: Seq(whole("seq")?),
        accepted_at: Timestamp::parse(text("accepted_at", "an instant")?)
            .map_err(|_| wrong("accepted_at", "an instant"))?,
        durability: [Durability::Disk, Durability::Memory]
            .into_iter()
            .find(|d| d.as_str() == durability)
            .ok_or_else(|| wrong("durability", "disk or memory"))?,
    })
}

/// A receipt's text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    text: [u8; RECEIPT_MAX],
    len: u8,
}

impl Receipt {
    /// The text, ASCII.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[..self.len as usize]
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a receipt does not hold. The two look the same to the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Not written like a receipt, or signed by a key that is not here.
    #[error("the receipt does not hold for this claim")]
    UnknownKey(Option<u16>),
    /// The key is here and did not sign these values.
    #[error("the receipt does not hold for this claim")]
    Mismatch(u16),
}

impl ReceiptError {
    /// What is wrong, for the operator.
    pub fn detail(&self) -> String {
        match self {
            Self::UnknownKey(None) => "it is not written like a receipt: k<number>. and 43 characters".to_owned(),
            Self::UnknownKey(Some(no)) => {
                format!("key k{no} is not in {FOLDER}: another installation signed it, or the key file is lost")
            }
            Self::Mismatch(no) => format!("key k{no} did not sign these values: the receipt or the claim was changed"),
        }
    }
}

/// Why the keys can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Others could read or replace a key.
    #[error("{} has mode {mode:04o}, which lets others {what}; run: chmod {want:o} {}", path.display(), path.display())]
    Exposed {
        /// The file or folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The ones it should have.
        want: u32,
        /// What others could do.
        what: &'static str,
    },
    /// Not a key file.
    #[error("{}: {what}; restore it from a backup: its receipts can't be checked without it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What was found and expected.
        what: &'static str,
    },
    /// Every number is used.
    #[error("there are {} receipt keys, the most", u16::MAX)]
    TooMany,
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> KeyError + '_ {
    move |source| KeyError::Io { path: path.to_owned(), source }
}

/// The keys.
pub struct KeyRing {
    folder: PathBuf,
    keys: BTreeMap<u16, Hmac<Sha256>>,
    current: u16,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing({} keys, k{} signs)", self.keys.len(), self.current)
    }
}

impl KeyRing {
    /// Reads the keys in `data_dir`, which exists; makes the first one where there is none.
    ///
    /// # Errors
    /// [`KeyError`]: a key that can't be read, or that others can read.
    pub fn open_or_create(data_dir: &Path) -> Result<Self, KeyError> {
        let folder = data_dir.join(FOLDER);
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => sync_folder(data_dir)?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(io_error(&folder)(e)),
        }
        let mut ring = Self::open(data_dir)?;
        if ring.keys.is_empty() {
            ring.rotate()?;
        }
        // A crash may have come between a key's name and its sync, and the next receipt depends on the name.
        sync_folder(&ring.folder)?;
        Ok(ring)
    }

    /// Reads the keys in `data_dir` and changes nothing: for the checking of receipts beside a server.
    ///
    /// # Errors
    /// [`KeyError`]: no folder, a key that can't be read, or that others can read.
    pub fn open(data_dir: &Path) -> Result<Self, KeyError> {
        let folder = data_dir.join(FOLDER);
        let mode = folder.metadata().map_err(io_error(&folder))?.mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(KeyError::Exposed { path: folder, mode, want: 0o700, what: "replace its keys" });
        }
        let mut keys = BTreeMap::new();
        for entry in folder.read_dir().map_err(io_error(&folder))? {
            let entry = entry.map_err(io_error(&folder))?;
            if let Some(no) = entry.file_name().to_str().and_then(key_number) {
                keys.insert(no, read_key(&entry.path())?);
            }
        }
        let current = keys.last_key_value().map_or(0, |(&no, _)| no);
        Ok(Self { folder, keys, current })
    }

    /// The number of the key that signs; 0 where there is none.
    pub fn current_key(&self) -> u16 {
        self.current
    }

    /// Makes the next key, durably, which signs from now on; gives its number. A running server takes it up when it
    /// starts again.
    ///
    /// # Errors
    /// [`KeyError`]: nothing has changed then.
    pub fn rotate(&mut self) -> Result<u16, KeyError> {
        let no = self.current.checked_add(1).ok_or(KeyError::TooMany)?;
        let path = self.folder.join(format!("k{no}.key"));
        let temporary = self.folder.join(format!("k{no}.key.tmp"));
        let mut secret = [0; KEY_BYTES];
        rand::rngs::OsRng.try_fill_bytes(&mut secret).map_err(|e| io_error(&path)(io::Error::other(e.to_string())))?;
        match std::fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error(&temporary)(e)),
            _ => {}
        }
        let text: String = secret.iter().map(|b| format!("{b:02x}")).chain(["\n".to_owned()]).collect();
        // `create_new` follows no link that someone has laid there.
        let write = |mut file: File| file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
        file.and_then(write).map_err(io_error(&temporary))?;
        std::fs::rename(&temporary, &path).map_err(io_error(&path))?;
        sync_folder(&self.folder)?;
        self.keys.insert(no, keyed(&secret));
        self.current = no;
        Ok(no)
    }

    /// Signs with the newest key.
    ///
    /// # Panics
    /// Where there is no key: a ring that was only opened to verify.
    pub fn sign(&self, fields: &ReceiptFields) -> Receipt {
        self.sign_with(self.current, fields).expect("a ring that signs has a key")
    }

    /// Signs with key `no`, so that a repeated answer is the same as the first; `None` where that key is lost.
    pub fn sign_with(&self, no: u16, fields: &ReceiptFields) -> Option<Receipt> {
        let mac = self.mac(no, fields)?.finalize().into_bytes();
        let mut receipt = Receipt { text: [0; RECEIPT_MAX], len: 0 };
        let start = write_number(&mut receipt.text, no);
        let len = URL_SAFE_NO_PAD.encode_slice(mac, &mut receipt.text[start..]).ok()?;
        receipt.len = (start + len) as u8;
        Some(receipt)
    }

    fn mac(&self, no: u16, fields: &ReceiptFields) -> Option<Hmac<Sha256>> {
        // The keyed state is computed once a key: two of the five compressions that a short message would need.
        let mut mac = self.keys.get(&no)?.clone();
        let (message, len) = fields.encode();
        mac.update(&message[..len]);
        Some(mac)
    }

    /// Checks `text` against the values of a claim, in a time that depends on neither.
    ///
    /// # Errors
    /// [`ReceiptError`]: it does not hold.
    pub fn verify(&self, text: &str, fields: &ReceiptFields) -> Result<(), ReceiptError> {
        let (no, given) = parse(text).ok_or(ReceiptError::UnknownKey(None))?;
        match self.mac(no, fields) {
            Some(mac) => mac.verify_slice(&given).map_err(|_| ReceiptError::Mismatch(no)),
            None => {
                // The same work for a key that is not here, so that its absence can't be timed.
                let _ = self.mac(self.current, fields).map(|mac| mac.verify_slice(&given));
                Err(ReceiptError::UnknownKey(Some(no)))
            }
        }
    }
}

/// Writes `k<no>.` and gives its length.
fn write_number(out: &mut [u8; RECEIPT_MAX], no: u16) -> usize {
    let digits = no.checked_ilog10().map_or(1, |n| n as usize + 1);
    let mut rest = no;
    out[0] = b'k';
    for place in out[1..=digits].iter_mut().rev() {
        *place = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out[1 + digits] = b'.';
    digits + 2
}

/// One spelling a receipt: no leading zeros, and no stray bits in the last character (the decoder refuses those).
fn parse(text: &str) -> Option<(u16, [u8; KEY_BYTES])> {
    let (number, mac) = text.strip_prefix('k')?.split_once('.')?;
    let no = canonical(number)?;
    let mac: &[u8; MAC_TEXT] = mac.as_bytes().try_into().ok()?;
    let mut given = [0; KEY_BYTES];
    let len = URL_SAFE_NO_PAD.decode_slice(mac, &mut given).ok()?;
    (len == KEY_BYTES).then_some((no, given))
}

fn canonical(number: &str) -> Option<u16> {
    let first = number.bytes().next()?;
    number.parse().ok().filter(|_| first.is_ascii_digit() && first != b'0')
}

fn key_number(name: &str) -> Option<u16> {
    canonical(name.strip_prefix('k')?.strip_suffix(".key")?)
}

fn keyed(secret: &[u8; KEY_BYTES]) -> Hmac<Sha256> {
    Hmac::new_from_slice(secret).expect("HMAC takes a key of any length")
}

fn read_key(path: &Path) -> Result<Hmac<Sha256>, KeyError> {
    let file = File::open(path).map_err(io_error(path))?;
    let mode = file.metadata().map_err(io_error(path))?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode, want: 0o600, what: "sign receipts in your name" });
    }
    let mut text = String::new();
    let limit = KEY_BYTES as u64 * 2 + 2;
    file.take(limit).read_to_string(&mut text).map_err(io_error(path))?;
    let wrong = KeyError::Unreadable { path: path.to_owned(), what: "expected 64 hexadecimal digits and a newline" };
    let hex = text.strip_suffix('\n').unwrap_or(&text);
    if hex.len() != KEY_BYTES * 2 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(wrong);
    }
    let mut secret = [0; KEY_BYTES];
    for (byte, pair) in secret.iter_mut().zip(hex.as_bytes().chunks(2)) {
        let nibble = |c: u8| (c as char).to_digit(16).unwrap_or_default() as u8;
        *byte = nibble(pair[0]) << 4 | nibble(pair[1]);
    }
    Ok(keyed(&secret))
}

fn sync_folder(path: &Path) -> Result<(), KeyError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(io_error(path))
}

#[cfg(test)]
mod tests;
