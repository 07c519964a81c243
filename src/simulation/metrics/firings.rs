//! Acts of firings, from the decision to the commit.

use super::stage::{Stage, block, done, exists, rule, seconds};
use crate::Outcome;
use crate::compiled::RateLimit;
use crate::condition::key;
use crate::embedded::{Fault, RequestKind};
use crate::error::Error;
use crate::events::EventKind;
use crate::firing::Firing;
use tokio::task::spawn_local;
use tokio::time::sleep;

/// The lock takes 0.3 s, the callback 2 s, the commit 0.7 s.
pub(super) async fn a_firing(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| {
        sleep(seconds(2.0)).await;
        done(&firing)
    }));
    let _engine = stage.start(engine).await;
    stage.faults.inject(Fault::on(RequestKind::Txn).delay(seconds(0.3)));
    // Between them its lock is looked at, as it is held for more than a second.
    stage.faults.inject(Fault::on(RequestKind::Txn).after(2).delay(seconds(0.7)));
    stage.put("/jobs/1", "work");
    stage.at(1.5).await;
    stage.expect(
        "while it runs",
        "watch_events_total 1; watch_position 4; mirror_bytes 11; mirror_keys 1; instances 1;
         instances_by_state{state=running} 1; evaluations_total{result=true} 1; workqueue_adds_total 1;
         started 1; callbacks_in_flight 1; stage_duration_seconds_count{stage=delivery} 1;
         stage_duration_seconds_sum{stage=lock} 0.3; trigger_latency_seconds_sum 0.3;
         workqueue_longest_running_processor_seconds 0.9; workqueue_unfinished_work_seconds 0.9;
         transactions 1; request connect 1; etcd_request_duration_seconds_sum{request=txn} 0.3",
    );
    stage.at(4.5).await;
    stage.expect(
        "afterwards",
        "watch_events_total 1; watch_position 6; mirror_bytes 0; mirror_keys 0; instances 0;
         instances_by_state{state=running} 0; evaluations_total{result=false} 2; callbacks_in_flight 0;
         stage_duration_seconds_sum{stage=callback} 2; stage_duration_seconds_sum{stage=commit} 0.7;
         callbacks_total{outcome=done} 1; closed 1; workqueue_longest_running_processor_seconds 0;
         workqueue_unfinished_work_seconds 0; workqueue_work_duration_seconds_sum 3; transactions 1; request txn 1;
         etcd_request_duration_seconds_sum{request=txn} 0.7",
    );
}

/// The comparison takes 40 ms, twice. The application's runtime is blocked for 30 ms when the callback is
/// due.
pub(super) async fn blocked_threads(stage: &mut Stage) {
    let slow = key("/jobs/:id").compare("slow", |value| {
        block(seconds(0.04));
        value.is_some()
    });
    let engine = stage.engine().rule(rule(slow).run(async |firing: Firing| done(&firing)));
    let engine = stage.start(engine).await;
    let mut events = engine.events();
    spawn_local(async move {
        while let Some(Ok(event)) = events.recv().await {
            if matches!(event.kind, EventKind::Started { .. }) {
                block(seconds(0.03));
            }
        }
    });
    stage.put("/jobs/1", "");
    stage.put("/jobs/2", "");
    stage.at(2.5).await;
    stage.expect(
        "afterwards",
        "watch_events_total 4; watch_position 8; evaluations_total{result=false} 2;
         evaluations_total{result=true} 2; workqueue_adds_total 2; started 2;
         stage_duration_seconds_count{stage=delivery} 2; stage_duration_seconds_sum{stage=decide} 0.08;
         stage_duration_seconds_sum{stage=delivery} 0.04; stage_duration_seconds_sum{stage=lock} 0.04;
         stage_duration_seconds_sum{stage=start} 0.12; trigger_latency_seconds_sum 0.28;
         callbacks_total{outcome=done} 2; closed 2; workqueue_work_duration_seconds_sum 0.16;
         batch_entries_count 3; batch_entries_sum 4; etcd_request_duration_seconds_count{request=txn} 3;
         etcd_requests_total{request=txn,result=ok} 3;
         request connect 1; etcd_request_duration_seconds_sum{request=connect} 0.04",
    );
}

