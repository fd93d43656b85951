//! Event time of a job (TIME-1): the watermark of each partition, and the watermark by which the job closes windows. Times are
//! microseconds since 1970 UTC.

use std::collections::{BTreeMap, BTreeSet};

use super::table_time::{PartitionTimes, UnfinishedVersion};

/// Which partition holds the job's watermark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WatermarkPolicy {
    /// The lowest: final rows do not depend on how partitions interleave.
    #[default]
    Lowest,
    /// The highest, of the batches before: Spark's rule, by which results depend on the cut.
    Highest,
}

/// What one partition has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PartitionTime {
    /// Its highest event time less the delay; none before its first row.
    pub watermark: Option<i64>,
    /// It has been silent for so long that it holds no other partition back.
    pub idle: bool,
    /// Of a table that is read version by version: what is not in the watermark yet.
    pub unfinished: Option<UnfinishedVersion>,
}

/// Time as it is after a batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobTime {
    /// By table and partition.
    pub partitions: BTreeMap<String, BTreeMap<i32, PartitionTime>>,
    /// The job's watermark; it never goes back.
    pub watermark: Option<i64>,
    /// The time by which the batch closed windows; without windows, the batch drops keys that were last touched up to then.
    pub closed_by: Option<i64>,
    /// Without windows: the batch's own time, by which keys are touched. It never goes back.
    pub clock: Option<i64>,
}

/// The watermarks that the rows of a partition meet in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowWatermark {
    /// First this one, then the watermarks of earlier rows of the batch.
    From(Option<i64>),
    /// The same for all.
    Always(Option<i64>),
}

/// A watermark while the rows of one partition pass.
#[derive(Debug, Clone, Copy)]
pub struct RunningWatermark {
    delay: i64,
    rule: RowWatermark,
    reached: Option<i64>,
}

impl RunningWatermark {
    /// State before the first row of a batch; `reached` is the watermark of the partition.
    pub fn new(rule: RowWatermark, reached: Option<i64>, delay: i64) -> Self {
        Self {
            delay,
            rule,
            reached,
        }
    }

    /// The watermark that the next row meets.
    #[inline]
    pub fn met(&self) -> Option<i64> {
        match self.rule {
            RowWatermark::From(watermark) => watermark.max(self.reached),
            RowWatermark::Always(watermark) => watermark,
        }
    }

    /// A row of this event time has passed.
    #[inline]
    pub fn pass(&mut self, event_time: i64) {
        self.reached = self
            .reached
            .max(Some(event_time.saturating_sub(self.delay)));
    }

    /// The watermark of the partition after these rows. If rows raise watermarks, it is at least the one it started with.
    pub fn reached(&self) -> Option<i64> {
        match self.rule {
            RowWatermark::From(watermark) => self.reached.max(watermark),
            RowWatermark::Always(_) => self.reached,
        }
    }
}

/// The lowest watermark of partitions that are not idle; the highest of all if all are idle. A partition that has no row yet and is
/// not idle holds the others back: then there is none.
pub fn lowest<'a>(times: impl Iterator<Item = &'a PartitionTime> + Clone) -> Option<i64> {
    if times.clone().all(|time| time.idle) {
        return times.filter_map(|time| time.watermark).max();
    }
    let awake = times.filter(|time| !time.idle);
    awake.map(|time| time.watermark).min().flatten()
}

/// Partitions by table.
pub type Partitions = BTreeMap<String, BTreeSet<i32>>;

impl JobTime {
    /// What one partition has reached.
    pub fn partition(&self, table: &str, partition: i32) -> Option<&PartitionTime> {
        self.partitions.get(table)?.get(&partition)
    }

    /// The watermarks that the rows of a partition meet in the next batch.
    pub fn row_watermark(
        &self,
        policy: WatermarkPolicy,
        table: &str,
        partition: i32,
    ) -> RowWatermark {
        match (policy, self.partition(table, partition)) {
            (WatermarkPolicy::Highest, _) => RowWatermark::Always(self.closed_by),
            // Only a partition that is new, or was idle for a while, can be behind the job, even if it has been read since. The
            // others went on without it, and windows that they closed stay closed.
            (WatermarkPolicy::Lowest, own) => {
                RowWatermark::From(self.watermark.max(own.and_then(|own| own.watermark)))
            }
        }
    }

