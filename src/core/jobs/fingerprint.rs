//! What the state of an operator depends on, and its fingerprint: another program that finds the same description can go on from
//! the state, with other libraries, which print expressions in another way, as well.
//!
//! The description is written as bytes, and the fingerprint is `v2:` and the SHA-256 of them in hexadecimal digits. The bytes are:
//!
//! * `MARK`, then the [`Window`], the groups as a list, and the aggregates as a list;
//! * a text: its length in bytes as four bytes, the highest first, then its bytes in UTF-8; bytes of a value the same;
//! * a list: the number of its items as four bytes, then the items;
//! * a number with a sign: eight bytes, the highest first; yes or no: 1 or 0;
//! * what may lack: 0, or 1 and the value;
//! * a [`Term`], a [`Window`], a [`GroupColumn`]: the number of its kind as one byte, then its members in the order of their declaration;
//! * other structs: their members in that order.
//!
//! A change of these types, or of what they describe, gives fingerprints another version; those of earlier versions are still
//! compared as they were made: a job must not lose its state to a new release.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// What the bytes begin with.
const MARK: &[u8] = b"anabranch state 2\n";
/// What a fingerprint begins with.
const PREFIX: &str = "v2:";
/// The version in [`PREFIX`], and the newest that is known.
const VERSION: u32 = 2;

/// An expression over a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Term {
    /// A column.
    Column {
        /// The table, if the column is known by it.
        table: Option<String>,
        /// Its name.
        name: String,
    },
    /// A constant.
    Literal {
        /// Its type.
        data_type: String,
        /// Its value as text; of a text and of bytes as they are. None is NULL.
        value: Option<Vec<u8>>,
    },
    /// A function or operator.
    Call {
        /// Its name.
        function: String,
        /// What it takes besides values, such as the type of a cast.
        parameters: Vec<String>,
        /// Its values.
        arguments: Vec<Term>,
    },
    /// A function over rows.
    Aggregate {
        /// Its name.
        function: String,
        /// Its values.
        arguments: Vec<Term>,
        /// Whether equal rows count once.
        is_distinct: bool,
        /// Which rows count.
        filter: Option<Box<Term>>,
        /// In which order.
        order_by: Vec<Order>,
        /// Whether rows with NULL are left out because the text says so.
        ignores_nulls: bool,
    },
}

/// One key of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The expression to order by.
    pub by: Term,
    /// Whether the lowest comes first.
    pub is_ascending: bool,
    /// Whether NULL comes first.
    pub has_nulls_first: bool,
}

/// A term and its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypedTerm {
    /// The term.
    pub term: Term,
    /// The name of its type.
    pub data_type: String,
}

/// How rows are put together in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Window {
    /// By key alone.
    None,
    /// In windows that are aligned to the epoch. Lengths count in the unit of the event time.
    Aligned {
        /// `TUMBLE`, `HOP` or `CUMULATE`.
        function: String,
        /// By which column.
        event_time: TypedTerm,
        /// How long a window is.
        size: i64,
        /// How far apart they begin, or end.
        step: i64,
        /// Where the first one begins.
        offset: i64,
        /// Whether a row of state is of a slice, or of a window.
        is_by_slice: bool,
    },
    /// In sessions.
    Session {
        /// Of these keys.
        keys: Vec<Term>,
        /// By which column.
        event_time: TypedTerm,
        /// How far apart rows of one session may be, in the unit of the event time.
        gap: i64,
        /// What the columns of a group are.
        columns: Vec<GroupColumn>,
    },
}

/// What a column of a group is that is by session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupColumn {
    /// The group of this number.
    Group(i64),
    /// The session's start.
    Start,
    /// Its end.
    End,
}

/// What the state of an aggregate depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDescription {
    /// How rows are put together in time.
    pub window: Window,
    /// What they are grouped by.
    pub groups: Vec<TypedTerm>,
    /// What a row of state keeps of its group.
    pub aggregates: Vec<TypedTerm>,
}

impl StateDescription {
    /// Its fingerprint.
    pub fn fingerprint(&self) -> String {
        let mut text = PREFIX.to_owned();
        for byte in Sha256::digest(self.bytes()) {
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = CanonicalBytes(MARK.to_vec());
        bytes.window(&self.window);
        bytes.list(&self.groups, CanonicalBytes::typed);
        bytes.list(&self.aggregates, CanonicalBytes::typed);
        bytes.0
    }
}

/// Whether a fingerprint says its version. Those of format 1 do not: they are texts that an engine has printed.
pub fn is_versioned(fingerprint: &str) -> bool {
    version_of(fingerprint).is_some()
}

/// The version of a fingerprint that a newer release has made: this one cannot compare it. None of those that are known.
pub fn newer_version(fingerprint: &str) -> Option<u32> {
    version_of(fingerprint).filter(|version| *version > VERSION)
}

fn version_of(fingerprint: &str) -> Option<u32> {
    let (version, _) = fingerprint.strip_prefix('v')?.split_once(':')?;
    version.parse().ok()
}

/// The bytes so far.
struct CanonicalBytes(Vec<u8>);

impl CanonicalBytes {
    fn length(&mut self, length: usize) {
        // No text of a statement is as long as four bytes can say.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        self.0.extend_from_slice(&length.to_be_bytes());
    }

