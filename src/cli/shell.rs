//! The prompt: line editing, history, completion, and commands that start with a backslash.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use rustyline::completion::{Completer, Pair};
use rustyline::config::CompletionType;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Context, Editor, Helper};

use crate::cli::args::Format;
use crate::cli::bound_statements::prepare;
use crate::cli::remote;
use crate::cli::runner::{Runner, StatementTarget};
use crate::cli::terminal::interrupt::Interrupt;
use crate::cli::terminal::messages::{eprint, report};
use crate::error::{Error, Result};
use crate::planner::script::is_incomplete;
use crate::planner::{Parameters, Script};

/// The longest wait of the prompt for the names of a server's tables.
const NAMES: Duration = Duration::from_secs(2);

const HELP: &str = "\
statements end with ';' and may span lines; Ctrl-C cancels one, Ctrl-D leaves
  \\d               tables and views
  \\d NAME          columns of a table
  \\dd NAME         how a table was created
  \\df [PATTERN]    functions
  \\i FILE          run a file
  \\set NAME VALUE  a value for $NAME; \\set alone shows them
  \\format FORMAT   table, csv, json or ndjson
  \\timing          how long statements take, on or off
  \\q               leave
";

const KEYWORDS: &[&str] = &[
    "ABORT RUN",
    "ALL",
    "AND",
    "APPLY RUN",
    "AS OF BATCH",
    "AS",
    "ASC",
    "BETWEEN",
    "BY",
    "CASE",
    "CAST",
    "CHANGED",
    "COMPLETE_SESSIONS",
    "CREATE JOB",
    "CREATE",
    "CUMULATE",
    "DELTA",
    "DESC",
    "DESCRIBE JOB",
    "DESCRIBE RUN",
    "DESCRIBE",
    "DESCRIPTOR",
    "DISTINCT",
    "DROP JOB",
    "DROP",
    "ELSE",
    "EMIT ALL",
    "EMIT CHANGED",
    "EMIT CHANGES",
    "EMIT ON WINDOW CLOSE",
    "EMIT PER BATCH",
    "END",
    "EXISTS",
    "EXPLAIN ANALYZE",
    "EXPLAIN REPROCESS JOB",
    "EXPLAIN",
    "EXTERNAL",
    "FOR TIMESTAMP AS OF",
    "FOR VERSION AS OF",
    "FROM",
    "FULL",
    "GENERATED ALWAYS AS",
    "GROUP",
    "HAVING",
    "HOP",
    "IN",
    "INNER",
    "INSERT INTO",
    "INTERVAL",
    "IS NOT NULL",
    "IS NULL",
    "JOIN",
    "KAFKA",
    "LEFT",
    "LIKE",
    "LIMIT",
    "LOCATION",
    "METADATA FROM",
    "NOT",
    "NULL",
    "OFFSET",
    "OFFSETS FROM",
    "ON",
    "OPTIMIZE",
    "OPTIONS",
    "OR",
    "ORDER",
    "OVER",
    "PARTITION",
    "PARTITIONED BY",
    "PAUSE JOB",
    "PLAN REPROCESS JOB",
    "PRIMARY KEY",
    "REPROCESS JOB",
    "RESUME JOB",
    "REWIND JOB",
    "SELECT",
    "SESSION",
    "SHOW BATCHES FOR JOB",
    "SHOW COLUMNS FROM",
    "SHOW CREATE JOB",
    "SHOW CREATE TABLE",
    "SHOW JOBS",
    "SHOW RUNS FOR JOB",
    "SHOW RUNS",
    "SHOW TABLES",
    "STORED AS",
    "SUBSCRIBE",
    "TABLE",
    "THEN",
    "TIMESTAMP",
    "TUMBLE",
    "UNION",
    "USING",
    "VACUUM",
    "VALUES",
    "VIEW",
    "WATERMARK FOR",
    "WHEN",
    "WHERE",
    "WITH",
];

