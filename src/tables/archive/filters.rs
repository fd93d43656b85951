//! Predicates of a query on the columns of an archive: rows that a predicate here leaves out do not satisfy the query's own.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::common::{Column, ScalarValue};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::utils::{conjunction, disjunction};
use datafusion::logical_expr::{Expr, ident, lit};

use crate::error::{Error, Result, Subject};
use crate::tables::archive::mapped_column::MappedColumn;
use crate::tables::archive::mapping::{ArchiveContent, ArchiveMapping};
use crate::tables::kafka::{KafkaTable, OffsetRange};

/// Rows in one of these ranges, exactly. No row for no range.
///
/// # Errors
///
/// A range that a column of the archive cannot hold.
pub(super) fn in_ranges(mapping: &ArchiveMapping, ranges: &[OffsetRange]) -> Result<Expr> {
    let (partition, offset) = (mapping.partition(), mapping.offset());
    let of_range = |range: &OffsetRange| -> Result<Expr> {
        let of_partition = number(partition, i64::from(range.partition))?;
        let of_partition = ident(&partition.name).eq(of_partition);
        let from = ident(&offset.name).gt_eq(number(offset, range.start)?);
        let to = ident(&offset.name).lt_eq(number(offset, range.end.saturating_sub(1))?);
        Ok(of_partition.and(from).and(to))
    };
    let of_ranges = ranges
        .iter()
        .filter(|range| !range.is_empty())
        .map(of_range);
    let of_ranges = of_ranges.collect::<Result<Vec<Expr>>>()?;
    Ok(disjunction(of_ranges).unwrap_or_else(|| lit(false)))
}

fn number(column: &MappedColumn, value: i64) -> Result<Expr> {
    let value = ScalarValue::Int64(Some(value)).cast_to(&column.data_type);
    value.map(lit).map_err(|_| {
        let (name, of) = (&column.name, column.sql_type());
        Error::data(format!(
            "column {name} of an archive is {of}, which holds no offsets that high"
        ))
        .about(Subject::column(name))
    })
}

/// Rows whose records may have a timestamp within these bounds in microseconds, both included; none where there is nothing to say.
pub(super) fn in_timestamps(column: &MappedColumn, (low, high): (i64, i64)) -> Option<Expr> {
    let low = (low > i64::MIN).then_some(low);
    let high = (high < i64::MAX).then_some(high);
    in_times(column, (low, high))
}

/// The same for a column of any times of records; an end that is none is open.
pub(super) fn in_times(
    column: &MappedColumn,
    (low, high): (Option<i64>, Option<i64>),
) -> Option<Expr> {
    let DataType::Timestamp(_, zone) = &column.data_type else {
        return None;
    };
    let time = |micros: i64| {
        lit(ScalarValue::TimestampMicrosecond(
            Some(micros),
            zone.clone(),
        ))
    };
    let low = low.map(|low| ident(&column.name).gt_eq(time(low)));
    // The time of a record has milliseconds; the column may have more.
    let high = high.map(|high| ident(&column.name).lt_eq(time(high.saturating_add(999))));
    conjunction(low.into_iter().chain(high))
}

/// Those of `filters` that only concern value columns which the archive has decoded, as predicates on its columns.
pub(super) fn on_values(
    mapping: &ArchiveMapping,
    table: &KafkaTable,
    filters: &[Expr],
) -> DataFusionResult<Vec<Expr>> {
    let ArchiveContent::Decoded(columns) = mapping.content() else {
        return Ok(Vec::new());
    };
    let known = |name: &str| {
        let column = columns.iter().find(|column| column.name == name)?;
        let field = table.schema().field_with_name(name).ok()?;
        let same = *field.data_type() == column.data_type
            || (*field.data_type() == DataType::Utf8 && column.data_type == DataType::Utf8View);
        same.then_some(column)
    };
    let mut pushed = Vec::new();
    for filter in filters {
        let refs = filter.column_refs();
        if refs.is_empty() || !refs.iter().all(|column| known(column.name()).is_some()) {
            continue;
        }
        if !is_plain(filter)? {
            continue;
        }
        let reads_views = refs.iter().any(|column| {
            known(column.name()).is_some_and(|column| column.data_type == DataType::Utf8View)
        });
        let renamed = filter.clone().transform_up(|expr| {
            Ok(match expr {
                Expr::Column(column) => {
                    Transformed::yes(Expr::Column(Column::new_unqualified(column.name)))
                }
                // Text is compared with text of the same layout.
                Expr::Literal(ScalarValue::Utf8(text), metadata) if reads_views => {
                    Transformed::yes(Expr::Literal(ScalarValue::Utf8View(text), metadata))
                }
                other => Transformed::no(other),
            })
        })?;
        pushed.push(renamed.data);
    }
    Ok(pushed)
}

/// Whether an expression has comparisons of columns with literals, and what combines them, alone.
fn is_plain(filter: &Expr) -> DataFusionResult<bool> {
    let mut is_plain = true;
    filter.apply(|expr| {
        is_plain &= matches!(
            expr,
            Expr::BinaryExpr(_)
                | Expr::Column(_)
                | Expr::Literal(..)
                | Expr::InList(_)
                | Expr::Between(_)
                | Expr::IsNull(_)
                | Expr::IsNotNull(_)
                | Expr::Not(_)
        );
        Ok(match is_plain {
            true => TreeNodeRecursion::Continue,
            false => TreeNodeRecursion::Stop,
        })
    })?;
    Ok(is_plain)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::TimeUnit;
    use datafusion::logical_expr::col;

    use super::*;

    fn column(data_type: DataType) -> MappedColumn {
        MappedColumn {
            index: 0,
            name: "ts".to_owned(),
            data_type,
        }
    }

    #[test]
    fn timestamps_of_an_archive_may_be_finer_than_those_of_the_topic() {
        let micros = |zone: Option<&str>| {
            column(DataType::Timestamp(
                TimeUnit::Microsecond,
                zone.map(Into::into),
            ))
        };
        let shown = |bounds| in_timestamps(&micros(None), bounds).map(|within| within.to_string());
        let within = shown((5_000, 7_000)).unwrap();
        assert!(
            within.contains("ts >= TimestampMicrosecond(5000, None)"),
            "{within}"
        );
        assert!(
            within.contains("ts <= TimestampMicrosecond(7999, None)"),
            "{within}"
        );
        assert_eq!(shown((i64::MIN, i64::MAX)), None);
        assert_eq!(in_timestamps(&column(DataType::Utf8), (5, 7)), None);
        let utc = in_timestamps(&micros(Some("UTC")), (5, i64::MAX))
            .unwrap()
            .to_string();
        assert!(utc.contains("UTC") && !utc.contains("<="), "{utc}");
    }

    #[test]
    fn only_comparisons_with_literals_are_passed_on() {
        for (filter, expected) in [
            (col("a").eq(lit(1)).and(col("b").is_null()), true),
            (col("a").in_list(vec![lit(1), lit(2)], true), true),
            (
                col("a").between(lit(1), lit(2)).or(col("b").gt(lit(3))),
                true,
            ),
            (datafusion::prelude::abs(col("a")).eq(lit(1)), false),
            (
                datafusion::logical_expr::cast(col("a"), DataType::Int64).eq(lit(1_i64)),
                false,
            ),
        ] {
            assert_eq!(is_plain(&filter).unwrap(), expected, "{filter}");
        }
    }
}
