//! Simulation of queries over an archived topic (ARCH-1): while the archive grows and retention takes the records behind it, a query pins
//! a version of the archive, asks the topic for its ends, and reads both halves. The real division of offsets and the real scan of the
//! topic run over simulated brokers. The query gives each record that a topic that never forgot would give, once; or it says which
//! offsets neither half has; or there is an error.

use proptest::prelude::*;

use super::progress::ends_range;
use super::range_reading::RangeEnd;
use super::simulation::{
    CompactedOffsets, ENOUGH, Event, SimulatedClient, Slot, event, is_expected, log, range, read,
    records,
};
use crate::core::archive::{ArchiveOffsets, FileSpans, NotThePast, OffsetSpan, divide};
use crate::core::jobs::PartitionEnds;
use crate::core::schedules::{Schedules, cases, found_by, sample};

/// What happens to the topic and its archive before the query reads.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A job archives so many offsets. It stops for good where retention was faster.
    Archived(i64),
    /// The last stable offset grows by so many.
    Grown(i64),
    /// Retention removes the records before this offset.
    Forgotten(i64),
}

/// A fault that may be planted in the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// It reads the rows of the version that it pinned, and takes the border from a newer one.
    NewerBorder,
    /// It asks for the topic's ends before it pins a version.
    EndsFirst,
}

#[derive(Debug, Clone)]
struct World {
    log: Vec<Slot>,
    /// Before the query, and between its two looks.
    steps: [Vec<Step>; 2],
    /// While the query reads the topic.
    events: Vec<Event>,
    /// The archive has no record below this offset.
    begins: i64,
}

/// A topic of one partition, and its archive.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    first: i64,
    stable: i64,
    /// The archive has all records below.
    archived: i64,
}

impl State {
    fn happen(&mut self, step: Step, length: i64) {
        match step {
            Step::Archived(offsets) if self.first <= self.archived => {
                self.archived = self.stable.min(self.archived + offsets);
            }
            Step::Archived(_) => {}
            Step::Grown(by) => self.stable = length.min(self.stable + by),
            Step::Forgotten(first) => self.first = self.first.max(first.min(self.stable)),
        }
    }

    fn ends(self) -> PartitionEnds {
        PartitionEnds {
            partition: 0,
            low: self.first,
            high: self.stable,
            latest: self.stable,
            unread: None,
            behind_hole: None,
        }
    }
}

/// What the files of an archive with these rows have.
fn offsets(rows: &[i64]) -> ArchiveOffsets {
    let spans = rows.chunks(5).map(|file| -> FileSpans {
        let (first, last) = (file[0], file[file.len() - 1]);
        let rows = u64::try_from(file.len()).unwrap();
        [(0, OffsetSpan { first, last, rows })].into()
    });
    let spans: Vec<FileSpans> = spans.collect();
    ArchiveOffsets::of(&spans)
}

/// The records of the topic between two offsets as a query reads them, and those that compaction removes meanwhile; or the fault, if it is
/// one, for which it gives none.
fn of_topic(
    world: &World,
    now: State,
    (from, to): (i64, i64),
) -> Result<(Vec<i64>, CompactedOffsets), Option<String>> {
    let (log, events) = (world.log.clone(), world.events.clone());
    let mut client = SimulatedClient::new(log, from, now.stable, events);
    client.first = now.first;
    let gone = CompactedOffsets::clone(&client.gone);
    if from >= to {
        return Ok((Vec::new(), gone));
    }
    match read(client, &[range(from, to)], ends_range, None).remove(0) {
        Ok((RangeEnd::All, offsets)) => Ok((offsets, gone)),
        Ok(stopped) => Err(Some(format!("{stopped:?}"))),
        Err(error) if is_expected(&error) => Err(None),
        Err(error) => Err(Some(error.to_string())),
    }
}

