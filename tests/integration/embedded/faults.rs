//! Every fault has its effect, and time can be paused.

use super::both::shown;
use etcd_client::{
    Client, ConnectOptions, Error, EventType, GetOptions, PutOptions, PutResponse, WatchOptions,
};
use etcd_rules::embedded::{EmbeddedEtcd, Fault, HistoryReader, RequestKind, RpcError};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

async fn server() -> (EmbeddedEtcd, Client) {
    let etcd = EmbeddedEtcd::in_process();
    let client = etcd.client().await.expect("a client");
    (etcd, client)
}

async fn put(client: &Client, key: &str) -> Result<PutResponse, Error> {
    client.kv_client().put(key, "", None).await
}

async fn exists(client: &Client, key: &str) -> bool {
    client.kv_client().get(key, None).await.expect("get").count() == 1
}

#[tokio::test(start_paused = true)]
async fn a_request_fails_before_or_after_it_takes_effect() {
    let (etcd, client) = server().await;
    etcd.faults().inject(Fault::on(RequestKind::Put).after(1).fail(RpcError::LEADER_CHANGED));
    etcd.faults().inject(Fault::on(RequestKind::Put).after(2).fail_after(RpcError::TIMED_OUT));
    put(&client, "a").await.expect("the first is spared");
    assert_eq!(shown(&put(&client, "b").await), "Unavailable: etcdserver: leader changed");
    assert_eq!(shown(&put(&client, "c").await), "Unavailable: etcdserver: request timed out");
    let found = [exists(&client, "a").await, exists(&client, "b").await, exists(&client, "c").await];
    assert_eq!(found, [true, false, true]);
    assert_eq!((etcd.faults().waiting(), etcd.faults().seen(RequestKind::Put)), (0, 3));
}

#[tokio::test(start_paused = true)]
async fn requests_are_lost_late_and_doubled() {
    let (etcd, client) = server().await;
    let faults = etcd.faults();
    let brief = |key: &'static str| timeout(SECOND, put(&client, key));
    faults.inject(Fault::on(RequestKind::Put).lose());
    assert!(brief("lost").await.is_err());
    faults.inject(Fault::on(RequestKind::Put).lose_answer());
    assert!(brief("unanswered").await.is_err());
    faults.inject(Fault::on(RequestKind::Put).delay(3 * SECOND));
    assert!(brief("given up").await.is_err());
    faults.inject(Fault::on(RequestKind::Put).delay_regardless(3 * SECOND));
    assert!(brief("late").await.is_err());
    assert!(!exists(&client, "late").await);
    sleep(5 * SECOND).await;
    let found = [
        exists(&client, "lost").await,
        exists(&client, "unanswered").await,
        exists(&client, "given up").await,
        exists(&client, "late").await,
    ];
    assert_eq!(found, [false, true, false, true]);
    faults.inject(Fault::on(RequestKind::Put).delay_answer(3 * SECOND));
    let waiting = put(&client, "answered late");
    tokio::pin!(waiting);
    assert!(timeout(SECOND, &mut waiting).await.is_err(), "no answer yet");
    assert!(exists(&client, "answered late").await);
    waiting.await.expect("an answer in the end");
    faults.inject(Fault::on(RequestKind::Put).duplicate());
    put(&client, "twice").await.expect("put");
    assert_eq!(client.kv_client().get("twice", None).await.expect("get").kvs()[0].version(), 2);
    faults.inject(Fault::on(RequestKind::Any).always().fail(RpcError::STOPPED));
    assert!(put(&client, "k").await.is_err() && put(&client, "k").await.is_err());
    faults.clear();
    put(&client, "k").await.expect("put");
}

