//! Acts of watches, crawls and the index.

use super::stage::{NAMESPACE, Stage, done, exists, rule, seconds};
use crate::condition::key;
use crate::embedded::{Fault, RequestKind, RpcError};
use crate::firing::Firing;
use crate::rule::Rule;
use std::panic::resume_unwind;

/// The stream ends, and is opened again.
pub(super) async fn a_broken_stream(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    let _engine = stage.start(engine).await;
    stage.faults.cut_streams();
    stage.at(1.5).await;
    stage.expect("opened again", "watch_reconnects_total 1; request get 1; request watch 2");
}

/// There is no connection for 2.3 s, beginning at 0.5 s.
pub(super) async fn an_outage(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    let _engine = stage.start(engine).await;
    stage.at(0.5).await;
    stage.path.set_reachable(false);
    stage.at(2.8).await;
    stage.expect(
        "still away",
        "watch_reconnects_total 1; watch_lag_seconds 1.5; etcd_request_duration_seconds_count{request=get} 5;
         etcd_requests_total{request=get,result=unreachable} 5;
         etcd_request_duration_seconds_count{request=watch} 5;
         etcd_requests_total{request=watch,result=unreachable} 5; health{state=degraded} 1;
         health{state=disconnected} 1; health{state=ready} 0",
    );
    stage.path.set_reachable(true);
    stage.at(6.5).await;
    stage.expect(
        "back",
        "watch_lag_seconds 0; request get 1; request watch 2; health{state=degraded} 0;
         health{state=disconnected} 0; health{state=ready} 1",
    );
}

/// While there is no connection, the missed changes are compacted.
pub(super) async fn a_resync(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    let _engine = stage.start(engine).await;
    stage.path.cut();
    stage.path.set_reachable(false);
    stage.put("/jobs/1", "");
    stage.delete("/jobs/1");
    stage.put("/other", "");
    stage.faults.compact(stage.faults.revision()).expect("a compaction");
    stage.path.set_reachable(true);
    stage.at(1.5).await;
    stage.expect(
        "compared with a snapshot",
        "watch_reconnects_total 1; resyncs_total 1; snapshot_duration_seconds_count 1; request get 4;
         request range 1; request watch 4",
    );
}

/// The engine misses 2,500 changes. etcd sends them in three messages, 0.9 s apart.
pub(super) async fn history(stage: &mut Stage) {
    let waits = key("/jobs/:id").equals("never");
    let engine = stage.engine().rule(rule(waits).run(async |firing: Firing| done(&firing)));
    let _engine = stage.start(engine).await;
    stage.path.set_reachable(false);
    for _ in 0..2500 {
        stage.put("/jobs/1", "");
    }
    stage.faults.inject(Fault::on(RequestKind::WatchResponse).always().delay(seconds(0.9)));
    stage.path.set_reachable(true);
    stage.at(2.5).await;
    stage.expect(
        "one message",
        "watch_events_total 1000; watch_position 1003; watch_reconnects_total 1; watch_lag_revisions 1500;
         watch_lag_seconds 0.05; mirror_bytes 7; mirror_keys 1; instances 1;
         evaluations_total{result=false} 1; request get 1; request watch 2",
    );
    stage.at(3.5).await;
    stage.expect(
        "two messages",
        "watch_events_total 1000; watch_position 2003; watch_lag_revisions 500; watch_lag_seconds 1.05;
         evaluations_total{result=false} 1",
    );
    stage.at(5.5).await;
    stage.expect(
        "all",
        "watch_events_total 500; watch_position 2503; watch_lag_revisions 0; watch_lag_seconds 0;
         evaluations_total{result=false} 1",
    );
}

