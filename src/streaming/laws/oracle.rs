//! Naive oracle of the laws of time: it computes the expected result of a log row by row.

use std::collections::BTreeMap;

pub(crate) const SECOND: i64 = 1_000_000;
pub(crate) const DELAY: i64 = 5;

/// A row: key, event time in seconds, value.
pub(crate) type Row = (Option<i64>, i64, i64);
/// Key, start and end of a window in seconds.
pub(crate) type Window = (Option<i64>, i64, i64);
/// Count, sum, and the values in the order of event time, partition and offset.
pub(crate) type Values = (i64, i64, Vec<i64>);

/// A late row: partition, offset, and the window that it missed (none for a session).
pub(crate) type Late = (i32, i64, Option<(i64, i64)>);

/// Late rows, and how often each came.
pub(crate) type LateRows = BTreeMap<Late, usize>;

/// One partition's log, and after which rows batches end.
pub(crate) type Log = Vec<Row>;

/// Seconds: the step, the size, and the offset.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Tumble(i64, i64),
    Hop(i64, i64, i64),
    Cumulate(i64, i64, i64),
    Session,
    /// The groups of a session are finer: by a part of the value as well.
    SessionByPart,
    /// The same without the session's end.
    SessionByPartAndStart,
}

/// The divisor of the value that gives the finer groups of a session.
const PARTS: i64 = 3;
pub(crate) const TUMBLE: Kind = Kind::Tumble(10, 0);
pub(crate) const HOP: Kind = Kind::Hop(4, 12, 0);
pub(crate) const CUMULATE: Kind = Kind::Cumulate(5, 10, 0);
pub(crate) const GAP: i64 = 6;

/// How a static table stands in the job: key 0 has two bonuses, key 1 has one, other keys and NULL have none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Joined {
    Not,
    InnerBelow,
    RightBelow,
    InBelow,
    InnerAbove,
    LeftAbove,
    CrossAbove,
    InAbove,
    NotInAbove,
    ExistsAbove,
}

impl Joined {
    /// The bonuses of the rows that result from one row with this key.
    fn bonuses(self, key: Option<i64>) -> Vec<i64> {
        let found = match key {
            Some(0) => vec![1_000, 2_000],
            Some(1) => vec![500],
            _ => vec![],
        };
        match self {
            Joined::Not => vec![0],
            Joined::InnerBelow | Joined::InnerAbove => found,
            Joined::LeftAbove | Joined::RightBelow if found.is_empty() => vec![0],
            Joined::LeftAbove | Joined::RightBelow => found,
            Joined::CrossAbove => vec![500, 1_000, 2_000],
            Joined::InBelow | Joined::InAbove | Joined::ExistsAbove => {
                found.into_iter().take(1).map(|_| 0).collect()
            }
            Joined::NotInAbove if key == Some(2) => vec![0],
            Joined::NotInAbove => vec![],
        }
    }

    /// The input of the window.
    pub(crate) fn below(self) -> &'static str {
        match self {
            Joined::InnerBelow => {
                "SELECT k, event_time, v, w FROM visits JOIN (SELECT bk, w FROM bonus) ON k = bk"
            }
            Joined::RightBelow => {
                "SELECT k, event_time, v, w FROM bonus RIGHT JOIN visits ON bk = k"
            }
            Joined::InBelow => {
                "SELECT k, event_time, v, 0 AS w FROM visits WHERE k IN (SELECT DISTINCT bk FROM bonus)"
            }
            Joined::InnerAbove | Joined::LeftAbove | Joined::CrossAbove => "SELECT * FROM visits",
            _ => "SELECT *, 0 AS w FROM visits",
        }
    }

    /// The clauses between the window and the aggregate.
    pub(crate) fn above(self) -> &'static str {
        match self {
            Joined::InnerAbove => "JOIN bonus ON rows.k = bk",
            Joined::LeftAbove => "LEFT JOIN bonus ON rows.k = bk AND w > 0",
            Joined::CrossAbove => "CROSS JOIN bonus",
            Joined::InAbove => "WHERE k IN (SELECT bk FROM bonus)",
            Joined::NotInAbove => "WHERE k NOT IN (SELECT bk FROM bonus)",
            Joined::ExistsAbove => "WHERE EXISTS (SELECT 1 FROM bonus WHERE bk = rows.k)",
            _ => "",
        }
    }
}

impl Kind {
    pub(crate) fn from(self) -> String {
        let seconds = |number: i64| format!("INTERVAL '{number} seconds'");
        let of = "TABLE below, DESCRIPTOR(event_time)";
        match self {
            Kind::Tumble(size, offset) => {
                format!("TUMBLE({of}, {}, {})", seconds(size), seconds(offset))
            }
            Kind::Hop(step, size, offset) | Kind::Cumulate(step, size, offset) => {
                let name = match self {
                    Kind::Hop(..) => "HOP",
                    _ => "CUMULATE",
                };
                let (step, size, offset) = (seconds(step), seconds(size), seconds(offset));
                format!("{name}({of}, {step}, {size}, {offset})")
            }
            Kind::Session | Kind::SessionByPart | Kind::SessionByPartAndStart => {
                format!(
                    "SESSION(TABLE below PARTITION BY k, DESCRIPTOR(event_time), {})",
                    seconds(GAP)
                )
            }
        }
    }

