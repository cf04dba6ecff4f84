//! Bucket policies: who may do what to a bucket and its objects, beside and above ACLs.
//!
//! Source: AWS, "Policies and permissions in Amazon S3" and "IAM JSON policy elements reference". A
//! document is judged when it is set: what this face could not enforce is refused then, so that no
//! statement that was taken is ever passed over.

pub mod action;
mod condition;
mod parse;

use base::UserId;
pub use condition::{Clause, Values};
pub use parse::parse;

/// Bytes of a policy: S3's limit.
pub const POLICY_BYTES_MAX: u64 = 20 << 10;

/// What a policy says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Forbidden, whatever else allows it.
    Deny,
    /// Allowed.
    Allow,
    /// Nothing: ownership and ACLs decide.
    Silent,
}

/// One request, as policies see it.
pub struct Request<'a> {
    /// Who signed.
    pub who: Option<&'a UserId>,
    /// Such as `s3:GetObject`.
    pub action: &'a str,
    /// `bucket` or `bucket/key`.
    pub resource: &'a str,
    /// Values of a condition key, given in lower case; none if the request has none.
    pub values: &'a Values<'a>,
}

/// A policy.
#[derive(Debug)]
pub struct Policy(Vec<Statement>);

/// One statement.
#[derive(Debug)]
struct Statement {
    deny: bool,
    principals: OneOf,
    actions: OneOf,
    resources: OneOf,
    clauses: Vec<Clause>,
}

/// A list of patterns, or everything but them.
#[derive(Debug)]
struct OneOf {
    not: bool,
    patterns: Vec<String>,
}

impl OneOf {
    fn has(&self, is: impl Fn(&str) -> bool) -> bool {
        self.patterns.iter().any(|pattern| is(pattern)) != self.not
    }
}

impl Policy {
    /// What it says: one denial outweighs every permission.
    pub fn judge(&self, request: &Request<'_>) -> Verdict {
        let mut verdict = Verdict::Silent;
        for statement in self.0.iter().filter(|statement| statement.speaks_of(request)) {
            if statement.deny {
                return Verdict::Deny;
            }
            verdict = Verdict::Allow;
        }
        verdict
    }

    /// Whether it opens something to everybody.
    pub fn is_public(&self) -> bool {
        let everybody = |of: &OneOf| of.not || of.patterns.iter().any(|pattern| pattern == "*");
        self.0.iter().any(|statement| {
            !statement.deny && everybody(&statement.principals) && !statement.clauses.iter().any(Clause::narrows)
        })
    }
}

impl Statement {
    fn speaks_of(&self, request: &Request<'_>) -> bool {
        self.principals.has(|pattern| is_principal(pattern, request.who))
            && self.actions.has(|pattern| like(&pattern.to_ascii_lowercase(), &request.action.to_ascii_lowercase()))
            && self.resources.has(|pattern| like(pattern, request.resource))
            && self.clauses.iter().all(|clause| clause.holds(request.values))
    }
}

/// Whether a principal means this signer: everybody, an account (`ID`, `arn:aws:iam::ID:root`) or a
/// user (`arn:aws:iam::ID:user/ID`, or without the account). Every user is an account of its own.
fn is_principal(pattern: &str, who: Option<&UserId>) -> bool {
    if pattern == "*" {
        return true;
    }
    let Some(UserId(who)) = who else { return false };
    let Some(rest) = pattern.strip_prefix("arn:aws:iam::") else { return pattern == who };
    match rest.split_once(':') {
        Some((account, "root")) => account == who,
        Some((account, name)) => {
            let user = name.strip_prefix("user/").and_then(|path| path.rsplit('/').next());
            user == Some(who) && (account.is_empty() || account == who)
        }
        None => false,
    }
}

