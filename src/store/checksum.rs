//! Checksums of stored files: they detect a file that differs from the bytes that were written.
//!
//! A JSON file starts with a member that says it is checked and ends with the checksum:
//! `{"checked_by":"crc32",…,"crc32":"0123abcd"}`. The checksum covers all bytes before its member. One damaged place cannot
//! hide both ends, so a file is either checked or was written by an earlier release, which had no checksums. The files that
//! name other files have the checksums of those: a version has the checksums of its state and of its late rows.

use std::borrow::Cow;
use std::io::{ErrorKind, Read, Seek};

use crc32fast::Hasher;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

const HEAD: &[u8] = br#"{"checked_by":"crc32","#;
const TAIL: &[u8] = br#","crc32":""#;
const TAIL_END: &[u8] = br#""}"#;
/// Eight hexadecimal digits.
const DIGITS: usize = 8;

/// The checksum of a file's bytes.
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// Compares the checksum of a file's bytes with the one that its writer stored, if it stored one.
///
/// # Errors
///
/// The checksums differ.
pub fn check_crc32(found: u32, written: Option<u32>) -> Result<(), String> {
    match written {
        Some(written) if written != found => Err(format!(
            "its bytes are not those that were written (checksum {found:08x} in the place of {written:08x})"
        )),
        _ => Ok(()),
    }
}

/// A value as JSON with a checksum. It must be an object.
pub(super) fn seal(value: &impl Serialize) -> Result<Vec<u8>> {
    let json = serde_json::to_vec(value).map_err(|error| Error::internal(error.to_string()))?;
    let inner = json
        .strip_prefix(b"{")
        .and_then(|json| json.strip_suffix(b"}"))
        .filter(|inner| !inner.is_empty())
        .ok_or_else(|| Error::internal("the stored value is not a JSON object"))?;
    let mut bytes = Vec::with_capacity(HEAD.len() + inner.len() + TAIL.len() + DIGITS + 2);
    bytes.extend_from_slice(HEAD);
    bytes.extend_from_slice(inner);
    let digits = format!("{:08x}", crc32(&bytes));
    bytes.extend_from_slice(TAIL);
    bytes.extend_from_slice(digits.as_bytes());
    bytes.extend_from_slice(TAIL_END);
    Ok(bytes)
}

/// Reads a value from such a file, or from one without a checksum.
pub(super) fn unseal<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(&unsealed(bytes)?).map_err(|error| error.to_string())
}

/// The JSON of such a file without the two members of the checksum, or all of one without a checksum.
pub(super) fn unsealed(bytes: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    let length = TAIL.len() + DIGITS + TAIL_END.len();
    let (checked, tail) = bytes.split_at(bytes.len().saturating_sub(length));
    let digits = tail
        .strip_prefix(TAIL)
        .and_then(|tail| tail.strip_suffix(TAIL_END));
    match (bytes.starts_with(HEAD), digits) {
        (false, None) => Ok(Cow::Borrowed(bytes)),
        (true, None) => Err("it is cut off, or its end is damaged".to_owned()),
        (_, Some(digits)) => {
            let found = format!("{:08x}", crc32(checked));
            if found.as_bytes() != digits {
                let digits = String::from_utf8_lossy(digits);
                return Err(format!(
                    "its bytes are not those that were written (checksum {found} in the place of {digits})"
                ));
            }
            let inner = checked.strip_prefix(HEAD).unwrap_or(checked);
            Ok(Cow::Owned([&b"{"[..], inner, b"}"].concat()))
        }
    }
}

/// The checksum of a whole file; the reader must be at the beginning, and is there again afterwards.
///
/// # Errors
///
/// The file cannot be read.
pub fn crc32_of(file: &mut (impl Read + Seek)) -> std::io::Result<u32> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => hasher.update(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    file.rewind()?;
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use serde_json::{Value, json};

    use super::*;

    fn value(text: &str) -> Value {
        json!({"entry": "x", "text": text, "list": [1, 2, 3], "end": "}"})
    }

    #[test]
    fn any_flipped_bit_or_truncation_is_detected() {
        for text in ["", "a \"quoted\" text", ",\"crc32\":\"00000000\"}"] {
            let sealed = seal(&value(text)).unwrap();
            let read: Value = unseal(&sealed).unwrap();
            assert_eq!(read["text"], text);
            for bit in 0..8 * sealed.len() {
                let mut damaged = sealed.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(unseal::<Value>(&damaged).is_err(), "{text}: bit {bit}");
            }
            for length in 0..sealed.len() {
                assert!(
                    unseal::<Value>(&sealed[..length]).is_err(),
                    "{text}: {length}"
                );
            }
        }
    }

    #[test]
    fn files_without_a_checksum_are_read() {
        let plain = serde_json::to_vec(&value("t")).unwrap();
        assert_eq!(unseal::<Value>(&plain).unwrap(), value("t"));
        assert!(seal(&7).is_err(), "there is no place for a checksum");
    }

    #[test]
    fn a_file_is_verified_then_read_from_its_beginning() {
        for length in [0, 1, 64 << 10, (64 << 10) + 1, 300_000] {
            let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let mut file = Cursor::new(&bytes[..]);
            assert_eq!(crc32_of(&mut file).unwrap(), crc32(&bytes), "{length}");
            let mut read = Vec::new();
            file.read_to_end(&mut read).unwrap();
            assert_eq!(read, bytes, "{length}");
        }
    }
}
