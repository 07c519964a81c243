//! Acts of firings that fail, and of locks that can't be had or are lost.

use super::stage::{NAMESPACE, Stage, done, exists, rule, seconds};
use crate::Outcome;
use crate::embedded::{Fault, RequestKind, RpcError};
use crate::engine::RunningEngine;
use crate::firing::Firing;
use crate::key;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::time::sleep;

/// The first attempt ends with an error, a panic, or not in time, by the value; the second is done.
async fn failing(stage: &mut Stage, how: &'static str) -> RunningEngine {
    let job = rule(exists()).time_limit(seconds(0.5)).run(async |firing: Firing| {
        let value = firing.value_opt("/jobs/:id")?.cloned().unwrap_or_default();
        match (firing.attempt(), value.as_str()) {
            (1, Some("error")) => return Err("no luck".into()),
            // This calls no panic hook, so nothing is printed.
            (1, Some("panic")) => resume_unwind(Box::new("on purpose")),
            (1, Some("time-out")) => sleep(seconds(60.0)).await,
            _ => {}
        }
        Ok::<Outcome, crate::BoxError>(done(&firing)?)
    });
    let engine = stage.engine().rule(job);
    let engine = stage.start(engine).await;
    stage.put("/jobs/1", how);
    engine
}

pub(super) async fn an_error(stage: &mut Stage) {
    let _engine = failing(stage, "error").await;
    stage.at(0.7).await;
    stage.expect(
        "failed",
        "watch_events_total 1; mirror_bytes 12; mirror_keys 1; instances 1; evaluations_total{result=true} 2;
         workqueue_adds_total 1; started 1; stage_duration_seconds_count{stage=delivery} 1;
         callbacks_total{outcome=error} 1; closed 1; workqueue_retries_total 1; transactions 2;
         request connect 1; request lease_grant 1; key_leases_total 1",
    );
    stage.at(2.5).await;
    stage.expect(
        "retried",
        "watch_events_total 1; watch_position 8; mirror_bytes 0; mirror_keys 0; instances 0;
         evaluations_total{result=false} 1; evaluations_total{result=true} 1; workqueue_adds_total 1;
         started 1; stage_duration_seconds_count{stage=delivery} 1; callbacks_total{outcome=done} 1; closed 1;
         transactions 2",
    );
}

pub(super) async fn a_panic(stage: &mut Stage) {
    let _engine = failing(stage, "panic").await;
    stage.at(0.7).await;
    stage.expect(
        "failed",
        "watch_events_total 1; mirror_bytes 12; mirror_keys 1; instances 1; evaluations_total{result=true} 2;
         workqueue_adds_total 1; started 1; stage_duration_seconds_count{stage=delivery} 1;
         callbacks_total{outcome=panic} 1; closed 1; workqueue_retries_total 1; transactions 2;
         request connect 1; request lease_grant 1; key_leases_total 1",
    );
}

pub(super) async fn a_time_out(stage: &mut Stage) {
    let _engine = failing(stage, "time-out").await;
    stage.at(0.9).await;
    stage.expect(
        "failed",
        "watch_events_total 1; mirror_bytes 15; mirror_keys 1; instances 1; evaluations_total{result=true} 2;
         workqueue_adds_total 1; started 1; stage_duration_seconds_count{stage=delivery} 1;
         stage_duration_seconds_sum{stage=callback} 0.5; callbacks_total{outcome=timeout} 1; closed 1;
         workqueue_retries_total 1; workqueue_work_duration_seconds_sum 0.5; transactions 2;
         request connect 1; request lease_grant 1; key_leases_total 1",
    );
}

