//! Names what an error is about, so that the statement can show the place of it.

/// What an error is about: a name or a text as the statement may have it, without quotes.
///
/// Messages are for people and may be reworded. What finds a place, or decides by what went wrong, reads the kind and the
/// subjects of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A table or a view, by its name without a schema.
    Table(String),
    /// A table that the engine has not found, by its name without a schema.
    UnknownTable(String),
    /// A column, by its name without a table.
    Column(String),
    /// The value of an option, by the option's name.
    Option(String),
    /// The name of an option that does not exist.
    UnknownOption(String),
    /// A function or a function in FROM.
    Function(String),
    /// A job.
    Job(String),
    /// Where a table is: a topic, a folder or a URL.
    Location(String),
    /// Any other part of the statement: a name, or the text between quotes.
    Text(String),
    /// Where the rows of the statement are printed to. It stands in no statement.
    Output,
}

impl Subject {
    /// A table or a view.
    pub(crate) fn table(name: impl Into<String>) -> Self {
        Self::Table(name.into())
    }

    /// A column.
    pub(crate) fn column(name: impl Into<String>) -> Self {
        Self::Column(name.into())
    }

    /// The value of an option.
    pub(crate) fn option(name: impl Into<String>) -> Self {
        Self::Option(name.into())
    }

    /// A function.
    pub(crate) fn function(name: impl Into<String>) -> Self {
        Self::Function(name.into())
    }

    /// A job.
    pub(crate) fn job(name: impl Into<String>) -> Self {
        Self::Job(name.into())
    }

    /// A topic, a folder or a URL.
    pub(crate) fn location(text: impl Into<String>) -> Self {
        Self::Location(text.into())
    }

    /// Any other part of the statement.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }
}
