//! The error itself and what it carries. It knows nothing of the engine's errors.

use std::fmt;

use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::tokenizer::Span;

use super::engine::backtrace::without_backtrace;
use super::kind::ErrorKind;
use super::render;
use super::subject::Subject;
use crate::core::jobs::ReportedChange;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error with its kind, its subjects, its place in the SQL text if known, and a help text for the user.
#[derive(Debug, Clone)]
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
    /// The error's subjects and origin, boxed so that a result is small.
    details: Option<Box<ErrorDetails>>,
    /// An object store has denied access. A retry may succeed, as keys are renewed and policies take effect.
    by_store: bool,
    /// Another writer committed first, and this statement wrote nothing: a retry may succeed.
    is_conflict: bool,
    /// What was asked for comes to nothing, and nothing is wrong with that.
    is_of_nothing: bool,
}

/// Details that only some errors have.
#[derive(Debug, Clone, Default)]
struct ErrorDetails {
    /// The parts of the statement that the error is about, with the most precise one first.
    subjects: Vec<Subject>,
    /// The id under which the server's log names the statement.
    query: Option<Box<str>>,
    /// The job's last report, for the log entry that the stopping job writes and the resuming statement reads.
    report: Option<ReportedChange>,
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
            details: None,
            by_store: false,
            is_conflict: false,
            is_of_nothing: false,
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

    /// Replaces the help text.
    #[must_use]
    pub(crate) fn with_other_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into().into_boxed_str());
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

    /// Adds a subject after the existing ones. The first subject found in the statement gives the error its place.
    #[must_use]
    pub fn about(mut self, subject: Subject) -> Self {
        let subjects = &mut self.details().subjects;
        if !subjects.contains(&subject) {
            subjects.push(subject);
        }
        self
    }

    /// Adds a subject before the existing ones: one that contains them.
    #[must_use]
    pub(crate) fn within(mut self, subject: Subject) -> Self {
        self.details().subjects.insert(0, subject);
        self
    }

    /// Adds the subjects of `cause`, whose text the error quotes.
    #[must_use]
    pub(crate) fn about_cause(self, cause: &Error) -> Self {
        let subjects = cause.subjects().iter().cloned();
        subjects.fold(self, Self::about)
    }

    fn details(&mut self) -> &mut ErrorDetails {
        self.details.get_or_insert_default()
    }

    /// Sets the number of rows that were durably written before the failure.
    #[must_use]
    pub fn with_rows_written(mut self, rows: u64) -> Self {
        self.rows_written = Some(rows);
        self
    }

    /// Marks the message as one that names its record, or says that it is about many.
    #[must_use]
    pub(crate) fn mark_record(mut self) -> Self {
        self.names_record = true;
        self
    }

    /// Whether the message names the record it is about.
    pub(crate) fn names_record(&self) -> bool {
        self.names_record
    }

    /// Marks a store, a broker or a registry, rather than a row, as the cause.
    #[must_use]
    pub(crate) fn without_row(mut self) -> Self {
        self.is_of_no_row = true;
        self
    }

    /// Marks the error as a write conflict: another writer committed first, and this statement wrote nothing.
    #[must_use]
    pub(crate) fn mark_conflict(mut self) -> Self {
        self.is_conflict = true;
        self
    }

    /// Whether another writer committed first and this statement wrote nothing: a retry over the newest rows may succeed.
    pub(crate) fn is_conflict(&self) -> bool {
        self.is_conflict
    }

    /// Marks that what was asked for comes to nothing, as where all is done already: a statement says so, and does not fail.
    #[must_use]
    pub(crate) fn mark_nothing_to_do(mut self) -> Self {
        self.is_of_nothing = true;
        self
    }

    /// Whether what was asked for comes to nothing, so that a statement does not fail.
    pub(crate) fn has_nothing_to_do(&self) -> bool {
        self.is_of_nothing
    }

    /// Whether a store, a broker or a registry is the cause, rather than a row.
    pub(crate) fn is_without_row(&self) -> bool {
        self.is_of_no_row || self.by_store
    }

    /// Marks a shared resource, a memory pool or the disk, as exhausted.
    #[must_use]
    pub(crate) fn mark_exhausted_pool(mut self) -> Self {
        self.is_of_pool = true;
        self
    }

    /// Whether a shared resource ran out: a memory pool or the disk. Otherwise a limit of its own was exceeded, such as that of
    /// the memory that one function call may use.
    pub(crate) fn is_exhausted_pool(&self) -> bool {
        self.is_of_pool
    }

    /// Whether the store does not have a file that was to be read.
    pub(crate) fn is_of_missing_file(&self) -> bool {
        self.kind == ErrorKind::NotFound || (self.by_store && self.kind == ErrorKind::Data)
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
        self.details().query.get_or_insert_with(|| id.into());
        self
    }

    /// Attaches the report that the stopping job keeps in its log.
    #[must_use]
    pub fn with_report(mut self, report: ReportedChange) -> Self {
        self.details().report.get_or_insert(report);
        self
    }

    /// The report that the stopping job keeps in its log.
    pub fn report(&self) -> Option<&ReportedChange> {
        self.details.as_ref()?.report.as_ref()
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

    /// The subjects of the error, with the most precise one first.
    pub fn subjects(&self) -> &[Subject] {
        self.details
            .as_ref()
            .map_or(&[], |details| &details.subjects)
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
        self.details.as_ref()?.query.as_deref()
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

/// Libraries may quote a whole statement: the beginning and the end of a long message are enough.
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
