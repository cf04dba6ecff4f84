//! The words of refusals. An error holds them as constants, since faces compare them; what comes
//! from another node is looked up here. A test takes the rules' sources and finds each of theirs.

/// What stands for words of another release.
const OTHER: &str = "something that this release has no words for (update this node)";

/// This release's constant for `text`.
pub(super) fn known(text: &str) -> &'static str {
    TEXTS.iter().copied().find(|known| *known == text).unwrap_or(OTHER)
}

const TEXTS: &[&str] = &[
    // Conditions.
    "attributes",
    "if-match",
    "if-match-last-modified-time",
    "if-match-size",
    "if-none-match",
    // What isn't valid.
    "access key",
    "attribute",
    "body",
    "bucket",
    "bucket name",
    "completion",
    "display name",
    "email",
    "etag",
    "key",
    "new key",
    "note",
    "part number",
    "secret",
    "setting",
    "upload key",
    "user id",
    "versioning",
    // Why.
    "a segment in it is known with another coding or length",
    "a segment's coding is out of range",
    "another user has it",
    "it and each label between dots must begin and end with a letter or digit",
    "it contains NUL",
    "it has too many inline bytes",
    "it has too many segments",
    "it has too many spans",
    "it has noncurrent versions",
    "it is empty",
    "it is empty or too long",
    "it is in the same topmost folder",
    "it is not from 1 to 10,000",
    "it is too long",
    "it looks like an IP address",
    "it must have 3 to 63 characters",
    "it names no part",
    "it notes no missing pieces",
    "it was not loaded",
    "its bytes are not as many as its size says",
    "its name is empty or too long",
    "its name is too long",
    "its segments don't add up to its size",
    "its spans don't add up to its size",
    "its user is not known",
    "no volume number is left",
    "once on it can only be suspended",
    "only lower-case letters, digits, dots and hyphens are allowed",
    "only printable characters are allowed",
    "spans may not hold spans",
    "the segment is not a pack",
    "there are too many",
    "too long",
    // Rows that contradict each other.
    "a counter would fall below zero",
    "a counter would overflow",
    "a deleted bucket's volume is not dead",
    "a deleted version is known by its time but not there",
    "a file's folder is not there",
    "a folder counts fewer children than it has",
    "a noncurrent version is counted but not there",
    "a null version is known but not there",
    "a pack is sorted by its share but has no row",
    "a pack slot is named more often than it is counted",
    "a segment in use has no row",
    "a segment is named more often than it is counted",
    "a version's inline bytes are not there",
    "a version's long attributes are not there",
    "a version's manifest is not there",
    "an owner's bucket is not there",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// String literals of a source that follow one of `before`, comments and tests aside.
    fn literals<'s>(source: &'s str, before: &[&str]) -> Vec<&'s str> {
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//") && !line.contains("codec::"));
        // An odd part is a literal, since none holds a quote; what is before it is the part before.
        let parts = lines.filter(|line| !line.contains("'\"'")).map(|line| line.split('"').collect::<Vec<_>>());
        let found =
            parts.flat_map(|parts| parts.windows(2).step_by(2).map(|pair| (pair[0], pair[1])).collect::<Vec<_>>());
        found.filter(|(ahead, _)| before.iter().any(|before| ahead.ends_with(before))).map(|(_, word)| word).collect()
    }

    #[test]
    fn every_word_that_the_rules_use_comes_back_as_itself() {
        let sources = [
            include_str!("../apply.rs"),
            include_str!("../change.rs"),
            include_str!("../read.rs"),
            include_str!("../segments.rs"),
            include_str!("../store.rs"),
            include_str!("../tree.rs"),
            include_str!("../undo.rs"),
            include_str!("../uploads.rs"),
            include_str!("../work.rs"),
            include_str!("../catalog/bucket.rs"),
            include_str!("../catalog/user.rs"),
        ];
        let named = ["what: ", "why: ", "printable("];
        let mut words: Vec<&str> = sources.iter().flat_map(|source| literals(source, &named)).collect();
        // Here every literal is one, but for the wild card.
        words.extend(literals(include_str!("../check.rs"), &[""]).into_iter().filter(|word| !["*", ""].contains(word)));
        assert!(words.len() > 40, "the words were not found: {words:?}");
        let unknown: Vec<_> = words.into_iter().filter(|word| known(word) != *word).collect();
        assert!(unknown.is_empty(), "add these to TEXTS: {unknown:?}");
        assert_eq!(known("words of a later release"), OTHER);
    }
}
