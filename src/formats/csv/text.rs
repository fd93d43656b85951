//! Text of one CSV record: splitting it into fields, and writing a field so that it splits back.
//!
//! Why not arrow-csv: it fails as a whole where one record cannot be read. It is no faster: of records with seven fields it reads as
//! many rows per second, and with two of them projected 0.9 of ours (`BENCH_ONLY=formats`).

/// The characters of the dialect; all are single ASCII bytes.
#[derive(Debug, Clone)]
pub(crate) struct CsvDialect {
    pub(crate) delimiter: u8,
    /// `None`: no field is ever quoted.
    pub(crate) quote: Option<u8>,
    /// The character that escapes a quote within quotes; the quote itself if quotes are doubled.
    pub(crate) escape: Option<u8>,
    /// The unquoted text of NULL.
    pub(crate) null: String,
}

impl Default for CsvDialect {
    fn default() -> Self {
        Self {
            delimiter: b',',
            quote: Some(b'"'),
            escape: None,
            null: String::new(),
        }
    }
}

/// The fields of one record; kept between records for its memory.
#[derive(Debug, Default)]
pub(crate) struct CsvFields {
    text: String,
    /// The end of each field in `text`, and whether it was quoted.
    ends: Vec<(usize, bool)>,
}

impl CsvFields {
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The field at `index`: `None` if there is none or if it is NULL.
    pub(crate) fn get(&self, index: usize, dialect: &CsvDialect) -> Option<&str> {
        let (end, is_quoted) = *self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before].0);
        let text = &self.text[start..end];
        (is_quoted || text != dialect.null).then_some(text)
    }

    /// Splits a record; one line break at its end is left out.
    ///
    /// # Errors
    ///
    /// Why it is not one record.
    pub(crate) fn split(&mut self, record: &str, dialect: &CsvDialect) -> Result<(), String> {
        self.text.clear();
        self.ends.clear();
        let record = record.strip_suffix('\n').unwrap_or(record);
        let mut rest = record.strip_suffix('\r').unwrap_or(record);
        loop {
            let quote = dialect
                .quote
                .filter(|&quote| rest.as_bytes().first() == Some(&quote));
            rest = match quote {
                Some(quote) => self.take_quoted(&rest[1..], quote, dialect)?,
                None => {
                    let end = rest
                        .bytes()
                        .position(|b| b == dialect.delimiter || b == b'\n' || b == b'\r')
                        .unwrap_or(rest.len());
                    self.text.push_str(&rest[..end]);
                    &rest[end..]
                }
            };
            self.ends.push((self.text.len(), quote.is_some()));
            match rest.as_bytes().first() {
                None => return Ok(()),
                Some(&b) if b == dialect.delimiter => rest = &rest[1..],
                Some(b'\n' | b'\r') => return Err("the message has more than one line".to_owned()),
                Some(_) => {
                    return Err(format!(
                        "text after the closing quote of field {}",
                        self.len()
                    ));
                }
            }
        }
    }

    /// Reads the rest of a quoted field; returns the text after its closing quote.
    fn take_quoted<'a>(
        &mut self,
        text: &'a str,
        quote: u8,
        dialect: &CsvDialect,
    ) -> Result<&'a str, String> {
        let escape = dialect.escape.unwrap_or(quote);
        let mut rest = text;
        loop {
            let Some(end) = rest.bytes().position(|b| b == quote || b == escape) else {
                return Err(format!(
                    "field {} is quoted and has no closing quote",
                    self.len() + 1
                ));
            };
            self.text.push_str(&rest[..end]);
            let is_escape = rest.as_bytes()[end] == escape;
            rest = &rest[end + 1..];
            match rest.chars().next() {
                // A doubled quote; or, if the escape is another character, any character after it.
                Some(next) if is_escape && (escape != quote || next == char::from(quote)) => {
                    self.text.push(next);
                    rest = &rest[next.len_utf8()..];
                }
                _ if is_escape && escape != quote => {
                    return Err(format!(
                        "field {} ends in an escape character",
                        self.len() + 1
                    ));
                }
                _ => return Ok(rest),
            }
        }
    }
}