/// Runs the prompt until the user leaves; gives the exit code.
pub(crate) async fn run(mut runner: Runner<'_>, parameters: Parameters) -> Result<u8> {
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .auto_add_history(false)
        .build();
    let mut editor: Editor<ShellHelper, DefaultHistory> =
        Editor::with_config(config).map_err(|error| Error::invalid(error.to_string()))?;
    let history = history_file();
    if let Some(file) = &history {
        // A first session has no history yet.
        let _ = editor.load_history(file);
    }
    runner.timing = true;
    let mut shell = Shell {
        runner,
        parameters,
        is_changed: true,
    };
    let place = match &shell.runner.place {
        StatementTarget::Local(_) => String::new(),
        StatementTarget::Remote(client) => format!(" at {}", client.address()),
    };
    eprint(&format!(
        "anabranch {}{place} — \\? for help, \\q to leave\n",
        env!("CARGO_PKG_VERSION")
    ));
    loop {
        if std::mem::take(&mut shell.is_changed) {
            editor.set_helper(Some(ShellHelper::new(shell.names().await)));
        }
        let line = match tokio::task::block_in_place(|| editor.readline("anabranch> ")) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => {
                return Err(Error::invalid(format!(
                    "the terminal cannot be read: {error}"
                )));
            }
        };
        if line.trim().is_empty() {
            continue;
        }
        let _ = editor.add_history_entry(line.trim());
        if let Some(file) = &history {
            if let Some(dir) = file.parent() {
                let _ = std::fs::create_dir_all(dir);
            }
            let _ = editor.save_history(file);
        }
        if shell.enter(&line).await == ShellAction::Leave {
            break;
        }
    }
    Ok(0)
}

#[derive(PartialEq, Eq)]
enum ShellAction {
    Stay,
    Leave,
}

struct Shell<'a> {
    runner: Runner<'a>,
    parameters: Parameters,
    /// There may be other tables than before.
    is_changed: bool,
}

