//! Settings of client sessions: which settings there are, and how long they are kept.

use std::collections::HashMap;
use std::str::FromStr as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use datafusion::sql::parser::{ResetStatement, Statement as SqlStatement};
use datafusion::sql::sqlparser::ast::{Expr, Set, Statement as AnsiStatement, Value};
use tonic::metadata::{KeyAndValueRef, MetadataMap};

use crate::error::{Error, ErrorKind, Result, Subject};
use crate::planner::{ParsedStatement, Statement};
use crate::server::auth::access::{Caller, share};
use crate::server::flight::wire::WireTypes;
use crate::session::{CATALOG, SCHEMA};
use crate::tables::options::parse_duration;

/// The settings of a session.
pub(crate) const SETTINGS: [&str; 7] = [
    "catalog",
    "schema",
    "statement_timeout",
    "time_zone",
    "timestamp_unit",
    "timestamp_zone",
    "view_types",
];
/// The prefix of headers that set a setting for one call.
const HEADER: &str = "anabranch-";
/// The user agent of programs in Java, the JDBC driver among them.
const JAVA: &str = "grpc-java";

/// The settings of a session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The zone of `now()` and of texts that `to_timestamp` reads.
    pub(crate) time_zone: Option<String>,
    /// How long a statement may take.
    pub(crate) timeout: Option<Duration>,
    /// The types that are sent.
    pub(crate) types: WireTypes,
    /// The client always binds times as milliseconds, also where the server announces another unit: the JDBC driver does.
    pub(crate) binds_milliseconds: bool,
}

impl Settings {
    /// Sets one; an empty value sets it back.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`]: there is no such setting; [`ErrorKind::Invalid`]: it does not take the value.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let only = |known: &str| match value.is_empty() || value == known {
            true => Ok(()),
            false => Err(Error::invalid(format!("there is no {name} '{value}'"))
                .about(Subject::text(value))
                .with_help(format!("there is {known}"))),
        };
        match canonical(name) {
            "catalog" => only(CATALOG),
            "schema" => only(SCHEMA),
            "time_zone" => {
                let zone = value.to_owned();
                let is_zone = datafusion::arrow::array::timezone::Tz::from_str(value).is_ok();
                if !value.is_empty() && !is_zone {
                    return Err(Error::invalid(format!("invalid time zone '{value}'"))
                        .about(Subject::text(value))
                        .with_help("write one such as Europe/Paris or +02:00"));
                }
                self.time_zone = (!value.is_empty()).then_some(zone);
                Ok(())
            }
            "statement_timeout" => {
                self.timeout = match value {
                    "" | "0" => None,
                    _ => Some(parse_duration(value).ok_or_else(|| {
                        Error::invalid(format!("invalid duration '{value}'"))
                            .about(Subject::text(value))
                            .with_help("write one such as '30 seconds', or 0 for none")
                    })?),
                };
                Ok(())
            }
            "timestamp_unit" => {
                self.types.nanoseconds = match value {
                    "nanosecond" => true,
                    "" => false,
                    _ => return Err(Error::invalid("timestamp_unit is nanosecond")),
                };
                Ok(())
            }
            "timestamp_zone" => {
                self.types.without_zone = match value {
                    "none" => true,
                    "" | "UTC" | "utc" => false,
                    _ => {
                        return Err(Error::invalid("timestamp_zone is UTC or none").with_help(
                            "none sends times in UTC without a zone, for clients that do not support zones",
                        ));
                    }
                };
                Ok(())
            }
            "view_types" => {
                self.types.views = match value {
                    "true" => true,
                    "" | "false" => false,
                    _ => return Err(Error::invalid("view_types is true or false")),
                };
                Ok(())
            }
            _ => Err(Error::not_found(format!("unknown setting {name}"))
                .with_help(format!("there are {}", SETTINGS.join(", ")))),
        }
    }

    /// The same settings, with those that the headers of one call set for it alone, such as `anabranch-time-zone`: for
    /// clients that cannot send statements of their own. The client's name sets some, too.
    ///
    /// # Errors
    ///
    /// As [`Self::set`].
    pub(crate) fn with_headers(mut self, headers: &MetadataMap) -> Result<Self> {
        for header in headers.iter() {
            let KeyAndValueRef::Ascii(name, value) = header else {
                continue;
            };
            if name.as_str() == "user-agent" {
                self.binds_milliseconds = value.to_str().is_ok_and(|agent| agent.contains(JAVA));
                continue;
            }
            let Some(name) = name.as_str().strip_prefix(HEADER) else {
                continue;
            };
            let name = name.replace('-', "_");
            let value = value.to_str();
            let value =
                value.map_err(|_| Error::invalid(format!("the header of {name} is not text")))?;
            self.set(&name, value)?;
        }
        Ok(self)
    }

    /// All of them by name, as text.
    pub(crate) fn all(&self) -> [(&'static str, String); 7] {
        let timeout = self.timeout.unwrap_or_default().as_millis();
        let unit = match self.types.nanoseconds {
            true => "nanosecond",
            false => "",
        };
        let zone = match self.types.without_zone {
            true => "none",
            false => "UTC",
        };
        [
            ("catalog", CATALOG.to_owned()),
            ("schema", SCHEMA.to_owned()),
            ("statement_timeout", format!("{timeout} ms")),
            ("time_zone", self.time_zone.clone().unwrap_or_default()),
            ("timestamp_unit", unit.to_owned()),
            ("timestamp_zone", zone.to_owned()),
            ("view_types", self.types.views.to_string()),
        ]
    }
}

