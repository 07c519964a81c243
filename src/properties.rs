//! Runs the property tests of this crate, with a number of cases and a seed, and tells how to repeat a
//! failure.
//!
//! Nothing is written to disk. A failure prints its smallest input and the seed. Once it is understood, the
//! input belongs into a table test. `PROPTEST_RNG_SEED=<seed> cargo test <name>` repeats the whole run, case
//! by case. `PROPTEST_CASES=<n>` runs more cases than a test does by default.

use foldhash::fast::FixedState;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestCaseResult, TestRng, TestRunner};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::hash::BuildHasher;

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

/// Returns what a strategy makes of bytes, which are the seed of its choices.
pub(crate) fn made_of<S: Strategy>(bytes: &[u8], strategy: &S) -> Option<S::Value> {
    let mut seed = [0; 32];
    StdRng::seed_from_u64(FixedState::with_seed(0).hash_one(bytes)).fill_bytes(&mut seed);
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let config = Config { failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, rng);
    strategy.new_tree(&mut runner).ok().map(|tree| tree.current())
}
