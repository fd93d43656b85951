//! Syntax tree of the statements, each part with its place in the text.

use datafusion::arrow::array::RecordBatch;
use datafusion::sql::parser::Statement as SqlStatement;
use datafusion::sql::sqlparser::ast::{DataType as SqlType, Expr, Ident, ObjectName, Query};
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::core::runs::EmitRows;
use crate::planner::error_spans::WordSpans;
use crate::planner::statement_class::Effect;

/// A statement with its text.
#[derive(Debug, Clone)]
pub struct ParsedStatement {
    /// The syntax tree.
    pub statement: Statement,
    /// How the statement is run, and which changes it makes.
    pub effect: Effect,
    /// Finds a place for errors that have none.
    pub places: WordSpans,
    /// The statement as typed; a definition with parameters that are bound has their values.
    pub text: String,
    /// Rows of values for its parameters, if they are bound all at once.
    pub rows: Option<RecordBatch>,
}

/// One statement.
#[derive(Debug, Clone)]
pub enum Statement {
    /// `CREATE EXTERNAL TABLE … STORED AS KAFKA|DELTA`.
    CreateTable(Box<CreateTable>),
    /// `CREATE [OR REPLACE] VIEW`.
    CreateView(Box<CreateView>),
    /// `SHOW TABLES`.
    ShowTables,
    /// `DESCRIBE t` and `SHOW COLUMNS FROM t`.
    Describe(ObjectName),
    /// `DESCRIBE SELECT …`: the columns of a query.
    DescribeQuery(Box<SqlStatement>),
    /// `SUMMARIZE t` and `SUMMARIZE SELECT …`, as the query.
    Summarize(Box<SqlStatement>),
    /// `SHOW CREATE TABLE t`.
    ShowCreateTable(ObjectName),
    /// `OPTIMIZE t [ZORDER BY (…)]`.
    Optimize {
        /// The table.
        table: ObjectName,
        /// The columns to cluster by; empty: compact small files only.
        zorder_by: Vec<Ident>,
    },
    /// `VACUUM t [RETAIN n HOURS] [DRY RUN]`.
    Vacuum {
        /// The table.
        table: ObjectName,
        /// Hours of history to keep; the table's own setting if not given.
        retain_hours: Option<TextValue>,
        /// Only list what would be deleted.
        dry_run: bool,
    },
    /// `DESCRIBE HISTORY t`.
    History(ObjectName),
    /// `SHOW QUERIES`: the running statements of a server.
    ShowQueries,
    /// `KILL QUERY 'id'`.
    KillQuery(TextValue),
    /// Statements about jobs.
    Job(Box<JobStatement>),
    /// Statements about reprocessing runs.
    Run(RunStatement),
    /// Everything DataFusion's own SQL has.
    Sql(Box<SqlStatement>),
}

/// A string literal or a parameter in its place, with its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextValue {
    /// The text; for an unbound parameter its name with the `$`.
    pub value: String,
    /// True until a parameter is bound.
    pub is_parameter: bool,
    /// Its place.
    pub span: Span,
}

/// Which engine holds a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    /// A Kafka topic.
    Kafka,
    /// A Delta Lake table.
    Delta,
}

/// `CREATE EXTERNAL TABLE` over Kafka or Delta.
#[derive(Debug, Clone)]
pub struct CreateTable {
    /// The table's name.
    pub name: ObjectName,
    /// `OR REPLACE`.
    pub or_replace: bool,
    /// `IF NOT EXISTS`.
    pub if_not_exists: bool,
    /// `STORED AS`.
    pub kind: TableKind,
    /// The columns; empty when the list was left out.
    pub columns: Vec<Column>,
    /// `PRIMARY KEY (…) NOT ENFORCED`.
    pub primary_key: Vec<Ident>,
    /// `WATERMARK FOR column AS expression`.
    pub watermark: Option<(Ident, Expr)>,
    /// `PARTITIONED BY (…)`.
    pub partitioned_by: Vec<Ident>,
    /// `LOCATION`.
    pub location: TextValue,
    /// `OPTIONS (…)`.
    pub options: Vec<TableOption>,
}

