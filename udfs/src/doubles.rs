//! Common types of DOUBLE and DECIMAL, and of REAL and an exact number: both give DOUBLE, wherever two values get one type.
//!
//! DataFusion's planner casts DOUBLE and DECIMAL to a DECIMAL(30, 15) where they are compared: that has no NaN, no infinity, no
//! large number, and only 15 digits after the point. It casts REAL and an integer to REAL, which has 24 bits: 16777217 would
//! equal 16777216. [`DoubleBeforeDecimal`] is an analyzer rule that casts such values to DOUBLE before types are made equal. In
//! arithmetic DataFusion itself casts DOUBLE and DECIMAL to DOUBLE; [`RealOperators`] plans arithmetic of REAL and exact
//! numbers.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, ExprSchema, Result, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::type_coercion::binary::{comparison_coercion, type_union_resolution};
use datafusion::logical_expr::{
    Cast, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Subquery, Union, Values,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::sql::sqlparser::ast::BinaryOperator;

use crate::checked::{type_of, wide};
use crate::operands::{cast_rows, element_of, inputs, map_named_expressions, of_one_type};

/// Functions that cast their arguments to one type.
const OF_ONE_TYPE: [&str; 14] = [
    "array_concat",
    "array_except",
    "array_has_all",
    "array_has_any",
    "array_intersect",
    "array_union",
    "coalesce",
    "greatest",
    "ifnull",
    "least",
    "make_array",
    "nullif",
    "nvl",
    "nvl2",
];

/// Functions of an array and values that cast the values to the element type, with the positions of the array and of the
/// values.
const OF_ELEMENTS: [(&str, usize, &[usize]); 12] = [
    ("array_append", 0, &[1]),
    ("array_has", 0, &[1]),
    ("array_position", 0, &[1]),
    ("array_positions", 0, &[1]),
    ("array_prepend", 1, &[0]),
    ("array_remove", 0, &[1]),
    ("array_remove_all", 0, &[1]),
    ("array_remove_n", 0, &[1]),
    ("array_replace", 0, &[1, 2]),
    ("array_replace_all", 0, &[1, 2]),
    ("array_replace_n", 0, &[1, 2]),
    ("array_resize", 0, &[2]),
];

/// Those that only compare the values with the elements: the common decimal may have more than 38 digits.
const COMPARING: [&str; 3] = ["array_has", "array_position", "array_positions"];

/// The names of the functions of an array and values that cast the values to the element type.
pub fn element_functions() -> impl Iterator<Item = &'static str> {
    OF_ELEMENTS.iter().map(|(name, ..)| *name)
}

/// The argument types of such a function with one type for numbers that are elements or values: DOUBLE if one of them is
/// floating. `None` for another function, or if nothing changes.
pub fn with_one_element(function: &str, types: &[DataType]) -> Option<Vec<DataType>> {
    let (_, array, values) = OF_ELEMENTS.iter().find(|(name, ..)| *name == function)?;
    let element = match types.get(*array)? {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            field.data_type()
        }
        _ => return None,
    };
    let mut one = element.clone();
    for value in *values {
        let value = types.get(*value)?;
        if *value == one {
            continue;
        }
        if !value.is_numeric() || !one.is_numeric() {
            return None;
        }
        let in_doubles = value.is_floating() != one.is_floating();
        let room = COMPARING
            .contains(&function)
            .then(|| wide(&[one.clone(), value.clone()]));
        one = match (in_doubles, room.flatten()) {
            (true, _) => DataType::Float64,
            (false, Some(wide)) => wide,
            (false, None) => comparison_coercion(&one, value)?,
        };
    }
    let mut types = types.to_vec();
    let within = |field: &FieldRef| Arc::new(field.as_ref().clone().with_data_type(one.clone()));
    types[*array] = match &types[*array] {
        DataType::LargeList(field) => DataType::LargeList(within(field)),
        DataType::FixedSizeList(field, size) => DataType::FixedSizeList(within(field), *size),
        DataType::List(field) => DataType::List(within(field)),
        other => other.clone(),
    };
    for value in *values {
        types[*value] = one.clone();
    }
    Some(types)
}

