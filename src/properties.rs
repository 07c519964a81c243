//! How the property tests of this crate run: number of cases, seed, and how to repeat a failure.
//!
//! Nothing is written to disk. A failure prints its smallest input, which belongs in a table test once
//! understood, and the seed: `PROPTEST_RNG_SEED=<seed> cargo test <name>` repeats the whole run, case by
//! case. `PROPTEST_CASES=<n>` asks for more cases than a test has by itself.

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngSeed, TestCaseResult, TestRunner};

/// Runs `test` on at least `cases` inputs, and panics on the first one that fails, made as small as possible.
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