/// Writes a field. Returns false if the field needs quotes and the dialect has none.
pub(crate) fn write_field(value: Option<&str>, dialect: &CsvDialect, out: &mut Vec<u8>) -> bool {
    let Some(text) = value else {
        out.extend_from_slice(dialect.null.as_bytes());
        return true;
    };
    let is_special =
        |b: &u8| *b == dialect.delimiter || *b == b'\n' || *b == b'\r' || Some(*b) == dialect.quote;
    if text != dialect.null && !text.as_bytes().iter().any(is_special) {
        out.extend_from_slice(text.as_bytes());
        return true;
    }
    let Some(quote) = dialect.quote else {
        return false;
    };
    let escape = dialect.escape.unwrap_or(quote);
    out.push(quote);
    for &byte in text.as_bytes() {
        if byte == quote || byte == escape {
            out.push(escape);
        }
        out.push(byte);
    }
    out.push(quote);
    true
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(record: &str, dialect: &CsvDialect) -> Result<Vec<Option<String>>, String> {
        let mut fields = CsvFields::default();
        fields.split(record, dialect)?;
        Ok((0..fields.len())
            .map(|i| fields.get(i, dialect).map(str::to_owned))
            .collect())
    }

    fn some(fields: &[&str]) -> Vec<Option<String>> {
        fields
            .iter()
            .map(|field| Some((*field).to_owned()))
            .collect()
    }

    #[test]
    fn quotes_nulls_and_line_ends() {
        let dialect = CsvDialect::default();
        assert_eq!(split("a,b\r\n", &dialect).unwrap(), some(&["a", "b"]));
        assert_eq!(
            split("\"a,\"\"b\"\"\n\",é", &dialect).unwrap(),
            some(&["a,\"b\"\n", "é"])
        );
        assert_eq!(
            split(",\"\",x", &dialect).unwrap(),
            [None, Some(String::new()), Some("x".into())]
        );
        assert_eq!(split("", &dialect).unwrap(), [None]);
        assert_eq!(split("a,", &dialect).unwrap(), [Some("a".into()), None]);
        assert_eq!(split("a\"b", &dialect).unwrap(), some(&["a\"b"]));
        for (record, reason) in [
            ("a\nb", "more than one line"),
            ("\"a", "no closing quote"),
            ("x,\"a\"b", "text after the closing quote of field 2"),
        ] {
            assert!(
                split(record, &dialect).unwrap_err().contains(reason),
                "{record:?}"
            );
        }
    }

    #[test]
    fn escape_character_other_than_the_quote() {
        let dialect = CsvDialect {
            escape: Some(b'\\'),
            ..CsvDialect::default()
        };
        assert_eq!(
            split(r#""a\"\\b",c\d"#, &dialect).unwrap(),
            some(&["a\"\\b", "c\\d"])
        );
        assert!(split("\"a\\", &dialect).unwrap_err().contains("escape"));
    }

    proptest! {
        #[test]
        fn written_fields_are_parsed_back(
            fields in prop::collection::vec(prop::option::of("[a;\"\\\\\n\r'é]{0,6}|NULL"), 1..6),
            escape in prop::option::of(Just(b'\\')),
            quote in prop::sample::select(vec![b'"', b'\'']),
        ) {
            let dialect = CsvDialect { delimiter: b';', quote: Some(quote), escape, null: "NULL".into() };
            let mut out = Vec::new();
            for (i, field) in fields.iter().enumerate() {
                if i > 0 {
                    out.push(b';');
                }
                prop_assert!(write_field(field.as_deref(), &dialect, &mut out));
            }
            let text = String::from_utf8(out).unwrap();
            prop_assert_eq!(split(&text, &dialect), Ok(fields), "{}", text);
        }

        #[test]
        fn any_text_is_split_or_refused(text in "[a,\"\\\\\n\r]{0,20}", escape in prop::option::of(Just(b'\\'))) {
            let dialect = CsvDialect { escape, ..CsvDialect::default() };
            let _ = split(&text, &dialect);
        }
    }
}
