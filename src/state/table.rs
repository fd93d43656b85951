//! Table of state rows by key, in chunks sorted by the time at which the rows are final.
//!
//! Rows are never changed in place: a newer row replaces an older one, which is dead from then on. Many small chunks are
//! merged, those of similar size first, and a chunk whose rows are mostly dead is rewritten. So no batch pays for the whole
//! state.

use datafusion::arrow::array::{BooleanArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{filter_record_batch, interleave_record_batch, take_record_batch};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::HashSet;
use datafusion::error::{DataFusionError, Result};

use crate::state::compare::Comparators;
use crate::state::index::{PlaceIndex, RowPlace, hashes};
use crate::state::pending_chunks::PendingChunks;

/// The most rows of a chunk.
const CHUNK_ROWS: usize = 65_536;
/// With more small chunks than this, some are merged.
const MAX_SMALL: usize = 64;
/// When at least so many rows are restored at once, later changes index them, one chunk each.
const MANY_ROWS: usize = CHUNK_ROWS;
/// A chunk of fewer rows is not rewritten only because of its dead ones.
const WORTHWHILE: usize = 1_024;

#[derive(Debug)]
struct StateChunk {
    rows: RecordBatch,
    /// The time at which each row is final, ascending.
    closes_at: Vec<i64>,
    is_live: Vec<bool>,
    live: usize,
    /// All rows before this one are dead.
    cursor: usize,
    bytes: usize,
}

impl StateChunk {
    /// Rows in the order of `closes_at`, all alive.
    fn try_new(rows: RecordBatch, closes_at: Vec<i64>) -> Result<Self> {
        let live = rows.num_rows();
        let mut bytes = live * (size_of::<i64>() + size_of::<bool>());
        for column in rows.columns() {
            // Columns that were read from a file share one buffer.
            bytes += column.to_data().get_slice_memory_size()?;
        }
        Ok(Self {
            rows,
            closes_at,
            is_live: vec![true; live],
            live,
            cursor: 0,
            bytes,
        })
    }

    fn dead(&self) -> usize {
        self.is_live.len() - self.live
    }

    fn is_wasteful(&self) -> bool {
        self.is_live.len() >= WORTHWHILE && self.dead() > self.live
    }

    fn is_small(&self) -> bool {
        self.is_live.len() <= CHUNK_ROWS / 2
    }
}

/// The change that a batch makes to the state.
#[derive(Debug)]
pub struct StateChange {
    /// Places of rows that are replaced or final.
    pub(super) dead: Vec<RowPlace>,
    /// Rows, in the columns of the state, whose keys keep only the rows in `added`.
    pub(super) replaced: Vec<RecordBatch>,
    /// Rows that are final and were not touched.
    pub(super) closed: RecordBatch,
    /// Rows that are new or changed, and the time at which each is final.
    pub(super) added: Vec<(RecordBatch, Vec<i64>)>,
}

/// The state.
#[derive(Debug)]
pub struct StateTable {
    schema: SchemaRef,
    keys: usize,
    /// Places name chunks by number: a removed chunk leaves a gap, which the next one fills.
    chunks: Vec<Option<StateChunk>>,
    index: PlaceIndex,
    pending: PendingChunks,
    many_rows: usize,
    live: usize,
}

impl StateTable {
    /// An empty state; the first `keys` columns of `schema` are the key.
    ///
    /// # Errors
    ///
    /// Keys of a type that cannot be compared.
    pub fn try_new(schema: SchemaRef, keys: usize) -> Result<Self> {
        let empty = RecordBatch::new_empty(SchemaRef::clone(&schema));
        Comparators::try_new(&empty, std::iter::once(Some(&empty)), keys)?;
        hashes(&empty, keys)?;
        Ok(Self {
            schema,
            keys,
            chunks: Vec::new(),
            index: PlaceIndex::default(),
            pending: PendingChunks::default(),
            many_rows: MANY_ROWS,
            live: 0,
        })
    }

    /// The columns of its rows.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// How many rows it has.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Bytes held.
    pub fn size(&self) -> usize {
        let chunks = self.numbered().map(|(_, chunk)| chunk.bytes);
        self.index.size() + self.pending.size() + chunks.sum::<usize>()
    }

    /// The time at which the next row is final.
    pub fn next_close(&self) -> Option<i64> {
        let first = |(_, chunk): (u32, &StateChunk)| chunk.closes_at.get(chunk.cursor).copied();
        self.numbered().filter_map(first).min()
    }

    /// All rows.
    ///
    /// # Errors
    ///
    /// None that a caller could cause.
    pub fn rows(&self) -> Result<RecordBatch> {
        let places: Vec<RowPlace> = self
            .numbered()
            .flat_map(|(number, chunk)| live_places(number, chunk))
            .collect();
        self.gather(&places)
    }

    /// All rows as they will be after the change, each batch in the order in which its rows are final.
    ///
    /// # Errors
    ///
    /// A change that was made for another state.
    pub fn rows_after(&self, change: &StateChange) -> Result<Vec<RecordBatch>> {
        let mut stays: Vec<Option<Vec<bool>>> = self
            .chunks
            .iter()
            .map(|chunk| Some(chunk.as_ref()?.is_live.clone()))
            .collect();
        for place in &change.dead {
            if let Some(stays) = &mut stays[place.chunk as usize] {
                stays[place.row as usize] = false;
            }
        }
        let mut batches = Vec::new();
        for (chunk, stays) in self.chunks.iter().zip(stays) {
            if let (Some(chunk), Some(stays)) = (chunk, stays) {
                batches.push(filter_record_batch(
                    &chunk.rows,
                    &BooleanArray::from(stays),
                )?);
            }
        }
        batches.extend(change.added.iter().map(|(rows, _)| rows.clone()));
        batches.retain(|batch| batch.num_rows() > 0);
        Ok(batches)
    }

    /// The places and rows of the keys that `rows`, in the columns of the state, have.
    pub(super) fn touched(&self, rows: &[RecordBatch]) -> Result<(Vec<RowPlace>, RecordBatch)> {
        let places = self.places_of(rows)?;
        let rows = self.gather(&places)?;
        Ok((places, rows))
    }

    /// The rows that are final at `watermark`, except those at `without`.
    pub(super) fn closing(
        &self,
        watermark: i64,
        without: &[RowPlace],
    ) -> Result<(Vec<RowPlace>, RecordBatch)> {
        let without: HashSet<RowPlace> = without.iter().copied().collect();
        let mut places = self.done_by(watermark);
        places.retain(|place| !without.contains(place));
        let rows = self.gather(&places)?;
        Ok((places, rows))
    }

    /// The places of the rows that are final at `watermark`.
    pub(super) fn done_by(&self, watermark: i64) -> Vec<RowPlace> {
        let mut places = Vec::new();
        for (number, chunk) in self.numbered() {
            let end = chunk.closes_at.partition_point(|at| *at <= watermark);
            let rows = (chunk.cursor..end).filter(|row| chunk.is_live[*row]);
            places.extend(rows.map(|row| place(number, row)));
        }
        places
    }

    /// Applies the change to the state.
    ///
    /// # Errors
    ///
    /// A change that was made for another state.
    pub fn apply(&mut self, change: StateChange) -> Result<()> {
        self.change(change, false)?;
        self.index_pending()
    }

    /// Applies the change; if `later` is set, new rows are not indexed yet.
    fn change(&mut self, change: StateChange, later: bool) -> Result<()> {
        let changed = change.dead.len();
        for place in &change.dead {
            let Some(chunk) = &mut self.chunks[place.chunk as usize] else {
                return Err(DataFusionError::Internal(
                    "a change of another state".into(),
                ));
            };
            if std::mem::take(&mut chunk.is_live[place.row as usize]) {
                chunk.live -= 1;
                self.live -= 1;
            }
        }
        for rows in &change.replaced {
            let (hashes, compared) = (hashes(rows, self.keys)?, self.comparators(rows)?);
            for (row, hash) in hashes.into_iter().enumerate() {
                self.index.remove(hash, row, &compared);
            }
        }
        self.forget_closed(&change.closed)?;
        for chunk in self.chunks.iter_mut().flatten() {
            while chunk.cursor < chunk.is_live.len() && !chunk.is_live[chunk.cursor] {
                chunk.cursor += 1;
            }
        }
        let mut new = Vec::new();
        for (rows, closes_at) in change.added {
            self.add(rows, closes_at, &mut new)?;
        }
        match later {
            true => new.iter().for_each(|number| self.pending.put(*number)),
            false => {
                for number in new {
                    self.index_rows(number, None)?;
                }
            }
        }
        self.compact(changed)
    }

    /// Adds rows from a file. They replace existing rows of the same keys, and rows that are final by `closed_by` are dropped.
    /// `rows` come with the time at which each is final.
    ///
    /// # Errors
    ///
    /// Rows in other columns.
    pub fn restore(
        &mut self,
        rows: Vec<(RecordBatch, Vec<i64>)>,
        closed_by: Option<i64>,
    ) -> Result<()> {
        let closed_by = closed_by.unwrap_or(i64::MIN);
        let mut added = Vec::with_capacity(rows.len());
        let mut replaced = Vec::with_capacity(rows.len());
        for (rows, closes_at) in rows {
            replaced.push(rows.clone());
            if closes_at.iter().all(|at| *at > closed_by) {
                added.push((rows, closes_at));
                continue;
            }
            let open: BooleanArray = closes_at.iter().map(|at| Some(*at > closed_by)).collect();
            let closes_at = closes_at.into_iter().filter(|at| *at > closed_by);
            added.push((filter_record_batch(&rows, &open)?, closes_at.collect()));
        }
        let mut later = false;
        if self.is_empty() {
            replaced.clear();
            let rows = added.iter().map(|(rows, _)| rows.num_rows()).sum();
            self.index.reserve(rows);
            later = rows >= self.many_rows;
        }
        let mut dead = self.places_of(&replaced)?;
        let (closing, closed) = self.closing(closed_by, &dead)?;
        dead.extend(closing);
        let change = StateChange {
            dead,
            replaced,
            closed,
            added,
        };
        match later {
            true => self.change(change, true),
            false => self.apply(change),
        }
    }

    fn numbered(&self) -> impl Iterator<Item = (u32, &StateChunk)> {
        let chunks = (0_u32..).zip(&self.chunks);
        chunks.filter_map(|(number, chunk)| Some((number, chunk.as_ref()?)))
    }

    fn is_live(&self, place: RowPlace) -> bool {
        let chunk = self.chunks[place.chunk as usize].as_ref();
        chunk.is_some_and(|chunk| chunk.is_live[place.row as usize])
    }

    fn comparators(&self, rows: &RecordBatch) -> Result<Comparators> {
        let chunks = self.chunks.iter();
        let chunks = chunks.map(|chunk| chunk.as_ref().map(|chunk| &chunk.rows));
        Comparators::try_new(rows, chunks, self.keys)
    }

    /// The places of the rows of the keys in `rows`.
    pub(super) fn places_of(&self, rows: &[RecordBatch]) -> Result<Vec<RowPlace>> {
        let mut seen: HashSet<RowPlace> = HashSet::default();
        let mut places = Vec::new();
        for batch in rows {
            if self.is_empty() || batch.num_rows() == 0 {
                continue;
            }
            let (hashes, compared) = (hashes(batch, self.keys)?, self.comparators(batch)?);
            let candidates = self.index.candidates(&hashes);
            for (row, (hash, candidate)) in hashes.iter().zip(candidates).enumerate() {
                for place in self.index.get(*hash, row, candidate, &compared) {
                    if seen.insert(*place) {
                        places.push(*place);
                    }
                }
            }
            let rows = |chunk: u32| Some(&self.chunks[chunk as usize].as_ref()?.rows);
            self.pending.find(&hashes, rows, self.keys, |row, place| {
                if self.is_live(place) && compared.is_same(row, place) && seen.insert(place) {
                    places.push(place);
                }
            })?;
        }
        Ok(places)
    }

    /// The rows at these places.
    pub(super) fn gather(&self, places: &[RowPlace]) -> Result<RecordBatch> {
        let rows = |chunk: u32| {
            self.chunks[chunk as usize]
                .as_ref()
                .map(|chunk| &chunk.rows)
        };
        gather(&self.schema, places, rows)
    }

    /// Removes final rows, which are dead by now, from the index.
    fn forget_closed(&mut self, closed: &RecordBatch) -> Result<()> {
        if closed.num_rows() == 0 {
            return Ok(());
        }
        let (hashes, compared) = (hashes(closed, self.keys)?, self.comparators(closed)?);
        let chunks = &self.chunks;
        let is_live = |place: RowPlace| {
            let chunk = chunks[place.chunk as usize].as_ref();
            chunk.is_some_and(|chunk| chunk.is_live[place.row as usize])
        };
        let mut done = HashSet::default();
        for (row, hash) in hashes.into_iter().enumerate() {
            let index = &mut self.index;
            index.keep_live(hash, row, &compared, is_live, &mut done);
        }
        Ok(())
    }

    /// Puts rows into chunks and adds the numbers of these to `new`; does not index them yet.
    fn add(&mut self, rows: RecordBatch, closes_at: Vec<i64>, new: &mut Vec<u32>) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        if closes_at.is_sorted() && closes_at.len() <= CHUNK_ROWS {
            self.live += rows.num_rows();
            new.push(self.put(StateChunk::try_new(rows, closes_at)?));
            return Ok(());
        }
        let mut order: Vec<u32> = (0..u32::try_from(closes_at.len()).unwrap_or(u32::MAX)).collect();
        order.sort_by_key(|row| closes_at[*row as usize]);
        for order in order.chunks(CHUNK_ROWS) {
            let closes_at = order.iter().map(|row| closes_at[*row as usize]).collect();
            let rows = take_record_batch(&rows, &UInt32Array::from(order.to_vec()))?;
            self.live += rows.num_rows();
            new.push(self.put(StateChunk::try_new(rows, closes_at)?));
        }
        Ok(())
    }

    /// Indexes the rows of a chunk; their hashes may be known.
    fn index_rows(&mut self, number: u32, known: Option<Vec<u32>>) -> Result<()> {
        let Some(chunk) = &self.chunks[number as usize] else {
            return Ok(());
        };
        let hashes = known.map_or_else(|| hashes(&chunk.rows, self.keys), Ok)?;
        let compared = self.comparators(&chunk.rows)?;
        for place in live_places(number, chunk) {
            let row = place.row as usize;
            self.index.insert(hashes[row], row, place, &compared);
        }
        Ok(())
    }

    /// Indexes one of the pending chunks.
    fn index_pending(&mut self) -> Result<()> {
        match self.pending.pop() {
            Some((number, hashes)) => self.index_rows(number, hashes),
            None => Ok(()),
        }
    }

    /// Stores the chunk and returns its number.
    fn put(&mut self, chunk: StateChunk) -> u32 {
        let number = match self.chunks.iter().position(Option::is_none) {
            Some(gap) => {
                self.chunks[gap] = Some(chunk);
                gap
            }
            None => {
                self.chunks.push(Some(chunk));
                self.chunks.len() - 1
            }
        };
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    /// Drops dead chunks and merges or rewrites others, after so many rows have changed.
    fn compact(&mut self, changed: usize) -> Result<()> {
        for (number, slot) in (0_u32..).zip(&mut self.chunks) {
            if slot.as_ref().is_some_and(|chunk| chunk.live == 0) {
                *slot = None;
                self.pending.forget(number);
            }
        }
        let moving = self.to_move(changed);
        if moving.is_empty() {
            return Ok(());
        }
        let mut rows: Vec<(i64, RowPlace)> = Vec::new();
        for (number, chunk) in self.numbered() {
            if moving.contains(&number) {
                let places = live_places(number, chunk);
                rows.extend(places.map(|place| (chunk.closes_at[place.row as usize], place)));
            }
        }
        rows.sort_unstable_by_key(|(closes_at, place)| (*closes_at, place.chunk, place.row));
        for rows in rows.chunks(CHUNK_ROWS) {
            let from: Vec<RowPlace> = rows.iter().map(|(_, place)| *place).collect();
            let moved = self.gather(&from)?;
            let hashes = hashes(&moved, self.keys)?;
            let closes_at = rows.iter().map(|(closes_at, _)| *closes_at).collect();
            // The old chunks keep their numbers until all rows have moved: so no place stands for two rows.
            let number = self.put(StateChunk::try_new(moved, closes_at)?);
            for (row, (hash, from)) in hashes.into_iter().zip(from).enumerate() {
                self.index.moved(hash, from, place(number, row));
            }
        }
        for number in moving {
            self.chunks[number as usize] = None;
        }
        Ok(())
    }

    /// The chunks to rewrite: the amount of work is limited by the number of changed rows, so that its amortized cost stays
    /// low.
    fn to_move(&self, changed: usize) -> HashSet<u32> {
        let mut moving = HashSet::default();
        let mut wasteful: Vec<(u32, &StateChunk)> = self
            .numbered()
            .filter(|(number, chunk)| chunk.is_wasteful() && !self.pending.contains(*number))
            .collect();
        wasteful.sort_unstable_by_key(|(_, chunk)| std::cmp::Reverse(chunk.dead()));
        let mut budget = CHUNK_ROWS.max(2 * changed);
        for (number, chunk) in wasteful {
            if budget == 0 {
                break;
            }
            budget = budget.saturating_sub(chunk.live);
            moving.insert(number);
        }
        let mut small: Vec<(u32, &StateChunk)> = self
            .numbered()
            .filter(|(number, chunk)| chunk.is_small() && !self.pending.contains(*number))
            .collect();
        if small.len() > MAX_SMALL {
            small.sort_unstable_by_key(|(_, chunk)| chunk.live);
            let mut sum = 0;
            for (count, (number, chunk)) in small.into_iter().enumerate() {
                // A row moves only into a chunk of about twice the size or more.
                if count >= MAX_SMALL / 4 && chunk.live > sum {
                    break;
                }
                sum += chunk.live;
                moving.insert(number);
            }
        }
        moving
    }
}

fn place(chunk: u32, row: usize) -> RowPlace {
    RowPlace {
        chunk,
        row: u32::try_from(row).unwrap_or(u32::MAX),
    }
}

fn live_places(number: u32, chunk: &StateChunk) -> impl Iterator<Item = RowPlace> + '_ {
    let rows = chunk.cursor..chunk.is_live.len();
    rows.filter(move |row| chunk.is_live[*row])
        .map(move |row| place(number, row))
}

/// The rows at `places`; `rows` returns the rows of a chunk.
fn gather<'a>(
    schema: &SchemaRef,
    places: &[RowPlace],
    rows: impl Fn(u32) -> Option<&'a RecordBatch>,
) -> Result<RecordBatch> {
    if places.is_empty() {
        return Ok(RecordBatch::new_empty(SchemaRef::clone(schema)));
    }
    // Only the chunks that are used, by the order of their first use.
    let mut batches: Vec<&RecordBatch> = Vec::new();
    let mut of_chunk: Vec<Option<usize>> = Vec::new();
    let mut indices = Vec::with_capacity(places.len());
    for place in places {
        let chunk = place.chunk as usize;
        if of_chunk.len() <= chunk {
            of_chunk.resize(chunk + 1, None);
        }
        let batch = match of_chunk[chunk] {
            Some(batch) => batch,
            None => {
                let Some(rows) = rows(place.chunk) else {
                    return Err(DataFusionError::Internal("a place without a row".into()));
                };
                batches.push(rows);
                of_chunk[chunk] = Some(batches.len() - 1);
                batches.len() - 1
            }
        };
        indices.push((batch, place.row as usize));
    }
    Ok(interleave_record_batch(&batches, &indices)?)
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