/// The callback fails, and is tried again ten minutes later.
pub(super) async fn failing_for_long(stage: &mut Stage) {
    let job = rule(exists()).run(async |_: Firing| Err::<Outcome, _>("never"));
    let engine = stage.engine().rule(job.backoff(crate::Backoff::new(seconds(600.0), seconds(600.0))));
    let _engine = stage.start(engine).await;
    stage.put("/jobs/1", "");
    stage.at(30.5).await;
    stage.expect(
        "after half a minute",
        "watch_events_total 1; watch_position 4; mirror_bytes 7; mirror_keys 1; instances 1;
         instances_by_state{state=waiting} 1; evaluations_total{result=true} 2; workqueue_adds_total 1;
         started 1; stage_duration_seconds_count{stage=delivery} 1; callbacks_total{outcome=error} 1;
         closed 1; workqueue_retries_total 1; failing_instances 1; longest_failing_seconds 29.9;
         transactions 2; request connect 1; request lease_grant 1; key_leases_total 1",
    );
}

/// The lease behind the lock ends while a callback runs that ignores its cancellation.
pub(super) async fn a_lost_lease(stage: &mut Stage) {
    let job = rule(exists()).run(async |firing: Firing| {
        if firing.attempt() == 1
            && firing.value_opt("/jobs/:id")?.is_some_and(|value| value.as_bytes() == b"slow")
        {
            sleep(seconds(60.0)).await;
        }
        done(&firing)
    });
    let engine = stage.engine().rule(job).lock_ttl(seconds(8.0));
    let _engine = stage.start(engine).await;
    stage.put("/jobs/1", "slow");
    stage.at(1.0).await;
    stage.faults.expire_lease(stage.faults.leases()[0]);
    stage.put("/jobs/1", "quick");
    stage.at(1.5).await;
    stage.expect(
        "told to end, not yet dropped",
        "watch_events_total 2; watch_position 4; mirror_bytes 12; mirror_keys 1; instances 1; instances_by_state{state=running} 1;
         evaluations_total{result=true} 2; workqueue_adds_total 1; started 1; callbacks_in_flight 1;
         stage_duration_seconds_count{stage=delivery} 1; workqueue_longest_running_processor_seconds 0.9;
         workqueue_unfinished_work_seconds 0.9; transactions 1; request connect 1; request lease_grant 1;
         request txn 1; request watch 1; leases_lost_total 1",
    );
    stage.at(4.9).await;
    stage.expect(
        "dropped, and done under another lease",
        "watch_events_total 1; watch_position 10; mirror_bytes 0; mirror_keys 0; instances 0;
         instances_by_state{state=running} 0;
         evaluations_total{result=false} 1; evaluations_total{result=true} 2; workqueue_adds_total 1;
         started 1; callbacks_in_flight 0; stage_duration_seconds_count{stage=callback} 1;
         stage_duration_seconds_count{stage=commit} 1; stage_duration_seconds_count{stage=delivery} 1;
         stage_duration_seconds_sum{stage=callback} 1.9; stage_duration_seconds_sum{stage=lock} 1;
         trigger_latency_seconds_sum 1; callbacks_total{outcome=cancelled} 1; callbacks_total{outcome=done} 1;
         closed 1; commits_total{result=fence_lost} 1; locks_lost_total 1;
         workqueue_longest_running_processor_seconds 0; workqueue_retries_total 1;
         workqueue_unfinished_work_seconds 0; workqueue_work_duration_seconds_count 1;
         workqueue_work_duration_seconds_sum 1.9; transactions 3; request lease_renew 1; lease_renewals_total{result=ok} 1",
    );
}

