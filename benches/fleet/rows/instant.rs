//! Throughput with callbacks that take no time. Engines and etcd share the cores, so that this shows what a second
//! engine costs, not what it adds.

use super::costs::{Round, burst};
use super::each;
use crate::Bench;
use crate::member::Spec;
use crate::report::Row;

const AT_ONCE: usize = 20_000;

pub async fn rows(bench: &Bench) -> Vec<Row> {
    let (mut one, mut two, mut without) = (Vec::new(), Vec::new(), Vec::new());
    let spec = Spec::default();
    for _ in 0..3 * bench.rounds {
        one.push(burst(bench, 1, &spec, AT_ONCE).await);
        two.push(burst(bench, 2, &spec, AT_ONCE).await);
        without.push(burst(bench, 2, &Spec { owners: false, ..spec.clone() }, AT_ONCE).await);
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let name =
        |owners: &str| format!("instant callbacks, two engines{owners} and one, {cores} cores for all");
    let row = |name, rounds: &[Round]| {
        bench.row(name, "firings/s", &each(rounds, |r| r.rate)).floor(&each(&one, |r| r.rate))
    };
    vec![row(name(""), &two).goal(">=0.95"), row(name(" without owners"), &without)]
}
