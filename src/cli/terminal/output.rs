//! Results to standard output as they come: aligned table, CSV, JSON.

use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::Arc;

use arrow_json::writer::{JsonArray, LineDelimited, Writer, WriterBuilder};
use datafusion::arrow::array::{Array, ArrayRef, RecordBatch};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::cli::args::Format;
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::planner::types::type_name;

/// Rows that are sampled to set the widths of a table's columns.
const SAMPLE_ROWS: usize = 1_000;
/// A longer cell than this, in a row behind the sample, does not widen its column.
const MAX_WIDTH: usize = 80;

/// Writes one result; [`ResultWriter::finish`] ends it.
pub(crate) struct ResultWriter<W: Write> {
    kind: OutputKind<W>,
    /// A name that two columns have.
    doubled: Option<String>,
    rows: usize,
}

enum OutputKind<W: Write> {
    Table(AlignedTable<W>),
    Csv {
        writer: W,
        header: bool,
        schema: SchemaRef,
    },
    Json(Writer<W, JsonArray>),
    Ndjson(Writer<W, LineDelimited>),
}

impl<W: Write> ResultWriter<W> {
    pub(crate) fn new(format: Format, schema: SchemaRef, out: W) -> Self {
        let json = || WriterBuilder::new().with_explicit_nulls(true);
        let mut names = HashSet::new();
        let doubled = schema.fields().iter().find(|of| !names.insert(of.name()));
        let doubled = doubled.map(|of| of.name().clone());
        let kind = match format {
            Format::Table => OutputKind::Table(AlignedTable::new(schema, out)),
            Format::Csv => OutputKind::Csv {
                writer: out,
                header: true,
                schema,
            },
            Format::Json => OutputKind::Json(json().build(out)),
            Format::Ndjson => OutputKind::Ndjson(json().build(out)),
        };
        Self {
            kind,
            doubled,
            rows: 0,
        }
    }

    /// An object of JSON has each name once.
    fn check_names(&self) -> Result<()> {
        match (&self.kind, &self.doubled) {
            (OutputKind::Json(_) | OutputKind::Ndjson(_), Some(name)) => Err(Error::invalid(
                format!("two columns are named {name}, and a JSON object has each name once"),
            )
            .with_help("name them: SELECT … AS …, or choose --format table or csv")),
            _ => Ok(()),
        }
    }

    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.check_names()?;
        self.rows += batch.num_rows();
        match &mut self.kind {
            OutputKind::Table(table) => table.write(batch),
            OutputKind::Csv { writer, header, .. } => {
                let first = std::mem::take(header);
                write_csv(writer, &plain(batch)?, first)
            }
            OutputKind::Json(writer) => writer.write(batch).map_err(write_error),
            OutputKind::Ndjson(writer) => writer.write(batch).map_err(write_error),
        }
    }

    /// Shows the rows written so far, for results without an end.
    pub(crate) fn flush(&mut self) -> Result<()> {
        let out: &mut W = match &mut self.kind {
            OutputKind::Table(table) => {
                if table.widths.is_none() {
                    table.start()?;
                }
                &mut table.out
            }
            OutputKind::Csv { writer, .. } => writer,
            OutputKind::Json(writer) => writer.get_mut(),
            OutputKind::Ndjson(writer) => writer.get_mut(),
        };
        out.flush().map_err(io_error)
    }

    /// Ends the result; gives the number of rows.
    pub(crate) fn finish(self) -> Result<usize> {
        self.check_names()?;
        match self.kind {
            OutputKind::Table(table) => table.finish()?,
            OutputKind::Csv {
                mut writer,
                header,
                schema,
            } => {
                if header {
                    write_csv(&mut writer, &plain(&RecordBatch::new_empty(schema))?, true)?;
                }
                writer.flush().map_err(io_error)?;
            }
            OutputKind::Json(mut writer) => {
                writer.finish().map_err(write_error)?;
                let mut out = writer.into_inner();
                out.write_all(b"\n")
                    .and_then(|()| out.flush())
                    .map_err(io_error)?;
            }
            OutputKind::Ndjson(mut writer) => {
                writer.finish().map_err(write_error)?;
                writer.into_inner().flush().map_err(io_error)?;
            }
        }
        Ok(self.rows)
    }
}

