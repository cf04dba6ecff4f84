//! S3's listings of a volume whose names only its owner can put in order: folder by folder, as far as a page goes.

use std::sync::Arc;

use async_trait::async_trait;
use namespace::read::{Entry as Shown, ListQuery, Next, Page};
use owner::Entry;

/// Gives what is in a folder, by true names; a folder's name ends in `/`.
#[async_trait]
pub trait Folders: Sync {
    async fn folder(&self, path: &str) -> owner::Result<Arc<Vec<Entry>>>;
}

/// A key and what is known of it.
pub type Keyed = (String, Entry);

/// One page, in S3's order: what is in a folder sorts by names of which folders' end in `/`, and all below a folder comes where
/// the folder does.
pub async fn page(folders: &impl Folders, query: &ListQuery) -> owner::Result<Page<Keyed>> {
    let ListQuery { prefix, delimiter, after, limit, .. } = query;
    let after = after.as_deref();
    let mut page: Page<Keyed> = Page { entries: Vec::new(), next: None };
    if *limit == 0 {
        return Ok(page);
    }
    let top = prefix.rfind('/').map_or("", |at| &prefix[..=at]);
    let mut open = vec![(top.to_owned(), folders.folder(top).await?, 0)];
    let mut last = String::new();
    while let Some((folder, entries, at)) = open.last_mut() {
        let Some(entry) = entries.get(*at).cloned() else {
            open.pop();
            continue;
        };
        *at += 1;
        let key = format!("{folder}{}", entry.name);
        let is_within = key.starts_with(prefix.as_str());
        let shown = if entry.is_folder() {
            let is_before = after.is_some_and(|after| after > key.as_str() && !after.starts_with(&key));
            if is_before || !(is_within || prefix.starts_with(&key)) {
                continue;
            }
            if delimiter != "/" || key.len() <= prefix.len() {
                let inner = folders.folder(&key).await?;
                open.push((key, inner, 0));
                continue;
            }
            Shown::Prefix(key)
        } else if !is_within {
            continue;
        } else {
            match key[prefix.len()..].find(delimiter.as_str()).filter(|_| !delimiter.is_empty()) {
                Some(at) => Shown::Prefix(key[..prefix.len() + at + delimiter.len()].to_owned()),
                None => Shown::Item((key, entry)),
            }
        };
        let name = match &shown {
            Shown::Item((key, _)) => key,
            Shown::Prefix(prefix) => prefix,
        };
        if after.is_some_and(|after| after >= name.as_str()) || matches!(&shown, Shown::Prefix(same) if *same == last) {
            continue;
        }
        if page.entries.len() == *limit {
            page.next = Some(Next { after: last, ..Next::default() });
            return Ok(page);
        }
        last.clone_from(name);
        page.entries.push(shown);
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use base::Wall;

    use super::*;

    /// Keys as they are, and the folders that they make.
    struct Flat(BTreeSet<String>);

    fn entry(name: &str) -> Entry {
        let (size, attributes, etag, tag) = Default::default();
        Entry { name: name.to_owned(), size, written: Wall(0), attributes, etag, tag }
    }

    #[async_trait]
    impl Folders for Flat {
        async fn folder(&self, path: &str) -> owner::Result<Arc<Vec<Entry>>> {
            let names: BTreeSet<&str> =
                self.0.iter().filter_map(|key| key.strip_prefix(path)?.split_inclusive('/').next()).collect();
            Ok(Arc::new(names.into_iter().map(entry).collect()))
        }
    }

    /// S3's rules, key by key.
    fn wanted(keys: &BTreeSet<String>, query: &ListQuery) -> Vec<(bool, String)> {
        let mut all: BTreeMap<String, bool> = BTreeMap::new();
        for key in keys.iter().filter(|key| key.starts_with(&query.prefix)) {
            let rest = &key[query.prefix.len()..];
            match rest.find(&query.delimiter).filter(|_| !query.delimiter.is_empty()) {
                Some(at) => all.insert(key[..query.prefix.len() + at + query.delimiter.len()].to_owned(), true),
                None => all.insert(key.clone(), false),
            };
        }
        let after = query.after.clone().unwrap_or_default();
        all.into_iter().filter(|(name, _)| *name > after || after.is_empty()).map(|(name, is)| (is, name)).collect()
    }

    #[tokio::test]
    async fn pages_are_what_s3_would_give_whatever_is_asked() {
        let (mut seed, mut asked) = (0x1234_5678_9abc_def1u64, 0);
        let mut below = |end: usize| {
            // Xorshift (Marsaglia 2003).
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed as usize % end
        };
        let names = ["a", "a-b", "a.", "ab", "b", "ü", "a+"];
        for _ in 0..300 {
            let mut keys = BTreeSet::new();
            for _ in 0..below(25) {
                let parts: Vec<&str> = (0..=below(3)).map(|_| names[below(names.len())]).collect();
                keys.insert(parts.join("/"));
            }
            for _ in 0..6 {
                let some = |below: &mut dyn FnMut(usize) -> usize| {
                    let key = keys.iter().nth(below(keys.len().max(1))).cloned().unwrap_or_default();
                    let cut = key.char_indices().map(|(at, _)| at).nth(below(6)).unwrap_or(key.len());
                    key[..cut].to_owned()
                };
                let (prefix, limit) = (some(&mut below), 1 + below(5));
                let delimiter = ["", "/", "-", "a/"][below(4)].to_owned();
                let after = (below(2) == 0).then(|| some(&mut below)).filter(|after| !after.is_empty());
                let mut query = ListQuery { prefix, delimiter, after, limit, ..ListQuery::default() };
                let all = wanted(&keys, &query);
                let mut got = Vec::new();
                loop {
                    let page = page(&Flat(keys.clone()), &query).await.unwrap();
                    assert!(page.entries.len() <= limit);
                    got.extend(page.entries.into_iter().map(|shown| match shown {
                        Shown::Item((key, _)) => (false, key),
                        Shown::Prefix(prefix) => (true, prefix),
                    }));
                    match page.next {
                        Some(next) => query.after = Some(next.after),
                        None => break,
                    }
                }
                assert_eq!(got, all, "{query:?} of {keys:?}");
                asked += 1;
            }
        }
        assert_eq!(asked, 1800);
    }
}