/// Whether the engine casts the arguments of a function to one type, or to one type within arrays.
pub(crate) fn is_of_one_type(function: &str) -> bool {
    OF_ONE_TYPE.contains(&function) || OF_ELEMENTS.iter().any(|(name, ..)| *name == function)
}

/// The treatment of REAL beside integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RealArithmetic {
    /// Both are cast to DOUBLE, as in PostgreSQL.
    Widened,
    /// The integers are cast to REAL, as in Spark.
    Unchanged,
}

/// Plans arithmetic of REAL and an exact number as arithmetic of DOUBLE.
#[derive(Debug, Default)]
pub(crate) struct RealOperators;

impl ExprPlanner for RealOperators {
    fn plan_binary_op(
        &self,
        mut expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        let is_arithmetic = matches!(
            expr.op,
            BinaryOperator::Plus
                | BinaryOperator::Minus
                | BinaryOperator::Multiply
                | BinaryOperator::Divide
                | BinaryOperator::Modulo
        );
        // An operand without a type yet, such as a parameter, is left to the other planners.
        if is_arithmetic
            && let (Ok(left), Ok(right)) =
                (type_of(&expr.left, schema), type_of(&expr.right, schema))
        {
            let types = [left, right];
            if is_widened(&types) {
                as_type(&mut expr.left, &types[0], &DataType::Float64);
                as_type(&mut expr.right, &types[1], &DataType::Float64);
            }
        }
        Ok(PlannerResult::Original(expr))
    }
}

/// Casts decimals to DOUBLE beside floating point numbers, and both REAL and integers to DOUBLE beside each other.
#[derive(Debug)]
pub struct DoubleBeforeDecimal;

impl AnalyzerRule for DoubleBeforeDecimal {
    fn name(&self) -> &str {
        "double_before_decimal"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        // Inserted rows have the types of their table.
        let is_inserted = plan.exists(|node| Ok(matches!(node, LogicalPlan::Dml(_))))?;
        let changed = plan.transform_up_with_subqueries(|node| {
            let node = match node {
                LogicalPlan::Union(union) => with_equal_columns(union)?,
                LogicalPlan::Values(values) if !is_inserted => with_equal_rows(values)?,
                LogicalPlan::Join(mut join) => {
                    let (left, right) = (join.left.schema(), join.right.schema());
                    for (of_left, of_right) in &mut join.on {
                        let types = [
                            of_left.get_type(left.as_ref())?,
                            of_right.get_type(right.as_ref())?,
                        ];
                        let wanted = met(&types, RealArithmetic::Widened);
                        as_type(of_left, &types[0], &wanted[0]);
                        as_type(of_right, &types[1], &wanted[1]);
                    }
                    LogicalPlan::Join(join)
                }
                other => other,
            };
            let schema = inputs(&node)?;
            let node = map_named_expressions(node, |expr| {
                expr.transform_up(|expr| in_doubles(expr, &schema, RealArithmetic::Widened))
            })?;
            node.transform_data(|node| Ok(Transformed::yes(node.recompute_schema()?)))
        })?;
        Ok(changed.data)
    }
}

/// The same for one expression over these columns.
///
/// # Errors
///
/// The type of the expression cannot be derived.
pub(crate) fn with_doubles(expr: Expr, schema: &DFSchema, reals: RealArithmetic) -> Result<Expr> {
    let changed = expr.transform_up(|expr| in_doubles(expr, schema, reals))?;
    Ok(changed.data)
}

/// One node of an expression.
fn in_doubles(
    mut expr: Expr,
    schema: &DFSchema,
    reals: RealArithmetic,
) -> Result<Transformed<Expr>> {
    let changed = match &mut expr {
        // Arithmetic.
        Expr::BinaryExpr(binary) if !binary.op.supports_propagation() => false,
        Expr::InSubquery(of) => in_rows(&mut of.expr, &mut of.subquery, schema, reals)?,
        Expr::SetComparison(of) => in_rows(&mut of.expr, &mut of.subquery, schema, reals)?,
        Expr::ScalarFunction(function) if OF_ONE_TYPE.contains(&function.func.name()) => {
            equal(function.args.iter_mut().collect(), schema, reals)?
        }
        Expr::ScalarFunction(function) => {
            let name = function.func.name();
            match OF_ELEMENTS.iter().find(|(of, ..)| *of == name) {
                Some((_, array, values)) => {
                    equal_elements(&mut function.args, (*array, values), schema, reals)?
                }
                None => false,
            }
        }
        other => {
            let mut changed = false;
            for all in of_one_type(other) {
                changed |= equal(all, schema, reals)?;
            }
            changed
        }
    };
    Ok(Transformed::new_transformed(expr, changed))
}

