//! The formulas that other systems print, to check ours and to compare. None of them is used to decide.

/// Probability to keep a segment through one period in which a share `churn` of nodes leaves: losses of its n
/// pieces taken as Poisson. (Storj, "A Decentralized Cloud Storage Network", v3, 2018, §3.4.)
pub fn poisson_kept(k: u8, n: u8, churn: f64) -> f64 {
    let mean = churn * f64::from(n);
    let mut term = (-mean).exp();
    let mut kept = 0.0;
    for lost in 0..=n.saturating_sub(k) {
        kept += term;
        term *= mean / f64::from(lost + 1);
    }
    kept
}

/// Probability a year to lose a vault: more than m of its drives fail within one replacement of `replace_days`,
/// at an annual failure rate of `afr`. (Backblaze, "Cloud Storage Durability", 2018.)
///
/// It counts windows that don't overlap and an exact time of replacement; the chain has repairs of random
/// length. So for rare failures the chain says (m + 1) times as much.
pub fn vault_loss_per_year(k: u8, m: u8, afr: f64, replace_days: f64) -> f64 {
    let n = f64::from(k) + f64::from(m);
    let fail = afr * replace_days / crate::YEAR_DAYS;
    let mut tail = 0.0;
    for lost in u16::from(m) + 1..=u16::from(k) + u16::from(m) {
        let ways: f64 = (0..lost).map(|i| (n - f64::from(i)) / f64::from(i + 1)).product();
        tail += ways * fail.powi(lost.into()) * (1.0 - fail).powi(i32::from(k) + i32::from(m) - i32::from(lost));
    }
    tail * crate::YEAR_DAYS / replace_days
}

/// Expected days until a segment with `healthy` pieces has fewer than k, if nothing is repaired and of `nodes` each
/// fails with probability `fail_per_day` a day: the mean of the negative hypergeometric distribution over
/// the nodes that fail a day. (Storj's order of repair, `segmenthealth`.)
pub fn segment_health(healthy: u16, k: u16, nodes: u32, fail_per_day: f64) -> f64 {
    let nodes = f64::from(nodes);
    let losses = f64::from(healthy) - f64::from(k) + 1.0;
    losses.max(0.0) * (nodes + 1.0) / (f64::from(healthy) + 1.0) / (nodes * fail_per_day)
}
