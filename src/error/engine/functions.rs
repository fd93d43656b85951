//! Functions of other databases that have another form here.

/// Start of the engine's message for an unknown function.
const NO_FUNCTION: &str = "Invalid function '";

/// The form to write here, by the names of the function in other databases.
const WRITTEN: [(&[&str], &str); 39] = [
    (&["age"], "a - b"),
    (&["approx_count_distinct"], "approx_distinct(x)"),
    (&["arg_max", "max_by"], "first_value(x ORDER BY y DESC)"),
    (&["arg_min", "min_by"], "first_value(x ORDER BY y)"),
    (&["array"], "[a, b], or (SELECT array_agg(x) FROM …)"),
    (&["array_fill"], "array_repeat(x, n)"),
    (&["array_size", "array_upper", "size"], "cardinality(list)"),
    (&["ceiling"], "ceil(x)"),
    (&["charindex", "locate"], "strpos(text, part)"),
    (&["collect_list"], "array_agg(x)"),
    (&["collect_set"], "array_agg(DISTINCT x)"),
    (&["count_if", "countif"], "count(*) FILTER (WHERE a)"),
    (&["curdate", "getdate", "sysdate"], "now() or current_date"),
    (
        &[
            "add_months",
            "date_add",
            "date_sub",
            "dateadd",
            "timestampadd",
        ],
        "t + INTERVAL '1 day'",
    ),
    (
        &["datediff", "timestampdiff"],
        "CAST(a AS DATE) - CAST(b AS DATE), or extract(epoch FROM a - b)",
    ),
    (
        &[
            "day",
            "dayofmonth",
            "hour",
            "minute",
            "month",
            "quarter",
            "second",
            "year",
        ],
        "extract(… FROM t)",
    ),
    (&["dayofweek"], "extract(dow FROM t), which is 0 on Sundays"),
    (&["dayofyear"], "extract(doy FROM t)"),
    (&["div"], "a / b, which is whole where a and b are"),
    (&["endswith"], "ends_with(text, part)"),
    (
        &["epoch", "to_unix_timestamp", "unix_timestamp"],
        "extract(epoch FROM t)",
    ),
    (&["every"], "bool_and(x)"),
    (&["explode"], "unnest(list)"),
    (&["first"], "first_value(x ORDER BY t)"),
    (
        &["format", "format_string", "printf"],
        "a || b, or concat(a, b)",
    ),
    (&["gen_random_uuid", "newid"], "uuid()"),
    (&["group_concat", "listagg"], "string_agg(x, ',')"),
    (&["if", "iff"], "CASE WHEN a THEN b ELSE c END"),
    (&["isnull"], "x IS NULL, or coalesce(x, y)"),
    (&["json_agg", "jsonb_agg"], "to_json(array_agg(x))"),
    (
        &["json_array_length", "jsonb_array_length"],
        "json_length(json)",
    ),
    (
        &[
            "json_build_object",
            "json_object",
            "jsonb_build_object",
            "row_to_json",
            "to_jsonb",
        ],
        "to_json({'a': x})",
    ),
    (
        &[
            "get_json_object",
            "json_extract",
            "json_extract_path_text",
            "json_extract_scalar",
            "json_extract_string",
            "json_value",
        ],
        "json ->> 'a'",
    ),
    (&["len"], "length(x)"),
    (&["make_timestamp"], "to_timestamp(text)"),
    (&["mod"], "a % b"),
    (&["pg_typeof", "typeof"], "arrow_typeof(x)"),
    (
        &["regexp_extract", "regexp_matches", "regexp_substr"],
        "regexp_match(text, pattern)[1]",
    ),
    (&["sign"], "signum(x)"),
];

/// The form to write instead of an unknown function.
pub(super) fn written(message: &str) -> Option<String> {
    let (_, rest) = message.split_once(NO_FUNCTION)?;
    let (name, _) = rest.split_once('\'')?;
    let name = name.to_lowercase();
    let mut known = WRITTEN.iter();
    let (_, written) = known.find(|(names, _)| names.contains(&name.as_str()))?;
    Some(format!("write {written}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::engine::real_errors::real;

    #[tokio::test]
    async fn unknown_function_errors_of_the_engine_are_recognized() {
        let error = real("SELECT mod(a, b) FROM t").await;
        assert_eq!(error.message(), "Invalid function 'mod'");
        assert_eq!(error.help(), Some("write a % b"));
    }

    #[test]
    fn functions_of_other_databases_get_a_suggestion() {
        let told = written("Error during planning: Invalid function 'MOD'.\nDid you mean 'log'?");
        assert_eq!(told.as_deref(), Some("write a % b"));
        assert_eq!(written("Invalid function 'nothing'"), None);
    }
}