/// For `x IN (SELECT …)`: casts the rows of the query, or the value, to DOUBLE.
fn in_rows(
    expr: &mut Expr,
    subquery: &mut Subquery,
    schema: &DFSchema,
    reals: RealArithmetic,
) -> Result<bool> {
    let rows = Arc::clone(&subquery.subquery);
    let [field] = rows.schema().fields().as_ref() else {
        return Ok(false);
    };
    let types = [expr.get_type(schema)?, field.data_type().clone()];
    let wanted = met(&types, reals);
    let is_cast = as_type(expr, &types[0], &wanted[0]);
    let are_cast = cast_rows(subquery, |column| as_type(column, &types[1], &wanted[1]))?;
    Ok(is_cast || are_cast)
}

/// Casts those expressions to DOUBLE whose combination with the others requires it; returns whether any was cast.
fn equal(all: Vec<&mut Expr>, schema: &dyn ExprSchema, reals: RealArithmetic) -> Result<bool> {
    let types = all.iter().map(|expr| expr.get_type(schema));
    let types = types.collect::<Result<Vec<DataType>>>()?;
    let wanted = met(&types, reals);
    let mut changed = false;
    for (expr, (from, to)) in all.into_iter().zip(types.iter().zip(&wanted)) {
        changed |= as_type(expr, from, to);
    }
    Ok(changed)
}

/// The same for the elements of an array and the values beside it.
fn equal_elements(
    all: &mut [Expr],
    (array, values): (usize, &[usize]),
    schema: &DFSchema,
    reals: RealArithmetic,
) -> Result<bool> {
    let Some(of_array) = all.get(array) else {
        return Ok(false);
    };
    let of_array = of_array.get_type(schema)?;
    let Some(of_element) = element_of(&of_array) else {
        return Ok(false);
    };
    let mut types = vec![of_element.data_type().clone()];
    for place in values {
        let value = all.get(*place);
        types.push(value.map_or(Ok(DataType::Null), |value| value.get_type(schema))?);
    }
    let wanted = met(&types, reals);
    let array_of_wanted = with_element(&of_array, wanted[0].clone());
    let mut changed = as_type(&mut all[array], &of_array, &array_of_wanted);
    for (place, (from, to)) in values.iter().zip(types.iter().zip(&wanted).skip(1)) {
        if let Some(value) = all.get_mut(*place) {
            changed |= as_type(value, from, to);
        }
    }
    Ok(changed)
}

/// VALUES with DOUBLE columns if the numbers of its rows require it. The engine has cast all rows to the type that it chose for
/// them. A cast to REAL by the user is wrapped in a call: otherwise it would look like a cast by the engine.
fn with_equal_rows(of: Values) -> Result<LogicalPlan> {
    let nothing = DFSchema::empty();
    let Values { schema, mut values } = of;
    let mut fields: Vec<_> = schema
        .iter()
        .map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field)))
        .collect();
    let mut changed = false;
    for (column, (_, field)) in fields.iter_mut().enumerate() {
        let found = field.data_type().clone();
        if !found.is_decimal() && !is_real(&found) {
            continue;
        }
        let types = values.iter().map(|row| match &row[column] {
            Expr::Literal(value, _) if value.is_null() => Ok(DataType::Null),
            value => uncast(value, &found).get_type(&nothing),
        });
        let types = types.collect::<Result<Vec<DataType>>>()?;
        if !meet(&types, RealArithmetic::Widened) || common(&types).as_ref() != Some(&found) {
            continue;
        }
        for (row, of) in values.iter_mut().zip(&types) {
            let expr = match of {
                DataType::Null => Expr::Literal(ScalarValue::Float64(None), None),
                _ => uncast(&row[column], &found).clone(),
            };
            row[column] = match of {
                DataType::Float64 | DataType::Null => expr,
                _ => Expr::Cast(Cast::new(Box::new(expr), DataType::Float64)),
            };
        }
        *field = Arc::new(Field::clone(field).with_data_type(DataType::Float64));
        changed = true;
    }
    let schema = match changed {
        true => Arc::new(DFSchema::new_with_metadata(
            fields,
            schema.as_ref().metadata().clone(),
        )?),
        false => schema,
    };
    Ok(LogicalPlan::Values(Values { schema, values }))
}

