//! "Did you mean": the closest of the known names.

/// The known name closest to `name`, if it is close enough to be a typo of it.
pub fn closest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = name.to_lowercase();
    known
        .into_iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&wanted, &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typos_are_matched_and_unrelated_names_are_not() {
        let known = ["format", "topic.partitions", "on_error"];
        assert_eq!(closest("fromat", known), Some("format"));
        assert_eq!(closest("topic.partition", known), Some("topic.partitions"));
        assert_eq!(closest("compression", known), None);
    }
}
