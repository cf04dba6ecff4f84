//! What a node's owner says of it: `site=office`, `owner=anna`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use base::nearest::nearest;
use base::{Domain, Kind, Kinded, NodeId};

/// Bytes of a label's value at the most.
pub const VALUE_BYTES_MAX: usize = 64;

/// Why a label isn't taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not `name=value`.
    #[error("label {text:?} is not of the form name=value: write for example \"site=office\"")]
    Form {
        /// As given.
        text: String,
    },
    /// No label has this name.
    #[error("there is no label {name:?}: {nearest}labels are rack, site, country, owner and model")]
    Name {
        /// As given.
        name: String,
        /// A hint that ends in a space, or nothing.
        nearest: String,
    },
    /// A value that can't be.
    #[error("label {name}={value:?} is not possible: {why}")]
    Value {
        /// The label.
        name: Domain,
        /// As given.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A label was given twice.
    #[error("label {name} is given twice: {one:?} and {other:?}")]
    Twice {
        /// The label.
        name: Domain,
        /// One value.
        one: String,
        /// The other.
        other: String,
    },
    /// A new value that looks like a known one.
    #[error("no node has {name}={value:?} yet, but {nodes} {verb} {name}={nearest:?}: did you mean that? To say that it is a new {name}, repeat it with \"{name}={value}!\"", verb = if *.nodes == 1 { "node has" } else { "nodes have" })]
    Near {
        /// The label.
        name: Domain,
        /// As given.
        value: String,
        /// The known value.
        nearest: String,
        /// How many nodes have that.
        nodes: usize,
    },
    /// A site lies in one country only.
    #[error("site {site:?} lies in {one:?} according to node {node}, so it can't lie in {other:?}")]
    Country {
        /// The site.
        site: String,
        /// Where it lies.
        one: String,
        /// Where it was said to lie.
        other: String,
        /// A node that is there.
        node: NodeId,
    },
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Form { .. } | Error::Name { .. } | Error::Value { .. } | Error::Twice { .. } => Kind::Invalid,
            Error::Near { .. } | Error::Country { .. } => Kind::Conflict,
        }
    }
}

/// A node's labels. What it doesn't say is the empty text.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Labels([String; Domain::LABELS.len()]);

impl Labels {
    /// The value of a label; empty if there is none, and for kinds that are no label.
    pub fn get(&self, label: Domain) -> &str {
        let at = Domain::LABELS.iter().position(|one| *one == label);
        at.map_or("", |at| self.0[at].as_str())
    }

    /// Sets a label to a value, empty for none; checks the value's form.
    pub fn set(&mut self, label: Domain, value: &str) -> Result<(), Error> {
        let why = if value.len() > VALUE_BYTES_MAX {
            "it may have 64 bytes at the most"
        } else if value.chars().any(|c| c.is_control() || c.is_whitespace() || "=!,/\"".contains(c)) {
            "it may hold no spaces, quotes, commas, slashes, \"=\" or \"!\""
        } else if let Some(at) = Domain::LABELS.iter().position(|one| *one == label) {
            self.0[at] = value.to_owned();
            return Ok(());
        } else {
            "drives and nodes are named by their ids"
        };
        Err(Error::Value { name: label, value: value.to_owned(), why })
    }

    /// Reads `name=value` texts. `known` are the labels of the cluster's other nodes: a new value that
    /// is all but the same as a known one is taken for a slip, unless it ends in `!`.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>, known: &[(NodeId, &Labels)]) -> Result<Self, Error> {
        let mut labels = Self::default();
        for text in texts {
            let (name, value) = text.split_once('=').ok_or_else(|| Error::Form { text: text.to_owned() })?;
            let label = label(name)?;
            let (value, is_new) = value.strip_suffix('!').map_or((value, false), |value| (value, true));
            if value.is_empty() {
                return Err(Error::Form { text: text.to_owned() });
            }
            if !labels.get(label).is_empty() {
                let (one, other) = (labels.get(label).to_owned(), value.to_owned());
                return Err(Error::Twice { name: label, one, other });
            }
            labels.set(label, value)?;
            if !is_new {
                not_a_slip(label, value, known)?;
            }
        }
        labels.fits(known)?;
        Ok(labels)
    }

    /// Whether the other nodes agree about where the site is.
    pub fn fits(&self, known: &[(NodeId, &Labels)]) -> Result<(), Error> {
        let (site, country) = (self.get(Domain::Site), self.get(Domain::Country));
        let differs = |(_, other): &&(NodeId, &Labels)| {
            let there = other.get(Domain::Country);
            other.get(Domain::Site) == site && !there.is_empty() && there != country
        };
        match known.iter().find(differs) {
            Some((node, other)) if !site.is_empty() && !country.is_empty() => Err(Error::Country {
                site: site.to_owned(),
                one: other.get(Domain::Country).to_owned(),
                other: country.to_owned(),
                node: *node,
            }),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = Domain::LABELS.into_iter().filter(|label| !self.get(*label).is_empty());
        let shown: Vec<String> = set.map(|label| format!("{label}={}", self.get(label))).collect();
        f.write_str(&shown.join(" "))
    }
}

