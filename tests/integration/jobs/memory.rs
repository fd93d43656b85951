//! The memory of a job over many records with bounded keys. `ANABRANCH_MEMORY_ROWS` says how many.

use std::time::Duration;

use super::windows::counting;

/// How many without the variable.
const ROWS: u64 = 300_000;
const KEYS: u64 = 100;
/// Records of each second.
const PER_SECOND: u64 = 500;

/// The resident memory of a process in KiB; none if it has ended.
fn resident(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[test]
#[expect(clippy::print_stderr, reason = "a failed test shows it")]
fn memory_does_not_grow_with_the_records() {
    let given = std::env::var("ANABRANCH_MEMORY_ROWS").ok();
    let rows = given.map_or(ROWS, |rows| rows.parse().unwrap());
    let pipeline = counting("memory");
    let job = std::fs::read_to_string(pipeline.work.path("job.sql")).unwrap();
    let larger = job.replace("'batch.max_rows' '3'", "'batch.max_rows' '10000'");
    assert_ne!(job, larger);
    pipeline.work.file("job.sql", &larger);
    let chunk = 500_000;
    for from in (0..rows).step_by(chunk) {
        let to = rows.min(from + chunk as u64);
        let line = |n: u64| {
            let at = n / PER_SECOND;
            let (day, hour, minute, second) =
                (1 + at / 86_400, at / 3_600 % 24, at / 60 % 60, at % 60);
            let k = n % KEYS;
            format!("{{\"k\":{k},\"t\":\"2025-01-{day:02}T{hour:02}:{minute:02}:{second:02}Z\"}}\n")
        };
        pipeline.produce(&(from..to).map(line).collect::<String>());
    }
    let mut command = pipeline.command("job.sql");
    let mut running = command.arg("--until-caught-up").spawn().unwrap();
    let mut samples = Vec::new();
    let status = loop {
        samples.extend(resident(running.id()));
        if let Some(status) = running.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success());
    assert!(samples.len() > 40, "it took too short: {samples:?}");
    // The first quarter is the start: code, caches, records that the client fetches ahead.
    let quarter = samples.len() / 4;
    let peak = |of: &[u64]| of.iter().copied().max().unwrap();
    let early = peak(&samples[quarter..2 * quarter]);
    let late = peak(&samples[3 * quarter..]);
    eprintln!("{rows} records: {early} KiB in the second quarter, {late} KiB in the last");
    assert!(
        late <= early + early / 4 + 64 * 1_024,
        "{early} KiB in the second quarter, {late} KiB in the last"
    );
    let counted = pipeline.counted("counts");
    let closed = ((rows - 1) / PER_SECOND - 5) / 10;
    assert_eq!(counted.len() as u64, closed * KEYS);
    let of_window = vec![i64::try_from(PER_SECOND * 10 / KEYS).unwrap()];
    assert!(counted.values().all(|counts| *counts == of_window));
}
