//! State rows by key, in chunks sorted by the time at which they are done.
//!
//! Rows are never changed in place: a newer row replaces an older one, which is dead from then on. Chunks are put together
//! again when they become many, or when much of them is dead.

use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{concat_batches, interleave_record_batch, take_record_batch};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::{HashMap, HashSet};
use datafusion::error::{DataFusionError, Result};

/// With more chunks than this, small ones are put together.
const MAX_CHUNKS: usize = 32;

/// Where a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place {
    chunk: u32,
    row: u32,
}

/// The rows of one key; a window's key has one, a session's key one per session.
#[derive(Debug)]
#[expect(
    clippy::box_collection,
    reason = "nearly every key has one place: the other case must not make it larger"
)]
enum Places {
    One(Place),
    Many(Box<Vec<Place>>),
}

impl Places {
    fn as_slice(&self) -> &[Place] {
        match self {
            Places::One(place) => std::slice::from_ref(place),
            Places::Many(places) => places,
        }
    }

    fn push(&mut self, place: Place) {
        match self {
            Places::One(first) => *self = Places::Many(Box::new(vec![*first, place])),
            Places::Many(places) => places.push(place),
        }
    }
}

#[derive(Debug)]
struct Chunk {
    rows: RecordBatch,
    /// When each row is done, ascending.
    closes_at: Vec<i64>,
    is_live: Vec<bool>,
    live: usize,
    /// All rows before this one are dead.
    cursor: usize,
}

/// What a batch does to the state.
#[derive(Debug)]
pub struct StateChange {
    /// Rows that are replaced or done.
    pub(super) dead: Vec<Place>,
    /// Rows, in the columns of the state, whose keys have no other rows from now on but those added.
    pub(super) replaced: RecordBatch,
    /// Rows that are done and were not touched.
    pub(super) closed: RecordBatch,
    /// Rows that are new or changed.
    pub(super) added: RecordBatch,
    pub(super) added_closes_at: Vec<i64>,
}

/// The state.
#[derive(Debug)]
pub struct StateTable {
    schema: SchemaRef,
    keys: usize,
    converter: Option<RowConverter>,
    chunks: Vec<Chunk>,
    index: HashMap<Box<[u8]>, Places>,
    live: usize,
}