/// etcd breaks its promise: an event is never sent. A crawl finds the key. Another key is deleted while the
/// crawl compares, and its tombstone stays for that time.
pub(super) async fn drift(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    let waits = Rule::new("waits").when(key("/waits/:id").equals("never"));
    let engine = engine.rule(waits.run(async |firing: Firing| done(&firing)));
    stage.put("/waits/2", "");
    let _engine = stage.start(engine.crawl_interval(seconds(10.0))).await;
    stage.at(9.5).await;
    stage.begin();
    stage.faults.inject(Fault::on(RequestKind::WatchResponse).lose());
    stage.put("/jobs/1", "");
    stage.at(10.5).await;
    stage.delete("/waits/2");
    stage.at(10.6).await;
    stage.expect(
        "being compared",
        "watch_events_total 1; mirror_bytes 0; mirror_keys 0; mirror_tombstones 1; instances{rule=waits} 0;
         evaluations_total{rule=waits,result=false} 1; request get 1; request range 2",
    );
    stage.at(11.5).await;
    stage.expect(
        "repaired",
        "watch_events_total 1; watch_position 6; crawl_duration_seconds_count 1; crawl_duration_seconds_sum 1;
         crawl_keys 2; drift_total 1; mirror_tombstones 0; evaluations_total{result=false} 1;
         evaluations_total{result=true} 2; workqueue_adds_total 1; started 1;
         stage_duration_seconds_count{stage=delivery} 1; callbacks_total{outcome=done} 1; closed 1;
         transactions 2; request connect 1; request range 1",
    );
}

/// A crawl finds a lock under this engine's lease under which nobody works.
pub(super) async fn an_orphan_found_by_a_crawl(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    let _engine = stage.start(engine.crawl_interval(seconds(10.0))).await;
    let holder = r#"{"engine":"e","nonce":1,"since":0}"#;
    stage.put_under(stage.faults.leases()[0], &format!("{NAMESPACE}lock/r/1"), holder).await;
    stage.at(11.5).await;
    stage.expect(
        "freed",
        "crawl_duration_seconds_count 1; crawl_duration_seconds_sum 1; orphaned_locks_total 1; transactions 1;
         request connect 1; request get 1; request range 2",
    );
}

pub(super) async fn a_crawl_that_fails(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    let _engine = stage.start(engine.crawl_interval(seconds(10.0))).await;
    stage.faults.inject(Fault::on(RequestKind::Range).after(1).fail(RpcError::COMPACTED));
    stage.at(10.5).await;
    // The look at locks comes all the same.
    stage.expect(
        "failed",
        "crawl_failures_total 1; request get 1; etcd_request_duration_seconds_count{request=range} 2;
         etcd_requests_total{request=range,result=compacted} 1;
         etcd_requests_total{request=range,result=ok} 1",
    );
}

pub(super) async fn a_comparison_that_panics(stage: &mut Stage) {
    // This calls no panic hook, so nothing is printed.
    let panics = key("/jobs/:id").compare("panics", |_| resume_unwind(Box::new("on purpose")));
    let engine = stage.engine().rule(rule(panics).run(async |firing: Firing| done(&firing)));
    let _engine = stage.start(engine).await;
    stage.put("/jobs/1", "");
    stage.at(1.5).await;
    stage.expect(
        "left alone",
        "watch_events_total 1; watch_position 4; mirror_bytes 7; mirror_keys 1; instances 1;
         evaluations_total{result=failed} 1",
    );
}

pub(super) async fn a_pause(stage: &mut Stage) {
    let engine = stage.engine().rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    let engine = stage.start(engine).await;
    engine.pause("r").await.expect("a rule");
    stage.put("/jobs/1", "");
    stage.at(1.5).await;
    stage.expect(
        "paused",
        "watch_events_total 1; watch_position 4; mirror_bytes 7; mirror_keys 1; instances 1;
         instances_by_state{state=queued} 1; evaluations_total{result=true} 1; workqueue_adds_total 1;
         workqueue_depth 1; rule_paused 1",
    );
    engine.resume("r").await.expect("a rule");
    stage.at(2.5).await;
    stage.expect(
        "goes on",
        "watch_events_total 1; watch_position 6; mirror_bytes 0; mirror_keys 0; instances 0;
         instances_by_state{state=queued} 0; evaluations_total{result=false} 1;
         evaluations_total{result=true} 1; started 1; stage_duration_seconds_count{stage=delivery} 1;
         stage_duration_seconds_sum{stage=queue} 1.4; trigger_latency_seconds_sum 1.4;
         callbacks_total{outcome=done} 1; closed 1; workqueue_depth 0;
         workqueue_queue_duration_seconds_sum 1.4; transactions 2; request connect 1; rule_paused 0",
    );
}