fn canonical(name: &str) -> &str {
    match name {
        "timezone" | "datafusion.execution.time_zone" => "time_zone",
        "db_schema" => "schema",
        other => other,
    }
}

/// The setting and its value of a statement that sets one; `None`: it is another statement.
///
/// # Errors
///
/// A way of SET that is not understood.
pub(crate) fn setting(parsed: &ParsedStatement) -> Option<Result<(String, String)>> {
    let Statement::Sql(sql) = &parsed.statement else {
        return None;
    };
    let set = match sql.as_ref() {
        SqlStatement::Reset(ResetStatement::Variable(name)) => {
            return Some(Ok((name.to_string().to_lowercase(), String::new())));
        }
        SqlStatement::Statement(ansi) => match ansi.as_ref() {
            AnsiStatement::Set(set) => set,
            _ => return None,
        },
        _ => return None,
    };
    let not_understood = || {
        Error::unsupported(format!("{set} is not understood"))
            .with_help(format!("SET name = value, of {}", SETTINGS.join(", ")))
    };
    let text = |value: &Expr| match value {
        Expr::Value(value) => match &value.value {
            Value::Number(number, _) => Ok(number.clone()),
            Value::Boolean(yes) => Ok(yes.to_string()),
            other => other.clone().into_string().ok_or_else(not_understood),
        },
        Expr::Identifier(word) => Ok(word.value.clone()),
        _ => Err(not_understood()),
    };
    Some(match set {
        Set::SingleAssignment {
            variable, values, ..
        } => match values.as_slice() {
            [value] => text(value).map(|value| (variable.to_string().to_lowercase(), value)),
            _ => Err(not_understood()),
        },
        Set::SetTimeZone { value, .. } => text(value).map(|value| ("time_zone".to_owned(), value)),
        _ => Err(not_understood()),
    })
}

/// The sessions of all clients.
pub(crate) struct Sessions {
    most: usize,
    idle: Duration,
    settings: Mutex<HashMap<(String, String), (Instant, Settings)>>,
}

impl Sessions {
    pub(crate) fn new(most: usize, idle: Duration) -> Self {
        Self {
            most,
            idle,
            settings: Mutex::default(),
        }
    }

    /// The caller's settings.
    pub(crate) fn of(&self, caller: &Caller, now: Instant) -> Settings {
        let Some(key) = key(caller) else {
            return Settings::default();
        };
        let mut all = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get_mut(&key) {
            Some((used, settings)) if now.duration_since(*used) < self.idle => {
                *used = now;
                settings.clone()
            }
            _ => Settings::default(),
        }
    }

    /// Keeps the caller's settings.
    ///
    /// # Errors
    ///
    /// The caller has no session; there are too many.
    pub(crate) fn keep(&self, caller: &Caller, settings: Settings, now: Instant) -> Result<()> {
        let key = key(caller).ok_or_else(no_session)?;
        let mut all = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains_key(&key) {
            let share = share(&caller.name, self.most);
            let own = |all: &HashMap<(String, String), (Instant, Settings)>| {
                all.keys().filter(|(user, _)| *user == key.0).count()
            };
            if all.len() >= self.most || own(&all) >= share {
                all.retain(|_, (used, _)| now.duration_since(*used) < self.idle);
            }
            if all.len() >= self.most || own(&all) >= share {
                let most = share.min(all.len());
                return Err(Error::new(
                    ErrorKind::Exhausted,
                    format!("the limit of {most} sessions is reached"),
                )
                .with_help("try again later"));
            }
        }
        all.insert(key, (now, settings));
        Ok(())
    }

    /// How many there are in which something is set.
    pub(crate) fn count(&self) -> usize {
        let all = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        all.len()
    }

    /// Forgets the caller's settings.
    pub(crate) fn close(&self, caller: &Caller) {
        if let Some(key) = key(caller) {
            let mut all = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
            all.remove(&key);
        }
    }
}

/// A setting would be lost at once.
pub(crate) fn no_session() -> Error {
    Error::invalid("the client has no session that could keep a setting")
        .with_help("log in with a user and a password, or let the client keep cookies")
}

