//! Command-line arguments: commands, flags and their help.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::server::Limits;
use crate::tables::options::{parse_duration, parse_size};

const LOGIN: &str = "Safety";
const LIMITS: &str = "Limits";

/// SQL over Kafka topics and Delta Lake tables: queries, INSERTs and reprocessing from stored files.
#[derive(Debug, Parser)]
#[command(name = "anabranch", version, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "Examples:
  anabranch demo
  anabranch sql
  anabranch sql -f sql/tables/visits.sql -c 'SELECT page, count(*) FROM visits GROUP BY page'
  anabranch run sql/tables/visits_archive.sql sql/tables/visits_counter.sql \\
      sql/reprocess/sessions.sql --param from=2025-09-04T10:00:00 \\
      --param to=2025-09-04T11:00:00 --param run_id=run_1

Exit codes: 0 done; 1 SQL or data error; 2 usage or connection; 130, 143 interrupted.
Documentation: docs/reference.md";

/// Options of every command; flags win over ANABRANCH_… variables, these over the file.
#[derive(Debug, Args, Default)]
pub(crate) struct Global {
    /// Configuration file (TOML) [default: ./anabranch.toml, then the user's configuration folder]
    #[arg(long, global = true, value_name = "FILE", env = "ANABRANCH_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Format of results on standard output [default: table on a terminal, else csv]
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    pub(crate) format: Option<Format>,
    /// Memory that sorts, aggregates and joins may hold before they spill, such as 4GiB
    /// [default: half of the machine's]
    #[arg(long, global = true, value_name = "SIZE")]
    pub(crate) memory_limit: Option<String>,
    /// Parallel streams of a query [default: one per processor]
    #[arg(long, global = true, value_name = "N")]
    pub(crate) target_partitions: Option<usize>,
    /// Data directory of the jobs: a folder, or the URL of an object store [default: ./anabranch-data]
    #[arg(long, global = true, value_name = "PLACE")]
    pub(crate) data_dir: Option<String>,
    /// Log level of standard error, or a filter as in RUST_LOG [default: warn]
    #[arg(long, global = true, value_name = "FILTER")]
    pub(crate) log: Option<String>,
    /// Format of log lines [default: text]
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Type SQL at a prompt, or run it from arguments and files
    Sql(SqlArguments),
    /// Run stored SQL files, one after the other, in one session
    Run(RunArguments),
    /// Serve SQL over Arrow Flight, with the jobs of the data directory running behind it
    Serve(Box<ServeArguments>),
    /// Read all files of jobs, list the damaged ones and the data that would be lost
    Check(CheckArguments),
    /// Create the hash of a password for the users file
    Password,
    /// Create a token and its hash for the users file
    Token,
    /// Show the main job with nothing installed: an embedded broker, a Delta archive, reprocessing
    Demo(DemoArguments),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  anabranch sql
  anabranch sql -c 'SELECT 1'
  anabranch sql --format ndjson -f sql/tables/visits.sql -c 'SELECT * FROM visits LIMIT 10'
  echo 'SELECT 1;' | anabranch sql
  anabranch sql -c \"APPLY RUN 'fix_42'\"
  anabranch sql --url grpc://127.0.0.1:32010 -c 'SHOW JOBS'

With --url or --profile the statements run in that server, over its tables; places and files that
they name are the server's.")]
pub(crate) struct SqlArguments {
    /// Run this SQL and exit; may be given several times
    #[arg(short = 'c', long = "command", value_name = "SQL")]
    pub(crate) commands: Vec<String>,
    /// Run this file first; may be given several times
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// A value for $NAME
    #[arg(short = 'p', long = "param", value_name = "NAME=VALUE", value_parser = parameter)]
    pub(crate) params: Vec<(String, String)>,
    /// Stay at the prompt after -c and -f
    #[arg(short = 'i', long)]
    pub(crate) interactive: bool,
    #[command(flatten)]
    pub(crate) server: ServerArguments,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  anabranch run sql/tables/visits_raw.sql sql/tables/visits_records.sql sql/sync/visits_raw.sql
  anabranch run sql/tables/visits_archive.sql sql/tables/visits_counter.sql \\
      sql/reprocess/sessions.sql --param run_id=run_1 \\
      --param from=2025-09-04T10:00:00 --param to=2025-09-04T11:00:00
  anabranch run sql/tables/visits.sql sql/tables/visits_counter.sql sql/jobs/sessions.sql \\
      --metrics 127.0.0.1:9464
  anabranch run --url grpc://127.0.0.1:32010 sql/tables/visits.sql sql/jobs/sessions.sql

Files share one session: tables declared in one are known in the next. The first error stops the
run and is reported as file:line:column. When all statements are done, the jobs that the files
create run side by side until they are interrupted; they go on where they stood. With --url or
--profile all of it happens in that server: the jobs run there, and the command ends.")]
pub(crate) struct RunArguments {
    /// SQL files
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Stop when the files' jobs have processed all data that existed at the start [default: run them until interrupted]
    #[arg(long)]
    pub(crate) until_caught_up: bool,
    /// Serve metrics of the jobs for Prometheus at http://HOST:PORT/metrics, such as 127.0.0.1:9464; port 0 takes a
    /// free one [default: not served]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) metrics: Option<String>,
    /// A value for $NAME
    #[arg(short = 'p', long = "param", value_name = "NAME=VALUE", value_parser = parameter)]
    pub(crate) params: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) server: ServerArguments,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  anabranch check --data-dir s3://bucket/anabranch
  anabranch check visits_windows --sink
  anabranch check --format json

Reads the log, versions, state, late rows and dead letters of a job, or of all jobs and the catalog
of the data directory. Nothing is written, and the jobs may run meanwhile. Each problem is one row,
with the data that would be lost and the remedy; the exit code is then 1.")]
pub(crate) struct CheckArguments {
    /// The job [default: all jobs, and the definitions of tables and views]
    #[arg(value_name = "JOB")]
    pub(crate) job: Option<String>,
    /// Also ask the topic or table that each job writes to whether it agrees with the job's log
    #[arg(long)]
    pub(crate) sink: bool,
}

/// The server, and the login.
#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Server")]
pub(crate) struct ServerArguments {
    /// Run the statements in the server at grpc://HOST:PORT, or grpc+tls://HOST:PORT with TLS
    #[arg(long, value_name = "URL", env = "ANABRANCH_URL")]
    pub(crate) url: Option<String>,
    /// Use the server [profiles.NAME] of the configuration file; other flags win over its settings
    #[arg(long, value_name = "NAME", env = "ANABRANCH_PROFILE")]
    pub(crate) profile: Option<String>,
    /// Log in as this user, with the password in ANABRANCH_PASSWORD, else asked for at the terminal
    #[arg(long, value_name = "NAME", env = "ANABRANCH_USER")]
    pub(crate) user: Option<String>,
    /// Log in with the token in this file; ANABRANCH_TOKEN may hold the token itself
    #[arg(long, value_name = "FILE", env = "ANABRANCH_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Authorities (PEM) that the server's certificate may come from [default: the machine's]
    #[arg(long, value_name = "FILE", env = "ANABRANCH_TLS_CA")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Certificate (PEM) to show to the server
    #[arg(long, value_name = "FILE", env = "ANABRANCH_TLS_CERT")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", env = "ANABRANCH_TLS_KEY")]
    pub(crate) tls_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  anabranch serve
  anabranch serve sql/tables/visits.sql sql/tables/visits_counter.sql sql/jobs/sessions.sql
  anabranch serve --http 127.0.0.1:32080
  anabranch serve --data-dir s3://bucket/anabranch --metrics 127.0.0.1:9464
  anabranch serve --listen 0.0.0.0:32010 --users users.toml --tls-cert cert.pem --tls-key key.pem

Any Flight SQL client speaks to it: ADBC, JDBC, pyarrow, Go. With --http there is a console for
browsers: jobs, tables and queries. Tables, views and jobs that clients define are there after a
restart. Files are applied at each start: what they define and is there already stays. SIGTERM
gives results in flight 30 seconds to end; jobs stop and lose nothing.

Who may do what is said by --users: docs/security.md.")]
pub(crate) struct ServeArguments {
    /// SQL files that define tables, views and jobs
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:32010")]
    pub(crate) listen: String,
    /// Serve a console for browsers at http://HOST:PORT/, such as 127.0.0.1:32080; port 0 takes a free one
    /// [default: not served]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) http: Option<String>,

