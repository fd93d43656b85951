//! Cache of parsed queries: dashboards send theirs again and again, and connection pools send `SELECT 1` to see whether
//! the server is there. Each is parsed once, and a query that always gives the same row is planned once.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;

use crate::error::Result;
use crate::server::queries::prepared::PreparedStatement;

/// The statements that were sent last, by their text.
pub(crate) struct StatementCache(Mutex<LruCache<String, PreparedStatement>>);

impl StatementCache {
    const MOST: NonZeroUsize = NonZeroUsize::new(256).unwrap();
    /// Bytes of a text that is kept.
    const LONGEST: usize = 4_000;

    pub(crate) fn new() -> Self {
        Self(Mutex::new(LruCache::new(Self::MOST)))
    }

    /// The statement of a text, which is parsed unless it is known.
    ///
    /// # Errors
    ///
    /// The errors of parsing it.
    pub(crate) fn prepared(
        &self,
        text: &str,
        parse: impl FnOnce() -> Result<PreparedStatement>,
    ) -> Result<PreparedStatement> {
        if text.len() > Self::LONGEST {
            return parse();
        }
        if let Some(known) = self.lock().get(text) {
            return Ok(known.clone());
        }
        let prepared = parse()?;
        // Other statements may have secrets in them, and are not sent twice.
        if prepared.parsed().effect.is_query() {
            let (text, prepared) = (text.to_owned(), prepared.clone());
            // The statement that makes room is dropped after the lock is free.
            let _forgotten = self.lock().push(text, prepared);
        }
        Ok(prepared)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<String, PreparedStatement>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::parse::one_statement;

    #[test]
    fn queries_are_parsed_once() {
        let known = StatementCache::new();
        let is_parsed = |text: &str| {
            let mut is_parsed = false;
            let parse = || {
                is_parsed = true;
                PreparedStatement::try_new(one_statement(text)?)
            };
            known.prepared(text, parse).map(|_| is_parsed)
        };
        let long = format!("SELECT '{}'", "x".repeat(StatementCache::LONGEST));
        for (text, again) in [
            ("SELECT 1", false),
            ("SELECT a FROM t WHERE b = ?", false),
            ("SHOW TABLES", false),
            ("INSERT INTO t VALUES (1)", true),
            ("DROP TABLE t", true),
            (&long, true),
        ] {
            assert!(is_parsed(text).unwrap(), "{text}");
            assert_eq!(is_parsed(text).unwrap(), again, "{text}");
        }
        assert!(is_parsed("SELEC 1").is_err());
        assert!(is_parsed("SELEC 1").is_err());
        for number in 0..StatementCache::MOST.get() {
            is_parsed(&format!("SELECT {number} AS another")).unwrap();
        }
        assert!(is_parsed("SELECT 1").unwrap());
    }
}
