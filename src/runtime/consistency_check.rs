//! Consistency check of the data directory: reads all files of a job and reports damage and its consequences. It writes
//! nothing, and the job may run meanwhile.

use std::collections::BTreeMap;

use crate::core::jobs::{BatchCommit, BatchVersion, JobHistory, JobPhase, StateFile};
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::runtime::job::named;
use crate::state::count_rows;
use crate::store::{CatalogStore, DataDir, JobId, JobStore, RunStore, StoredRun};

/// A fault that the check has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The job or the reprocessing run; none if the fault affects the whole data directory.
    pub job: Option<String>,
    /// Path in the data directory, or the sink.
    pub place: String,
    /// Description of the fault.
    pub problem: String,
    /// The data that would be lost.
    pub lost: String,
    /// Advice to the user.
    pub help: String,
}

/// Result of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Number of jobs checked.
    pub jobs: u64,
    /// Number of reprocessing runs checked.
    pub runs: u64,
    /// Number of their files.
    pub files: u64,
    /// The faults, in the order in which they were found.
    pub findings: Vec<Finding>,
}

const RESTORE: &str = "restore the file from a backup of the data directory";
const NEWER: &str = "check the data directory with that program, or a newer one";

/// Checks one job and its reprocessing runs, or all of a data directory and the catalog of its server.
///
/// # Errors
///
/// There is no such job; the store does not answer.
pub async fn check(dir: &DataDir, job: Option<&str>) -> Result<CheckReport> {
    let store = JobStore::new(dir.clone());
    let mut report = CheckReport::default();
    let names = match job {
        Some(name) => vec![name.to_owned()],
        None => {
            check_catalog(dir, &mut report).await?;
            store.names().await?
        }
    };
    for name in names {
        let of_job = JobCheck {
            store: &store,
            name,
            is_run: false,
            findings: Vec::new(),
        };
        of_job.run(&mut report).await?;
    }
    check_runs(dir, job, &mut report).await?;
    if let (Some(name), 0) = (job, report.jobs) {
        return Err(Error::not_found(format!("no job is named {name}"))
            .about(Subject::job(name))
            .with_help("SHOW JOBS lists the existing ones"));
    }
    Ok(report)
}

/// Checks all reprocessing runs, or those of a job.
async fn check_runs(dir: &DataDir, job: Option<&str>, report: &mut CheckReport) -> Result<()> {
    let runs = RunStore::new(dir);
    for name in runs.run_ids().await? {
        let run = match runs.find(&name).await {
            Ok(Some(run)) => Some(run),
            // It was swept since.
            Ok(None) => continue,
            Err(error) => {
                readable(&error)?;
                None
            }
        };
        let is_of_another = |run: &StoredRun| job.is_some_and(|job| run.spec.job != job);
        if run.as_ref().is_some_and(is_of_another) {
            continue;
        }
        let of_run = JobCheck {
            store: runs.jobs(),
            name,
            is_run: true,
            findings: Vec::new(),
        };
        of_run.check_run(&runs, run.as_ref(), report).await?;
    }
    Ok(())
}

async fn check_catalog(dir: &DataDir, report: &mut CheckReport) -> Result<()> {
    match CatalogStore::new(dir.clone()).all().await {
        Ok(list) => report.files += list.since_snapshot,
        Err(error) if error.kind() == ErrorKind::Data => report.findings.push(Finding {
            job: None,
            place: "catalog".to_owned(),
            problem: error.message().to_owned(),
            lost: "definitions of tables and views; a server does not start without them"
                .to_owned(),
            help: RESTORE.to_owned(),
        }),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// The check of a job, or of a reprocessing run, whose log and versions are those of a job.
struct JobCheck<'s> {
    store: &'s JobStore,
    name: String,
    is_run: bool,
    findings: Vec<Finding>,
}

/// A state file, and the batches that build on it.
struct StateFileUse<'v> {
    file: &'v StateFile,
    first: u64,
    last: u64,
}

