//! Backtraces in messages.

/// Libraries put backtraces into their messages when RUST_BACKTRACE is set.
pub(in crate::error) fn without_backtrace(mut message: String) -> String {
    let start = ["\n   0: ", "\nstack backtrace", "\n\nbacktrace:"]
        .iter()
        .filter_map(|mark| message.find(mark))
        .min();
    if let Some(start) = start {
        message.truncate(message[..start].trim_end().len());
    }
    message
}
