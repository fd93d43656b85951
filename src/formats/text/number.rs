//! Conversion of exact decimal text to integers: for BIGINT, DECIMAL and epoch timestamps.
//!
//! JSON has one number type; `1.0` and `1e3` are integers, `1.5` is not. Going through a float
//! would lose digits, so digits are moved, never computed with.

use arrow::datatypes::i256;

/// A number as its digits: `sign × digits × 10^exponent`, without leading or trailing zeros.
struct Digits {
    negative: bool,
    digits: Vec<u8>,
    exponent: i64,
}

/// The treatment of digits that the target cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExcessDigits {
    /// The text is refused.
    Refuse,
    /// Rounded half away from zero, as SQL's cast to DECIMAL does.
    Round,
    /// Cut off towards negative infinity, as the fraction of a timestamp is.
    Floor,
}

/// `text × 10^scale` as an integer. `None` if `text` is not a number, is out of range, or has
/// digits left and `inexact` refuses them.
pub(crate) fn parse_scaled(text: &str, scale: i64, inexact: ExcessDigits) -> Option<i128> {
    let scaled = scaled_digits(text, scale, inexact)?;
    scaled.parse().ok()
}

/// As [`parse_scaled`], for the widest decimal.
pub(crate) fn parse_scaled_wide(text: &str, scale: i64, inexact: ExcessDigits) -> Option<i256> {
    i256::from_string(&scaled_digits(text, scale, inexact)?)
}

/// The text of an integer. No type holds more digits than this.
fn scaled_digits(text: &str, scale: i64, inexact: ExcessDigits) -> Option<String> {
    const MAX_DIGITS: i64 = 80;
    let mut number = split(text)?;
    let exponent = number.exponent.checked_add(scale)?;
    let count = number.digits.len() as i64;
    if count == 0 {
        return Some("0".to_owned());
    }
    if count.checked_add(exponent)? > MAX_DIGITS {
        return None;
    }
    if exponent >= 0 {
        number.digits.resize((count + exponent) as usize, b'0');
    } else {
        // Digits without trailing zeros are left below the unit: the value is inexact.
        let kept = (count + exponent).max(0) as usize;
        let half_or_more = count + exponent >= 0 && number.digits.get(kept)? >= &b'5';
        number.digits.truncate(kept);
        let away = match inexact {
            ExcessDigits::Refuse => return None,
            ExcessDigits::Round => half_or_more,
            ExcessDigits::Floor => number.negative,
        };
        if away {
            increment(&mut number.digits);
        }
    }
    if number.digits.is_empty() {
        return Some("0".to_owned());
    }
    if number.negative {
        number.digits.insert(0, b'-');
    }
    String::from_utf8(number.digits).ok()
}

fn increment(digits: &mut Vec<u8>) {
    for digit in digits.iter_mut().rev() {
        if *digit == b'9' {
            *digit = b'0';
        } else {
            *digit += 1;
            return;
        }
    }
    digits.insert(0, b'1');
}

/// Splits `[+-]digits[.digits][e[+-]digits]`.
fn split(text: &str) -> Option<Digits> {
    let bytes = text.as_bytes();
    let (negative, rest) = match bytes.first()? {
        b'-' => (true, &bytes[1..]),
        b'+' => (false, &bytes[1..]),
        _ => (false, bytes),
    };
    let (mantissa, mut exponent) = match rest.iter().position(|b| matches!(b, b'e' | b'E')) {
        Some(at) => (&rest[..at], parse_exponent(&rest[at + 1..])?),
        None => (rest, 0),
    };
    let (whole, fraction) = match mantissa.iter().position(|&b| b == b'.') {
        Some(at) => (&mantissa[..at], &mantissa[at + 1..]),
        None => (mantissa, &[][..]),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    if !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
        return None;
    }
    let mut digits: Vec<u8> = whole
        .iter()
        .chain(fraction)
        .copied()
        .skip_while(|&b| b == b'0')
        .collect();
    exponent -= fraction.len() as i64;
    while digits.last() == Some(&b'0') {
        digits.pop();
        exponent += 1;
    }
    Some(Digits {
        negative,
        digits,
        exponent,
    })
}

/// An exponent beyond any type's range is kept at a bound, which is still beyond it.
fn parse_exponent(bytes: &[u8]) -> Option<i64> {
    const BOUND: i64 = 1_000_000_000_000;
    let (negative, digits) = match bytes.first()? {
        b'-' => (true, &bytes[1..]),
        b'+' => (false, &bytes[1..]),
        _ => (false, bytes),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let size = digits.iter().fold(0_i64, |size, digit| {
        (size * 10 + i64::from(digit - b'0')).min(BOUND)
    });
    Some(if negative { -size } else { size })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn integers_are_exact_or_refused() {
        let integer = |text| parse_scaled(text, 0, ExcessDigits::Refuse);
        assert_eq!(integer("1.0"), Some(1));
        assert_eq!(integer("1e3"), Some(1000));
        assert_eq!(integer("-120e-1"), Some(-12));
        assert_eq!(integer("0e999999999999999999999"), Some(0));
        assert_eq!(integer("-0"), Some(0));
        assert_eq!(integer("9223372036854775807"), Some(i128::from(i64::MAX)));
        assert_eq!(integer("9223372036854775807.5"), None);
        assert_eq!(integer("1.5"), None);
        assert_eq!(integer("1e999999999999999999999"), None);
        for text in [
            "", "-", ".", "e1", "1e", "1e+", "1 ", "0x1", "1.2.3", "--1", "NaN",
        ] {
            assert_eq!(integer(text), None, "{text:?}");
        }
    }

    #[test]
    fn rounding_and_flooring() {
        assert_eq!(parse_scaled("1.005", 2, ExcessDigits::Round), Some(101));
        assert_eq!(parse_scaled("-1.005", 2, ExcessDigits::Round), Some(-101));
        assert_eq!(
            parse_scaled("0.30000000000000004", 2, ExcessDigits::Round),
            Some(30)
        );
        assert_eq!(parse_scaled("9.999", 2, ExcessDigits::Round), Some(1000));
        assert_eq!(parse_scaled("0.004", 2, ExcessDigits::Round), Some(0));
        assert_eq!(parse_scaled("0.0006", 2, ExcessDigits::Round), Some(0));
        assert_eq!(parse_scaled("1.9", 0, ExcessDigits::Floor), Some(1));
        assert_eq!(parse_scaled("-1.1", 0, ExcessDigits::Floor), Some(-2));
        assert_eq!(parse_scaled("-0.0001", 0, ExcessDigits::Floor), Some(-1));
        assert_eq!(parse_scaled("1234", -2, ExcessDigits::Floor), Some(12));
    }

    proptest! {
        #[test]
        fn every_integer_reads_back_at_any_scale(value in any::<i64>(), places in 0_u32..10) {
            let text = format!("{value}e-{places}");
            prop_assert_eq!(
                parse_scaled(&text, i64::from(places), ExcessDigits::Refuse),
                Some(i128::from(value))
            );
            let wide = parse_scaled_wide(&text, i64::from(places), ExcessDigits::Refuse);
            prop_assert_eq!(wide, Some(i256::from_i128(i128::from(value))));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[-+.eE0-9]{0,20}", scale in -40_i64..40) {
            for inexact in [ExcessDigits::Refuse, ExcessDigits::Round, ExcessDigits::Floor] {
                let narrow = parse_scaled(&text, scale, inexact);
                if let Some(value) = narrow {
                    let wide = parse_scaled_wide(&text, scale, inexact);
                    prop_assert_eq!(wide, Some(i256::from_i128(value)));
                }
            }
        }
    }
}
