//! Index from keys to the places of their rows: by the hash of the key; the keys themselves are compared in the chunks.

use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::common::HashSet;
use datafusion::common::hash_utils::{RandomState, create_hashes};
use datafusion::error::Result;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as TableEntry;

use crate::state::compare::Comparators;

/// Where a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct RowPlace {
    pub(super) chunk: u32,
    pub(super) row: u32,
}

/// Instead of a chunk's number: then the row is the number of a list of places.
const LIST: u32 = u32::MAX;

/// The hash of a key, with its place or its list of places. Nearly every key has one place, so it must not pay for the others.
#[derive(Debug, Clone, Copy)]
pub(super) struct IndexEntry {
    hash: u32,
    place: RowPlace,
}

impl IndexEntry {
    fn hash(&self) -> u64 {
        spread(self.hash)
    }

    fn list(&self) -> Option<usize> {
        (self.place.chunk == LIST).then_some(self.place.row as usize)
    }
}

/// Spreads the hash over 64 bits, so that all bits that the hash table uses depend on it.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Maps keys to the places of their rows: the key of a window has one, the key of a session one per session.
#[derive(Debug, Default)]
pub(super) struct PlaceIndex {
    entries: HashTable<IndexEntry>,
    lists: Vec<Vec<RowPlace>>,
    free_lists: Vec<u32>,
}

/// The hashes of the first `keys` columns.
pub(super) fn hashes(rows: &RecordBatch, keys: usize) -> Result<Vec<u32>> {
    let mut hashes = vec![0_u64; rows.num_rows()];
    let columns: &[ArrayRef] = &rows.columns()[..keys];
    create_hashes(columns, &RandomState::default(), &mut hashes)?;
    let fold = |hash: u64| (hash ^ (hash >> 32)) as u32;
    Ok(hashes.into_iter().map(fold).collect())
}

impl PlaceIndex {
    /// Bytes held.
    pub(super) fn size(&self) -> usize {
        let lists = self.lists.iter();
        let places =
            lists.map(|list| size_of::<Vec<RowPlace>>() + list.capacity() * size_of::<RowPlace>());
        self.entries.allocation_size() + places.sum::<usize>() + self.free_lists.capacity() * 4
    }

    /// Reserves room for so many more keys.
    pub(super) fn reserve(&mut self, keys: usize) {
        self.entries.reserve(keys, IndexEntry::hash);
    }

    /// The entry that each key may have, by its hash: looking up all keys together overlaps the cache misses.
    pub(super) fn candidates(&self, hashes: &[u32]) -> Vec<Option<&IndexEntry>> {
        let by_hash = |hash: &u32| {
            self.entries
                .find(spread(*hash), |entry| entry.hash == *hash)
        };
        hashes.iter().map(by_hash).collect()
    }

    /// The places of the key of `row` in the compared rows, given its candidate entry.
    pub(super) fn get<'i>(
        &'i self,
        hash: u32,
        row: usize,
        candidate: Option<&'i IndexEntry>,
        compared: &Comparators,
    ) -> &'i [RowPlace] {
        let is_same = |entry: &&IndexEntry| compared.is_same(row, first(&self.lists, entry));
        let another = || {
            let found = |entry: &IndexEntry| entry.hash == hash && is_same(&entry);
            self.entries.find(spread(hash), found)
        };
        match candidate.and_then(|entry| Some(entry).filter(is_same).or_else(another)) {
            None => &[],
            Some(entry) => match entry.list() {
                Some(list) => &self.lists[list],
                None => std::slice::from_ref(&entry.place),
            },
        }
    }

    /// Adds `place` to the key of `row`.
    pub(super) fn insert(
        &mut self,
        hash: u32,
        row: usize,
        place: RowPlace,
        compared: &Comparators,
    ) {
        let lists = &self.lists;
        let found = self.entries.entry(
            spread(hash),
            |entry| entry.hash == hash && compared.is_same(row, first(lists, entry)),
            IndexEntry::hash,
        );
        match found {
            TableEntry::Vacant(vacant) => {
                vacant.insert(IndexEntry { hash, place });
            }
            TableEntry::Occupied(mut occupied) => {
                let entry = occupied.get_mut();
                match entry.list() {
                    Some(list) => self.lists[list].push(place),
                    None => {
                        let places = vec![entry.place, place];
                        let list = match self.free_lists.pop() {
                            Some(list) => {
                                self.lists[list as usize] = places;
                                list
                            }
                            None => {
                                self.lists.push(places);
                                u32::try_from(self.lists.len() - 1).unwrap_or(LIST)
                            }
                        };
                        entry.place = RowPlace {
                            chunk: LIST,
                            row: list,
                        };
                    }
                }
            }
        }
    }

    /// Removes the key of `row`.
    pub(super) fn remove(&mut self, hash: u32, row: usize, compared: &Comparators) {
        let lists = &self.lists;
        let found = self.entries.find_entry(spread(hash), |entry| {
            entry.hash == hash && compared.is_same(row, first(lists, entry))
        });
        if let Ok(found) = found {
            let (entry, _) = found.remove();
            self.free(&entry);
        }
    }

    /// Keeps only the places of the key of `row` for which `is_live` returns true. Lists in `done` were filtered before.
    pub(super) fn keep_live(
        &mut self,
        hash: u32,
        row: usize,
        compared: &Comparators,
        is_live: impl Fn(RowPlace) -> bool,
        done: &mut HashSet<usize>,
    ) {
        let lists = &self.lists;
        let found = self.entries.find_entry(spread(hash), |entry| {
            entry.hash == hash && compared.is_same(row, first(lists, entry))
        });
        let Ok(mut found) = found else {
            return;
        };
        let entry = *found.get();
        match entry.list() {
            None if is_live(entry.place) => {}
            None => {
                found.remove();
            }
            Some(list) => {
                if !done.insert(list) {
                    return;
                }
                self.lists[list].retain(|place| is_live(*place));
                match self.lists[list].as_slice() {
                    [] => {
                        found.remove();
                    }
                    [one] => found.get_mut().place = *one,
                    _ => return,
                }
                self.free(&entry);
            }
        }
    }

    /// Updates the place of a row, whose key has this hash, from `from` to `to`.
    pub(super) fn moved(&mut self, hash: u32, from: RowPlace, to: RowPlace) {
        let lists = &self.lists;
        let found = self
            .entries
            .find_mut(spread(hash), |entry| match entry.list() {
                _ if entry.hash != hash => false,
                Some(list) => lists[list].contains(&from),
                None => entry.place == from,
            });
        let Some(entry) = found else {
            return;
        };
        match entry.list() {
            None => entry.place = to,
            Some(list) => {
                for place in &mut self.lists[list] {
                    if *place == from {
                        *place = to;
                    }
                }
            }
        }
    }

    fn free(&mut self, entry: &IndexEntry) {
        if let Some(list) = entry.list() {
            self.lists[list] = Vec::new();
            self.free_lists.push(entry.place.row);
        }
    }
}

/// A place of an entry's key.
fn first(lists: &[Vec<RowPlace>], entry: &IndexEntry) -> RowPlace {
    match entry.list() {
        Some(list) => lists[list][0],
        None => entry.place,
    }
}