/// A value of VALUES without the cast to the type of its column.
fn uncast<'a>(value: &'a Expr, of_column: &DataType) -> &'a Expr {
    match value {
        Expr::Cast(cast) if cast.field.data_type() == of_column => &cast.expr,
        _ => value,
    }
}

/// The type that the engine chooses for the rows of VALUES.
fn common(types: &[DataType]) -> Option<DataType> {
    let mut types = types.iter().filter(|of| !of.is_null());
    let first = types.next()?.clone();
    types.try_fold(first, |common, of| {
        type_union_resolution(&[common, of.clone()])
    })
}

/// A union whose inputs have a DOUBLE column where their numbers require it.
fn with_equal_columns(union: Union) -> Result<LogicalPlan> {
    let width = union.schema.fields().len();
    let schemas = union.inputs.iter().map(|input| input.schema());
    if schemas.clone().any(|schema| schema.fields().len() != width) {
        return Ok(LogicalPlan::Union(union));
    }
    let types = |column: usize| {
        let of = schemas
            .clone()
            .map(move |schema| schema.field(column).data_type().clone());
        of.collect::<Vec<_>>()
    };
    let types: Vec<Vec<DataType>> = (0..width).map(types).collect();
    let wanted = types
        .iter()
        .map(|types| met(types, RealArithmetic::Widened));
    let wanted: Vec<Vec<DataType>> = wanted.collect();
    if types == wanted {
        return Ok(LogicalPlan::Union(union));
    }
    let inputs = union.inputs.iter().enumerate().map(|(place, input)| {
        let columns = input.schema().iter().zip(types.iter().zip(&wanted));
        let columns = columns.map(|((qualifier, field), (from, to))| {
            let mut column = Expr::from((qualifier, field));
            if as_type(&mut column, &from[place], &to[place]) {
                column = column.alias_qualified(qualifier.cloned(), field.name());
            }
            column
        });
        let input = LogicalPlanBuilder::from(Arc::clone(input)).project(columns)?;
        Ok(Arc::new(input.build()?))
    });
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    Ok(LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?))
}

/// Whether the combination of these types requires DOUBLE.
fn meet(types: &[DataType], reals: RealArithmetic) -> bool {
    let has_floating = types.iter().any(DataType::is_floating);
    let has_decimals = types.iter().any(DataType::is_decimal);
    (has_floating && has_decimals) || (reals == RealArithmetic::Widened && is_widened(types))
}

/// Whether these include REAL and exact numbers.
fn is_widened(types: &[DataType]) -> bool {
    let is_exact = |of: &DataType| of.is_integer() || of.is_decimal();
    types.iter().any(is_real) && types.iter().any(is_exact)
}

/// A floating point type with fewer digits than DOUBLE.
fn is_real(of: &DataType) -> bool {
    matches!(of, DataType::Float32 | DataType::Float16)
}

/// These types, with DOUBLE for those whose combination with the others requires it; also within arrays and structs.
fn met(types: &[DataType], reals: RealArithmetic) -> Vec<DataType> {
    if meet(types, reals) {
        let widens = reals == RealArithmetic::Widened && is_widened(types);
        let is_double =
            |of: &DataType| of.is_decimal() || (widens && (of.is_integer() || is_real(of)));
        let doubles = types.iter().map(|of| match is_double(of) {
            true => DataType::Float64,
            false => of.clone(),
        });
        return doubles.collect();
    }
    let mut all = types.to_vec();
    let arrays: Vec<usize> = places(types, |of| element_of(of).is_some());
    if arrays.len() > 1 {
        let elements = arrays.iter().filter_map(|place| element_of(&types[*place]));
        let elements = elements.map(|field| field.data_type().clone());
        let elements = met(&elements.collect::<Vec<_>>(), reals);
        for (place, element) in arrays.iter().zip(elements) {
            all[*place] = with_element(&types[*place], element);
        }
    }
    let structs: Vec<usize> = places(types, |of| matches!(of, DataType::Struct(_)));
    if structs.len() > 1 {
        met_in_structs(&mut all, &structs, reals);
    }
    all
}