/// Standard output was closed, as `head` does: not an error, and the program ends.
pub(crate) fn is_broken_pipe(error: &Error) -> bool {
    error.kind() == ErrorKind::Cancelled && error.subjects().contains(&Subject::Output)
}

fn io_error(error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Error::new(ErrorKind::Cancelled, "standard output was closed")
            .about(Subject::Output);
    }
    Error::from(error)
}

fn write_error(error: datafusion::arrow::error::ArrowError) -> Error {
    match error {
        datafusion::arrow::error::ArrowError::IoError(_, error) => io_error(error),
        other => Error::data(other.to_string()),
    }
}

/// As PostgreSQL writes it: NULL is an empty field, an empty text is a pair of quotes.
fn write_csv<W: Write>(out: &mut W, batch: &RecordBatch, header: bool) -> Result<()> {
    let options = FormatOptions::default()
        .with_timestamp_format(Some("%Y-%m-%dT%H:%M:%S%.f"))
        .with_timestamp_tz_format(Some("%Y-%m-%dT%H:%M:%S%.fZ"));
    let cells = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options).map_err(write_error))
        .collect::<Result<Vec<_>>>()?;
    let mut lines = String::new();
    if header {
        for (place, field) in batch.schema().fields().iter().enumerate() {
            write_csv_field(&mut lines, place, field.name());
        }
        lines.push('\n');
    }
    let columns = batch.columns().iter();
    let nulls: Vec<Option<NullBuffer>> = columns.map(|column| column.logical_nulls()).collect();
    let mut text = String::new();
    for row in 0..batch.num_rows() {
        for (place, (nulls, cells)) in nulls.iter().zip(&cells).enumerate() {
            if is_null(nulls.as_ref(), row) {
                lines.push_str(if place > 0 { "," } else { "" });
                continue;
            }
            text.clear();
            cells.value(row).write(&mut text).map_err(write_error)?;
            write_csv_field(&mut lines, place, &text);
        }
        lines.push('\n');
    }
    out.write_all(lines.as_bytes()).map_err(io_error)
}

/// Whether the value is NULL. For a column of type Null, or with a dictionary, the array's own NULLs do not tell.
fn is_null(logical: Option<&NullBuffer>, row: usize) -> bool {
    logical.is_some_and(|nulls| nulls.is_null(row))
}

fn write_csv_field(line: &mut String, place: usize, text: &str) {
    if place > 0 {
        line.push(',');
    }
    let is_plain = !text.is_empty() && !text.contains([',', '"', '\n', '\r']);
    if is_plain {
        line.push_str(text);
    } else {
        line.push('"');
        line.push_str(&text.replace('"', "\"\""));
        line.push('"');
    }
}

/// Whether CSV has no form for it. Times are written as those of UTC: others keep their offset as text.
fn is_text_in_csv(of: &DataType) -> bool {
    match of {
        DataType::Timestamp(_, Some(zone)) => zone.as_ref() != "UTC",
        other => other.is_nested(),
    }
}

/// The columns as CSV can have them.
fn plain(batch: &RecordBatch) -> Result<RecordBatch> {
    let schema = batch.schema();
    let mut types = schema.fields().iter().map(|field| field.data_type());
    if !types.any(is_text_in_csv) {
        return Ok(batch.clone());
    }
    // Within a list or a struct an empty text is written without quotes, so NULL has to be written as NULL.
    let options = FormatOptions::default().with_null("NULL");
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(batch.num_columns());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        if is_text_in_csv(field.data_type()) {
            let cells = ArrayFormatter::try_new(column, &options).map_err(write_error)?;
            let nulls = column.logical_nulls();
            let text: datafusion::arrow::array::StringArray = (0..column.len())
                .map(|row| (!is_null(nulls.as_ref(), row)).then(|| cells.value(row).to_string()))
                .collect();
            fields.push(Field::new(field.name(), DataType::Utf8, true));
            columns.push(Arc::new(text));
        } else {
            fields.push(field.as_ref().clone());
            columns.push(Arc::clone(column));
        }
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(write_error)
}