/// One `'key' 'value'` of an option list.
#[derive(Debug, Clone)]
pub struct TableOption {
    /// The key, as typed.
    pub key: String,
    /// The key's place.
    pub key_span: Span,
    /// The value.
    pub value: TextValue,
}

/// A column of `CREATE EXTERNAL TABLE`.
#[derive(Debug, Clone)]
pub struct Column {
    /// The name.
    pub name: Ident,
    /// The type as typed.
    pub sql_type: SqlType,
    /// The type's place.
    pub type_span: Span,
    /// Where its values come from.
    pub kind: ColumnKind,
    /// `NOT NULL`.
    pub not_null: bool,
    /// `COMMENT '…'`.
    pub comment: Option<String>,
}

/// Where a column's values come from.
#[derive(Debug, Clone)]
pub enum ColumnKind {
    /// From the record's value, or the table's files.
    Physical,
    /// `METADATA [FROM 'key']`.
    Metadata {
        /// The metadata key; the column's name when left out.
        key: String,
        /// Its place.
        span: Span,
    },
    /// `GENERATED ALWAYS AS (expression)`.
    Generated {
        /// The expression.
        expr: Box<Expr>,
        /// Its place.
        span: Span,
    },
}

/// `CREATE VIEW`: the catalog keeps the query, and every statement that uses the view plans it again.
#[derive(Debug, Clone)]
pub struct CreateView {
    /// The view's name.
    pub name: ObjectName,
    /// `OR REPLACE`.
    pub or_replace: bool,
    /// `IF NOT EXISTS`.
    pub if_not_exists: bool,
    /// Column names, when given.
    pub columns: Vec<Ident>,
    /// The query.
    pub query: Box<Query>,
}

/// Statements about jobs.
#[derive(Debug, Clone)]
pub enum JobStatement {
    /// `[EXPLAIN] CREATE [OR REPLACE] JOB name [WITH (…)] AS INSERT … [EMIT …]`.
    Create {
        /// `EXPLAIN`: the statement creates no job.
        explain: bool,
        /// The job's name.
        name: Ident,
        /// `OR REPLACE`.
        or_replace: bool,
        /// `WITH (…)`.
        options: Vec<TableOption>,
        /// The INSERT it runs.
        insert: Box<SqlStatement>,
        /// When it emits.
        emit: Emit,
    },
    /// `PAUSE JOB name`.
    Pause(Ident),
    /// `RESUME JOB name [ACCEPTING {NEW | MOVED} table, …] [SKIPPING LOST] [ASSUMING BATCH n [NOT] COMMITTED]`.
    Resume {
        /// The job's name.
        name: Ident,
        /// The job skips offsets that the topic no longer holds.
        skipping_lost: bool,
        /// Tables that were replaced since the last batch: for each, whether it holds the same rows as before.
        accepting: Vec<(Ident, bool)>,
        /// The batch whose commit is in doubt, and whether the sink has it.
        assuming: Option<(TextValue, bool)>,
    },
    /// `DROP JOB [IF EXISTS] name [CASCADE]`.
    Drop {
        /// The job's name.
        name: Ident,
        /// `IF EXISTS`.
        if_exists: bool,
        /// `CASCADE`: with its state.
        cascade: bool,
    },
    /// `REWIND JOB name TO BATCH n`.
    Rewind {
        /// The job's name.
        name: Ident,
        /// The batch to go back to.
        batch: TextValue,
    },
    /// `SHOW JOBS`.
    ShowJobs,
    /// `SHOW BATCHES FOR JOB name`.
    ShowBatches(Ident),
    /// `SHOW CREATE JOB name [AS OF BATCH n]` and `DESCRIBE JOB name [AS OF BATCH n]`.
    Describe {
        /// The job's name.
        name: Ident,
        /// The batch whose text is shown; the present text if not given.
        batch: Option<TextValue>,
    },
    /// `SUBSCRIBE [WITH (…)] SELECT … [EMIT …]`.
    Subscribe {
        /// `WITH (…)`.
        options: Vec<TableOption>,
        /// The query that stays open.
        query: Box<SqlStatement>,
        /// When it emits its aggregates.
        emit: Emit,
    },
}