#[tokio::test(start_paused = true)]
async fn leases_live_by_the_paused_clock_and_expire_on_demand() {
    let (etcd, mut client) = server().await;
    for id in [1, 2] {
        let options = etcd_client::LeaseGrantOptions::new().with_id(id);
        client.lease_grant(3600, Some(options)).await.expect("a lease");
        let options = PutOptions::new().with_lease(id);
        client.put(format!("leased/{id}"), "", Some(options)).await.expect("put");
    }
    let mut watch = client.watch("leased/", Some(WatchOptions::new().with_prefix())).await.expect("a watch");
    watch.message().await.expect("open").expect("created");
    assert!(etcd.faults().expire_lease(2) && !etcd.faults().expire_lease(2));
    let told = watch.message().await.expect("open").expect("a deletion");
    assert_eq!(told.events()[0].kv().expect("a key").key(), b"leased/2");
    let start = Instant::now();
    let told = watch.message().await.expect("open").expect("a deletion");
    assert_eq!(told.events()[0].kv().expect("a key").key(), b"leased/1");
    assert_eq!(start.elapsed().as_secs(), 3600);
    assert_eq!(etcd.faults().leases(), Vec::<i64>::new());
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_requests_fail_and_leases_live_on() {
    let (etcd, client) = server().await;
    let strict = etcd.client_with(ConnectOptions::new().with_require_leader(true)).await.expect("a client");
    client.lease_client().grant(5, None).await.expect("a lease");
    let mut watch = strict.watch_client().watch("k", None).await.expect("a watch");
    watch.message().await.expect("open").expect("created");
    let mut term = client.maintenance_client().status().await.expect("status").raft_term();
    etcd.faults().lose_leader();
    assert_eq!(shown(&put(&strict, "k").await), "Unavailable: etcdserver: no leader");
    assert!(watch.message().await.is_err());
    let start = Instant::now();
    assert_eq!(shown(&put(&client, "k").await), "Unavailable: etcdserver: request timed out");
    assert_eq!(start.elapsed().as_secs(), 7);
    etcd.faults().elect_leader();
    put(&strict, "k").await.expect("put");
    assert_eq!(etcd.faults().leases().len(), 1);
    term += 1;
    assert_eq!(client.maintenance_client().status().await.expect("status").raft_term(), term);
}

#[tokio::test(start_paused = true)]
async fn a_frozen_server_answers_when_it_is_thawed() {
    let (etcd, client) = server().await;
    put(&client, "k").await.expect("put");
    etcd.faults().freeze();
    let (put, ()) = tokio::join!(put(&client, "k"), async {
        sleep(60 * SECOND).await;
        etcd.faults().thaw();
    });
    put.expect("put");
}

#[tokio::test(start_paused = true)]
async fn streams_and_connections_are_cut() {
    let (etcd, client) = server().await;
    let open = async || {
        let mut watch = client.watch_client().watch("k", None).await.expect("a watch");
        watch.message().await.expect("open").expect("created");
        watch
    };
    let mut watch = open().await;
    etcd.faults().cut_streams();
    assert!(watch.message().await.is_err());

    let mut watch = open().await;
    etcd.faults().cut_connections();
    assert!(watch.message().await.is_err());
    put(&client, "k").await.expect("a new connection");

    let mut watch = open().await;
    etcd.faults().inject(Fault::on(RequestKind::WatchResponse).after(1).fail(RpcError::STOPPED));
    put(&client, "k").await.expect("put");
    put(&client, "k").await.expect("put");
    watch.message().await.expect("open").expect("the first event");
    assert!(watch.message().await.is_err());

    etcd.faults().set_reachable(false);
    assert!(put(&client, "k").await.is_err());
    etcd.faults().set_reachable(true);
    put(&client, "k").await.expect("put");
}

#[tokio::test(start_paused = true)]
async fn trouble_on_a_path_concerns_its_own_client_only() {
    let (etcd, other) = server().await;
    let path = etcd.path();
    let client = Client::from_channel(path.channel(), None).await.expect("a client");
    put(&client, "before").await.expect("all is well");
    path.freeze();
    assert!(timeout(SECOND, put(&client, "frozen")).await.is_err());
    put(&other, "other").await.expect("it goes another way");
    path.thaw();
    put(&client, "thawed").await.expect("it goes on");
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { put(&client, "cut").await }
    });
    path.freeze();
    sleep(SECOND).await;
    path.cut();
    assert!(waiting.await.expect("no panic").is_err(), "its connection was closed");
    path.thaw();
    put(&client, "again").await.expect("it connects again");
    path.set_reachable(false);
    assert!(put(&client, "refused").await.is_err());
    put(&other, "other").await.expect("it goes another way");
    path.set_reachable(true);
    put(&client, "reachable").await.expect("it connects again");
}

