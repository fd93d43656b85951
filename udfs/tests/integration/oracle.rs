//! Sessions by their definition (SESS-1, SESS-2), slowly.

use std::collections::BTreeMap;

use crate::support::Visit;

/// A row's id with start and end of its session.
pub type Assigned = (i64, i64, i64);

/// Start and end of the session of each row, by id, with the key that `key` makes of a row.
pub fn sessions<K: Ord>(visits: &[Visit], key: impl Fn(&Visit) -> K, gap: i64) -> Vec<Assigned> {
    let mut by_key: BTreeMap<K, Vec<(i64, i64)>> = BTreeMap::new();
    for (id, visit) in (0..).zip(visits) {
        by_key
            .entry(key(visit))
            .or_default()
            .push((visit.2.unwrap(), id));
    }
    let mut assigned = vec![];
    for rows in by_key.values_mut() {
        rows.sort_unstable();
        let mut session: Vec<(i64, i64)> = vec![];
        for row in rows.iter().copied().map(Some).chain([None]) {
            if let (Some(last), Some(next)) = (session.last(), row)
                && next.0 - last.0 <= gap
            {
                session.push(next);
                continue;
            }
            if let (Some(first), Some(last)) = (session.first(), session.last()) {
                assigned.extend(session.iter().map(|(_, id)| (*id, first.0, last.0 + gap)));
            }
            session = row.into_iter().collect();
        }
    }
    assigned.sort_unstable();
    assigned
}

/// The rows of the sessions with a row in `from..to`.
pub fn complete_sessions<K: Ord + Clone>(
    visits: &[Visit],
    key: impl Fn(&Visit) -> K,
    gap: i64,
    from: i64,
    to: i64,
) -> Vec<Assigned> {
    let all = sessions(visits, &key, gap);
    let touched: Vec<(K, i64)> = all
        .iter()
        .filter(|(id, ..)| (from..to).contains(&visits[*id as usize].2.unwrap()))
        .map(|(id, start, _)| (key(&visits[*id as usize]), *start))
        .collect();
    all.into_iter()
        .filter(|(id, start, _)| touched.contains(&(key(&visits[*id as usize]), *start)))
        .collect()
}
