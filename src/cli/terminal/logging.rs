//! Logs to standard error, as text or JSON: one line for each event, for all names and texts in it.

use std::io::{IsTerminal, Stderr, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::args::LogFormat;
use crate::cli::config::Settings;
use crate::error::{Error, Result};

pub(crate) fn start(settings: &Settings) -> Result<()> {
    let filter = EnvFilter::try_new(&settings.log).map_err(|error| {
        Error::invalid(format!("--log does not accept '{}': {error}", settings.log))
            .with_help("give a level such as info, or a filter such as warn,kafka=debug")
    })?;
    let is_terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || OneLineWriter {
            to: std::io::stderr(),
            is_terminal,
        })
        .with_ansi(is_terminal);
    // A second start in one process, as tests do, keeps the first.
    let _ = match settings.log_format {
        LogFormat::Text => builder.finish().try_init(),
        LogFormat::Json => builder.json().finish().try_init(),
    };
    Ok(())
}

/// Writes each event as one line: characters that end a line or move the cursor are written as escapes, so that no name
/// or text of a client can look like another event.
struct OneLineWriter<W = Stderr> {
    to: W,
    /// Colors are escape sequences of our own.
    is_terminal: bool,
}

impl<W: Write> Write for OneLineWriter<W> {
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let (line, end) = match text.strip_suffix('\n') {
            Some(line) => (line, "\n"),
            None => (text.as_ref(), ""),
        };
        let mut written = String::with_capacity(text.len());
        for character in line.chars() {
            let is_color = character == '\u{1b}' && self.is_terminal;
            let ends_line = matches!(character, '\u{2028}' | '\u{2029}');
            match (character.is_control() && character != '\t' && !is_color) || ends_line {
                true => written.extend(character.escape_default()),
                false => written.push(character),
            }
        }
        written.push_str(end);
        self.to.write_all(written.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(event: &str, is_terminal: bool) -> String {
        let mut lines = OneLineWriter {
            to: Vec::new(),
            is_terminal,
        };
        lines.write_all(event.as_bytes()).unwrap();
        String::from_utf8(lines.to).unwrap()
    }

    #[test]
    fn an_event_is_one_line_for_any_content() {
        assert_eq!(written("plain ä\tx\n", false), "plain ä\tx\n");
        for forged in [
            "\n",
            "\r",
            "\r\n",
            "\u{85}",
            "\u{2028}",
            "\u{2029}",
            "\u{b}",
            "\u{c}",
            "\u{1b}[2K",
            "\u{8}",
            "\u{0}",
        ] {
            let line = written(&format!("a name{forged}INFO forged\n"), false);
            let inside = line.strip_suffix('\n').unwrap();
            assert!(inside.ends_with("INFO forged"), "{line:?}");
            assert!(!inside.chars().any(char::is_control), "{line:?}");
            assert!(!inside.contains(['\u{2028}', '\u{2029}']), "{line:?}");
        }
        assert_eq!(
            written("\u{1b}[32mINFO\u{1b}[0m\n", true),
            "\u{1b}[32mINFO\u{1b}[0m\n"
        );
    }
}
