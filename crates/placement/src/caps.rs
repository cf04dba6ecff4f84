//! How many pieces of a group one failure domain may hold.
//!
//! Of each kind of domain the least number is taken that (1) lets a whole group be placed, and
//! (2) leaves no capacity idle for it; between one and m − 1 for nodes, so that the loss of a node
//! leaves a spare piece; above m − 1 only where there is no other way to place n pieces at all. Racks,
//! sites and the like are spread as far as capacity allows, and further only where a policy
//! demands it: two small machines in a second building must not make a large one useless.
//! What that comes to is computed from the tables themselves ([`crate::survive`]), not promised here.

use base::{Demand, Domain, Kind, Kinded};

use crate::place::Places;

/// Share of the capacity that may stay idle for the sake of spreading nodes further than needed.
const IDLE_NODE: f64 = 0.03;
/// The same for racks, sites and so on.
const IDLE_LABEL: f64 = 0.03;
/// Rounds in which capacities are fitted to all caps; it converges in a few.
const ROUNDS: usize = 6;
/// A weight's full scale as an integer.
const WEIGHT_SCALE: f64 = (1u64 << 40) as f64;

/// What a policy asks of placement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Pieces that suffice.
    pub k: u8,
    /// Pieces that may be lost.
    pub m: u8,
    /// Losses that data must survive, beyond what comes by itself.
    pub demands: Vec<Demand>,
}

impl Spec {
    /// k + m without further demands.
    pub fn new(k: u8, m: u8) -> Self {
        Self { k, m, demands: Vec::new() }
    }

    /// Pieces in all.
    pub fn n(&self) -> usize {
        usize::from(self.k) + usize::from(self.m)
    }

    /// `3 copies`, `4+2 surviving 1 site and 2 nodes`.
    pub fn text(&self) -> String {
        let mut text = match (self.k, self.m) {
            (1, 0) => "1 copy".to_owned(),
            (1, m) => format!("{} copies", u16::from(m) + 1),
            (k, m) => format!("{k}+{m}"),
        };
        for (at, demand) in self.demands.iter().enumerate() {
            text += &format!("{}{demand}", if at == 0 { " surviving " } else { " and " });
        }
        text
    }
}

/// Why a policy can't be met.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct Unmet {
    /// The policy's text.
    pub policy: String,
    /// What there are too few of.
    pub domain: Domain,
    /// How many it takes; 0 if no number is enough.
    pub need: usize,
    /// How many there are that take new pieces.
    pub have: usize,
    /// What the number comes from.
    pub why: String,
    /// What would work.
    pub works: String,
}

impl Unmet {
    fn text(&self) -> String {
        let Self { policy, domain, need, have, why, works } = self;
        let works = if works.is_empty() { String::new() } else { format!("; {works}") };
        if *need == 0 {
            return format!("{policy} is not possible{why}{works}");
        }
        let are = if *have == 1 { "is" } else { "are" };
        format!("{policy} needs {}{why}, and there {are} {have}{works}", domain.count(*need))
    }
}

impl Kinded for Unmet {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

/// The most pieces of a group that one domain of each kind may hold, and what the drives are worth
/// under that rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Caps {
    /// In the order of [`Domain::ALL`].
    pub most: [usize; Domain::COUNT],
    /// What is tried for first: as few as there can be.
    pub goal: [usize; Domain::COUNT],
    /// By place: the share of the pieces that is fair. Zero where closed.
    pub weights: Vec<u64>,
    /// The part of the open capacity that can be used, in thousandths.
    pub usable_permille: u16,
}

impl Caps {
    /// For one kind of domain.
    pub fn of(&self, domain: Domain) -> usize {
        self.most[domain as usize]
    }

    /// The best that can be done; with the first demand that isn't met.
    pub fn best(places: &Places, spec: &Spec) -> (Self, Option<Unmet>) {
        Fit::new(places, spec).run()
    }

