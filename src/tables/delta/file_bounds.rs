//! Files of a pinned version: what the log says of whole numbers in them, and the rows of some of them, each with its file.

use std::cmp::Ordering;
use std::collections::HashMap;

use datafusion::arrow::array::{Array as _, AsArray as _, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::DataFusionError;
use datafusion::physical_plan::execute_stream;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};

use super::placed_rows::NumberedFiles;
use super::provider::{DeltaTableProvider, register_store};
use super::scan::TableScan;
use super::stream_files::{FILE_COLUMN, file_of};
use crate::error::{Error, Result};

/// A file of a version, and what the log says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileBounds {
    /// Its path, relative to the table.
    pub path: String,
    /// Whether none of its rows is deleted.
    pub is_whole: bool,
    /// How many rows it has, if the log says so and none of them is deleted.
    pub rows: Option<u64>,
    /// For each column that was asked for, its lowest and highest value; none where the log does not say so, or where there may be
    /// NULL.
    pub bounds: Vec<Option<(i64, i64)>>,
}

/// What the log says of the rows of a file that have a text in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextShare {
    /// All rows have it.
    All,
    /// No row has it or NULL.
    None,
    /// The log does not say.
    Unknown,
}

/// The version that a provider of a Delta table reads; none of another provider.
pub fn snapshot_version(table: &dyn TableProvider) -> Option<u64> {
    table.downcast_ref::<DeltaTableProvider>()?.table.version()
}

/// What tells the Delta table of a provider from all others: where it is, and its id.
///
/// # Errors
///
/// Another provider than that of a Delta table; a table that is not loaded.
pub fn table_key(table: &dyn TableProvider) -> Result<String> {
    let table = &of_delta(table)?.table;
    let snapshot = table.snapshot();
    let snapshot = snapshot.map_err(|error| Error::internal(error.to_string()))?;
    let log = table.log_store();
    Ok(format!("{} {}", log.root_url(), snapshot.metadata().id()))
}

/// The partition columns of the version that a provider of a Delta table reads; none of another provider.
pub fn partition_columns(table: &dyn TableProvider) -> Vec<String> {
    let table = table.downcast_ref::<DeltaTableProvider>();
    table.map_or_else(Vec::new, |table| table.rules.partition_by.clone())
}

/// The files of a version with the bounds of these columns, which have whole numbers. No file is opened.
///
/// # Errors
///
/// Another provider than that of a Delta table; a log that cannot be read.
pub fn file_bounds(table: &dyn TableProvider, columns: &[&str]) -> Result<Vec<FileBounds>> {
    let table = of_delta(table)?;
    // Statistics of mapped columns have the names of files.
    let has_names = table.rules.mapped.is_none();
    let mut found = Vec::new();
    for files in &batches_of_files(table)? {
        let paths = paths_of(files)?;
        let deleted = files.column_by_name("deletion_vector.cardinality");
        let rows = numbers(files, "num_records")?;
        let of_columns = columns.iter().map(|name| {
            Ok(match has_names {
                false => None,
                true if table.rules.partition_by.iter().any(|by| by == name) => {
                    let values = numbers(files, &format!("partition.{name}"))?;
                    values.map(|values| (values.clone(), values, None))
                }
                true => {
                    let low = numbers(files, &format!("min.{name}"))?;
                    let high = numbers(files, &format!("max.{name}"))?;
                    let nulls = numbers(files, &format!("null_count.{name}"))?;
                    let bounds = low.zip(high).zip(nulls);
                    bounds.map(|((low, high), nulls)| (low, high, Some(nulls)))
                }
            })
        });
        let of_columns = of_columns.collect::<Result<Vec<_>>>()?;
        for file in 0..files.num_rows() {
            // The bounds of a file stay where they are when its rows are deleted.
            let is_whole = deleted.is_none_or(|deleted| deleted.is_null(file));
            let bounds = of_columns.iter().map(|column| {
                let (low, high, nulls) = column.as_ref().filter(|_| is_whole)?;
                let is_known = |nulls: &Int64Array| at(nulls, file) == Some(0);
                if !nulls.as_ref().is_none_or(is_known) {
                    return None;
                }
                at(low, file).zip(at(high, file))
            });
            let rows = rows.as_ref().filter(|_| is_whole);
            let rows = rows.and_then(|rows| at(rows, file));
            found.push(FileBounds {
                path: paths.value(file).to_owned(),
                is_whole,
                rows: rows.and_then(|rows| u64::try_from(rows).ok()),
                bounds: bounds.collect(),
            });
        }
    }
    Ok(found)
}

