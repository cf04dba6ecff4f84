//! Where a small chain is after some time, by sums and products of positive numbers only: the smallest
//! probability is as exact, relatively, as the largest.

type Matrix = Vec<Vec<f64>>;

/// Terms of the series beyond those that a path through all states takes.
const TERMS_MORE: usize = 24;

/// Probabilities of being in state j after `days`, from state i, given the rates from i to j (per day).
///
/// Uniformization (Jensen 1953) for a step in which little happens, then that step doubled until the time is
/// full (scaling and squaring).
pub(crate) fn after(rates: &Matrix, days: f64) -> Matrix {
    let most = rates.iter().map(|row| row.iter().sum::<f64>()).fold(0.0, f64::max);
    if most <= 0.0 {
        return identity(rates.len());
    }
    // Twice the highest rate: what stays is at least a half, so its digits survive the subtraction.
    let pace = 2.0 * most;
    let doublings = (pace * days).log2().ceil().max(0.0) as i32;
    let mut chances = step(rates, pace, pace * days / 2f64.powi(doublings));
    for _ in 0..doublings {
        chances = normal(product(&chances, &chances));
    }
    chances
}

/// Σ e^-x x^i / i! · U^i, with U the chain at each tick of a clock of rate `pace`.
fn step(rates: &Matrix, pace: f64, x: f64) -> Matrix {
    let mut tick: Matrix = rates.iter().map(|row| row.iter().map(|rate| rate / pace).collect()).collect();
    for (at, row) in tick.iter_mut().enumerate() {
        row[at] = 1.0 - row.iter().sum::<f64>();
    }
    let mut power = identity(rates.len());
    let mut weight = (-x).exp();
    let mut sum = vec![vec![0.0; rates.len()]; rates.len()];
    for term in 1..=rates.len() + TERMS_MORE {
        for (to, from) in sum.iter_mut().flatten().zip(power.iter().flatten()) {
            *to += weight * from;
        }
        power = product(&power, &tick);
        weight *= x / term as f64;
    }
    normal(sum)
}

fn identity(states: usize) -> Matrix {
    (0..states).map(|i| (0..states).map(|j| f64::from(u8::from(i == j))).collect()).collect()
}

fn product(a: &Matrix, b: &Matrix) -> Matrix {
    let mut out = vec![vec![0.0; b.len()]; a.len()];
    for (row, to) in a.iter().zip(&mut out) {
        for (factor, other) in row.iter().zip(b).filter(|(factor, _)| **factor != 0.0) {
            for (sum, value) in to.iter_mut().zip(other) {
                *sum += factor * value;
            }
        }
    }
    out
}

/// Rows sum to one: rounding would otherwise double with every doubling.
fn normal(mut chances: Matrix) -> Matrix {
    for row in &mut chances {
        let sum: f64 = row.iter().sum();
        row.iter_mut().for_each(|chance| *chance /= sum);
    }
    chances
}