    fn data(&mut self, data: &[u8]) {
        self.length(data.len());
        self.0.extend_from_slice(data);
    }

    fn text(&mut self, text: &str) {
        self.data(text.as_bytes());
    }

    fn number(&mut self, number: i64) {
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    fn flag(&mut self, flag: bool) {
        self.0.push(u8::from(flag));
    }

    fn list<T>(&mut self, items: &[T], write: impl Fn(&mut Self, &T)) {
        self.length(items.len());
        for item in items {
            write(self, item);
        }
    }

    fn option<T: ?Sized>(&mut self, value: Option<&T>, write: impl FnOnce(&mut Self, &T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn typed(&mut self, typed: &TypedTerm) {
        self.term(&typed.term);
        self.text(&typed.data_type);
    }

    fn term(&mut self, term: &Term) {
        match term {
            Term::Column { table, name } => {
                self.0.push(1);
                self.option(table.as_deref(), Self::text);
                self.text(name);
            }
            Term::Literal { data_type, value } => {
                self.0.push(2);
                self.text(data_type);
                self.option(value.as_deref(), Self::data);
            }
            Term::Call {
                function,
                parameters,
                arguments,
            } => {
                self.0.push(3);
                self.text(function);
                self.list(parameters, |bytes, text| bytes.text(text));
                self.list(arguments, Self::term);
            }
            Term::Aggregate {
                function,
                arguments,
                is_distinct,
                filter,
                order_by,
                ignores_nulls,
            } => {
                self.0.push(4);
                self.text(function);
                self.list(arguments, Self::term);
                self.flag(*is_distinct);
                self.option(filter.as_deref(), Self::term);
                self.list(order_by, Self::order);
                self.flag(*ignores_nulls);
            }
        }
    }

    fn order(&mut self, order: &Order) {
        self.term(&order.by);
        self.flag(order.is_ascending);
        self.flag(order.has_nulls_first);
    }

    fn window(&mut self, window: &Window) {
        match window {
            Window::None => self.0.push(0),
            Window::Aligned {
                function,
                event_time,
                size,
                step,
                offset,
                is_by_slice,
            } => {
                self.0.push(1);
                self.text(function);
                self.typed(event_time);
                self.number(*size);
                self.number(*step);
                self.number(*offset);
                self.flag(*is_by_slice);
            }
            Window::Session {
                keys,
                event_time,
                gap,
                columns,
            } => {
                self.0.push(2);
                self.list(keys, Self::term);
                self.typed(event_time);
                self.number(*gap);
                self.list(columns, Self::place);
            }
        }
    }

    fn place(&mut self, place: &GroupColumn) {
        match place {
            GroupColumn::Group(number) => {
                self.0.push(1);
                self.number(*number);
            }
            GroupColumn::Start => self.0.push(2),
            GroupColumn::End => self.0.push(3),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str) -> Term {
        Term::Column {
            table: Some("ticks".to_owned()),
            name: name.to_owned(),
        }
    }

    fn typed(term: Term, data_type: &str) -> TypedTerm {
        TypedTerm {
            term,
            data_type: data_type.to_owned(),
        }
    }

    fn count() -> Term {
        Term::Aggregate {
            function: "count".to_owned(),
            arguments: vec![],
            is_distinct: false,
            filter: None,
            order_by: vec![],
            ignores_nulls: false,
        }
    }

    /// `count(*)` by key and ten seconds.
    fn tumbling() -> StateDescription {
        let time = "TIMESTAMP(6) WITH TIME ZONE 'UTC'";
        let start = Term::Column {
            table: None,
            name: "window_start".to_owned(),
        };
        StateDescription {
            window: Window::Aligned {
                function: "TUMBLE".to_owned(),
                event_time: typed(column("t"), time),
                size: 10_000_000,
                step: 10_000_000,
                offset: 0,
                is_by_slice: false,
            },
            groups: vec![typed(column("k"), "BIGINT"), typed(start, time)],
            aggregates: vec![typed(count(), "BIGINT")],
        }
    }

    /// It is stored: every release must find the same.
    #[test]
    fn fingerprints_are_stable() {
        assert_eq!(
            tumbling().fingerprint(),
            "v2:aeaacf9228fb397d9c5c52911b9c3ad78ad82e030c0691e9ea78ac4655665a77"
        );
    }

    #[test]
    fn every_field_changes_the_fingerprint() {
        let mut all = vec![tumbling()];
        let mut with = |change: fn(&mut StateDescription)| {
            let mut other = tumbling();
            change(&mut other);
            all.push(other);
        };
        with(|of| of.groups.swap(0, 1));
        with(|of| of.groups.truncate(1));
        with(|of| of.groups[0].data_type = "INTEGER".to_owned());
        with(|of| of.groups[0].term = column("kk"));
        with(|of| {
            of.groups[0].term = Term::Column {
                table: None,
                name: "k".to_owned(),
            };
        });
        with(|of| of.aggregates.push(typed(count(), "BIGINT")));
        with(|of| of.window = Window::None);
        for change in 0..6 {
            let mut other = tumbling();
            let Window::Aligned {
                function,
                event_time,
                size,
                step,
                offset,
                is_by_slice,
            } = &mut other.window
            else {
                panic!("it tumbles");
            };
            match change {
                0 => *function = "HOP".to_owned(),
                1 => *event_time = typed(column("u"), "DATE"),
                2 => *size += 1,
                3 => *step += 1,
                4 => *offset += 1,
                _ => *is_by_slice = true,
            }
            all.push(other);
        }
        let aggregate = |arguments: Vec<Term>,
                         is_distinct,
                         filter: Option<Term>,
                         order: Option<(bool, bool)>,
                         nulls| {
            let mut other = tumbling();
            let order_by = order.map(|(is_ascending, has_nulls_first)| Order {
                by: column("k"),
                is_ascending,
                has_nulls_first,
            });
            other.aggregates[0].term = Term::Aggregate {
                function: "sum".to_owned(),
                arguments,
                is_distinct,
                filter: filter.map(Box::new),
                order_by: order_by.into_iter().collect(),
                ignores_nulls: nulls,
            };
            other
        };
        let literal = |data_type: &str, value: Option<&[u8]>| Term::Literal {
            data_type: data_type.to_owned(),
            value: value.map(<[u8]>::to_vec),
        };
        let call = |function: &str, parameters: &[&str], arguments: Vec<Term>| Term::Call {
            function: function.to_owned(),
            parameters: parameters.iter().map(|&text| text.to_owned()).collect(),
            arguments,
        };
        let v = || column("v");
        all.extend([
            aggregate(vec![v()], false, None, None, false),
            aggregate(vec![v(), v()], false, None, None, false),
            aggregate(vec![v()], true, None, None, false),
            aggregate(vec![v()], false, Some(v()), None, false),
            aggregate(vec![v()], false, None, Some((true, true)), false),
            aggregate(vec![v()], false, None, Some((false, true)), false),
            aggregate(vec![v()], false, None, Some((true, false)), false),
            aggregate(vec![v()], false, None, None, true),
            aggregate(
                vec![literal("BIGINT", Some(b"1"))],
                false,
                None,
                None,
                false,
            ),
            aggregate(vec![literal("BIGINT", None)], false, None, None, false),
            aggregate(vec![literal("BIGINT", Some(b""))], false, None, None, false),
            aggregate(
                vec![literal("INTEGER", Some(b"1"))],
                false,
                None,
                None,
                false,
            ),
            aggregate(vec![call("+", &[], vec![v()])], false, None, None, false),
            aggregate(vec![call("+", &["x"], vec![v()])], false, None, None, false),
            aggregate(vec![call("+", &[], vec![]), v()], false, None, None, false),
        ]);
        for columns in [
            vec![GroupColumn::Group(0), GroupColumn::Start],
            vec![GroupColumn::Group(1), GroupColumn::Start],
            vec![GroupColumn::Group(0), GroupColumn::End],
        ] {
            for gap in [5, 6] {
                for keys in [vec![], vec![column("k")]] {
                    let mut other = tumbling();
                    other.window = Window::Session {
                        keys,
                        event_time: typed(column("t"), "TIMESTAMP(6)"),
                        gap,
                        columns: columns.clone(),
                    };
                    all.push(other);
                }
            }
        }
        let different: std::collections::BTreeSet<String> =
            all.iter().map(StateDescription::fingerprint).collect();
        assert_eq!(different.len(), all.len());
    }

    #[test]
    fn fingerprints_have_a_version_prefix() {
        assert!(is_versioned(&tumbling().fingerprint()));
        assert!(is_versioned("v3:0123"));
        for earlier in ["TUMBLE: event_time=ticks.t", "v: x", "v", "vx:1", ""] {
            assert!(!is_versioned(earlier), "{earlier}");
            assert_eq!(newer_version(earlier), None, "{earlier}");
        }
    }

    #[test]
    fn a_newer_version_is_told_from_those_that_are_known() {
        let own = tumbling().fingerprint();
        assert_eq!(
            (version_of(&own), newer_version(&own)),
            (Some(VERSION), None)
        );
        assert_eq!(newer_version("v1:0123"), None);
        assert_eq!(newer_version("v3:0123"), Some(3));
        assert_eq!(newer_version("v12:a:b"), Some(12));
    }
}