#[tokio::test(start_paused = true)]
async fn it_restarts_on_its_own_on_older_and_on_no_data() {
    let (etcd, client) = server().await;
    let header =
        async || client.kv_client().get("k", None).await.expect("get").header().cloned().expect("a header");
    put(&client, "k").await.expect("put");
    let first = header().await;
    let saved = etcd.faults().save();
    put(&client, "later").await.expect("put");
    let seen = async || {
        let header = header().await;
        (header.cluster_id() == first.cluster_id(), header.revision(), exists(&client, "later").await)
    };
    // The first request after a restart may still meet the old connection.
    let met = async || drop(client.kv_client().get("k", None).await);
    etcd.faults().restart();
    met().await;
    assert_eq!(seen().await, (true, 3, true));
    etcd.faults().restore(&saved);
    met().await;
    assert_eq!(seen().await, (true, 2, false));
    etcd.faults().restart_empty();
    met().await;
    assert_eq!(seen().await, (false, 1, false));
}

#[tokio::test(start_paused = true)]
async fn space_runs_out_and_history_is_compacted() {
    let (etcd, client) = server().await;
    etcd.faults().set_no_space(true);
    let refused = shown(&put(&client, "k").await);
    assert_eq!(refused, "ResourceExhausted: etcdserver: mvcc: database space exceeded");
    etcd.faults().set_no_space(false);
    put(&client, "k").await.expect("put");
    put(&client, "k").await.expect("put");
    assert_eq!(etcd.faults().compact(3), Ok(()));
    assert_eq!(etcd.faults().compact(3), Err(RpcError::COMPACTED));
    assert_eq!(etcd.faults().revision(), 3);
}

#[tokio::test(start_paused = true)]
async fn history_is_compacted_just_before_somebody_needs_it() {
    let (etcd, client) = server().await;
    for key in ["a", "b"] {
        put(&client, key).await.expect("put");
    }
    client.kv_client().delete("b", None).await.expect("deleted");
    put(&client, "c").await.expect("put");
    let faults = etcd.faults();
    let watch = async |from: i64| {
        let options = WatchOptions::new().with_all_keys().with_start_revision(from);
        let mut stream = client.watch_client().watch("", Some(options)).await.expect("a watch");
        assert!(stream.message().await.expect("an answer").expect("one").created());
        let told = stream.message().await.expect("an answer").expect("one");
        let kinds: Vec<_> = told.events().iter().map(|event| event.event_type()).collect();
        (told.canceled(), told.compact_revision(), kinds)
    };
    // Revision 4 is the deletion.
    faults.compact_before(HistoryReader::Watch, 0);
    faults.compact_before(HistoryReader::Watch, 0);
    assert_eq!(watch(3).await, (false, 0, vec![EventType::Put, EventType::Delete, EventType::Put]));
    assert_eq!(watch(4).await, (false, 0, vec![EventType::Put]), "the deletion went with the compaction");
    assert_eq!(watch(3).await, (true, 4, vec![]));
    // A watch from now on, and a read of what there is, need no history.
    faults.compact_before(HistoryReader::Range, 1);
    assert!(exists(&client, "c").await);
    assert_eq!(faults.waiting(), 1);
    let then = client.kv_client().get("c", Some(GetOptions::new().with_revision(4))).await;
    assert_eq!(shown(&then), "OutOfRange: etcdserver: mvcc: required revision has been compacted");
    assert_eq!(faults.waiting(), 0);
}

#[tokio::test]
async fn a_dropped_server_is_gone() {
    let etcd = EmbeddedEtcd::start().await.expect("a free port");
    let endpoint = etcd.endpoint();
    let client = Client::connect([&endpoint], None).await.expect("a client");
    put(&client, "k").await.expect("put");
    let mut watch = client.watch_client().watch("k", None).await.expect("a watch");
    drop(etcd);
    while watch.message().await.is_ok_and(|told| told.is_some()) {}
    assert!(timeout(60 * SECOND, put(&client, "k")).await.is_ok_and(|answer| answer.is_err()));
}

/// The messages of one watch: those with one event by its version, others by "created".
async fn told(watch: &mut etcd_client::WatchStream) -> Result<String, Error> {
    let response = watch.message().await?.expect("the stream goes on");
    Ok(match response.events() {
        [event] => event.kv().expect("a key").version().to_string(),
        _ if response.created() => "created".to_owned(),
        events => format!("{} events", events.len()),
    })
}

