//! Rules in a version's metadata: how the table is scanned, and the rules that its rows keep.

use std::sync::Arc;

use deltalake::kernel::StructTypeExt as _;
use deltalake::table::config::TablePropertiesExt as _;
use deltalake::{DeltaTable, DeltaTableError};

use super::check::RowRules;
use super::generated::{GeneratedColumn, TableExpr};
use super::mapping::MappedNames;
use super::scan::TableScan;

/// Table property: the creator of the table computed its generated columns in UTC, so that ranges of time need no
/// allowance for zones.
pub(super) const COMPUTED_IN_UTC: &str = "anabranch.generatedColumns.timezone";

/// The rules for rows in a version's metadata.
#[derive(Debug)]
pub(super) struct TableRules {
    pub(super) rows: Arc<RowRules>,
    pub(super) partition_by: Vec<String>,
    pub(super) mapped: Option<MappedNames>,
    /// Whether generated columns are known to be computed in UTC.
    pub(super) in_utc: bool,
    /// Why rows cannot be written, although they can be read.
    pub(super) unwritable: Option<String>,
}

/// Name and text of each generated column, in the order of the columns.
pub(super) fn generated_texts(
    table: &DeltaTable,
) -> std::result::Result<Vec<(String, String)>, DeltaTableError> {
    let schema = table.snapshot()?.schema();
    let mut columns = schema.get_generated_columns()?;
    columns.sort_by_key(|column| schema.index_of(&column.name));
    Ok(columns
        .into_iter()
        .map(|column| (column.name, column.generation_expr))
        .collect())
}

impl TableRules {
    /// The rules of the table's version.
    pub(super) fn of(table: &DeltaTable) -> std::result::Result<Self, DeltaTableError> {
        let snapshot = table.snapshot()?;
        let metadata = snapshot.metadata();
        let scan = TableScan::of(table)?;
        let schema = scan.schema();
        let texts = generated_texts(table)?;
        let names: Vec<&str> = texts.iter().map(|(name, _)| name.as_str()).collect();
        let mut unwritable = scan
            .variants()
            .map(|_| "VARIANT cannot be written".to_owned());
        let mut generated = Vec::new();
        for (name, text) in &texts {
            match GeneratedColumn::plan(name, text, &schema, &names) {
                Ok(column) => generated.push(column),
                Err(error) => {
                    unwritable.get_or_insert_with(|| error.to_string());
                }
            }
        }
        let invariants = snapshot.schema().get_invariants()?;
        let checks = snapshot.table_config().get_constraints();
        let conditions = checks
            .into_iter()
            .map(|check| (check.name, check.expr))
            .chain(
                invariants
                    .into_iter()
                    .map(|rule| (rule.field_name, rule.invariant_sql)),
            );
        let mut constraints = Vec::new();
        for (name, text) in conditions {
            match TableExpr::plan(&text, &schema) {
                Ok(expression) => constraints.push((name, text, expression)),
                Err(error) => {
                    unwritable.get_or_insert_with(|| {
                        error.context(format!("constraint '{name}'")).to_string()
                    });
                }
            }
        }
        let mapped = match MappedNames::of(snapshot.snapshot(), &schema) {
            Ok(mapped) => mapped,
            Err(error) => {
                unwritable.get_or_insert_with(|| error.to_string());
                None
            }
        };
        Ok(TableRules {
            rows: Arc::new(RowRules {
                schema,
                generated,
                constraints,
            }),
            partition_by: metadata.partition_columns().to_vec(),
            mapped,
            in_utc: metadata
                .configuration()
                .get(COMPUTED_IN_UTC)
                .is_some_and(|zone| zone == "UTC"),
            unwritable,
        })
    }
}