    /// Time after the next batch: `known` are the partitions that exist, `reached` the times of those that the batch read,
    /// `idle` the other partitions that are idle.
    #[must_use]
    pub fn after(
        &self,
        policy: WatermarkPolicy,
        known: &Partitions,
        reached: &BTreeMap<String, BTreeMap<i32, PartitionTimes>>,
        idle: &Partitions,
    ) -> Self {
        let mut partitions = self.partitions.clone();
        for (table, numbers) in known {
            let times = partitions.entry(table.clone()).or_default();
            // A partition that no longer exists brings no rows, so it must not hold the watermark back.
            times.retain(|number, _| numbers.contains(number));
            for number in numbers {
                let time = times.entry(*number).or_default();
                let read = reached.get(table).and_then(|of| of.get(number));
                if let Some(read) = read {
                    time.watermark = time.watermark.max(read.watermark);
                    time.unfinished = read.unfinished;
                }
                time.idle = read.is_none() && idle.get(table).is_some_and(|of| of.contains(number));
            }
        }
        let all = || partitions.values().flat_map(BTreeMap::values);
        let watermark = match policy {
            WatermarkPolicy::Highest => all().filter_map(|time| time.watermark).max(),
            WatermarkPolicy::Lowest => lowest(all()),
        };
        let watermark = self.watermark.max(watermark);
        Self {
            closed_by: match policy {
                WatermarkPolicy::Lowest => watermark,
                WatermarkPolicy::Highest => self.watermark,
            },
            partitions,
            watermark,
            clock: None,
        }
    }

    /// Forgets the times of a table that has another identity now: they do not apply to its new partitions.
    pub fn forget_table(&mut self, table: &str) {
        self.partitions.remove(table);
    }

    /// Time after the next batch of a job without windows, which runs at `now` and forgets keys that no batch has touched
    /// for `ttl`, if there is one.
    #[must_use]
    pub fn at(&self, now: i64, ttl: Option<i64>) -> Self {
        let clock = self.clock.unwrap_or(now).max(now);
        Self {
            closed_by: ttl.map(|ttl| clock.saturating_sub(ttl)),
            clock: Some(clock),
            ..Self::default()
        }
    }

