//! Which statement of a job made a batch: `CREATE OR REPLACE JOB` replaces it, and the batches before were made by the earlier one.
//!
//! The name of a version begins with the number of the log entry for which it was staged. A runner stages with the statement of the
//! log up to that entry, and loses the entry if the statement is replaced there.

/// A statement of a job that was replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplacedText {
    /// The statement, without secrets.
    pub text: String,
    /// The statements of the tables and views that it used.
    pub tables: Vec<String>,
    /// The number of the entry that replaced it.
    pub until: u64,
}

/// The statements that a job had before its present one, as far as they are known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TextHistory {
    /// The earlier statements, in order.
    pub replaced: Vec<ReplacedText>,
    /// The first entry from which all statements are known: checkpoints of earlier releases had only the last one.
    pub known_from: u64,
}

/// The statement that made a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MakingText<'a> {
    /// The present one of the job.
    Present,
    /// One that was replaced since.
    Replaced(&'a ReplacedText),
    /// It is not known.
    Unknown,
}

impl TextHistory {
    /// Takes in that entry `number` replaced this statement.
    pub(super) fn replace(&mut self, text: String, tables: Vec<String>, number: u64) {
        self.replaced.push(ReplacedText {
            text,
            tables,
            until: number,
        });
    }

    /// Forgets the statements that made none of the versions that were staged for entry `oldest` or a later one.
    pub(super) fn trim(&mut self, oldest: u64) {
        self.replaced.retain(|replaced| replaced.until >= oldest);
    }

    /// The statement that made a version which was staged for entry `sequence`.
    pub(super) fn at(&self, sequence: u64) -> MakingText<'_> {
        if sequence < self.known_from {
            return MakingText::Unknown;
        }
        let mut replaced = self.replaced.iter();
        match replaced.find(|replaced| sequence <= replaced.until) {
            Some(replaced) => MakingText::Replaced(replaced),
            None => MakingText::Present,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::jobs::log::sequence_of;
    use crate::core::jobs::{JobHistory, LogEntry};

    fn created() -> LogEntry {
        LogEntry::Created {
            name: "j".into(),
            text: "text 0".into(),
            tables: vec!["tables 0".into()],
            at: 0,
        }
    }

    fn committed(batch: u64, sequence: u64) -> LogEntry {
        LogEntry::Committed {
            batch,
            version: format!("{sequence:010}-v"),
            at: 0,
        }
    }

    fn replaced(number: u64) -> LogEntry {
        LogEntry::Replaced {
            text: format!("text {number}"),
            tables: vec![format!("tables {number}")],
            at: 0,
        }
    }

    fn text_of(history: &JobHistory, version: &str) -> Option<(String, Vec<String>)> {
        match history.text_of(version) {
            MakingText::Present => Some((history.text.clone(), history.tables.clone())),
            MakingText::Replaced(of) => Some((of.text.clone(), of.tables.clone())),
            MakingText::Unknown => None,
        }
    }

    #[test]
    fn a_batch_was_made_by_the_statement_for_which_it_was_staged() {
        let takeover = LogEntry::Takeover {
            owner: "me".into(),
            at: 0,
        };
        let log = [
            created(),
            committed(1, 1),
            // A runner has staged batch 2 for entry 2, and the sink has it; the next runner finds it there.
            replaced(2),
            takeover,
            committed(2, 2),
            committed(3, 5),
        ];
        let history = JobHistory::of(&log).unwrap();
        let text = |batch: usize| {
            text_of(&history, &history.batches[batch].version)
                .unwrap()
                .0
        };
        assert_eq!([text(0), text(1), text(2)], ["text 0", "text 0", "text 2"]);
        assert_eq!(text_of(&history, "v"), None);
    }

    #[test]
    fn a_checkpoint_of_an_earlier_release_knows_the_last_statement() {
        let mut history = JobHistory::of(&[created(), committed(1, 1), replaced(2)]).unwrap();
        history.texts = TextHistory {
            replaced: vec![],
            known_from: history.next,
        };
        history.apply(&committed(2, 3));
        history.apply(&replaced(4));
        history.apply(&committed(3, 5));
        let texts: Vec<_> = history
            .batches
            .iter()
            .map(|batch| text_of(&history, &batch.version).map(|(text, _)| text))
            .collect();
        let text = |of: &str| Some(of.to_owned());
        assert_eq!(texts, [None, text("text 2"), text("text 4")]);
    }

    proptest! {
        #[test]
        fn trimming_changes_no_text_of_a_batch_that_stays(
            steps in prop::collection::vec(0_u8..3, 1..30), oldest in 1_u64..12,
        ) {
            let mut log = vec![created()];
            let mut expected = Vec::new();
            let mut text = "text 0".to_owned();
            for step in steps {
                let number = log.len() as u64;
                if step == 0 {
                    text = format!("text {number}");
                    log.push(replaced(number));
                } else {
                    log.push(committed(expected.len() as u64 + 1, number));
                    expected.push(text.clone());
                }
            }
            let mut history = JobHistory::of(&log).unwrap();
            history.apply(&LogEntry::Trimmed { oldest, packs: vec![], at: 0 });
            for batch in &history.batches {
                let (text, tables) = text_of(&history, &batch.version).unwrap();
                prop_assert_eq!(&text, &expected[batch.batch as usize - 1]);
                prop_assert_eq!(tables, [text.replace("text", "tables")]);
            }
            let first = history.batches.first().and_then(|batch| sequence_of(&batch.version));
            let is_of_use = |of: &ReplacedText| first.is_none_or(|first| of.until >= first);
            prop_assert!(history.texts.replaced.iter().all(is_of_use));
        }
    }
}
