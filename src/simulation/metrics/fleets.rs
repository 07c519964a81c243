//! Acts of an engine that is not alone. The other members are keys that the act puts.

use super::stage::{NAMESPACE, Stage, done, exists, rule, seconds};
use crate::firing::Firing;
use crate::fleet::member::{Abilities, MemberId};
use crate::fleet::rendezvous::{LockKeyHash, score};
use etcd_client::GetOptions;

const MEMBERS: &str = "/etcd-rules/app/members/1/";
const LOCK: &str = "lock/r/1";

/// The key of another member that owns the instance, and what it says it can do.
async fn owner(stage: &Stage) -> (String, String) {
    let mut client = stage.etcd.client().await.expect("a client");
    let found = client.get(MEMBERS, Some(GetOptions::new().with_prefix())).await.expect("a read");
    let able = found.kvs().iter().find(|kv| kv.key().ends_with(b"/able")).expect("it is a member");
    let key = able.key_str().expect("text");
    let me = key.strip_prefix(MEMBERS).and_then(|rest| MemberId::parse(rest.strip_suffix("/able")?));
    let me = score(LockKeyHash::of(LOCK), me.expect("an id"));
    let ids = (1..).map(MemberId::new);
    let owner =
        ids.into_iter().find(|id| score(LockKeyHash::of(LOCK), *id) > me).expect("some id comes first");
    (format!("{MEMBERS}{owner}/able"), able.value_str().expect("text").to_owned())
}

/// An instance is left to its owner, until that one is gone.
pub(super) async fn a_takeover(stage: &mut Stage) {
    assert!(MEMBERS.starts_with(NAMESPACE));
    let engine = stage.engine().owners(true).rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    let _engine = stage.start(engine).await;
    // It registers within a second, and a second later it says that it sees itself. The lease is renewed every 2.5 s.
    stage.at(4.2).await;
    stage.expect(
        "a member",
        "members 1; request txn 2; request lease_renew 1; lease_renewals_total{result=ok} 1",
    );
    let (key, able) = owner(stage).await;
    stage.put(&key, &able);
    let other = Abilities { rules: Default::default(), ..serde_json::from_str(&able).expect("abilities") };
    let different = format!("{MEMBERS}ffffffffffffffff/able");
    stage.put(&different, &serde_json::to_string(&other).expect("JSON"));
    stage.at(5.5).await;
    // It says that it sees them: of the first at once, of both a second later.
    stage.expect(
        "others are seen",
        "members 3; members_differing 1; request txn 2; request lease_renew 1;
         lease_renewals_total{result=ok} 1",
    );
    stage.at(7.0).await;
    stage.begin();
    stage.put("/jobs/1", "");
    stage.at(8.2).await;
    stage.expect(
        "left to its owner",
        "watch_events_total 1; watch_position 10; mirror_bytes 7; mirror_keys 1; instances 1;
         instances_by_state{state=yielded} 1; evaluations_total{result=true} 1; request lease_renew 1;
         lease_renewals_total{result=ok} 1",
    );
    stage.delete(&key);
    stage.at(9.7).await;
    stage.expect(
        "taken over",
        "members 2; taken_over_total 1; watch_events_total 1; watch_position 14; mirror_bytes 0; mirror_keys 0;
         instances 0; instances_by_state{state=yielded} 0; evaluations_total{result=false} 1;
         evaluations_total{result=true} 1; workqueue_adds_total 1; started 1; callbacks_total{outcome=done} 1;
         closed 1; transactions 2; request txn 1; request connect 1;
         stage_duration_seconds_count{stage=delivery} 1",
    );
}

/// An owner sees to nothing.
pub(super) async fn an_overdue_instance(stage: &mut Stage) {
    let engine = stage.engine().owners(true).lock_ttl(seconds(5.0));
    let engine = engine.rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    let _engine = stage.start(engine).await;
    stage.at(4.3).await;
    let (key, able) = owner(stage).await;
    stage.put(&key, &able);
    stage.at(7.0).await;
    stage.put("/jobs/1", "");
    // The locks are looked at every 15 s. Leases are renewed every 1.25 s.
    stage.at(34.2).await;
    stage.begin();
    stage.at(34.9).await;
    stage.expect(
        "tried all the same",
        "overdue_total 1; request range 2; watch_events_total 1; mirror_bytes 0; mirror_keys 0;
         instances 0; evaluations_total{result=false} 1; evaluations_total{result=true} 1; workqueue_adds_total 1;
         started 1; callbacks_total{outcome=done} 1; closed 1; transactions 2;
         stage_duration_seconds_count{stage=delivery} 1",
    );
}

/// An owner is behind.
pub(super) async fn a_help(stage: &mut Stage) {
    let engine = stage.engine().owners(true).rule(rule(exists()).run(async |firing: Firing| done(&firing)));
    let _engine = stage.start(engine).await;
    stage.at(4.3).await;
    let (key, able) = owner(stage).await;
    stage.put(&key, &able);
    stage.at(8.0).await;
    stage.put("/jobs/1", "");
    stage.at(8.2).await;
    stage.begin();
    let load = key.replace("/able", "/load");
    stage.put(&load, r#"{"class":"behind","view":"","backlog":{"r":1}}"#);
    stage.at(8.4).await;
    stage.expect(
        "helped",
        "helped_total 1; request connect 1; watch_events_total 1; mirror_bytes 0; mirror_keys 0;
         instances 0; evaluations_total{result=false} 1; evaluations_total{result=true} 1; workqueue_adds_total 1;
         started 1; callbacks_total{outcome=done} 1; closed 1; transactions 2;
         stage_duration_seconds_count{stage=delivery} 1",
    );
}