    /// Host name of the console, such as sql.example.com; may be repeated. Requests for other host names are refused
    #[arg(long = "http-host", value_name = "NAME")]
    pub(crate) http_hosts: Vec<String>,

    /// The console runs behind a proxy with TLS: its cookie is sent over TLS only
    #[arg(long)]
    pub(crate) http_behind_tls: bool,
    /// Accept connections from other machines without logins
    #[arg(long, help_heading = LOGIN)]
    pub(crate) insecure: bool,
    /// File of users, their passwords, roles and tables (TOML)
    #[arg(long, value_name = "FILE", env = "ANABRANCH_SERVE_USERS", help_heading = LOGIN)]
    pub(crate) users: Option<PathBuf>,
    /// Keys of a token issuer (JSON Web Key Set): its tokens are accepted, with the claims sub, role and tables
    #[arg(long, value_name = "FILE", env = "ANABRANCH_SERVE_JWT_JWKS", help_heading = LOGIN)]
    pub(crate) jwt_jwks: Option<PathBuf>,
    /// The iss that such a token must have
    #[arg(long, value_name = "NAME", env = "ANABRANCH_SERVE_JWT_ISSUER", requires = "jwt_jwks", help_heading = LOGIN)]
    pub(crate) jwt_issuer: Option<String>,
    /// The aud that such a token must have
    #[arg(long, value_name = "NAME", env = "ANABRANCH_SERVE_JWT_AUDIENCE", requires = "jwt_jwks", help_heading = LOGIN)]
    pub(crate) jwt_audience: Option<String>,
    /// Certificate of the server (PEM): clients connect with grpc+tls://
    #[arg(long, value_name = "FILE", env = "ANABRANCH_SERVE_TLS_CERT", requires = "tls_key", help_heading = LOGIN)]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", env = "ANABRANCH_SERVE_TLS_KEY", requires = "tls_cert", help_heading = LOGIN)]
    pub(crate) tls_key: Option<PathBuf>,
    /// Clients need a certificate of this authority (PEM)
    #[arg(long, value_name = "FILE", env = "ANABRANCH_SERVE_TLS_CLIENT_CA", requires = "tls_cert", help_heading = LOGIN)]
    pub(crate) tls_client_ca: Option<PathBuf>,
    /// Locations where users other than administrators may have tables: a folder, s3://bucket/path, or
    /// kafka://broker:9092; may be given several times
    #[arg(long = "location-root", value_name = "PLACE", help_heading = LOGIN)]
    pub(crate) location_roots: Vec<String>,
    /// Statements that run at the same time; others wait
    #[arg(long, value_name = "N", default_value_t = Limits::default().statements, value_parser = at_least_one, help_heading = LIMITS)]
    pub(crate) max_statements: usize,
    /// Statements that may wait; further ones are refused
    #[arg(long, value_name = "N", default_value_t = Limits::default().queue, help_heading = LIMITS)]
    pub(crate) max_queued: usize,
    /// Subscriptions that are open at the same time, besides these statements; further ones are refused
    #[arg(long, value_name = "N", default_value_t = Limits::default().subscriptions, help_heading = LIMITS)]
    pub(crate) max_subscriptions: usize,
    /// How long a statement may take, such as '10 minutes' [default: as long as it takes]
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = LIMITS)]
    pub(crate) statement_timeout: Option<Duration>,
    /// Memory of jobs, such as 1GiB: a part of --memory-limit that statements do not take [default: half of it]
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = LIMITS)]
    pub(crate) job_memory: Option<usize>,
    /// Memory of one statement, such as 1GiB [default: all of --memory-limit that jobs do not have]
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = LIMITS)]
    pub(crate) statement_memory: Option<usize>,
    /// Bytes of a statement's text
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "16MiB", help_heading = LIMITS)]
    pub(crate) max_statement: usize,
    /// Bytes of one result, such as 10GiB [default: as large as it is]
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = LIMITS)]
    pub(crate) max_result: Option<usize>,
    /// Sessions of clients, and results and prepared statements that are kept for them
    #[arg(long, value_name = "N", default_value_t = Limits::default().sessions, value_parser = at_least_one, help_heading = LIMITS)]
    pub(crate) max_sessions: usize,
    /// Sessions, results and prepared statements of a client are dropped after this time without a call
    #[arg(long, value_name = "TIME", default_value = "1 hour", value_parser = time, help_heading = LIMITS)]
    pub(crate) idle_timeout: Duration,
    /// After this time without rows, a result sends a keep-alive message
    #[arg(long, value_name = "TIME", default_value = "15 seconds", value_parser = time, help_heading = LIMITS)]
    pub(crate) keep_alive: Duration,
    /// Serve metrics of the service and its jobs for Prometheus at http://HOST:PORT/metrics [default: not served]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) metrics: Option<String>,
    /// A value for $NAME in the files
    #[arg(short = 'p', long = "param", value_name = "NAME=VALUE", value_parser = parameter)]
    pub(crate) params: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// Where the demo's Delta tables go [default: a temporary folder, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    /// Seed of the generated visits
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
    /// How many users visit
    #[arg(long, default_value_t = 200)]
    pub(crate) users: u32,
    /// Stay at a prompt on the demo's tables
    #[arg(short = 'i', long)]
    pub(crate) interactive: bool,
}

/// Format of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// Aligned columns with types below the names
    Table,
    /// Comma-separated values with a header
    Csv,
    /// One JSON array of objects
    Json,
    /// One JSON object per line
    Ndjson,
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// Text for people to read
    Text,
    /// One JSON object per line
    Json,
}

fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(legal) {
        return Err(format!(
            "invalid parameter name '{name}': use letters, digits and '_'"
        ));
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn time(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "give a number and a unit, such as '10 seconds'".to_owned())
}

fn size(text: &str) -> Result<usize, String> {
    let bytes = parse_size(text).and_then(|bytes| usize::try_from(bytes).ok());
    bytes.ok_or_else(|| "give a number and a unit, such as 512MiB".to_owned())
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("give a whole number from 1".to_owned()),
    }
}