/// Somebody deletes the lock while the callback runs.
pub(super) async fn a_lost_lock(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| {
        if firing.value_opt("/jobs/:id")?.is_some_and(|value| value.as_bytes() == b"slow") {
            sleep(seconds(1.0)).await;
        }
        done(&firing)
    }));
    let _engine = stage.start(engine).await;
    stage.put("/jobs/1", "slow");
    stage.at(0.5).await;
    stage.delete(&format!("{NAMESPACE}lock/r/1"));
    stage.at(1.5).await;
    stage.expect(
        "without effect",
        "watch_events_total 1; watch_position 4; mirror_bytes 11; mirror_keys 1; instances 1;
         instances_by_state{state=running} 1; evaluations_total{result=true} 2; workqueue_adds_total 1;
         started 1; stage_duration_seconds_count{stage=callback} 1;
         stage_duration_seconds_count{stage=commit} 1; stage_duration_seconds_count{stage=delivery} 1;
         stage_duration_seconds_sum{stage=callback} 1; callbacks_total{outcome=done} 1;
         commits_total{result=fence_lost} 1; locks_lost_total 1;
         workqueue_longest_running_processor_seconds 0.9; workqueue_retries_total 1;
         workqueue_unfinished_work_seconds 0.9; workqueue_work_duration_seconds_count 1;
         workqueue_work_duration_seconds_sum 1; transactions 2; request connect 1",
    );
}

