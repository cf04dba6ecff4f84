//! Listing a bucket's keys, in both of S3's forms.

use namespace::Version;

use crate::acl::{Permission, write_owner};
use crate::attrs::{self, Stored};
use crate::backend::{Bucket, Entry, ListQuery, Object, Page, User};
use crate::call::Call;
use crate::error::{Code, Error, Result};
use crate::response::{self, Response};
use crate::target::url_encode;
use crate::xml::Xml;
use crate::xml::write::escape;

/// Items of one page: S3's limit.
pub const PAGE_MAX: usize = 1000;
/// Bytes of one listed key in the answer, about.
const ITEM_BYTES: usize = 300;

/// Query parameters that all listings share.
pub struct Asked {
    /// Only keys that begin so.
    pub prefix: String,
    /// Where to roll up.
    pub delimiter: String,
    /// Items at most; 0 asks for an empty page.
    pub max: usize,
    /// Keys are written URL-encoded.
    pub url: bool,
}

impl Asked {
    /// Reads them; `max` is the name of the parameter that limits.
    pub fn of(call: &Call, max: &str) -> Result<Asked> {
        let url = match call.target.get("encoding-type") {
            None | Some("") => false,
            Some("url") => true,
            Some(_) => return Err(Error::new(Code::InvalidArgument, "Invalid Encoding Method specified in Request")),
        };
        let text = |name| call.target.get(name).unwrap_or("").to_owned();
        Ok(Asked { prefix: text("prefix"), delimiter: text("delimiter"), max: limit(call, max)?, url })
    }

    /// The query for the store.
    pub fn query(&self, after: &str) -> ListQuery {
        ListQuery {
            prefix: self.prefix.clone(),
            delimiter: self.delimiter.clone(),
            after: (!after.is_empty()).then(|| after.to_owned()),
            after_version: None,
            after_upload: None,
            attrs: None,
            limit: self.max,
        }
    }

    /// Writes a key or prefix as the client wants it.
    pub fn key(&self, xml: &mut Xml, tag: &str, key: &str) {
        if self.url {
            xml.text(tag, &url_encode(key))
        } else {
            xml.text(tag, key)
        };
    }

    /// Writes what was asked, and the encoding.
    pub fn echo(&self, xml: &mut Xml) {
        self.key(xml, "Prefix", &self.prefix);
        self.echo_rest(xml);
    }

    fn echo_rest(&self, xml: &mut Xml) {
        if !self.delimiter.is_empty() {
            self.key(xml, "Delimiter", &self.delimiter);
        }
        if self.url {
            xml.text("EncodingType", "url");
        }
    }

    /// Writes rolled up prefixes.
    pub fn prefixes<T>(&self, xml: &mut Xml, page: &Page<T>) {
        for entry in &page.entries {
            if let Entry::Prefix(prefix) = entry {
                xml.open("CommonPrefixes");
                self.key(xml, "Prefix", prefix);
                xml.close("CommonPrefixes");
            }
        }
    }
}

/// A page's items without its prefixes.
pub fn items<T>(page: &Page<T>) -> impl Iterator<Item = &T> {
    page.entries.iter().filter_map(|entry| match entry {
        Entry::Item(item) => Some(item),
        Entry::Prefix(_) => None,
    })
}

/// A limit from the query, cut to a page.
pub fn limit(call: &Call, name: &str) -> Result<usize> {
    match call.target.get(name) {
        None | Some("") => Ok(PAGE_MAX),
        Some(text) => match text.parse::<i64>() {
            Ok(number) if number >= 0 && number <= i64::from(i32::MAX) => Ok((number as usize).min(PAGE_MAX)),
            _ => Err(Error::new(
                Code::InvalidArgument,
                format!("Provided {name} not an integer or within integer range"),
            )),
        },
    }
}

/// Users by id, looked up once for a page.
#[derive(Default)]
pub struct Owners {
    known: Vec<(base::UserId, Option<User>)>,
}

impl Owners {
    /// Writes `<Owner>` (or `<Initiator>`).
    pub async fn write(&mut self, call: &Call, xml: &mut Xml, tag: &str, id: &base::UserId) -> Result<()> {
        let at = match self.known.iter().position(|(known, _)| known == id) {
            Some(at) => at,
            None => {
                let user = call.backend().user(id).await?;
                self.known.push((id.clone(), user));
                self.known.len() - 1
            }
        };
        write_owner(xml, tag, id, self.known[at].1.as_ref());
        Ok(())
    }
}

