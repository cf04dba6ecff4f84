//! From a policy's JSON to what can be judged.

use serde_json::{Map, Value};

use super::condition::Clause;
use super::{OneOf, Policy, Statement, like};
use crate::error::{Code, Error, Result};

const RESOURCE: &str = "arn:aws:s3:::";

fn malformed(why: impl std::fmt::Display) -> Error {
    Error::new(Code::MalformedPolicy, format!("Policy {why}"))
}

/// Reads a policy for `bucket`; refuses what is not understood in full.
pub fn parse(text: &[u8], bucket: &str) -> Result<Policy> {
    let root: Value = serde_json::from_slice(text).map_err(|_| malformed("is not valid JSON"))?;
    let root = root.as_object().ok_or_else(|| malformed("is no JSON object"))?;
    known_keys(root, &["Version", "Id", "Statement"])?;
    match root.get("Version").map(Value::as_str) {
        None | Some(Some("2012-10-17" | "2008-10-17")) => {}
        _ => return Err(malformed("has an unknown Version")),
    }
    let statements = match root.get("Statement") {
        Some(Value::Array(list)) if !list.is_empty() => list.iter().collect(),
        Some(one @ Value::Object(_)) => vec![one],
        _ => return Err(malformed("has no Statement")),
    };
    let statements = statements.into_iter().map(|one| statement(one, bucket)).collect::<Result<_>>()?;
    Ok(Policy(statements))
}

fn known_keys(map: &Map<String, Value>, known: &[&str]) -> Result<()> {
    match map.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(malformed(format!("has an unknown element {key}"))),
        None => Ok(()),
    }
}

fn statement(value: &Value, bucket: &str) -> Result<Statement> {
    let map = value.as_object().ok_or_else(|| malformed("has a statement that is no JSON object"))?;
    let known =
        ["Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition"];
    known_keys(map, &known)?;
    let deny = match map.get("Effect").and_then(Value::as_str) {
        Some("Allow") => false,
        Some("Deny") => true,
        _ => return Err(malformed("has an Effect that is neither Allow nor Deny")),
    };
    let principals = one_of(map, "Principal", "NotPrincipal", principals)?;
    if principals.not && !deny {
        return Err(malformed("allows by NotPrincipal, which would allow nearly everybody"));
    }
    let actions = one_of(map, "Action", "NotAction", texts)?;
    if let Some(action) = actions.patterns.iter().find(|action| !super::action::is_known(action)) {
        return Err(malformed(format!("has invalid action {action}")));
    }
    let mut resources = one_of(map, "Resource", "NotResource", texts)?;
    for resource in &mut resources.patterns {
        *resource = own_resource(resource, bucket)?;
    }
    let clauses = match map.get("Condition") {
        None => Vec::new(),
        Some(Value::Object(map)) => clauses(map)?,
        Some(_) => return Err(malformed("has a Condition that is no JSON object")),
    };
    Ok(Statement { deny, principals, actions, resources, clauses })
}

fn one_of(
    map: &Map<String, Value>,
    name: &str,
    not: &str,
    read: impl Fn(&Value) -> Result<Vec<String>>,
) -> Result<OneOf> {
    let (value, not) = match (map.get(name), map.get(not)) {
        (Some(value), None) => (value, false),
        (None, Some(value)) => (value, true),
        _ => return Err(malformed(format!("needs one of {name} and {not} in each statement"))),
    };
    let patterns = read(value)?;
    if patterns.is_empty() {
        return Err(malformed(format!("has an empty {name}")));
    }
    Ok(OneOf { not, patterns })
}

