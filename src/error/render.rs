//! Rendering of an error's place in a text for a user.

use datafusion::sql::sqlparser::tokenizer::{Location, Span};

/// Adds `name:line:column` and the line with a caret below the place.
pub(super) fn place(out: &mut String, name: &str, text: &str, span: Span) {
    let Location { line, column } = span.start;
    out.push_str(&format!(" --> {name}:{line}:{column}\n"));
    let Some(source) = (line as usize)
        .checked_sub(1)
        .and_then(|n| text.lines().nth(n))
    else {
        return;
    };
    let start = (column as usize)
        .saturating_sub(1)
        .min(source.chars().count());
    let width = if span.end.line == line {
        (span.end.column.saturating_sub(column)).max(1) as usize
    } else {
        source.chars().count().saturating_sub(start).max(1)
    };
    let (source, start, width) = window(source, start, width);
    let gutter = " ".repeat(line.to_string().len());
    // Tabs are kept in the padding, so that the caret stands below its word.
    let padding: String = source
        .chars()
        .take(start)
        .map(|c| if c == '\t' { '\t' } else { ' ' })
        .collect();
    out.push_str(&format!(
        "{gutter} |\n{line} | {source}\n{gutter} | {padding}{}\n",
        "^".repeat(width)
    ));
}

/// The part of a line that is displayed: all of it, or the surroundings of the place if the line is long, with a mark at each
/// cut.
fn window(source: &str, start: usize, width: usize) -> (String, usize, usize) {
    /// Characters of a line that is displayed whole, and characters on each side of the place otherwise.
    const WHOLE: usize = 240;
    const AROUND: usize = 80;
    let length = source.chars().count();
    if length <= WHOLE {
        return (source.to_owned(), start, width);
    }
    let from = start.saturating_sub(AROUND);
    let to = (start + width.min(AROUND) + AROUND).min(length);
    let mut shown: String = source.chars().skip(from).take(to - from).collect();
    let mut place = start - from;
    if from > 0 {
        shown.insert(0, '…');
        place += 1;
    }
    if to < length {
        shown.push('…');
    }
    (shown, place, width.min(to - start).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, from: u64, to: u64) -> String {
        let mut out = String::new();
        let at = |column| Location::new(1, column);
        place(&mut out, "q", text, Span::new(at(from), at(to)));
        out
    }

    #[test]
    fn a_long_line_is_shown_around_the_error_position() {
        let line = format!(
            "SELECT {}, wrong, {}",
            "é".repeat(1_000_000),
            "x".repeat(1_000_000)
        );
        let column = 7 + 1_000_000 + 3;
        let out = shown(&line, column, column + 5);
        assert!(out.len() < 1_000, "{}", out.len());
        let lines: Vec<&str> = out.lines().collect();
        let caret = lines[3].chars().position(|c| c == '^').unwrap();
        let place: String = lines[2].chars().skip(caret).take(5).collect();
        assert_eq!(place, "wrong");
        assert_eq!(lines[3].matches('^').count(), 5);
        assert!(lines[2].starts_with("1 | …") && lines[2].ends_with('…'));
        // A place that is itself long, at the beginning and at the end.
        for (from, to) in [(1, 2_000_000), (1_999_990, 2_000_000)] {
            assert!(shown(&line, from, to).len() < 1_200);
        }
        assert_eq!(
            shown("SELECT a", 8, 9),
            " --> q:1:8\n  |\n1 | SELECT a\n  |        ^\n"
        );
    }
}