impl JobCheck<'_> {
    async fn run(mut self, report: &mut CheckReport) -> Result<()> {
        match self.store.id_of(&self.name).await {
            Ok(None) => return Ok(()),
            Ok(Some(id)) => report.files += 1 + self.check_files(id).await?,
            Err(error) => self.cannot_begin(&error)?,
        }
        report.jobs += 1;
        report.findings.append(&mut self.findings);
        Ok(())
    }

    /// Checks a run; `run` is none if it cannot be read.
    async fn check_run(
        mut self,
        runs: &RunStore,
        run: Option<&StoredRun>,
        report: &mut CheckReport,
    ) -> Result<()> {
        match self.store.id_of(&self.name).await {
            Ok(None) => return Ok(()),
            Ok(Some(id)) => {
                report.files += 2 + self.check_files(id).await?;
                self.check_spec(id).await?;
                if let Some(run) = run {
                    report.files += self.check_changes(runs, run).await?;
                }
            }
            Err(error) => self.cannot_begin(&error)?,
        }
        report.runs += 1;
        report.findings.append(&mut self.findings);
        Ok(())
    }

    /// Checks what a run rests on.
    async fn check_spec(&mut self, id: JobId) -> Result<()> {
        let (place, problem) = self.store.check_run_spec(id).await?;
        let Some(problem) = problem else {
            return Ok(());
        };
        // It may have been swept since.
        if !matches!(self.store.id_of(&self.name).await, Ok(Some(now)) if now == id) {
            return Ok(());
        }
        match problem.is_newer {
            true => self.newer_format(place, problem.reason),
            false => self.found(place, problem.reason, self.all().to_owned(), RESTORE),
        }
        Ok(())
    }

    /// Checks the rows of a plan that differ from the published ones; gives the number of their files.
    async fn check_changes(&mut self, runs: &RunStore, run: &StoredRun) -> Result<u64> {
        let mut files = 0;
        let compared = run.history.run.iter().flat_map(|run| &run.compared);
        for (number, chunk) in (1_u64..).zip(compared) {
            let Some(file) = &chunk.changes else {
                continue;
            };
            files += 1;
            let Err(error) = runs.changes(run, file).await else {
                continue;
            };
            let problem = readable(&error)?;
            // They may have been swept since.
            let is_there = matches!(runs.is_swept(run, chunk).await, Ok(false));
            if let Some(problem) = problem.filter(|_| is_there) {
                self.found(
                    format!("jobs/{}/changes/{}.arrow", run.id, file.name),
                    problem,
                    format!(
                        "{} rows of chunk {number} that differ from the published ones",
                        file.rows
                    ),
                    "restore the file from a backup of the data directory, or plan the range again with another 'run_id'",
                );
            }
        }
        Ok(files)
    }

    /// What the user loses with its log.
    fn all(&self) -> &'static str {
        match self.is_run {
            true => "the run: its position, what it has found, and where its rows are",
            false => "the job: its position, its state, its late rows and dead letters",
        }
    }

    fn found(&mut self, place: String, problem: String, lost: String, help: &str) {
        let (job, place) = match self.is_run {
            false => (self.name.clone(), place),
            true => {
                let is_whole = place.starts_with("jobs/");
                let place = if is_whole {
                    format!("runs/{place}")
                } else {
                    place
                };
                (named(&self.name, true), place)
            }
        };
        self.findings.push(Finding {
            job: Some(job),
            place,
            problem,
            lost,
            help: help.to_owned(),
        });
    }

    /// A file that this program does not know how to read.
    fn newer_format(&mut self, place: String, problem: String) {
        let lost = "nothing: a newer program can read it".to_owned();
        self.found(place, problem, lost, NEWER);
    }

    /// The job's log cannot be read at all.
    fn cannot_begin(&mut self, error: &Error) -> Result<()> {
        if error.kind() == ErrorKind::Unavailable {
            return Err(Error::unavailable(error.message()).about_cause(error));
        }
        let help = match error.kind() {
            ErrorKind::Unsupported => error.help().unwrap_or(RESTORE),
            _ => RESTORE,
        };
        self.found(
            "log".to_owned(),
            error.message().to_owned(),
            self.all().to_owned(),
            help,
        );
        Ok(())
    }

    async fn check_files(&mut self, id: JobId) -> Result<u64> {
        let inventory = self.store.inventory(id).await?;
        if inventory.files() == 0 {
            // Its name points to no files, unless the job was dropped just now.
            if let Err(error) = self.store.find(&self.name).await {
                self.cannot_begin(&error)?;
            }
            return Ok(0);
        }
        let begins = inventory.checkpoints.last().copied().unwrap_or(0);
        let mut checkpoints = Vec::new();
        for number in &inventory.checkpoints {
            checkpoints.push(self.store.check_checkpoint(id, *number).await?);
        }
        let is_whole: Vec<bool> = checkpoints
            .iter()
            .map(|(_, problem)| problem.is_none())
            .collect();
        let has_all_entries = inventory.entries.first() == Some(&0);
        for (at, (place, problem)) in checkpoints.into_iter().enumerate() {
            let Some(problem) = problem else { continue };
            let has_newer = is_whole[at + 1..].contains(&true);
            let has_before = is_whole[..at].contains(&true) || has_all_entries;
            let (lost, help) = match (has_newer, has_before) {
                (true, _) => (
                    "nothing: a newer one has all of it",
                    "leave the file: the sweeper deletes it",
                ),
                (false, true) => (
                    "nothing: its content follows from the entries before it",
                    match self.is_run {
                        true => "delete the file while no process runs it",
                        false => "stop the job, delete the file and start the job again",
                    },
                ),
                (false, false) => (self.all(), RESTORE),
            };
            match problem.is_newer {
                true => self.newer_format(place, problem.reason),
                false => self.found(place, problem.reason, lost.to_owned(), help),
            }
        }
        for number in &inventory.entries {
            let (place, problem) = self.store.check_entry(id, *number).await?;
            let Some(problem) = problem else { continue };
            let (lost, help) = match *number < begins {
                true => (
                    "nothing: a checkpoint has passed it".to_owned(),
                    "leave the file: the sweeper deletes it",
                ),
                false => (
                    match self.is_run {
                        true => format!("what happened to the run from entry {number} on"),
                        false => format!("what happened to the job from entry {number} on"),
                    },
                    RESTORE,
                ),
            };
            match problem.is_newer {
                true => self.newer_format(place, problem.reason),
                false => self.found(place, problem.reason, lost, help),
            }
        }
        match self.store.history(id).await {
            Ok(history) => self.check_batches(id, &history).await?,
            Err(error) if self.findings.is_empty() => self.cannot_begin(&error)?,
            Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
            Err(_) => {}
        }
        self.check_published(id, &inventory.published).await?;
        Ok(inventory.files() as u64)
    }

    /// Checks the files that say what trimmed batches have published.
    async fn check_published(&mut self, id: JobId, names: &[String]) -> Result<()> {
        let mut has_newer = false;
        for name in names.iter().rev() {
            let (place, problem) = self.store.check_published(id, name).await?;
            let Some(problem) = problem else {
                has_newer = true;
                continue;
            };
            let lost = match has_newer {
                true => "nothing: a newer one has all of it",
                false => {
                    "where in the topic of the sink the rows of earlier batches are: a reprocessing run cannot compare with them"
                }
            };
            let help = "leave the file: the sweeper writes another one and deletes it";
            match problem.is_newer {
                true => self.newer_format(place, problem.reason),
                false => self.found(place, problem.reason, lost.to_owned(), help),
            }
        }
        Ok(())
    }

    async fn check_batches(&mut self, id: JobId, history: &JobHistory) -> Result<()> {
        if history.phase == JobPhase::Dropped {
            return Ok(());
        }
        let last = history.last().map(|last| last.batch);
        let mut versions: Vec<(&BatchCommit, BatchVersion)> = Vec::new();
        for batch in &history.batches {
            match self.store.version(id, &batch.version).await {
                Ok(version) => versions.push((batch, version)),
                Err(error) => {
                    let Some(problem) = self.problem(id, batch.batch, &error).await? else {
                        continue;
                    };
                    let number = batch.batch;
                    let place = format!("versions/{}.json", batch.version);
                    if error.kind() == ErrorKind::Unsupported {
                        self.newer_format(place, problem);
                        continue;
                    }
                    let (lost, help) = match Some(number) == last {
                        _ if self.is_run => (
                            format!("where the rows of chunk {number} are, and its dead letters"),
                            RESTORE,
                        ),
                        true => (
                            format!(
                                "where the job stands after batch {number}, and its dead letters"
                            ),
                            "restore the file from a backup of the data directory, or REWIND JOB to a batch before it",
                        ),
                        false => (
                            format!(
                                "the possibility to rewind to batch {number}, and its dead letters"
                            ),
                            RESTORE,
                        ),
                    };
                    self.found(place, problem, lost, help);
                }
            }
        }
        self.check_state(id, &versions).await?;
        for (batch, version) in &versions {
            if version.late_rows == 0 {
                continue;
            }
            let late = self.store.late(id, &batch.version, version).await;
            let counted = late.and_then(|bytes| Ok(count_rows(&bytes)?));
            let rows = version.late_rows;
            let problem = match counted {
                Ok(found) if found == rows => None,
                Ok(found) => Some(format!("it has {found} rows of {rows}")),
                Err(error) => self.problem(id, batch.batch, &error).await?,
            };
            if let Some(problem) = problem {
                let lost = format!("{rows} late rows of batch {}", batch.batch);
                self.found(
                    format!("late/{}.arrow", batch.version),
                    problem,
                    lost,
                    RESTORE,
                );
            }
        }
        for (batch, version) in &versions {
            let letters = self.store.dead_letters(id, &batch.version, version).await;
            let Err(error) = letters else { continue };
            if let Some(problem) = self.problem(id, batch.batch, &error).await? {
                let (count, number) = (version.dead_letters, batch.batch);
                self.found(
                    format!("dead/{}.arrow", batch.version),
                    problem,
                    format!("{count} dead letters of batch {number}"),
                    RESTORE,
                );
            }
        }
        for pack in &history.packs {
            let Err(error) = self.store.pack(id, pack).await else {
                continue;
            };
            // The runner merges packs with newer batches.
            let now = self.store.history(id).await?;
            if let Some(problem) = readable(&error)?.filter(|_| now.packs.contains(pack)) {
                let place = format!("packs/{pack}.pack");
                let lost = "late rows and dead letters of batches that the job no longer has";
                match error.kind() {
                    ErrorKind::Unsupported => self.newer_format(place, problem),
                    _ => self.found(place, problem, lost.to_owned(), RESTORE),
                }
            }
        }
        Ok(())
    }

    async fn check_state(
        &mut self,
        id: JobId,
        versions: &[(&BatchCommit, BatchVersion)],
    ) -> Result<()> {
        let mut used: BTreeMap<&str, StateFileUse<'_>> = BTreeMap::new();
        for (batch, version) in versions {
            for file in version.state_files() {
                let first = batch.batch;
                let of = used.entry(&file.name).or_insert(StateFileUse {
                    file,
                    first,
                    last: first,
                });
                of.last = batch.batch;
            }
        }
        let mut broken = Vec::new();
        for (name, used) in &used {
            let bytes = self.store.state(id, used.file).await;
            let counted = bytes.and_then(|bytes| Ok(count_rows(&bytes)?));
            let problem = match counted {
                Ok(found) if found == used.file.rows => None,
                Ok(found) => Some(format!("it has {found} rows of {}", used.file.rows)),
                Err(error) => self.problem(id, used.last, &error).await?,
            };
            if let Some(problem) = problem {
                broken.push((*name, used.first, used.last, problem));
            }
        }
        let is_whole = |version: &BatchVersion| {
            let mut files = version.state_files();
            files.all(|file| broken.iter().all(|(name, ..)| *name != file.name))
        };
        let whole = versions.iter().rev().find(|(_, version)| is_whole(version));
        let whole = whole.map(|(batch, _)| batch.batch);
        let last = versions.last().map(|(batch, _)| batch.batch);
        let help = match whole {
            Some(batch) if Some(batch) != last => format!(
                "restore the file from a backup of the data directory, or REWIND JOB {} TO BATCH {batch}, whose state is whole",
                self.name
            ),
            _ => RESTORE.to_owned(),
        };
        for (name, first, last, problem) in &broken {
            let lost = format!("keyed state of batches {first} to {last}");
            self.found(format!("state/{name}.arrow"), problem.clone(), lost, &help);
        }
        Ok(())
    }

    /// Why a file of a batch cannot be read; none if its runner has swept it since the log was read.
    async fn problem(&self, id: JobId, batch: u64, error: &Error) -> Result<Option<String>> {
        let problem = readable(error)?;
        let now = self.store.history(id).await?;
        let is_gone = now.oldest() > batch || !now.batches.iter().any(|one| one.batch == batch);
        Ok(problem.filter(|_| !is_gone))
    }
}

