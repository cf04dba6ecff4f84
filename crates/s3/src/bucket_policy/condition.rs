//! Conditions of a statement.

use std::net::IpAddr;

use super::like;

/// Values of a condition key (in lower case) in a request; none if it has none.
pub type Values<'a> = dyn Fn(&str) -> Vec<String> + Sync + 'a;

/// One key under one operator.
#[derive(Debug)]
pub struct Clause {
    quantifier: Quantifier,
    operator: Operator,
    /// A request without the key passes.
    if_exists: bool,
    key: String,
    wanted: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quantifier {
    /// The key has one value.
    One,
    All,
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Null,
    /// Whether one of the wanted values fits, or none of them does (`not`).
    Fit {
        how: How,
        not: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Equals,
    EqualsIgnoreCase,
    Like,
    Bool,
    Ip,
    Number(Order),
    Date(Order),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Equal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

impl Order {
    fn holds(self, have: f64, wanted: f64) -> bool {
        match self {
            Order::Equal => have == wanted,
            Order::Less => have < wanted,
            Order::LessEqual => have <= wanted,
            Order::Greater => have > wanted,
            Order::GreaterEqual => have >= wanted,
        }
    }

    fn parse(name: &str) -> Option<(Order, bool)> {
        Some(match name {
            "Equals" => (Order::Equal, false),
            "NotEquals" => (Order::Equal, true),
            "LessThan" => (Order::Less, false),
            "LessThanEquals" => (Order::LessEqual, false),
            "GreaterThan" => (Order::Greater, false),
            "GreaterThanEquals" => (Order::GreaterEqual, false),
            _ => return None,
        })
    }
}

impl Operator {
    fn parse(name: &str) -> Option<Operator> {
        if let Some(order) = name.strip_prefix("Numeric") {
            return Order::parse(order).map(|(order, not)| Operator::Fit { how: How::Number(order), not });
        }
        if let Some(order) = name.strip_prefix("Date") {
            return Order::parse(order).map(|(order, not)| Operator::Fit { how: How::Date(order), not });
        }
        let fit = |how, not| Some(Operator::Fit { how, not });
        match name {
            "Null" => Some(Operator::Null),
            "StringEquals" => fit(How::Equals, false),
            "StringNotEquals" => fit(How::Equals, true),
            "StringEqualsIgnoreCase" => fit(How::EqualsIgnoreCase, false),
            "StringNotEqualsIgnoreCase" => fit(How::EqualsIgnoreCase, true),
            "StringLike" | "ArnLike" | "ArnEquals" => fit(How::Like, false),
            "StringNotLike" | "ArnNotLike" | "ArnNotEquals" => fit(How::Like, true),
            "Bool" => fit(How::Bool, false),
            "IpAddress" => fit(How::Ip, false),
            "NotIpAddress" => fit(How::Ip, true),
            _ => None,
        }
    }
}

impl How {
    fn fits(self, have: &str, wanted: &str) -> bool {
        match self {
            How::Equals => have == wanted,
            How::EqualsIgnoreCase => have.to_lowercase() == wanted.to_lowercase(),
            How::Like => like(wanted, have),
            How::Bool => have.eq_ignore_ascii_case(wanted),
            How::Ip => match (have.parse::<IpAddr>(), network(wanted)) {
                (Ok(have), Some(network)) => within(have, network),
                _ => false,
            },
            How::Number(order) => match (have.parse(), wanted.parse()) {
                (Ok(have), Ok(wanted)) => order.holds(have, wanted),
                _ => false,
            },
            How::Date(order) => match (date(have), date(wanted)) {
                (Some(have), Some(wanted)) => order.holds(have, wanted),
                _ => false,
            },
        }
    }

    /// Whether a wanted value can be read.
    fn takes(self, wanted: &str) -> bool {
        match self {
            How::Ip => network(wanted).is_some(),
            How::Number(_) => wanted.parse::<f64>().is_ok(),
            How::Date(_) => date(wanted).is_some(),
            How::Bool => is_bool(wanted),
            How::Equals | How::EqualsIgnoreCase | How::Like => true,
        }
    }
}

fn is_bool(text: &str) -> bool {
    text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false")
}

fn date(text: &str) -> Option<f64> {
    match crate::conditions::parse_iso_date(text) {
        Some(secs) => Some(secs as f64),
        None => text.parse().ok(),
    }
}

/// An address and how many of its bits count.
fn network(text: &str) -> Option<(IpAddr, u32)> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse::<u32>().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(most);
    (bits <= most).then_some((address, bits))
}

fn within(have: IpAddr, (network, bits): (IpAddr, u32)) -> bool {
    match (have.to_canonical(), network) {
        (IpAddr::V4(have), IpAddr::V4(network)) => {
            let differ = have.to_bits() ^ network.to_bits();
            bits == 0 || differ >> (32 - bits) == 0
        }
        (IpAddr::V6(have), IpAddr::V6(network)) => {
            let differ = have.to_bits() ^ network.to_bits();
            bits == 0 || differ >> (128 - bits) == 0
        }
        _ => false,
    }
}

/// Keys of S3's own that this face can tell the value of.
const KEYS: &[&str] = &[
    "s3:prefix",
    "s3:delimiter",
    "s3:max-keys",
    "s3:versionid",
    "s3:authtype",
    "s3:signatureversion",
    "s3:x-amz-acl",
    "s3:x-amz-grant-read",
    "s3:x-amz-grant-write",
    "s3:x-amz-grant-read-acp",
    "s3:x-amz-grant-write-acp",
    "s3:x-amz-grant-full-control",
    "s3:x-amz-copy-source",
    "s3:x-amz-metadata-directive",
    "s3:x-amz-server-side-encryption",
    "s3:x-amz-server-side-encryption-aws-kms-key-id",
    "s3:x-amz-server-side-encryption-customer-algorithm",
    "s3:x-amz-storage-class",
    "s3:x-amz-website-redirect-location",
    "s3:x-amz-content-sha256",
    "s3:x-amz-object-ownership",
    "s3:if-match",
    "s3:if-none-match",
    "s3:requestobjecttagkeys",
];

/// Global keys that every request has a value for, or truly none.
const GLOBAL: &[&str] = &[
    "aws:sourceip",
    "aws:securetransport",
    "aws:referer",
    "aws:useragent",
    "aws:currenttime",
    "aws:epochtime",
    "aws:userid",
    "aws:username",
    "aws:principalaccount",
    // Only Amazon's services and networks set these: absent here.
    "aws:sourcearn",
    "aws:sourceaccount",
    "aws:sourcevpc",
    "aws:sourcevpce",
    "aws:vpcsourceip",
    "aws:principalorgid",
    "aws:principalarn",
    "aws:principalservicename",
    "aws:viaawsservice",
    "aws:multifactorauthpresent",
    "aws:multifactorauthage",
];

fn is_key(key: &str) -> bool {
    let tag = ["s3:existingobjecttag/", "s3:requestobjecttag/"].iter().any(|prefix| key.starts_with(prefix));
    tag || KEYS.contains(&key) || GLOBAL.contains(&key)
}

impl Clause {
    /// A clause; says why it can't be judged.
    pub fn new(operator: &str, key: &str, wanted: Vec<String>) -> Result<Clause, String> {
        let (quantifier, name) = match operator.split_once(':') {
            None => (Quantifier::One, operator),
            Some(("ForAllValues", name)) => (Quantifier::All, name),
            Some(("ForAnyValue", name)) => (Quantifier::Any, name),
            Some(_) => return Err("unknown operator".to_owned()),
        };
        let (name, if_exists) = match name.strip_suffix("IfExists") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let operator = Operator::parse(name).ok_or("unknown operator")?;
        // Names of keys have no case, but those of tags do.
        let key = match key.split_once('/') {
            Some((name, tag)) => format!("{}/{tag}", name.to_lowercase()),
            None => key.to_lowercase(),
        };
        if !is_key(&key) {
            return Err(format!("unknown condition key {key}"));
        }
        let takes = |wanted: &String| match operator {
            Operator::Null => is_bool(wanted),
            Operator::Fit { how, .. } => how.takes(wanted),
        };
        match wanted.iter().find(|wanted| !takes(wanted)) {
            Some(wanted) => Err(format!("value {wanted} can't be read")),
            None if wanted.is_empty() => Err("no value".to_owned()),
            None => Ok(Clause { quantifier, operator, if_exists, key, wanted }),
        }
    }

    /// Whether it holds for a request.
    pub fn holds(&self, values: &Values<'_>) -> bool {
        let have = values(&self.key);
        let (how, not) = match self.operator {
            Operator::Null => {
                return self.wanted.iter().any(|wanted| wanted.eq_ignore_ascii_case("true") == have.is_empty());
            }
            Operator::Fit { how, not } => (how, not),
        };
        if have.is_empty() {
            return self.if_exists || (not && self.quantifier == Quantifier::One) || self.quantifier == Quantifier::All;
        }
        let one = |have: &String| self.wanted.iter().any(|wanted| how.fits(have, wanted)) != not;
        match self.quantifier {
            Quantifier::All => have.iter().all(one),
            // A key with one value is the common case; a negation must hold for all of several.
            Quantifier::One if not => have.iter().all(one),
            Quantifier::One | Quantifier::Any => have.iter().any(one),
        }
    }

    /// Whether it closes a statement to the public: fixed addresses or identities.
    pub fn narrows(&self) -> bool {
        let Operator::Fit { how, not: false } = self.operator else { return false };
        if self.if_exists || self.quantifier == Quantifier::All {
            return false;
        }
        match self.key.as_str() {
            "aws:sourceip" => {
                let wide = |(address, bits): (IpAddr, u32)| bits < if address.is_ipv4() { 8 } else { 32 };
                how == How::Ip && !self.wanted.iter().filter_map(|wanted| network(wanted)).any(wide)
            }
            "aws:sourcearn"
            | "aws:sourceaccount"
            | "aws:sourcevpc"
            | "aws:sourcevpce"
            | "aws:principalorgid"
            | "aws:principalarn"
            | "aws:principalaccount"
            | "aws:userid"
            | "aws:username" => !self.wanted.iter().any(|wanted| wanted.contains(['*', '?'])),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(operator: &str, key: &str, wanted: &[&str], have: &[&str]) -> bool {
        let wanted = wanted.iter().map(|text| (*text).to_owned()).collect();
        let values = |_: &str| have.iter().map(|text| (*text).to_owned()).collect();
        Clause::new(operator, key, wanted).unwrap().holds(&values)
    }

    #[test]
    fn operators_judge_as_documented() {
        for (operator, wanted, have, yes) in [
            ("StringEquals", &["a", "b"][..], &["b"][..], true),
            ("StringEquals", &["a"], &["A"], false),
            ("StringEquals", &["a"], &[], false),
            ("StringEqualsIfExists", &["a"], &[], true),
            ("StringEqualsIfExists", &["a"], &["b"], false),
            ("StringNotEquals", &["a", "b"], &["b"], false),
            ("StringNotEquals", &["a"], &["b"], true),
            ("StringNotEquals", &["a"], &[], true),
            ("StringEqualsIgnoreCase", &["a"], &["A"], true),
            ("StringLike", &["pub*"], &["public"], true),
            ("StringNotLike", &["pub*"], &["public"], false),
            ("Null", &["true"], &[], true),
            ("Null", &["true"], &["x"], false),
            ("Null", &["false"], &["x"], true),
            ("NumericLessThanEquals", &["10"], &["10"], true),
            ("NumericLessThanEquals", &["10"], &["11"], false),
            ("NumericGreaterThan", &["10"], &["x"], false),
            ("DateLessThan", &["2030-01-01T00:00:00Z"], &["2026-11-21T00:00:00Z"], true),
            ("DateGreaterThan", &["2030-01-01T00:00:00Z"], &["2026-11-21T00:00:00Z"], false),
            ("Bool", &["true"], &["True"], true),
            ("IpAddress", &["10.1.0.0/16"], &["10.1.2.3"], true),
            ("IpAddress", &["10.1.0.0/16"], &["10.2.2.3"], false),
            ("IpAddress", &["10.1.2.3"], &["10.1.2.3"], true),
            ("IpAddress", &["0.0.0.0/0"], &["::1"], false),
            ("IpAddress", &["0.0.0.0/0"], &["::ffff:1.2.3.4"], true),
            ("IpAddress", &["2001:db8::/32"], &["2001:db8::1"], true),
            ("NotIpAddress", &["10.0.0.0/8"], &["10.1.1.1"], false),
            ("ForAllValues:StringEquals", &["a", "b"], &["a", "b"], true),
            ("ForAllValues:StringEquals", &["a"], &["a", "b"], false),
            ("ForAllValues:StringEquals", &["a"], &[], true),
            ("ForAnyValue:StringEquals", &["a"], &["a", "b"], true),
            ("ForAnyValue:StringEquals", &["a"], &[], false),
        ] {
            assert_eq!(holds(operator, "aws:SourceIp", wanted, have), yes, "{operator} {wanted:?} {have:?}");
        }
    }

    #[test]
    fn names_of_tags_keep_their_case_and_other_keys_have_none() {
        let clause = |key| Clause::new("StringEquals", key, vec!["x".to_owned()]);
        assert_eq!(clause("s3:ExistingObjectTag/Team").unwrap().key, "s3:existingobjecttag/Team");
        assert_eq!(clause("AWS:sourceIP").unwrap().key, "aws:sourceip");
        assert!(clause("s3:nonsense").is_err());
    }
}
