//! `POST` of an object from a browser's form.

use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, StatusCode};
use namespace::{Command, Condition, NewVersion};

use crate::acl::Permission;
use crate::attrs::{self, OBJECT_TAGS_MAX, Stored};
use crate::backend::{Bucket, Content};
use crate::call::Call;
use crate::checks::{Check, is_algorithm};
use crate::digests::{Digester, Item, Lane};
use crate::error::{Code, Error, Result};
use crate::form::Form;
use crate::gate;
use crate::headers;
use crate::response::{self, Response, set, set_etag};
use crate::target::url_encode;
use crate::xml::Xml;

use super::object::{OBJECT_BYTES_MAX, check_key, inherit, set_version};

/// `POST` of a form.
pub async fn object(call: &mut Call) -> Result<Response> {
    let content_type = call.header("content-type").unwrap_or("").to_owned();
    let mut payload = std::mem::take(&mut call.payload);
    let begun = Form::begin(&content_type, &mut payload).await;
    call.payload = payload;
    let mut form = begun?;
    put_filename_in(&mut form)?;
    let allowed = gate::form(&call.face, &call.target.bucket, &form).await?;
    call.who = allowed.who;
    check_key(form.get("key").unwrap_or_default())?;
    call.target.key = form.get("key").unwrap_or_default().to_owned();
    let meant = headers(&form)?;
    let mut found = headers::to_attrs(&meant)?;
    // From here on the form's fields are the request's headers: to a policy's conditions, too.
    call.headers.extend(meant);
    let bucket = call.bucket_for(Permission::Write).await?;
    inherit(call, &bucket, call.header("x-amz-acl"), &mut found).await?;
    let said = said_checksum(&form)?;
    let check = Check::new(said.as_ref().map(|said| said.algorithm.as_str()))?;
    let mut lane = Lane::new(call.face.hashers.clone(), Digester::of_check(check));
    let limits = allowed.length.unwrap_or((0, OBJECT_BYTES_MAX));
    let mut payload = std::mem::take(&mut call.payload);
    let content = fill(call, &bucket, &mut form, &mut payload, &mut lane, limits).await;
    call.payload = payload;
    let content = content?;
    let (etag, checksum) = lane.finish().await?.check.finish();
    if said.is_some() && checksum != said {
        return Err(Error::new(Code::BadDigest, "The checksum you specified did not match the calculated checksum."));
    }
    if let Some(checksum) = &checksum {
        checksum.store(&mut found);
    }
    let new = NewVersion { size: content.size, etag, attrs: found, body: content.body };
    let command = Command::Put { key: call.key().to_owned(), new, condition: Condition::default() };
    let outcome = call.backend().commit(&bucket, command).await?;

    let mut response = success(call, &form, &bucket, &outcome.etag);
    set_etag(response.headers_mut(), &outcome.etag);
    if let Some(checksum) = &checksum {
        headers::set_checksum(response.headers_mut(), checksum);
    }
    set_version(outcome.version, response.headers_mut());
    Ok(response)
}

/// Completes the key with the file's name, before the policy judges it.
fn put_filename_in(form: &mut Form) -> Result<()> {
    // Browsers of old sent whole paths.
    let name = form.filename.rsplit(['/', '\\']).next().unwrap_or("");
    let key = form.fields.iter_mut().find(|(field, value)| field == "key" && !value.is_empty());
    let (_, key) = key.ok_or_else(|| {
        Error::new(
            Code::InvalidArgument,
            "Bucket POST must contain a field named 'key'. If it is specified, please check the order of the fields.",
        )
    })?;
    *key = key.replace("${filename}", name);
    Ok(())
}

