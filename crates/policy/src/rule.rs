//! A whole policy as people write it: `4+2 surviving 1 site and 2 nodes in country=de`.

use std::fmt;

use base::nearest::nearest;
use base::{Demand, Domain, Kind, Kinded};

use crate::Coding;

/// A text that is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no policy: {why}; write for example \"4+2 surviving 1 site in country=de\"")]
pub struct Error {
    /// As given.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

/// A policy: code, losses to survive, and where its drives may be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// The code; `None` follows the ladder.
    pub coding: Option<Coding>,
    /// Losses that data must survive.
    pub demands: Vec<Demand>,
    /// For each kind of label that is named: one of these values.
    pub within: Vec<(Domain, String)>,
}

impl Rule {
    /// Reads a policy. That its labels and domains exist is for placement to say.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let error = |why: String| Error { text: text.to_owned(), why };
        let (head, within) = cut(text.trim(), "in");
        let (code, demands) = cut(head, "surviving");
        let coding = Coding::parse(code).map_err(|found| error(found.why.to_owned()))?;
        let demands = match demands {
            Some(demands) => list(demands).map(demand).collect::<Result<Vec<_>, _>>().map_err(error)?,
            None => Vec::new(),
        };
        let within = match within {
            Some(within) => list(within).map(label).collect::<Result<Vec<_>, _>>().map_err(error)?,
            None => Vec::new(),
        };
        let again = |at: usize| demands[..at].iter().any(|one| one.domain == demands[at].domain);
        if let Some(at) = (0..demands.len()).find(|at| again(*at)) {
            return Err(error(format!("how many are to be survived is said twice for {}", demands[at].domain.name())));
        }
        let parity = coding.map_or(usize::MAX, |coding| coding.m.into());
        if let Some(demand) = demands.iter().find(|demand| usize::from(demand.count) > parity) {
            return Err(error(format!(
                "{} can lose {parity} of its pieces, so it can't survive {demand}",
                code.trim()
            )));
        }
        Ok(Self { coding, demands, within })
    }
}

/// The text before and after a word.
fn cut<'a>(text: &'a str, word: &str) -> (&'a str, Option<&'a str>) {
    let parted = text.split_once(&format!(" {word} "));
    parted.map_or((text, None), |(before, after)| (before, Some(after)))
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').flat_map(|part| part.split(" and ")).flat_map(|part| part.split(" or ")).map(str::trim)
}

fn demand(text: &str) -> Result<Demand, String> {
    let Some((count, name)) = text.split_once(' ') else {
        return Err(format!("{text:?} is not a number and a kind of domain, as in \"1 site\""));
    };
    let count = count.parse().ok().filter(|count| *count > 0);
    let count = count.ok_or_else(|| format!("in {text:?} a number from 1 on must come first"))?;
    let domain = Domain::parse(name).ok_or_else(|| {
        let near = nearest(name.trim(), Domain::ALL.into_iter().map(Domain::name));
        let hint = near.map_or_else(String::new, |near| format!("did you mean {near:?}? "));
        format!("there are no {name:?}: {hint}domains are drive, node, rack, site, country, owner and model")
    })?;
    Ok(Demand { count, domain })
}

fn label(text: &str) -> Result<(Domain, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not of the form label=value"))?;
    let known = Domain::LABELS.into_iter().find(|label| label.name() == name.trim());
    let label = known.ok_or_else(|| {
        let near = nearest(name.trim(), Domain::LABELS.into_iter().map(Domain::name));
        let hint = near.map_or_else(String::new, |near| format!("did you mean {near:?}? "));
        format!("there is no label {name:?}: {hint}labels are rack, site, country, owner and model")
    })?;
    match value.trim() {
        "" => Err(format!("{text:?} names no value")),
        value => Ok((label, value.to_owned())),
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.coding {
            Some(coding) => write!(f, "{coding}")?,
            None => f.write_str("default")?,
        }
        for (at, demand) in self.demands.iter().enumerate() {
            write!(f, "{}{demand}", if at == 0 { " surviving " } else { " and " })?;
        }
        for (at, (label, value)) in self.within.iter().enumerate() {
            write!(f, "{}{label}={value}", if at == 0 { " in " } else { " or " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_and_shown() {
        for (text, shown) in [
            ("4+2", "4+2"),
            ("default", "default"),
            (" 3 copies surviving 2 sites ", "3 copies surviving 2 sites"),
            ("8+4 surviving 1 site, 2 nodes", "8+4 surviving 1 site and 2 nodes"),
            (
                "default surviving 1 country in country=de or country=fr",
                "default surviving 1 country in country=de or country=fr",
            ),
            ("2+2 in owner=anna", "2+2 in owner=anna"),
        ] {
            let rule = Rule::parse(text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(rule.to_string(), shown);
            assert_eq!(Rule::parse(shown).unwrap(), rule);
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_work() {
        for (text, says) in [
            ("4-2", "neither k+m nor a number of copies"),
            ("4+2 surviving sites", "a number and a kind"),
            ("4+2 surviving 1 siet", "did you mean \"site\"?"),
            ("4+2 surviving 0 sites", "number from 1 on"),
            ("4+2 surviving 1 site and 2 sites", "said twice for site"),
            ("4+2 surviving 3 nodes", "can lose 2 of its pieces"),
            ("4+2 in contry=de", "did you mean \"country\"?"),
            ("4+2 in de", "label=value"),
            ("4+2 in site=", "no value"),
        ] {
            let error = Rule::parse(text).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("write for example"), "{text}: {error}");
        }
        let mut seed = 1u64;
        for _ in 0..2000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let words = ["4+2", "surviving", "in", "1", "site", "=", "and", "999", "é", "country=de", ","];
            let text: Vec<&str> = (0..seed % 9).map(|at| words[(seed >> (at * 6)) as usize % words.len()]).collect();
            let _ = Rule::parse(&text.join(" "));
        }
    }
}
