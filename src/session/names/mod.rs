//! Names of columns without an alias, for references from outer queries: the names that PostgreSQL gives.

pub(crate) mod casts;
pub(crate) mod distinct_columns;
pub(crate) mod inner_names;
pub(crate) mod labels;
pub(crate) mod state_names;
pub(crate) mod unique;
pub(crate) mod wildcards;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, DataType as SqlType, Expr, ObjectNamePart, Query, SelectItem, SetExpr,
    TrimWhereField,
};

use crate::planner::normalize;

/// The name of a column for which no rule gives one.
const NAMELESS: &str = "?column?";

/// The name of an expression's column: that of its column, function or type.
pub(super) fn name_of(expr: &Expr) -> String {
    match found(expr) {
        FoundName::Own(name) | FoundName::Weak(name) => name,
        FoundName::None => NAMELESS.to_owned(),
    }
}

/// The name found for an expression.
enum FoundName {
    /// From a column or a function.
    Own(String),
    /// From a type or from CASE: a name from the inner expression takes precedence.
    Weak(String),
    None,
}

fn found(expr: &Expr) -> FoundName {
    let own = |name: &str| FoundName::Own(name.to_owned());
    match expr {
        Expr::Identifier(ident) => FoundName::Own(normalize(ident)),
        Expr::CompoundIdentifier(parts) => match parts.last() {
            Some(last) => FoundName::Own(normalize(last)),
            None => FoundName::None,
        },
        Expr::CompoundFieldAccess { root, access_chain } => {
            let field = access_chain.iter().rev().find_map(|access| match access {
                AccessExpr::Dot(Expr::Identifier(ident)) => Some(normalize(ident)),
                _ => None,
            });
            field.map_or_else(|| found(root), FoundName::Own)
        }
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => found(inner),
        Expr::Cast {
            expr: inner,
            data_type,
            ..
        } => match found(inner) {
            FoundName::Own(name) => FoundName::Own(name),
            _ => FoundName::Weak(type_name(data_type)),
        },
        Expr::TypedString(typed) => FoundName::Weak(type_name(&typed.data_type)),
        Expr::Interval(_) => FoundName::Weak("interval".to_owned()),
        Expr::Case { else_result, .. } => match else_result.as_deref().map(found) {
            Some(FoundName::Own(name)) => FoundName::Own(name),
            _ => FoundName::Weak("case".to_owned()),
        },
        Expr::Function(function) => match function.name.0.last() {
            Some(ObjectNamePart::Identifier(ident)) => FoundName::Own(normalize(ident)),
            _ => FoundName::None,
        },
        Expr::Subquery(query) => of_query(query),
        Expr::Exists { negated: false, .. } => own("exists"),
        Expr::Named { name, .. } => FoundName::Own(normalize(name)),
        Expr::Extract { .. } => own("extract"),
        Expr::Ceil { .. } => own("ceil"),
        Expr::Floor { .. } => own("floor"),
        Expr::Position { .. } => own("position"),
        Expr::Overlay { .. } => own("overlay"),
        Expr::Substring { shorthand, .. } => match shorthand {
            true => own("substr"),
            false => own("substring"),
        },
        Expr::Trim { trim_where, .. } => match trim_where {
            Some(TrimWhereField::Leading) => own("ltrim"),
            Some(TrimWhereField::Trailing) => own("rtrim"),
            _ => own("btrim"),
        },
        Expr::AtTimeZone { .. } => own("timezone"),
        Expr::Array(_) => own("array"),
        Expr::Tuple(_) => own("row"),
        Expr::Struct { .. } => own("struct"),
        Expr::Map(_) => own("map"),
        _ => FoundName::None,
    }
}

/// A scalar subquery is named like its only column.
fn of_query(query: &Query) -> FoundName {
    let mut body = query.body.as_ref();
    let select = loop {
        match body {
            SetExpr::Select(select) => break select,
            SetExpr::Query(query) => body = query.body.as_ref(),
            SetExpr::SetOperation { left, .. } => body = left.as_ref(),
            _ => return FoundName::None,
        }
    };
    match select.projection.first() {
        Some(SelectItem::UnnamedExpr(expr)) => FoundName::Own(name_of(expr)),
        Some(SelectItem::ExprWithAlias { alias, .. }) => FoundName::Own(normalize(alias)),
        _ => FoundName::None,
    }
}

