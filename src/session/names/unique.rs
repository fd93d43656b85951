//! Unique names for the columns of one select list, and comparison of expressions by their text.

use std::collections::HashSet;

use anabranch_udfs::WalkMut;
use datafusion::sql::sqlparser::ast::{Expr, Ident, SelectItem};

use crate::error::APART;
use crate::planner::normalize;
use crate::session::names::labels::{
    LabelItem, LowerCase, is_column, item_of, label_of, stands_for_many,
};

/// The columns that get a unique name for the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DistinctColumns {
    /// Those named like an earlier one, and those at an unknown position.
    Equal,
    /// Also those for which the engine may choose equal names: expressions, and all columns beside a `*`.
    Doubtful,
}

/// Gives columns of a select list unique names for the engine; returns whether any was renamed.
pub(crate) fn rename_items_apart(items: &mut [SelectItem], which: DistinctColumns) -> bool {
    if items.len() < 2 && which == DistinctColumns::Equal {
        return false;
    }
    let mut labels: HashSet<String> = HashSet::new();
    let mut texts: HashSet<String> = HashSet::new();
    let first_star = items.iter().position(stands_for_many);
    let last_star = items.iter().rposition(stands_for_many);
    let mut any = false;
    for (place, item) in items.iter_mut().enumerate() {
        let LabelItem::One(label) = item_of(item) else {
            continue;
        };
        let (expr, is_column, is_named) = match item {
            SelectItem::UnnamedExpr(expr) => (&*expr, is_column(expr), false),
            SelectItem::ExprWithAlias { expr, .. } => (&*expr, false, true),
            _ => continue,
        };
        // Columns of two tables may have one name: the engine distinguishes them by table.
        let is_new_text = texts.insert(match expr {
            Expr::CompoundIdentifier(parts) if is_column => {
                let parts: Vec<String> = parts.iter().map(normalize).collect();
                parts.join(".")
            }
            _ => label.clone(),
        });
        let is_new_label = labels.insert(label.clone());
        let is_told = is_new_label || (is_column && is_new_text && !texts.contains(&label));
        let is_doubtful = first_star.is_some() || !(is_column || is_named);
        // Between two stars the position of a column is unknown: only its name identifies it.
        let has_no_place = !(is_column || is_named)
            && first_star.is_some_and(|star| star < place)
            && last_star.is_some_and(|star| star > place);
        if is_told && !has_no_place && !(which == DistinctColumns::Doubtful && is_doubtful) {
            continue;
        }
        let expr = expr.clone();
        any = true;
        let alias = alias_apart(&label, place);
        *item = SelectItem::ExprWithAlias { expr, alias };
    }
    any
}

/// A unique name for a column of this label.
pub(crate) fn alias_apart(label: &str, place: usize) -> Ident {
    Ident::with_quote('"', format!("{label}{APART}{place}"))
}

/// The error message for an ORDER BY by a name that several columns have.
pub(crate) fn ambiguous_order(name: &str) -> String {
    format!(
        "ORDER BY {name} is ambiguous: {name} is the name of several columns of the result. \
         Give them different names, or order by their number, as in ORDER BY 1"
    )
}

/// Whether two expressions have the same text; a column may be written with its table or without.
pub(crate) fn is_same(one: &Expr, other: &Expr) -> bool {
    match (one, other) {
        (Expr::Nested(one), other) | (other, Expr::Nested(one)) => is_same(one, other),
        (Expr::Identifier(_), Expr::CompoundIdentifier(_))
        | (Expr::CompoundIdentifier(_), Expr::Identifier(_))
        | (Expr::Identifier(_), Expr::Identifier(_)) => label_of(one) == label_of(other),
        (Expr::CompoundIdentifier(one), Expr::CompoundIdentifier(other)) => {
            let mut ends = one.iter().rev().zip(other.iter().rev());
            ends.all(|(one, other)| normalize(one) == normalize(other))
        }
        _ => text_of(one) == text_of(other),
    }
}

/// The text of an expression, with names in lower case unless quoted, and without brackets around all of it.
pub(crate) fn text_of(expr: &Expr) -> String {
    let mut inner = expr;
    while let Expr::Nested(nested) = inner {
        inner = nested;
    }
    let mut shown = inner.clone();
    let _ = WalkMut::walk_mut(&mut shown, &mut LowerCase);
    shown.to_string()
}
