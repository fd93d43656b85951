//! The one public error of the crate: what went wrong, where in the SQL text, and what to do.
//!
//! An [`Error`] says *who must act* by its [`ErrorKind`]; one table maps kinds to exit codes here
//! and to wire codes in a server. It crosses DataFusion as [`DataFusionError::External`] and comes
//! back out whole through `From`.

mod arguments;
mod functions;
mod render;
mod unsupported;
mod values;

use std::fmt;

use anabranch_udfs::is_over_budget;
use datafusion::common::{Column, Diagnostic, SchemaError};
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::tokenizer::{Location, Span};

use crate::core::jobs::Reported;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who must act on an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The text, an option or an argument is wrong: change it.
    Invalid,
    /// Something named does not exist.
    NotFound,
    /// Something to be created exists already.
    Exists,
    /// The statement is understood but not built, or not possible by design.
    Unsupported,
    /// A record, file or log holds something that cannot be read as declared.
    Data,
    /// A broker, store or registry did not answer, or refused the connection: try again or check it.
    Unavailable,
    /// The caller may not do this.
    Permission,
    /// The caller has not been authenticated.
    Unauthenticated,
    /// Memory, disk or a limit ran out.
    Exhausted,
    /// The caller cancelled it.
    Cancelled,
    /// It took longer than it may.
    Timeout,
    /// A fault of this program.
    Internal,
}

impl ErrorKind {
    /// In one word, as metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Invalid => "invalid",
            ErrorKind::NotFound => "not_found",
            ErrorKind::Exists => "exists",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::Data => "data",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Permission => "permission",
            ErrorKind::Unauthenticated => "unauthenticated",
            ErrorKind::Exhausted => "exhausted",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::Timeout => "timeout",
            ErrorKind::Internal => "internal",
        }
    }

    /// The exit code of the command line: 1 for SQL and data, 2 for usage and connections.
    pub fn exit_code(self) -> u8 {
        match self {
            ErrorKind::Unavailable | ErrorKind::Permission | ErrorKind::Unauthenticated => 2,
            ErrorKind::Cancelled => 130,
            _ => 1,
        }
    }
}

/// An error with its kind, its place in the SQL text if known, and what to do about it.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: Box<str>,
    help: Option<Box<str>>,
    span: Option<Span>,
    /// Rows that were durably written before the failure, for statements that write.
    rows_written: Option<u64>,
    /// Whether the message names the record it is about, or says that it is about many.
    names_record: bool,
    /// Whether a store, a broker or a registry is the cause, rather than a row.
    is_of_no_row: bool,
    /// Whether a shared resource ran out: a memory pool or the disk.
    is_of_pool: bool,
    /// By which a server's log names the statement.
    query: Option<Box<str>>,
    /// What a job that stops by it keeps in its log, for the statement that resumes it.
    report: Option<Box<Reported>>,
    /// An object store has refused it: that may pass, as keys are renewed and policies take effect.
    by_store: bool,
    /// Another writer committed first, and this statement wrote nothing: a retry may succeed.
    is_conflict: bool,
}