impl StateTable {
    /// An empty state; the first `keys` columns of `schema` are the key.
    ///
    /// # Errors
    ///
    /// Keys of a type that cannot be compared.
    pub fn try_new(schema: SchemaRef, keys: usize) -> Result<Self> {
        let fields: Vec<SortField> = schema.fields()[..keys]
            .iter()
            .map(|field| SortField::new(field.data_type().clone()))
            .collect();
        let converter = match fields.is_empty() {
            true => None,
            false => Some(RowConverter::new(fields)?),
        };
        Ok(Self {
            schema,
            keys,
            converter,
            chunks: Vec::new(),
            index: HashMap::default(),
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

    /// Bytes held, about.
    pub fn size(&self) -> usize {
        /// A boxed key of some tens of bytes, its places, and a slot of the map.
        const ENTRY: usize = 96;
        let chunks = self.chunks.iter();
        self.index.len() * ENTRY
            + chunks
                .map(|chunk| chunk.rows.get_array_memory_size() + chunk.closes_at.len() * 9)
                .sum::<usize>()
    }

    /// When the next row is done.
    pub fn next_close(&self) -> Option<i64> {
        let first = |chunk: &Chunk| {
            let row = (chunk.cursor..chunk.is_live.len()).find(|row| chunk.is_live[*row])?;
            Some(chunk.closes_at[row])
        };
        self.chunks.iter().filter_map(first).min()
    }

    /// All rows.
    ///
    /// # Errors
    ///
    /// None that a caller could cause.
    pub fn rows(&self) -> Result<RecordBatch> {
        let places: Vec<Place> = self.places().collect();
        self.gather(&places)
    }

    /// All rows as they will be when the change is applied.
    ///
    /// # Errors
    ///
    /// A change that was made for another state.
    pub fn rows_after(&self, change: &StateChange) -> Result<RecordBatch> {
        let dead: HashSet<Place> = change.dead.iter().copied().collect();
        let staying: Vec<Place> = self
            .places()
            .filter(|place| !dead.contains(place))
            .collect();
        let staying = self.gather(&staying)?;
        Ok(concat_batches(&self.schema, [&staying, &change.added])?)
    }

    /// The rows of the keys that `rows`, in the columns of the state, have; and where they are.
    pub(super) fn touched(&self, rows: &[RecordBatch]) -> Result<(Vec<Place>, RecordBatch)> {
        let mut seen: HashSet<Place> = HashSet::default();
        let mut places = Vec::new();
        for batch in rows {
            self.for_each_key(batch, |_, key| {
                if let Some(found) = self.index.get(key) {
                    for place in found.as_slice() {
                        if seen.insert(*place) {
                            places.push(*place);
                        }
                    }
                }
            })?;
        }
        let rows = self.gather(&places)?;
        Ok((places, rows))
    }

    /// The rows that are done when the watermark is at `watermark`, but for those at `without`.
    pub(super) fn closing(
        &self,
        watermark: i64,
        without: &[Place],
    ) -> Result<(Vec<Place>, RecordBatch)> {
        let without: HashSet<Place> = without.iter().copied().collect();
        let mut places = Vec::new();
        for (number, chunk) in (0_u32..).zip(&self.chunks) {
            let end = chunk.closes_at.partition_point(|at| *at <= watermark);
            for row in chunk.cursor..end {
                let place = Place {
                    chunk: number,
                    row: u32::try_from(row).unwrap_or(u32::MAX),
                };
                if chunk.is_live[row] && !without.contains(&place) {
                    places.push(place);
                }
            }
        }
        let rows = self.gather(&places)?;
        Ok((places, rows))
    }

    /// Makes the change a part of the state.
    ///
    /// # Errors
    ///
    /// A change that was made for another state.
    pub fn apply(&mut self, change: StateChange) -> Result<()> {
        for place in &change.dead {
            let chunk = &mut self.chunks[place.chunk as usize];
            if std::mem::take(&mut chunk.is_live[place.row as usize]) {
                chunk.live -= 1;
                self.live -= 1;
            }
        }
        for chunk in &mut self.chunks {
            while chunk.cursor < chunk.is_live.len() && !chunk.is_live[chunk.cursor] {
                chunk.cursor += 1;
            }
        }
        let mut index = std::mem::take(&mut self.index);
        self.for_each_key(&change.replaced, |_, key| {
            index.remove(key);
        })?;
        self.for_each_key(&change.closed, |_, key| {
            let Some(places) = index.get_mut(key) else {
                return;
            };
            let live: Vec<Place> = places
                .as_slice()
                .iter()
                .copied()
                .filter(|place| self.chunks[place.chunk as usize].is_live[place.row as usize])
                .collect();
            match live.as_slice() {
                [] => {
                    index.remove(key);
                }
                [one] => *places = Places::One(*one),
                _ => *places = Places::Many(Box::new(live)),
            }
        })?;
        self.index = index;
        self.add(&change.added, &change.added_closes_at)?;
        self.compact()
    }

    /// Adds rows as they were written: those of their keys that are there already are replaced by them, and what is done
    /// by `closed_by` is gone. `closes_at` says when each of the rows is done.
    ///
    /// # Errors
    ///
    /// Rows in other columns.
    pub fn restore(
        &mut self,
        rows: &RecordBatch,
        closes_at: &[i64],
        closed_by: Option<i64>,
    ) -> Result<()> {
        let (mut dead, _) = self.touched(std::slice::from_ref(rows))?;
        let closed_by = closed_by.unwrap_or(i64::MIN);
        let (closing, closed) = self.closing(closed_by, &dead)?;
        dead.extend(closing);
        let open: Vec<u32> = (0_u32..)
            .zip(closes_at)
            .filter(|(_, at)| **at > closed_by)
            .map(|(row, _)| row)
            .collect();
        let added_closes_at = open.iter().map(|row| closes_at[*row as usize]).collect();
        let change = StateChange {
            dead,
            replaced: rows.clone(),
            closed,
            added: take_record_batch(rows, &UInt32Array::from(open))?,
            added_closes_at,
        };
        self.apply(change)
    }

    fn places(&self) -> impl Iterator<Item = Place> {
        (0_u32..).zip(&self.chunks).flat_map(|(number, chunk)| {
            let rows = (0_u32..).zip(&chunk.is_live);
            rows.filter(|(_, is_live)| **is_live)
                .map(move |(row, _)| Place { chunk: number, row })
        })
    }

    fn gather(&self, places: &[Place]) -> Result<RecordBatch> {
        if places.is_empty() {
            return Ok(RecordBatch::new_empty(SchemaRef::clone(&self.schema)));
        }
        let chunks: Vec<&RecordBatch> = self.chunks.iter().map(|chunk| &chunk.rows).collect();
        let indices: Vec<(usize, usize)> = places
            .iter()
            .map(|place| (place.chunk as usize, place.row as usize))
            .collect();
        Ok(interleave_record_batch(&chunks, &indices)?)
    }

    fn for_each_key(&self, rows: &RecordBatch, mut f: impl FnMut(usize, &[u8])) -> Result<()> {
        if rows.num_columns() < self.keys {
            return Err(DataFusionError::Internal(
                "state rows without their keys".into(),
            ));
        }
        let keys: &[ArrayRef] = &rows.columns()[..self.keys];
        match &self.converter {
            None => (0..rows.num_rows()).for_each(|row| f(row, &[])),
            Some(converter) => {
                let keys = converter.convert_columns(keys)?;
                for (row, key) in keys.iter().enumerate() {
                    f(row, key.as_ref());
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, rows: &RecordBatch, closes_at: &[i64]) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let mut order: Vec<u32> = (0..u32::try_from(closes_at.len()).unwrap_or(u32::MAX)).collect();
        order.sort_by_key(|row| closes_at[*row as usize]);
        let closes_at: Vec<i64> = order.iter().map(|row| closes_at[*row as usize]).collect();
        let rows = take_record_batch(rows, &UInt32Array::from(order))?;
        let chunk = u32::try_from(self.chunks.len()).unwrap_or(u32::MAX);
        let mut index = std::mem::take(&mut self.index);
        self.for_each_key(&rows, |row, key| {
            let place = Place {
                chunk,
                row: u32::try_from(row).unwrap_or(u32::MAX),
            };
            match index.get_mut(key) {
                Some(places) => places.push(place),
                None => {
                    index.insert(key.into(), Places::One(place));
                }
            }
        })?;
        self.index = index;
        let live = rows.num_rows();
        self.live += live;
        self.chunks.push(Chunk {
            is_live: vec![true; live],
            closes_at,
            rows,
            live,
            cursor: 0,
        });
        Ok(())
    }

    /// Puts chunks together: all when more is dead than alive, else the small ones when there are many.
    fn compact(&mut self) -> Result<()> {
        let total: usize = self.chunks.iter().map(|chunk| chunk.is_live.len()).sum();
        let is_wasteful = total > 1_000 && total > 2 * self.live;
        if !is_wasteful && self.chunks.len() <= MAX_CHUNKS {
            return Ok(());
        }
        // A chunk with a large share of all rows stays, unless it is mostly dead.
        let stays = |chunk: &Chunk| {
            !is_wasteful && chunk.live * 4 > self.live && chunk.live * 2 > chunk.is_live.len()
        };
        let mut kept = Vec::new();
        let mut places = Vec::new();
        let mut closes_at = Vec::new();
        for (number, chunk) in (0_u32..).zip(&self.chunks) {
            kept.push(stays(chunk));
            if stays(chunk) {
                continue;
            }
            for (row, is_live) in (0_u32..).zip(&chunk.is_live) {
                if *is_live {
                    places.push(Place { chunk: number, row });
                    closes_at.push(chunk.closes_at[row as usize]);
                }
            }
        }
        let merged = self.gather(&places)?;
        // Chunks that stay move down; rows that move leave the index and come back with their new chunk.
        let mut moved: Vec<Option<u32>> = Vec::with_capacity(kept.len());
        let mut next = 0;
        for is_kept in &kept {
            moved.push(is_kept.then_some(next));
            next += u32::from(*is_kept);
        }
        self.index.retain(|_, places| {
            let staying: Vec<Place> = places
                .as_slice()
                .iter()
                .filter_map(|place| {
                    let chunk = moved[place.chunk as usize]?;
                    Some(Place {
                        chunk,
                        row: place.row,
                    })
                })
                .collect();
            match staying.as_slice() {
                [] => return false,
                [one] => *places = Places::One(*one),
                _ => *places = Places::Many(Box::new(staying)),
            }
            true
        });
        let mut is_kept = kept.iter();
        self.chunks
            .retain(|_| is_kept.next().copied().unwrap_or_default());
        self.live -= merged.num_rows();
        self.add(&merged, &closes_at)
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
