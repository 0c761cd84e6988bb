//! Bounds of what a gate keeps itself, and of a partition's opening.

use super::{FRAME_MAX, SEQUENCER_BATCH_MAX};

/// How long what Redis has accepted waits for room in the gate's own journal, in milliseconds: several times what the making of a
/// segment takes. A gate asks for room before it submits, so this is met where a disk fills up beneath it; then the claims
/// are told that their outcome is unknown, which is better than callers that hang.
pub const KEPT_ROOM_MILLIS: u64 = 10_000;

/// How long a gate's journal rests before a mark is written behind its last frame, in milliseconds.
pub const KEPT_MARK_MILLIS: u64 = 1_000;

/// Bytes of the largest block in a gate's journal: what one call of the library accepts fits, and it shares a frame.
pub const KEPT_BLOCK_MAX: usize = FRAME_MAX / 2;

const _: () = assert!(KEPT_BLOCK_MAX * 2 <= FRAME_MAX && KEPT_BLOCK_MAX >= SEQUENCER_BATCH_MAX * 64);

/// Words of one call that lays a partition out: some milliseconds of Redis' time, in which nobody else is served.
pub const LAY_WORDS: usize = 4_096;

/// Words of one command in it: what Lua's stack takes at a time with room to spare.
pub const LAY_COMMAND_WORDS: usize = 1_000;

/// Items read from a list, or keys looked for, at a time while a partition is opened.
pub const OPENING_PAGE: usize = 10_000;

/// How long a cart operation's idempotency key is remembered, in milliseconds.
pub const CART_KEY_MILLIS: u64 = 20 * 60 * 1_000;

/// By how many bits an epoch is above the numbers under which carts are loaded in it: no epoch loads so many.
pub const LOADS_EPOCH_BITS: u32 = 32;

/// Carts asked of the database at a time while a partition is opened.
pub const OPENING_CARTS: usize = 50;

/// How many openings that laid a partition out anew are told of: a gate that was away for more was dismissed long before.
pub const REBUILDS_TOLD: usize = 64;
