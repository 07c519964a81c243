//! Every error that etcd has: any request may be refused with any of them. One that tells that the request had no
//! effect is told of requests that had none, and the others of either.

use crate::embedded::{Fault, RequestKind, RpcError};
use crate::etcd::{ERRORS, Effect};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

const ON: [RequestKind; 9] = [
    RequestKind::Txn,
    RequestKind::Txn,
    RequestKind::Range,
    RequestKind::LeaseGrant,
    RequestKind::LeaseRevoke,
    RequestKind::LeaseKeepAlive,
    RequestKind::Watch,
    RequestKind::Authenticate,
    RequestKind::Any,
];

pub(in super::super) fn choose(rng: &mut StdRng) -> Fault {
    let known = ERRORS.choose(rng).expect("etcd has errors");
    let error = RpcError::new(known.code as i32, known.message);
    let fault = Fault::on(*ON.choose(rng).expect("there are requests"))
        .after(rng.random_range(0..4))
        .times(*[1, 1, 2, 6].choose(rng).expect("numbers"));
    let may_have_an_effect = known.effect == Effect::Unknown;
    if may_have_an_effect && rng.random_bool(0.5) { fault.fail_after(error) } else { fault.fail(error) }
}
