//! Types of number literals: with a point they are exact decimals, with an exponent they are DOUBLE (VALUE-1).
//!
//! DataFusion's planner reads every number that is not an integer as a decimal here; a number with an exponent becomes a cast
//! of its text, which is read as the nearest DOUBLE.

use std::ops::ControlFlow;

use anabranch_udfs::WalkMut;
use datafusion::sql::sqlparser::ast::{
    CastKind, DataType, ExactNumberInfo, Expr, Value, VisitorMut,
};

/// Turns numbers with an exponent into DOUBLE.
pub(crate) fn doubles(node: &mut impl WalkMut) {
    let _ = node.walk_mut(&mut Doubles { in_interval: 0 });
}

struct Doubles {
    /// Depth of enclosing intervals: their numbers are text.
    in_interval: usize,
}

impl VisitorMut for Doubles {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        self.in_interval += usize::from(matches!(expr, Expr::Interval(_)));
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if matches!(expr, Expr::Interval(_)) {
            self.in_interval -= 1;
        }
        let Expr::Value(value) = expr else {
            return ControlFlow::Continue(());
        };
        let Value::Number(number, _) = &value.value else {
            return ControlFlow::Continue(());
        };
        if self.in_interval == 0 && has_exponent(number) {
            let mut text = value.clone();
            text.value = Value::SingleQuotedString(number.replace('_', ""));
            *expr = Expr::Cast {
                kind: CastKind::Cast,
                expr: Box::new(Expr::Value(text)),
                data_type: DataType::Double(ExactNumberInfo::None),
                array: false,
                format: None,
            };
        }
        ControlFlow::Continue(())
    }
}

fn has_exponent(number: &str) -> bool {
    let is_decimal = number.bytes().all(|byte| byte != b'x' && byte != b'X');
    is_decimal && number.bytes().any(|byte| byte == b'e' || byte == b'E')
}
