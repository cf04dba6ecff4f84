//! Values that were computed elsewhere, with other programs: docs/durability.md names them.
#![allow(missing_docs, clippy::unwrap_used)]

use durability::{Chain, any_of, peers};

/// Equal to the digits that are printed: two where not said otherwise.
#[track_caller]
fn near(found: f64, printed: f64, digits: i32) {
    let off = (found / printed - 1.0).abs();
    assert!(off <= 0.5 * 10f64.powi(1 - digits) * 1.1, "{found:e} where {printed:e} is printed");
}

const STRESS: f64 = 0.0005;

#[test]
fn eager_repair_loses_what_the_exact_chain_says() {
    let days = [1.0 / 24.0, 0.25, 1.0, 7.0];
    for (k, m, printed) in [
        (1, 2, [2.4e-10, 8.6e-9, 1.4e-7, 6.6e-6]),
        (2, 1, [2.3e-5, 1.4e-4, 5.5e-4, 3.8e-3]),
        (4, 2, [4.8e-9, 1.7e-7, 2.7e-6, 1.3e-4]),
        (6, 3, [8.3e-13, 1.8e-10, 1.1e-8, 3.8e-6]),
        (8, 4, [1.4e-16, 1.8e-13, 4.5e-11, 1.0e-7]),
        (10, 4, [3.4e-16, 4.5e-13, 1.1e-10, 2.6e-7]),
        (17, 3, [3.2e-11, 6.9e-9, 4.4e-7, 1.4e-4]),
    ] {
        for (days, printed) in days.into_iter().zip(printed) {
            let chain = Chain::eager(k, m, STRESS, days).unwrap();
            near(chain.loss_per_year(), printed, 2);
        }
    }
    near(Chain::eager(8, 4, 0.014 / 365.0, 1.0).unwrap().loss_per_year(), 1.2e-16, 2);
}

#[test]
fn lazy_repair_loses_and_reads_what_the_exact_chain_says() {
    for (k, n, at, stress, churn, reads) in [
        (29, 80, 52, 4e-42, 7e-18, 1.04),
        (20, 40, 30, 6e-22, 6e-10, 2.0),
        (16, 40, 26, 6e-23, 7e-11, 1.14),
        (16, 32, 24, 5e-19, 6e-9, 2.0),
        (16, 24, 20, 6e-11, 7e-5, 4.0),
        (8, 16, 12, 2e-12, 3e-6, 2.0),
        (8, 14, 11, 4e-10, 5e-5, 2.67),
    ] {
        let chain = |rate| Chain::lazy(k, n, at, rate, 1.0).unwrap();
        near(chain(STRESS).loss_per_year(), stress, 1);
        near(chain(1.0 / 180.0).loss_per_year(), churn, 1);
        near(chain(STRESS).reads_per_lost_piece(), reads, 3);
    }
}

#[test]
fn a_small_cluster_loses_something_as_often_as_too_many_nodes_are_down_at_once() {
    // Every set of m + 1 nodes shares some group: so all N nodes are one group that may lack m.
    for (nodes, m, calm, rough) in [
        (3, 1, 4e-5, 2e-3),
        (3, 2, 3e-9, 2e-6),
        (4, 2, 1e-8, 6e-6),
        (6, 2, 6e-8, 3e-5),
        (8, 3, 4e-11, 2e-7),
        (10, 3, 1e-10, 7e-7),
        (12, 4, 7e-14, 6e-9),
        (30, 4, 1e-11, 1e-6),
        (30, 5, 9e-15, 8e-9),
    ] {
        let chain = |afr: f64, days| Chain::eager(nodes - m, m, afr / 365.0, days).unwrap();
        near(chain(0.05, 1.0).loss_per_year(), calm, 1);
        near(chain(0.2, 3.0).loss_per_year(), rough, 1);
    }
}

#[test]
fn a_hundred_petabytes_lose_few_stripes_if_repair_is_quick() {
    let lost = |days| 1.2e8 * Chain::eager(8, 4, STRESS, days).unwrap().loss_per_year();
    near(lost(1.0), 0.006, 1);
    near(lost(0.25), 2e-5, 1);
    near(lost(7.0), 12.0, 2);
    near(any_of(Chain::eager(8, 4, STRESS, 1.0).unwrap().loss_per_year(), 1.2e8), 0.0054, 2);
}

#[test]
fn the_formulas_of_others_give_what_they_print() {
    for (k, n, printed) in [(4, 8, 0.99858868985411), (20, 40, 0.99999999807694), (20, 30, 0.99970766304935)] {
        assert!((peers::poisson_kept(k, n, 0.1) - printed).abs() < 1e-14, "{k}/{n}");
    }
    for (healthy, days) in [(34, 3154.0), (40, 5385.0), (52, 8332.0), (80, 11812.0)] {
        assert!((peers::segment_health(healthy, 29, 24_000, 5.435e-5) - days).abs() < 1.0, "{healthy}");
    }
    near(peers::vault_loss_per_year(17, 3, 0.00405, 6.5), 7.35e-12, 3);
}

#[test]
fn the_chain_and_a_vaults_binomial_differ_by_what_is_understood() {
    let chain = Chain::eager(17, 3, 0.00405 / 365.0, 6.5).unwrap();
    near(chain.loss_per_year() / peers::vault_loss_per_year(17, 3, 0.00405, 6.5), 4.0, 2);
}

#[test]
fn the_probability_of_a_year_and_the_expected_time_tell_the_same() {
    for (k, m) in [(2, 1), (4, 2), (8, 4), (20, 20), (1, 63)] {
        let chain = Chain::eager(k, m, STRESS, 1.0).unwrap();
        // By another way of computing it. The start of a year, with nothing missing, is a bit safer than its average.
        let ratio = chain.loss_within(0, 365.0) / chain.loss_per_year();
        assert!((0.97..=1.0 + 1e-9).contains(&ratio), "{k}+{m}: {ratio}");
    }
    // Without a year's head start: all 28 losses that start the first job take more than two.
    let lazy = Chain::lazy(29, 80, 52, STRESS, 1.0).unwrap();
    let ratio = lazy.loss_within(0, 365.0) / lazy.loss_per_year();
    assert!((1e-6..1e-3).contains(&ratio), "{ratio}");
    let later = (lazy.loss_within(0, 36_500.0) - lazy.loss_within(0, 18_250.0)) / 50.0;
    assert!((later / lazy.loss_per_year() - 1.0).abs() < 0.02, "{later:e}");
}