impl JobStatement {
    /// The statement's leading words, for messages.
    pub fn verb(&self) -> &'static str {
        match self {
            JobStatement::Create { .. } => "CREATE JOB",
            JobStatement::Pause(_) => "PAUSE JOB",
            JobStatement::Resume { .. } => "RESUME JOB",
            JobStatement::Drop { .. } => "DROP JOB",
            JobStatement::Rewind { .. } => "REWIND JOB",
            JobStatement::ShowJobs => "SHOW JOBS",
            JobStatement::ShowBatches(_) => "SHOW BATCHES",
            JobStatement::Describe { .. } => "DESCRIBE JOB",
            JobStatement::Subscribe { .. } => "SUBSCRIBE",
        }
    }
}

/// Statements about reprocessing runs.
#[derive(Debug, Clone)]
pub enum RunStatement {
    /// `EXPLAIN REPROCESS JOB …`: it makes no run.
    Explain(Box<Reprocess>),
    /// `PLAN REPROCESS JOB …`: the run waits for `APPLY RUN`.
    Plan(Box<Reprocess>),
    /// `REPROCESS JOB …`: plans and applies at once.
    Reprocess(Box<Reprocess>),
    /// `APPLY RUN 'id'`.
    Apply(TextValue),
    /// `ABORT RUN 'id'`.
    Abort(TextValue),
    /// `SHOW RUNS [FOR JOB name]`.
    Show(Option<Ident>),
    /// `DESCRIBE RUN 'id'`.
    Describe(TextValue),
}

/// `REPROCESS JOB name` with at least one of `FROM … TO …`, `OFFSETS FROM … TO …` and `FOR (SELECT …)`, then
/// `[EMIT ALL | CHANGED] [WITH (…)]`.
#[derive(Debug, Clone)]
pub struct Reprocess {
    /// The job's name.
    pub job: Ident,
    /// The range of event time.
    pub time: Option<TextRange>,
    /// The ranges of offsets, as Spark's JSON.
    pub offsets: Option<TextRange>,
    /// The query that gives the coordinates of rows.
    pub rows: Option<RowsQuery>,
    /// `EMIT ALL` or `EMIT CHANGED`.
    pub emit: Option<EmitRows>,
    /// `WITH (…)`.
    pub options: Vec<TableOption>,
}

/// `FROM a TO b`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextRange {
    /// The beginning.
    pub from: TextValue,
    /// The end, which is not in it.
    pub to: TextValue,
}

/// `FOR (SELECT …)`.
#[derive(Debug, Clone)]
pub struct RowsQuery {
    /// The query.
    pub query: Box<Query>,
    /// The place of its bracket.
    pub span: Span,
}

impl RunStatement {
    /// The statement's leading words, for messages.
    pub fn verb(&self) -> &'static str {
        match self {
            RunStatement::Explain(_) => "EXPLAIN REPROCESS JOB",
            RunStatement::Plan(_) => "PLAN REPROCESS JOB",
            RunStatement::Reprocess(_) => "REPROCESS JOB",
            RunStatement::Apply(_) => "APPLY RUN",
            RunStatement::Abort(_) => "ABORT RUN",
            RunStatement::Show(_) => "SHOW RUNS",
            RunStatement::Describe(_) => "DESCRIBE RUN",
        }
    }

    /// The range that it asks for, if it asks for one.
    pub fn asked_mut(&mut self) -> Option<&mut Reprocess> {
        match self {
            RunStatement::Explain(asked)
            | RunStatement::Plan(asked)
            | RunStatement::Reprocess(asked) => Some(asked),
            RunStatement::Apply(_)
            | RunStatement::Abort(_)
            | RunStatement::Show(_)
            | RunStatement::Describe(_) => None,
        }
    }
}

/// When a job emits its aggregates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Emit {
    /// Each window once, when it closes.
    #[default]
    OnWindowClose,
    /// A row per group a batch touched.
    Changes,
    /// Aggregates over each batch alone.
    PerBatch,
}
