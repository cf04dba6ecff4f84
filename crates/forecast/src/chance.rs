//! Chance from a seed: the same seed, the same years.

/// SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014) and what is drawn with it.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Above 0, at most 1.
    pub fn share(&mut self) -> f64 {
        ((self.number() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// Below `end`, which isn't 0.
    pub fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.number()) * end.max(1) as u128) >> 64) as usize
    }

    /// Whether something of this probability happens.
    pub fn happens(&mut self, probability: f64) -> bool {
        self.share() <= probability
    }

    /// Time to the next of things that happen at this rate; infinite at rate 0.
    pub fn wait(&mut self, rate: f64) -> f64 {
        if rate > 0.0 { -self.share().ln() / rate } else { f64::INFINITY }
    }

    /// Log-normal: half of them are below `median`; `spread` is the standard deviation of the logarithm.
    pub fn lognormal(&mut self, median: f64, spread: f64) -> f64 {
        // Box and Muller 1958.
        let normal = (-2.0 * self.share().ln()).sqrt() * (std::f64::consts::TAU * self.share()).cos();
        median * (spread * normal).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_has_the_shape_that_it_should() {
        let mut chance = Chance::new(7);
        let waits: Vec<f64> = (0..20_000).map(|_| chance.wait(0.25)).collect();
        assert!((waits.iter().sum::<f64>() / 20_000.0 - 4.0).abs() < 0.1);
        let mut spans: Vec<f64> = (0..20_001).map(|_| chance.lognormal(15.0, 1.5)).collect();
        spans.sort_by(f64::total_cmp);
        assert!((spans[10_000] / 15.0 - 1.0).abs() < 0.05, "{}", spans[10_000]);
        // One standard deviation above the middle lies e^1.5 times as high.
        assert!((spans[16_827] / 15.0 / 1.5f64.exp() - 1.0).abs() < 0.06, "{}", spans[16_827]);
        assert_eq!(chance.wait(0.0), f64::INFINITY);
        assert!((0..1000).all(|_| chance.below(3) < 3));
    }
}
