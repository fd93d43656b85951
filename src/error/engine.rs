//! Interpreter of the engine's errors: those of DataFusion, Arrow, its parser and object stores, and of the functions of this
//! program, which return the engine's errors.
//!
//! No other module interprets their texts. The tests let the engine produce the errors, so that they fail when a release of the
//! engine changes a message. The modules that own deltalake, librdkafka and tonic interpret the errors of these libraries:
//! `tables/delta/error.rs`, `tables/kafka/client.rs` and `client/errors.rs`.

mod arguments;
pub(super) mod backtrace;
mod functions;
mod names;
#[cfg(test)]
mod real_errors;
mod subjects;
mod syntax;
mod unsupported;
mod values;

use anabranch_udfs::is_over_budget;
use datafusion::common::{Column, Diagnostic, SchemaError};
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::tokenizer::{Location, Span};

use super::base::Error;
use super::kind::ErrorKind;
use super::subject::Subject;
pub(crate) use names::NameProblems;
use subjects::of_text;
pub(crate) use syntax::SyntaxReason;

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        from_datafusion(error)
    }
}

/// Takes our own error out of DataFusion's wrappers, or turns DataFusion's into ours.
fn from_datafusion(error: DataFusionError) -> Error {
    let diagnostic = error.diagnostic().cloned();
    let mapped = match error {
        DataFusionError::External(inner) => match inner.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(other) => match other.downcast::<DataFusionError>() {
                Ok(nested) => from_datafusion(*nested),
                Err(other) => of_text(ErrorKind::Data, other.to_string()),
            },
        },
        DataFusionError::Context(context, inner) => {
            if is_rule(&context)
                && let Some(error) = of_outer_column(&inner)
            {
                return error;
            }
            let inner = from_datafusion(*inner);
            // Optimizer rules wrap the errors of their inputs with their own names, which are of no use to a user.
            if is_rule(&context) || inner.span().is_some() {
                inner
            } else {
                inner.context(context)
            }
        }
        DataFusionError::Diagnostic(_, inner) => from_datafusion(*inner),
        DataFusionError::Shared(inner) => match std::sync::Arc::try_unwrap(inner) {
            Ok(inner) => from_datafusion(inner),
            Err(shared) => from_shared(&shared),
        },
        DataFusionError::Collection(errors) => errors
            .into_iter()
            .next()
            .map_or_else(|| Error::internal("unknown error"), from_datafusion),
        DataFusionError::ArrowError(inner, _) => match *inner {
            datafusion::arrow::error::ArrowError::ExternalError(external) => {
                from_datafusion(DataFusionError::External(external))
            }
            other => {
                use datafusion::arrow::error::ArrowError;
                // Other errors quote values of rows.
                let is_of_file =
                    matches!(other, ArrowError::ParquetError(_) | ArrowError::IoError(..));
                let message = other.to_string();
                let text = strip_prefix(&message);
                match quoted_store(&message).filter(|_| is_of_file) {
                    Some(kind) => of_text(kind, text).by_store(),
                    None => values::without_room(&text)
                        .or_else(|| values::no_time(&text))
                        .unwrap_or_else(|| of_text(ErrorKind::Data, text)),
                }
            }
        },
        DataFusionError::Plan(message) => from_plan(&message),
        DataFusionError::SQL(inner, _) => {
            of_text(ErrorKind::Invalid, strip_prefix(&inner.to_string()))
        }
        DataFusionError::SchemaError(inner, _) => from_schema_error(&inner),
        DataFusionError::NotImplemented(message) => unsupported::unsupported(message),
        DataFusionError::ResourcesExhausted(message) => from_exhausted(message),
        DataFusionError::Execution(message) if message.contains(COERCION) => from_plan(&message),
        DataFusionError::Internal(message) if arguments::are_refused(&message) => {
            from_plan(&message)
        }
        DataFusionError::Execution(message) => from_execution(message),
        DataFusionError::ObjectStore(inner) => from_store(&inner),
        DataFusionError::IoError(inner) => Error::from(inner),
        DataFusionError::Configuration(message) => of_text(ErrorKind::Invalid, message),
        DataFusionError::ParquetError(inner) => from_parquet(&inner),
        other => of_text(ErrorKind::Internal, other.strip_backtrace()),
    };
    match diagnostic {
        Some(diagnostic) => with_diagnostic(mapped, &diagnostic),
        None => mapped,
    }
}