fn label(name: &str) -> Result<Domain, Error> {
    let plain = name.trim().to_ascii_lowercase();
    let found = Domain::LABELS.into_iter().find(|label| label.name() == plain);
    found.ok_or_else(|| {
        let near = nearest(&plain, Domain::LABELS.into_iter().map(Domain::name));
        let nearest = near.map_or(String::new(), |near| format!("did you mean {near:?}? "));
        Error::Name { name: name.to_owned(), nearest }
    })
}

fn not_a_slip(label: Domain, value: &str, known: &[(NodeId, &Labels)]) -> Result<(), Error> {
    let values: BTreeSet<&str> =
        known.iter().map(|(_, labels)| labels.get(label)).filter(|one| !one.is_empty()).collect();
    if values.contains(value) {
        return Ok(());
    }
    match nearest(value, values.iter().copied()) {
        // Numbered names are near each other on purpose: rack r1 is no slip for r2.
        Some(near) if !differ_in_digits(value, near) => Err(Error::Near {
            name: label,
            value: value.to_owned(),
            nearest: near.to_owned(),
            nodes: known.iter().filter(|(_, labels)| labels.get(label) == near).count(),
        }),
        _ => Ok(()),
    }
}

fn differ_in_digits(a: &str, b: &str) -> bool {
    let letters = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    a != b && letters(a) == letters(b)
}

/// A value that a policy names, if some node has it; else an error that names the nearest one.
pub fn known_value<'a>(label: Domain, value: &str, known: impl IntoIterator<Item = &'a Labels>) -> Result<(), String> {
    let mut values: BTreeMap<&str, usize> = BTreeMap::new();
    for labels in known {
        *values.entry(labels.get(label)).or_insert(0) += 1;
    }
    values.remove("");
    if values.contains_key(value) {
        return Ok(());
    }
    let hint = match nearest(value, values.keys().copied()) {
        Some(near) => format!("did you mean {near:?}?"),
        None if values.is_empty() => format!("no node has a label {label}"),
        None => format!("there are {}", values.keys().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(", ")),
    };
    Err(format!("no node has {label}={value:?}: {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(texts: &[&str]) -> Labels {
        Labels::parse(texts.iter().copied(), &[]).unwrap()
    }

    #[test]
    fn labels_are_read_and_shown() {
        let read = labels(&["site=office", "Owner=anna", "country=de"]);
        assert_eq!(read.to_string(), "site=office country=de owner=anna");
        assert_eq!(read.get(Domain::Rack), "");
    }

    #[test]
    fn a_slip_is_answered_with_the_nearest_known_label() {
        let office = labels(&["site=office", "rack=r1", "country=de"]);
        let known = [(NodeId([1; 16]), &office)];
        let refused = |text| Labels::parse([text], &known).unwrap_err().to_string();
        assert!(refused("siet=office").contains("did you mean \"site\"?"), "{}", refused("siet=office"));
        assert!(refused("site=ofice").contains("site=\"office\": did you mean that?"), "{}", refused("site=ofice"));
        assert!(refused("site=Office").contains("\"office\""));
        assert!(refused("color=red").contains("labels are rack"));
        assert!(refused("office").contains("name=value"));
        assert!(refused("site=").contains("name=value"));
        assert!(refused("site=a b").contains("no spaces"));
        assert!(Labels::parse(["site=a", "site=b"], &known).unwrap_err().to_string().contains("twice"));
        for fine in ["site=office", "site=ofice!", "site=cellar", "rack=r2", "rack=r11"] {
            Labels::parse([fine], &known).unwrap_or_else(|error| panic!("{fine}: {error}"));
        }
        assert_eq!(Labels::parse(["site=ofice!"], &known).unwrap().get(Domain::Site), "ofice");
        let elsewhere = Labels::parse(["site=office", "country=fr"], &known).unwrap_err();
        assert!(matches!(elsewhere, Error::Country { .. }), "{elsewhere}");
    }

    #[test]
    fn a_value_in_a_policy_must_be_somebodys() {
        let all = [labels(&["country=de"]), labels(&["country=france"])];
        known_value(Domain::Country, "de", &all).unwrap();
        assert!(known_value(Domain::Country, "frnace", &all).unwrap_err().contains("did you mean \"france\"?"));
        assert!(known_value(Domain::Country, "it", &all).unwrap_err().contains("there are \"de\", \"france\""));
        assert!(known_value(Domain::Site, "x", &all).unwrap_err().contains("no node has a label site"));
    }
}
