//! Cross-origin resource sharing (the Fetch standard, section 3.2): a bucket's rules, the answer to
//! a browser's question before a request, and the headers on every other answer.

use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Method};

use crate::backend::Bucket;
use crate::call::{Call, config};
use crate::error::{Code, Error, Result};
use crate::response::{self, Response, set};
use crate::xml::{Node, Xml};

/// Rules of one bucket: S3's limit.
const RULES_MAX: usize = 100;
const METHODS: [&str; 5] = ["GET", "PUT", "POST", "DELETE", "HEAD"];

/// One rule.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rule {
    id: Option<String>,
    origins: Vec<String>,
    methods: Vec<String>,
    headers: Vec<String>,
    expose: Vec<String>,
    max_age: Option<u64>,
}

fn of_xml(root: &Node) -> Result<Vec<Rule>> {
    let rules: Vec<Rule> = root.all("CORSRule").map(rule).collect::<Result<_>>()?;
    if rules.is_empty() || rules.len() > RULES_MAX { Err(Code::MalformedXML.into()) } else { Ok(rules) }
}

fn texts(node: &Node, name: &str) -> Vec<String> {
    node.children.iter().filter(|child| child.name == name).map(|child| child.text.clone()).collect()
}

fn rule(node: &Node) -> Result<Rule> {
    let rule = Rule {
        id: node.get("ID").map(str::to_owned),
        origins: texts(node, "AllowedOrigin"),
        methods: texts(node, "AllowedMethod"),
        headers: texts(node, "AllowedHeader"),
        expose: texts(node, "ExposeHeader"),
        max_age: node.get("MaxAgeSeconds").map(|age| age.parse()).transpose().map_err(|_| Code::MalformedXML)?,
    };
    if let Some(method) = rule.methods.iter().find(|method| !METHODS.contains(&method.as_str())) {
        return Err(Error::new(
            Code::InvalidRequest,
            format!("Found unsupported HTTP method in CORS config. Unsupported method is {method}"),
        ));
    }
    let one_star = |text: &String| text.matches('*').count() <= 1;
    if !rule.origins.iter().chain(&rule.headers).all(one_star) {
        return Err(Error::new(
            Code::InvalidRequest,
            "AllowedOrigin and AllowedHeader can not have more than one wildcard.",
        ));
    }
    match rule.origins.is_empty() || rule.methods.is_empty() {
        true => Err(Code::MalformedXML.into()),
        false => Ok(rule),
    }
}

fn to_xml(rules: &[Rule]) -> String {
    let mut xml = Xml::new("CORSConfiguration");
    for rule in rules {
        xml.open("CORSRule").maybe("ID", rule.id.as_deref());
        for (tag, texts) in [
            ("AllowedMethod", &rule.methods),
            ("AllowedOrigin", &rule.origins),
            ("AllowedHeader", &rule.headers),
            ("ExposeHeader", &rule.expose),
        ] {
            for text in texts {
                xml.text(tag, text);
            }
        }
        if let Some(age) = rule.max_age {
            xml.number("MaxAgeSeconds", age);
        }
        xml.close("CORSRule");
    }
    xml.finish("CORSConfiguration")
}

/// Whether `text` is the pattern, in which one `*` stands for anything.
fn like(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.len() >= head.len() + tail.len() && text.starts_with(head) && text.ends_with(tail),
    }
}

/// The first rule that lets this origin use this method with these headers.
fn find<'a>(rules: &'a [Rule], origin: &str, method: &str, headers: &[String]) -> Option<&'a Rule> {
    rules.iter().find(|rule| {
        rule.origins.iter().any(|pattern| like(pattern, origin))
            && rule.methods.iter().any(|allowed| allowed == method)
            && headers.iter().all(|header| rule.headers.iter().any(|pattern| like(&pattern.to_lowercase(), header)))
    })
}

async fn rules(call: &Call, bucket: &Bucket) -> Result<Option<Vec<Rule>>> {
    match call.backend().config(bucket, config::CORS).await? {
        Some(stored) => of_xml(&crate::xml::parse(&stored)?).map(Some),
        None => Ok(None),
    }
}

/// `GET ?cors`.
pub async fn get(call: &mut Call) -> Result<Response> {
    let bucket = call.own_bucket().await?;
    let rules = rules(call, &bucket).await?.ok_or(Code::NoSuchCORSConfiguration)?;
    Ok(response::xml(to_xml(&rules)))
}

/// `PUT ?cors`.
pub async fn put(call: &mut Call) -> Result<Response> {
    let bucket = call.own_bucket().await?;
    let rules = of_xml(&call.xml().await?)?;
    super::config::set(call, &bucket, config::CORS, Some(to_xml(&rules).into_bytes())).await?;
    Ok(response::ok())
}