/// An exhausted pool, or the limit of what one function call may produce.
fn from_exhausted(message: String) -> Error {
    let is_of_function = is_over_budget(&message);
    let error = of_text(ErrorKind::Exhausted, message);
    match is_of_function {
        true => error.with_help("produce less for each row, or read fewer rows"),
        false => error
            .mark_exhausted_pool()
            .with_help("raise --memory-limit, or narrow the statement"),
    }
}

/// The engine's sinks know the columns they fill by position only.
fn from_execution(message: String) -> Error {
    let place = message
        .strip_prefix("Invalid batch column at '")
        .and_then(|rest| rest.split_once('\'')?.0.parse::<usize>().ok());
    match place {
        Some(place) => Error::data(format!(
            "column {} of the table is NOT NULL, but a row has no value in it",
            place + 1
        )),
        None => of_text(ErrorKind::Data, message),
    }
}

/// An optimizer rule's own name, or a phrase about one.
fn is_rule(context: &str) -> bool {
    let is_phrase = context.contains("rule")
        || context.contains("plan after")
        || context.starts_with("Invalid (non-executable) plan");
    is_phrase || context.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

/// The phrase that DataFusion puts between a function's name and the function's message about its arguments.
const COERCION: &str = "coercion failed with: ";

/// DataFusion's message for an INSERT whose number of columns differs from that of its query.
const INSERT_COUNT: &str = "Column count doesn't match insert query";

/// Separates, in the engine's name of a column, the name from the suffix that makes it unique. A user cannot type it.
pub(crate) const APART: char = '\u{1f}';

/// DataFusion's message for two columns of the same name.
const EQUAL_NAMES: &str = "Projections require unique expression names";

/// A planning error's message without the parts for DataFusion's programmers; its suggestion becomes the help text.
fn from_plan(message: &str) -> Error {
    if let Some(error) = arguments::refused(message) {
        return error;
    }
    if let Some(error) = arguments::of_rows(message) {
        return error;
    }
    let said = message
        .split_once(COERCION)
        .map_or(message, |(_, said)| said);
    let said = said.split(" No function matches").next().unwrap_or(said);
    let (said, suggestion) = match said.split_once("\nDid you mean") {
        Some((said, suggestion)) => (said, Some(suggestion)),
        None => (said, None),
    };
    let said = strip_prefix(said);
    if let Some(error) = unsupported::refused_subquery(&said) {
        return error;
    }
    if said.starts_with(INSERT_COUNT) {
        return Error::invalid("the query returns another number of columns than the INSERT fills").with_help(
            "name the columns: INSERT INTO t (a, b) SELECT …; without names, METADATA and generated columns are left out",
        );
    }
    if said.starts_with(EQUAL_NAMES) {
        let name = said.split('"').nth(1).unwrap_or_default();
        return equal_names(name);
    }
    let error = of_text(ErrorKind::Invalid, said.trim_end_matches('.'));
    let error = match names::unknown_table(&said) {
        Some(table) => error.about(Subject::UnknownTable(table.to_owned())),
        None => error,
    };
    if let Some(written) = functions::written(message) {
        return error.with_help(written);
    }
    match suggestion {
        Some(name) => error.with_help(format!("did you mean{name}")),
        None => error,
    }
}

/// The error for two columns of the same name where names must be unique.
pub(crate) fn equal_names(name: &str) -> Error {
    let name = name.split(APART).next().unwrap_or_default();
    Error::invalid(format!(
        "column names must be unique here, and two columns are named {name}"
    ))
    .about(Subject::column(name))
    .with_help("give each a name with AS, or all of them: FROM (SELECT …) AS q (x, y)")
}

/// The error for an object store's error. Layers above it name it through DataFusion, which uses it itself.
fn from_store(error: &datafusion::object_store::Error) -> Error {
    use datafusion::object_store::Error as Store;
    let kind = match error {
        Store::NotFound { .. } => ErrorKind::NotFound,
        Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => ErrorKind::Permission,
        Store::InvalidPath { .. } | Store::UnknownConfigurationKey { .. } => ErrorKind::Invalid,
        Store::NotSupported { .. } | Store::NotImplemented { .. } => ErrorKind::Unsupported,
        _ => ErrorKind::Unavailable,
    };
    of_text(kind, error.to_string()).by_store()
}

/// The kind of an object store's error that a text quotes, for libraries that keep no more than the text.
pub(crate) fn quoted_store(message: &str) -> Option<ErrorKind> {
    const REFUSALS: [&str; 2] = [
        "lacked the necessary privileges to complete",
        "lacked valid authentication credentials",
    ];
    if REFUSALS.iter().any(|refusal| message.contains(refusal)) {
        return Some(ErrorKind::Permission);
    }
    // Such as `Generic S3 error: …`.
    let (_, rest) = message.split_once("Generic ")?;
    let (store, _) = rest.split_once(" error: ")?;
    let is_remote = ["S3", "HTTP", "MicrosoftAzure", "GCS"].contains(&store);
    (is_remote && !is_cut(rest)).then_some(ErrorKind::Unavailable)
}

/// Whether a store reports a file shorter than expected: a retry does not help.
fn is_cut(message: &str) -> bool {
    [
        "InvalidRange",
        "Range Not Satisfiable",
        "Requested range was invalid",
    ]
    .iter()
    .any(|cut| message.contains(cut))
}

/// The object store's error among the causes of a reader's error.
fn store_below<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a datafusion::object_store::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(store) = error.downcast_ref() {
            return Some(store);
        }
        cause = error.source();
    }
    None
}