impl Error {
    /// An error of `kind`; `message` is lower case, without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: shortened(without_backtrace(message.into())).into_boxed_str(),
            help: None,
            span: None,
            rows_written: None,
            names_record: false,
            is_of_no_row: false,
            is_of_pool: false,
            query: None,
            report: None,
            by_store: false,
            is_conflict: false,
        }
    }

    /// [`ErrorKind::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// [`ErrorKind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// [`ErrorKind::Unsupported`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// [`ErrorKind::Data`].
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Data, message)
    }

    /// [`ErrorKind::Unavailable`].
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    /// [`ErrorKind::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// Adds a help text that says what to do; an existing help text stays.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help
            .get_or_insert_with(|| help.into().into_boxed_str());
        self
    }

    /// Gives the place in the text, unless a more precise one is known.
    #[must_use]
    pub fn at(mut self, span: Span) -> Self {
        if self.span.is_none() && span != Span::empty() {
            self.span = Some(span);
        }
        self
    }

    /// Says how many rows were durably written before the failure.
    #[must_use]
    pub fn with_rows_written(mut self, rows: u64) -> Self {
        self.rows_written = Some(rows);
        self
    }

    /// Marks the message as one that names its record, or says that it is about many.
    #[must_use]
    pub(crate) fn of_record(mut self) -> Self {
        self.names_record = true;
        self
    }

    /// Whether the message names the record it is about.
    pub(crate) fn names_record(&self) -> bool {
        self.names_record
    }

    /// Marks a store, a broker or a registry, rather than a row, as the cause.
    #[must_use]
    pub(crate) fn of_no_row(mut self) -> Self {
        self.is_of_no_row = true;
        self
    }

    /// Marks the error as a write conflict: another writer committed first, and this statement wrote nothing.
    #[must_use]
    pub(crate) fn of_conflict(mut self) -> Self {
        self.is_conflict = true;
        self
    }

    /// Whether another writer committed first and this statement wrote nothing: a retry over the newest rows may succeed.
    pub(crate) fn is_conflict(&self) -> bool {
        self.is_conflict
    }

    /// Whether a store, a broker or a registry is the cause, rather than a row.
    pub(crate) fn is_of_no_row(&self) -> bool {
        self.is_of_no_row || self.by_store
    }

    /// Marks a shared resource, a memory pool or the disk, as exhausted.
    #[must_use]
    pub(crate) fn of_pool(mut self) -> Self {
        self.is_of_pool = true;
        self
    }

    /// Whether a shared resource ran out: a memory pool or the disk. Otherwise a limit of its own was exceeded, such as that of
    /// the memory that one function call may use.
    pub(crate) fn is_of_pool(&self) -> bool {
        self.is_of_pool
    }

    /// Marks the error as an object store's refusal.
    #[must_use]
    pub(crate) fn by_store(mut self) -> Self {
        self.by_store = true;
        self
    }

    /// Whether the cause is temporary, so that a job waits and retries.
    pub(crate) fn may_pass(&self) -> bool {
        self.kind == ErrorKind::Unavailable || (self.by_store && self.kind == ErrorKind::Permission)
    }

    /// Sets the id under which the server's log names the statement.
    #[must_use]
    pub fn of_query(mut self, id: &str) -> Self {
        self.query.get_or_insert_with(|| id.into());
        self
    }

    /// Attaches the report that the stopping job keeps in its log.
    #[must_use]
    pub fn with_report(mut self, report: Reported) -> Self {
        self.report.get_or_insert_with(|| Box::new(report));
        self
    }

    /// The report that the stopping job keeps in its log.
    pub fn report(&self) -> Option<&Reported> {
        self.report.as_deref()
    }

    /// Prefixes the message with a context: `context: message`.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message).into_boxed_str();
        self
    }

    /// Who must act.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What went wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// The message and its help in one line, for logs and reports where both are needed.
    pub(crate) fn with_its_help(&self) -> String {
        match &self.help {
            Some(help) => format!("{}; {help}", self.message),
            None => self.message.to_string(),
        }
    }

    /// The place in the text the statement came from; lines and columns count from 1.
    pub fn span(&self) -> Option<Span> {
        self.span
    }

    /// Rows that were durably written before the failure.
    pub fn rows_written(&self) -> Option<u64> {
        self.rows_written
    }

    /// The id under which the server's log names the statement.
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// The error as displayed to a user: message, `name:line:column`, the line with a caret, help.
    pub fn render(&self, name: &str, text: &str) -> String {
        let mut out = format!("error: {}\n", self.message);
        if let Some(span) = self.span {
            render::place(&mut out, name, text, span);
        } else {
            out.push_str(&format!(" --> {name}\n"));
        }
        if let Some(rows) = self.rows_written {
            out.push_str(&format!("  = rows written before the failure: {rows}\n"));
        }
        if let Some(help) = &self.help {
            out.push_str(&format!("  = help: {help}\n"));
        }
        out
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        DataFusionError::External(Box::new(error))
    }
}

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        from_datafusion(error)
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                ErrorKind::Permission
            }
            std::io::ErrorKind::NotADirectory
            | std::io::ErrorKind::IsADirectory
            | std::io::ErrorKind::InvalidFilename
            | std::io::ErrorKind::InvalidInput
            | std::io::ErrorKind::Unsupported => ErrorKind::Invalid,
            std::io::ErrorKind::InvalidData => ErrorKind::Data,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, error.to_string())
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
                Err(other) => Error::new(ErrorKind::Data, other.to_string()),
            },
        },
        DataFusionError::Context(context, inner) => {
            if is_rule(&context)
                && let Some(error) = of_outer_column(&inner)
            {
                return error;
            }
            let inner = from_datafusion(*inner);
            // Optimizer rules wrap their input's errors with their own names: of no use to a user.
            if is_rule(&context) || inner.span.is_some() {
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
                // The others quote values of rows.
                let is_of_file =
                    matches!(other, ArrowError::ParquetError(_) | ArrowError::IoError(..));
                let message = other.to_string();
                let said = strip_prefix(&message);
                match quoted_store(&message).filter(|_| is_of_file) {
                    Some(kind) => Error::new(kind, said).by_store(),
                    None => values::without_room(&said).unwrap_or_else(|| Error::data(said)),
                }
            }
        },
        DataFusionError::Plan(message) => from_plan(&message),
        DataFusionError::SQL(inner, _) => Error::invalid(strip_prefix(&inner.to_string())),
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
        DataFusionError::Configuration(message) => Error::invalid(message),
        DataFusionError::ParquetError(inner) => from_parquet(&inner),
        other => Error::internal(other.strip_backtrace()),
    };
    match diagnostic {
        Some(diagnostic) => with_diagnostic(mapped, &diagnostic),
        None => mapped,
    }
}