/// A text, or a list of texts.
fn texts(value: &Value) -> Result<Vec<String>> {
    let one = |value: &Value| match value {
        Value::String(text) if text.contains("${") => {
            Err(Error::new(Code::NotImplemented, "Policy variables (${...}) are not implemented"))
        }
        Value::String(text) => Ok(text.clone()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(malformed("has an element that is no text")),
    };
    match value {
        Value::Array(list) => list.iter().map(one).collect(),
        value => Ok(vec![one(value)?]),
    }
}

fn principals(value: &Value) -> Result<Vec<String>> {
    let map = match value {
        Value::String(text) if text == "*" => return Ok(vec!["*".to_owned()]),
        Value::Object(map) => map,
        _ => return Err(malformed("has an invalid principal")),
    };
    let mut found = Vec::new();
    for (kind, value) in map {
        let named = texts(value)?;
        match kind.as_str() {
            "AWS" => {
                let odd = |one: &&String| {
                    let arn = one.starts_with("arn:");
                    one.is_empty() || (arn && !one.starts_with("arn:aws:iam::")) || (one.contains('*') && *one != "*")
                };
                if let Some(one) = named.iter().find(odd) {
                    return Err(malformed(format!("has an invalid principal {one}")));
                }
                found.extend(named);
            }
            "CanonicalUser" => found.extend(named),
            // Nobody here signs as a service or through a provider of identities. The prefix keeps
            // such a name from being taken for a user's.
            "Service" | "Federated" => found.extend(named.iter().map(|one| format!("{kind}:{one}"))),
            _ => return Err(malformed(format!("has an unknown kind of principal {kind}"))),
        }
    }
    Ok(found)
}

/// The resource without its prefix; it must lie in the bucket.
fn own_resource(resource: &str, bucket: &str) -> Result<String> {
    let pattern = match resource.strip_prefix(RESOURCE) {
        Some(pattern) => pattern,
        None if resource == "*" => "*",
        None => return Err(malformed(format!("has invalid resource {resource}"))),
    };
    let name = pattern.split('/').next().unwrap_or_default();
    match like(name, bucket) {
        true => Ok(pattern.to_owned()),
        false => Err(malformed(format!("has invalid resource {resource}"))),
    }
}

fn clauses(map: &Map<String, Value>) -> Result<Vec<Clause>> {
    let mut clauses = Vec::new();
    for (operator, pairs) in map {
        let pairs = pairs.as_object().ok_or_else(|| malformed(format!("has an invalid condition {operator}")))?;
        for (key, values) in pairs {
            let clause = Clause::new(operator, key, texts(values)?);
            clauses.push(clause.map_err(|why| malformed(format!("has an invalid condition {operator}: {why}")))?);
        }
    }
    Ok(clauses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_enforced_is_refused() {
        let base = "\"Effect\": \"Allow\", \"Principal\": \"*\", \"Action\": \"s3:GetObject\", \
                    \"Resource\": \"arn:aws:s3:::b/*\"";
        let code = |statement: &str| {
            let text = format!("{{\"Version\": \"2012-10-17\", \"Statement\": [{{{statement}}}]}}");
            parse(text.as_bytes(), "b").err().map(|error| error.code)
        };
        assert_eq!(code(base), None);
        for (from, to) in [
            ("\"Allow\"", "\"Maybe\""),
            ("\"*\"", "\"me\""),
            ("\"*\"", "{\"AWS\": \"arn:aws:s3:::b\"}"),
            ("\"*\"", "{\"AWS\": \"a*\"}"),
            ("\"*\"", "{\"Somebody\": \"*\"}"),
            ("\"Principal\"", "\"NotPrincipal\""),
            ("s3:GetObject", "s3:GetObjekt"),
            ("s3:GetObject", "ec2:RunInstances"),
            (":::b/*", ":::other/*"),
            ("arn:aws:s3:::b", "b"),
            ("\"Effect\"", "\"Extra\": 1, \"Effect\""),
            ("\"Effect\"", "\"Condition\": {\"StringSounds\": {\"aws:Referer\": \"x\"}}, \"Effect\""),
            ("\"Effect\"", "\"Condition\": {\"StringEquals\": {\"s3:nonsense\": \"x\"}}, \"Effect\""),
            ("\"Effect\"", "\"Condition\": {\"IpAddress\": {\"aws:SourceIp\": \"10.0.0/8\"}}, \"Effect\""),
            ("\"Effect\"", "\"Condition\": [], \"Effect\""),
            (", \"Action\": \"s3:GetObject\"", ""),
        ] {
            assert_eq!(code(&base.replacen(from, to, 1)), Some(Code::MalformedPolicy), "{from} -> {to}");
        }
        let variable = base.replacen(":::b/*", ":::b/${aws:username}/*", 1);
        assert_eq!(code(&variable), Some(Code::NotImplemented));
        for bad in ["", "[]", "{}", "{\"Statement\": []}", "{\"Version\": \"1\", \"Statement\": []}"] {
            assert_eq!(parse(bad.as_bytes(), "b").unwrap_err().code, Code::MalformedPolicy, "{bad}");
        }
    }
}
