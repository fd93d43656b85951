//! The file of what a reprocessing run rests on.

use std::collections::BTreeMap;

use anabranch_udfs::{AlignedWindows, WindowKind};
use serde::{Deserialize, Serialize};

use super::format::{FORMAT, UnreadableFile, not_of_format, opened, parsed};
use super::parts::{IdentityFile, by_key};
use crate::core::archive::{OffsetRange, OffsetRanges, PartitionOffsets};
use crate::core::jobs::NamedOffsets;
use crate::core::runs::{
    AskedRange, Emission, EmitRows, Grouping, LateRows, OffsetBounds, OffsetSet, Pin, PinnedAt,
    RunOptions, RunSpec, SelectedRows, SourcePin, TimeRange, TimeRanges,
};
use crate::error::Result;
use crate::store::checksum::seal;

/// A spec; format 1 had none.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpecFile {
    format: u32,
    run_id: String,
    job: String,
    job_id: String,
    text: String,
    tables: Vec<String>,
    asked: AskedFile,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    selection: Option<OffsetsFile>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    left_out: OffsetsFile,
    emission: EmissionFile,
    grouping: GroupingFile,
    watermark: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    begins: Option<i64>,
    sources: BTreeMap<String, SourceFile>,
    statics: BTreeMap<String, PinFile>,
    sink: IdentityFile,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    settled: PartitionsFile,
    now: i64,
    options: OptionsFile,
}

/// The first instant and the one after the last.
type RangeFile = (i64, i64);

/// Ranges of offsets by table and partition: the first offset and the one after the last.
type OffsetsFile = BTreeMap<String, PartitionsFile>;