/// What is exhausted is a pool, or what one call of a function may make.
fn from_exhausted(message: String) -> Error {
    let is_of_function = is_over_budget(&message);
    let error = Error::new(ErrorKind::Exhausted, message);
    match is_of_function {
        true => error.with_help("make less of each row, or read fewer rows"),
        false => error
            .of_pool()
            .with_help("raise --memory-limit, or narrow the statement"),
    }
}

/// Sinks of the engine know the columns they fill by their places only.
fn from_execution(message: String) -> Error {
    let place = message
        .strip_prefix("Invalid batch column at '")
        .and_then(|rest| rest.split_once('\'')?.0.parse::<usize>().ok());
    match place {
        Some(place) => Error::data(format!(
            "column {} of the table is NOT NULL, but a row has no value in it",
            place + 1
        )),
        None => Error::data(message),
    }
}

/// An optimizer rule's own name, or a phrase about one.
fn is_rule(context: &str) -> bool {
    let is_phrase = context.contains("rule")
        || context.contains("plan after")
        || context.starts_with("Invalid (non-executable) plan");
    is_phrase || context.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

/// DataFusion's words between a function and what it said about its arguments.
const COERCION: &str = "coercion failed with: ";

/// How DataFusion says that an INSERT has another number of columns than its query.
const INSERT_COUNT: &str = "Column count doesn't match insert query";

/// Stands in the engine's name of a column before what tells it apart from another of the same name. It cannot be typed.
pub(crate) const APART: char = '\u{1f}';

/// How DataFusion says that two columns have one name.
const EQUAL_NAMES: &str = "Projections require unique expression names";

/// A planning error's message without what only its programmers need; its suggestion as help.
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
        return Error::invalid("the query gives more or fewer columns than the INSERT fills").with_help(
            "name the columns: INSERT INTO t (a, b) SELECT …; without names, METADATA and generated columns are left out",
        );
    }
    if said.starts_with(EQUAL_NAMES) {
        let name = said.split('"').nth(1).unwrap_or_default();
        return equal_names(name);
    }
    let error = Error::invalid(said.trim_end_matches('.'));
    if let Some(written) = functions::written(message) {
        return error.with_help(written);
    }
    match suggestion {
        Some(name) => error.with_help(format!("did you mean{name}")),
        None => error,
    }
}

/// The refusal of two columns of one name where names are unique.
pub(crate) fn equal_names(name: &str) -> Error {
    let name = name.split(APART).next().unwrap_or_default();
    Error::invalid(format!(
        "columns have unique names here, and two are called {name}"
    ))
    .with_help("give each its name by AS, or all of them: FROM (SELECT …) AS q (x, y)")
}

/// What an object store said. Layers above it name it through DataFusion, which uses it itself.
fn from_store(error: &datafusion::object_store::Error) -> Error {
    use datafusion::object_store::Error as Store;
    let kind = match error {
        Store::NotFound { .. } => ErrorKind::NotFound,
        Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => ErrorKind::Permission,
        Store::InvalidPath { .. } | Store::UnknownConfigurationKey { .. } => ErrorKind::Invalid,
        Store::NotSupported { .. } | Store::NotImplemented { .. } => ErrorKind::Unsupported,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, error.to_string()).by_store()
}

/// What kind of answer of an object store a text quotes, where a library keeps no more of it than that.
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

/// Whether a store says that a file is shorter than it should be: it stays so.
fn is_cut(message: &str) -> bool {
    [
        "InvalidRange",
        "Range Not Satisfiable",
        "Requested range was invalid",
    ]
    .iter()
    .any(|cut| message.contains(cut))
}

/// What a store said below an error of a reader.
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