/// Another engine has the lock for a second.
pub(super) async fn a_lock_that_is_held(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    let _engine = stage.start(engine).await;
    let lock = format!("{NAMESPACE}lock/r/1");
    stage.put(&lock, r#"{"engine":"other","nonce":1,"since":0}"#);
    stage.put("/jobs/1", "");
    stage.at(1.5).await;
    stage.expect(
        "held",
        "watch_events_total 1; watch_position 5; mirror_bytes 7; mirror_keys 1; instances 1;
         instances_by_state{state=held} 1; evaluations_total{result=true} 1; workqueue_adds_total 1;
         lock_attempts_total{result=held} 1; workqueue_queue_duration_seconds_count 1;
         workqueue_work_duration_seconds_count 1; transactions 1; request connect 1;
         request get 1; request watch 1",
    );
    stage.delete(&lock);
    stage.at(2.5).await;
    stage.expect(
        "done",
        "watch_events_total 1; watch_position 8; mirror_bytes 0; mirror_keys 0; instances 0;
         instances_by_state{state=held} 0; evaluations_total{result=false} 1;
         evaluations_total{result=true} 1; workqueue_adds_total 1; started 1;
         stage_duration_seconds_sum{stage=queue} 0.005; trigger_latency_seconds_sum 0.005;
         callbacks_total{outcome=done} 1; closed 1; transactions 2",
    );
}

/// The callback failed in another engine, so all engines wait.
pub(super) async fn a_mark_of_another_engine(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    let _engine = stage.start(engine).await;
    let mark = format!("{NAMESPACE}backoff/r/1");
    stage.put("/jobs/1", "");
    stage.faults.inject(Fault::on(RequestKind::Txn).delay(seconds(0.2)));
    stage.put(&mark, r#"{"engine":"other","attempt":1,"until":9000,"gave_up":false,"error":"bad"}"#);
    stage.at(1.5).await;
    stage.expect(
        "held back",
        "watch_events_total 1; watch_position 4; mirror_bytes 7; mirror_keys 1; instances 1;
         instances_by_state{state=held} 1; evaluations_total{result=true} 1; workqueue_adds_total 1;
         lock_attempts_total{result=backed_off} 1; workqueue_queue_duration_seconds_count 1;
         workqueue_work_duration_seconds_count 1; workqueue_work_duration_seconds_sum 0.2; transactions 1;
         request connect 1; request get 1; request watch 1; etcd_request_duration_seconds_sum{request=txn} 0.2",
    );
    stage.delete(&mark);
    stage.at(2.5).await;
    stage.expect(
        "done",
        "watch_events_total 1; watch_position 8; mirror_bytes 0; mirror_keys 0; instances 0;
         instances_by_state{state=held} 0; evaluations_total{result=false} 1;
         evaluations_total{result=true} 1; workqueue_adds_total 1; started 1;
         stage_duration_seconds_sum{stage=queue} 0.005; trigger_latency_seconds_sum 0.005;
         callbacks_total{outcome=done} 1; closed 1; transactions 2",
    );
}

/// The condition has become false when the request for the lock arrives.
pub(super) async fn a_condition_that_is_over(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    let _engine = stage.start(engine).await;
    stage.faults.inject(Fault::on(RequestKind::Txn).delay(seconds(0.2)));
    stage.put("/jobs/1", "");
    stage.at(0.2).await;
    stage.delete("/jobs/1");
    stage.at(1.5).await;
    stage.expect(
        "not fired",
        "watch_events_total 2; watch_position 5; evaluations_total{result=false} 2;
         evaluations_total{result=true} 1; workqueue_adds_total 1; lock_attempts_total{result=untrue} 1;
         workqueue_queue_duration_seconds_count 1; workqueue_work_duration_seconds_count 1;
         workqueue_work_duration_seconds_sum 0.2; transactions 1; request connect 1;
         etcd_request_duration_seconds_sum{request=txn} 0.2",
    );
}

/// A key that the callback is shown has changed when the request for the lock arrives. Another watch than that of the
/// key which made the rule true tells of it, so that the request compares it, and the next one reads it.
pub(super) async fn a_shown_key_that_changed(stage: &mut Stage) {
    stage.put("/notes/1", "old");
    let rule = rule(exists() & key("/notes/:id").exists()).run(async |firing: Firing| {
        assert_eq!(firing.value("/notes/:id")?, "new");
        done(&firing)
    });
    let engine = stage.engine().rule(rule);
    let _engine = stage.start(engine).await;
    stage.faults.inject(Fault::on(RequestKind::Txn).delay(seconds(0.2)));
    stage.put("/jobs/1", "");
    stage.at(0.2).await;
    stage.put("/notes/1", "new");
    stage.at(1.5).await;
    stage.expect("fired with what is there", "watch_events_total 3; watch_position 8; evaluations_total{result=true} 2;
         evaluations_total{result=false} 1; workqueue_adds_total 1; lock_attempts_total{result=changed} 1; started 1;
         stage_duration_seconds_count{stage=delivery} 1; stage_duration_seconds_sum{stage=lock} 0.2;
         trigger_latency_seconds_sum 0.2; workqueue_work_duration_seconds_sum 0.2;
         callbacks_total{outcome=done} 1; closed 1; transactions 3; request connect 1;
         etcd_request_duration_seconds_sum{request=txn} 0.2");
}

/// etcd refuses one request for a lock.
pub(super) async fn a_lock_that_is_refused(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    let _engine = stage.start(engine).await;
    stage.faults.inject(Fault::on(RequestKind::Txn).fail(RpcError::TOO_MANY_REQUESTS));
    stage.put("/jobs/1", "");
    stage.at(3.5).await;
    stage.expect(
        "done later",
        "watch_events_total 2; watch_position 6; evaluations_total{result=false} 1;
         evaluations_total{result=true} 2; workqueue_adds_total 2; started 1;
         lock_attempts_total{result=failed} 1; stage_duration_seconds_count{stage=delivery} 1;
         stage_duration_seconds_sum{stage=lock} 1; trigger_latency_seconds_sum 1;
         callbacks_total{outcome=done} 1; closed 1; workqueue_queue_duration_seconds_count 1;
         workqueue_retries_total 1; workqueue_work_duration_seconds_count 1; transactions 2;
         request connect 1; request get 1; etcd_request_duration_seconds_count{request=txn} 1;
         etcd_requests_total{request=txn,result=overloaded} 1; batch_entries_count 1; batch_entries_sum 1",
    );
}

/// etcd refuses a commit because of its content.
pub(super) async fn a_commit_that_is_refused(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    let _engine = stage.start(engine).await;
    stage.faults.inject(Fault::on(RequestKind::Txn).after(1).fail(RpcError::DUPLICATE_KEY));
    stage.put("/jobs/1", "");
    stage.at(2.5).await;
    stage.expect(
        "failed once",
        "watch_events_total 2; watch_position 8; evaluations_total{result=false} 1;
         evaluations_total{result=true} 3; workqueue_adds_total 2; started 2;
         stage_duration_seconds_count{stage=commit} 1; stage_duration_seconds_count{stage=delivery} 2;
         callbacks_total{outcome=done} 2; closed 2; commits_total{result=refused} 1;
         workqueue_retries_total 1; transactions 4; request connect 1; request lease_grant 1;
         etcd_request_duration_seconds_count{request=txn} 1;
         etcd_requests_total{request=txn,result=rejected} 1; batch_entries_count 1; batch_entries_sum 1;
         key_leases_total 1",
    );
}

/// etcd refuses a commit because it is too large.
pub(super) async fn a_commit_that_is_too_large(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    let _engine = stage.start(engine).await;
    stage.faults.inject(Fault::on(RequestKind::Txn).after(1).fail(RpcError::REQUEST_TOO_LARGE));
    stage.put("/jobs/1", "");
    stage.at(2.5).await;
    stage.expect(
        "given up",
        "watch_events_total 1; watch_position 4; mirror_bytes 7; mirror_keys 1; instances 1;
         instances_by_state{state=given_up} 1; evaluations_total{result=true} 2; workqueue_adds_total 1; started 1;
         stage_duration_seconds_count{stage=commit} 1; stage_duration_seconds_count{stage=delivery} 1;
         callbacks_total{outcome=done} 1; closed 1; commits_total{result=too_large} 1; transactions 2;
         request connect 1; etcd_request_duration_seconds_count{request=txn} 1;
         etcd_requests_total{request=txn,result=rejected} 1; batch_entries_count 1; batch_entries_sum 1",
    );
}

/// An instance whose keys are so long that its lock can't be taken.
pub(super) async fn a_lock_that_is_too_large(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    let _engine = stage.start(engine.max_request_bytes(16 << 10)).await;
    let key = format!("/jobs/{}", "x".repeat(10_000));
    stage.put(&key, "");
    stage.at(2.5).await;
    stage.expect(
        "given up",
        "watch_events_total 1; watch_position 4; mirror_bytes 10006; mirror_keys 1; instances 1;
         instances_by_state{state=given_up} 1; evaluations_total{result=true} 1; workqueue_adds_total 1;
         lock_attempts_total{result=too_large} 1; workqueue_queue_duration_seconds_count 1;
         workqueue_work_duration_seconds_count 1",
    );
}

/// The commit of an optimistic firing finds the mark of another engine.
pub(super) async fn a_commit_that_is_held_back(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).optimistic().run(async |firing: Firing| done(&firing)));
    let _engine = stage.start(engine).await;
    let mark = format!("{NAMESPACE}backoff/r/1");
    stage.put("/jobs/1", "");
    stage.put(&mark, r#"{"engine":"other","attempt":1,"until":9000,"gave_up":false,"error":"bad"}"#);
    stage.at(1.5).await;
    stage.expect(
        "held back",
        "watch_events_total 1; watch_position 4; mirror_bytes 7; mirror_keys 1; instances 1;
         instances_by_state{state=held} 1; evaluations_total{result=true} 1; workqueue_adds_total 1;
         stage_duration_seconds_count{stage=callback} 1; stage_duration_seconds_count{stage=commit} 1;
         stage_duration_seconds_count{stage=decide} 1; stage_duration_seconds_count{stage=delivery} 1;
         stage_duration_seconds_count{stage=queue} 1; stage_duration_seconds_count{stage=start} 1;
         trigger_latency_seconds_count 1; callbacks_total{outcome=done} 1; commits_total{result=backed_off} 1;
         workqueue_queue_duration_seconds_count 1; workqueue_work_duration_seconds_count 1; transactions 1;
         request connect 1; request get 1; request watch 1",
    );
}

/// The commit gets no answer before its lease has ended.
pub(super) async fn a_commit_that_fails(stage: &mut Stage) {
    let job = rule(exists()).run(async |firing: Firing| {
        sleep(seconds(1.0)).await;
        done(&firing)
    });
    let engine = stage.engine().rule(job).lock_ttl(seconds(8.0));
    let _engine = stage.start(engine).await;
    stage.put("/jobs/1", "");
    stage.at(0.5).await;
    // The request is sent at 1.1 s and given up 5 s later. Meanwhile the lease is lost.
    stage.faults.inject(Fault::on(RequestKind::Txn).lose());
    stage.at(1.9).await;
    stage.faults.expire_lease(stage.faults.leases()[0]);
    stage.at(6.5).await;
    stage.expect(
        "failed",
        "watch_events_total 1; watch_position 4; mirror_bytes 7; mirror_keys 1; instances 1;
         instances_by_state{state=running} 1; evaluations_total{result=true} 2; workqueue_adds_total 1;
         started 1; stage_duration_seconds_count{stage=callback} 1;
         stage_duration_seconds_count{stage=commit} 1; stage_duration_seconds_count{stage=delivery} 1;
         stage_duration_seconds_sum{stage=callback} 1; stage_duration_seconds_sum{stage=commit} 5.05;
         callbacks_total{outcome=done} 1; commits_total{result=failed} 1; locks_lost_total 1;
         workqueue_longest_running_processor_seconds 5.9; workqueue_retries_total 1;
         workqueue_unfinished_work_seconds 5.9; workqueue_work_duration_seconds_count 1;
         workqueue_work_duration_seconds_sum 6.05; transactions 1; request connect 1; request lease_grant 1; request lease_renew 2; request txn 1;
         request watch 1;
         etcd_request_duration_seconds_count{request=txn} 1; etcd_request_duration_seconds_sum{request=txn} 5;
         etcd_requests_total{request=txn,result=unreachable} 1; batch_entries_count 1; batch_entries_sum 1;
         lease_renewals_total{result=ok} 2; leases_lost_total 1;
         health{state=degraded} 1; health{state=disconnected} 1; health{state=ready} 0",
    );
}

/// A commit takes effect, but the engine gets an error for it.
pub(super) async fn a_commit_in_doubt(stage: &mut Stage) {
    let faults = stage.faults.clone();
    let job = rule(exists()).run(move |firing: Firing| {
        faults.inject(Fault::on(RequestKind::Txn).fail_after(RpcError::TIMED_OUT));
        async move { done(&firing) }
    });
    let engine = stage.engine().rule(job);
    let _engine = stage.start(engine).await;
    stage.put("/jobs/1", "");
    stage.at(0.9).await;
    stage.expect(
        "its lock is gone, and its lease lives",
        "watch_events_total 2; evaluations_total{result=false} 1; evaluations_total{result=true} 1;
         workqueue_adds_total 1; started 1; stage_duration_seconds_count{stage=delivery} 1;
         stage_duration_seconds_sum{stage=commit} 0.05; callbacks_total{outcome=done} 1; closed 1;
         workqueue_work_duration_seconds_sum 0.05; transactions 2; request connect 1; request range 2;
         request watch 1;
         etcd_request_duration_seconds_count{request=txn} 1;
         etcd_requests_total{request=txn,result=unreachable} 1; batch_entries_count 1; batch_entries_sum 1",
    );
}

/// A commit never arrives, and its lock is deleted before it is sent again.
pub(super) async fn a_commit_that_is_unknown(stage: &mut Stage) {
    let faults = stage.faults.clone();
    let first = AtomicBool::new(true);
    let job = rule(exists()).run(move |firing: Firing| {
        if first.swap(false, Ordering::SeqCst) {
            faults.inject(Fault::on(RequestKind::Txn).lose());
        }
        async move { done(&firing) }
    });
    let engine = stage.engine().rule(job);
    let _engine = stage.start(engine).await;
    stage.put("/jobs/1", "");
    stage.at(1.5).await;
    stage.delete(&format!("{NAMESPACE}lock/r/1"));
    stage.at(7.5).await;
    stage.expect(
        "decided again, and done",
        "watch_events_total 2; watch_position 8; evaluations_total{result=false} 1;
         evaluations_total{result=true} 3; workqueue_adds_total 2; started 2;
         stage_duration_seconds_count{stage=callback} 2; stage_duration_seconds_count{stage=commit} 2;
         stage_duration_seconds_count{stage=delivery} 2; stage_duration_seconds_sum{stage=commit} 5.055;
         stage_duration_seconds_sum{stage=lock} 1; trigger_latency_seconds_sum 1;
         callbacks_total{outcome=done} 2; commits_total{result=committed} 1; commits_total{result=unknown} 1;
         workqueue_retries_total 1; workqueue_work_duration_seconds_count 2;
         workqueue_work_duration_seconds_sum 5.055; batch_entries_count 5; batch_entries_sum 5;
         request connect 1; request get 1; request range 1; request watch 1; request txn 4;
         etcd_request_duration_seconds_count{request=txn} 1; etcd_request_duration_seconds_sum{request=txn} 5;
         etcd_requests_total{request=txn,result=unreachable} 1",
    );
}

/// An orphan: a lock under this engine's lease under which nobody works.
pub(super) async fn an_orphan(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    let _engine = stage.start(engine).await;
    let holder = r#"{"engine":"e","nonce":1,"since":0}"#;
    stage.put_under(stage.faults.leases()[0], &format!("{NAMESPACE}lock/r/1"), holder).await;
    stage.put("/jobs/1", "");
    stage.at(3.5).await;
    stage.expect(
        "freed, and done",
        "watch_events_total 2; watch_position 8; evaluations_total{result=false} 1;
         evaluations_total{result=true} 2; workqueue_adds_total 2; started 1;
         lock_attempts_total{result=held} 1; stage_duration_seconds_count{stage=delivery} 1;
         stage_duration_seconds_sum{stage=lock} 1; trigger_latency_seconds_sum 1;
         callbacks_total{outcome=done} 1; closed 1; workqueue_queue_duration_seconds_count 1;
         workqueue_retries_total 1; workqueue_work_duration_seconds_count 1; transactions 4;
         request connect 1; orphaned_locks_total 1",
    );
}

/// The application's runtime is blocked for good.
pub(super) async fn a_stuck_callback(stage: &mut Stage) {
    let blocked = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let job = rule(exists()).time_limit(seconds(2.0)).run(async |firing: Firing| done(&firing));
    let engine = stage.engine().rule(job).runtime(blocked.handle().clone()).lock_ttl(seconds(8.0));
    let _engine = stage.start(engine).await;
    stage.put("/jobs/1", "");
    // The time limit is 2 s and the grace 1 s (an eighth of the TTL). The engine waits one more second, and
    // then takes up to a second to notice.
    stage.at(3.95).await;
    stage.begin();
    stage.at(5.15).await;
    stage.expect(
        "stuck",
        "stuck_callbacks 1; workqueue_longest_running_processor_seconds 4.9;
         workqueue_unfinished_work_seconds 4.9; request txn 2; request lease_renew 1;
         lease_renewals_total{result=ok} 1",
    );
    blocked.shutdown_background();
    stage.at(5.2).await;
    stage.expect(
        "ended",
        "evaluations_total{result=true} 1; stage_duration_seconds_count{stage=commit} 1;
         callbacks_total{outcome=cancelled} 1; commits_total{result=committed} 1; workqueue_retries_total 1;
         workqueue_work_duration_seconds_count 1; workqueue_work_duration_seconds_sum 5.05; transactions 1;
         stuck_callbacks 0",
    );
}