    /// Whether a batch without records would close windows: the watermark is ahead of `closed_by`.
    pub fn is_behind(&self) -> bool {
        self.watermark > self.closed_by
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(partitions: &[i32]) -> Partitions {
        [("t".to_owned(), partitions.iter().copied().collect())].into()
    }

    fn reached(of: &[(i32, i64)]) -> BTreeMap<String, BTreeMap<i32, PartitionTimes>> {
        let of = of.iter().map(|(number, at)| (*number, Some(*at).into()));
        [("t".to_owned(), of.collect())].into()
    }

    #[test]
    fn keys_expire_by_a_monotonic_clock() {
        let first = JobTime::default().at(100, Some(30));
        assert_eq!((first.clock, first.closed_by), (Some(100), Some(70)));
        let second = first.at(90, Some(30));
        assert_eq!((second.clock, second.closed_by), (Some(100), Some(70)));
        let third = second.at(200, None);
        assert_eq!((third.clock, third.closed_by), (Some(200), None));
        assert!(!third.is_behind());
    }

    const LOWEST: WatermarkPolicy = WatermarkPolicy::Lowest;
    const HIGHEST: WatermarkPolicy = WatermarkPolicy::Highest;

    #[test]
    fn time_1_a_row_meets_the_watermark_of_earlier_rows_of_its_partition() {
        let mut running = RunningWatermark::new(RowWatermark::From(None), None, 10);
        let met: Vec<_> = [100, 90, 130, 105]
            .into_iter()
            .map(|time| {
                let met = running.met();
                running.pass(time);
                met
            })
            .collect();
        assert_eq!(met, [None, Some(90), Some(90), Some(120)]);
        assert_eq!(running.reached(), Some(120));
    }

    #[test]
    fn time_1_the_job_watermark_is_the_lowest_and_never_decreases() {
        let both = known(&[0, 1]);
        let nobody = Partitions::new();
        let first = JobTime::default().after(LOWEST, &both, &reached(&[(0, 100)]), &nobody);
        assert_eq!(first.watermark, None, "partition 1 has said nothing yet");
        let second = first.after(LOWEST, &both, &reached(&[(1, 50)]), &nobody);
        assert_eq!(second.watermark, Some(50));
        // It is idle: it no longer holds the watermark back.
        let third = second.after(LOWEST, &both, &BTreeMap::new(), &known(&[1]));
        assert_eq!(third.watermark, Some(100));
        let from = RowWatermark::From(Some(100));
        assert_eq!(third.row_watermark(LOWEST, "t", 1), from);
        assert_eq!(third.row_watermark(LOWEST, "t", 0), from);
        // Back, with older rows.
        let fourth = third.after(LOWEST, &both, &reached(&[(1, 60)]), &nobody);
        assert_eq!(fourth.watermark, Some(100));
        assert_eq!(
            fourth.row_watermark(LOWEST, "t", 2),
            from,
            "a new partition starts where the job is"
        );
    }

    #[test]
    fn time_1_a_new_or_woken_partition_starts_at_the_job_watermark() {
        let nobody = Partitions::new();
        let one = JobTime::default().after(LOWEST, &known(&[0]), &reached(&[(0, 100)]), &nobody);
        let from = RowWatermark::From(Some(100));
        // Known, and not read yet.
        let came = one.after(LOWEST, &known(&[0, 1]), &BTreeMap::new(), &nobody);
        assert_eq!(came.row_watermark(LOWEST, "t", 1), from);
        // Silent, then with records that a batch left for the next one.
        let both = known(&[0, 1]);
        let behind = came.after(LOWEST, &both, &reached(&[(1, 50)]), &nobody);
        let silent = behind.after(LOWEST, &both, &BTreeMap::new(), &known(&[1]));
        let awake = silent.after(LOWEST, &both, &reached(&[(0, 120)]), &nobody);
        assert_eq!(awake.row_watermark(LOWEST, "t", 1), from);
        assert_eq!(
            awake.row_watermark(LOWEST, "t", 0),
            RowWatermark::From(Some(120))
        );
    }

    #[test]
    fn time_1_a_deleted_partition_does_not_hold_the_watermark_back() {
        let nobody = Partitions::new();
        let ends = reached(&[(0, 100), (1, 50)]);
        let read = JobTime::default().after(LOWEST, &known(&[0, 1]), &ends, &nobody);
        assert_eq!(read.watermark, Some(50));
        let gone = read.after(LOWEST, &known(&[0]), &BTreeMap::new(), &nobody);
        assert_eq!(gone.watermark, Some(100));
        assert_eq!(gone.partition("t", 1), None);
        // A table with another identity: its partitions are new, and the job goes no further back.
        let mut anew = gone;
        anew.forget_table("t");
        assert_eq!(
            anew.row_watermark(LOWEST, "t", 0),
            RowWatermark::From(Some(100))
        );
        let first = anew.after(LOWEST, &known(&[0]), &reached(&[(0, 20)]), &nobody);
        assert_eq!(first.watermark, Some(100));
        assert_eq!(first.partition("t", 0).unwrap().watermark, Some(20));
    }

    #[test]
    fn time_1_if_all_partitions_are_idle_the_highest_watermark_counts() {
        let both = known(&[0, 1]);
        let ends = reached(&[(0, 100), (1, 50)]);
        let read = JobTime::default().after(LOWEST, &both, &ends, &Partitions::new());
        let idle = read.after(LOWEST, &both, &BTreeMap::new(), &both);
        assert_eq!((read.watermark, idle.watermark), (Some(50), Some(100)));
    }

    #[test]
    fn time_1_the_highest_closes_one_batch_later_and_is_late_two_batches_later() {
        let both = known(&[0, 1]);
        let nobody = Partitions::new();
        let first = JobTime::default().after(HIGHEST, &both, &reached(&[(0, 100)]), &nobody);
        assert_eq!((first.watermark, first.closed_by), (Some(100), None));
        assert!(first.is_behind(), "an empty batch closes windows up to 100");
        let always = |at| RowWatermark::Always(at);
        assert_eq!(first.row_watermark(HIGHEST, "t", 1), always(None));
        let second = first.after(HIGHEST, &both, &reached(&[(1, 90)]), &nobody);
        assert_eq!((second.watermark, second.closed_by), (Some(100), Some(100)));
        assert!(!second.is_behind());
        assert_eq!(second.row_watermark(HIGHEST, "t", 1), always(Some(100)));
    }
}
