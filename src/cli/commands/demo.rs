//! The demo: the main job on the embedded broker, with nothing installed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{NaiveDate, TimeZone, Utc};
use datafusion::arrow::array::{Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};

use crate::cli::args::{DemoArguments, Format};
use crate::cli::bound_statements::prepare;
use crate::cli::config::Settings;
use crate::cli::local::LocalSession;
use crate::cli::runner::{Runner, StatementTarget};
use crate::cli::shell;
use crate::cli::terminal::messages::eprint;
use crate::cli::visits::{VisitPlan, Visits};
use crate::error::{Error, Result};
use crate::planner::{Parameters, Script};
use crate::session::Session;
use crate::tables::kafka::embedded_broker::EmbeddedBroker;

/// A job over an archived topic asks the broker whether the topic is compacted. The embedded broker does not answer that: the job waits for
/// `connect.timeout` each time it starts.
const TABLES: &str = "\
CREATE EXTERNAL TABLE visits_archive (
  event_id VARCHAR, user_id BIGINT, event_time TIMESTAMP, page VARCHAR, partition INT, \"offset\" BIGINT,
  day  DATE GENERATED ALWAYS AS (CAST(event_time AS DATE)),
  hour INT  GENERATED ALWAYS AS (CAST(date_part('hour', event_time) AS INT))
)
STORED AS DELTA PARTITIONED BY (day, hour) LOCATION $archive;

CREATE EXTERNAL TABLE visits (
  event_id        VARCHAR,
  user_id         BIGINT,
  event_time      TIMESTAMP,
  page            VARCHAR,
  key             VARCHAR METADATA,
  kafka_partition INT    METADATA FROM 'partition',
  kafka_offset    BIGINT METADATA FROM 'offset',
  WATERMARK FOR event_time AS event_time - INTERVAL '1 minute'
)
STORED AS KAFKA LOCATION 'visits'
OPTIONS ('kafka.bootstrap.servers' $bootstrap, 'format' 'json', 'watermark.max_ahead' '10000 days',
         'archive' 'visits_archive', 'archive.key' 'none', 'connect.timeout' '3 seconds');

CREATE EXTERNAL TABLE visits_counter (
  visit_id VARCHAR, visited_pages BIGINT, is_finished BOOLEAN,
  headers MAP<VARCHAR, VARCHAR> METADATA,
  kafka_offset BIGINT METADATA FROM 'offset',
  PRIMARY KEY (visit_id) NOT ENFORCED
)
STORED AS KAFKA LOCATION 'visits_counter'
OPTIONS ('kafka.bootstrap.servers' $bootstrap, 'format' 'json', 'delivery' 'at_least_once');
";

const FIRST_VISITS: &str = "\
INSERT INTO visits (event_id, user_id, event_time, page, key)
SELECT event_id, user_id, event_time, page, CAST(user_id AS VARCHAR) AS key FROM generated_visits
WHERE event_time < TIMESTAMP '2025-09-04T10:40:00';
";

const OTHER_VISITS: &str = "\
INSERT INTO visits (event_id, user_id, event_time, page, key)
SELECT event_id, user_id, event_time, page, CAST(user_id AS VARCHAR) AS key FROM generated_visits
WHERE event_time >= TIMESTAMP '2025-09-04T10:40:00';
";

const JOB: &str = "\
CREATE JOB count_visits AS
INSERT INTO visits_counter (visit_id, visited_pages, is_finished, headers)
SELECT to_char(window_start, '%Y%m%d_%H%M%S') || '-' || user_id, count(*), is_final(), MAP {'source': 'live'}
FROM SESSION(TABLE visits PARTITION BY user_id, DESCRIPTOR(event_time), INTERVAL '10 minutes')
GROUP BY user_id, window_start
EMIT CHANGES;
";

const OPEN: &str = "\
SELECT headers, visit_id, visited_pages, is_finished FROM visits_counter WHERE NOT is_finished ORDER BY visit_id LIMIT 3;
";

