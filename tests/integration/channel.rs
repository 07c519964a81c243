//! A channel of the user's own: layers around it see every request of the engine.

use crate::support::{Etcd, eventually};
use etcd_rules::testing::Firings;
use etcd_rules::{Channel, Engine, Error, Firing, Outcome, Rule, key};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tonic::body::Body;
use tonic::codegen::http::Request;
use tower::ServiceBuilder;
use tower::util::BoxCloneSyncService;

const SECOND: Duration = Duration::from_secs(1);

/// Requests by method, such as `Txn`.
type Counts = BTreeMap<String, u64>;

/// A channel with a layer that counts.
fn counting(etcd: &Etcd, counts: &Arc<Mutex<Counts>>) -> Channel {
    let uri = format!("http://{}", etcd.endpoint());
    let transport = tonic::transport::Endpoint::from_shared(uri).expect("a URI").connect_lazy();
    let counts = counts.clone();
    let count = move |request: Request<Body>| {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        *counts.lock().unwrap().entry(method).or_default() += 1;
        request
    };
    let layered = ServiceBuilder::new().map_request(count).map_err(tower::BoxError::from).service(transport);
    Channel::Custom(BoxCloneSyncService::new(layered))
}

/// What etcd itself has counted: the calls that it began to serve.
async fn served(etcd: &Etcd) -> Counts {
    let metrics = etcd.metrics().await;
    let lines =
        metrics.lines().filter_map(|line| line.strip_prefix("grpc_server_started_total{grpc_method=\""));
    let counts = lines.filter_map(|line| {
        let (method, rest) = line.split_once('"')?;
        let count: f64 = rest.rsplit(' ').next()?.parse().ok()?;
        Some((method.to_owned(), count as u64))
    });
    let mut sums = Counts::new();
    counts.for_each(|(method, count)| *sums.entry(method).or_default() += count);
    assert!(!sums.is_empty(), "etcd counts: {metrics}");
    sums
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_sees_every_request_of_the_engine() {
    let etcd = Etcd::start().await;
    for id in 0..20 {
        etcd.put(&format!("/jobs/{id}"), "").await;
    }
    let before = served(&etcd).await;
    let counts = Arc::new(Mutex::new(Counts::new()));
    let rule = Rule::new("job").when(key("/jobs/:id").exists()).run(async |firing: Firing| {
        firing.get_opt("/elsewhere/:id").await?;
        firing.client().await?.get("/own", None).await?;
        Ok::<Outcome, Error>(firing.commit().put_ttl("/done/:id", "", 60 * SECOND).delete("/jobs/:id").into())
    });
    let engine = Engine::builder_with_channel("layers", counting(&etcd, &counts));
    let engine = engine.lock_ttl(SECOND * 2).crawl_interval(SECOND / 2).rule(rule).build().unwrap();
    let mut firings = Firings::new(engine.events()).within(30 * SECOND);
    let running = engine.start().await.unwrap();
    for id in 0..20 {
        firings.done("job", [("id", id.to_string().as_str())]).await.unwrap();
    }
    let crawls = || counts.lock().unwrap().get("LeaseKeepAlive").copied().unwrap_or(0);
    eventually(20 * SECOND, "leases are renewed", async || crawls() > 0).await;
    running.shutdown(5 * SECOND).await.unwrap();

    let mut after = served(&etcd).await;
    for (method, count) in before {
        after.entry(method).and_modify(|now| *now -= count);
    }
    after.retain(|_, count| *count > 0);
    let counts = counts.lock().unwrap().clone();
    for (method, served) in &after {
        // Requests that are given up, as a crawl is at the end, may not reach etcd.
        let seen = counts.get(method).copied().unwrap_or(0);
        assert!(seen >= *served, "{method}: etcd served {after:?}, the layer saw {counts:?}");
    }
    for method in ["Range", "Txn", "Watch", "LeaseGrant", "LeaseKeepAlive", "LeaseRevoke"] {
        assert!(after.contains_key(method), "{method}: {after:?}");
    }
    assert!(after["Range"] >= 40, "reads of callbacks are among them: {after:?}");
}