/// A data file that a table names cannot be read.
fn from_parquet(error: &(dyn std::error::Error + 'static)) -> Error {
    use datafusion::object_store::Error as Store;
    match store_below(error) {
        None | Some(Store::NotFound { .. }) => {}
        Some(store) if is_cut(&store.to_string()) => {}
        Some(store) => return from_store(store),
    }
    let message = &error.to_string();
    if let Some(kind) = quoted_store(message) {
        return Error::new(kind, strip_prefix(message)).by_store();
    }
    let missing = message
        .split_once("Object at location ")
        .and_then(|(_, rest)| rest.split_once(" not found"));
    match missing {
        Some((path, _)) => Error::data(format!("the data file '{path}' does not exist"))
            .by_store()
            .with_help("the table's log names it: VACUUM with a short retention deletes files that are still read, and so may people"),
        None => Error::data(strip_prefix(message)),
    }
}

/// Libraries put backtraces into their messages when RUST_BACKTRACE is set.
fn without_backtrace(mut message: String) -> String {
    let start = ["\n   0: ", "\nstack backtrace", "\n\nbacktrace:"]
        .iter()
        .filter_map(|mark| message.find(mark))
        .min();
    if let Some(start) = start {
        message.truncate(message[..start].trim_end().len());
    }
    message
}

/// What libraries quote of a statement may be all of it: the ends of a long message say enough.
fn shortened(message: String) -> String {
    /// Characters of the beginning and of the end.
    const KEPT: (usize, usize) = (3_000, 500);
    let count = match message.len() > KEPT.0 + KEPT.1 {
        true => message.chars().count(),
        false => return message,
    };
    if count <= KEPT.0 + KEPT.1 {
        return message;
    }
    let begin: String = message.chars().take(KEPT.0).collect();
    let end: String = message.chars().skip(count - KEPT.1).collect();
    format!("{begin} … {end}")
}

/// A shared error cannot be taken apart: our own is copied, any other is kept as its text.
fn from_shared(shared: &DataFusionError) -> Error {
    let root = shared.find_root();
    if let DataFusionError::External(inner) = root
        && let Some(ours) = inner.downcast_ref::<Error>()
    {
        return Error {
            kind: ours.kind,
            message: ours.message.clone(),
            help: ours.help.clone(),
            span: ours.span,
            rows_written: ours.rows_written,
            names_record: ours.names_record,
            is_of_no_row: ours.is_of_no_row,
            is_of_pool: ours.is_of_pool,
            query: ours.query.clone(),
            report: ours.report.clone(),
            by_store: ours.by_store,
            is_conflict: ours.is_conflict,
        };
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
    Error::new(kind, strip_prefix(&root.strip_backtrace()))
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
                    "column {} is ambiguous: several columns of a query in FROM are called so",
                    field.name
                ))
                .with_help("name them apart in that query: SELECT … AS a, … AS b");
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
            let mut mapped = Error::invalid(format!("no column named {}", shown(field)));
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
        other => Error::invalid(other.to_string()),
    }
}

/// What a rule does not find that the planner has found: a column of a query around, in a subquery of a subquery.
fn of_outer_column(error: &DataFusionError) -> Option<Error> {
    let DataFusionError::SchemaError(missing, _) = error.find_root() else {
        return None;
    };
    let SchemaError::FieldNotFound { field, .. } = missing.as_ref() else {
        return None;
    };
    let error = Error::unsupported(format!(
        "column {} of a query around cannot be named this deep within subqueries",
        field.name
    ));
    Some(error.with_help(
        "compare with it in WHERE of the subquery that stands in that query, or join with the table",
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

/// DataFusion and Arrow put the kind before their text; ours is carried by [`ErrorKind`].
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
    fn a_column_is_missed_by_the_name_that_was_typed() {
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

    #[test]
    fn a_value_that_cannot_be_computed_is_no_matter_of_a_store() {
        let divided = datafusion::arrow::error::ArrowError::DivideByZero;
        let error = Error::from(DataFusionError::ArrowError(Box::new(divided), None));
        assert!(!error.is_of_no_row() && !error.may_pass());
        // Nor is one whose text reads like a store's.
        let text = "Cannot cast string 'a: Generic S3 error: b' to value of Int64 type";
        let cast = datafusion::arrow::error::ArrowError::CastError(text.into());
        let error = Error::from(DataFusionError::ArrowError(Box::new(cast), None));
        assert!(!error.is_of_no_row() && !error.may_pass());
    }

    #[test]
    fn a_pool_that_has_no_more_is_told_from_what_one_call_would_make() {
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
                assert_eq!(error.is_of_pool(), is_of_pool, "{error}");
                // Nor by itself does it pass.
                assert!(!error.may_pass());
                // It stays so on its way through the engine.
                let held = Arc::new(DataFusionError::from(error));
                let error = Error::from(DataFusionError::Shared(Arc::clone(&held)));
                assert_eq!(error.is_of_pool(), is_of_pool, "{error}");
            }
        }
    }

    #[test]
    fn a_store_that_refuses_or_fails_while_a_file_is_read_is_no_fault_of_the_file() {
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
        // What is torn stays so, and what the program may not do is no matter of a store.
        for error in of_file(StoreError::Generic {
            store: "LocalFileSystem",
            source: "Requested range was invalid".into(),
        }) {
            assert_eq!(error.kind(), ErrorKind::Data, "{error}");
        }
        assert!(!Error::new(ErrorKind::Permission, "no").may_pass());
    }
}