#[tokio::test(start_paused = true)]
async fn single_messages_of_a_watch_are_dropped_doubled_and_late() {
    let (etcd, client) = server().await;
    let faults = etcd.faults();
    // The messages are: created, 1, 2, 3, 4, 5.
    faults.inject(Fault::on(RequestKind::WatchResponse).after(2).lose());
    faults.inject(Fault::on(RequestKind::WatchResponse).after(3).duplicate());
    faults.inject(Fault::on(RequestKind::WatchResponse).after(5).delay(5 * SECOND));
    let mut watch = client.watch_client().watch("k", None).await.expect("a watch");
    for _ in 0..5 {
        put(&client, "k").await.expect("put");
    }
    let mut seen = Vec::new();
    let mut times = Vec::new();
    let start = Instant::now();
    for _ in 0..6 {
        seen.push(told(&mut watch).await.expect("a message"));
        times.push(start.elapsed().as_secs());
    }
    assert_eq!(seen, ["created", "1", "3", "3", "4", "5"]);
    assert_eq!(times, [0, 0, 0, 0, 5, 5]);
    assert_eq!((faults.waiting(), faults.seen(RequestKind::WatchResponse)), (0, 7));
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_cut_before_or_after_its_nth_message() {
    for (fault, expected) in [
        (Fault::on(RequestKind::WatchResponse).after(2).fail(RpcError::STOPPED), 1),
        (Fault::on(RequestKind::WatchResponse).after(2).fail_after(RpcError::STOPPED), 2),
    ] {
        let (etcd, client) = server().await;
        etcd.faults().inject(fault);
        let mut watch = client.watch_client().watch("k", None).await.expect("a watch");
        assert_eq!(told(&mut watch).await.expect("a message"), "created");
        for _ in 0..5 {
            put(&client, "k").await.expect("put");
        }
        for version in 1..=expected {
            assert_eq!(told(&mut watch).await.expect("a message"), version.to_string());
        }
        let end = told(&mut watch).await.expect_err("the stream is cut");
        assert!(end.to_string().contains("server stopped"), "{end}");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_of_a_watch_stream_are_lost_late_and_refused() {
    let (etcd, client) = server().await;
    let faults = etcd.faults();
    faults.inject(Fault::on(RequestKind::Watch).fail(RpcError::STOPPED));
    assert!(client.watch_client().watch("k", None).await.is_err());
    faults.inject(Fault::on(RequestKind::Watch).delay(3 * SECOND));
    let start = Instant::now();
    let watch = client.watch_client().watch("k", None).await.expect("a watch");
    assert_eq!(start.elapsed().as_secs(), 3);
    let (mut sender, mut stream) = watch.split();
    let mut created = async || stream.message().await.expect("open").expect("more").created();
    assert!(created().await);
    faults.inject(Fault::on(RequestKind::WatchRequest).lose());
    sender.watch("lost", None).await.expect("sent");
    assert!(timeout(10 * SECOND, created()).await.is_err(), "nothing was created");
    faults.inject(Fault::on(RequestKind::WatchRequest).duplicate());
    sender.watch("twice", None).await.expect("sent");
    assert!(created().await && created().await);
    faults.inject(Fault::on(RequestKind::WatchRequest).fail(RpcError::STOPPED));
    sender.watch("refused", None).await.expect("sent");
    assert!(stream.message().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn renewals_are_lost_and_refused_with_and_without_effect() {
    let (etcd, mut client) = server().await;
    let faults = etcd.faults();
    let id = client.lease_grant(10, None).await.expect("a lease").id();
    let left = async || client.lease_client().time_to_live(id, None).await.expect("an answer").ttl();
    let renewal = async || {
        let (mut keeper, mut stream) = client.lease_client().keep_alive(id).await?;
        keeper.keep_alive().await?;
        stream.message().await
    };
    for (fault, kept) in [
        (Fault::on(RequestKind::LeaseKeepAlive).fail(RpcError::STOPPED), false),
        (Fault::on(RequestKind::LeaseKeepAlive).fail_after(RpcError::STOPPED), true),
        (Fault::on(RequestKind::LeaseKeepAlive).lose(), false),
        (Fault::on(RequestKind::LeaseKeepAlive).lose_answer(), true),
    ] {
        assert!(renewal().await.is_ok());
        sleep(4 * SECOND).await;
        faults.inject(fault);
        assert!(!timeout(SECOND, renewal()).await.is_ok_and(|answer| answer.is_ok()), "{fault:?}");
        assert_eq!(left().await > 6, kept, "{fault:?}");
    }
}
