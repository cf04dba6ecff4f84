//! What can be asked, and who answers.

use std::time::Duration;

use hyper::StatusCode;
use node::{Node, Verb};
use serde::Serialize;
use serde_json::{Value, json};

use crate::http::{Refusal, Shown};

/// Events that one answer holds at the most.
const EVENTS_MAX: usize = 10_000;

type Answer = Result<Value, Refusal>;

/// Runs one request.
pub(crate) async fn run(node: &Node, shown: &Shown, method: &str, path: &str, query: &str, wish: &Value) -> Answer {
    match (method, path) {
        ("GET", "/v1/status") => told(node.status().await?),
        ("GET", "/v1/events") => told(node.events(limit(query)?).await?),
        ("GET", "/v1/env") => {
            let key = node.access().await?;
            Ok(json!({
                "AWS_ENDPOINT_URL": shown.endpoint,
                "AWS_ACCESS_KEY_ID": key.access_key,
                "AWS_SECRET_ACCESS_KEY": key.secret_key,
                "AWS_REGION": shown.region,
            }))
        }
        ("GET", "/v1/nodes") => told(node.nodes()?),
        ("GET", "/v1/nodes/restart-plan") => told(node.restart_plan().await?),
        ("POST", "/v1/nodes/invite") => {
            let valid = wish["valid_secs"].as_u64().ok_or_else(|| Refusal::invalid("the request lacks valid_secs"))?;
            let ticket = node.invite(Duration::from_secs(valid)).await?;
            Ok(json!({ "ticket": ticket.text(), "expires": ticket.claim.expires.rfc3339() }))
        }
        ("POST", "/v1/plan") => {
            let verb = text(wish, "verb")?;
            let verb = Verb::named(verb).ok_or_else(|| Refusal::invalid(format!("there is no verb {verb:?}")))?;
            let targets: Vec<String> = serde_json::from_value(wish["targets"].clone())
                .map_err(|_| Refusal::invalid("the request lacks targets"))?;
            told(node.change(verb, &targets, apply(wish), wish["code"].as_str()).await?)
        }
        ("GET", "/v1/pace") => Ok(json!({ "percent": node.pace()? })),
        ("POST", "/v1/pace") => Ok(json!({ "percent": node.set_pace(text(wish, "pace")?).await? })),
        ("GET", "/v1/kits") => told(node.kits()?),
        ("GET", "/v1/volumes") => told(node.volumes()?),
        ("POST", "/v1/volumes/create") => {
            let wish = serde_json::from_value(wish.clone()).map_err(|error| Refusal::invalid(error.to_string()))?;
            told(node.create_volume(&wish).await?)
        }
        ("POST", "/v1/volumes/revoke") => {
            let name = text(wish, "name")?;
            Ok(json!({ "name": name, "epoch": node.revoke_grants(name).await? }))
        }
        ("POST", "/v1/volumes/keys") => told(node.replace_keys(text(wish, "name")?, text(wish, "succession")?).await?),
        ("GET", "/v1/trail") => told(node.trail(limit(query)?)?),
        ("GET", "/v1/undo") => told(node.deleted(of(query).as_deref(), limit(query)?).await?),
        ("POST", "/v1/undo") => told(node.undo(text(wish, "what")?, wish["as"].as_str()).await?),
        ("POST", "/v1/undo/keep") => {
            let secs = wish["secs"].as_u64().ok_or_else(|| Refusal::invalid("the request lacks secs"))?;
            told(node.keep_deleted(Duration::from_secs(secs), apply(wish), wish["code"].as_str()).await?)
        }
        ("POST", "/v1/purge") => told(node.purge(wish["what"].as_str(), apply(wish), wish["code"].as_str()).await?),
        ("POST", "/v1/buckets/delete") => {
            let contents = wish["with_contents"].as_bool() == Some(true);
            told(node.delete_bucket(text(wish, "bucket")?, contents, apply(wish), wish["code"].as_str()).await?)
        }
        ("POST", "/v1/nodes/rotate-key") => {
            node.rotate_key().await?;
            Ok(json!({ "rotated": true }))
        }
        ("GET", "/v1/keys") => told(node.keys().await?),
        ("GET", "/v1/policies") => told(node.policies().await?),
        ("POST", "/v1/drives/add") => told(node.add_drive(text(wish, "path")?.into()).await?),
        ("POST", "/v1/keys/create") => {
            let wish = serde_json::from_value(wish.clone()).map_err(|error| Refusal::invalid(error.to_string()))?;
            told(node.create_key(wish).await?)
        }
        ("POST", "/v1/keys/revoke") => {
            node.revoke_key(text(wish, "access_key")?).await?;
            Ok(json!({ "access_key": wish["access_key"], "state": "revoked" }))
        }
        ("POST", "/v1/policies/set") => {
            told(node.set_policy(text(wish, "bucket")?, text(wish, "code")?, wish["confirm"].as_str()).await?)
        }
        ("POST", "/v1/policies/default") => {
            told(node.set_default_policy(text(wish, "code")?, wish["confirm"].as_str()).await?)
        }
        ("POST", "/v1/scrub") => told(node.scrub().await?),
        ("POST", "/v1/verify") => told(node.verify(text(wish, "what")?).await?),
        ("POST", "/v1/manifest") => told(node.manifest(text(wish, "what")?).await?),
        _ => Err(Refusal {
            status: StatusCode::NOT_FOUND,
            answer: json!({ "error": format!("nothing answers {method} {path}: is this abide of another version?") }),
        }),
    }
}

