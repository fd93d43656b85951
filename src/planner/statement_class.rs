//! Class, role and writes of a statement. [`effect`](crate::planner::effect::effect) decides them.

/// Class, role and writes of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// How the statement is run, and the form of its answer.
    pub class: StatementClass,
    /// The least role that may run it.
    pub role: Role,
    /// The changes that it makes.
    pub writes: Writes,
    /// Whether it reads rows of the tables it names while it runs. Creating a view reads no rows.
    pub reads: bool,
    /// Whether it is about jobs, which belong to no table.
    pub jobs: bool,
    /// Whether its rows have no end: the stream lasts until the reader leaves.
    pub endless: bool,
}

/// How a statement is run, and the form of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatementClass {
    /// Returns rows and changes nothing: it may be run again.
    Query,
    /// Returns rows, and makes a change.
    Report,
    /// Writes rows; the answer is their number.
    Update,
    /// Changes tables, views or jobs.
    Definition,
    /// Changes the client's session.
    Setting,
    /// Ends another statement.
    Cancel,
}

/// The permissions of a user; each role includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Queries.
    Read,
    /// Also writing rows, and creating tables, views and jobs, at declared places.
    Write,
    /// Everything.
    Admin,
}

impl Role {
    /// The name of the role in user files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// The changes that a statement makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Writes {
    /// Nothing, or nothing that has a name.
    Nothing,
    /// Rows of a table.
    Rows {
        /// The table, without catalog and schema; `None` for a table function.
        table: Option<String>,
        /// How they change.
        change: ChangeKind,
    },
    /// The files of a table; its rows do not change.
    Layout {
        /// The table, without catalog and schema.
        table: Option<String>,
    },
    /// Files that belong to no table of the catalog.
    Files,
    /// A reprocessing run, and rows of the sink of its job.
    Run,
    /// Creates a table or view in the catalog.
    Creates {
        /// Without catalog and schema.
        name: Option<String>,
        /// The kind of the created object.
        object: ObjectKind,
        /// `IF NOT EXISTS`.
        only_if_new: bool,
    },
    /// Removes tables or views from the catalog.
    Drops {
        /// Without catalog and schema.
        names: Vec<String>,
        /// They are views.
        are_views: bool,
    },
}

/// The kind of a created object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// A table over a topic, a Delta table or files.
    Table,
    /// A table whose rows are in memory.
    TableInMemory,
    /// A view.
    View,
}

/// How rows change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// `INSERT`.
    Insert,
    /// `DELETE`.
    Delete,
    /// `UPDATE`.
    Update,
    /// `MERGE`.
    Merge,
}

impl ChangeKind {
    /// The statement's first word.
    pub fn verb(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Delete => "DELETE",
            Self::Update => "UPDATE",
            Self::Merge => "MERGE",
        }
    }
}

impl Effect {
    /// Whether it leaves the catalog, all rows and the session unchanged.
    pub fn is_query(&self) -> bool {
        self.class == StatementClass::Query
    }

    /// Whether planning it changes nothing and tells the columns of its rows. OPTIMIZE, VACUUM and reprocessing runs do their work
    /// while they are planned.
    pub fn is_known_by_planning(&self) -> bool {
        match self.class {
            StatementClass::Query => true,
            StatementClass::Report => !matches!(self.writes, Writes::Layout { .. } | Writes::Run),
            StatementClass::Update
            | StatementClass::Definition
            | StatementClass::Setting
            | StatementClass::Cancel => false,
        }
    }

    /// Whether it computes or writes a reprocessing run.
    pub fn runs(&self) -> bool {
        self.writes == Writes::Run
    }

    /// Whether it removes or replaces rows of a table.
    pub fn changes_rows(&self) -> bool {
        match self.change() {
            Some(ChangeKind::Delete | ChangeKind::Update | ChangeKind::Merge) => true,
            Some(ChangeKind::Insert) | None => false,
        }
    }

    /// The change of a table's rows, if the statement makes one.
    pub fn change(&self) -> Option<ChangeKind> {
        match self.writes {
            Writes::Rows { change, .. } => Some(change),
            _ => None,
        }
    }

    /// The tables and views that the statement creates or drops.
    pub fn defined_names(&self) -> &[String] {
        match &self.writes {
            Writes::Creates { name, .. } => name.as_slice(),
            Writes::Drops { names, .. } => names,
            _ => &[],
        }
    }

    /// Whether it creates a table whose rows are in memory.
    pub fn creates_in_memory(&self) -> bool {
        matches!(
            self.writes,
            Writes::Creates {
                object: ObjectKind::TableInMemory,
                ..
            }
        )
    }
}
