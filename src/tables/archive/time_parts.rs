//! Columns of an archive that are parts of the event time: year, month, day, hour; or a date and an hour. Ranges of event time become
//! predicates on them.

use chrono::{DateTime, Datelike as _, Timelike as _};
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray as _, Int64Array, TimestampMicrosecondArray,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type, Schema};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::utils::{conjunction, disjunction};
use datafusion::logical_expr::{Expr, Operator, ident};

use crate::error::{Error, Result};
use crate::formats::sql_name;
use crate::formats::text::zone::{Zone, ZoneOffsets};
use crate::tables::archive::mapped_column::{MappedColumn, is_text};
use crate::tables::delta::lexicographic;

/// The names that partition columns of this kind usually have.
const USUAL: [&str; 4] = ["year", "month", "day", "hour"];

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3_600;

/// A part of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TimePart {
    Year,
    Month,
    Day,
    Hour,
    /// Year, month and day in one column.
    Date,
}

impl TimePart {
    /// The part that a column is, which follows the part `before` and may be a date.
    fn after(before: Option<Self>, is_date: bool) -> Option<Self> {
        match (before, is_date) {
            (None, true) => Some(Self::Date),
            (None, false) => Some(Self::Year),
            (Some(Self::Year), false) => Some(Self::Month),
            (Some(Self::Month), false) => Some(Self::Day),
            (Some(Self::Day | Self::Date), false) => Some(Self::Hour),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Year => "year",
            Self::Month => "month",
            Self::Day => "day",
            Self::Hour => "hour",
            Self::Date => "date",
        }
    }
}

/// Columns that follow from the event time, the coarsest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeParts {
    parts: Vec<(TimePart, MappedColumn)>,
    zone: Zone,
}

impl TimeParts {
    /// These columns are parts of a time in `zone`: each of the ones before it.
    ///
    /// # Errors
    ///
    /// A column of a type that no part has, or one too many.
    pub(super) fn try_new(columns: Vec<MappedColumn>, zone: Zone) -> Result<Self> {
        let mut parts: Vec<(TimePart, MappedColumn)> = Vec::with_capacity(columns.len());
        for column in columns {
            let of = &column.data_type;
            let is_date = *of == DataType::Date32 || is_text(of);
            if !is_date && !of.is_signed_integer() {
                let (name, of) = (&column.name, sql_name(of));
                return Err(Error::invalid(format!(
                    "column {name} of type {of} is no part of a time"
                ))
                .with_help(
                    "parts are INT or BIGINT, the first may also be DATE or a date as VARCHAR",
                ));
            }
            let before = parts.last().map(|(part, _)| *part);
            let Some(part) = TimePart::after(before, is_date) else {
                let name = &column.name;
                return Err(Error::invalid(format!("column {name} cannot follow the {}", before.map_or("", TimePart::name)))
                    .with_help("name the columns from coarse to fine: 'year, month, day, hour', or a DATE and an hour"));
            };
            parts.push((part, column));
        }
        Ok(Self { parts, zone })
    }

    /// The columns, the coarsest first.
    pub(super) fn columns(&self) -> impl Iterator<Item = &MappedColumn> {
        self.parts.iter().map(|(_, column)| column)
    }

    /// A predicate that holds for all rows with an event time in one of `ranges`, if the columns are what they are said to be, and for
    /// rows that have NULL in one of them. `None`: it would hold for all rows.
    pub(super) fn predicate(&self, ranges: &[(Option<i64>, Option<i64>)]) -> Option<Expr> {
        let within = ranges.iter().map(|range| self.within(*range));
        let within: Vec<Expr> = within.collect::<Option<_>>()?;
        let nulls = self.columns().map(|column| ident(&column.name).is_null());
        disjunction(within.into_iter().chain(nulls))
    }

    fn within(&self, (low, high): (Option<i64>, Option<i64>)) -> Option<Expr> {
        let mut predicates = Vec::new();
        if let Some(low) = low {
            let low = low.div_euclid(SECOND);
            let values = self.values(low + i64::from(self.offsets_around(low).0))?;
            predicates.extend(lexicographic(&values, Operator::Gt, Operator::GtEq));
        }
        if let Some(high) = high {
            let high = high.div_euclid(SECOND);
            let values = self.values(high + i64::from(self.offsets_around(high).1))?;
            predicates.extend(lexicographic(&values, Operator::Lt, Operator::LtEq));
        }
        conjunction(predicates)
    }

