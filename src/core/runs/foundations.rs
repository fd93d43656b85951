//! What a plan rests on, and what of it has moved when the plan is applied.

use std::collections::BTreeMap;
use std::fmt;

use super::spec::{Pin, RunSpec, text_version};

/// The archive of a source as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveNow {
    /// Its state.
    pub pin: Pin,
    /// Whether it has other rows where the run reads. A newer version that only appends behind that changes nothing.
    pub has_other_rows: bool,
}

/// What a plan rests on as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foundations {
    /// The statement of the job.
    pub text: String,
    /// The statements of the tables and views that it uses.
    pub tables: Vec<String>,
    /// The archives, by table; one that is not there is gone.
    pub archives: BTreeMap<String, ArchiveNow>,
    /// The static tables, by name.
    pub statics: BTreeMap<String, Pin>,
    /// How many keys the sink has published otherwise than the plan has found them.
    pub keys_published_since: u64,
}

/// Something that a plan rests on and that has moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moved {
    /// The job has another text.
    Text {
        /// The version of the text that was planned.
        was: String,
        /// That of the job now.
        is: String,
    },
    /// A static table has another state, or is gone.
    Static {
        /// Its name.
        table: String,
        /// The state that was planned with.
        was: Pin,
        /// The state now.
        is: Option<Pin>,
    },
    /// An archive has other rows where the run reads, or is gone.
    Archive {
        /// The table whose archive it is.
        table: String,
        /// The state that was planned with.
        was: Pin,
        /// The state now.
        is: Option<Pin>,
    },
    /// The sink says something else for keys of the plan.
    Published {
        /// For how many.
        keys: u64,
    },
}

/// What has moved since the plan was made; nothing if it may be applied.
pub fn moved(spec: &RunSpec, now: &Foundations) -> Vec<Moved> {
    let mut moved = Vec::new();
    let (was, is) = (spec.text_version(), text_version(&now.text, &now.tables));
    if was != is {
        moved.push(Moved::Text { was, is });
    }
    for (table, was) in &spec.statics {
        let is = now.statics.get(table);
        if is != Some(was) {
            moved.push(Moved::Static {
                table: table.clone(),
                was: was.clone(),
                is: is.cloned(),
            });
        }
    }
    for (table, source) in &spec.sources {
        let was = &source.archive;
        let is = now.archives.get(table);
        let is_same = is.is_some_and(|is| {
            is.pin == *was || (is.pin.identity == was.identity && !is.has_other_rows)
        });
        if !is_same {
            moved.push(Moved::Archive {
                table: table.clone(),
                was: was.clone(),
                is: is.map(|is| is.pin.clone()),
            });
        }
    }
    if now.keys_published_since > 0 {
        moved.push(Moved::Published {
            keys: now.keys_published_since,
        });
    }
    moved
}

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text { was, is } => {
                write!(f, "the text of the job was {was} and is {is}")
            }
            Self::Static { table, was, is } => {
                write!(
                    f,
                    "static table '{table}' was {was} and is {}",
                    text(is.as_ref())
                )
            }
            Self::Archive { table, was, is } => {
                let is = text(is.as_ref());
                write!(f, "the archive of '{table}' was {was} and is {is}")
            }
            Self::Published { keys } => {
                write!(f, "other rows were published for {keys} keys of the plan")
            }
        }
    }
}

fn text(pin: Option<&Pin>) -> String {
    pin.map_or_else(|| "gone".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::runs::spec::{PinnedAt, fixture};

    fn as_planned(spec: &RunSpec) -> Foundations {
        let archives = spec.sources.iter().map(|(table, source)| {
            let now = ArchiveNow {
                pin: source.archive.clone(),
                has_other_rows: false,
            };
            (table.clone(), now)
        });
        Foundations {
            text: spec.text.clone(),
            tables: spec.tables.clone(),
            archives: archives.collect(),
            statics: spec.statics.clone(),
            keys_published_since: 0,
        }
    }

    fn version(pin: &Pin, version: u64) -> Pin {
        Pin {
            at: PinnedAt::Version(version),
            ..pin.clone()
        }
    }

    #[test]
    fn a_plan_is_applied_while_nothing_has_moved() {
        let spec = fixture::spec("r");
        assert_eq!(moved(&spec, &as_planned(&spec)), []);
        // The archive grows behind the range that the run reads.
        let mut now = as_planned(&spec);
        let archive = now.archives.get_mut("visits").unwrap();
        archive.pin = version(&archive.pin, 8);
        assert_eq!(moved(&spec, &now), []);
    }

    #[test]
    fn each_foundation_that_moves_is_named() {
        let spec = fixture::spec("r");
        let texts = |change: &dyn Fn(&mut Foundations)| {
            let mut now = as_planned(&spec);
            change(&mut now);
            let texts = moved(&spec, &now)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>();
            assert_eq!(texts.len(), 1, "{texts:?}");
            texts[0].clone()
        };
        let text = texts(&|now| now.tables.push("CREATE VIEW v …".into()));
        assert!(text.starts_with("the text of the job was "), "{text}");
        let text = texts(&|now| {
            let users = now.statics.get_mut("users").unwrap();
            *users = version(users, 4);
        });
        assert!(text.contains("was version 3 of") && text.contains("is version 4 of"));
        let text =
            texts(&|now| now.archives.get_mut("visits").unwrap().pin.identity = spec.sink.clone());
        assert!(
            text.starts_with("the archive of 'visits' was version 7"),
            "{text}"
        );
        let text = texts(&|now| {
            let archive = now.archives.get_mut("visits").unwrap();
            archive.pin = version(&archive.pin, 8);
            archive.has_other_rows = true;
        });
        assert!(text.contains("is version 8 of"), "{text}");
        let text = texts(&|now| drop(now.archives.remove("visits")));
        assert!(text.ends_with("and is gone"), "{text}");
        let text = texts(&|now| now.keys_published_since = 2);
        assert_eq!(text, "other rows were published for 2 keys of the plan");
    }
}
