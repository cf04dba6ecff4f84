//! The chain of one group: states are the numbers of missing pieces, from 0 to n − k, and lost.
//!
//! With j pieces missing, the next is lost at rate (n − j)·λ. Repair goes
//!
//! * eagerly: j → j − 1 at rate j·μ. Every missing piece is rebuilt by itself in 1/μ days on average;
//! * lazily: j → 0 at rate μ, once no more than `at` pieces are left: one job rebuilds all that is missing.
//!
//! Expected times come from a recurrence of positive terms (Keilson, "Markov Chain Models — Rarity and
//! Exponentiality", 1979, §5): t(j), the time from j to j + 1, is 1/λ(j) + μ(j)/λ(j) · (t(back) + … + t(j − 1)).

use base::{Kind, Kinded};

use crate::YEAR_DAYS;
use crate::matrix;

/// Why there is no such chain.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// Not 1 ≤ k ≤ n.
    #[error("{k} of {n} pieces is no code: k must be at least 1 and n at least k")]
    Code {
        /// Pieces that suffice.
        k: u8,
        /// Pieces in all.
        n: u8,
    },
    /// A repair that starts where nothing is missing or nothing can be read.
    #[error("repair can't start at {at} pieces of {n} when {k} are needed: take a number from {k} to {n} - 1")]
    Trigger {
        /// Pieces left when repair starts.
        at: u8,
        /// Pieces that suffice.
        k: u8,
        /// Pieces in all.
        n: u8,
    },
    /// A rate that is negative or no number.
    #[error("{what} can't be {value}: it must be a number from 0 on")]
    Rate {
        /// Which.
        what: &'static str,
        /// As given.
        value: f64,
    },
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

/// When missing pieces are rebuilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Each by itself, at once.
    Eager,
    /// All together, when no more than this many are left.
    Lazy {
        /// Pieces left when the job starts.
        at: u8,
    },
}

/// One group of n pieces, k of which suffice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chain {
    k: u8,
    n: u8,
    fail_per_day: f64,
    repair_per_day: f64,
    repair: Repair,
}

impl Chain {
    /// A group of k + m pieces whose drives fail at `fail_per_day` each, with `repair_days` from a loss to
    /// its repair on average (noticing included); infinite if nothing is repaired.
    pub fn eager(k: u8, m: u8, fail_per_day: f64, repair_days: f64) -> Result<Self, Error> {
        let n = k.checked_add(m).ok_or(Error::Code { k, n: u8::MAX })?;
        Self::new(k, n, fail_per_day, repair_days, Repair::Eager)
    }

    /// A group of n pieces that is left alone until no more than `at` are left; then all are rebuilt, on average
    /// `repair_days` later. Written k/n@at by others.
    pub fn lazy(k: u8, n: u8, at: u8, fail_per_day: f64, repair_days: f64) -> Result<Self, Error> {
        Self::new(k, n, fail_per_day, repair_days, Repair::Lazy { at })
    }

    /// Of any kind.
    pub fn new(k: u8, n: u8, fail_per_day: f64, repair_days: f64, repair: Repair) -> Result<Self, Error> {
        if k == 0 || n < k {
            return Err(Error::Code { k, n });
        }
        if let Repair::Lazy { at } = repair
            && !(k..n).contains(&at)
        {
            return Err(Error::Trigger { at, k, n });
        }
        if !(fail_per_day >= 0.0 && fail_per_day.is_finite()) {
            return Err(Error::Rate { what: "the rate of failures", value: fail_per_day });
        }
        if repair_days.is_nan() || repair_days <= 0.0 {
            return Err(Error::Rate { what: "the time of a repair", value: repair_days });
        }
        Ok(Self { k, n, fail_per_day, repair_per_day: repair_days.recip(), repair })
    }

    /// Missing pieces that a group can have and still be read: n − k.
    pub fn parity(&self) -> u8 {
        self.n - self.k
    }

    /// Expected days to loss from full strength. Infinite if drives never fail, or beyond 1e308 days.
    pub fn days_to_loss(&self) -> f64 {
        self.days_to_loss_from(0)
    }

    /// Expected days to loss with so many pieces missing now; 0 if it is lost already.
    ///
    /// A group that is likely to be repaired in time has nearly the full expectation: to judge a
    /// degraded group look at [`Chain::loss_within`] too.
    pub fn days_to_loss_from(&self, missing: u8) -> f64 {
        if missing > self.parity() {
            return 0.0;
        }
        self.steps().split_off(usize::from(missing)).iter().sum()
    }

    /// Probability that a group is lost within a year, in the long run: by the rate of one in
    /// [`Chain::days_to_loss`].
    ///
    /// In its very first year a group that is repaired lazily is safer, as it takes a while until the first job:
    /// [`Chain::loss_within`] tells how much.
    pub fn loss_per_year(&self) -> f64 {
        -(-YEAR_DAYS / self.days_to_loss()).exp_m1()
    }

    /// Probability that a group with so many pieces missing now is lost within the next `days`.
    pub fn loss_within(&self, missing: u8, days: f64) -> f64 {
        if missing > self.parity() {
            return 1.0;
        }
        if days.is_nan() || days <= 0.0 {
            return 0.0;
        }
        let lost = usize::from(self.parity()) + 1;
        matrix::after(&self.rates(), days)[usize::from(missing)][lost].clamp(0.0, 1.0)
    }

    /// Pieces read for each that was lost, while losses of data are rare: k where each is rebuilt by itself,
    /// k / (n − at) where one job rebuilds all.
    pub fn reads_per_lost_piece(&self) -> f64 {
        match self.repair {
            Repair::Eager => f64::from(self.k),
            Repair::Lazy { at } => f64::from(self.k) / f64::from(self.n - at),
        }
    }

