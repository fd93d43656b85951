//! Topics of many partitions: the threads and the memory of a process that reads them.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};

use super::table;
use crate::support::{Workspace, create_topic, topic};

const PARTITIONS: u32 = 600;

/// The most threads and memory of a process while it ran.
#[derive(Debug, Default)]
struct PeakUse {
    /// Threads by their names, tokio's aside, at the time when there were most.
    threads: BTreeMap<String, usize>,
    kilobytes: u64,
}

/// Measures a process until it ends. `None` if the system does not tell.
fn watch(child: &mut Child) -> Option<PeakUse> {
    let process = format!("/proc/{}", child.id());
    let mut taken = PeakUse::default();
    let mut seen = false;
    while child.try_wait().unwrap().is_none() {
        let tasks = std::fs::read_dir(format!("{process}/task"))
            .into_iter()
            .flatten();
        let mut threads: BTreeMap<String, usize> = BTreeMap::new();
        for task in tasks.flatten() {
            let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            if !name.starts_with("tokio") {
                *threads.entry(name.trim().to_owned()).or_default() += 1;
            }
        }
        if threads.values().sum::<usize>() > taken.threads.values().sum::<usize>() {
            taken.threads = threads;
        }
        let status = std::fs::read_to_string(format!("{process}/status")).unwrap_or_default();
        if let Some(high) = status.lines().find_map(|line| line.strip_prefix("VmHWM:")) {
            seen = true;
            let high = high.trim().trim_end_matches(" kB").parse().unwrap();
            taken.kilobytes = taken.kilobytes.max(high);
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    seen.then_some(taken)
}

#[test]
fn a_topic_of_many_partitions_takes_few_threads_and_bounded_memory() {
    let (source, sink) = (topic("wide-in"), topic("wide-out"));
    create_topic(&source, PARTITIONS);
    create_topic(&sink, 1);
    let work = Workspace::new();
    let create = table("t", &source, "v INT, p INT METADATA FROM 'partition'", "");
    let out = table("o", &sink, "v INT", "");
    let insert = format!(
        "INSERT INTO t (v, p) SELECT value, value % {PARTITIONS} FROM generate_series(0, {})",
        PARTITIONS * 20 - 1
    );
    work.sql(&[], &[&create, &insert]).ok();
    let copy = "INSERT INTO o SELECT v FROM t";
    let mut child = work
        .command()
        .args(["sql", "-c", &create, "-c", &out, "-c", copy])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let taken = watch(&mut child);
    assert!(child.wait().unwrap().success());
    if let Some(taken) = taken {
        let threads: usize = taken.threads.values().sum();
        assert!(threads <= 40, "{taken:?}");
        assert!(taken.kilobytes <= 600 << 10, "{taken:?}");
    }
    let counted = work
        .sql(
            &[],
            &[&out, "SELECT count(*) AS n, count(DISTINCT v) AS d FROM o"],
        )
        .ok();
    let all = PARTITIONS * 20;
    assert_eq!(counted.out, format!("{{\"n\":{all},\"d\":{all}}}\n"));
}