/// `GET` of a bucket.
pub async fn v1(call: &mut Call) -> Result<Response> {
    let bucket = call.bucket_for(Permission::Read).await?;
    let asked = Asked::of(call, "max-keys")?;
    let marker = call.target.get("marker").unwrap_or("").to_owned();
    let page = call.backend().list(&bucket, &asked.query(&marker)).await?;

    let mut xml = Xml::with_capacity("ListBucketResult", 1024 + page.entries.len() * ITEM_BYTES);
    xml.text("Name", &bucket.name);
    // The first form of listing never encodes the prefix, and clients don't decode it.
    xml.text("Prefix", &asked.prefix);
    asked.echo_rest(&mut xml);
    asked.key(&mut xml, "Marker", &marker);
    if let Some(next) = page.next.as_ref().filter(|_| !asked.delimiter.is_empty()) {
        asked.key(&mut xml, "NextMarker", &next.after);
    }
    xml.number("MaxKeys", asked.max as u64).flag("IsTruncated", page.truncated());
    contents(call, &bucket, &asked, &page, true, &mut xml).await?;
    asked.prefixes(&mut xml, &page);
    Ok(response::xml(xml.finish("ListBucketResult")))
}

/// `GET ?list-type=2`.
pub async fn v2(call: &mut Call) -> Result<Response> {
    let bucket = call.bucket_for(Permission::Read).await?;
    let asked = Asked::of(call, "max-keys")?;
    let start_after = call.target.get("start-after").unwrap_or("").to_owned();
    let token = call.target.get("continuation-token").map(str::to_owned);
    let after = match token.as_deref() {
        None | Some("") => start_after.clone(),
        Some(token) => read_token(token)?,
    };
    let page = call.backend().list(&bucket, &asked.query(&after)).await?;

    let mut xml = Xml::with_capacity("ListBucketResult", 1024 + page.entries.len() * ITEM_BYTES);
    xml.text("Name", &bucket.name);
    asked.echo(&mut xml);
    if !start_after.is_empty() {
        asked.key(&mut xml, "StartAfter", &start_after);
    }
    xml.maybe("ContinuationToken", token.as_deref());
    if let Some(next) = &page.next {
        xml.text("NextContinuationToken", &base::ids::hex(next.after.as_bytes()));
    }
    xml.number("KeyCount", page.entries.len() as u64)
        .number("MaxKeys", asked.max as u64)
        .flag("IsTruncated", page.truncated());
    let owner = call.target.get("fetch-owner").is_some_and(|fetch| fetch.eq_ignore_ascii_case("true"));
    contents(call, &bucket, &asked, &page, owner, &mut xml).await?;
    asked.prefixes(&mut xml, &page);
    Ok(response::xml(xml.finish("ListBucketResult")))
}

/// The key that a continuation token hides.
pub fn read_token(token: &str) -> Result<String> {
    let mut bytes = vec![0; token.len() / 2];
    let known = base::ids::unhex(token, &mut bytes);
    String::from_utf8(bytes)
        .ok()
        .filter(|_| known)
        .ok_or_else(|| Error::new(Code::InvalidArgument, "The continuation token provided is incorrect"))
}

async fn contents(
    call: &Call,
    bucket: &Bucket,
    asked: &Asked,
    page: &Page<Object>,
    owner: bool,
    xml: &mut Xml,
) -> Result<()> {
    let mut owners = Owners::default();
    for Object { key, version } in items(page) {
        xml.open("Contents");
        asked.key(xml, "Key", key);
        describe(xml, version);
        if owner {
            owners.write(call, xml, "Owner", &attrs::owner(&version.attrs, &bucket.owner)).await?;
        }
        xml.close("Contents");
    }
    Ok(())
}

/// What every listing says of a version.
pub fn describe(xml: &mut Xml, version: &Version) {
    xml.raw("<LastModified>").raw(&version.modified.rfc3339()).raw("</LastModified>");
    xml.etag("ETag", &version.etag);
    if let Some(checksum) = Stored::of(&version.attrs) {
        xml.text("ChecksumAlgorithm", &checksum.algorithm).text("ChecksumType", checksum.kind());
    }
    xml.number("Size", version.size);
    let mut class = String::new();
    escape(&mut class, attrs::storage_class(&version.attrs));
    xml.raw("<StorageClass>").raw(&class).raw("</StorageClass>");
}