impl Shell<'_> {
    async fn enter(&mut self, line: &str) -> ShellAction {
        let trimmed = line.trim();
        match trimmed.strip_prefix('\\') {
            Some(command) => return self.command(command).await,
            None if matches!(trimmed.trim_end_matches(';'), "quit" | "exit") => {
                return ShellAction::Leave;
            }
            None => self.script(&Script::new("<shell>", line)).await,
        }
        ShellAction::Stay
    }

    /// Ctrl-C cancels the statement and leaves the shell open.
    async fn script(&mut self, script: &Script) {
        let statements = match prepare(script, &mut self.parameters) {
            Ok(statements) => statements,
            Err(error) => {
                report(&error, script);
                return;
            }
        };
        let interrupt = Interrupt::new();
        for ready in statements {
            self.is_changed |= !ready.parsed.effect.is_query();
            let stops = self.runner.stops_by_itself(&ready.parsed.effect);
            tokio::select! {
                done = self.runner.run_statement(ready) => {
                    if let Err(error) = done {
                        report(&error, script);
                        return;
                    }
                }
                _ = interrupt.wait(), if !stops => {
                    eprint("cancelled\n");
                    return;
                }
            }
        }
    }

    async fn sql(&mut self, sql: String) {
        self.script(&Script::new("<shell>", sql)).await;
    }

    async fn command(&mut self, command: &str) -> ShellAction {
        let mut words = command
            .trim()
            .trim_end_matches(';')
            .splitn(3, char::is_whitespace);
        let name = words.next().unwrap_or_default();
        let first = words.next().map(str::trim).filter(|word| !word.is_empty());
        let rest = words.next().map(str::trim);
        match (name, first) {
            ("q" | "quit", _) => return ShellAction::Leave,
            ("?" | "h" | "help", _) => eprint(HELP),
            ("d" | "dt", None) => self.sql("SHOW TABLES".to_owned()).await,
            ("d", Some(table)) => self.sql(format!("DESCRIBE {table}")).await,
            ("dd", Some(table)) => match self.definition(table).await {
                Ok(text) => eprint(&format!("{text}\n")),
                Err(error) => eprint(&format!("error: {error}\n")),
            },
            ("df", pattern) => match self.functions().await {
                Ok(functions) => {
                    let is_wanted =
                        |name: &&String| pattern.is_none_or(|pattern| name.contains(pattern));
                    for function in functions.iter().filter(is_wanted) {
                        eprint(&format!("{function}\n"));
                    }
                }
                Err(error) => eprint(&format!("error: {error}\n")),
            },
            ("i", Some(file)) => match std::fs::read_to_string(file) {
                Ok(text) => self.script(&Script::new(file, text)).await,
                Err(error) => eprint(&format!("error: {file} cannot be read: {error}\n")),
            },
            ("set", None) => {
                for (name, value) in self.parameters.iter() {
                    eprint(&format!("{name} = {value}\n"));
                }
            }
            ("set", Some(name)) => self.parameters.set(name, rest.unwrap_or_default()),
            ("timing", _) => {
                self.runner.timing = !self.runner.timing;
                eprint(if self.runner.timing {
                    "timing is on\n"
                } else {
                    "timing is off\n"
                });
            }
            ("format", Some(format)) => match Format::from_str(format, true) {
                Ok(format) => self.runner.format = format,
                Err(_) => eprint("error: the formats are table, csv, json and ndjson\n"),
            },
            _ => eprint(&format!(
                "error: unknown command \\{command}; \\? shows the commands\n"
            )),
        }
        ShellAction::Stay
    }

    async fn definition(&self, table: &str) -> Result<String> {
        match &self.runner.place {
            StatementTarget::Local(here) => here.session().definition(table),
            StatementTarget::Remote(client) => remote::definition(client, table).await,
        }
    }

    async fn functions(&self) -> Result<Vec<String>> {
        match &self.runner.place {
            StatementTarget::Local(here) => Ok(here.session().function_names()),
            StatementTarget::Remote(client) => remote::functions(client).await,
        }
    }

    /// The names that Tab completes.
    async fn names(&self) -> Vec<String> {
        let client = match &self.runner.place {
            StatementTarget::Local(here) => {
                let session = here.session();
                let tables = session.table_names().into_iter();
                let tables = tables.chain(session.column_names());
                return tables.chain(session.function_names()).collect();
            }
            StatementTarget::Remote(client) => client,
        };
        // Without names the user can still type, and the next statement reports a server that does not answer.
        let asked = async { tokio::try_join!(client.names(), remote::functions(client)) };
        match tokio::time::timeout(NAMES, asked).await {
            Ok(Ok((tables, functions))) => tables.into_iter().chain(functions).collect(),
            _ => Vec::new(),
        }
    }
}

fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let state =
        state.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")));
    Some(state?.join("anabranch/history"))
}

/// Completes keywords, tables, columns and functions; asks for more lines until a `;`.
struct ShellHelper {
    words: Vec<String>,
}

impl ShellHelper {
    fn new(names: Vec<String>) -> Self {
        let mut words = names;
        words.extend(KEYWORDS.iter().map(|word| (*word).to_owned()));
        words.sort();
        words.dedup();
        Self { words }
    }
}

impl Completer for ShellHelper {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let start = line[..position]
            .rfind(|c: char| !(c.is_alphanumeric() || c == '_'))
            .map_or(0, |at| {
                at + line[at..].chars().next().map_or(1, char::len_utf8)
            });
        let typed = &line[start..position];
        if typed.is_empty() {
            return Ok((start, Vec::new()));
        }
        let lower = typed.to_lowercase();
        let matches = self
            .words
            .iter()
            .filter(|word| word.to_lowercase().starts_with(&lower));
        let candidates = matches
            .map(|word| Pair {
                display: word.clone(),
                replacement: word.clone(),
            })
            .collect();
        Ok((start, candidates))
    }
}

impl Validator for ShellHelper {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let text = context.input().trim();
        let whole = text.is_empty()
            || text.starts_with('\\')
            || matches!(text, "quit" | "exit")
            || !is_incomplete(text);
        Ok(if whole {
            ValidationResult::Valid(None)
        } else {
            ValidationResult::Incomplete
        })
    }
}

impl Hinter for ShellHelper {
    type Hint = String;
}

impl Highlighter for ShellHelper {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        Cow::Borrowed(prompt)
    }
}

impl Helper for ShellHelper {}