/// Three instances, one slot, 2 s each.
pub(super) async fn a_queue(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).concurrency(1).run(async |firing: Firing| {
        sleep(seconds(2.0)).await;
        done(&firing)
    }));
    let _engine = stage.start(engine).await;
    for key in ["/jobs/1", "/jobs/2", "/jobs/3"] {
        stage.put(key, "");
    }
    stage.at(1.5).await;
    stage.expect(
        "two wait",
        "watch_events_total 3; watch_position 6; mirror_bytes 21; mirror_keys 3; instances 3;
         instances_by_state{state=queued} 2; instances_by_state{state=running} 1;
         evaluations_total{result=true} 3; workqueue_adds_total 3; started 1; callbacks_in_flight 1;
         stage_duration_seconds_count{stage=delivery} 1; workqueue_depth 2;
         workqueue_longest_running_processor_seconds 0.9; workqueue_unfinished_work_seconds 0.9;
         transactions 1; request connect 1",
    );
    stage.at(3.5).await;
    stage.expect(
        "one waits",
        "watch_events_total 1; watch_position 8; mirror_bytes 14; mirror_keys 2; instances 2;
         instances_by_state{state=queued} 1; evaluations_total{result=false} 1;
         evaluations_total{result=true} 1; started 1; stage_duration_seconds_count{stage=delivery} 1;
         stage_duration_seconds_sum{stage=callback} 2; stage_duration_seconds_sum{stage=queue} 2;
         trigger_latency_seconds_sum 2; callbacks_total{outcome=done} 1; closed 1; workqueue_depth 1;
         workqueue_queue_duration_seconds_sum 2; workqueue_work_duration_seconds_sum 2; transactions 2;
         request txn 1",
    );
    stage.at(7.5).await;
    stage.expect(
        "all are done",
        "watch_events_total 2; watch_position 12; mirror_bytes 0; mirror_keys 0; instances 0;
         instances_by_state{state=queued} 0; instances_by_state{state=running} 0;
         evaluations_total{result=false} 2; evaluations_total{result=true} 1; started 1;
         callbacks_in_flight 0; stage_duration_seconds_count{stage=delivery} 1;
         stage_duration_seconds_sum{stage=callback} 4; stage_duration_seconds_sum{stage=queue} 4;
         trigger_latency_seconds_sum 4; callbacks_total{outcome=done} 2; closed 2; workqueue_depth 0;
         workqueue_longest_running_processor_seconds 0; workqueue_queue_duration_seconds_sum 4;
         workqueue_unfinished_work_seconds 0; workqueue_work_duration_seconds_sum 4; transactions 3; request txn 2",
    );
}

/// One firing in 2 s: the second instance waits.
pub(super) async fn a_rate_limit(stage: &mut Stage) {
    let limit = RateLimit::new(1, seconds(2.0));
    let engine =
        stage.engine().rule(rule(exists()).rate_limit(limit).run(async |firing: Firing| done(&firing)));
    let _engine = stage.start(engine).await;
    stage.put("/jobs/1", "");
    stage.put("/jobs/2", "");
    stage.at(1.5).await;
    stage.expect(
        "one waits",
        "watch_events_total 3; watch_position 7; mirror_bytes 7; mirror_keys 1; instances 1;
         instances_by_state{state=queued} 1; evaluations_total{result=false} 1;
         evaluations_total{result=true} 2; workqueue_adds_total 2; started 1;
         stage_duration_seconds_count{stage=delivery} 1; callbacks_total{outcome=done} 1; closed 1;
         workqueue_depth 1; transactions 2; request connect 1; rule_throttled 1",
    );
    stage.at(3.5).await;
    stage.expect(
        "both are done",
        "watch_events_total 1; watch_position 9; mirror_bytes 0; mirror_keys 0; instances 0;
         instances_by_state{state=queued} 0; evaluations_total{result=false} 1;
         evaluations_total{result=true} 1; started 1; stage_duration_seconds_count{stage=delivery} 1;
         stage_duration_seconds_sum{stage=queue} 2; trigger_latency_seconds_sum 2;
         callbacks_total{outcome=done} 1; closed 1; workqueue_depth 0; workqueue_queue_duration_seconds_sum 2;
         transactions 2; rule_throttled 0",
    );
}

/// An instance that would fire doesn't, until the dry run ends.
pub(super) async fn a_dry_run(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    let engine = stage.start(engine).await;
    engine.begin_dry_run("r").await.unwrap();
    stage.put("/jobs/1", "");
    stage.at(1.5).await;
    stage.expect(
        "it would fire",
        "watch_events_total 1; watch_position 4; mirror_bytes 7; mirror_keys 1; instances 1;
         instances_by_state{state=would_fire} 1; evaluations_total{result=true} 2; workqueue_adds_total 1;
         workqueue_queue_duration_seconds_count 1; workqueue_work_duration_seconds_count 1;
         would_have_fired_total 1; rule_dry_run 1",
    );
    engine.end_dry_run("r").await.unwrap();
    stage.at(2.5).await;
    stage.expect(
        "it fires",
        "watch_events_total 1; watch_position 6; mirror_bytes 0; mirror_keys 0; instances 0;
         instances_by_state{state=would_fire} 0; evaluations_total{result=false} 1;
         evaluations_total{result=true} 1; workqueue_adds_total 1; started 1;
         stage_duration_seconds_count{stage=delivery} 1; callbacks_total{outcome=done} 1; closed 1;
         transactions 2; request connect 1; rule_dry_run 0",
    );
}

