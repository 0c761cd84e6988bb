//! One entry by its position, without reading the journal: beginnings of files, and the frames of one of them.

use super::disk::Disk;
use super::frame::{self, FrameView, HEADER};
use super::reader::{Found, Window};
use super::segment::{self, HEADER_BYTES};
use crate::sale::{Entry, Seq};

/// The entry `seq`; none where it is not kept, or can't be read: what is wrong then is for whoever reads the journal to say.
/// Beside a running server that trims it may be gone, too.
pub fn entry_at<D: Disk>(disk: &D, journal: u128, seq: Seq) -> Option<Entry> {
    let mut window = Window::default();
    for &number in Found::look(disk).ok()?.numbers.iter().rev() {
        let Ok(segment) = segment::open(disk, journal, number, false) else { continue };
        let (seed, mut offset) = (frame::seed(journal, number), HEADER_BYTES);
        while let Some(header) = window.frame(&segment, offset, seed).ok().flatten() {
            if header.first_seq > seq {
                break;
            }
            if header.first_seq.plus(u64::from(header.count)) > seq {
                let bytes = window.get(&segment, offset, header.total() as usize).ok()?;
                let body = &bytes[HEADER..HEADER + header.len as usize];
                let view = FrameView::new(&header, body, number, &segment.name, offset);
                return view
                    .entries()
                    .find_map(|entry| entry.ok().filter(|(entry, _)| entry.seq == seq))
                    .map(|(e, _)| e);
            }
            offset += header.total();
        }
        if offset > HEADER_BYTES {
            // It begins before the entry and does not have it; nor has any segment before it.
            return None;
        }
    }
    None
}
