//! An entry's bytes: whatever they are, they are read as what they say or refused, and what was read is written again as
//! what reads the same.

use forebay::limits;
use forebay::queue::codec::{self, FrameContext};
use forebay::sale::{Durability, Event, Seq, Timestamp};

/// The first byte is what the frame lends to its entries; the others are the entries.
pub fn run(data: &[u8]) {
    let Some((&first, mut rest)) = data.split_first() else { return };
    let durability = if first & 1 == 0 { Durability::Disk } else { Durability::Memory };
    let at = Timestamp(1_800_000_000_000_000);
    let context = FrameContext { first_seq: Seq(1 + u64::from(first >> 1)), at, durability };
    let mut index = 0;
    loop {
        // What only glances at an entry looks at bytes that nobody has read yet.
        let _ = (codec::claim_id(rest), codec::moved_id(rest), codec::cart_address(rest), codec::sums(rest));
        let skipped = codec::skip(rest);
        let Ok((entry, len)) = codec::decode(rest, &context, index) else { return };
        assert_eq!(skipped, Ok(len), "an entry that is read is as long as one that is skipped");
        assert_eq!((entry.seq, entry.at), (Seq(context.first_seq.0 + index), at));
        glances(&entry.event, rest);
        again(&entry.event, &rest[..len], &context, index);
        rest = &rest[len..];
        index += 1;
    }
}

/// The glances see what the reader sees.
fn glances(event: &Event, bytes: &[u8]) {
    let seen = (codec::claim_id(bytes), codec::moved_id(bytes), codec::cart_address(bytes));
    let sums = codec::sums(bytes).map(|s| (s.campaign, s.units, s.money.0, s.fate));
    match event {
        Event::Claimed(c) => {
            assert_eq!(seen, (Some(c.claim_id), None, None));
            assert_eq!(sums, Some((c.campaign, c.quantity, c.amount.map_or(0, |m| m.0), None)));
            assert_eq!(c.durability == Durability::Disk, c.durability.as_str() == "disk");
        }
        Event::Moved(m) => {
            assert_eq!(seen, (None, Some(m.claim_id), None));
            assert_eq!(sums, Some((m.campaign, m.quantity, m.amount.map_or(0, |m| m.0), Some(m.to))));
        }
        Event::Carted(c) => assert_eq!((seen, sums), ((None, None, Some(c.address)), None)),
        Event::Created(_) | Event::Changed(_) | Event::Released(_) | Event::Void => {
            assert_eq!((seen, sums), ((None, None, None), None));
        }
    }
}

fn again(event: &Event, bytes: &[u8], context: &FrameContext, index: u64) {
    // The writer is only asked to write what a campaign can be; a title without end can't.
    let json = match event {
        Event::Created(created) => created.spec.to_json().to_string().len(),
        Event::Changed(changed) => changed.patch.to_json().to_string().len(),
        _ => 0,
    };
    if json + 512 > limits::ENTRY_MAX {
        return;
    }
    let mut written = Vec::new();
    codec::encode(&mut written, event);
    let (second, len) = codec::decode(&written, context, index).expect("what was written is read");
    assert_eq!((&second.event, len), (event, written.len()), "it reads the same the second time");
    match event {
        // JSON may be spelled in many ways.
        Event::Created(_) | Event::Changed(_) => {
            let mut third = Vec::new();
            codec::encode(&mut third, &second.event);
            assert_eq!(third, written, "it is written the same the second time");
        }
        _ => assert_eq!(written, bytes, "there is one way to write it"),
    }
}
