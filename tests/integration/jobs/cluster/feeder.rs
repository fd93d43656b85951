//! The records that the jobs read: Kafka's own producer sends them, all the time.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::brokers::Cluster;
use crate::jobs::endurance::RandomMoments;
use crate::support::{ProcessGuard, repository};

/// Enough that each partition has some.
pub(super) const KEYS: u64 = 30;

/// Sends numbers until it is finished, or dropped.
pub(super) struct Feeder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<(Producer, u64)>>,
}

impl Feeder {
    pub(super) fn start(cluster: &Cluster, topic: &str, mut moments: RandomMoments) -> Self {
        let mut producer = Producer::start(cluster, topic);
        let stop = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut sent = 0;
            while !is_over.load(Ordering::Relaxed) {
                producer.send(sent);
                sent += 1;
                std::thread::sleep(Duration::from_millis(200 + moments.below(800)));
            }
            (producer, sent)
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// Whether it still sends.
    pub(super) fn goes_on(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }

    /// Sends no more, and waits until the brokers have all records; gives how many numbers each key has.
    pub(super) fn finish(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let (producer, sent) = self.thread.take().unwrap().join().unwrap();
        producer.finish();
        sent
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Kafka's own producer, which numbers nothing twice: it is idempotent and waits for brokers.
struct Producer {
    process: ProcessGuard,
    /// What it says of records that it has given up.
    said: PathBuf,
}

impl Producer {
    fn start(cluster: &Cluster, topic: &str) -> Self {
        let said = cluster.work.path("producer.log");
        let process = Command::new(repository().join("docker/kafka-cli"))
            .args(["kafka-console-producer", "--bootstrap-server"])
            .args([cluster.bootstrap(), "--topic", topic])
            .args(["--property", "parse.key=true"])
            .args(["--producer-property", "acks=all"])
            .args(["--producer-property", "enable.idempotence=true"])
            .args(["--producer-property", "delivery.timeout.ms=600000"])
            .args(["--producer-property", "max.block.ms=600000"])
            .args(["--producer-property", "linger.ms=5"])
            // The tool's own defaults are three times, and 1.5 seconds.
            .args(["--message-send-max-retries", "2147483647"])
            .args(["--request-timeout-ms", "30000"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(File::create(&said).unwrap())
            .spawn()
            .unwrap();
        Self {
            process: ProcessGuard(process),
            said,
        }
    }

    /// One record of each key; the number is the second of its event time.
    fn send(&mut self, number: u64) {
        let (hour, minute, second) = (number / 3_600, number / 60 % 60, number % 60);
        let lines: String = (0..KEYS)
            .map(|k| {
                format!(
                    "key-{k}\t{{\"n\":{number},\"t\":\"2025-01-01T{hour:02}:{minute:02}:{second:02}Z\"}}\n"
                )
            })
            .collect();
        let stdin = self.process.0.stdin.as_mut().unwrap();
        stdin.write_all(lines.as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    /// Waits until the brokers have all records.
    fn finish(mut self) {
        drop(self.process.0.stdin.take());
        assert!(self.process.0.wait().unwrap().success());
        let said = std::fs::read_to_string(&self.said).unwrap();
        let lost = said.lines().find(|line| line.contains("ERROR"));
        assert_eq!(lost, None, "a record was not sent");
    }
}