/// The callback asks to be run again in 5 s, and then is done.
pub(super) async fn a_retry_that_was_asked_for(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| {
        match firing.value_opt("/jobs/:id")?.is_some_and(|value| value.as_bytes() == b"again") {
            true => Ok(firing.commit().put("/jobs/:id", "now").retry_after(seconds(5.0))),
            false => done(&firing),
        }
    }));
    let _engine = stage.start(engine).await;
    stage.put("/jobs/1", "again");
    stage.at(1.5).await;
    stage.expect(
        "put off",
        "watch_events_total 2; watch_position 6; mirror_bytes 10; mirror_keys 1; instances 1;
         instances_by_state{state=waiting} 1; evaluations_total{result=true} 2; workqueue_adds_total 1;
         started 1; stage_duration_seconds_count{stage=delivery} 1; callbacks_total{outcome=retry_after} 1;
         closed 1; workqueue_retries_total 1; transactions 2; request connect 1; request lease_grant 1;
         key_leases_total 1",
    );
    stage.at(6.5).await;
    stage.expect(
        "done",
        "watch_events_total 1; watch_position 8; mirror_bytes 0; mirror_keys 0; instances 0;
         instances_by_state{state=waiting} 0; evaluations_total{result=false} 1;
         evaluations_total{result=true} 1; workqueue_adds_total 1; started 1;
         stage_duration_seconds_count{stage=delivery} 1; callbacks_total{outcome=done} 1; closed 1;
         transactions 2",
    );
}

/// The callback gives up.
pub(super) async fn giving_up(stage: &mut Stage) {
    let engine = stage
        .engine()
        .rule(rule(exists()).run(async |_: Firing| Ok::<_, Error>(Outcome::give_up("it makes no sense"))));
    let _engine = stage.start(engine).await;
    stage.put("/jobs/1", "");
    stage.at(1.5).await;
    stage.expect(
        "given up",
        "watch_events_total 1; watch_position 4; mirror_bytes 7; mirror_keys 1; instances 1;
         instances_by_state{state=given_up} 1; evaluations_total{result=true} 2; workqueue_adds_total 1;
         started 1; stage_duration_seconds_count{stage=delivery} 1; callbacks_total{outcome=gave_up} 1;
         closed 1; transactions 2; request connect 1",
    );
}

/// The callback succeeds and leaves the condition true. A change by somebody else makes it fire again, but
/// not at once.
pub(super) async fn no_effect(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |_: Firing| Ok::<_, Error>(Outcome::done())));
    let _engine = stage.start(engine).await;
    stage.put("/jobs/1", "");
    stage.at(0.5).await;
    stage.expect(
        "as true as before",
        "watch_events_total 1; mirror_bytes 7; mirror_keys 1; instances 1; evaluations_total{result=true} 2;
         workqueue_adds_total 1; started 1; stage_duration_seconds_count{stage=delivery} 1;
         callbacks_total{outcome=done} 1; ineffective_firings_total 1; closed 1; transactions 2;
         request connect 1",
    );
    stage.put("/jobs/1", "again");
    stage.at(1.05).await;
    stage.expect(
        "slowed down",
        "watch_events_total 1; watch_position 7; mirror_bytes 12; instances_by_state{state=waiting} 1;
         evaluations_total{result=true} 1; workqueue_retries_total 1",
    );
    stage.at(2.5).await;
    stage.expect(
        "fired again",
        "instances_by_state{state=idle} 1; instances_by_state{state=waiting} 0;
         evaluations_total{result=true} 2; workqueue_adds_total 1; started 1;
         stage_duration_seconds_count{stage=delivery} 1; stage_duration_seconds_sum{stage=queue} 0.6;
         trigger_latency_seconds_sum 0.6; callbacks_total{outcome=done} 1; ineffective_firings_total 1;
         closed 1; transactions 2",
    );
}