    /// Caps that meet the policy, or why there are none and which of `codes` (k, m) would be
    /// possible with the same demands.
    pub fn check(places: &Places, spec: &Spec, codes: &[(u8, u8)]) -> Result<Self, Unmet> {
        let (caps, unmet) = Self::best(places, spec);
        let Some(mut unmet) = unmet else { return Ok(caps) };
        let fits = |demands: &[Demand]| {
            let specs = codes.iter().map(|(k, m)| Spec { k: *k, m: *m, demands: demands.to_vec() });
            specs.into_iter().find(|other| Self::best(places, other).1.is_none())
        };
        let missing = unmet.domain.count(unmet.need.saturating_sub(unmet.have).max(1)).replacen(' ', " more ", 1);
        let more = match unmet.domain {
            _ if unmet.need == 0 => "take a code with more parity".to_owned(),
            label if Domain::LABELS.contains(&label) => format!("label nodes of {missing}"),
            _ => format!("add {missing}"),
        };
        unmet.works = match (fits(&spec.demands), fits(&[])) {
            (Some(other), _) => format!("{more}, or take \"{}\", which would work", other.text()),
            (None, Some(other)) => {
                format!("{more}, or take \"{}\", which would work, without the demand", other.text())
            }
            (None, None) => more,
        };
        Err(unmet)
    }
}

struct Fit<'a> {
    places: &'a Places,
    spec: &'a Spec,
    n: usize,
    most: [usize; Domain::COUNT],
    goal: [usize; Domain::COUNT],
    weights: Vec<f64>,
    unmet: Option<Unmet>,
}

impl<'a> Fit<'a> {
    fn new(places: &'a Places, spec: &'a Spec) -> Self {
        let n = spec.n();
        let weights =
            places.list().iter().map(|place| if place.open { place.weight.max(1) as f64 } else { 0.0 }).collect();
        let mut most = [n; Domain::COUNT];
        most[Domain::Drive as usize] = 1;
        Self { places, spec, n, most, goal: most, weights, unmet: None }
    }

    fn run(mut self) -> (Caps, Option<Unmet>) {
        let all: f64 = self.weights.iter().sum();
        let open = self.places.open().count();
        self.check_parity();
        if open < self.n {
            self.fail(Domain::Drive, self.n, open, String::new());
        }
        self.clip(Domain::Drive);
        for domain in &Domain::ALL[1..] {
            self.fit(*domain);
        }
        for _ in 0..ROUNDS {
            for domain in Domain::ALL {
                self.clip(domain);
            }
        }
        let usable = self.weights.iter().sum::<f64>() / all.max(1.0);
        let top = self.weights.iter().copied().fold(0.0, f64::max).max(f64::MIN_POSITIVE);
        let whole = |weight: &f64| if *weight > 0.0 { ((weight / top * WEIGHT_SCALE) as u64).max(1) } else { 0 };
        let weights = self.weights.iter().map(whole).collect();
        let caps =
            Caps { most: self.most, goal: self.goal, weights, usable_permille: (usable * 1000.0).round() as u16 };
        (caps, self.unmet)
    }

    fn fail(&mut self, domain: Domain, need: usize, have: usize, why: String) {
        let (policy, works) = (self.spec.text(), String::new());
        self.unmet.get_or_insert(Unmet { policy, domain, need, have, why, works });
    }

    /// Losses of more domains than there are parity pieces can't be survived, wherever pieces are.
    fn check_parity(&mut self) {
        for demand in self.spec.demands.clone() {
            if demand.pieces_max(self.spec.m) == 0 {
                let lost = if self.spec.m == 1 { "piece" } else { "pieces" };
                let why = format!(": it can do without {} {lost}, and each domain holds one at least", self.spec.m);
                self.fail(demand.domain, 0, self.places.count(demand.domain), why);
            }
        }
    }

