//! A book's image: read into a book that can be written again, or refused; and damaged files of it never reach a book.

use forebay::queue::journal::{self, Identity, JournalError, OpenError, Options};
use forebay::queue::recover::Follower;
use forebay::queue::{Book, HashKey};

use super::disk::{Files, MemDisk};
use super::format;

/// What the book's tables may take: an image may declare sixteen times as much.
pub const ROOM: u64 = 2 << 20;
/// The secret of these targets' journals.
pub const KEY: HashKey = HashKey([3; 16]);

/// The first byte says how the rest, an image, is offered: alone, or in a file of a journal, whole or with a bit flipped.
pub fn run(data: &[u8]) {
    let Some((&how, image)) = data.split_first() else { return };
    if how & 1 == 0 {
        alone(image);
    } else {
        in_a_file(image, (how & 2 != 0).then_some(how >> 2));
    }
}

fn alone(image: &[u8]) {
    let Some(book) = load(image) else { return };
    let once = saved(&book);
    let again = load(&once).expect("what was written is read");
    assert_eq!(saved(&again), once, "it is written the same the second time");
    for (no, campaign) in book.campaigns().iter().enumerate() {
        let ((stock, free), (total, left)) = (campaign.units(), campaign.money());
        assert!(!campaign.spec.has_stock() || free <= stock, "more is free than there is");
        assert!(left <= total || campaign.spec.red_packet.is_none(), "more money is left than there was");
        assert!(campaign.released || book.number(&campaign.spec.id).is_some_and(|found| found.0 as usize == no));
        assert!(campaign.winners().iter().count() as u64 == campaign.winners().len());
    }
}

fn load(mut image: &[u8]) -> Option<Book> {
    let mut book = Book::new(KEY, ROOM);
    book.load(&mut image).ok().map(|()| book)
}

fn saved(book: &Book) -> Vec<u8> {
    let mut bytes = Vec::new();
    book.save(&mut bytes).expect("memory takes it");
    bytes
}

fn in_a_file(image: &[u8], flip: Option<u8>) {
    let seq = image.first_chunk().map_or(0, |b| u64::from_le_bytes(*b)) & 0xffff;
    let (name, mut bytes) = format::snapshot(seq, 1, image);
    if let Some(flip) = flip.filter(|_| !image.is_empty()) {
        let at = format::HEADER + usize::from(flip) * 37 % image.len();
        bytes[at] ^= 1 << (flip % 8);
    }
    let segment = format::segment(1, false, &[], 8_192);
    let files = Files::from([
        ("identity".to_owned(), format::identity(KEY.0)),
        (name, bytes),
        (format::FIRST.to_owned(), segment),
    ]);
    let disk = MemDisk::of(files);
    let mut follower = Follower::new(KEY, ROOM);
    let options = Options {
        segment_bytes: 8_192,
        spares: 1,
        frame_max: 512,
        prepare_slice: 4_096,
        urgent_slice: 4_096,
        snapshot_every: 2,
    };
    let fresh = || -> Identity { panic!("there is an identity") };
    let opened = journal::open(disk, options, fresh, &mut follower);
    if flip.is_some() && !image.is_empty() {
        let damaged = matches!(&opened, Err(OpenError::Journal(JournalError::Damaged { .. })));
        assert!(damaged, "a flipped bit is damage and nothing else: {:?}", opened.err().map(|e| e.to_string()));
    }
}
