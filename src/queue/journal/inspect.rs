//! For `journal inspect` and `journal verify`: what lies in the folder, and whether all of it holds.

use super::disk::Disk;
use super::reader::Found;
use super::{
    FrameView, JournalError, OpenError, Report, SnapshotInfo, Visitor, Wanted, identity, read, segment, snapshot,
};
use crate::sale::{Seq, Timestamp};
use std::io::Read;

/// What is in one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentSummary {
    /// Its number.
    pub number: u64,
    /// Its file.
    pub file: String,
    /// The file's length in bytes.
    pub bytes: u64,
    /// Whether its bytes had an earlier life.
    pub recycled: bool,
    /// Frames in it, marks included; 0 for one that is prepared and not used, or that could not be read.
    pub frames: u64,
    /// Marks among them.
    pub marks: u64,
    /// Its first entry, where it has entries.
    pub first_seq: Option<Seq>,
    /// Its last entry, likewise.
    pub last_seq: Option<Seq>,
    /// The first and the last frame's time.
    pub times: Option<(Timestamp, Timestamp)>,
    /// Bytes used, the header included.
    pub used: u64,
    /// Whether a snapshot covers it.
    pub covered: bool,
}

/// What is in the folder.
#[derive(Debug)]
pub struct Inspection {
    /// The journal's id; never its key.
    pub journal: u128,
    /// Segments by number.
    pub segments: Vec<SegmentSummary>,
    /// Snapshots by seq.
    pub snapshots: Vec<SnapshotInfo>,
    /// What the walk found; none where it did not reach the end.
    pub report: Option<Report>,
    /// The first thing that is wrong: a start would be refused with it.
    pub problem: Option<JournalError>,
}

impl Inspection {
    /// Whether a start would accept the journal.
    pub fn is_sound(&self) -> bool {
        self.problem.is_none()
    }
}

/// Looks at every frame, entry and snapshot that is kept. Writes nothing; works beside a running server.
///
/// # Errors
/// [`JournalError`] where not even the folder or the identity can be read. Anything further is in
/// [`Inspection::problem`], with whatever could be read beside it.
pub fn inspect<D: Disk>(disk: &D) -> Result<Inspection, JournalError> {
    let identity = identity::load(disk)?.ok_or(JournalError::Absent)?;
    let mut survey = Survey::default();
    let (report, mut problem) = match read(disk, &mut survey) {
        Ok(report) => (Some(report), None),
        Err(OpenError::Journal(e) | OpenError::Visitor(e)) => (None, Some(e)),
    };
    let found = Found::look(disk)?;
    let mut segments = Vec::new();
    for &number in &found.numbers {
        match segment::open(disk, identity.journal, number, false) {
            Ok(s) => {
                let mut summary = survey.segments.remove(&number).unwrap_or_else(|| empty(number));
                (summary.file, summary.bytes, summary.recycled) = (s.name, s.bytes, s.recycled);
                segments.push(summary);
            }
            // Gone since it was listed: a server runs here.
            Err(JournalError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => problem = problem.or(Some(e)),
        }
    }
    let mut snapshots = Vec::new();
    for &seq in &found.snapshots {
        match snapshot::info(disk, identity.journal, seq) {
            Ok(info) => snapshots.push(info),
            Err(JournalError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => problem = problem.or(Some(e)),
        }
    }
    Ok(Inspection { journal: identity.journal, segments, snapshots, report, problem })
}

fn empty(number: u64) -> SegmentSummary {
    let used = segment::HEADER_BYTES;
    let (file, first_seq, last_seq, times) = (String::new(), None, None, None);
    SegmentSummary {
        number,
        file,
        bytes: 0,
        recycled: false,
        frames: 0,
        marks: 0,
        first_seq,
        last_seq,
        times,
        used,
        covered: false,
    }
}

#[derive(Default)]
struct Survey {
    segments: std::collections::BTreeMap<u64, SegmentSummary>,
}

impl Survey {
    fn add(&mut self, frame: &FrameView<'_>, covered: bool) -> Result<(), JournalError> {
        for entry in frame.entries() {
            entry.map_err(|e| frame.refuse(&e))?;
        }
        let summary = self.segments.entry(frame.segment).or_insert_with(|| empty(frame.segment));
        summary.frames += 1;
        summary.marks += u64::from(frame.mark);
        summary.covered = covered;
        if frame.count > 0 {
            summary.first_seq.get_or_insert(frame.first_seq);
            summary.last_seq = Some(Seq(frame.next_seq().0 - 1));
        }
        summary.times = Some((summary.times.map_or(frame.at, |t| t.0), frame.at));
        summary.used = frame.offset + super::frame::total(frame.body.len());
        Ok(())
    }
}

impl Visitor for Survey {
    type Error = JournalError;

    fn snapshot(&mut self, _at: &SnapshotInfo, _payload: &mut dyn Read) -> Result<(), JournalError> {
        Ok(())
    }

    fn wanted(&self) -> Wanted {
        Wanted::Kept { needed_after: Seq(u64::MAX) }
    }

    fn covered(&mut self, frame: &FrameView<'_>) -> Result<(), JournalError> {
        self.add(frame, true)
    }

    fn frame(&mut self, frame: &FrameView<'_>) -> Result<(), JournalError> {
        self.add(frame, false)
    }

    fn restart(&mut self) {
        self.segments.clear();
    }
}
