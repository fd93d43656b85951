//! Limit of connections by the file descriptors of the process: jobs and statements open files too, and fail if clients
//! hold all descriptors (SAFE-1).

/// As many connections as are wanted, and at most one for each `share` files that the process may have open.
pub(crate) fn connections(wanted: usize, share: usize) -> usize {
    within(wanted, share, open_files())
}

fn within(wanted: usize, share: usize, files: Option<usize>) -> usize {
    match files {
        Some(files) => wanted.min((files / share).max(1)),
        None => wanted,
    }
}

/// How many files the process may have open; none if there is no limit, or the system does not say.
fn open_files() -> Option<usize> {
    soft_limit(&std::fs::read_to_string("/proc/self/limits").ok()?)
}

fn soft_limit(limits: &str) -> Option<usize> {
    let mut lines = limits.lines();
    let values = lines.find_map(|line| line.strip_prefix("Max open files"))?;
    values.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_others() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             62000                62000                processes \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(soft_limit(limits), Some(1_024));
        let limits = limits.replace("1024  ", "unlimited");
        assert_eq!(soft_limit(&limits), None);
        assert_eq!(within(4_096, 2, Some(1_024)), 512);
        assert_eq!(within(100, 2, Some(1_024)), 100);
        assert_eq!(within(1_024, 8, Some(4)), 1);
        assert_eq!(within(4_096, 2, None), 4_096);
    }
}