    /// Chooses the cap for a kind of domain, and fits the weights to it.
    fn fit(&mut self, domain: Domain) {
        let demand = self.spec.demands.iter().filter(|demand| demand.domain == domain).max_by_key(|one| one.count);
        if !self.places.knows(domain) && demand.is_none() {
            return;
        }
        let demanded = demand.map(|demand| demand.pieces_max(self.spec.m));
        let room = self.room(domain);
        let least = (1..=self.n).find(|most| room.iter().map(|room| (*room).min(*most)).sum::<usize>() >= self.n);
        let least = least.unwrap_or(self.n);
        if let Some(most) = demanded
            && most > 0
            && least > most
        {
            let have = room.iter().filter(|room| **room > 0).count();
            let need = self.n.div_ceil(most);
            let each = if have >= need { format!(" with {most} drives each") } else { String::new() };
            let why = format!("{each} (at most {most} of its {} pieces in one)", self.n);
            self.fail(domain, need, have, why);
        }
        let spare = usize::from(self.spec.m).saturating_sub(1).max(1);
        let (highest, idle) = match (demanded, domain) {
            (Some(most), _) => (most, IDLE_NODE),
            (None, Domain::Node) => (spare, IDLE_NODE),
            (None, _) => (self.n, IDLE_LABEL),
        };
        let sums = self.sums(domain);
        let all: f64 = sums.iter().sum();
        let enough = |most: &usize| usable(&sums, *most, self.n) >= all * (1.0 - idle);
        self.most[domain as usize] = (least..=highest).find(enough).unwrap_or(highest.max(least));
        self.goal[domain as usize] = least;
        self.clip(domain);
    }

    /// Capacity that is open in each domain.
    fn sums(&self, domain: Domain) -> Vec<f64> {
        let mut sums = vec![0.0; self.places.count(domain).max(1)];
        for (place, weight) in self.places.list().iter().zip(&self.weights) {
            sums[place.at[domain as usize] as usize] += weight;
        }
        sums
    }

    /// Pieces of a group that each domain has room for, given the cap for nodes.
    fn room(&self, domain: Domain) -> Vec<usize> {
        let mut drives = vec![0usize; self.places.count(Domain::Node).max(1)];
        let mut room = vec![0; self.places.count(domain).max(1)];
        for (_, place) in self.places.open() {
            let node = &mut drives[place.at[Domain::Node as usize] as usize];
            if domain == Domain::Node || *node < self.most[Domain::Node as usize] {
                room[place.at[domain as usize] as usize] += 1;
            }
            *node += 1;
        }
        room
    }

    /// Takes from each domain what its cap keeps from being used.
    fn clip(&mut self, domain: Domain) {
        let most = self.most[domain as usize];
        if most >= self.n {
            return;
        }
        let sums = self.sums(domain);
        let limit = limit(&sums, most, self.n);
        for (place, weight) in self.places.list().iter().zip(&mut self.weights) {
            let sum = sums[place.at[domain as usize] as usize];
            if sum > limit {
                *weight *= limit / sum;
            }
        }
    }
}

/// The most capacity of one domain that can be used if it may hold `most` of `n` pieces: x such that
/// x = most / n · Σ min(sum, x). Zero if there are too few domains for any.
fn limit(sums: &[f64], most: usize, n: usize) -> f64 {
    let mut order: Vec<f64> = sums.iter().copied().filter(|sum| *sum > 0.0).collect();
    order.sort_by(|a, b| b.total_cmp(a));
    let mut rest: f64 = order.iter().sum();
    for (clipped, sum) in order.iter().enumerate() {
        let left = n.saturating_sub(clipped * most);
        if left == 0 {
            break;
        }
        let limit = most as f64 * rest / left as f64;
        if *sum <= limit * (1.0 + 1e-12) {
            return limit;
        }
        rest -= sum;
    }
    // As many domains as it takes, no more: each must hold as much as the smallest.
    order.last().copied().unwrap_or(0.0)
}

fn usable(sums: &[f64], most: usize, n: usize) -> f64 {
    if most >= n {
        return sums.iter().sum();
    }
    let limit = limit(sums, most, n);
    sums.iter().map(|sum| sum.min(limit)).sum()
}