/// The same for struct fields of equal names.
fn met_in_structs(all: &mut [DataType], structs: &[usize], reals: RealArithmetic) {
    let fields = |of: &DataType| match of {
        DataType::Struct(fields) => fields.to_vec(),
        _ => Vec::new(),
    };
    let mut made: Vec<Vec<FieldRef>> = structs.iter().map(|place| fields(&all[*place])).collect();
    let names: BTreeSet<String> = made
        .iter()
        .flatten()
        .map(|field| field.name().clone())
        .collect();
    for name in &names {
        let mut named: Vec<&mut FieldRef> = made
            .iter_mut()
            .filter_map(|fields| fields.iter_mut().find(|field| field.name() == name))
            .collect();
        let types: Vec<DataType> = named
            .iter()
            .map(|field| field.data_type().clone())
            .collect();
        for (field, of) in named.iter_mut().zip(met(&types, reals)) {
            if *field.data_type() != of {
                **field = Arc::new(Field::clone(field).with_data_type(of));
            }
        }
    }
    for (place, fields) in structs.iter().zip(made) {
        all[*place] = DataType::Struct(fields.into());
    }
}

fn places(types: &[DataType], is_one: impl Fn(&DataType) -> bool) -> Vec<usize> {
    let all = types.iter().enumerate();
    let all = all.filter(|(_, of)| is_one(of)).map(|(place, _)| place);
    all.collect()
}

/// The type of an array with another element type.
fn with_element(of: &DataType, element: DataType) -> DataType {
    let within = |field: &FieldRef| Arc::new(Field::clone(field).with_data_type(element));
    match of {
        DataType::List(field) => DataType::List(within(field)),
        DataType::LargeList(field) => DataType::LargeList(within(field)),
        DataType::FixedSizeList(field, size) => DataType::FixedSizeList(within(field), *size),
        other => other.clone(),
    }
}

/// Casts an expression unless it already has the type; returns whether it was cast.
fn as_type(expr: &mut Expr, from: &DataType, to: &DataType) -> bool {
    if from == to {
        return false;
    }
    *expr = Expr::Cast(Cast::new(Box::new(std::mem::take(expr)), to.clone()));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_combined_with_floating_point_are_double() {
        use DataType::{Boolean, Decimal128, Float32, Float64, Int32, Int64, Null};
        for (types, widened, kept) in [
            (
                [Float64, Decimal128(9, 2)],
                [Float64, Float64],
                [Float64, Float64],
            ),
            (
                [Float32, Decimal128(9, 2)],
                [Float64, Float64],
                [Float32, Float64],
            ),
            ([Float32, Int64], [Float64, Float64], [Float32, Int64]),
            ([Float32, Null], [Float32, Null], [Float32, Null]),
            ([Float32, Float64], [Float32, Float64], [Float32, Float64]),
            ([Float64, Int64], [Float64, Int64], [Float64, Int64]),
            ([Int32, Int64], [Int32, Int64], [Int32, Int64]),
            ([Boolean, Float32], [Boolean, Float32], [Boolean, Float32]),
        ] {
            assert_eq!(met(&types, RealArithmetic::Widened), widened, "{types:?}");
            assert_eq!(met(&types, RealArithmetic::Unchanged), kept, "{types:?}");
        }
        let list = |of: DataType| DataType::new_list(of, true);
        assert_eq!(
            met(&[list(Float32), list(Int64)], RealArithmetic::Widened),
            [list(Float64), list(Float64)]
        );
    }

    #[test]
    fn elements_combined_with_floating_point_are_double() {
        let list = |of: DataType| DataType::new_list(of, true);
        for (element, value) in [
            (DataType::Float32, DataType::Int64),
            (DataType::Int64, DataType::Float32),
            (DataType::Float32, DataType::Decimal128(4, 2)),
        ] {
            let types = with_one_element("array_append", &[list(element), value]);
            let expected = vec![list(DataType::Float64), DataType::Float64];
            assert_eq!(types, Some(expected));
        }
    }
}