/// `DELETE ?cors`.
pub async fn delete(call: &mut Call) -> Result<Response> {
    let bucket = call.own_bucket().await?;
    super::config::set(call, &bucket, config::CORS, None).await?;
    Ok(response::no_content())
}

/// `OPTIONS`: what a browser asks before it sends the request proper. Never signed.
pub async fn preflight(call: &mut Call) -> Result<Response> {
    let missing = |what: &str| {
        Error::new(Code::InvalidRequest, format!("Insufficient information. {what} request header needed."))
    };
    let origin = call.header("origin").ok_or_else(|| missing("Origin"))?;
    let method =
        call.header("access-control-request-method").ok_or_else(|| missing("Access-Control-Request-Method"))?;
    if !METHODS.contains(&method) {
        return Err(Error::new(Code::InvalidRequest, format!("Invalid Access-Control-Request-Method: {method}")));
    }
    let bucket = call.bucket().await?;
    let asked: Vec<String> = call
        .header("access-control-request-headers")
        .map(|list| list.split(',').map(|name| name.trim().to_lowercase()).filter(|name| !name.is_empty()).collect())
        .unwrap_or_default();
    let Some(rules) = rules(call, &bucket).await? else {
        return Err(Error::new(Code::AccessForbidden, "CORSResponse: CORS is not enabled for this bucket."));
    };
    let rule = find(&rules, origin, method, &asked).ok_or(Code::AccessForbidden)?;
    let mut response = response::ok();
    let out = response.headers_mut();
    write(rule, origin, out);
    if !asked.is_empty() {
        set(out, "access-control-allow-headers", asked.join(", ").as_bytes());
    }
    Ok(response)
}

/// Puts the headers on the answer to a request that came with an origin. Failing to is no reason
/// to fail the request: the browser will refuse the answer.
pub async fn decorate(call: &Call, out: &mut HeaderMap) {
    if call.method == Method::OPTIONS || call.target.bucket.is_empty() {
        return;
    }
    let Some(origin) = call.header("origin") else { return };
    let method = call.header("access-control-request-method").unwrap_or(call.method.as_str());
    let Ok(Some(bucket)) = call.backend().bucket(&call.target.bucket).await else { return };
    let Ok(Some(rules)) = rules(call, &bucket).await else { return };
    if let Some(rule) = find(&rules, origin, method, &[]) {
        write(rule, origin, out);
    }
}

fn write(rule: &Rule, origin: &str, out: &mut HeaderMap) {
    let any = rule.origins.iter().any(|allowed| allowed == "*");
    set(out, "access-control-allow-origin", if any { b"*" } else { origin.as_bytes() });
    set(out, "access-control-allow-methods", rule.methods.join(", ").as_bytes());
    if !rule.expose.is_empty() {
        set(out, "access-control-expose-headers", rule.expose.join(", ").as_bytes());
    }
    if let Some(age) = rule.max_age {
        out.insert(HeaderName::from_static("access-control-max-age"), HeaderValue::from(age));
    }
    if !any {
        set(out, "access-control-allow-credentials", b"true");
    }
    set(out, "vary", b"Origin, Access-Control-Request-Headers, Access-Control-Request-Method");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Result<Vec<Rule>> {
        of_xml(&crate::xml::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn rules_read_back_and_bad_ones_are_refused() {
        let text = "<C><CORSRule><ID>a</ID><AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod>\
                    <AllowedHeader>x-*</AllowedHeader><ExposeHeader>ETag</ExposeHeader><MaxAgeSeconds>3</MaxAgeSeconds>\
                    </CORSRule></C>";
        let read = rules(text).unwrap();
        assert_eq!(rules(&to_xml(&read)).unwrap(), read);
        let with = |inner: &str| rules(&format!("<C><CORSRule>{inner}</CORSRule></C>")).unwrap_err().code;
        assert_eq!(with("<AllowedOrigin>*</AllowedOrigin>"), Code::MalformedXML);
        assert_eq!(with("<AllowedOrigin>*</AllowedOrigin><AllowedMethod>PATCH</AllowedMethod>"), Code::InvalidRequest);
        assert_eq!(with("<AllowedOrigin>*.*</AllowedOrigin><AllowedMethod>GET</AllowedMethod>"), Code::InvalidRequest);
        assert!(rules("<C/>").is_err());
    }

    #[test]
    fn one_star_stands_for_anything() {
        for (pattern, text, yes) in [
            ("*", "", true),
            ("*suffix", "foo.suffix", true),
            ("*suffix", "foo.suffix.get", false),
            ("start*end", "startend", true),
            ("start*end", "0start12end", false),
            ("start*rt", "start", false),
            ("prefix*", "prefix.x", true),
            ("a", "a", true),
            ("a", "b", false),
        ] {
            assert_eq!(like(pattern, text), yes, "{pattern} {text}");
        }
    }
}
