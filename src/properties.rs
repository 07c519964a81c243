//! Runs the property tests of this crate, with a number of cases and a seed, and tells how to repeat a
//! failure.
//!
//! Nothing is written to disk. A failure prints its smallest input and the seed. Once it is understood, the
//! input belongs into a table test. `PROPTEST_RNG_SEED=<seed> cargo test <name>` repeats the whole run, case
//! by case. `PROPTEST_CASES=<n>` runs more cases than a test does by default.

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngSeed, TestCaseResult, TestRunner};

/// Runs `test` on at least `cases` inputs. It panics on the first that fails, reduced to the smallest such
/// input.
pub(crate) fn check<S: Strategy>(cases: u32, inputs: &S, test: impl Fn(S::Value) -> TestCaseResult) {
    let default = Config::default();
    let seed = match default.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => rand::random(),
    };
    let config = Config {
        cases: if std::env::var_os("PROPTEST_CASES").is_some() { default.cases.max(cases) } else { cases },
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed),
        ..default
    };
    if let Err(failure) = TestRunner::new(config).run(inputs, test) {
        panic!("{failure}\nrepeat with PROPTEST_RNG_SEED={seed}");
    }
}