    fn fail(&self, missing: u8) -> f64 {
        f64::from(self.n - missing) * self.fail_per_day
    }

    /// The state that a repair leads to, and its rate.
    fn back(&self, missing: u8) -> (u8, f64) {
        match self.repair {
            Repair::Eager => (missing.saturating_sub(1), f64::from(missing) * self.repair_per_day),
            Repair::Lazy { at } if missing >= self.n - at => (0, self.repair_per_day),
            Repair::Lazy { .. } => (0, 0.0),
        }
    }

    /// Expected days from j to j + 1 missing pieces, by j.
    fn steps(&self) -> Vec<f64> {
        let mut steps: Vec<f64> = Vec::with_capacity(usize::from(self.parity()) + 1);
        for missing in 0..=self.parity() {
            let (to, rate) = self.back(missing);
            let again: f64 = if rate > 0.0 { steps[usize::from(to)..].iter().sum() } else { 0.0 };
            let returns = if rate > 0.0 { rate * again } else { 0.0 };
            steps.push((1.0 + returns) / self.fail(missing));
        }
        steps
    }

    /// Rates between states, the last of which is lost.
    fn rates(&self) -> Vec<Vec<f64>> {
        let states = usize::from(self.parity()) + 2;
        let mut rates = vec![vec![0.0; states]; states];
        for missing in 0..=self.parity() {
            let at = usize::from(missing);
            let (to, rate) = self.back(missing);
            rates[at][at + 1] = self.fail(missing);
            if usize::from(to) != at {
                rates[at][usize::from(to)] = rate;
            }
        }
        rates
    }
}

/// Probability that at least one of `count` independent things happens, each with probability `each`.
pub fn any_of(each: f64, count: f64) -> f64 {
    -(count * (-each).ln_1p()).exp_m1()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_chain_is_refused() {
        assert_eq!(Chain::eager(0, 2, 0.1, 1.0), Err(Error::Code { k: 0, n: 2 }));
        assert_eq!(Chain::eager(250, 10, 0.1, 1.0), Err(Error::Code { k: 250, n: 255 }));
        for at in [3, 8, 9] {
            assert_eq!(Chain::lazy(4, 8, at, 0.1, 1.0), Err(Error::Trigger { at, k: 4, n: 8 }));
        }
        for bad in [-1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(Chain::eager(4, 2, bad, 1.0), Err(Error::Rate { .. })), "{bad}");
        }
        for bad in [0.0, -1.0, f64::NAN] {
            assert!(matches!(Chain::eager(4, 2, 0.1, bad), Err(Error::Rate { .. })), "{bad}");
        }
    }

    #[test]
    fn the_simplest_chains_have_their_known_solutions() {
        let alone = Chain::eager(1, 0, 0.01, 1.0).unwrap();
        assert!((alone.days_to_loss() - 100.0).abs() < 1e-9);
        assert!((alone.loss_within(0, 50.0) - (1.0 - (-0.5f64).exp())).abs() < 1e-12);
        // Two copies: (3λ + μ) / 2λ², the textbook mirror (Gibson and Patterson 1993).
        let (fail, repair) = (1e-3, 0.5);
        let mirror = Chain::eager(1, 1, fail, 1.0 / repair).unwrap();
        assert!((mirror.days_to_loss() / ((3.0 * fail + repair) / (2.0 * fail * fail)) - 1.0).abs() < 1e-12);
        let never = Chain::eager(2, 1, 0.0, 1.0).unwrap();
        assert_eq!((never.days_to_loss(), never.loss_per_year()), (f64::INFINITY, 0.0));
    }

    #[test]
    fn without_repair_pieces_just_die_by_and_by() {
        let chain = Chain::eager(2, 2, 0.01, f64::INFINITY).unwrap();
        assert!((chain.days_to_loss() - 100.0 * (1.0 / 4.0 + 1.0 / 3.0 + 1.0 / 2.0)).abs() < 1e-9);
        // At least 3 of 4 dead after 30 days, by the binomial.
        let dead = 1.0 - (-0.3f64).exp();
        let wanted = 4.0 * dead.powi(3) * (1.0 - dead) + dead.powi(4);
        assert!((chain.loss_within(0, 30.0) / wanted - 1.0).abs() < 1e-12);
    }

    #[test]
    fn fewer_pieces_are_more_likely_lost_and_what_is_lost_is_lost() {
        let chain = Chain::eager(4, 2, 5e-4, 1.0).unwrap();
        let risks: Vec<f64> = (0..4).map(|missing| chain.loss_within(missing, 30.0)).collect();
        assert!(risks.is_sorted_by(|a, b| a < b), "{risks:?}");
        assert_eq!((risks[3], chain.days_to_loss_from(3)), (1.0, 0.0));
        // With none to spare: 4 drives must last until one of two repairs is through.
        assert!((risks[2] / (4.0 * 5e-4 / (2.0 + 4.0 * 5e-4)) - 1.0).abs() < 0.01, "{risks:?}");
        assert!(chain.days_to_loss_from(2) < chain.days_to_loss());
    }

    #[test]
    fn many_groups_have_many_chances() {
        assert!((any_of(1e-20, 1e6) / 1e-14 - 1.0).abs() < 1e-12);
        assert!((any_of(0.5, 2.0) - 0.75).abs() < 1e-15);
        assert_eq!(any_of(1.0, 3.0), 1.0);
    }
}
