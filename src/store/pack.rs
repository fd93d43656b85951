//! Packs: files with the late rows and dead letters of many batches, which outlive the versions of these batches (LOSS-1).
//!
//! A line of JSON, then of one batch after the other the file of its dead letters and that of its late rows, as they were. Format 1
//! had dead letters in the JSON.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::core::jobs::DeadLetter;
use crate::error::Result;
use crate::store::checksum::{check_crc32, crc32, seal, unsealed};
use crate::store::dead_letters::{decode_letters, encode_letters};
use crate::store::wire::{DeadLetterFile, FORMAT, UnreadableFile, not_of_format};

/// The late rows and dead letters of batches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pack {
    /// In the order of the batches, without those that have none.
    pub batches: Vec<PackedBatch>,
}

/// The late rows and dead letters of one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedBatch {
    /// Its number.
    pub batch: u64,
    /// When it was committed, in milliseconds since 1970 UTC; none of packs that were written without.
    pub at: Option<i64>,
    /// Records that could not be decoded.
    pub dead_letters: Vec<DeadLetter>,
    /// The file of its late rows, if there are any.
    pub late: Option<Bytes>,
}

#[derive(Debug, Deserialize)]
struct Named {
    format: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: u32,
    batches: Vec<HeadOfBatch>,
    /// The checksum of what comes after this line.
    files_crc32: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadOfBatch {
    batch: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<i64>,
    /// Bytes of the file of dead letters. Format 1 has a list in the member `dead_letters`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    letters: Option<usize>,
    /// Bytes of the file of late rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    late: Option<usize>,
}

/// Format 1.
#[derive(Debug, Deserialize)]
struct FirstHead {
    batches: Vec<FirstHeadOfBatch>,
    /// None of packs that were written without.
    #[serde(default)]
    late_crc32: Option<u32>,
}

#[derive(Debug, Deserialize)]
struct FirstHeadOfBatch {
    batch: u64,
    #[serde(default)]
    dead_letters: Vec<DeadLetterFile>,
    #[serde(default)]
    late: Option<usize>,
}

impl Pack {
    /// Approximate size in bytes.
    pub fn size(&self) -> usize {
        let of_letter = |letter: &DeadLetter| {
            let bytes = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, Vec::len);
            bytes(&letter.key) + bytes(&letter.value) + letter.reason.len() + 100
        };
        let of_batch = |packed: &PackedBatch| {
            let letters: usize = packed.dead_letters.iter().map(of_letter).sum();
            letters + packed.late.as_ref().map_or(0, Bytes::len)
        };
        self.batches.iter().map(of_batch).sum()
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        let mut batches = Vec::with_capacity(self.batches.len());
        let mut files = Vec::new();
        for packed in &self.batches {
            let letters = match packed.dead_letters.as_slice() {
                [] => None,
                letters => Some(encode_letters(letters)?),
            };
            batches.push(HeadOfBatch {
                batch: packed.batch,
                at: packed.at,
                letters: letters.as_ref().map(Vec::len),
                late: packed.late.as_ref().map(Bytes::len),
            });
            files.extend_from_slice(letters.as_deref().unwrap_or_default());
            files.extend_from_slice(packed.late.as_deref().unwrap_or_default());
        }
        let mut bytes = seal(&Head {
            format: FORMAT,
            batches,
            files_crc32: crc32(&files),
        })?;
        bytes.push(b'\n');
        bytes.append(&mut files);
        Ok(bytes)
    }