/// The type's canonical name, for any of its spellings.
fn type_name(data_type: &SqlType) -> String {
    let typed = data_type.to_string().to_lowercase();
    let has_zone = typed.contains("with time zone");
    let base = typed.split(['(', '<', '[']).next().unwrap_or_default();
    let base = base.trim().trim_matches('"');
    let name = match base {
        "int" | "integer" | "int4" => "int4",
        "bigint" | "int8" => "int8",
        "smallint" | "int2" => "int2",
        "real" | "float4" => "float4",
        "double" | "double precision" | "float" | "float8" => "float8",
        "decimal" | "dec" | "numeric" => "numeric",
        "boolean" | "bool" => "bool",
        "char varying" | "character varying" | "varchar" => "varchar",
        "char" | "character" => "bpchar",
        base if base.starts_with("timestamptz") || (base.starts_with("timestamp") && has_zone) => {
            "timestamptz"
        }
        base if base.starts_with("timestamp") => "timestamp",
        base if base.starts_with("timetz") || (base.starts_with("time") && has_zone) => "timetz",
        base if base.starts_with("time") => "time",
        base if base.starts_with("interval") => "interval",
        base => base,
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    #[test]
    fn expressions_have_postgresql_names() {
        for (typed, name) in [
            ("a", "a"),
            ("T.\"Big\"", "Big"),
            ("(a)", "a"),
            ("Sum(a)", "sum"),
            ("count(*) FILTER (WHERE a > 1)", "count"),
            ("row_number() OVER (ORDER BY a)", "row_number"),
            ("a + 1", NAMELESS),
            ("-a", NAMELESS),
            ("1", NAMELESS),
            ("'x'", NAMELESS),
            ("NULL", NAMELESS),
            ("TRUE", NAMELESS),
            ("a IS NULL", NAMELESS),
            ("NOT a", NAMELESS),
            ("a BETWEEN 1 AND 2", NAMELESS),
            ("CAST(a AS BIGINT)", "a"),
            ("CAST(sum(a) AS BIGINT)", "sum"),
            ("CAST(a + 1 AS INT)", "int4"),
            ("(a + 1)::DOUBLE PRECISION", "float8"),
            ("CAST('x' AS VARCHAR(3))", "varchar"),
            ("CAST('1' AS DECIMAL(10, 2))", "numeric"),
            ("CAST('x' AS TIMESTAMP WITH TIME ZONE)", "timestamptz"),
            ("CAST('x' AS TIMESTAMP)", "timestamp"),
            ("CAST('{1}' AS INT[])", "int4"),
            ("DATE '2025-01-01'", "date"),
            ("INTERVAL '1 day'", "interval"),
            ("CASE WHEN a THEN 1 END", "case"),
            ("CASE WHEN a THEN 1 ELSE b END", "b"),
            ("CASE WHEN a THEN b ELSE 1 END", "case"),
            ("EXTRACT(year FROM a)", "extract"),
            ("substring(a FROM 2)", "substring"),
            ("trim(a)", "btrim"),
            ("trim(LEADING 'x' FROM a)", "ltrim"),
            ("a AT TIME ZONE 'UTC'", "timezone"),
            ("EXISTS (SELECT 1)", "exists"),
            ("NOT EXISTS (SELECT 1)", NAMELESS),
            ("(SELECT max(a) FROM t)", "max"),
            ("(SELECT a + 1 AS b FROM t)", "b"),
            ("ARRAY[1, 2]", "array"),
            ("a[1]", "a"),
            ("coalesce(a, b)", "coalesce"),
            ("nullif(a, b)", "nullif"),
        ] {
            let parsed = Parser::new(&GenericDialect {}).try_with_sql(typed);
            let expr = parsed.and_then(|mut parser| parser.parse_expr()).unwrap();
            assert_eq!(name_of(&expr), name, "{typed}");
        }
    }
}
