//! Acts of leases, requests, health, start and end.

use super::stage::{NAMESPACE, Stage, done, exists, rule, seconds};
use crate::embedded::{Fault, RequestKind, RpcError};
use crate::firing::Firing;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::task::spawn_local;
use tokio::time::sleep;

pub(super) async fn a_start(stage: &mut Stage) {
    let job = rule(exists()).concurrency(3).run(async |firing: Firing| done(&firing));
    let engine = stage.engine().concurrency(8).rule(job);
    // Behind the checks of two connections and a look at the cluster.
    stage.faults.inject(Fault::on(RequestKind::Range).after(3).delay(seconds(0.05)));
    let _engine = engine.build().expect("sound").start().await.expect("it starts");
    stage
        .expect("starting", "build_info{version=0.1.0} 1; engine_slots 8; slots 3; health{state=starting} 1");
    stage.at(0.5).await;
    stage.expect(
        "ready",
        "snapshot_duration_seconds_count 1; snapshot_duration_seconds_sum 0.05; request connect 2; request get 1;
         request lease_grant 1; request range 1; request txn 1; request watch 2; etcd_request_duration_seconds_sum{request=range} 0.05;
         health{state=starting} 0; health{state=ready} 1",
    );
}

pub(super) async fn a_start_without_etcd(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    stage.path.set_reachable(false);
    let starting = spawn_local(engine.build().expect("sound").start());
    stage.at(2.3).await;
    stage.expect(
        "starting",
        "watch_lag_seconds 2; etcd_request_duration_seconds_count{request=connect} 12;
         etcd_requests_total{request=connect,result=unreachable} 12; health{state=disconnected} 1;
         health{state=starting} 1; build_info{version=0.1.0} 1; engine_slots 128; slots 128",
    );
    drop(starting);
}

pub(super) async fn a_start_on_another_cluster(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    let starting = spawn_local(engine.cluster_id(1).build().expect("sound").start());
    stage.at(2.3).await;
    stage.expect(
        "starting",
        "watch_lag_seconds 2; etcd_request_duration_seconds_count{request=connect} 12;
         etcd_requests_total{request=connect,result=wrong_store} 12; health{state=wrong_store} 1;
         health{state=starting} 1; build_info{version=0.1.0} 1; engine_slots 128; slots 128",
    );
    drop(starting);
}

/// A lease with a TTL of 12 s is renewed every 3 s. The second renewal is refused, and tried again 0.6 s later.
pub(super) async fn renewals(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    let _engine = stage.start(engine.lock_ttl(seconds(12.0))).await;
    stage.at(3.5).await;
    stage.expect("renewed", "request lease_renew 1; lease_renewals_total{result=ok} 1");
    stage.faults.inject(Fault::on(RequestKind::LeaseKeepAlive).fail(RpcError::STOPPED));
    stage.at(6.9).await;
    stage.expect(
        "renewed at the second attempt",
        "request lease_renew 1; etcd_request_duration_seconds_count{request=lease_renew} 1;
         etcd_requests_total{request=lease_renew,result=unreachable} 1; lease_renewals_total{result=failed} 1;
         lease_renewals_total{result=ok} 1",
    );
}

