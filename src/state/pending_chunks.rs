//! Restored chunks that are not in the index yet: a lookup of keys compares the hashes of all their rows.
//!
//! So a job need not index a million keys before its first batch. Each later change of the state moves one chunk into the
//! index.

use std::sync::OnceLock;

use datafusion::arrow::array::RecordBatch;
use datafusion::error::Result;

use crate::state::index::{RowPlace, hashes};

/// The chunks, by number.
#[derive(Debug, Default)]
pub(super) struct PendingChunks {
    chunks: Vec<PendingChunk>,
}

#[derive(Debug)]
struct PendingChunk {
    number: u32,
    /// Hashes of its rows, computed at the first lookup.
    hashes: OnceLock<Vec<u32>>,
}

impl PendingChunk {
    fn hashes(&self, rows: &RecordBatch, keys: usize) -> Result<&[u32]> {
        if let Some(known) = self.hashes.get() {
            return Ok(known);
        }
        let new = hashes(rows, keys)?;
        Ok(self.hashes.get_or_init(|| new))
    }
}

impl PendingChunks {
    /// Adds a chunk that is not in the index yet.
    pub(super) fn put(&mut self, number: u32) {
        self.chunks.push(PendingChunk {
            number,
            hashes: OnceLock::new(),
        });
    }

    /// Removes a chunk: its number may be given to another one.
    pub(super) fn forget(&mut self, number: u32) {
        self.chunks.retain(|chunk| chunk.number != number);
    }

    /// Removes a chunk that will be indexed now and returns its number, with the hashes of its rows if they are known.
    pub(super) fn pop(&mut self) -> Option<(u32, Option<Vec<u32>>)> {
        let chunk = self.chunks.pop()?;
        Some((chunk.number, chunk.hashes.into_inner()))
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        self.chunks.iter().any(|chunk| chunk.number == number)
    }

    /// Bytes held.
    pub(super) fn size(&self) -> usize {
        let known = self.chunks.iter().filter_map(|chunk| chunk.hashes.get());
        known
            .map(|hashes| hashes.capacity() * size_of::<u32>())
            .sum()
    }

    /// Calls `found` for each place whose key has the same hash as one of `wanted`, with the index of that one. The caller
    /// checks whether the keys are the same and the row is alive. `rows` returns the rows of a chunk, whose key is the first
    /// `keys` columns.
    pub(super) fn find<'a>(
        &self,
        wanted: &[u32],
        rows: impl Fn(u32) -> Option<&'a RecordBatch>,
        keys: usize,
        mut found: impl FnMut(usize, RowPlace),
    ) -> Result<()> {
        if self.chunks.is_empty() || wanted.is_empty() {
            return Ok(());
        }
        let filter = HashFilter::new(wanted);
        let mut sorted: Vec<(u32, usize)> = wanted.iter().copied().zip(0..).collect();
        sorted.sort_unstable();
        for chunk in &self.chunks {
            let Some(rows) = rows(chunk.number) else {
                continue;
            };
            for (row, hash) in (0_u32..).zip(chunk.hashes(rows, keys)?) {
                if !filter.may_have(*hash) {
                    continue;
                }
                let first = sorted.partition_point(|(wanted, _)| wanted < hash);
                let same = sorted[first..]
                    .iter()
                    .take_while(|(wanted, _)| wanted == hash);
                for (_, index) in same {
                    let place = RowPlace {
                        chunk: chunk.number,
                        row,
                    };
                    found(*index, place);
                }
            }
        }
        Ok(())
    }
}

/// A bit set over the hashes: it rules out nearly all other rows and fits into the processor's cache.
struct HashFilter {
    bits: Vec<u64>,
    mask: usize,
}

impl HashFilter {
    /// The size for few hashes, in bits: 8 KiB.
    const LEAST: usize = 1 << 16;
    const MOST: usize = 1 << 27;
    /// About one in so many of the other hashes passes.
    const SPARSE: usize = 64;

    fn new(hashes: &[u32]) -> Self {
        let size = (hashes.len() * Self::SPARSE).next_power_of_two();
        let size = size.clamp(Self::LEAST, Self::MOST);
        let mut filter = Self {
            bits: vec![0; size / 64],
            mask: size - 1,
        };
        for hash in hashes {
            let bit = *hash as usize & filter.mask;
            filter.bits[bit / 64] |= 1 << (bit % 64);
        }
        filter
    }

    fn may_have(&self, hash: u32) -> bool {
        let bit = hash as usize & self.mask;
        self.bits[bit / 64] >> (bit % 64) & 1 == 1
    }
}
