//! What a mistyped word was most likely meant to be.

/// Characters of a text that are looked at; the rest can't make the answer better.
const CHARS_MAX: usize = 64;

/// Of `known`, the text that `text` was most likely meant to be: at most a third of its letters are
/// different, missing, too many or swapped; case doesn't count.
pub fn nearest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |other: &&str| distance(&text.to_lowercase(), &other.to_lowercase());
    let near = known.into_iter().filter(|other| distance(other) * 3 <= text.chars().take(CHARS_MAX).count().max(3));
    near.min_by_key(|other| (distance(other), *other))
}

/// Edits between two texts, neighbours that changed places counted as one (optimal string alignment;
/// Damerau 1964, Wagner and Fischer 1974). Long texts are cut: labels are short.
fn distance(a: &str, b: &str) -> usize {
    let cut = |text: &str| text.chars().take(CHARS_MAX).collect::<Vec<char>>();
    let (a, b) = (cut(a), cut(b));
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let same = usize::from(a[i - 1] != b[j - 1]);
                let mut least = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + same);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_hand_are_near_and_other_words_are_not() {
        let known = ["office", "cellar", "hall"];
        for (slip, meant) in [("ofice", "office"), ("Office", "office"), ("cellra", "cellar"), ("hal", "hall")] {
            assert_eq!(nearest(slip, known), Some(meant), "{slip}");
        }
        for other in ["garage", "", "x", "officeofficeoffice"] {
            assert_eq!(nearest(other, known), None, "{other}");
        }
        assert_eq!(distance("ab", "ba"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(nearest(&"x".repeat(100_000), known), None);
    }
}
