//! Where the files of jobs lie in a data directory.

/// The identity of a job, minted when it is created: a name that is dropped and made again is another job.
pub type JobId = uuid::Uuid;

/// Names the jobs that were dropped and whose files are to be deleted.
pub(super) const DROPPED: &str = "jobs/dropped";
/// A number that no log reaches: names have ten digits.
pub(super) const LAST_NUMBER: u64 = 9_999_999_999;

pub(super) fn named(name: &str) -> String {
    // Encodes any name that SQL allows in characters that every store accepts unchanged.
    let plain: String = name
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => char::from(byte).to_string(),
            other => format!(".{other:02x}"),
        })
        .collect();
    format!("jobs/names/{plain}")
}

/// The name of the job that a file of `jobs/names` belongs to.
pub(super) fn name_of(file: &str) -> String {
    let mut bytes = Vec::with_capacity(file.len());
    let mut rest = file.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code.filter(|_| *first == b'.') {
            Some(code) => {
                bytes.push(code);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(super) fn dropped_path(id: JobId) -> String {
    format!("{DROPPED}/{id}")
}

pub(in crate::store) fn log_folder(id: JobId) -> String {
    format!("jobs/{id}/log")
}

pub(in crate::store) fn entry_path(id: JobId, number: u64) -> String {
    format!("{}/{number:010}.json", log_folder(id))
}

pub(in crate::store) fn checkpoint_path(id: JobId, number: u64) -> String {
    format!("jobs/{id}/checkpoint/{number:010}.json")
}

/// The number in the name of a log entry or checkpoint.
pub(in crate::store) fn number_of(name: &str) -> Option<u64> {
    name.strip_suffix(".json")?.parse().ok()
}

pub(super) fn heartbeat_path(id: JobId) -> String {
    format!("jobs/{id}/heartbeat.json")
}

pub(super) fn version_path(id: JobId, name: &str) -> String {
    format!("jobs/{id}/versions/{name}.json")
}

pub(super) fn state_path(id: JobId, name: &str) -> String {
    format!("jobs/{id}/state/{name}.arrow")
}

pub(super) fn late_path(id: JobId, name: &str) -> String {
    format!("jobs/{id}/late/{name}.arrow")
}

pub(super) fn dead_path(id: JobId, name: &str) -> String {
    format!("jobs/{id}/dead/{name}.arrow")
}

pub(super) fn pack_path(id: JobId, name: &str) -> String {
    format!("jobs/{id}/packs/{name}.pack")
}

pub(in crate::store) fn published_path(id: JobId, name: &str) -> String {
    format!("jobs/{id}/published/{name}.json")
}

pub(in crate::store) fn spec_path(id: JobId) -> String {
    format!("jobs/{id}/spec.json")
}

pub(super) fn changes_path(id: JobId, name: &str) -> String {
    format!("jobs/{id}/changes/{name}.arrow")
}

#[expect(
    clippy::disallowed_methods,
    reason = "two runners never give one file the same name, nor one entry the same id"
)]
pub(super) fn short_random() -> String {
    let mut name = uuid::Uuid::new_v4().simple().to_string();
    name.truncate(12);
    name
}
