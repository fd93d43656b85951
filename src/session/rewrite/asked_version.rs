//! Versions of tables that a statement asks for: by number or by time, and those that are known only when it runs.

use datafusion::arrow::array::{Array as _, AsArray as _, RecordBatch};
use datafusion::arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use datafusion::logical_expr::LogicalPlan;

use crate::error::{Error, Result};
use crate::tables::delta::TimeTravel;

/// The unit in which a version is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VersionUnit {
    /// `FOR VERSION AS OF`.
    Number,
    /// `FOR TIMESTAMP AS OF`.
    Time,
}

impl VersionUnit {
    /// The type of its values.
    pub(crate) fn sql_type(self) -> &'static str {
        match self {
            VersionUnit::Number => "BIGINT",
            VersionUnit::Time => "TIMESTAMP",
        }
    }

    /// The error for an expression that gives no such value.
    pub(crate) fn not_constant(self, expr: impl std::fmt::Display) -> Error {
        Error::invalid(format!("{expr} is no constant {}", self.sql_type()))
    }

    /// The version by its one value; none if there is no row, more than one, or NULL.
    ///
    /// # Errors
    ///
    /// A number below 0.
    pub(crate) fn travel(self, rows: &[RecordBatch]) -> Result<Option<TimeTravel>> {
        let mut rows = rows.iter().filter(|rows| rows.num_rows() > 0);
        let (Some(row), None) = (rows.next(), rows.next()) else {
            return Ok(None);
        };
        if row.num_rows() != 1 || row.num_columns() != 1 || row.column(0).is_null(0) {
            return Ok(None);
        }
        let column = row.column(0);
        Ok(match self {
            VersionUnit::Number => match column.as_primitive_opt::<Int64Type>() {
                Some(numbers) => Some(TimeTravel::Version(
                    u64::try_from(numbers.value(0))
                        .map_err(|_| Error::invalid("a version is a whole number from 0"))?,
                )),
                None => None,
            },
            VersionUnit::Time => column
                .as_primitive_opt::<TimestampMicrosecondType>()
                .map(|times| TimeTravel::Timestamp(times.value(0))),
        })
    }
}

/// A version that is known only when the statement runs: a query gives it, or the clock.
#[derive(Debug, Clone)]
pub(crate) struct AskedVersion {
    /// The name of the table.
    pub(crate) table: String,
    pub(crate) unit: VersionUnit,
    /// The expression, for people.
    pub(crate) text: String,
    /// Gives one row with its value.
    pub(crate) plan: LogicalPlan,
}

impl AskedVersion {
    /// The hidden name of the table at this version.
    pub(crate) fn hidden_name(&self) -> String {
        let unit = match self.unit {
            VersionUnit::Number => "version",
            VersionUnit::Time => "timestamp",
        };
        format!("{}@{unit} of {}", self.table, self.text)
    }
}
