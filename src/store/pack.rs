//! Packs: files with the late rows and dead letters of many batches, which outlive the versions of these batches (LOSS-1).
//!
//! A pack is one line of JSON, followed by the unchanged files of late rows, one after the other.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::core::jobs::DeadLetter;
use crate::error::Result;
use crate::store::checksum::{check_crc32, crc32, seal, unseal};

/// The format this program writes and the newest it reads.
const FORMAT: u32 = 1;

/// The late rows and dead letters of batches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pack {
    /// In the order of the batches, without those that have none.
    pub batches: Vec<Packed>,
}

/// The late rows and dead letters of one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Its number.
    pub batch: u64,
    /// Records that could not be decoded.
    pub dead_letters: Vec<DeadLetter>,
    /// The file of its late rows, if there are any.
    pub late: Option<Bytes>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    format: u32,
    batches: Vec<HeadOfBatch>,
    /// The checksum of the bytes after this line; none if the pack was written without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    late_crc32: Option<u32>,
}

#[derive(Debug, Serialize, Deserialize)]
struct HeadOfBatch {
    batch: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    dead_letters: Vec<DeadLetter>,
    /// Bytes of late rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    late: Option<usize>,
}

impl Pack {
    /// Approximate size in bytes.
    pub fn size(&self) -> usize {
        let of_letter = |letter: &DeadLetter| {
            let bytes = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, Vec::len);
            // Bytes are written as numbers.
            4 * (bytes(&letter.key) + bytes(&letter.value)) + letter.reason.len() + 100
        };
        let of_batch = |packed: &Packed| {
            let letters: usize = packed.dead_letters.iter().map(of_letter).sum();
            letters + packed.late.as_ref().map_or(0, Bytes::len)
        };
        self.batches.iter().map(of_batch).sum()
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        let of_batch = |packed: &Packed| HeadOfBatch {
            batch: packed.batch,
            dead_letters: packed.dead_letters.clone(),
            late: packed.late.as_ref().map(Bytes::len),
        };
        let lates = || {
            self.batches
                .iter()
                .filter_map(|packed| packed.late.as_ref())
        };
        let mut hasher = crc32fast::Hasher::new();
        lates().for_each(|late| hasher.update(late));
        let head = Head {
            format: FORMAT,
            batches: self.batches.iter().map(of_batch).collect(),
            late_crc32: Some(hasher.finalize()),
        };
        let mut bytes = seal(&head)?;
        bytes.push(b'\n');
        lates().for_each(|late| bytes.extend_from_slice(late));
        Ok(bytes)
    }

    /// Reads a pack from its bytes; the error says why they are no pack.
    pub(super) fn decode(bytes: &Bytes) -> Result<Self, String> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let end = end.ok_or("it is cut off")?;
        let head: Head = unseal(&bytes[..end])?;
        if head.format > FORMAT {
            return Err("it was written by a newer program".to_owned());
        }
        let mut rest = bytes.slice(end + 1..);
        check_crc32(crc32(&rest), head.late_crc32)?;
        let mut batches = Vec::with_capacity(head.batches.len());
        for of_batch in head.batches {
            let late = match of_batch.late {
                Some(length) if length <= rest.len() => Some(rest.split_to(length)),
                Some(_) => return Err("it is cut off".to_owned()),
                None => None,
            };
            batches.push(Packed {
                batch: of_batch.batch,
                dead_letters: of_batch.dead_letters,
                late,
            });
        }
        match rest.is_empty() {
            true => Ok(Self { batches }),
            false => Err("it has more than it says".to_owned()),
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
                Packed {
                    batch: 3,
                    dead_letters: vec![letter],
                    late: None,
                },
                Packed {
                    batch: 4,
                    dead_letters: vec![],
                    late: Some(Bytes::from_static(b"rows\nof 4")),
                },
                Packed {
                    batch: 9,
                    dead_letters: vec![],
                    late: Some(Bytes::from_static(b"9")),
                },
            ],
        }
    }

    #[test]
    fn loss_1_what_is_packed_is_unpacked() {
        for pack in [pack(), Pack::default()] {
            let bytes = Bytes::from(pack.encode().unwrap());
            assert_eq!(Pack::decode(&bytes), Ok(pack));
        }
    }

    #[test]
    fn what_is_torn_or_newer_is_refused() {
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
        let newer = b"{\"format\":2,\"batches\":[]}\n";
        assert!(Pack::decode(&Bytes::from_static(newer)).is_err());
    }

    #[test]
    fn what_was_written_without_a_checksum_is_read() {
        let older = b"{\"format\":1,\"batches\":[{\"batch\":4,\"late\":3}]}\nabc";
        let pack = Pack::decode(&Bytes::from_static(older)).unwrap();
        assert_eq!(pack.batches[0].late.as_deref(), Some(&b"abc"[..]));
    }
}