/// Ranges of offsets by partition.
type PartitionsFile = BTreeMap<i32, Vec<(i64, i64)>>;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AskedFile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time: Option<RangeFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    offsets: Option<BoundsFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rows: Option<RowsFile>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BoundsFile {
    from: NamedOffsets,
    to: NamedOffsets,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RowsFile {
    query: String,
    offsets: OffsetsFile,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EmissionFile {
    Time(Vec<RangeFile>),
    Offsets(OffsetsFile),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum GroupingFile {
    Rows,
    Aligned {
        kind: KindFile,
        size: i64,
        step: i64,
        offset: i64,
    },
    Sessions {
        gap: i64,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KindFile {
    Tumble,
    Hop,
    Cumulate,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceFile {
    archive: PinFile,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tail: Option<PinFile>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    from: BTreeMap<i32, i64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PinFile {
    identity: IdentityFile,
    at: AtFile,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AtFile {
    Version(u64),
    Ends(BTreeMap<i32, i64>),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OptionsFile {
    emit: EmitFile,
    late: LateFile,
    withdraw: bool,
    overwrite: bool,
    append: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chunk: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_rows_per_second: Option<u64>,
    /// None: it does.
    #[serde(rename = "yield", default, skip_serializing_if = "Option::is_none")]
    yields: Option<bool>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EmitFile {
    All,
    Changed,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LateFile {
    Include,
    Exclude,
}

/// The file of a spec.
pub(in crate::store) fn run_spec_bytes(spec: &RunSpec) -> Result<Vec<u8>> {
    seal(&SpecFile::from(spec.clone()))
}

/// The spec of a file.
pub(in crate::store) fn read_run_spec(bytes: &[u8]) -> Result<RunSpec, UnreadableFile> {
    let (json, format) = opened(bytes)?;
    let file: SpecFile = parsed(&json, format)?;
    RunSpec::try_from(file).map_err(|reason| not_of_format(format, &reason))
}

impl From<RunSpec> for SpecFile {
    fn from(of: RunSpec) -> Self {
        Self {
            format: FORMAT,
            run_id: of.run_id,
            job: of.job,
            job_id: of.job_id,
            text: of.text,
            tables: of.tables,
            asked: of.asked.into(),
            selection: of.selection.as_ref().map(offsets_file),
            left_out: offsets_file(&of.left_out),
            emission: match &of.emission {
                Emission::Time(ranges) => {
                    EmissionFile::Time(ranges.as_slice().iter().map(time_file).collect())
                }
                Emission::Offsets(offsets) => EmissionFile::Offsets(offsets_file(offsets)),
            },
            grouping: of.grouping.into(),
            watermark: of.watermark,
            begins: of.begins,
            sources: by_key(of.sources),
            statics: by_key(of.statics),
            sink: of.sink.into(),
            settled: partitions_file(&of.settled),
            now: of.now,
            options: of.options.into(),
        }
    }
}

impl TryFrom<SpecFile> for RunSpec {
    type Error = String;

    fn try_from(of: SpecFile) -> Result<Self, String> {
        Ok(Self {
            run_id: of.run_id,
            job: of.job,
            job_id: of.job_id,
            text: of.text,
            tables: of.tables,
            asked: of.asked.try_into()?,
            selection: of.selection.map(offset_set),
            left_out: offset_set(of.left_out),
            emission: match of.emission {
                EmissionFile::Time(ranges) => {
                    let ranges: Result<Vec<TimeRange>, String> =
                        ranges.into_iter().map(time_range).collect();
                    Emission::Time(TimeRanges::joined(ranges?, 0))
                }
                EmissionFile::Offsets(offsets) => Emission::Offsets(offset_set(offsets)),
            },
            grouping: of.grouping.try_into()?,
            watermark: of.watermark,
            begins: of.begins,
            sources: by_key(of.sources),
            statics: by_key(of.statics),
            sink: of.sink.into(),
            settled: partition_offsets(of.settled),
            now: of.now,
            options: of.options.into(),
        })
    }
}

fn time_file(of: &TimeRange) -> RangeFile {
    (of.from(), of.to())
}

fn time_range((from, to): RangeFile) -> Result<TimeRange, String> {
    TimeRange::try_new(from, to).ok_or_else(|| format!("the range {from} to {to} is empty"))
}

fn offsets_file(of: &OffsetSet) -> OffsetsFile {
    let tables = of.tables().filter_map(|table| {
        let partitions = partitions_file(of.of_table(table)?);
        Some((table.to_owned(), partitions))
    });
    tables.collect()
}

fn partitions_file(of: &PartitionOffsets) -> PartitionsFile {
    let partitions = of.iter().map(|(partition, offsets)| {
        let ranges = offsets.ranges().map(|range| (range.from, range.to));
        (*partition, ranges.collect())
    });
    partitions.collect()
}

fn partition_offsets(of: PartitionsFile) -> PartitionOffsets {
    let partitions = of.into_iter().map(|(partition, ranges)| {
        let ranges = ranges.into_iter();
        let offsets = ranges.map(|(from, to)| OffsetRange::new(from, to));
        (partition, offsets.collect::<OffsetRanges>())
    });
    partitions.collect()
}

fn offset_set(of: OffsetsFile) -> OffsetSet {
    let mut set = OffsetSet::default();
    for (table, partitions) in of {
        set.extend(&table, &partition_offsets(partitions));
    }
    set
}

impl From<AskedRange> for AskedFile {
    fn from(of: AskedRange) -> Self {
        Self {
            time: of.time.as_ref().map(time_file),
            offsets: of.offsets.map(|of| BoundsFile {
                from: of.from,
                to: of.to,
            }),
            rows: of.rows.map(|of| RowsFile {
                query: of.query,
                offsets: offsets_file(&of.offsets),
            }),
        }
    }
}

impl TryFrom<AskedFile> for AskedRange {
    type Error = String;

    fn try_from(of: AskedFile) -> Result<Self, String> {
        Ok(Self {
            time: of.time.map(time_range).transpose()?,
            offsets: of.offsets.map(|of| OffsetBounds {
                from: of.from,
                to: of.to,
            }),
            rows: of.rows.map(|of| SelectedRows {
                query: of.query,
                offsets: offset_set(of.offsets),
            }),
        })
    }
}

impl From<Grouping> for GroupingFile {
    fn from(of: Grouping) -> Self {
        match of {
            Grouping::Rows => Self::Rows,
            Grouping::Sessions { gap } => Self::Sessions { gap },
            Grouping::Aligned(windows) => Self::Aligned {
                kind: match windows.kind() {
                    WindowKind::Tumble => KindFile::Tumble,
                    WindowKind::Hop => KindFile::Hop,
                    WindowKind::Cumulate => KindFile::Cumulate,
                },
                size: windows.size(),
                step: windows.step(),
                offset: windows.offset(),
            },
        }
    }
}

impl TryFrom<GroupingFile> for Grouping {
    type Error = String;

    fn try_from(of: GroupingFile) -> Result<Self, String> {
        Ok(match of {
            GroupingFile::Rows => Self::Rows,
            GroupingFile::Sessions { gap } => Self::Sessions { gap },
            GroupingFile::Aligned {
                kind,
                size,
                step,
                offset,
            } => {
                let kind = match kind {
                    KindFile::Tumble => WindowKind::Tumble,
                    KindFile::Hop => WindowKind::Hop,
                    KindFile::Cumulate => WindowKind::Cumulate,
                };
                let windows = AlignedWindows::try_new(kind, size, step, offset);
                let windows = windows.ok_or_else(|| {
                    format!("there are no windows of {size} microseconds in steps of {step}")
                })?;
                Self::Aligned(windows)
            }
        })
    }
}

impl From<SourcePin> for SourceFile {
    fn from(of: SourcePin) -> Self {
        Self {
            archive: of.archive.into(),
            tail: of.tail.map(Into::into),
            from: of.from,
        }
    }
}

impl From<SourceFile> for SourcePin {
    fn from(of: SourceFile) -> Self {
        Self {
            archive: of.archive.into(),
            tail: of.tail.map(Into::into),
            from: of.from,
        }
    }
}

impl From<Pin> for PinFile {
    fn from(of: Pin) -> Self {
        Self {
            identity: of.identity.into(),
            at: match of.at {
                PinnedAt::Version(version) => AtFile::Version(version),
                PinnedAt::Ends(ends) => AtFile::Ends(ends),
            },
        }
    }
}

impl From<PinFile> for Pin {
    fn from(of: PinFile) -> Self {
        Self {
            identity: of.identity.into(),
            at: match of.at {
                AtFile::Version(version) => PinnedAt::Version(version),
                AtFile::Ends(ends) => PinnedAt::Ends(ends),
            },
        }
    }
}

impl From<RunOptions> for OptionsFile {
    fn from(of: RunOptions) -> Self {
        Self {
            emit: match of.emit {
                EmitRows::All => EmitFile::All,
                EmitRows::Changed => EmitFile::Changed,
            },
            late: match of.late {
                LateRows::Include => LateFile::Include,
                LateRows::Exclude => LateFile::Exclude,
            },
            withdraw: of.withdraw,
            overwrite: of.overwrite,
            append: of.append,
            chunk: of.chunk,
            max_rows_per_second: of.max_rows_per_second,
            yields: (!of.yields).then_some(false),
        }
    }
}

impl From<OptionsFile> for RunOptions {
    fn from(of: OptionsFile) -> Self {
        Self {
            emit: match of.emit {
                EmitFile::All => EmitRows::All,
                EmitFile::Changed => EmitRows::Changed,
            },
            late: match of.late {
                LateFile::Include => LateRows::Include,
                LateFile::Exclude => LateRows::Exclude,
            },
            withdraw: of.withdraw,
            overwrite: of.overwrite,
            append: of.append,
            chunk: of.chunk,
            max_rows_per_second: of.max_rows_per_second,
            yields: of.yields.unwrap_or(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jobs::NamedOffset;
    use crate::core::runs::spec::fixture::spec;

    /// Specs that have every member and every kind of it.
    fn specs() -> Vec<RunSpec> {
        let mut first = spec("first");
        first.sources.get_mut("visits").unwrap().from = [(0, 3), (1, 0)].into();
        let ranges = [OffsetRange::new(2, 5), OffsetRange::new(7, 9)];
        first.settled = [(0, ranges.into_iter().collect())].into();
        let offsets = OffsetSet::of([("t".to_owned(), 1, 3..9), ("t".to_owned(), 1, 20..21)]);
        let bound = |offset: i64| -> NamedOffsets {
            let named = NamedOffset::of_number(offset).unwrap();
            [("t".to_owned(), [(1, named)].into())].into()
        };
        let by_offsets = RunSpec {
            asked: AskedRange {
                time: None,
                offsets: Some(OffsetBounds {
                    from: bound(-2),
                    to: bound(99),
                }),
                rows: Some(SelectedRows {
                    query: "SELECT …".into(),
                    offsets: offsets.clone(),
                }),
            },
            selection: Some(offsets.clone()),
            left_out: offsets.clone(),
            emission: Emission::Offsets(offsets),
            grouping: Grouping::Rows,
            watermark: None,
            begins: Some(-7),
            statics: BTreeMap::new(),
            options: RunOptions {
                emit: EmitRows::All,
                late: LateRows::Exclude,
                withdraw: false,
                overwrite: true,
                append: true,
                chunk: None,
                max_rows_per_second: Some(50_000),
                yields: false,
            },
            ..spec("second")
        };
        let kinds = [
            (WindowKind::Tumble, 10),
            (WindowKind::Hop, 5),
            (WindowKind::Cumulate, 2),
        ];
        let windows = kinds.map(|(kind, step)| RunSpec {
            grouping: Grouping::Aligned(AlignedWindows::try_new(kind, 10, step, 1).unwrap()),
            ..spec("windows")
        });
        [first, by_offsets].into_iter().chain(windows).collect()
    }

    #[test]
    fn specs_read_back() {
        for spec in specs() {
            let bytes = run_spec_bytes(&spec).unwrap();
            assert_eq!(read_run_spec(&bytes).unwrap(), spec);
        }
    }

    #[test]
    fn the_members_of_a_spec_are_stable() {
        let expected = concat!(
            r#"{"format":2,"run_id":"r","job":"sessions","job_id":"0b7e","text":"CREATE JOB sessions AS …","#,
            r#""tables":["CREATE EXTERNAL TABLE visits …"],"asked":{"time":[0,3600000000]},"#,
            r#""emission":{"time":[[0,3600000000]]},"grouping":{"sessions":{"gap":10000000}},"watermark":7200000000,"#,
            r#""sources":{"visits":{"archive":{"identity":{"kind":"delta_table","location":"file:///lake/visits_raw/","#,
            r#""id":"visits_raw"},"at":{"version":7}},"tail":{"identity":{"kind":"topic","topic":"visits","cluster":"c","#,
            r#""id":"1"},"at":{"ends":{"0":99,"1":5}}}}},"statics":{"users":{"identity":{"kind":"delta_table","#,
            r#""location":"file:///lake/users/","id":"users"},"at":{"version":3}}},"sink":{"kind":"topic","#,
            r#""topic":"sessions","cluster":"c","id":"2"},"now":8000000000,"options":{"emit":"changed","late":"include","#,
            r#""withdraw":true,"overwrite":false,"append":false,"chunk":600000000}}"#,
        );
        let json = serde_json::to_string(&SpecFile::from(spec("r"))).unwrap();
        assert_eq!(json, expected);
    }

    #[test]
    fn unknown_members_and_formats_are_refused() {
        let file = serde_json::to_value(SpecFile::from(spec("r"))).unwrap();
        let read = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut file = file.clone();
            change(&mut file);
            read_run_spec(&serde_json::to_vec(&file).unwrap())
        };
        assert!(read(&|_| ()).is_ok());
        let newer = read(&|file| file["format"] = 3.into());
        assert_eq!(newer, Err(UnreadableFile::Newer(3)));
        for (member, value) in [
            ("pace", 1.into()),
            (
                "grouping",
                serde_json::json!({"aligned": {"kind": "hop", "size": 3, "step": 2, "offset": 0}}),
            ),
            ("asked", serde_json::json!({"time": [5, 5]})),
            ("emission", serde_json::json!({"time": [[5, 4]]})),
        ] {
            let value: serde_json::Value = value;
            let damaged = read(&|file| file[member] = value.clone());
            let Err(UnreadableFile::Damaged(reason)) = damaged else {
                panic!("{member} is read");
            };
            assert!(reason.contains("format 2"), "{reason}");
        }
    }
}