/// Sessions are their user's: the id alone does not open them.
fn key(caller: &Caller) -> Option<(String, String)> {
    let session = caller.session.as_ref()?;
    Some((caller.name.to_string(), session.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::{Script, parse_statement};

    fn views() -> Settings {
        let mut settings = Settings::default();
        settings.set("view_types", "true").unwrap();
        settings
    }

    fn set(sql: &str) -> Result<Settings> {
        let parsed = parse_statement(&Script::new("t", sql).split().unwrap().remove(0)).unwrap();
        let (name, value) = setting(&parsed).unwrap()?;
        let mut settings = views();
        settings.set(&name, &value)?;
        Ok(settings)
    }

    #[test]
    fn settings_are_set_by_sql_and_set_back() {
        let zone = |settings: Settings| settings.time_zone.unwrap();
        assert_eq!(
            zone(set("SET TIME ZONE 'Europe/Paris'").unwrap()),
            "Europe/Paris"
        );
        assert_eq!(zone(set("SET timezone = '+02:00'").unwrap()), "+02:00");
        assert_eq!(
            zone(set("SET datafusion.execution.time_zone = 'UTC'").unwrap()),
            "UTC"
        );
        let timeout = set("SET statement_timeout = '90 seconds'").unwrap().timeout;
        assert_eq!(timeout, Some(Duration::from_secs(90)));
        assert_eq!(set("SET statement_timeout = 0").unwrap().timeout, None);
        assert!(!set("RESET view_types").unwrap().types.views);
        assert!(!set("SET view_types = false").unwrap().types.views);
        assert!(set("SET catalog = anabranch").is_ok());
        for (sql, kind) in [
            ("SET time_zone = 'Mars'", ErrorKind::Invalid),
            ("SET statement_timeout = 'soon'", ErrorKind::Invalid),
            ("SET view_types = 7", ErrorKind::Invalid),
            ("SET timestamp_unit = 'day'", ErrorKind::Invalid),
            ("SET timestamp_zone = 'Europe/Paris'", ErrorKind::Invalid),
            ("SET schema = 'other'", ErrorKind::Invalid),
            (
                "SET datafusion.runtime.memory_limit = '9G'",
                ErrorKind::NotFound,
            ),
            ("SET ROLE admin", ErrorKind::Unsupported),
        ] {
            assert_eq!(set(sql).unwrap_err().kind(), kind, "{sql}");
        }
    }

    #[test]
    fn headers_set_for_a_call() {
        let mut headers = MetadataMap::new();
        headers.insert("authorization", "Bearer x".parse().unwrap());
        headers.insert("anabranch-timestamp-unit", "nanosecond".parse().unwrap());
        headers.insert("anabranch-time-zone", "Europe/Paris".parse().unwrap());
        let settings = views().with_headers(&headers).unwrap();
        let types = WireTypes {
            views: true,
            nanoseconds: true,
            without_zone: false,
        };
        assert_eq!(settings.types, types);
        assert_eq!(settings.time_zone.as_deref(), Some("Europe/Paris"));
        assert!(!settings.binds_milliseconds);
        for (agent, binds_milliseconds) in
            [("grpc-java-netty/1.73.0", true), ("grpc-go/1.79.3", false)]
        {
            let mut headers = headers.clone();
            headers.insert("user-agent", agent.parse().unwrap());
            let settings = views().with_headers(&headers).unwrap();
            assert_eq!(settings.binds_milliseconds, binds_milliseconds, "{agent}");
        }
        let unit = ("timestamp_unit", "nanosecond".to_owned());
        assert!(settings.all().contains(&unit));
        headers.insert("anabranch-colour", "red".parse().unwrap());
        let error = views().with_headers(&headers).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn sessions_are_of_their_user_and_end() {
        let of = |name: &str, session: Option<&str>| Caller {
            name: name.into(),
            session: session.map(Into::into),
            ..Caller::anyone()
        };
        let sessions = Sessions::new(2, Duration::from_secs(60));
        let now = Instant::now();
        let views = views();
        let ann = of("ann", Some("1"));
        sessions.keep(&ann, views.clone(), now).unwrap();
        assert_eq!(sessions.of(&ann, now), views);
        assert_eq!(sessions.of(&of("bob", Some("1")), now), Settings::default());
        assert_eq!(sessions.of(&of("ann", Some("2")), now), Settings::default());
        assert!(sessions.keep(&of("ann", None), views.clone(), now).is_err());
        sessions
            .keep(&of("bob", Some("1")), views.clone(), now)
            .unwrap();
        let third = of("cid", Some("1"));
        let full = sessions.keep(&third, views.clone(), now).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::Exhausted);
        sessions.close(&ann);
        assert_eq!(sessions.of(&ann, now), Settings::default());
        sessions.keep(&third, views.clone(), now).unwrap();
        let later = now + Duration::from_secs(60);
        assert_eq!(sessions.of(&third, later), Settings::default());
        sessions.keep(&ann, views, later).unwrap();
    }
}