/// Whether `text` is the pattern: `*` stands for anything, `?` for one character.
pub fn like(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where the last star stood, and how much of the text it stands for: never more than one level
    // to go back to, so the work is bounded by the product of the lengths.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(b'?') => {
                p += 1;
                t += 1;
                // One character, not one byte.
                while text.get(t).is_some_and(|byte| byte & 0xc0 == 0x80) {
                    t += 1;
                }
            }
            Some(byte) if *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match &mut star {
                Some((at, from)) => {
                    *from += 1;
                    p = *at + 1;
                    t = *from;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(policy: &str, who: Option<&str>, action: &str, resource: &str) -> Verdict {
        let who = who.map(|who| UserId(who.to_owned()));
        let values = |_: &str| Vec::new();
        parse(policy.as_bytes(), "b").unwrap().judge(&Request { who: who.as_ref(), action, resource, values: &values })
    }

    fn statement(effect: &str, principal: &str, action: &str, resource: &str) -> String {
        format!(
            "{{\"Effect\": \"{effect}\", \"Principal\": {principal}, \"Action\": \"{action}\", \"Resource\": \
             \"arn:aws:s3:::{resource}\"}}"
        )
    }

    #[test]
    fn a_statement_speaks_of_exactly_what_it_names() {
        use Verdict::{Allow, Silent};
        for (principal, action, resource, who, verdict) in [
            ("\"*\"", "s3:GetObject", "b/*", None, Allow),
            ("{\"AWS\": \"*\"}", "s3:Get*", "b/k", Some("a"), Allow),
            ("\"*\"", "*", "b/?", Some("a"), Allow),
            ("\"*\"", "s3:getobject", "*", Some("a"), Allow),
            ("\"*\"", "s3:GetObject", "b", Some("a"), Silent),
            ("\"*\"", "s3:GetObject", "b/K", Some("a"), Silent),
            ("\"*\"", "s3:PutObject", "b/*", Some("a"), Silent),
            ("{\"AWS\": \"a\"}", "s3:GetObject", "b/*", Some("a"), Allow),
            ("{\"AWS\": \"arn:aws:iam::a:root\"}", "s3:GetObject", "b/*", Some("a"), Allow),
            ("{\"AWS\": [\"x\", \"arn:aws:iam:::user/a\"]}", "s3:GetObject", "b/*", Some("a"), Allow),
            ("{\"AWS\": \"arn:aws:iam::other:user/a\"}", "s3:GetObject", "b/*", Some("a"), Silent),
            ("{\"CanonicalUser\": \"a\"}", "s3:GetObject", "b/*", Some("a"), Allow),
            ("{\"AWS\": \"arn:aws:iam::x:root\"}", "s3:GetObject", "b/*", Some("a"), Silent),
            ("{\"AWS\": \"a\"}", "s3:GetObject", "b/*", None, Silent),
            ("{\"Service\": \"logging.s3.amazonaws.com\"}", "s3:GetObject", "b/*", Some("a"), Silent),
        ] {
            let policy = format!("{{\"Statement\": {}}}", statement("Allow", principal, action, resource));
            assert_eq!(judge(&policy, who, "s3:GetObject", "b/k"), verdict, "{policy} {who:?}");
        }
    }

    #[test]
    fn a_denial_outweighs_permissions() {
        let policy = format!(
            "{{\"Version\": \"2012-10-17\", \"Statement\": [{}, {}]}}",
            statement("Allow", "\"*\"", "s3:*", "b/*"),
            statement("Deny", "{\"AWS\": \"a\"}", "s3:GetObject", "b/secret/*"),
        );
        assert_eq!(judge(&policy, Some("a"), "s3:GetObject", "b/secret/k"), Verdict::Deny);
        assert_eq!(judge(&policy, Some("a"), "s3:GetObject", "b/k"), Verdict::Allow);
        assert_eq!(judge(&policy, Some("x"), "s3:GetObject", "b/secret/k"), Verdict::Allow);
        let not = "{\"Statement\": {\"Effect\": \"Deny\", \"NotPrincipal\": {\"AWS\": \"a\"}, \"NotAction\": \
                   \"s3:GetObject\", \"NotResource\": \"arn:aws:s3:::b/open/*\"}}";
        assert_eq!(judge(not, Some("x"), "s3:PutObject", "b/k"), Verdict::Deny);
        assert_eq!(judge(not, None, "s3:PutObject", "b/k"), Verdict::Deny);
        assert_eq!(judge(not, Some("a"), "s3:PutObject", "b/k"), Verdict::Silent);
        assert_eq!(judge(not, Some("x"), "s3:GetObject", "b/k"), Verdict::Silent);
        assert_eq!(judge(not, Some("x"), "s3:PutObject", "b/open/k"), Verdict::Silent);
    }

    #[test]
    fn public_is_what_everybody_may_use_from_everywhere() {
        let with = |effect: &str, principal: &str, condition: &str| {
            let policy = format!(
                "{{\"Statement\": [{{\"Effect\": \"{effect}\", \"Principal\": {principal}, \"Action\": \"s3:GetObject\", \
                 \"Resource\": \"arn:aws:s3:::b/*\", \"Condition\": {{{condition}}}}}]}}"
            );
            parse(policy.as_bytes(), "b").unwrap().is_public()
        };
        assert!(with("Allow", "\"*\"", ""));
        assert!(with("Allow", "{\"AWS\": \"*\"}", "\"StringLike\": {\"aws:Referer\": \"http://x/*\"}"));
        assert!(with("Allow", "\"*\"", "\"IpAddress\": {\"aws:SourceIp\": \"0.0.0.0/0\"}"));
        assert!(with("Allow", "\"*\"", "\"NotIpAddress\": {\"aws:SourceIp\": \"10.0.0.0/8\"}"));
        assert!(!with("Allow", "\"*\"", "\"IpAddress\": {\"aws:SourceIp\": \"10.0.0.0/8\"}"));
        assert!(!with("Allow", "\"*\"", "\"StringEquals\": {\"aws:userid\": \"a\"}"));
        assert!(!with("Allow", "{\"AWS\": \"a\"}", ""));
        assert!(!with("Deny", "\"*\"", ""));
    }

    #[test]
    fn patterns_match_as_documented() {
        for (pattern, text, yes) in [
            ("*", "", true),
            ("a*b*c", "a--b--c", true),
            ("a*b*c", "a--c--b", false),
            ("a?c", "aéc", true),
            ("a?c", "ac", false),
            ("*a", "bab", false),
            ("**", "x", true),
            ("", "", true),
            ("", "x", false),
            ("ab", "abc", false),
        ] {
            assert_eq!(like(pattern, text), yes, "{pattern} {text}");
        }
        // Many stars against a long text end in time.
        assert!(!like(&"*a".repeat(100), &"b".repeat(10_000)));
    }
}
