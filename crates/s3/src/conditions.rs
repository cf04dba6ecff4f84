//! Conditional headers and ranges (RFC 9110, sections 13 and 14), as S3 reads them.

use base::Wall;
use hyper::HeaderMap;
use namespace::{Condition, Version};

use crate::error::{Code, Error, Result};
use crate::response::{http_date, parse_http_date};

/// Where a family of conditional headers stands: the object asked for, or a copy's source.
pub struct Names {
    if_match: &'static str,
    if_none_match: &'static str,
    if_modified_since: &'static str,
    if_unmodified_since: &'static str,
}

/// The object asked for.
pub const PLAIN: Names = Names {
    if_match: "if-match",
    if_none_match: "if-none-match",
    if_modified_since: "if-modified-since",
    if_unmodified_since: "if-unmodified-since",
};

/// The source of a copy.
pub const SOURCE: Names = Names {
    if_match: "x-amz-copy-source-if-match",
    if_none_match: "x-amz-copy-source-if-none-match",
    if_modified_since: "x-amz-copy-source-if-modified-since",
    if_unmodified_since: "x-amz-copy-source-if-unmodified-since",
};

/// What conditional headers say about a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Pass,
    /// The reader has it already.
    NotModified,
    /// A precondition failed.
    Failed,
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The entity tags of a list, without quotes and weakness marks.
pub fn etags(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(|one| {
        let one = one.trim();
        let one = one.strip_prefix("W/").unwrap_or(one);
        one.strip_prefix('"').and_then(|one| one.strip_suffix('"')).unwrap_or(one)
    })
}

/// Evaluates the headers in the order that RFC 9110, section 13.2.2 gives.
pub fn evaluate(headers: &HeaderMap, names: &Names, version: &Version) -> Verdict {
    let secs = version.modified.secs();
    let names_it = |value: &str| etags(value).any(|etag| etag == "*" || etag == version.etag);
    let since = |name| text(headers, name).and_then(parse_http_date);
    match text(headers, names.if_match) {
        Some(value) if !names_it(value) => return Verdict::Failed,
        None if since(names.if_unmodified_since).is_some_and(|limit| secs > limit) => return Verdict::Failed,
        _ => {}
    }
    match text(headers, names.if_none_match) {
        Some(value) if names_it(value) => Verdict::NotModified,
        None if since(names.if_modified_since).is_some_and(|limit| secs <= limit) => Verdict::NotModified,
        _ => Verdict::Pass,
    }
}

/// Refuses a read whose conditions don't hold.
pub fn check_read(headers: &HeaderMap, version: &Version) -> Result<()> {
    match evaluate(headers, &PLAIN, version) {
        Verdict::Pass => Ok(()),
        Verdict::Failed => Err(Code::PreconditionFailed.into()),
        Verdict::NotModified => {
            let mut error = Error::from(Code::NotModified);
            for (name, value) in
                [("etag", format!("\"{}\"", version.etag)), ("last-modified", http_date(version.modified))]
            {
                if let Ok(value) = value.try_into() {
                    error = error.with(name, value);
                }
            }
            Err(error)
        }
    }
}

/// Refuses a copy whose source doesn't meet its conditions: always 412.
pub fn check_source(headers: &HeaderMap, version: &Version) -> Result<()> {
    match evaluate(headers, &SOURCE, version) {
        Verdict::Pass => Ok(()),
        Verdict::Failed | Verdict::NotModified => Err(Code::PreconditionFailed.into()),
    }
}

/// The condition that a write's or delete's headers make.
pub fn of_write(headers: &HeaderMap) -> Result<Condition> {
    let list = |name| text(headers, name).map(|value| etags(value).map(str::to_owned).collect::<Vec<_>>());
    let if_modified = text(headers, "x-amz-if-match-last-modified-time").map(|value| {
        let secs = parse_http_date(value).or_else(|| parse_iso_date(value));
        secs.map(|secs| Wall(secs * 1000)).ok_or_else(|| invalid("x-amz-if-match-last-modified-time", value))
    });
    let if_size = text(headers, "x-amz-if-match-size")
        .map(|value| value.parse().map_err(|_| invalid("x-amz-if-match-size", value)));
    Ok(Condition {
        if_match: list("if-match"),
        if_none_match: list("if-none-match"),
        if_modified: if_modified.transpose()?,
        if_size: if_size.transpose()?,
        if_attrs: Vec::new(),
    })
}

fn invalid(name: &str, value: &str) -> Error {
    Error::new(Code::InvalidArgument, format!("The header {name} has a value that can't be read: {value}"))
}

