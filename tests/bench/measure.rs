//! Time, processor time and peak memory of a step, and the table of all steps.

use std::fmt;
use std::time::Instant;

/// The cost of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepCost {
    pub(crate) rows: u64,
    pub(crate) seconds: f64,
    pub(crate) core_seconds: f64,
    pub(crate) peak_mib: u64,
}

impl StepCost {
    /// Both together.
    pub(crate) fn and(&self, other: &Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            seconds: self.seconds + other.seconds,
            core_seconds: self.core_seconds + other.core_seconds,
            peak_mib: self.peak_mib.max(other.peak_mib),
        }
    }
}

/// The figure that is compared.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ComparedFigure {
    /// Rows per second: more is better.
    Rate,
    /// Seconds: less is better.
    Time,
}

/// Runs a step that says how many rows it handled.
pub(crate) fn measure(step: impl FnOnce() -> u64) -> StepCost {
    // Resets the peak of resident memory to the resident memory now.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let cpu = cpu_seconds(SELF);
    let start = Instant::now();
    let rows = step();
    StepCost {
        rows,
        seconds: start.elapsed().as_secs_f64(),
        core_seconds: cpu_seconds(SELF) - cpu,
        peak_mib: peak_mib(SELF),
    }
}

/// The cost of a step in another process; its processor time and memory are not known here.
pub(crate) fn taken(rows: u64, seconds: f64) -> StepCost {
    StepCost {
        rows,
        seconds,
        core_seconds: f64::INFINITY,
        peak_mib: 0,
    }
}

/// The run that took the least time.
pub(crate) fn best_of(runs: impl Iterator<Item = StepCost>) -> StepCost {
    runs.min_by(|one, other| one.seconds.total_cmp(&other.seconds))
        .unwrap()
}

/// This process, among those that the system tells of.
const SELF: &str = "self";

/// Processor time of a process so far.
pub(crate) fn cpu_seconds(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold spaces; user and system ticks are the 12th and 13th after.
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks = |at: usize| -> f64 {
        after
            .split_whitespace()
            .nth(at)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / 100.0
}

/// The most resident memory that a process has had.
pub(crate) fn peak_mib(process: &str) -> u64 {
    status_kib(process, "VmHWM:") / 1024
}

/// Resident memory of this process.
pub(crate) fn resident_bytes() -> u64 {
    status_kib(SELF, "VmRSS:") * 1024
}

/// A size that the system tells of a process; 0 once that has ended.
fn status_kib(process: &str, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// The table.
#[derive(Default)]
pub(crate) struct Report {
    lines: Vec<String>,
}

impl Report {
    /// Adds a step, with its peer, the figure that is compared, and the ratio to be reached.
    pub(crate) fn add(
        &mut self,
        name: &str,
        taken: &StepCost,
        peer: Option<(&StepCost, ComparedFigure, &str)>,
    ) {
        let rate = taken.rows as f64 / taken.seconds;
        let (ratio, reach) = match peer {
            None => (String::new(), ""),
            Some((peer, ComparedFigure::Rate, reach)) => (
                format!("{:.2}", rate / (peer.rows as f64 / peer.seconds)),
                reach,
            ),
            Some((peer, ComparedFigure::Time, reach)) => {
                (format!("{:.2}", taken.seconds / peer.seconds), reach)
            }
        };
        let line = format!(
            "| {name} | {:.2} s | {:.0} | {:.0} | {} MiB | {ratio} | {reach} |",
            taken.seconds,
            rate,
            taken.rows as f64 / taken.core_seconds.max(0.01),
            taken.peak_mib,
        );
        eprintln!("{line}");
        self.lines.push(line);
    }
}

impl Report {
    /// Adds median and 99th percentile in milliseconds, with those of a peer.
    pub(crate) fn latency(&mut self, name: &str, took: (f64, f64), peer: Option<(f64, f64)>) {
        let (median, high) = took;
        let compared = match peer {
            None => String::from("|  |"),
            Some(peer) => format!(
                "{:.1} × and {:+.0} ms | ≤ 3 × and ≤ +30 ms |",
                median / peer.0,
                high - peer.1
            ),
        };
        let line = format!("| {name} | p50 {median:.1} ms, p99 {high:.1} ms | | | | {compared}");
        eprintln!("{line}");
        self.lines.push(line);
    }
}

impl Report {
    /// Adds median and 99th percentile of calls in milliseconds, with those of a peer.
    pub(crate) fn call(&mut self, name: &str, took: (f64, f64), peer: Option<((f64, f64), &str)>) {
        let (median, high) = took;
        let compared = match peer {
            None => String::from("|  |"),
            Some((peer, reach)) => {
                format!(
                    "{:.1} and {:.1} | {reach} |",
                    median / peer.0,
                    high / peer.1
                )
            }
        };
        let line = format!("| {name} | p50 {median:.2} ms, p99 {high:.2} ms | | | | {compared}");
        eprintln!("{line}");
        self.lines.push(line);
    }
}

impl Report {
    /// Adds memory, beside that of a peer.
    pub(crate) fn bytes(&mut self, name: &str, bytes: u64, peer: Option<(u64, &str)>) {
        let mib = bytes as f64 / f64::from(1 << 20);
        let compared = match peer {
            None => String::from("|  |"),
            Some((peer, reach)) => format!("{:.2} | {reach} |", bytes as f64 / peer as f64),
        };
        let line = format!("| {name} | {mib:.1} MiB | | | | {compared}");
        eprintln!("{line}");
        self.lines.push(line);
    }
}

impl Report {
    /// Adds a number of something.
    pub(crate) fn count(&mut self, name: &str, count: usize, unit: &str, reach: &str) {
        let line = format!("| {name} | {count} {unit} | | | | | {reach} |");
        eprintln!("{line}");
        self.lines.push(line);
    }

    /// Adds how many batches a job commits in a second and the milliseconds that each takes, beside those of a peer.
    pub(crate) fn batches(
        &mut self,
        name: &str,
        per_second: f64,
        milliseconds: f64,
        peer: Option<(f64, &str)>,
    ) {
        let compared = match peer {
            None => String::from("|  |"),
            Some((peer, reach)) => format!("{:.2} | {reach} |", milliseconds / peer),
        };
        let line =
            format!("| {name} | {milliseconds:.1} ms each | {per_second:.1} | | | {compared}");
        eprintln!("{line}");
        self.lines.push(line);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| What | Time | Rows/s | Rows/core-second | Peak memory | Ratio | Reach |"
        )?;
        writeln!(f, "| --- | ---: | ---: | ---: | ---: | ---: | --- |")?;
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