    /// The aligned windows of a time.
    fn windows(self, time: i64) -> Vec<(i64, i64)> {
        match self {
            Kind::Tumble(size, offset) => {
                let start = (time - offset).div_euclid(size) * size + offset;
                vec![(start, start + size)]
            }
            Kind::Hop(step, size, offset) => (time - size + 1..=time)
                .filter(|start| (start - offset).rem_euclid(step) == 0)
                .map(|start| (start, start + size))
                .collect(),
            Kind::Cumulate(step, size, offset) => {
                let start = (time - offset).div_euclid(size) * size + offset;
                (1..=size / step)
                    .map(|number| (start, start + number * step))
                    .filter(|(_, end)| time < *end)
                    .collect()
            }
            Kind::Session | Kind::SessionByPart | Kind::SessionByPartAndStart => vec![],
        }
    }

    fn is_session(self) -> bool {
        self.windows(0).is_empty()
    }

    /// The columns of GROUP BY.
    pub(crate) fn groups(self) -> &'static str {
        match self {
            Kind::SessionByPart => "k, window_start, v % 3, window_end",
            Kind::SessionByPartAndStart => "v % 3, k, window_start",
            _ => "k, window_start, window_end",
        }
    }

    /// The key under which [`groups_of`] returns the group of a value in a window.
    fn group(self, window: Window, value: i64) -> Window {
        let key = Some(numbered(window.0, value % PARTS));
        match self {
            Kind::SessionByPart => (key, window.1, window.2),
            Kind::SessionByPartAndStart => (key, window.1, window.1),
            _ => window,
        }
    }
}

/// The expected result of a log.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Oracle {
    /// Groups that are closed, and those that are not.
    pub(crate) closed: BTreeMap<Window, Values>,
    pub(crate) open: BTreeMap<Window, Values>,
    pub(crate) late: LateRows,
}

pub(crate) fn oracle(kind: Kind, joined: Joined, logs: &[Log]) -> Oracle {
    let mut result = Oracle::default();
    // Event time, partition, offset, value and bonus of accepted rows.
    type Accepted = (i64, i32, i64, i64, i64);
    let mut accepted: Vec<(Option<i64>, Accepted)> = Vec::new();
    let mut groups: BTreeMap<Window, Vec<Accepted>> = BTreeMap::new();
    let mut lowest: Option<Option<i64>> = None;
    for (partition, log) in (0_i32..).zip(logs) {
        let mut watermark: Option<i64> = None;
        for (offset, (key, time, value)) in (0_i64..).zip(log) {
            for bonus in joined.bonuses(*key) {
                let row = (*time, partition, offset, *value, bonus);
                let mut note_late = |window| {
                    *result.late.entry((partition, offset, window)).or_default() += 1;
                };
                if kind.is_session() {
                    if watermark.is_some_and(|watermark| *time < watermark) {
                        note_late(None);
                    } else {
                        accepted.push((*key, row));
                    }
                }
                for (start, end) in kind.windows(*time) {
                    if watermark.is_some_and(|watermark| end <= watermark) {
                        note_late(Some((start, end)));
                    } else {
                        groups.entry((*key, start, end)).or_default().push(row);
                    }
                }
            }
            // Every row moves the watermark, also late rows and rows that a join drops.
            watermark = watermark.max(Some(time - DELAY));
        }
        lowest = Some(lowest.map_or(watermark, |lowest| lowest.min(watermark)));
    }
    accepted.sort_unstable();
    let mut current: Option<(Window, Vec<Accepted>)> = None;
    for (key, row) in accepted {
        match &mut current {
            Some(((of, _, end), rows)) if *of == key && row.0 <= *end => {
                *end = row.0 + GAP;
                rows.push(row);
            }
            _ => {
                groups.extend(current.take());
                current = Some(((key, row.0, row.0 + GAP), vec![row]));
            }
        }
    }
    groups.extend(current);
    let watermark = lowest.flatten();
    for (group, mut rows) in groups {
        rows.sort_unstable();
        let is_closed = watermark.is_some_and(|watermark| match kind.is_session() {
            true => watermark > group.2,
            false => watermark >= group.2,
        });
        let groups = match is_closed {
            true => &mut result.closed,
            false => &mut result.open,
        };
        for row in rows {
            let (count, sum, in_order) = groups.entry(kind.group(group, row.3)).or_default();
            *count += 1;
            *sum += row.3 + row.4;
            in_order.push(row.3);
        }
    }
    result
}

/// A number for a key and a part.
pub(crate) fn numbered(key: Option<i64>, part: i64) -> i64 {
    10 * key.unwrap_or(9) + part
}
