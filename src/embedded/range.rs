//! Reading a range with every option that the protocol has.

use super::member::inner_header;
use super::refusal::RpcError;
use super::span::Span;
use super::store::Store;
use etcd_client::proto::{PbKeyValue, PbRangeRequest, PbRangeResponse};
use std::cmp::Ordering;
use std::sync::Arc;

/// A checked range; its header is that of an operation inside a transaction.
pub(super) fn apply(store: &Store, request: &PbRangeRequest) -> Result<PbRangeResponse, RpcError> {
    let revision = store.check_readable(request.revision)?;
    let span = Span::new(&request.key, &request.range_end);
    let mut response = PbRangeResponse {
        header: Some(inner_header(store.reading_revision())),
        ..PbRangeResponse::default()
    };
    if request.count_only {
        response.count = store.range(&span, revision).count() as i64;
        return Ok(response);
    }

    // As etcd does it: with a sort target alone, the limit comes before the sorting.
    let limit = usize::try_from(request.limit).unwrap_or(0);
    let fetch = if request.sort_order != 0 || has_filters(request) || limit == 0 {
        usize::MAX
    } else {
        limit.saturating_add(1)
    };
    let mut found: Vec<&Arc<PbKeyValue>> = Vec::new();
    for kv in store.range(&span, revision) {
        response.count += 1;
        if found.len() < fetch {
            found.push(kv);
        }
    }
    found.retain(|kv| passes(request, kv));
    sort(request, &mut found);
    if limit > 0 && found.len() > limit {
        found.truncate(limit);
        response.more = true;
    }
    response.kvs = found
        .into_iter()
        .map(|kv| if request.keys_only { without_value(kv) } else { (**kv).clone() })
        .collect();
    Ok(response)
}

fn without_value(kv: &PbKeyValue) -> PbKeyValue {
    PbKeyValue {
        key: kv.key.clone(),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: Vec::new(),
        lease: kv.lease,
    }
}

fn has_filters(request: &PbRangeRequest) -> bool {
    [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ]
    .iter()
    .any(|&bound| bound != 0)
}

/// A bound of 0 is none.
fn passes(request: &PbRangeRequest, kv: &PbKeyValue) -> bool {
    let within = |value, min, max| (min == 0 || value >= min) && (max == 0 || value <= max);
    within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
        && within(kv.create_revision, request.min_create_revision, request.max_create_revision)
}

/// Ties stay in the order of the keys. The numbers are those of the protocol.
fn sort(request: &PbRangeRequest, found: &mut [&Arc<PbKeyValue>]) {
    const DESCENDING: i32 = 2;
    let by: fn(&PbKeyValue, &PbKeyValue) -> Ordering = match request.sort_target {
        1 => |a, b| a.version.cmp(&b.version),
        2 => |a, b| a.create_revision.cmp(&b.create_revision),
        3 => |a, b| a.mod_revision.cmp(&b.mod_revision),
        4 => |a, b| a.value.cmp(&b.value),
        _ => |a, b| a.key.cmp(&b.key),
    };
    if request.sort_order == DESCENDING {
        found.sort_by(|a, b| by(b, a));
    } else {
        found.sort_by(|a, b| by(a, b));
    }
}