/// Every request for a lock is refused for half a second. A request that can't have taken effect is given up
/// at once. Others are sent again after 50 ms, 100 ms and 200 ms. The next time would be after 400 ms, which
/// is too late.
pub(super) async fn refusals(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    let _engine = stage.start(engine).await;
    let mut time = 0.0;
    // The refusal, the result that is counted, the problem of the engine, how often the request is sent, and
    // whether the attempt ends then.
    for (refusal, result, reason, requests, ends) in [
        (RpcError::STOPPED, "unreachable", Some("disconnected"), 4, false),
        (RpcError::NO_LEADER, "no_leader", Some("no_leader"), 4, false),
        // Held back within the engine until there is space.
        (RpcError::NO_SPACE, "no_space", Some("no_space"), 1, false),
        (RpcError::INVALID_AUTH_TOKEN, "authentication", Some("auth"), 1, true),
        // The rules that need it can't fire.
        (RpcError::PERMISSION_DENIED, "permission", Some("permission"), 1, true),
        // Of this request: no trouble of the engine.
        (RpcError::DUPLICATE_KEY, "rejected", None, 1, true),
        (RpcError::TOO_MANY_REQUESTS, "overloaded", Some("overloaded"), 1, true),
    ] {
        time += 20.0;
        stage.at(time).await;
        stage.begin();
        stage.faults.inject(Fault::on(RequestKind::Txn).always().fail(refusal));
        stage.put("/jobs/1", "");
        stage.at(time + 0.6).await;
        let mut expected = format!(
            "watch_events_total 1; mirror_bytes 7; mirror_keys 1; instances 1; evaluations_total{{result=true}} 1;
             workqueue_adds_total 1; workqueue_queue_duration_seconds_count 1;
             etcd_requests_total{{request=txn,result={result}}} {requests}; batch_entries_sum {requests};
             etcd_request_duration_seconds_count{{request=txn}} {requests}; batch_entries_count {requests};"
        );
        if time == 20.0 {
            // The first request makes the connection.
            expected += "request connect 1;";
        }
        if ends {
            expected += "lock_attempts_total{result=failed} 1; workqueue_retries_total 1;
                         workqueue_work_duration_seconds_count 1;";
        }
        if let Some(reason) = reason {
            expected +=
                &format!("health{{state=ready}} 0; health{{state=degraded}} 1; health{{state={reason}}} 1");
        }
        stage.expect(refusal.message(), &expected);
        stage.faults.clear();
    }
}

/// Both streams end, and new ones are refused.
pub(super) async fn refused_watches(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    let _engine = stage.start(engine).await;
    for (time, refusal, result, reason) in [
        (1.1, RpcError::PERMISSION_DENIED, "permission", "permission"),
        (20.1, RpcError::REQUEST_TOO_LARGE, "rejected", "refused"),
    ] {
        stage.at(time).await;
        stage.begin();
        stage.faults.inject(Fault::on(RequestKind::Range).always().fail(refusal));
        stage.faults.cut_streams();
        stage.at(time + 0.5).await;
        // It tries again after 50 ms, 100 ms and 200 ms. The next time would be after 400 ms, which is too
        // late.
        stage.expect(
            refusal.message(),
            &format!(
                "watch_reconnects_total 1; etcd_requests_total{{request=get,result={result}}} 3;
                 etcd_request_duration_seconds_count{{request=get}} 3; request watch 1;
                 health{{state=ready}} 0; health{{state=degraded}} 1; health{{state={reason}}} 1",
            ),
        );
        stage.faults.clear();
    }
}

/// An engine of another form of keys is at work, for a while.
pub(super) async fn another_form_of_keys(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    let other = format!("{NAMESPACE}format/2/1");
    stage.put(&other, "other");
    let _engine = engine.build().expect("sound").start().await.expect("it starts");
    stage.at(1.9).await;
    stage.begin();
    stage.delete(&other);
    stage.at(4.9).await;
    stage.expect(
        "goes on",
        "request lease_grant 1; request txn 1; request watch 1; health{state=degraded} 0; health{state=other_format} 0;
         health{state=ready} 1",
    );
}

/// A lease is gone, and etcd grants no other.
pub(super) async fn no_lease(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    let _engine = stage.start(engine.lock_ttl(seconds(12.0))).await;
    // What its watch would tell comes too late.
    stage.faults.inject(Fault::on(RequestKind::WatchResponse).always().delay(seconds(9.0)));
    stage.faults.expire_lease(stage.faults.leases()[0]);
    stage.faults.inject(Fault::on(RequestKind::LeaseGrant).always().fail(RpcError::STOPPED));
    // Found at the renewal, 3 s after the start; then granted after 50 ms, 100 ms, 200 ms and so on.
    stage.at(3.4).await;
    stage.expect(
        "no other",
        "etcd_request_duration_seconds_count{request=lease_grant} 4;
         etcd_request_duration_seconds_count{request=lease_renew} 1;
         etcd_requests_total{request=lease_grant,result=unreachable} 4;
         etcd_requests_total{request=lease_renew,result=lease_gone} 1; lease_renewals_total{result=failed} 1;
         leases_lost_total 1; health{state=degraded} 1; health{state=disconnected} 1;
         health{state=lease_lost} 1; health{state=ready} 0",
    );
    stage.faults.clear();
    stage.at(6.5).await;
    stage.expect(
        "another",
        "request lease_grant 1; request txn 1; request watch 1; health{state=degraded} 0;
         health{state=disconnected} 0;
         health{state=lease_lost} 0; health{state=ready} 1",
    );
}

