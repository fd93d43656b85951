//! `anabranch check`: verifies the files of jobs, and those of the catalog.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};

use crate::cli::args::{CheckArguments, Format};
use crate::cli::config::Settings;
use crate::cli::terminal::messages::eprint;
use crate::cli::terminal::output::ResultWriter;
use crate::error::{Error, Result};
use crate::runtime::{CheckReport, Finding, check, check_sinks};
use crate::session::Session;
use crate::store::DataDir;

/// Checks a job or all jobs; the exit code is 1 if anything is broken.
pub(crate) async fn run(settings: &Settings, arguments: &CheckArguments) -> Result<u8> {
    let place = settings.data_dir.as_str();
    if !DataDir::exists(place) {
        return Err(
            Error::not_found(format!("data directory '{place}' does not exist"))
                .with_help("set its location with --data-dir"),
        );
    }
    let dir = DataDir::open(place)?;
    let job = arguments.job.as_deref();
    let mut report = check(&dir, job).await?;
    if arguments.sink {
        let session = Session::try_new(&settings.session)?;
        check_sinks(&dir, job, &session, &mut report).await?;
    }
    let findings = rows(&report.findings)?;
    if !report.findings.is_empty() || settings.format == Format::Json {
        let mut writer =
            ResultWriter::new(settings.format, findings.schema(), std::io::stdout().lock());
        writer.write(&findings)?;
        writer.finish()?;
    }
    eprint(&summary(&report));
    Ok(u8::from(!report.findings.is_empty()))
}

fn summary(report: &CheckReport) -> String {
    let count = |number: u64, one: &str| match number {
        1 => format!("1 {one}"),
        number => format!("{number} {one}s"),
    };
    let broken = match report.findings.len() as u64 {
        0 => "no problems found".to_owned(),
        1 => "1 problem found".to_owned(),
        number => format!("{number} problems found"),
    };
    let (jobs, files) = (count(report.jobs, "job"), count(report.files, "file"));
    let runs = match report.runs {
        0 => String::new(),
        runs => format!("{}, ", count(runs, "run")),
    };
    format!("checked {jobs}, {runs}{files}: {broken}\n")
}

/// `job`, `place`, `problem`, `lost`, `help`: one row for each thing that is broken.
fn rows(findings: &[Finding]) -> Result<RecordBatch> {
    let texts = |of: fn(&Finding) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(findings.iter().map(of)))
    };
    let jobs: StringArray = findings.iter().map(|one| one.job.as_deref()).collect();
    let columns: [(&str, ArrayRef); 5] = [
        ("job", Arc::new(jobs)),
        ("place", texts(|one| &one.place)),
        ("problem", texts(|one| &one.problem)),
        ("lost", texts(|one| &one.lost)),
        ("help", texts(|one| &one.help)),
    ];
    let columns = columns
        .into_iter()
        .map(|(name, column)| (name, column, true));
    RecordBatch::try_from_iter_with_nullable(columns)
        .map_err(|error| Error::internal(error.to_string()))
}