/// For each file of a version, by its path, whether its rows have `text` in a column of texts. No file is opened.
///
/// # Errors
///
/// Another provider than that of a Delta table; a log that cannot be read.
pub fn files_with(
    table: &dyn TableProvider,
    column: &str,
    text: &str,
) -> Result<HashMap<String, TextShare>> {
    let table = of_delta(table)?;
    let mut found = HashMap::new();
    for files in &batches_of_files(table)? {
        let paths = paths_of(files)?;
        let bounds = match &table.rules {
            // Statistics of mapped columns have the names of files.
            rules if rules.mapped.is_some() => None,
            rules if rules.partition_by.iter().any(|by| by == column) => {
                let values = texts(files, &format!("partition.{column}"))?;
                values.map(|values| (values.clone(), values, None))
            }
            _ => {
                let low = texts(files, &format!("min.{column}"))?;
                let high = texts(files, &format!("max.{column}"))?;
                let nulls = numbers(files, &format!("null_count.{column}"))?;
                let bounds = low.zip(high).zip(nulls);
                bounds.map(|((low, high), nulls)| (low, high, Some(nulls)))
            }
        };
        for file in 0..files.num_rows() {
            // A long text may be cut, the lowest one down and the highest one up: that widens the range.
            let share = bounds.as_ref().and_then(|(low, high, nulls)| {
                if nulls
                    .as_ref()
                    .is_some_and(|nulls| at(nulls, file) != Some(0))
                {
                    return None;
                }
                let of =
                    |texts: &StringArray| texts.is_valid(file).then(|| texts.value(file).cmp(text));
                match (of(low)?, of(high)?) {
                    (Ordering::Equal, Ordering::Equal) => Some(TextShare::All),
                    (Ordering::Greater, _) | (_, Ordering::Less) => Some(TextShare::None),
                    _ => None,
                }
            });
            let path = paths.value(file).to_owned();
            found.insert(path, share.unwrap_or(TextShare::Unknown));
        }
    }
    Ok(found)
}

/// Batches of the rows of these files, each with the path of the file that all its rows are in; `columns` are indices of the
/// table's. Files are read in any order.
///
/// # Errors
///
/// Another provider than that of a Delta table; files that cannot be read.
pub async fn file_rows(
    table: &dyn TableProvider,
    session: &dyn Session,
    files: Vec<String>,
    columns: &[usize],
) -> Result<BoxStream<'static, Result<(String, RecordBatch)>>> {
    if files.is_empty() {
        return Ok(futures::stream::empty().boxed());
    }
    let table = of_delta(table)?;
    register_store(&table.table, session)?;
    let scan = TableScan::with_files(&table.table, FILE_COLUMN);
    let scan = scan.map_err(|error| Error::internal(error.to_string()))?;
    let scan = scan.of_paths(files.iter().cloned());
    let of_file = scan.schema().index_of(FILE_COLUMN);
    let of_file = of_file.map_err(|error| Error::internal(error.to_string()))?;
    let mut projection = columns.to_vec();
    projection.push(of_file);
    let plan = scan.scan(session, Some(&projection), &[], None).await?;
    let rows = execute_stream(plan, session.task_ctx())?;
    let numbered = NumberedFiles::new(&table.table, files);
    let with_path = move |rows: RecordBatch| -> Result<(String, RecordBatch)> {
        let url = file_of(&rows)?;
        let number = numbered.number(url);
        let path = number.and_then(|number| numbered.path(number));
        let path = path.map(str::to_owned).ok_or_else(|| {
            Error::internal(format!("rows of a file that was not asked for: {url}"))
        })?;
        Ok((path, rows))
    };
    let rows = rows.map_err(Error::from);
    let rows = rows.try_filter(|rows| futures::future::ready(rows.num_rows() > 0));
    let rows = rows.map(move |rows| with_path(rows?));
    Ok(rows.boxed())
}

fn of_delta(table: &dyn TableProvider) -> Result<&DeltaTableProvider> {
    let table = table.downcast_ref::<DeltaTableProvider>();
    table.ok_or_else(|| Error::internal("the files of a table that is not of Delta"))
}

/// The files of a version, with partition values and statistics.
fn batches_of_files(table: &DeltaTableProvider) -> Result<Vec<RecordBatch>> {
    let unreadable = |error: &dyn std::fmt::Display| Error::internal(error.to_string());
    let snapshot = table.table.snapshot().map_err(|error| unreadable(&error))?;
    let batches = snapshot.add_actions_batches(true);
    batches.map_err(|error| unreadable(&error))
}

fn paths_of(files: &RecordBatch) -> Result<StringArray> {
    let paths = texts(files, "path")?;
    paths.ok_or_else(|| Error::internal("files without paths"))
}

/// A column of texts; none if there is none or it has no texts.
fn texts(files: &RecordBatch, name: &str) -> Result<Option<StringArray>> {
    let Some(column) = files.column_by_name(name) else {
        return Ok(None);
    };
    let texts = match column.data_type() {
        DataType::Dictionary(_, of) if of.is_string() => cast(column, &DataType::Utf8),
        of if of.is_string() => cast(column, &DataType::Utf8),
        _ => return Ok(None),
    };
    let texts = texts.map_err(DataFusionError::from)?;
    Ok(texts.as_string_opt::<i32>().cloned())
}

/// A column of whole numbers; none if there is none or it has no numbers.
fn numbers(files: &RecordBatch, name: &str) -> Result<Option<Int64Array>> {
    let Some(column) = files.column_by_name(name) else {
        return Ok(None);
    };
    if !column.data_type().is_integer() {
        return Ok(None);
    }
    let numbers = cast(column, &DataType::Int64).map_err(DataFusionError::from)?;
    Ok(numbers.as_primitive_opt::<Int64Type>().cloned())
}

fn at(numbers: &Int64Array, row: usize) -> Option<i64> {
    numbers.is_valid(row).then(|| numbers.value(row))
}