/// Fields that mean what the header of their name means.
fn headers(form: &Form) -> Result<HeaderMap> {
    let mut found = HeaderMap::new();
    for (name, value) in &form.fields {
        let (name, value) = match name.as_str() {
            "acl" => ("x-amz-acl", value.clone()),
            "tagging" => ("x-amz-tagging", tags(value)?),
            name => (name, value.clone()),
        };
        let meant = attrs::HEADERS.contains(&name)
            || matches!(name, "x-amz-acl" | "x-amz-tagging")
            || name.starts_with("x-amz-grant-")
            || name.starts_with("x-amz-meta-")
            || name.starts_with("x-amz-server-side-encryption")
            || name.starts_with("x-amz-object-lock-");
        if !meant {
            continue;
        }
        let bad = || Error::new(Code::InvalidArgument, format!("The form's field {name} can't be read"));
        let name = HeaderName::try_from(name).map_err(|_| bad())?;
        found.append(&name, HeaderValue::from_bytes(value.as_bytes()).map_err(|_| bad())?);
    }
    Ok(found)
}

/// The field's document as the header has tags.
fn tags(document: &str) -> Result<String> {
    let tags = super::tagging::of_xml(&crate::xml::parse(document.as_bytes())?)?;
    let encoded = attrs::encode_tags(&tags, OBJECT_TAGS_MAX)?;
    String::from_utf8(encoded).map_err(|_| Code::InvalidTag.into())
}

/// The checksum that the form says the file has.
fn said_checksum(form: &Form) -> Result<Option<Stored>> {
    for (name, value) in &form.fields {
        let Some(algorithm) = name.strip_prefix("x-amz-checksum-").map(str::to_ascii_uppercase) else { continue };
        if is_algorithm(&algorithm) {
            return Ok(Some(Stored { algorithm, composite: false, value: value.clone() }));
        }
    }
    match form.get("x-amz-checksum-algorithm") {
        Some(algorithm) if !is_algorithm(algorithm) => {
            Err(Error::new(Code::InvalidRequest, "Checksum algorithm provided is unsupported."))
        }
        _ => Ok(None),
    }
}

async fn fill(
    call: &Call,
    bucket: &Bucket,
    form: &mut Form,
    payload: &mut crate::payload::Payload,
    lane: &mut Lane,
    (least, most): (u64, u64),
) -> Result<Content> {
    let mut writer = call.backend().writer(bucket, call.key(), None, None).await?;
    let mut size = 0;
    while let Some(bytes) = form.next(payload).await? {
        size += bytes.len() as u64;
        if size > most {
            return Err(Code::EntityTooLarge.into());
        }
        lane.push(Item::Data(bytes.clone())).await?;
        writer.write(bytes).await?;
    }
    if size < least {
        return Err(Code::EntityTooSmall.into());
    }
    Ok(writer.finish().await?)
}

/// The answer that the form asked for.
fn success(call: &Call, form: &Form, bucket: &Bucket, etag: &str) -> Response {
    let scheme = if call.face.settings.secure { "https" } else { "http" };
    let host = call.header("host").unwrap_or("localhost");
    let location = format!("{scheme}://{host}/{}/{}", bucket.name, url_encode(call.key()));
    let redirect = form.get("success_action_redirect").or(form.get("redirect"));
    if let Some(redirect) = redirect.filter(|to| to.starts_with("http://") || to.starts_with("https://")) {
        let mark = if redirect.contains('?') { '&' } else { '?' };
        let key = url_encode(call.key());
        let to = format!("{redirect}{mark}bucket={}&key={key}&etag=%22{etag}%22", bucket.name);
        let mut response = response::empty(StatusCode::SEE_OTHER);
        set(response.headers_mut(), "location", to.as_bytes());
        return response;
    }
    let mut response = match form.get("success_action_status") {
        Some("200") => response::ok(),
        Some("201") => {
            let mut xml = Xml::bare("PostResponse");
            xml.text("Location", &location).text("Bucket", &bucket.name).text("Key", call.key()).etag("ETag", etag);
            let mut response = response::xml(xml.finish("PostResponse"));
            *response.status_mut() = StatusCode::CREATED;
            response
        }
        _ => response::no_content(),
    };
    set(response.headers_mut(), "location", location.as_bytes());
    response
}