const SYNCHRONIZE: &str = "\
INSERT INTO visits_archive (event_id, user_id, event_time, page, partition, \"offset\")
SELECT event_id, user_id, event_time, page, kafka_partition, kafka_offset FROM visits
WHERE offsets_from(kafka_partition, kafka_offset, (SELECT next_offsets(partition, \"offset\") FROM visits_archive));
";

const REPROCESS: &str = "\
INSERT INTO visits_counter (visit_id, visited_pages, is_finished, headers)
SELECT to_char(window_start, '%Y%m%d_%H%M%S') || '-' || user_id, count(*), is_final(),
       MAP {'source': 'reprocessing', 'run_id': $run_id}
FROM COMPLETE_SESSIONS(TABLE visits_archive PARTITION BY user_id, DESCRIPTOR(event_time),
                       INTERVAL '10 minutes', TIMESTAMP '2025-09-04T10:00:00', TIMESTAMP '2025-09-04T11:00:00')
GROUP BY user_id, window_start;
";

const MESSAGES: &str = "\
SELECT visit_id, visited_pages, is_finished, headers FROM visits_counter
WHERE visit_id IN (SELECT visit_id FROM visits_counter WHERE NOT is_finished ORDER BY visit_id LIMIT 3)
ORDER BY visit_id, kafka_offset;
";

/// One more visit of a session that is finished, and one before the morning begins.
const LATE_VISITS: &str = "\
INSERT INTO visits (event_id, user_id, event_time, page, key)
SELECT 'late-1', user_id, event_time, 'late', CAST(user_id AS VARCHAR) FROM generated_visits
WHERE event_time >= TIMESTAMP '2025-09-04T08:00:00' ORDER BY event_time LIMIT 1;

INSERT INTO visits (event_id, user_id, event_time, page, key)
VALUES ('late-2', 1, TIMESTAMP '2025-09-04T05:00:00', 'late', '1');
";

const PLAN: &str = "\
PLAN REPROCESS JOB count_visits
  FOR (SELECT topic, partition, \"offset\" FROM system.late_rows WHERE job = 'count_visits')
  WITH ('run_id' 'late_visits');
";

const CHANGES: &str = "\
SELECT kind, key, before, after FROM system.run_changes WHERE run_id = 'late_visits' ORDER BY kind;
";

const APPLY: &str = "\
APPLY RUN 'late_visits';
";

const REPAIRED: &str = "\
SELECT visit_id, visited_pages, is_finished, headers FROM visits_counter
WHERE visit_id IN (SELECT visit_id FROM visits_counter WHERE headers['run_id'] = 'late_visits')
ORDER BY visit_id, kafka_offset;
";

/// Visits per user of the morning.
const VISITS_PER_USER: u64 = 25;

/// `anabranch demo`.
pub(crate) async fn run(settings: &Settings, arguments: &DemoArguments) -> Result<u8> {
    let folder = Folder::make(arguments.keep.as_deref())?;
    let broker = EmbeddedBroker::start()?;
    // One partition: however few users there are, no empty partition holds the watermark back.
    broker.create_topic("visits", 1)?;
    broker.create_topic("visits_counter", 1)?;
    let data_dir = folder.path.join("anabranch-data").display().to_string();
    let settings = &settings.clone().with_data_dir(data_dir);
    let session = Session::try_new(&settings.session)?;
    let here = Box::new(LocalSession::new(&session, settings).allowing_repeats());
    let runner = Runner::new(StatementTarget::Local(here), settings).with_format(Format::Table);
    let demo = Demo {
        runner,
        bootstrap: broker.bootstrap_servers(),
        archive: folder.path.join("visits_archive").display().to_string(),
    };

    say("A Kafka broker of its own, in this process (to try it out, never for data):");
    eprint(&format!("  {}\n", demo.bootstrap));

    say("1. Tables: two topics and a Delta archive in one session");
    demo.show(TABLES).await?;

    say("2. Visits arrive in the topic: the morning, up to 10:40");
    let batch = morning(arguments.seed, arguments.users.max(1))?;
    session.register_batch("generated_visits", batch)?;
    demo.quiet(FIRST_VISITS).await?;

    say(
        "3. A job counts the visits of each session as they come, and marks sessions that have ended as final",
    );
    demo.show(JOB).await?;
    eprint(
        "  (exactly once on Kafka; this broker has no transactions, so here rows could come twice after a crash)\n",
    );
    demo.catch_up().await?;
    say("   Sessions that are open at 10:40");
    demo.show(OPEN).await?;

    say("4. The rest of the morning arrives, and the job continues where it was");
    demo.quiet(OTHER_VISITS).await?;
    demo.catch_up().await?;

    say("5. Synchronize the topic to the archive, with partition and offset");
    demo.show(SYNCHRONIZE).await?;

    say(
        "6. Reprocess 10:00 to 11:00: every session with a visit in that hour, whole, marked with its run",
    );
    demo.show(REPROCESS).await?;

    say("7. The topic's rows of the three sessions that were open: live, final, and reprocessed");
    demo.show(MESSAGES).await?;

    say("8. Two visits come when the morning is over: the job reports them as late");
    demo.show(LATE_VISITS).await?;
    demo.catch_up().await?;
    demo.quiet(SYNCHRONIZE).await?;

    say(
        "9. Plan to run the job again for their sessions: it compares the rows with the published ones, and writes nothing",
    );
    demo.show(PLAN).await?;

    say("10. The rows that would be written");
    demo.show(CHANGES).await?;

    say("11. Apply the plan");
    demo.show(APPLY).await?;

    say(
        "12. The topic's rows of these sessions: a reader that keeps the newest row of a key has the repaired ones",
    );
    demo.show(REPAIRED).await?;

    say("Next");
    if arguments.interactive {
        eprint(
            "  these tables are available; try  SHOW TABLES;  SHOW BATCHES FOR JOB count_visits;  DESCRIBE RUN 'late_visits';  or  \
             EXPLAIN ANALYZE with the SELECT of step 6\n\n",
        );
        let here = Box::new(LocalSession::new(&session, settings));
        let runner = Runner::new(StatementTarget::Local(here), settings);
        return shell::run(runner, demo.parameters()).await;
    }
    match &arguments.keep {
        Some(dir) => eprint(&format!("  the archive stays in {}\n", dir.display())),
        None => eprint("  anabranch demo --keep DIR     keeps the archive\n"),
    }
    eprint(
        "  anabranch demo --interactive  stays at a prompt on these tables\n  \
         anabranch sql                 a prompt of your own; the same SQL runs on real Kafka (README)\n",
    );
    Ok(0)
}

struct Demo<'a> {
    runner: Runner<'a>,
    bootstrap: String,
    archive: String,
}

impl Demo<'_> {
    fn parameters(&self) -> Parameters {
        let mut parameters = Parameters::default();
        parameters.set("bootstrap", &self.bootstrap);
        parameters.set("archive", &self.archive);
        parameters.set("run_id", "demo_run_1");
        parameters
    }

    /// Prints the SQL, then runs it.
    async fn show(&self, sql: &str) -> Result<()> {
        for line in sql.trim_end().lines() {
            eprint(&format!("  {line}\n"));
        }
        eprint("\n");
        self.quiet(sql).await
    }

    /// Runs the job over all records that the topic has now.
    async fn catch_up(&self) -> Result<()> {
        match self.runner.run_jobs(true, None).await {
            0 => Ok(()),
            code => Err(Error::internal(format!("the job ended with code {code}"))),
        }
    }

    async fn quiet(&self, sql: &str) -> Result<()> {
        let script = Script::new("<demo>", sql);
        for ready in prepare(&script, &mut self.parameters())? {
            self.runner.run_statement(ready).await?;
        }
        Ok(())
    }
}

fn say(heading: &str) {
    eprint(&format!("\n{heading}\n\n"));
}

/// 2025-09-04 from 06:00 to 12:30.
fn morning(seed: u64, users: u32) -> Result<RecordBatch> {
    let start = NaiveDate::from_ymd_opt(2025, 9, 4)
        .and_then(|day| day.and_hms_opt(6, 0, 0))
        .map(|time| Utc.from_utc_datetime(&time).timestamp_micros())
        .ok_or_else(|| Error::internal("no such morning"))?;
    let plan = VisitPlan {
        seed,
        users,
        visits: u64::from(users) * VISITS_PER_USER,
        start,
        slots: 13,
    };
    let visits: Vec<_> = Visits::new(plan).collect();
    let text = |get: &dyn Fn(&crate::cli::visits::Visit) -> String| {
        StringArray::from_iter_values(visits.iter().map(get))
    };
    RecordBatch::try_from_iter([
        (
            "event_id",
            Arc::new(text(&|visit| format!("click-{}", visit.number))) as _,
        ),
        (
            "user_id",
            Arc::new(Int64Array::from_iter_values(
                visits.iter().map(|visit| i64::from(visit.user_id)),
            )) as _,
        ),
        (
            "event_time",
            Arc::new(
                TimestampMicrosecondArray::from_iter_values(
                    visits.iter().map(|visit| visit.event_time),
                )
                .with_timezone("UTC"),
            ) as _,
        ),
        (
            "page",
            Arc::new(text(&|visit| format!("page-{}", visit.page))) as _,
        ),
    ])
    .map_err(|error| Error::internal(error.to_string()))
}

/// The demo's folder: the user's, or one that goes away with this value.
struct Folder {
    path: PathBuf,
    temporary: bool,
}

impl Folder {
    fn make(keep: Option<&Path>) -> Result<Self> {
        let (path, temporary) = match keep {
            Some(dir) => (dir.to_owned(), false),
            None => {
                let name = format!("anabranch-demo-{}", uuid::Uuid::new_v4());
                (std::env::temp_dir().join(name), true)
            }
        };
        if path.join("visits_archive").exists() {
            return Err(
                Error::invalid(format!("{} holds a demo already", path.display()))
                    .with_help("give another folder to --keep, or remove that one"),
            );
        }
        std::fs::create_dir_all(&path).map_err(|error| {
            Error::invalid(format!("{} cannot be made: {error}", path.display()))
        })?;
        Ok(Self { path, temporary })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary {
            // Files left in the temporary folder do no harm.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
