//! The harness itself: a test that relies on a cut, a crash or older data must really get one.

use std::net::TcpStream;
use std::time::Duration;

use crate::support::etcd::{EtcdProcess, LaunchError};
use crate::support::{
    Etcd, Proxy, assert_nothing_left, assert_threads_gone, eventually, is_identity, threads_named,
};
use etcd_client::{Client, ConnectOptions};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(30);

/// Whether a read is answered soon. If not, this takes a second.
async fn answers_soon(client: &Client) -> bool {
    let read = async { client.kv_client().get("a", None).await.is_ok() };
    timeout(Duration::from_secs(1), read).await.unwrap_or(false)
}

/// True if the endpoint answers a read within `limit`.
async fn answers(endpoint: String, limit: Duration) -> bool {
    let options = ConnectOptions::new().with_timeout(limit).with_connect_timeout(limit);
    match Client::connect([endpoint], Some(options)).await {
        Ok(mut client) => client.get("a", None).await.is_ok(),
        Err(_) => false,
    }
}

#[tokio::test]
async fn keys_can_be_put_read_listed_and_deleted() {
    let etcd = Etcd::start().await;
    let first = etcd.put("/a/1", "one").await;
    assert_eq!(etcd.put("/a/2", "two").await, first + 1);
    assert_eq!(etcd.get("/a/1").await.as_deref(), Some("one"));
    assert_eq!(etcd.keys("/a/").await, ["/a/1", "/a/2"]);
    assert_eq!(etcd.delete("/a/1").await, first + 2);
    assert_eq!(etcd.get("/a/1").await, None);
    etcd.delete_prefix("/a/").await;
    assert!(etcd.keys("/").await.is_empty());
    assert_eq!(etcd.revision().await, first + 3);
}

#[tokio::test]
async fn compaction_removes_history() {
    let etcd = Etcd::start().await;
    let first = etcd.put("a", "1").await;
    let last = etcd.put("a", "2").await;
    etcd.compact(last).await;
    let options = etcd_client::GetOptions::new().with_revision(first);
    let error = etcd.client().await.get("a", Some(options)).await.expect_err("a compacted revision");
    assert!(error.to_string().contains("compacted"), "{error}");
}

#[tokio::test]
async fn data_outlive_a_kill_and_a_stop() {
    let mut etcd = Etcd::start().await;
    let endpoint = etcd.endpoint();
    etcd.put("a", "1").await;
    etcd.kill();
    assert!(TcpStream::connect(&endpoint).is_err(), "a killed server still listens");
    etcd.restart().await;
    assert_eq!(etcd.get("a").await.as_deref(), Some("1"));
    etcd.stop().await;
    assert!(TcpStream::connect(&endpoint).is_err(), "a stopped server still listens");
    etcd.restart().await;
    assert_eq!(etcd.get("a").await.as_deref(), Some("1"));
    assert_eq!(etcd.endpoint(), endpoint);
}

#[tokio::test]
async fn older_data_bring_a_lower_revision_of_the_same_cluster() {
    let mut etcd = Etcd::start().await;
    let cluster = etcd.cluster_id().await;
    let saved_at = etcd.put("a", "old").await;
    let saved = etcd.save();
    for _ in 0..5 {
        etcd.put("a", "new").await;
    }
    assert_eq!(etcd.revision().await, saved_at + 5, "saving left the server running");
    etcd.restore(&saved).await;
    assert_eq!(etcd.revision().await, saved_at);
    assert_eq!(etcd.get("a").await.as_deref(), Some("old"));
    assert_eq!(etcd.cluster_id().await, cluster);
}

#[tokio::test]
async fn an_empty_restart_is_another_cluster() {
    let mut etcd = Etcd::start().await;
    let (endpoint, cluster) = (etcd.endpoint(), etcd.cluster_id().await);
    etcd.put("a", "1").await;
    etcd.restart_empty().await;
    assert_eq!(etcd.revision().await, 1);
    assert_eq!(etcd.get("a").await, None);
    assert_ne!(etcd.cluster_id().await, cluster);
    assert_eq!(etcd.endpoint(), endpoint);
}