    /// The least and the greatest offset of the zone around a time, in seconds: local time may go back there. Clocks were never set back
    /// by more than a day.
    fn offsets_around(&self, time: i64) -> (i32, i32) {
        let mut offsets = ZoneOffsets::new(self.zone);
        let near = (-26..=26).map(|hours| offsets.of_utc(time.saturating_add(hours * HOUR)));
        near.fold((i32::MAX, i32::MIN), |(least, most), offset| {
            (least.min(offset), most.max(offset))
        })
    }

    /// The columns with their values at a local time in seconds; none for a year that has not four digits.
    fn values(&self, local: i64) -> Option<Vec<(Expr, ScalarValue)>> {
        let at = LocalHour::of(local)?;
        let values = self.parts.iter().map(|(part, column)| {
            let value = at.part(*part);
            let literal = match &column.data_type {
                of if is_text(of) => ScalarValue::from(at.date_text()).cast_to(of),
                DataType::Date32 => Ok(ScalarValue::Date32(i32::try_from(value).ok())),
                of => ScalarValue::Int64(Some(value)).cast_to(of),
            };
            Some((ident(&column.name), literal.ok()?))
        });
        values.collect()
    }

    /// The first row whose event time, in microseconds, has other parts than `columns` say, which are the columns in their order, or that
    /// has none. Of rows with NULL in one of the columns nothing is said; the rows `left_out`, ascending, are not compared.
    ///
    /// # Errors
    ///
    /// Columns of other types.
    pub(super) fn first_other(
        &self,
        times: &TimestampMicrosecondArray,
        columns: &[ArrayRef],
        left_out: &[usize],
    ) -> Result<Option<usize>> {
        let claimed = self.parts.iter().zip(columns);
        let claimed = claimed.map(|((_, column), values)| whole_numbers(values, &column.data_type));
        let claimed = claimed.collect::<Result<Vec<Int64Array>>>()?;
        let mut offsets = ZoneOffsets::new(self.zone);
        let mut hour: Option<(i64, Option<LocalHour>)> = None;
        for row in 0..times.len() {
            let says_nothing = columns.iter().any(|column| column.is_null(row));
            if says_nothing || left_out.binary_search(&row).is_ok() {
                continue;
            }
            if times.is_null(row) {
                return Ok(Some(row));
            }
            let time = times.value(row).div_euclid(SECOND);
            let local = time.saturating_add(i64::from(offsets.of_utc(time)));
            let bucket = local.div_euclid(HOUR);
            // Neighbouring rows are close in time.
            let at = match &hour {
                Some((known, at)) if *known == bucket => *at,
                _ => {
                    let at = LocalHour::of(local);
                    hour = Some((bucket, at));
                    at
                }
            };
            let is_same = at.is_some_and(|at| {
                let mut parts = self.parts.iter().zip(&claimed);
                // A text that is no date became NULL.
                parts.all(|((part, _), claimed)| {
                    claimed.is_valid(row) && claimed.value(row) == at.part(*part)
                })
            });
            if !is_same {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    /// For people: what the columns say of a row, and the zone.
    pub(super) fn shown(&self, columns: &[ArrayRef], row: usize) -> String {
        let shown = self.columns().zip(columns).map(|(column, values)| {
            let value = ScalarValue::try_from_array(values, row);
            let value = value.map_or_else(|_| "?".to_owned(), |value| value.to_string());
            format!("{}={value}", column.name)
        });
        let shown: Vec<String> = shown.collect();
        shown.join(", ")
    }
}

/// An hour of local time.
#[derive(Debug, Clone, Copy)]
struct LocalHour {
    year: i32,
    month: u32,
    day: u32,
    hour: u32,
    days: i64,
}

impl LocalHour {
    fn of(local: i64) -> Option<Self> {
        let at = DateTime::from_timestamp(local, 0)?;
        (0..=9999).contains(&at.year()).then(|| Self {
            year: at.year(),
            month: at.month(),
            day: at.day(),
            hour: at.hour(),
            days: local.div_euclid(24 * HOUR),
        })
    }

    fn part(self, part: TimePart) -> i64 {
        match part {
            TimePart::Year => i64::from(self.year),
            TimePart::Month => i64::from(self.month),
            TimePart::Day => i64::from(self.day),
            TimePart::Hour => i64::from(self.hour),
            TimePart::Date => self.days,
        }
    }

    fn date_text(self) -> String {
        format!("{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

/// Numbers as they are, dates as days since 1970.
fn whole_numbers(values: &ArrayRef, data_type: &DataType) -> Result<Int64Array> {
    let wrong = |error: datafusion::arrow::error::ArrowError| Error::internal(error.to_string());
    let values = match is_text(data_type) {
        true => cast(values, &DataType::Date32).map_err(wrong)?,
        false => values.clone(),
    };
    let values = match values.data_type() {
        DataType::Date32 => cast(&values, &DataType::Int32).map_err(wrong)?,
        _ => values,
    };
    let numbers = cast(&values, &DataType::Int64).map_err(wrong)?;
    let numbers = numbers.as_primitive_opt::<Int64Type>().cloned();
    numbers.ok_or_else(|| Error::internal("a part of a time in a column without numbers"))
}

/// What `'archive.event_time'` could name: the partition columns that look like parts of a time, if they do from the first on.
pub(super) fn looks_like_parts(schema: &Schema, partition_by: &[String]) -> Option<String> {
    let mut names = Vec::new();
    let mut columns = Vec::new();
    for usual in USUAL {
        let is_usual = |name: &&String| name.eq_ignore_ascii_case(usual);
        let Some(name) = partition_by.iter().find(is_usual) else {
            continue;
        };
        columns.push(MappedColumn::find(schema, name)?);
        names.push(name.clone());
    }
    if names.is_empty() || TimeParts::try_new(columns, Zone::Utc).is_err() {
        return None;
    }
    let starts_coarse = names[0].eq_ignore_ascii_case("year")
        || schema
            .field_with_name(&names[0])
            .is_ok_and(|field| *field.data_type() == DataType::Date32);
    let is_gapless = names.len() == 1
        || !names[0].eq_ignore_ascii_case("year")
        || names
            .iter()
            .zip(USUAL)
            .all(|(name, usual)| name.eq_ignore_ascii_case(usual));
    (starts_coarse && is_gapless).then(|| names.join(", "))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{
        BooleanArray, Date32Array, Int32Array, RecordBatch, StringArray,
    };
    use datafusion::arrow::datatypes::Field;
    use datafusion::common::DFSchema;
    use datafusion::prelude::SessionContext;
    use proptest::prelude::*;

    use super::*;

    fn column(index: usize, name: &str, data_type: DataType) -> MappedColumn {
        MappedColumn {
            index,
            name: name.to_owned(),
            data_type,
        }
    }

    fn ints(names: &[&str]) -> Vec<MappedColumn> {
        let columns = names.iter().enumerate();
        columns
            .map(|(index, name)| column(index, name, DataType::Int32))
            .collect()
    }

    /// The columns of rows with these times, as an honest writer computes them.
    fn honest(parts: &TimeParts, times: &[i64]) -> Vec<ArrayRef> {
        let mut offsets = ZoneOffsets::new(parts.zone);
        let hours: Vec<LocalHour> = times
            .iter()
            .map(|time| {
                let time = time.div_euclid(SECOND);
                LocalHour::of(time + i64::from(offsets.of_utc(time))).unwrap()
            })
            .collect();
        let of_part = |(part, column): &(TimePart, MappedColumn)| -> ArrayRef {
            match &column.data_type {
                DataType::Utf8 => {
                    let texts = hours.iter().map(|hour| hour.date_text());
                    Arc::new(StringArray::from_iter_values(texts))
                }
                DataType::Date32 => Arc::new(Date32Array::from_iter_values(
                    hours.iter().map(|hour| i32::try_from(hour.days).unwrap()),
                )),
                _ => Arc::new(Int32Array::from_iter_values(
                    hours
                        .iter()
                        .map(|hour| i32::try_from(hour.part(*part)).unwrap()),
                )),
            }
        };
        parts.parts.iter().map(of_part).collect()
    }

    fn kinds(kind: usize) -> Vec<MappedColumn> {
        match kind {
            0 => ints(&["year", "month", "day", "hour"]),
            1 => vec![
                column(0, "day", DataType::Date32),
                column(1, "hour", DataType::Int32),
            ],
            2 => vec![column(0, "dt", DataType::Utf8)],
            _ => ints(&["y", "m"]),
        }
    }

    fn holds(predicate: &Expr, parts: &TimeParts, columns: Vec<ArrayRef>) -> Vec<bool> {
        let fields = parts
            .columns()
            .map(|column| Field::new(&column.name, column.data_type.clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
        let by_name = DFSchema::try_from(schema).unwrap();
        let physical = SessionContext::new()
            .create_physical_expr(predicate.clone(), &by_name)
            .unwrap();
        let held = physical
            .evaluate(&batch)
            .unwrap()
            .into_array(batch.num_rows())
            .unwrap();
        let held: &BooleanArray = held.as_boolean();
        held.iter().map(|held| held == Some(true)).collect()
    }

    proptest! {
        /// No row of a range is left out, also where clocks change, and hours far from it are.
        #[test]
        fn no_row_of_a_range_is_left_out(
            zone in prop::sample::select(vec!["UTC", "Europe/Paris", "America/St_Johns", "+05:30", "Pacific/Apia"]),
            kind in 0..4_usize,
            // Around the changes of clocks of 1987 to 2012.
            from in 536_457_600_i64..1_356_998_400,
            length in 0..200_000_i64,
            inside in prop::collection::vec(0.0..1.0_f64, 1..8),
        ) {
            let parts = TimeParts::try_new(kinds(kind), Zone::find(zone).unwrap()).unwrap();
            let times: Vec<i64> = inside.iter()
                .map(|share| (from + (share * length as f64) as i64) * SECOND + 7)
                .collect();
            let range = (Some(from * SECOND), Some((from + length) * SECOND + 7));
            let predicate = parts.predicate(&[range]).unwrap();
            prop_assert!(holds(&predicate, &parts, honest(&parts, &times)).iter().all(|held| *held));
            let far = [from - 40 * 86_400, from + length + 40 * 86_400].map(|time| time * SECOND);
            prop_assert!(holds(&predicate, &parts, honest(&parts, &far)).iter().all(|held| !held));
            let array = TimestampMicrosecondArray::from(times.clone());
            prop_assert_eq!(parts.first_other(&array, &honest(&parts, &times), &[]).unwrap(), None);
            let shifted: Vec<i64> = times.iter().map(|time| time + 40 * 86_400 * SECOND).collect();
            prop_assert_eq!(parts.first_other(&array, &honest(&parts, &shifted), &[]).unwrap(), Some(0));
        }
    }

    #[test]
    fn rows_that_say_nothing_are_read_and_not_compared() {
        let parts = TimeParts::try_new(ints(&["year", "month"]), Zone::Utc).unwrap();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int32Array::from(vec![Some(2024), None, Some(1999)])),
            Arc::new(Int32Array::from(vec![Some(1), Some(1), Some(1)])),
        ];
        let times = TimestampMicrosecondArray::from(vec![None, Some(0), Some(0)]);
        assert_eq!(parts.first_other(&times, &columns, &[]).unwrap(), Some(0));
        assert_eq!(parts.first_other(&times, &columns, &[0]).unwrap(), Some(2));
        assert_eq!(parts.first_other(&times, &columns, &[0, 2]).unwrap(), None);
        let predicate = parts.predicate(&[(Some(0), Some(1))]).unwrap();
        assert_eq!(
            holds(&predicate, &parts, columns.clone()),
            [false, true, false]
        );
        assert_eq!(parts.shown(&columns, 2), "year=1999, month=1");
    }

    #[test]
    fn parts_go_from_coarse_to_fine() {
        for (columns, said) in [
            (
                ints(&["year", "month", "day", "hour", "minute"]),
                "cannot follow",
            ),
            (vec![column(0, "d", DataType::Boolean)], "is no part"),
            (
                vec![ints(&["year"]).remove(0), column(1, "d", DataType::Date32)],
                "cannot follow the year",
            ),
        ] {
            let error = TimeParts::try_new(columns, Zone::Utc).expect_err(said);
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[test]
    fn partition_columns_that_look_like_a_time_are_proposed() {
        let int = |name: &str| Field::new(name, DataType::Int32, true);
        let date = |name: &str| Field::new(name, DataType::Date32, true);
        for (fields, expected) in [
            (
                vec![int("year"), int("month"), int("day"), int("hour")],
                Some("year, month, day, hour"),
            ),
            (
                vec![int("hour"), int("year"), int("month"), int("day")],
                Some("year, month, day, hour"),
            ),
            (vec![int("Year"), int("Month")], Some("Year, Month")),
            (vec![date("day"), int("hour")], Some("day, hour")),
            (vec![int("year"), int("day")], None),
            (vec![int("day"), int("hour")], None),
            (vec![int("user")], None),
            (vec![], None),
        ] {
            let names: Vec<String> = fields.iter().map(|field| field.name().clone()).collect();
            let found = looks_like_parts(&Schema::new(fields), &names);
            assert_eq!(found.as_deref(), expected, "{names:?}");
        }
    }
}