/// An aligned table: widths come from the first rows, the rest streams. A cell with several
/// lines, such as a plan, is shown on several lines.
struct AlignedTable<W: Write> {
    schema: SchemaRef,
    out: W,
    held: Vec<Vec<String>>,
    widths: Option<Vec<usize>>,
}

impl<W: Write> AlignedTable<W> {
    fn new(schema: SchemaRef, out: W) -> Self {
        Self {
            schema,
            out,
            held: Vec::new(),
            widths: None,
        }
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let options = FormatOptions::default().with_null("NULL");
        let cells = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options).map_err(write_error))
            .collect::<Result<Vec<_>>>()?;
        for row in 0..batch.num_rows() {
            let line: Vec<String> = cells
                .iter()
                .map(|cells| cell(&cells.value(row).to_string()))
                .collect();
            match &self.widths {
                Some(widths) => write_row(&mut self.out, &line, widths, &self.schema)?,
                None => {
                    self.held.push(line);
                    if self.held.len() >= SAMPLE_ROWS {
                        self.start()?;
                    }
                }
            }
        }
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        let fields = self.schema.fields();
        let names: Vec<String> = fields.iter().map(|field| cell(field.name())).collect();
        let types: Vec<String> = fields
            .iter()
            .map(|field| type_name(field.data_type()))
            .collect();
        let cap = if self.held.len() < SAMPLE_ROWS {
            usize::MAX
        } else {
            MAX_WIDTH
        };
        let widths: Vec<usize> = (0..names.len())
            .map(|column| {
                let held = self.held.iter().map(|line| width(&line[column]));
                let head = [width(&names[column]), width(&types[column])];
                held.chain(head).max().unwrap_or(0).min(cap)
            })
            .collect();
        let rule: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
        for line in [&names, &types, &rule] {
            write_row(&mut self.out, line, &widths, &Schema::empty())?;
        }
        for line in std::mem::take(&mut self.held) {
            write_row(&mut self.out, &line, &widths, &self.schema)?;
        }
        self.widths = Some(widths);
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        if self.widths.is_none() {
            self.start()?;
        }
        self.out.flush().map_err(io_error)
    }
}

fn write_row(
    out: &mut impl Write,
    cells: &[String],
    widths: &[usize],
    schema: &Schema,
) -> Result<()> {
    let height = cells
        .iter()
        .map(|cell| cell.lines().count())
        .max()
        .unwrap_or(0)
        .max(1);
    for part in 0..height {
        let mut line = String::new();
        for (column, cell) in cells.iter().enumerate() {
            let text = cell.lines().nth(part).unwrap_or_default();
            let pad = " ".repeat(widths[column].saturating_sub(width(text)));
            let field = schema.fields().get(column);
            let numeric = field.is_some_and(|field| field.data_type().is_numeric());
            let (left, right) = if numeric {
                (pad.as_str(), "")
            } else {
                ("", pad.as_str())
            };
            line.push_str(&format!("{left}{text}{right}  "));
        }
        writeln!(out, "{}", line.trim_end()).map_err(io_error)?;
    }
    Ok(())
}

/// Escapes characters that would break the layout; lines stay lines.
fn cell(text: &str) -> String {
    text.trim_end_matches('\n')
        .replace('\r', "\\r")
        .replace('\t', "\\t")
}