    /// The pack that bytes are, or why they are none.
    pub(super) fn decode(bytes: &Bytes) -> Result<Self, UnreadableFile> {
        let damaged = UnreadableFile::Damaged;
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let end = end.ok_or_else(|| damaged("it is cut off".to_owned()))?;
        let head = unsealed(&bytes[..end]).map_err(damaged)?;
        let mut files = PackFiles(bytes.slice(end + 1..));
        let of_format = |format: u32| move |error: serde_json::Error| not_of_format(format, &error);
        let named: Named = serde_json::from_slice(&head).map_err(of_format(1))?;
        let mut pack = Self::default();
        match named.format {
            0 => return Err(damaged("it names format 0".to_owned())),
            1 => {
                let head: FirstHead = serde_json::from_slice(&head).map_err(of_format(1))?;
                check_crc32(crc32(&files.0), head.late_crc32).map_err(damaged)?;
                for of in head.batches {
                    pack.batches.push(PackedBatch {
                        batch: of.batch,
                        at: None,
                        dead_letters: of.dead_letters.into_iter().map(Into::into).collect(),
                        late: files.next(of.late).map_err(damaged)?,
                    });
                }
            }
            FORMAT => {
                let head: Head = serde_json::from_slice(&head).map_err(of_format(FORMAT))?;
                check_crc32(crc32(&files.0), Some(head.files_crc32)).map_err(damaged)?;
                for of in head.batches {
                    let letters = files.next(of.letters).map_err(damaged)?;
                    let letters =
                        letters.map_or_else(|| Ok(Vec::new()), |file| decode_letters(&file));
                    pack.batches.push(PackedBatch {
                        batch: of.batch,
                        at: of.at,
                        dead_letters: letters.map_err(damaged)?,
                        late: files.next(of.late).map_err(damaged)?,
                    });
                }
            }
            newer => return Err(UnreadableFile::Newer(newer)),
        }
        match files.0.is_empty() {
            true => Ok(pack),
            false => Err(damaged("it is longer than its header says".to_owned())),
        }
    }
}

/// The files behind the head.
struct PackFiles(Bytes);

impl PackFiles {
    /// The next file, of so many bytes, if there is one.
    fn next(&mut self, length: Option<usize>) -> Result<Option<Bytes>, String> {
        match length {
            Some(length) if length <= self.0.len() => Ok(Some(self.0.split_to(length))),
            Some(_) => Err("it is cut off".to_owned()),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack() -> Pack {
        let letter = DeadLetter {
            table: "t".into(),
            topic: "t".into(),
            partition: 1,
            offset: 7,
            timestamp: None,
            key: Some(vec![0, 10, 255]),
            value: None,
            reason: "a\nb".into(),
        };
        Pack {
            batches: vec![
                PackedBatch {
                    batch: 3,
                    at: Some(7_000),
                    dead_letters: vec![letter.clone()],
                    late: None,
                },
                PackedBatch {
                    batch: 4,
                    at: None,
                    dead_letters: vec![letter],
                    late: Some(Bytes::from_static(b"rows\nof 4")),
                },
                PackedBatch {
                    batch: 9,
                    at: Some(9_000),
                    dead_letters: vec![],
                    late: Some(Bytes::from_static(b"9")),
                },
            ],
        }
    }

    #[test]
    fn loss_1_packed_batches_are_unpacked() {
        for pack in [pack(), Pack::default()] {
            let bytes = Bytes::from(pack.encode().unwrap());
            assert_eq!(Pack::decode(&bytes), Ok(pack));
        }
    }

    #[test]
    fn torn_or_newer_packs_are_refused() {
        let bytes = Bytes::from(pack().encode().unwrap());
        for length in 0..bytes.len() {
            assert!(Pack::decode(&bytes.slice(..length)).is_err(), "{length}");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert!(Pack::decode(&Bytes::from(longer)).is_err());
        for bit in 0..8 * bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Pack::decode(&Bytes::from(damaged)).is_err(), "bit {bit}");
        }
        let newer = b"{\"format\":3,\"batches\":[]}\n";
        let refused = Pack::decode(&Bytes::from_static(newer));
        assert_eq!(refused, Err(UnreadableFile::Newer(3)));
    }

    #[test]
    fn packs_of_the_first_format_are_read() {
        let older = b"{\"format\":1,\"batches\":[{\"batch\":4,\"dead_letters\":[{\"table\":\"t\",\"topic\":\"t\",\"partition\":1,\
            \"offset\":7,\"timestamp\":null,\"key\":[0,10,255],\"value\":null,\"reason\":\"bad\"}],\"late\":3}]}\nabc";
        let pack = Pack::decode(&Bytes::from_static(older)).unwrap();
        let packed = &pack.batches[0];
        assert_eq!(packed.late.as_deref(), Some(&b"abc"[..]));
        assert_eq!(packed.dead_letters[0].key, Some(vec![0, 10, 255]));
        // Written again it is of format 2.
        let again = Bytes::from(pack.encode().unwrap());
        assert_eq!(Pack::decode(&again), Ok(pack));
    }
}