/// An instance fires more often than it may: the third time it is put off, twice the base of its backoff after the
/// second.
pub(super) async fn too_often(stage: &mut Stage) {
    let rule = rule(exists()).instance_rate(RateLimit::new(1, seconds(60.0)));
    let engine = stage.engine().rule(rule.run(async |firing: Firing| done(&firing)));
    let _engine = stage.start(engine).await;
    stage.put("/jobs/1", "");
    stage.at(0.5).await;
    stage.put("/jobs/1", "");
    stage.at(1.05).await;
    stage.expect(
        "as always",
        "watch_events_total 4; watch_position 9; evaluations_total{result=true} 2;
         evaluations_total{result=false} 2; workqueue_adds_total 2; started 2;
         stage_duration_seconds_count{stage=delivery} 2; callbacks_total{outcome=done} 2; closed 2;
         transactions 4; request connect 1",
    );
    stage.put("/jobs/1", "");
    stage.at(1.5).await;
    stage.expect(
        "it waits",
        "watch_events_total 1; mirror_bytes 7; mirror_keys 1; instances 1; evaluations_total{result=true} 1;
         workqueue_retries_total 1",
    );
    stage.at(3.5).await;
    stage.expect(
        "it fires",
        "watch_events_total 1; watch_position 12; mirror_bytes 0; mirror_keys 0; instances 0;
         evaluations_total{result=true} 1; evaluations_total{result=false} 1; workqueue_adds_total 1; started 1;
         stage_duration_seconds_count{stage=delivery} 1; stage_duration_seconds_sum{stage=queue} 1.45;
         trigger_latency_seconds_sum 1.45; callbacks_total{outcome=done} 1; slowed_firings_total 1;
         closed 1; transactions 2",
    );
}

/// A key that the commit relies on changes while the callback runs.
pub(super) async fn an_expectation_that_fails(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| {
        sleep(seconds(1.0)).await;
        Ok::<Outcome, Error>(firing.commit().expect_unchanged("/jobs/:id").delete("/jobs/:id").into())
    }));
    let _engine = stage.start(engine).await;
    stage.put("/jobs/1", "");
    stage.at(0.5).await;
    stage.put("/jobs/1", "changed");
    stage.at(1.9).await;
    stage.expect(
        "refused",
        "watch_events_total 2; watch_position 6; mirror_bytes 14; mirror_keys 1; instances 1;
         instances_by_state{state=running} 1; evaluations_total{result=true} 3; workqueue_adds_total 1;
         started 1; stage_duration_seconds_count{stage=callback} 1;
         stage_duration_seconds_count{stage=commit} 1; stage_duration_seconds_count{stage=delivery} 1;
         stage_duration_seconds_sum{stage=callback} 1; callbacks_total{outcome=done} 1;
         commits_total{result=unexpected} 1; workqueue_longest_running_processor_seconds 0.9;
         workqueue_retries_total 1; workqueue_unfinished_work_seconds 0.9;
         workqueue_work_duration_seconds_count 1; workqueue_work_duration_seconds_sum 1; transactions 3;
         request connect 1",
    );
    stage.at(5.5).await;
    stage.expect(
        "done",
        "watch_events_total 1; watch_position 9; mirror_bytes 0; mirror_keys 0; instances 0;
         instances_by_state{state=running} 0; evaluations_total{result=false} 1;
         evaluations_total{result=true} 1; workqueue_adds_total 1; started 1;
         stage_duration_seconds_count{stage=delivery} 1; stage_duration_seconds_sum{stage=callback} 1;
         stage_duration_seconds_sum{stage=lock} 1; trigger_latency_seconds_sum 1;
         callbacks_total{outcome=done} 1; closed 1; workqueue_longest_running_processor_seconds 0;
         workqueue_unfinished_work_seconds 0; workqueue_work_duration_seconds_sum 1; transactions 2",
    );
}

/// Without a lock there is no attempt to take it, and no stage for it. The commit takes 0.2 s.
pub(super) async fn an_optimistic_firing(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).optimistic().run(async |firing: Firing| done(&firing)));
    let _engine = stage.start(engine).await;
    stage.faults.inject(Fault::on(RequestKind::Txn).delay(seconds(0.2)));
    stage.put("/jobs/1", "");
    stage.at(1.5).await;
    stage.expect(
        "done",
        "watch_events_total 2; watch_position 5; evaluations_total{result=false} 2;
         evaluations_total{result=true} 1; workqueue_adds_total 1;
         stage_duration_seconds_count{stage=decide} 1; stage_duration_seconds_count{stage=delivery} 1;
         stage_duration_seconds_count{stage=queue} 1; stage_duration_seconds_count{stage=start} 1;
         stage_duration_seconds_sum{stage=commit} 0.2; trigger_latency_seconds_count 1;
         callbacks_total{outcome=done} 1; closed 1; workqueue_queue_duration_seconds_count 1;
         workqueue_work_duration_seconds_sum 0.2; transactions 1; request connect 1;
         etcd_request_duration_seconds_sum{request=txn} 0.2",
    );
}