/// The error for a data file that a table names and the store cannot read.
fn from_parquet(error: &(dyn std::error::Error + 'static)) -> Error {
    use datafusion::object_store::Error as Store;
    match store_below(error) {
        None | Some(Store::NotFound { .. }) => {}
        Some(store) if is_cut(&store.to_string()) => {}
        Some(store) => return from_store(store),
    }
    let message = &error.to_string();
    if let Some(kind) = quoted_store(message) {
        return of_text(kind, strip_prefix(message)).by_store();
    }
    let missing = message
        .split_once("Object at location ")
        .and_then(|(_, rest)| rest.split_once(" not found"));
    match missing {
        Some((path, _)) => Error::data(format!("the data file '{path}' does not exist"))
            .by_store()
            .with_help("the table's log names it: VACUUM with a short retention deletes files that are still read; files may also be deleted by hand"),
        None => of_text(ErrorKind::Data, strip_prefix(message)),
    }
}

/// A shared error cannot be taken apart: our own is copied, any other is kept as its text.
fn from_shared(shared: &DataFusionError) -> Error {
    let root = shared.find_root();
    if let DataFusionError::External(inner) = root
        && let Some(ours) = inner.downcast_ref::<Error>()
    {
        return ours.clone();
    }
    match store_below(root) {
        None | Some(datafusion::object_store::Error::NotFound { .. }) => {}
        Some(store) => return from_store(store),
    }
    let kind = match root {
        DataFusionError::ObjectStore(inner) => return from_store(inner),
        DataFusionError::ParquetError(inner) => return from_parquet(inner.as_ref()),
        DataFusionError::Plan(_) | DataFusionError::SchemaError(..) => ErrorKind::Invalid,
        DataFusionError::ResourcesExhausted(message) => return from_exhausted(message.clone()),
        DataFusionError::NotImplemented(_) => ErrorKind::Unsupported,
        _ => ErrorKind::Data,
    };
    of_text(kind, strip_prefix(&root.strip_backtrace()))
}

fn from_schema_error(error: &SchemaError) -> Error {
    match error {
        SchemaError::FieldNotFound {
            field,
            valid_fields,
        } => {
            let is_one_of_many = |column: &Column| {
                let tables = (&field.relation, &column.relation);
                let is_of_table = match tables {
                    (Some(named), Some(table)) => named.resolved_eq(table),
                    _ => field.relation.is_none(),
                };
                let apart = column.name.split_once(APART);
                is_of_table && apart.is_some_and(|(label, _)| label == field.name)
            };
            if valid_fields.iter().any(is_one_of_many) {
                return Error::invalid(format!(
                    "column {} is ambiguous: several columns of a query in FROM have this name",
                    field.name
                ))
                .about(Subject::column(&field.name))
                .with_help("give them different names in that query: SELECT … AS a, … AS b");
            }
            let mut known: Vec<&str> = valid_fields
                .iter()
                .filter_map(|column| column.name.split(APART).next())
                .collect();
            known.dedup();
            let shown = |column: &Column| match &column.relation {
                Some(table) => format!("{}.{}", table.table(), column.name),
                None => column.name.clone(),
            };
            let mut mapped = Error::invalid(format!("no column named {}", shown(field)))
                .about(Subject::column(&field.name));
            if let Some(of_other) = valid_fields.iter().find(|of| of.name == field.name) {
                mapped = mapped.with_help(format!("did you mean {}?", shown(of_other)));
            } else if let Some(name) =
                crate::core::suggest::closest(&field.name, known.iter().copied())
            {
                mapped = mapped.with_help(format!("did you mean \"{name}\"?"));
            } else if !known.is_empty() {
                mapped = mapped.with_help(format!("the columns are {}", known.join(", ")));
            }
            mapped
        }
        other => of_text(ErrorKind::Invalid, other.to_string()),
    }
}

/// The error for a column that the planner resolved and an optimizer rule cannot: a column of an outer query, in a subquery of
/// a subquery.
fn of_outer_column(error: &DataFusionError) -> Option<Error> {
    let DataFusionError::SchemaError(missing, _) = error.find_root() else {
        return None;
    };
    let SchemaError::FieldNotFound { field, .. } = missing.as_ref() else {
        return None;
    };
    let error = Error::unsupported(format!(
        "column {} of an outer query cannot be referenced this deep within subqueries",
        field.name
    ))
    .about(Subject::column(&field.name));
    Some(error.with_help(
        "reference it in WHERE of the subquery directly in that query, or join with the table",
    ))
}

fn with_diagnostic(error: Error, diagnostic: &Diagnostic) -> Error {
    let mut error = match diagnostic.span {
        Some(span) => error.at(Span::new(
            Location::new(span.start.line, span.start.column),
            Location::new(span.end.line, span.end.column),
        )),
        None => error,
    };
    for help in &diagnostic.helps {
        error = error.with_help(help.message.clone());
    }
    error
}

/// DataFusion and Arrow prefix their text with the kind; in our errors [`ErrorKind`] carries it.
fn strip_prefix(message: &str) -> String {
    const PREFIXES: [&str; 9] = [
        "Error during planning: ",
        "External error: ",
        "Execution error: ",
        "Arrow error: ",
        "External: ",
        "Invalid argument error: ",
        "Json error: ",
        "Parser error: ",
        "sql parser error: ",
    ];
    let mut rest = message;
    while let Some(stripped) = PREFIXES.iter().find_map(|prefix| rest.strip_prefix(prefix)) {
        rest = stripped;
    }
    rest.to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::object_store::Error as StoreError;
    use datafusion::parquet::errors::ParquetError;

    use super::*;

    fn of_file(error: StoreError) -> [Error; 2] {
        let read = |error| DataFusionError::ParquetError(Box::new(ParquetError::External(error)));
        let text = error.to_string();
        [
            read(Box::new(error)).into(),
            DataFusionError::ArrowError(
                Box::new(datafusion::arrow::error::ArrowError::ParquetError(text)),
                None,
            )
            .into(),
        ]
    }

    #[test]
    fn a_missing_column_is_named_as_typed() {
        let missing = |table: Option<&str>, name: &str, known: &[(&str, &str)]| {
            let known = known
                .iter()
                .map(|(table, name)| Column::new(Some(*table), *name));
            let error = SchemaError::FieldNotFound {
                field: Box::new(Column::new(table, name)),
                valid_fields: known.collect(),
            };
            DataFusionError::SchemaError(Box::new(error), Box::new(None))
        };
        let error = Error::from(missing(Some("q"), "a", &[("t", "a")]));
        assert_eq!(error.message(), "no column named q.a");
        assert_eq!(error.help(), Some("did you mean t.a?"));
        let several = [("q", "a\u{1f}0"), ("q", "a\u{1f}1"), ("q", "b")];
        let error = Error::from(missing(None, "a", &several));
        assert!(
            error.message().starts_with("column a is ambiguous"),
            "{error}"
        );
        let error = Error::from(missing(None, "zzz", &several));
        assert_eq!(error.help(), Some("the columns are a, b"));
        // The planner had found it.
        let in_rule = missing(Some("t"), "a", &[("u", "a")]).context("Optimizer rule 'x' failed");
        let error = Error::from(in_rule);
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(!error.message().contains("no column"), "{error}");
    }

    #[tokio::test]
    async fn insert_errors_of_the_engine_are_recognized() {
        let error = real_errors::real("INSERT INTO t SELECT 1").await;
        assert_eq!(
            error.message(),
            "the query returns another number of columns than the INSERT fills"
        );
        let error =
            real_errors::real("INSERT INTO n SELECT CASE WHEN a > 1 THEN a END FROM t").await;
        assert_eq!(
            error.message(),
            "column 1 of the table is NOT NULL, but a row has no value in it"
        );
    }

    #[tokio::test]
    async fn duplicate_column_errors_of_the_engine_are_recognized() {
        let error = real_errors::real("SELECT a, a FROM t").await;
        let said = "column names must be unique here, and two columns are named ";
        assert!(error.message().starts_with(said), "{error}");
        assert!(!error.message().ends_with(' '), "{error}");
    }

    #[tokio::test]
    async fn a_functions_own_argument_error_is_kept_alone() {
        let raw = real_errors::raw("SELECT array_concat(1, 2)")
            .await
            .to_string();
        assert!(raw.contains(COERCION), "{raw}");
        let error = real_errors::real("SELECT array_concat(1, 2)").await;
        assert!(!error.message().contains(COERCION), "{error}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }

    #[tokio::test]
    async fn a_missing_column_is_the_subject_of_the_error() {
        let error = real_errors::real("SELECT x FROM t").await;
        assert_eq!(error.message(), "no column named x");
        assert_eq!(error.subjects(), [Subject::column("x")]);
    }

    #[test]
    fn subjects_of_an_error_survive_the_engine() {
        let subjects = [Subject::table("v"), Subject::column("a")];
        let error = || {
            let error = Error::data("no").about(Subject::column("a"));
            DataFusionError::from(error.within(Subject::table("v")))
        };
        let shared = Arc::new(error());
        for error in [
            error(),
            error().context("while it was tried"),
            DataFusionError::Shared(Arc::clone(&shared)),
            DataFusionError::ArrowError(
                Box::new(datafusion::arrow::error::ArrowError::ExternalError(
                    Box::new(error()),
                )),
                None,
            ),
        ] {
            assert_eq!(Error::from(error).subjects(), subjects);
        }
        let cause = Error::from(error());
        let other = Error::invalid("no").about(Subject::column("a"));
        assert_eq!(
            other.about_cause(&cause).subjects(),
            [Subject::column("a"), Subject::table("v")]
        );
    }

    #[test]
    fn a_computation_error_is_not_a_store_error() {
        let divided = datafusion::arrow::error::ArrowError::DivideByZero;
        let error = Error::from(DataFusionError::ArrowError(Box::new(divided), None));
        assert!(!error.is_without_row() && !error.may_pass());
        // Nor is one whose text reads like a store's.
        let text = "Cannot cast string 'a: Generic S3 error: b' to value of Int64 type";
        let cast = datafusion::arrow::error::ArrowError::CastError(text.into());
        let error = Error::from(DataFusionError::ArrowError(Box::new(cast), None));
        assert!(!error.is_without_row() && !error.may_pass());
    }

    #[test]
    fn an_exhausted_pool_is_distinguished_from_a_call_over_budget() {
        let pool = "Failed to allocate additional 32.0 KB for DeltaWriter[0]";
        let call = "concat would make 90 bytes of 1 rows, and the statement may hold 80";
        for (message, is_of_pool) in [(pool, true), (call, false)] {
            let error = || DataFusionError::ResourcesExhausted(message.to_owned());
            let shared = Arc::new(error());
            for error in [
                error(),
                error().context("while it was tried"),
                DataFusionError::Shared(Arc::clone(&shared)),
            ] {
                let error = Error::from(error);
                assert_eq!(error.kind(), ErrorKind::Exhausted);
                assert_eq!(error.is_exhausted_pool(), is_of_pool, "{error}");
                // Nor by itself does it pass.
                assert!(!error.may_pass());
                // It stays so on its way through the engine.
                let held = Arc::new(DataFusionError::from(error));
                let error = Error::from(DataFusionError::Shared(Arc::clone(&held)));
                assert_eq!(error.is_exhausted_pool(), is_of_pool, "{error}");
            }
        }
    }

    #[test]
    fn store_errors_during_a_file_read_are_not_data_errors() {
        let refused = || StoreError::PermissionDenied {
            path: "a.parquet".into(),
            source: "403".into(),
        };
        for error in of_file(refused()) {
            assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
            assert!(error.may_pass());
        }
        let shared = Arc::new(DataFusionError::ObjectStore(Box::new(refused())));
        let held = DataFusionError::Shared(Arc::clone(&shared));
        let error = Error::from(held);
        assert!(error.may_pass() && error.kind() == ErrorKind::Permission);
        drop(shared);
        for error in of_file(StoreError::Generic {
            store: "S3",
            source: "500".into(),
        }) {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        }
        // A torn file stays torn, and a missing permission of the process is not an error of the store.
        for error in of_file(StoreError::Generic {
            store: "LocalFileSystem",
            source: "Requested range was invalid".into(),
        }) {
            assert_eq!(error.kind(), ErrorKind::Data, "{error}");
        }
        assert!(!Error::new(ErrorKind::Permission, "no").may_pass());
    }
}