/// Whole seconds since 1970 of `2026-11-21T03:10:00[.123]Z`.
pub fn parse_iso_date(text: &str) -> Option<u64> {
    let text = text.strip_suffix('Z').or_else(|| text.strip_suffix("+00:00"))?;
    let (date, time) = text.split_once('T')?;
    let time = time.split('.').next()?;
    let three = |text: &str, by: char| -> Option<(u64, u64, u64)> {
        let mut parts = text.split(by).map(|part| part.parse::<u64>().ok());
        let all = (parts.next()??, parts.next()??, parts.next()??);
        parts.next().is_none().then_some(all)
    };
    let ((year, month, day), (hour, minute, second)) = (three(date, '-')?, three(time, ':')?);
    let sane = (1970..10_000).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 61;
    sane.then(|| base::time::days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// First byte and end (exclusive) that `Range` asks of `size` bytes; `None` for the whole object:
/// no header, one that can't be read, or several ranges, which S3 doesn't serve.
pub fn range(value: Option<&str>, size: u64) -> Result<Option<(u64, u64)>> {
    let Some(spec) = value.and_then(|value| value.trim().strip_prefix("bytes=")) else { return Ok(None) };
    let Some((first, last)) = spec.split_once('-') else { return Ok(None) };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let asked = match (first.trim().is_empty(), last.trim().is_empty()) {
        (true, false) => match number(last) {
            Some(0) => return Err(unsatisfiable(size)),
            Some(suffix) => (size.saturating_sub(suffix), size),
            None => return Ok(None),
        },
        (false, true) => match number(first) {
            Some(first) => (first, size),
            None => return Ok(None),
        },
        (false, false) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => (first, size.min(last.saturating_add(1))),
            _ => return Ok(None),
        },
        (true, true) => return Ok(None),
    };
    if asked.0 >= size { Err(unsatisfiable(size)) } else { Ok(Some(asked)) }
}

fn unsatisfiable(size: u64) -> Error {
    let error = Error::from(Code::InvalidRange);
    match format!("bytes */{size}").try_into() {
        Ok(value) => error.with("content-range", value),
        Err(_) => error,
    }
}

#[cfg(test)]
mod tests {
    use namespace::{Attrs, Body, VersionId};

    use super::*;

    fn version() -> Version {
        Version {
            id: VersionId(1),
            modified: Wall(1_795_230_600_500),
            marker: false,
            size: 3,
            etag: "abc".into(),
            attrs: Attrs::new(),
            body: Body::Inline(Vec::new()),
        }
    }

    #[test]
    fn reads_are_judged_as_the_rfc_says() {
        let (same, before, after) =
            ("Sat, 21 Nov 2026 03:10:00 GMT", "Sat, 21 Nov 2026 03:09:59 GMT", "Sat, 21 Nov 2026 03:10:01 GMT");
        for (headers, verdict) in [
            (vec![], Verdict::Pass),
            (vec![("if-match", "\"abc\"")], Verdict::Pass),
            (vec![("if-match", "\"x\", abc")], Verdict::Pass),
            (vec![("if-match", "*")], Verdict::Pass),
            (vec![("if-match", "\"x\"")], Verdict::Failed),
            (vec![("if-match", "\"abc\""), ("if-unmodified-since", before)], Verdict::Pass),
            (vec![("if-none-match", "\"abc\"")], Verdict::NotModified),
            (vec![("if-none-match", "W/\"abc\"")], Verdict::NotModified),
            (vec![("if-none-match", "\"x\"")], Verdict::Pass),
            (vec![("if-none-match", "\"x\""), ("if-modified-since", after)], Verdict::Pass),
            (vec![("if-modified-since", same)], Verdict::NotModified),
            (vec![("if-modified-since", before)], Verdict::Pass),
            (vec![("if-unmodified-since", same)], Verdict::Pass),
            (vec![("if-unmodified-since", before)], Verdict::Failed),
            (vec![("if-modified-since", "nonsense")], Verdict::Pass),
        ] {
            let map = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            assert_eq!(evaluate(&map.collect(), &PLAIN, &version()), verdict, "{headers:?}");
        }
    }

    #[test]
    fn ranges_are_cut_to_the_object_or_refused() {
        for (value, size, want) in [
            ("bytes=0-0", 10, Some((0, 1))),
            ("bytes=4-7", 10, Some((4, 8))),
            ("bytes=4-", 10, Some((4, 10))),
            ("bytes=-4", 10, Some((6, 10))),
            ("bytes=-40", 10, Some((0, 10))),
            ("bytes=4-400", 10, Some((4, 10))),
            ("bytes=0-18446744073709551615", 10, Some((0, 10))),
            ("bytes=7-4", 10, None),
            ("bytes=a-b", 10, None),
            ("bytes=0-1,4-5", 10, None),
            ("items=0-1", 10, None),
            ("bytes=-", 10, None),
        ] {
            assert_eq!(range(Some(value), size).unwrap(), want, "{value}");
        }
        for (value, size) in
            [("bytes=10-", 10), ("bytes=10-12", 10), ("bytes=-0", 10), ("bytes=0-", 0), ("bytes=-1", 0)]
        {
            let error = range(Some(value), size).unwrap_err();
            assert_eq!(error.code, Code::InvalidRange, "{value}");
            assert_eq!(error.headers[0].1, format!("bytes */{size}"));
        }
        assert_eq!(range(None, 0).unwrap(), None);
    }

    #[test]
    fn iso_dates_are_read() {
        assert_eq!(parse_iso_date("2026-11-21T03:10:00.123Z"), Some(1_795_230_600));
        assert_eq!(parse_iso_date("1970-01-01T00:00:00Z"), Some(0));
        for bad in ["", "2026-11-21", "2026-13-21T03:10:00Z", "2026-11-21T03:10:00", "x-y-zT1:2:3Z"] {
            assert_eq!(parse_iso_date(bad), None, "{bad}");
        }
    }
}