/// History takes longer than the limit.
pub(super) async fn lagging(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    let _engine = stage.start(engine.lag_limit(seconds(1.0))).await;
    stage.path.set_reachable(false);
    for _ in 0..2500 {
        stage.put("/jobs/1", "");
    }
    stage.delete("/jobs/1");
    stage.faults.inject(Fault::on(RequestKind::WatchResponse).always().delay(seconds(0.9)));
    stage.path.set_reachable(true);
    stage.at(3.5).await;
    stage.expect(
        "late",
        "watch_events_total 2000; watch_position 2003; watch_reconnects_total 1; watch_lag_revisions 501;
         watch_lag_seconds 1.05; mirror_tombstones 1; evaluations_total{result=false} 1;
         evaluations_total{result=true} 1; workqueue_adds_total 1; lock_attempts_total{result=untrue} 1;
         workqueue_queue_duration_seconds_count 1; workqueue_work_duration_seconds_count 1; transactions 1;
         request connect 1; request get 1; request watch 2; health{state=degraded} 1; health{state=lagging} 1;
         health{state=ready} 0",
    );
}

/// A part panics; all parts start again.
pub(super) async fn a_restart(stage: &mut Stage) {
    let panics = Arc::new(AtomicU32::new(0));
    let mut engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    engine.env.probe = Some(poison("index", &panics));
    let _engine = stage.start(engine).await;
    panics.store(1, Ordering::SeqCst);
    stage.put("/jobs/1", "");
    stage.at(1.5).await;
    stage.expect(
        "goes on",
        "watch_events_total 2; watch_position 8; snapshot_duration_seconds_count 1;
         evaluations_total{result=false} 1; evaluations_total{result=true} 1; workqueue_adds_total 1;
         started 1; stage_duration_seconds_count{stage=delivery} 1; callbacks_total{outcome=done} 1; closed 1;
         transactions 2; request connect 3; request get 1; request lease_grant 1; request lease_revoke 1; request txn 1;
         request range 1; request watch 2; restarts_total 1",
    );
}

/// A part panics whenever it starts.
pub(super) async fn a_failure(stage: &mut Stage) {
    let panics = Arc::new(AtomicU32::new(0));
    let mut engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    engine.env.probe = Some(poison("index", &panics));
    let _engine = stage.start(engine).await;
    panics.store(u32::MAX, Ordering::SeqCst);
    stage.put("/jobs/1", "");
    stage.at(59.5).await;
    stage.expect(
        "failed",
        "watch_events_total 1; request connect 10; request get 5; request lease_grant 5;
         request lease_revoke 6; health{state=failed} 1; health{state=ready} 0; restarts_total 6",
    );
}

fn poison(name: &'static str, panics: &Arc<AtomicU32>) -> crate::runtime::supervised::MessageProbe {
    let panics = panics.clone();
    Arc::new(move |part| {
        let left = |left: u32| left.checked_sub(1);
        if part == name && panics.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left).is_ok() {
            // This calls no panic hook, so nothing is printed.
            std::panic::resume_unwind(Box::new("on purpose"));
        }
    })
}

/// The engine is shut down while a callback runs for another second.
pub(super) async fn an_end(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| {
        sleep(seconds(2.0)).await;
        done(&firing)
    }));
    let engine = stage.start(engine).await;
    stage.put("/jobs/1", "");
    stage.at(1.1).await;
    stage.begin();
    let ending = spawn_local(engine.shutdown(seconds(5.0)));
    stage.at(1.5).await;
    stage.expect("stopping", "health{state=ready} 0; health{state=stopping} 1");
    ending.await.expect("it ended").expect("in order");
    stage.expect(
        "stopped",
        "mirror_bytes 0; mirror_keys 0; instances 0; instances_by_state{state=running} 0;
         evaluations_total{result=false} 1; callbacks_in_flight 0;
         stage_duration_seconds_sum{stage=callback} 2; callbacks_total{outcome=done} 1; closed 1;
         workqueue_longest_running_processor_seconds 0; workqueue_unfinished_work_seconds 0;
         workqueue_work_duration_seconds_sum 2; transactions 1; request txn 1; request lease_revoke 1;
         health{state=stopped} 1; health{state=stopping} 0",
    );
}
