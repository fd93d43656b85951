//! The offsets that the files of an archive have: the log says them of some files; of each other one this module reads partition and
//! offset of the rows, once.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array as _, AsArray as _, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int32Type, Int64Type};
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::DataFusionError;
use futures::StreamExt as _;

use crate::core::archive::{FileSpans, OffsetSpan};
use crate::error::{Error, Result, Subject};
use crate::tables::archive::covered_files::{
    CoveredFiles, PlacedRows, ReadFiles, add_spans, archive_key,
};
use crate::tables::archive::mapping::ArchiveMapping;
use crate::tables::archive::topic_rows::TopicFiles;
use crate::tables::delta::{FileBounds, TextShare, file_bounds, file_rows};

/// What each file of a version has of the topic's partitions; files without rows of the topic are left out.
///
/// A file of a table that is partitioned by the topic's partition, or that has rows of one partition alone, is known by its statistics.
/// Of each other file this reads partition and offset, two columns of whole numbers, and [`CoveredFiles`] keep what is found there.
///
/// # Errors
///
/// Files that cannot be read; rows without partition or offset.
pub(super) async fn spans_of(
    delta: &Arc<dyn TableProvider>,
    mapping: &ArchiveMapping,
    session: &dyn Session,
) -> Result<Vec<Arc<FileSpans>>> {
    let columns = [mapping.partition(), mapping.offset()];
    let names = columns.map(|column| column.name.as_str());
    let files = file_bounds(delta.as_ref(), &names)?;
    let topic = mapping.topic();
    let of_topic = TopicFiles::new(delta.as_ref(), topic)?;
    let archive = archive_key(delta.as_ref(), mapping)?;
    let kept = session.config().get_extension::<CoveredFiles>();
    let mut read = ReadFiles::default();
    let mut found = Vec::with_capacity(files.len());
    let mut unknown = BTreeMap::new();
    for file in files {
        let by_log = match of_topic.share(&file) {
            TextShare::All => by_log(&file),
            TextShare::None => continue,
            TextShare::Unknown => None,
        };
        // Rows of a file with deleted ones may become fewer.
        let kept = kept.as_ref().filter(|_| file.is_whole);
        let spans = match by_log {
            Some(spans) => Some(Arc::new(spans)),
            None => kept.and_then(|kept| kept.get(&archive, &file.path)?.spans),
        };
        match spans {
            Some(spans) => found.push(spans),
            None => {
                if kept.is_some() {
                    read.begin(&file.path);
                }
                unknown.insert(file.path, FileSpans::new());
            }
        }
    }
    if unknown.is_empty() {
        return Ok(found);
    }
    let paths = unknown.keys().cloned().collect();
    let columns = columns.into_iter().chain(topic.map(|topic| &topic.column));
    let indices: Vec<usize> = columns.map(|column| column.index).collect();
    let mut rows = file_rows(delta.as_ref(), session, paths, &indices).await?;
    while let Some(batch) = rows.next().await {
        let (path, mut batch) = batch?;
        if let Some(topic) = topic {
            batch = topic.of(&batch, 2)?;
        }
        let spans = unknown
            .get_mut(&path)
            .ok_or_else(|| Error::internal("rows of a file that was not asked for"))?;
        let placed = placed(&batch, mapping.archive())?;
        add_spans(spans, &placed.spans);
        read.add(&path, &placed, true);
    }
    if let Some(kept) = kept {
        kept.put(&archive, read);
    }
    found.extend(unknown.into_values().map(Arc::new));
    Ok(found)
}

/// What the log says of a file; none if it does not say it all.
fn by_log(file: &FileBounds) -> Option<FileSpans> {
    let rows = file.rows?;
    if rows == 0 {
        return Some(FileSpans::new());
    }
    let [Some((lowest, highest)), Some((first, last))] = file.bounds[..] else {
        return None;
    };
    let partition = i32::try_from(lowest).ok().filter(|_| lowest == highest)?;
    Some([(partition, OffsetSpan { first, last, rows })].into())
}

/// Rows whose first two columns are their partitions and offsets.
fn placed(rows: &RecordBatch, archive: &str) -> Result<PlacedRows> {
    let partitions = cast(rows.column(0), &DataType::Int32).map_err(DataFusionError::from)?;
    let offsets = cast(rows.column(1), &DataType::Int64).map_err(DataFusionError::from)?;
    if partitions.null_count() + offsets.null_count() > 0 {
        return Err(Error::data(format!(
            "archive {archive} has a row without partition or offset"
        ))
        .about(Subject::table(archive)));
    }
    Ok(PlacedRows::of(
        partitions.as_primitive::<Int32Type>().values(),
        offsets.as_primitive::<Int64Type>().values(),
    ))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int32Array, Int64Array};

    use super::*;

    fn file(rows: Option<u64>, bounds: [Option<(i64, i64)>; 2]) -> FileBounds {
        FileBounds {
            path: "f".to_owned(),
            is_whole: true,
            rows,
            bounds: bounds.to_vec(),
        }
    }

    #[test]
    fn the_log_knows_files_of_one_partition() {
        let span = |first, last, rows| OffsetSpan { first, last, rows };
        let one = file(Some(4), [Some((2, 2)), Some((10, 15))]);
        assert_eq!(by_log(&one), Some([(2, span(10, 15, 4))].into()));
        let none = file(Some(0), [None, None]);
        assert_eq!(by_log(&none), Some(FileSpans::new()));
        for unknown in [
            file(None, [Some((2, 2)), Some((10, 15))]),
            file(Some(4), [Some((1, 2)), Some((10, 15))]),
            file(Some(4), [Some((2, 2)), None]),
            file(Some(4), [None, Some((10, 15))]),
        ] {
            assert_eq!(by_log(&unknown), None, "{unknown:?}");
        }
    }

    #[test]
    fn rows_are_added_up_by_partition() {
        let columns: [ArrayRef; 2] = [
            Arc::new(Int32Array::from(vec![0, 0, 1, 0, 1])),
            Arc::new(Int64Array::from(vec![5, 3, 9, 7, 2])),
        ];
        let [partitions, offsets] = columns;
        let rows = RecordBatch::try_from_iter([("p", partitions), ("o", offsets)]).unwrap();
        let mut spans = FileSpans::new();
        for rows in [rows.slice(0, 5), rows.slice(0, 1)] {
            add_spans(&mut spans, &placed(&rows, "a").unwrap().spans);
        }
        let span = |first, last, rows| OffsetSpan { first, last, rows };
        assert_eq!(spans, [(0, span(3, 7, 4)), (1, span(2, 9, 2))].into());
        let columns: [(&str, ArrayRef); 2] = [
            ("p", Arc::new(Int32Array::from(vec![None::<i32>]))),
            ("o", Arc::new(Int64Array::from(vec![1]))),
        ];
        let rows = RecordBatch::try_from_iter_with_nullable(
            columns.map(|(name, column)| (name, column, true)),
        );
        let error = placed(&rows.unwrap(), "a").unwrap_err();
        assert!(
            error.to_string().contains("without partition or offset"),
            "{error}"
        );
    }
}
