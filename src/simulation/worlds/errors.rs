//! Every error that etcd has: any request may be refused with any of them. One that tells that the request had no
//! effect is told of requests that had none, and the others of either.
//!
//! Only of sizes no lie is told: the engine believes it, and gives up what asks for too much.

use crate::embedded::{Fault, RequestKind, RpcError};
use crate::etcd::{ERRORS, PossibleEffect};
use crate::simulation::plan::REQUESTS;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};

pub(in super::super) fn choose(rng: &mut StdRng) -> Fault {
    let known = ERRORS.iter().filter(|known| !known.is_of_size()).choose(rng).expect("etcd has errors");
    let error = RpcError::new(known.code as i32, known.message);
    // Without users nobody authenticates, so that no other faults are of that.
    let kind = match rng.random_bool(0.1) {
        true => RequestKind::Authenticate,
        false => *REQUESTS.choose(rng).expect("there are requests"),
    };
    let fault =
        Fault::on(kind).after(rng.random_range(0..4)).times(*[1, 1, 2, 6].choose(rng).expect("numbers"));
    let may_have_an_effect = known.effect == PossibleEffect::Unknown;
    if may_have_an_effect && rng.random_bool(0.5) { fault.fail_after(error) } else { fault.fail(error) }
}
