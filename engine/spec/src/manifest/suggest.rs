//! Which known name somebody may have meant.

/// The known name nearest to a written one, if it is near enough to be worth a question.
///
/// Case, dashes and underscores do not count: `active_deadline_seconds` is a habit, not a typing error. Beyond that, a
/// third of the letters may differ, by the distance of Damerau and Levenshtein, which counts a swap of neighbours as one.
pub(super) fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // No known name is nearly as long; comparing would cost the square of the length.
    const WRITTEN_BYTES_MAX: usize = 80;
    if written.len() > WRITTEN_BYTES_MAX {
        return None;
    }
    let written = plain(written);
    let distance = |name: &str| strsim::damerau_levenshtein(&written, &plain(name));
    known
        .into_iter()
        .map(|name| (distance(name), name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

fn plain(name: &str) -> String {
    name.chars()
        .filter(|c| !matches!(c, '-' | '_'))
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_about_near_names_only() {
        let known = ["executors", "activeDeadlineSeconds", "sql", "sqlFrom", "image"];
        for (written, expected) in [
            ("executers", Some("executors")),
            ("Executors", Some("executors")),
            ("active_deadline_seconds", Some("activeDeadlineSeconds")),
            ("sqll", Some("sql")),
            ("sql-from", Some("sqlFrom")),
            ("iamge", Some("image")),
            ("schedule", None),
            ("", None),
            ("query", None),
        ] {
            assert_eq!(nearest(written, known), expected, "{written}");
        }
        assert_eq!(nearest(&"x".repeat(1_000_000), known), None);
    }
}