/// Description of the fault of a file. If the store does not answer, that is an error and no fault of the file.
fn readable(error: &Error) -> Result<Option<String>> {
    match error.kind() {
        ErrorKind::Unavailable | ErrorKind::Permission => {
            Err(Error::new(error.kind(), error.message()).about_cause(error))
        }
        _ => Ok(Some(error.message().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jobs::{LogEntry, RunEvent};
    use crate::core::runs::PublishedBatches;

    /// A data directory with one job.
    async fn one_job() -> (tempfile::TempDir, DataDir, JobStore, JobId) {
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&folder.path().display().to_string()).unwrap();
        let store = JobStore::new(dir.clone());
        let created = LogEntry::Created {
            name: "j".into(),
            text: String::new(),
            tables: vec![],
            at: 0,
        };
        let id = store.create(&created, "j").await.unwrap().unwrap();
        (folder, dir, store, id)
    }

    #[tokio::test]
    async fn a_damaged_file_of_published_rows_is_reported() {
        let (folder, dir, store, id) = one_job().await;
        let published = PublishedBatches::default();
        for number in [3, 5] {
            store.put_published(id, number, &published).await.unwrap();
        }
        assert!(check(&dir, None).await.unwrap().findings.is_empty());
        let files = store.inventory(id).await.unwrap().published;
        let of_job = folder.path().join(format!("jobs/{id}/published"));
        for (file, lost) in files.iter().zip(["nothing", "where in the topic"]) {
            let file = of_job.join(format!("{file}.json"));
            let whole = std::fs::read(&file).unwrap();
            std::fs::write(&file, &whole[1..]).unwrap();
            let found = check(&dir, None).await.unwrap().findings;
            std::fs::write(&file, whole).unwrap();
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].place.contains("published/"), "{found:?}");
            assert!(found[0].lost.contains(lost), "{found:?}");
        }
    }

    /// The files of a run that is planned and written, each of which is damaged in turn.
    #[tokio::test]
    async fn a_damaged_file_of_a_run_is_reported() {
        use crate::session::system::run_rows::tests::{commit, compare, created};

        const HOUR: i64 = 3_600_000_000;
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&folder.path().display().to_string()).unwrap();
        let runs = RunStore::new(&dir);
        let mut run = created(&runs, "fix_42").await;
        compare(&runs, &mut run, (0, HOUR), &[], &[("x", 1.0)]).await;
        for event in [RunEvent::Planned, RunEvent::Approved] {
            assert!(runs.append(&mut run, event, 3).await.unwrap());
        }
        commit(&runs, &mut run, 1, (0, HOUR)).await;
        let whole = check(&dir, None).await.unwrap();
        assert_eq!(
            (whole.findings.as_slice(), whole.jobs, whole.runs),
            (&[][..], 0, 1)
        );
        let of_run = folder.path().join(format!("runs/jobs/{}", run.id));
        let first = |kind: &str| {
            let mut files = std::fs::read_dir(of_run.join(kind)).unwrap();
            files.next().unwrap().unwrap().path()
        };
        for (file, place, lost) in [
            (of_run.join("spec.json"), "/spec.json", "the run: "),
            (
                of_run.join("log/0000000002.json"),
                "/log/0000000002.json",
                "what happened to the run from entry 2 on",
            ),
            (
                first("versions"),
                "versions/",
                "where the rows of chunk 1 are",
            ),
            (
                first("changes"),
                "/changes/",
                "1 rows of chunk 1 that differ",
            ),
        ] {
            let whole = std::fs::read(&file).unwrap();
            std::fs::write(&file, &whole[1..]).unwrap();
            let found = check(&dir, None).await.unwrap().findings;
            std::fs::write(&file, whole).unwrap();
            let found = found.iter().find(|one| one.lost.starts_with(lost));
            let found = found.unwrap_or_else(|| panic!("{place}"));
            assert_eq!(found.job.as_deref(), Some("run 'fix_42'"));
            assert!(found.place.contains(place), "{found:?}");
        }
        std::fs::remove_file(of_run.join("spec.json")).unwrap();
        let found = check(&dir, None).await.unwrap().findings;
        assert!(
            found.iter().any(|one| one.problem == "it is missing"),
            "{found:?}"
        );
    }

    /// A file of a newer program is not damaged, and the report names no loss.
    #[tokio::test]
    async fn a_file_of_a_newer_program_is_reported_as_newer() {
        let (folder, dir, store, id) = one_job().await;
        let committed = LogEntry::Committed {
            batch: 1,
            version: "0000000001-v".into(),
            at: 0,
        };
        assert!(store.append(id, 1, &committed).await.unwrap());
        let of_job = folder.path().join(format!("jobs/{id}"));
        let newer = r#"{"format":3,"of":"a newer program"}"#;
        std::fs::create_dir(of_job.join("versions")).unwrap();
        std::fs::write(of_job.join("versions/0000000001-v.json"), newer).unwrap();
        let found = check(&dir, None).await.unwrap().findings;
        std::fs::write(of_job.join("log/0000000002.json"), newer).unwrap();
        let of_log = check(&dir, None).await.unwrap().findings;
        for (found, place) in [(found, "versions/"), (of_log, "log/0000000002.json")] {
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].place.contains(place), "{found:?}");
            assert!(found[0].problem.contains("format 3"), "{found:?}");
            assert!(found[0].lost.contains("nothing"), "{found:?}");
            assert_eq!(found[0].help, NEWER);
        }
    }
}