/// The fault in the answer of a query in this world, if there is one.
fn wrong(world: &World, fault: Fault) -> Option<String> {
    let World {
        log, steps, begins, ..
    } = world;
    let length = i64::try_from(log.len()).unwrap();
    let none = CompactedOffsets::default();
    let mut now = State::default();
    for step in &steps[0] {
        now.happen(*step, length);
    }
    let earlier = now;
    for step in &steps[1] {
        now.happen(*step, length);
    }
    // The rows of the pinned version, those that the border is taken from, and the topic's ends.
    let (pinned, border, ends) = match fault {
        Fault::None => (earlier, earlier, now),
        Fault::NewerBorder => (earlier, now, now),
        Fault::EndsFirst => (now, now, earlier),
    };
    let archived = |of: State| records(log, &none, range(*begins, of.archived));
    let (rows, border) = (archived(pinned), offsets(&archived(border)));
    let half = match divide(&border, &[ends.ends()]) {
        Ok(halves) => halves[0],
        Err(refused @ (NotThePast::Beyond { .. } | NotThePast::NoPartition { .. })) => {
            return Some(refused.to_string());
        }
    };
    let before = half.before.unwrap_or((0, 0));
    let parts = of_topic(world, now, before)
        .and_then(|before| Ok((before, of_topic(world, now, half.topic)?)));
    let ((first, gone_before), (last, gone_behind)) = match parts {
        Ok(parts) => parts,
        Err(fault) => return fault,
    };
    let of_archive = half.archive.into_iter().flat_map(|(first, border)| {
        let rows = rows.iter().copied();
        rows.filter(move |offset| (first..border).contains(offset))
    });
    let given: Vec<i64> = first.into_iter().chain(of_archive).chain(last).collect();
    // A topic that never forgot has all records up to the same end. No record from before both halves was to be kept.
    let kept = match half.archive {
        Some((first, _)) => first.min(ends.first),
        None => half.topic.0,
    };
    let is_in = |(from, to): (i64, i64), offset: &i64| (from..to).contains(offset);
    let is_gone = |offset: &i64| {
        let has = |gone: &CompactedOffsets| gone.lock().unwrap().contains(offset);
        (is_in(before, offset) && has(&gone_before))
            || (is_in(half.topic, offset) && has(&gone_behind))
    };
    let is_lost = |offset: &i64| half.lost.is_some_and(|lost| is_in(lost, offset));
    let mut expected = records(log, &none, range(kept, half.topic.1));
    expected.retain(|offset| !is_lost(offset) && !is_gone(offset));
    (given != expected).then(|| format!("{half:?} gave {given:?} instead of {expected:?}"))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..30_i64).prop_map(Step::Archived),
        4 => (1..40_i64).prop_map(Step::Grown),
        1 => (0..60_i64).prop_map(Step::Forgotten),
    ]
}

fn world() -> impl Strategy<Value = World> {
    let steps = || prop::collection::vec(step(), 0..10);
    (
        log(),
        steps(),
        steps(),
        prop::collection::vec(event(), 0..40),
        prop_oneof![2 => Just(0), 1 => 1..20_i64],
    )
        .prop_map(|(log, before, between, events, begins)| World {
            log,
            steps: [before, between],
            events,
            begins,
        })
}

#[test]
fn arch_1_a_query_gives_what_a_topic_that_never_forgot_gives() {
    let schedules = Schedules::of("queries over archived topics");
    proptest!(cases(4_000), |(world in world())| {
        schedules.count();
        prop_assert_eq!(wrong(&world, Fault::None), None);
    });
}

/// The simulation finds queries that do not look at the archive once, or not before the topic.
#[test]
fn arch_1_a_border_of_another_version_is_found() {
    for (fault, planted) in [
        (Fault::NewerBorder, "a border of a newer version"),
        (Fault::EndsFirst, "ends from before the version"),
    ] {
        let found = found_by(planted, &[], ENOUGH, |seed| {
            wrong(&sample(&world(), seed), fault).is_some()
        });
        assert!(found.is_some(), "{fault:?}");
    }
}

/// The archive takes a record over in the moment in which retention takes it from the topic.
#[test]
fn arch_1_no_record_is_between_the_halves() {
    for (forgotten, begins) in (0..=12).flat_map(|first| [(first, 0), (first, 3)]) {
        let world = World {
            log: vec![Slot::Record; 12],
            steps: [
                vec![Step::Grown(12), Step::Archived(6)],
                vec![Step::Archived(6), Step::Forgotten(forgotten)],
            ],
            events: Vec::new(),
            begins,
        };
        let fault = wrong(&world, Fault::None);
        assert_eq!(fault, None, "{forgotten}, the archive from {begins} on");
    }
}
