//! Limits on what waits for a decision when more comes than can be decided.

/// What a claim may wait for its decision while more come than are decided, in milliseconds. As long as answers take in the 99th
/// percentile at 0.8 of what goes through, so that whoever is let in under overload waits about as long as ever. Half of it
/// cost a Redis that decides 2,000 a second a sixth of that: calls of so few carry mostly themselves.
pub const OVERLOAD_TARGET_MILLIS: u64 = 20;

/// Commands of a gate's lanes that may be under way however slow Redis is: some for each lane, so that none of them ever waits
/// for something to carry. More would be a wait of their own: of a Redis that decides 2,000 a second, 64 are 32 ms.
pub const OVERLOAD_LANES_FLOOR: usize = 16;

/// How long a wait beyond the target may last before claims are refused for it, in milliseconds: a moment in which the disk or
/// another process held everything up is over by then.
pub const OVERLOAD_PATIENCE_MILLIS: u64 = 100;

/// The wait that no patience is for, in milliseconds. It bounds what the first moment of an overload does to those who are in it: of ten
/// seconds' claims one in a hundred.
pub const OVERLOAD_BURST_MILLIS: u64 = 100;

/// How long the bound stays without being felt, in milliseconds. It costs nothing while it is not, and one that is dropped at the first
/// quiet moment has to be found again, with a queue of [`OVERLOAD_BURST_MILLIS`] each time.
pub const OVERLOAD_OVER_MILLIS: u64 = 1_000;

/// Busy time over which the rate is worked out, in milliseconds: several takes of the slowest buffer.
pub const OVERLOAD_WINDOW_MILLIS: u64 = 100;

/// Takes that a probe of what one costs by itself waits for.
pub const OVERLOAD_PROBE_TAKES: u32 = 4;

/// How often a cost that a probe has found to be higher is looked at again, in milliseconds. A probe of a take of 30 ms keeps nearly
/// everything out for a tenth of a second.
pub const OVERLOAD_PROBE_AGAIN_MILLIS: u64 = 5_000;

const _: () = assert!(OVERLOAD_TARGET_MILLIS < OVERLOAD_BURST_MILLIS && OVERLOAD_WINDOW_MILLIS < OVERLOAD_OVER_MILLIS);