/// The longest line.
fn width(text: &str) -> usize {
    text.lines()
        .map(|line| line.chars().count())
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{
        DictionaryArray, Int64Array, ListBuilder, NullArray, StringArray, StringBuilder,
        TimestampMicrosecondArray,
    };
    use datafusion::arrow::datatypes::Int32Type;

    use super::*;

    #[test]
    fn times_of_another_zone_keep_their_offset_in_csv() {
        let noon = || TimestampMicrosecondArray::from(vec![Some(1_751_364_000_000_000), None]);
        let column = |zone: &str| Arc::new(noon().with_timezone(zone)) as ArrayRef;
        let columns = [
            ("here", column("UTC")),
            ("there", column("Europe/Paris")),
            ("nowhere", Arc::new(noon()) as ArrayRef),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut csv = Vec::new();
        write_csv(&mut csv, &plain(&batch).unwrap(), true).unwrap();
        let csv = String::from_utf8(csv).unwrap();
        let row = "2025-07-01T10:00:00Z,2025-07-01T12:00:00+02:00,2025-07-01T10:00:00";
        assert_eq!(csv, format!("here,there,nowhere\n{row}\n,,\n"));
    }

    #[test]
    fn null_and_an_empty_text_differ_in_csv() {
        let texts = [
            Some(""),
            None,
            Some("a,b"),
            Some("say \"x\""),
            Some("two\nlines"),
            Some("x"),
        ];
        let text: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        let one = RecordBatch::try_from_iter([("t", Arc::clone(&text))]).unwrap();
        let two = RecordBatch::try_from_iter([("", Arc::clone(&text)), ("u", text)]).unwrap();
        let csv = |batch: &RecordBatch| {
            let mut csv = Vec::new();
            write_csv(&mut csv, &plain(batch).unwrap(), true).unwrap();
            String::from_utf8(csv).unwrap()
        };
        let quoted = "\"a,b\"\n\"say \"\"x\"\"\"\n\"two\nlines\"\nx\n";
        assert_eq!(csv(&one), format!("t\n\"\"\n\n{quoted}"));
        assert!(csv(&two).starts_with("\"\",u\n\"\",\"\"\n,\n\"a,b\",\"a,b\"\n"));
    }

    #[test]
    fn json_refuses_duplicate_column_names() {
        let number = |value: i64| Arc::new(Int64Array::from(vec![value])) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("a", number(1)), ("a", number(2))]).unwrap();
        for format in [Format::Json, Format::Ndjson] {
            let mut out: Vec<u8> = Vec::new();
            let mut writer = ResultWriter::new(format, batch.schema(), &mut out);
            let error = writer.write(&batch).unwrap_err();
            assert!(
                error.message().contains("two columns are named a"),
                "{error}"
            );
            // Also where there are no rows.
            let empty = ResultWriter::new(format, batch.schema(), Vec::<u8>::new());
            assert!(empty.finish().is_err());
            assert!(out.is_empty());
        }
        for (format, shown) in [
            (Format::Csv, "a,a\n1,2\n"),
            (Format::Table, "BIGINT  BIGINT\n"),
        ] {
            let mut out = Vec::new();
            let mut writer = ResultWriter::new(format, batch.schema(), &mut out);
            writer.write(&batch).unwrap();
            writer.finish().unwrap();
            let out = String::from_utf8(out).unwrap();
            assert!(out.contains(shown), "{out}");
        }
    }

    #[test]
    fn untyped_and_nested_null_differ_from_empty_text() {
        let nothing: ArrayRef = Arc::new(NullArray::new(2));
        let codes: DictionaryArray<Int32Type> = vec![Some(""), None].into_iter().collect();
        let mut lists = ListBuilder::new(StringBuilder::new());
        lists.append_value([Some(""), None]);
        lists.append_null();
        let columns: [(&str, ArrayRef); 3] = [
            ("n", nothing),
            ("d", Arc::new(codes)),
            ("l", Arc::new(lists.finish())),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut csv = Vec::new();
        write_csv(&mut csv, &plain(&batch).unwrap(), true).unwrap();
        let csv = String::from_utf8(csv).unwrap();
        assert_eq!(csv, "n,d,l\n,\"\",\"[, NULL]\"\n,,\n");
    }
}
