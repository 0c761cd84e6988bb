//! The journal's bytes as docs/journal.md has them, written down a second time: headers that hold, and whether a frame does.

/// Who the journals of these targets are.
pub const JOURNAL: u128 = 0x00c0_ffee_0000_1234;
/// Bytes before the first frame, and before a snapshot's payload.
pub const HEADER: usize = 4_096;
/// Bytes of a frame before its entries.
pub const FRAME: usize = 48;
/// The first segment's file.
pub const FIRST: &str = "00000000000000000001.seg";

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    bytes[at..at + what.len()].copy_from_slice(what);
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn checksum(bytes: &mut [u8], over: std::ops::Range<usize>) {
    let crc = crc32c::crc32c(&bytes[over.clone()]);
    put(bytes, over.end, &crc.to_le_bytes());
}

/// Makes the checksum of a file's stamp hold.
pub fn seal_stamp(bytes: &mut [u8]) {
    if bytes.len() >= 16 {
        checksum(bytes, 0..12);
    }
}

fn stamp(magic: &[u8; 8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    put(&mut bytes, 0, magic);
    put(&mut bytes, 8, &2u32.to_le_bytes());
    seal_stamp(&mut bytes);
    bytes
}

/// An identity's 52 bytes.
pub fn identity(hash_key: [u8; 16]) -> Vec<u8> {
    let mut bytes = stamp(b"FOREBAYi");
    bytes.truncate(52);
    put(&mut bytes, 16, &JOURNAL.to_le_bytes());
    put(&mut bytes, 32, &hash_key);
    checksum(&mut bytes, 0..48);
    bytes
}

/// A segment: its header, `content`, and zeros up to `bytes`.
pub fn segment(number: u64, recycled: bool, content: &[u8], bytes: usize) -> Vec<u8> {
    let mut out = stamp(b"FOREBAYs");
    put(&mut out, 16, &JOURNAL.to_le_bytes());
    put(&mut out, 32, &number.to_le_bytes());
    put(&mut out, 40, &(bytes as u64).to_le_bytes());
    put(&mut out, 48, &u32::from(recycled).to_le_bytes());
    checksum(&mut out, 0..52);
    out.extend_from_slice(content);
    out.resize(bytes, 0);
    out
}

/// A snapshot of `payload` after entry `seq`, and its name.
pub fn snapshot(seq: u64, replay_from: u64, payload: &[u8]) -> (String, Vec<u8>) {
    let mut out = stamp(b"FOREBAYp");
    put(&mut out, 16, &JOURNAL.to_le_bytes());
    put(&mut out, 32, &seq.to_le_bytes());
    put(&mut out, 40, &1u64.to_le_bytes());
    put(&mut out, 56, &crc32c::crc32c(&JOURNAL.to_le_bytes()).to_le_bytes());
    put(&mut out, 64, &replay_from.to_le_bytes());
    put(&mut out, 72, &(payload.len() as u64).to_le_bytes());
    put(&mut out, 80, &crc32c::crc32c(payload).to_le_bytes());
    checksum(&mut out, 0..84);
    out.extend_from_slice(payload);
    (format!("snap-{seq:020}.snap"), out)
}

/// Makes the checksums of a snapshot, of its header and of its payload, hold, and its length agree.
pub fn seal_snapshot(bytes: &mut [u8]) {
    seal_stamp(bytes);
    if bytes.len() >= HEADER {
        let (len, crc) = ((bytes.len() - HEADER) as u64, crc32c::crc32c(&bytes[HEADER..]));
        put(bytes, 72, &len.to_le_bytes());
        put(bytes, 80, &crc.to_le_bytes());
        checksum(bytes, 0..84);
    }
}

/// Makes the checksums of an identity hold.
pub fn seal_identity(bytes: &mut [u8]) {
    seal_stamp(bytes);
    if bytes.len() >= 52 {
        checksum(bytes, 0..48);
    }
}

fn frame_crc(segment: u64, frame: &[u8]) -> u32 {
    let mut crc = crc32c::crc32c(&JOURNAL.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &segment.to_le_bytes());
    crc32c::crc32c_append(crc, &frame[8..])
}

/// The frame at `at`, without its padding, if one begins there and fits.
pub fn frame_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let rest = bytes.get(at..).filter(|rest| rest.len() >= FRAME && rest.starts_with(&[0xf0, 0x9b, 0xfb, 0x01]))?;
    rest.get(..FRAME.checked_add(u32_at(rest, 8) as usize)?)
}

/// Whether a frame's checksum holds in this segment of this journal.
pub fn holds(segment: u64, frame: &[u8]) -> bool {
    u32_at(frame, 4) == frame_crc(segment, frame)
}

/// Makes the checksums of a segment hold: its header's, with its length, and those of all frames that begin where one
/// should, each with its predecessor's. `prev` is the checksum before the first and becomes that of the last.
pub fn seal_segment(number: u64, bytes: &mut [u8], prev: &mut u32) {
    seal_stamp(bytes);
    if bytes.len() < 56 {
        return;
    }
    let len = bytes.len() as u64;
    put(bytes, 40, &len.to_le_bytes());
    checksum(bytes, 0..52);
    let mut at = HEADER;
    while let Some(len) = frame_at(bytes, at).map(<[u8]>::len) {
        put(bytes, at + 40, &prev.to_le_bytes());
        *prev = frame_crc(number, &bytes[at..at + len]);
        put(bytes, at + 4, &prev.to_le_bytes());
        at += len.next_multiple_of(8);
    }
}
