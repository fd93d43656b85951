//! Offsets of time zones in text.

/// `±HH:MM`, `±HHMM`, `±HH` or `±HH:MM:SS` as seconds east of Greenwich.
pub(crate) fn parse_offset(text: &[u8]) -> Option<i32> {
    let sign = match text.first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, rest) = take_two(&text[1..])?;
    let (minutes, seconds) = match rest {
        [] => (0, 0),
        [b':', rest @ ..] => {
            let (minutes, rest) = take_two(rest)?;
            match rest {
                [] => (minutes, 0),
                [b':', rest @ ..] => match take_two(rest)? {
                    (seconds, []) => (minutes, seconds),
                    _ => return None,
                },
                _ => return None,
            }
        }
        rest => match take_two(rest)? {
            (minutes, []) => (minutes, 0),
            _ => return None,
        },
    };
    if hours > 23 || minutes > 59 || seconds > 59 {
        return None;
    }
    Some(sign * (hours * 3600 + minutes * 60 + seconds))
}

#[inline]
pub(super) fn take_two(text: &[u8]) -> Option<(i32, &[u8])> {
    match text {
        [tens, ones, rest @ ..] if tens.is_ascii_digit() && ones.is_ascii_digit() => {
            Some((i32::from(tens - b'0') * 10 + i32::from(ones - b'0'), rest))
        }
        _ => None,
    }
}