fn told(value: impl Serialize) -> Answer {
    serde_json::to_value(value).map_err(|error| Refusal {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        answer: json!({ "error": format!("the answer can't be written: {error}") }),
    })
}

fn text<'a>(wish: &'a Value, name: &str) -> Result<&'a str, Refusal> {
    wish[name].as_str().ok_or_else(|| Refusal::invalid(format!("the request lacks {name}")))
}

fn apply(wish: &Value) -> bool {
    wish["apply"].as_bool() == Some(true)
}

/// The bucket that is asked about. Its name needs no escapes.
fn of(query: &str) -> Option<String> {
    query.split('&').find_map(|pair| pair.strip_prefix("of=")).map(str::to_owned)
}

fn limit(query: &str) -> Result<usize, Refusal> {
    let Some(limit) = query.split('&').find_map(|pair| pair.strip_prefix("limit=")) else { return Ok(50) };
    match limit.parse() {
        Ok(limit) if limit <= EVENTS_MAX => Ok(limit),
        _ => Err(Refusal::invalid(format!("limit must be a number up to {EVENTS_MAX}, not {limit:?}"))),
    }
}

#[cfg(test)]
mod tests {
    /// Every path that changes something: by a gate that refuses what lowers safety, or harmless for a reason.
    const CHANGES: &[(&str, &str)] = &[
        ("/v1/nodes/invite", "lets a machine in, which takes nothing away"),
        ("/v1/plan", "gated: drain, remove, expunge"),
        ("/v1/pace", "what has no spare piece left is repaired whatever it says"),
        ("/v1/volumes/create", "adds a volume; a name that is taken is refused"),
        ("/v1/volumes/revoke", "closes doors; the owner makes new grants"),
        ("/v1/volumes/keys", "signed by the owner with both keys; the new one leads to the old one"),
        ("/v1/undo", "brings back; what it replaces can be had back in turn"),
        ("/v1/undo/keep", "gated: a shorter time gives up what is older"),
        ("/v1/purge", "gated"),
        ("/v1/buckets/delete", "gated"),
        ("/v1/nodes/rotate-key", "another key for the same node"),
        ("/v1/drives/add", "adds room"),
        ("/v1/keys/create", "an access key more"),
        ("/v1/keys/revoke", "closes a door; a new key opens it"),
        ("/v1/policies/set", "gated"),
        ("/v1/policies/default", "gated"),
        ("/v1/scrub", "reads; what is damaged is rebuilt"),
        ("/v1/verify", "reads"),
        ("/v1/manifest", "reads"),
    ];

    #[test]
    fn every_path_that_changes_something_is_gated_or_harmless_for_a_reason() {
        let code = include_str!("api.rs").split("#[cfg(test)]").next().unwrap_or_default();
        let posts: Vec<&str> = code.split("(\"POST\", \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(posts.len() > 10, "the paths were not found: {posts:?}");
        for path in &posts {
            assert!(
                CHANGES.iter().any(|(known, _)| known == path),
                "{path} is new: is it gated, or harmless, and why?"
            );
        }
        for (path, why) in CHANGES {
            assert!(posts.contains(path) && !why.is_empty(), "{path} isn't there any more");
            let asked = code.split(&format!("(\"POST\", \"{path}\")")).nth(1);
            let asked = asked.and_then(|rest| rest.split("(\"POST\", ").next()?.split("(\"GET\", ").next());
            let takes_code = asked.is_some_and(|asked| asked.contains("[\"code\"]") || asked.contains("[\"confirm\"]"));
            assert_eq!(takes_code, why.starts_with("gated"), "{path}: a code is taken exactly where there is a gate");
        }
    }
}