#[tokio::test]
async fn a_paused_server_accepts_but_does_not_answer() {
    let mut etcd = Etcd::start().await;
    etcd.put("a", "1").await;
    let client = Client::connect([etcd.endpoint()], None).await.expect("connection");
    etcd.pause();
    assert!(TcpStream::connect(etcd.endpoint()).is_ok(), "the kernel accepts for a paused server");
    assert!(!answers_soon(&client).await, "a paused server answered");
    etcd.resume();
    assert_eq!(etcd.get("a").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn dropping_a_paused_server_ends_it() {
    let mut process = EtcdProcess::options().launch().await.expect("launch");
    let (endpoint, log) = (process.endpoint(), process.log_path());
    process.pause();
    drop(process);
    assert!(TcpStream::connect(&endpoint).is_err(), "the server still listens");
    assert!(!log.exists(), "the files are still there");
}

#[tokio::test]
async fn flags_reach_the_server() {
    let etcd = Etcd::builder().flag("--max-txn-ops=1").start().await;
    let put = |key: &str| etcd_client::TxnOp::put(key, "", None);
    let txn = etcd_client::Txn::new().and_then([put("a"), put("b")]);
    let error = etcd.client().await.txn(txn).await.expect_err("two operations");
    assert!(error.to_string().contains("too many operations"), "{error}");
}

#[tokio::test]
async fn a_missing_program_says_how_to_install_it() {
    let error = EtcdProcess::options().program("no-such-etcd").launch().await.expect_err("no such program");
    assert!(matches!(error, LaunchError::Missing { .. }), "{error}");
    assert!(error.to_string().contains("apt-get install -y etcd-server"), "{error}");
}

#[tokio::test]
#[should_panic(expected = "apt-get install -y etcd-server")]
async fn a_test_without_etcd_fails() {
    Etcd::builder().program("no-such-etcd").start().await;
}

#[tokio::test]
async fn a_server_that_cannot_start_shows_its_log() {
    let launched = EtcdProcess::options().flag("--no-such-flag").launch().await;
    let error = launched.expect_err("no such flag");
    assert!(matches!(&error, LaunchError::Ended { log, .. } if log.contains("no-such-flag")), "{error}");
}

#[tokio::test]
async fn a_cut_proxy_refuses_and_heals() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint());
    let mut client = Client::connect([proxy.endpoint()], None).await.expect("connection");
    client.put("a", "1", None).await.expect("put through the proxy");
    assert_eq!(etcd.get("a").await.as_deref(), Some("1"));
    assert_eq!(proxy.connections(), 1);

    proxy.cut();
    assert_eq!(proxy.connections(), 0);
    assert!(TcpStream::connect(proxy.endpoint()).is_err(), "a cut proxy still listens");
    assert!(!answers_soon(&client).await, "an answer through a cut proxy");

    proxy.heal();
    eventually(LIMIT, "the client works again", async || client.get("a", None).await.ok()).await;
}

#[tokio::test]
async fn a_frozen_proxy_holds_everything_back_until_healed() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint());
    let mut client = Client::connect([proxy.endpoint()], None).await.expect("connection");
    client.put("a", "1", None).await.expect("put through the proxy");

    proxy.freeze();
    assert!(TcpStream::connect(proxy.endpoint()).is_ok(), "a frozen proxy accepts");
    assert!(!answers(proxy.endpoint(), Duration::from_millis(300)).await, "an answer through a frozen proxy");
    let held = tokio::spawn(async move { client.put("a", "2", None).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!held.is_finished());
    assert_eq!(etcd.get("a").await.as_deref(), Some("1"));

    proxy.heal();
    held.await.expect("no panic").expect("the held put arrives");
    assert_eq!(etcd.get("a").await.as_deref(), Some("2"));
}

#[tokio::test]
async fn a_dropped_proxy_is_gone() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint());
    let endpoint = proxy.endpoint();
    assert!(answers(endpoint.clone(), LIMIT).await);
    drop(proxy);
    assert!(TcpStream::connect(&endpoint).is_err(), "a dropped proxy still listens");
}

#[tokio::test]
async fn eventually_returns_what_it_saw() {
    let mut looks = 0;
    let third = async || {
        looks += 1;
        (looks == 3).then_some(looks)
    };
    assert_eq!(eventually(LIMIT, "the third look", third).await, 3);
}

#[tokio::test]
#[should_panic(expected = "not within 30ms: pigs fly")]
async fn eventually_panics_with_what_it_waited_for() {
    eventually(Duration::from_millis(30), "pigs fly", async || false).await;
}

#[tokio::test]
#[should_panic(expected = "the last look hung")]
async fn eventually_gives_up_a_look_that_hangs() {
    eventually(Duration::from_millis(30), "an answer", async || std::future::pending::<bool>().await).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn threads_are_counted_by_name_until_they_end() {
    let name = "counted-thread-with-a-long-name";
    assert_eq!(threads_named(name), 0);
    let (end, ended) = std::sync::mpsc::sync_channel::<()>(0);
    let thread =
        std::thread::Builder::new().name(name.to_owned()).spawn(move || ended.recv()).expect("a thread");
    eventually(LIMIT, "the thread has its name", async || threads_named(name) == 1).await;
    drop(end);
    assert_threads_gone(name, LIMIT).await;
    assert!(thread.join().expect("no panic").is_err());
}

#[tokio::test]
#[should_panic(expected = "keys [\"/locks/a\"], leases [")]
async fn leftovers_in_etcd_are_named() {
    let etcd = Etcd::start().await;
    assert_nothing_left(&etcd, "/locks/", LIMIT).await;
    let lease = etcd.grant(60).await;
    etcd.put_leased("/locks/a", "", lease).await;
    assert_nothing_left(&etcd, "/locks/", Duration::from_millis(50)).await;
}

#[tokio::test]
async fn an_identity_is_no_leftover_and_what_only_looks_like_one_is() {
    let etcd = Etcd::start().await;
    etcd.put("/etcd-rules/app/identity", "").await;
    assert_nothing_left(&etcd, "/etcd-rules/", LIMIT).await;
    for other in ["/etcd-rules/app/lock/identity", "/etcd-rules/app/identity/1", "/etcd-rules/identity"] {
        assert!(!is_identity(other), "{other}");
    }
}
