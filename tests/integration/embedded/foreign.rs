//! The embedded etcd as clients in other languages see it: JSON over HTTP/1.1, the list of members, sizes and hashes.
//! What etcd 3.4 answers too is compared with it.

use super::both::{Both, Dice, seeds};
use etcd_client::{Client, CompactionOptions, Compare, CompareOp, DeleteOptions, Txn, TxnOp};
use etcd_rules::embedded::EmbeddedEtcd;
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(30);

/// An answer: its status, the type of its content, and that.
#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    of: String,
    text: String,
}

impl Answer {
    /// The lines, which are messages, without what differs between any two servers.
    fn messages(&self) -> Vec<Value> {
        let parse =
            |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        let mut messages: Vec<Value> = self.text.lines().map(parse).collect();
        messages.iter_mut().for_each(anonymous);
        messages
    }
}

fn anonymous(message: &mut Value) {
    match message {
        Value::Object(fields) => {
            for name in ["cluster_id", "member_id", "token"] {
                if let Some(id) = fields.get_mut(name) {
                    *id = json!("there");
                }
            }
            fields.values_mut().for_each(anonymous);
        }
        Value::Array(values) => values.iter_mut().for_each(anonymous),
        _ => {}
    }
}

/// Sends a request over a connection of its own. The server says where the answer ends by closing it.
async fn send(endpoint: &str, verb: &str, path: &str, token: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(endpoint).await.expect("a connection");
    let token = if token.is_empty() { String::new() } else { format!("Authorization: {token}\r\n") };
    let head = format!(
        "{verb} {path} HTTP/1.0\r\nHost: {endpoint}\r\n{token}Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes()).await.expect("a request");
    stream
}

async fn ask_with(endpoint: &str, verb: &str, path: &str, token: &str, body: &str) -> Answer {
    let mut stream = send(endpoint, verb, path, token, body).await;
    let mut answer = String::new();
    timeout(LIMIT, stream.read_to_string(&mut answer)).await.expect("an answer in time").expect("an answer");
    let (head, text) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let of = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-type").then(|| value.to_owned())
    });
    Answer { status, of: of.unwrap_or_default(), text: text.to_owned() }
}

async fn ask(endpoint: &str, verb: &str, path: &str, body: &str) -> Answer {
    ask_with(endpoint, verb, path, "", body).await
}

async fn post(endpoint: &str, path: &str, body: &Value) -> Answer {
    ask(endpoint, "POST", path, &body.to_string()).await
}

/// Asks both, compares the answers, and returns that of the embedded one.
async fn same(both: &Both, path: &str, body: Value) -> Answer {
    let [real, embedded] = both.endpoints();
    let (real, embedded) = (post(&real, path, &body).await, post(&embedded, path, &body).await);
    let seen = |answer: &Answer| (answer.status, answer.of.clone(), answer.messages());
    assert_eq!(
        seen(&embedded),
        seen(&real),
        "{path} {body}: the embedded one (left) differs from etcd (right)"
    );
    embedded
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_leases_and_locks_in_json_are_as_etcds() {
    let both = Both::start(0).await;
    // `a`, `b`, `c` are YQ==, Yg==, Yw==.
    let put = |key: &str, value: &str| json!({"key": key, "value": value});
    for (path, body) in [
        ("/v3/kv/put", put("YQ==", "Yg==")),
        ("/v3/kv/put", json!({"key": "Yg==", "value": "/w==", "prev_kv": true})),
        ("/v3/kv/put", json!({"key": "Yg==", "value": "", "prevKv": true})),
        ("/v3/kv/range", json!({"key": "YQ=="})),
        (
            "/v3/kv/range",
            json!({"key": "AA==", "range_end": "AA==", "sort_order": "DESCEND", "sort_target": "KEY"}),
        ),
        ("/v3/kv/range", json!({"key": "AA==", "rangeEnd": "AA==", "limit": "1", "keys_only": true})),
        ("/v3/kv/range", json!({"key": "AA==", "range_end": "AA==", "count_only": true, "sort_order": 2})),
        ("/v3/kv/range", json!({"key": "YQ==", "revision": 77})),
        ("/v3/kv/put", json!({"value": "YQ=="})),
        ("/v3/kv/put", json!({"key": "YQ==", "value": "YQ==", "lease": "99"})),
        ("/v3/kv/put", json!({"key": "YQ==", "nonsense": 7})),
        (
            "/v3/kv/txn",
            json!({
                "compare": [{"key": "YQ==", "target": "CREATE", "result": "GREATER", "create_revision": "0"}],
                "success": [{"request_put": put("Yw==", "Yw==")}, {"request_range": {"key": "YQ=="}},
                            {"request_txn": {"failure": [], "success": [{"request_delete_range": {"key": "Yg=="}}]}}],
                "failure": [{"request_range": {"key": "Yw=="}}],
            }),
        ),
        (
            "/v3/kv/txn",
            json!({"compare": [{"key": "YQ==", "target": "VALUE", "value": "Yw=="}],
                   "failure": [{"requestRange": {"key": "Yw=="}}]}),
        ),
        (
            "/v3/kv/txn",
            json!({"success": [{"request_put": put("YQ==", "")}, {"request_put": put("YQ==", "")}]}),
        ),
        ("/v3/kv/deleterange", json!({"key": "Yw==", "prev_kv": true})),
        ("/v3/kv/deleterange", json!({"key": "Yw=="})),
        ("/v3/kv/compaction", json!({"revision": "3"})),
        ("/v3/kv/compaction", json!({"revision": "3"})),
        ("/v3/kv/range", json!({"key": "YQ==", "revision": "2"})),
        ("/v3/lease/grant", json!({"TTL": 600, "ID": 7})),
        ("/v3/lease/grant", json!({"TTL": 600, "ID": "7"})),
        ("/v3/kv/put", json!({"key": "YQ==", "value": "YQ==", "lease": "7"})),
        ("/v3/lease/keepalive", json!({"ID": 7})),
        ("/v3/lease/keepalive", json!({"ID": 77})),
        ("/v3/lease/leases", json!({})),
        ("/v3/kv/lease/leases", json!({})),
        ("/v3/kv/lease/timetolive", json!({"ID": 77})),
        ("/v3/lock/lock", json!({"name": "bG9jaw==", "lease": 7})),
        ("/v3/lock/unlock", json!({"key": "bG9jay83"})),
        ("/v3/lease/revoke", json!({"ID": 7})),
        ("/v3/kv/lease/revoke", json!({"ID": 7})),
        ("/v3/maintenance/alarm", json!({})),
        ("/v3/auth/enable", json!({})),
    ] {
        same(&both, path, body).await;
    }
    // What has the time in it.
    for endpoint in both.endpoints() {
        post(&endpoint, "/v3/lease/grant", &json!({"TTL": 600, "ID": 8})).await;
        post(&endpoint, "/v3/kv/put", &json!({"key": "YQ==", "lease": 8})).await;
        let [left] =
            &post(&endpoint, "/v3/lease/timetolive", &json!({"ID": 8, "keys": true})).await.messages()[..]
        else {
            panic!("one message")
        };
        let ttl = left["TTL"].as_str().and_then(|ttl| ttl.parse::<i64>().ok()).expect("a number in a string");
        assert!(
            (500..=600).contains(&ttl) && left["grantedTTL"] == "600" && left["keys"] == json!(["YQ=="]),
            "{left}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_tokens_in_json_are_as_etcds() {
    let both = Both::start(0).await;
    for (path, body) in [
        ("/v3/auth/user/add", json!({"name": "root", "password": "secret"})),
        ("/v3/auth/user/add", json!({"name": "ada", "password": "a"})),
        ("/v3/auth/user/add", json!({"name": "ada", "password": "a"})),
        ("/v3/auth/role/add", json!({"name": "reader"})),
        ("/v3/auth/role/grant", json!({"name": "reader", "perm": {"permType": "READWRITE", "key": "YQ=="}})),
        (
            "/v3/auth/role/grant",
            json!({"name": "reader", "perm": {"permType": "READ", "key": "Yg==", "range_end": "Yw=="}}),
        ),
        ("/v3/auth/role/revoke", json!({"role": "reader", "key": "YQ=="})),
        ("/v3/auth/role/get", json!({"role": "reader"})),
        ("/v3/auth/role/list", json!({})),
        ("/v3/auth/user/grant", json!({"user": "ada", "role": "reader"})),
        ("/v3/auth/user/grant", json!({"user": "root", "role": "root"})),
        ("/v3/auth/user/get", json!({"name": "ada"})),
        ("/v3/auth/user/changepw", json!({"name": "ada", "password": "b"})),
        ("/v3/auth/user/list", json!({})),
        ("/v3/auth/enable", json!({})),
        ("/v3/kv/range", json!({"key": "Yg=="})),
        ("/v3/auth/authenticate", json!({"name": "ada", "password": "a"})),
    ] {
        same(&both, path, body).await;
    }
    let mut seen = Vec::new();
    for endpoint in both.endpoints() {
        let entry = post(&endpoint, "/v3/auth/authenticate", &json!({"name": "ada", "password": "b"})).await;
        let entry: Value = serde_json::from_str(&entry.text).expect("a message");
        let token = entry["token"].as_str().expect("a token");
        let mut answers = Vec::new();
        for (key, token) in [("Yg==", token), ("Yw==", token), ("Yg==", "nonsense")] {
            let answer =
                ask_with(&endpoint, "POST", "/v3/kv/range", token, &json!({"key": key}).to_string()).await;
            answers.push((answer.status, answer.messages()));
        }
        seen.push(answers);
    }
    assert_eq!(seen[1], seen[0]);
    assert_eq!(seen[1].iter().map(|(status, _)| *status).collect::<Vec<_>>(), [200, 403, 401]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_refused_as_by_etcd() {
    let both = Both::start(0).await;
    let [real, embedded] = both.endpoints();
    for (verb, path) in [
        ("GET", "/health"),
        ("POST", "/health"),
        ("POST", "/version"),
        ("GET", "/nothing"),
        ("POST", "/v3/nothing"),
        ("GET", "/v3/kv/put"),
    ] {
        let body = if verb == "POST" { "{}" } else { "" };
        let (real, embedded) = (ask(&real, verb, path, body).await, ask(&embedded, verb, path, body).await);
        assert_eq!(embedded, real, "{verb} {path}");
    }
    // The words about JSON are each parser's own.
    for body in ["{\"key\":", "[]", "{\"key\":\"#\"}", "{\"key\":7}", "{\"lease\":\"x\"}"] {
        let (real, embedded) =
            (ask(&real, "POST", "/v3/kv/put", body).await, ask(&embedded, "POST", "/v3/kv/put", body).await);
        assert_eq!((embedded.status, embedded.of.as_str()), (real.status, real.of.as_str()), "{body}");
        assert_eq!((embedded.status, &embedded.messages()[0]["code"]), (400, &json!(3)), "{embedded:?}");
    }
    for (verb, at) in [(&real, "etcd"), (&embedded, "the embedded one")] {
        let version = ask(verb, "GET", "/version", "").await;
        assert_eq!((version.status, version.of.as_str()), (200, "application/json"), "{at}");
        let version: Value = serde_json::from_str(&version.text).expect("JSON");
        assert!(
            version["etcdserver"].as_str().is_some_and(|version| version.starts_with("3.4.")),
            "{at}: {version}"
        );
        assert_eq!(version["etcdcluster"], "3.4.0", "{at}");
    }
    // An alarm is bad health, which both say with the same words.
    same(&both, "/v3/maintenance/alarm", json!({"action": "ACTIVATE", "memberID": "7", "alarm": "NOSPACE"}))
        .await;
    let (real, embedded) =
        (ask(&real, "GET", "/health", "").await, ask(&embedded, "GET", "/health", "").await);
    assert_eq!((embedded.status, embedded.text), (real.status, real.text));
    assert_eq!(embedded.status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_leader_is_not_healthy() {
    let etcd = EmbeddedEtcd::start().await.expect("a free port");
    etcd.faults().lose_leader();
    assert_eq!(ask(&etcd.endpoint(), "GET", "/health", "").await.status, 503);
    etcd.faults().elect_leader();
    assert_eq!(ask(&etcd.endpoint(), "GET", "/health", "").await.status, 200);
    etcd.faults().inject(etcd_rules::embedded::Fault::on(etcd_rules::embedded::RequestKind::Put));
    let put = post(&etcd.endpoint(), "/v3/kv/put", &json!({"key": "YQ=="})).await;
    assert_eq!(put.status, 503, "faults hit what comes in JSON too: {put:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_in_json_tells_what_comes_line_by_line() {
    let both = Both::start(0).await;
    same(&both, "/v3/kv/put", json!({"key": "YQ==", "value": "Yg=="})).await;
    let mut told = Vec::new();
    for endpoint in both.endpoints() {
        let watch =
            json!({"create_request": {"key": "YQ==", "start_revision": 1, "prev_kv": true}}).to_string();
        let mut stream = send(&endpoint, "POST", "/v3/watch", "", &watch).await;
        let mut text = String::new();
        let mut changed = false;
        while text.matches("\"result\"").count() < 3 || !text.ends_with('\n') {
            let mut bytes = [0; 4096];
            let read = timeout(LIMIT, stream.read(&mut bytes)).await.expect("news in time").expect("bytes");
            assert!(read > 0, "the stream has ended: {text}");
            text.push_str(std::str::from_utf8(&bytes[..read]).expect("JSON"));
            if text.contains("events") && !std::mem::replace(&mut changed, true) {
                post(&endpoint, "/v3/kv/deleterange", &json!({"key": "YQ=="})).await;
            }
        }
        let (_, lines) = text.split_once("\r\n\r\n").expect("a head");
        told.push(Answer { status: 200, of: String::new(), text: lines.to_owned() }.messages());
    }
    assert_eq!(told[1], told[0]);
    assert_eq!(told[1][2]["result"]["events"][0]["type"], "DELETE");
    assert_eq!(told[1][2]["result"]["events"][0]["prev_kv"]["value"], "Yg==");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hash_of_the_keys_is_etcds() {
    for seed in seeds() {
        let mut both = Both::start(seed).await;
        let mut dice = Dice(seed);
        let mut revision = 1;
        for step in 0..400 {
            let key = dice.one(&["a", "a/1", "a/2", "b", "c"]);
            let put = |value: u64| TxnOp::put(key, format!("{value}"), None);
            match dice.below(10) {
                0..5 => {
                    let value = dice.below(1000);
                    both.same(format!("put {key}"), async |mut c| c.put(key, format!("{value}"), None).await)
                        .await;
                }
                5 => {
                    let prefix = || Some(DeleteOptions::new().with_prefix());
                    both.same(format!("delete {key}"), async |mut c| c.delete(key, prefix()).await).await;
                }
                6..8 => {
                    let value = dice.below(1000);
                    let txn = || {
                        Txn::new()
                            .when([Compare::version("b", CompareOp::Greater, 1)])
                            .and_then([put(value), TxnOp::put("d", "", None), TxnOp::delete("c", None)])
                            .or_else([TxnOp::delete(key, None), TxnOp::put("b", "", None)])
                    };
                    both.same(format!("txn {key}"), async |mut c| c.txn(txn()).await).await;
                }
                8 => {
                    let at = revision - dice.below(20) as i64;
                    both.same(format!("hash at {at}"), async |mut c| c.hash_kv(at).await).await;
                }
                _ => {
                    let at = revision - dice.below(30) as i64;
                    if dice.chance(20) {
                        // When it has answered, etcd has removed what is compacted.
                        let physical = || Some(CompactionOptions::new().with_physical());
                        both.same(format!("compact {at}"), async |mut c| c.compact(at, physical()).await)
                            .await;
                    }
                }
            }
            let now = both.same(format!("hash after step {step}"), async |mut c| c.hash_kv(0).await).await;
            revision = now.and_then(|hash| hash.header().map(|header| header.revision())).unwrap_or(revision);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_told_where_the_member_is_and_how_large() {
    let mut both = Both::start(0).await;
    for (mut client, endpoint) in [both.real.clone(), both.embedded.clone()].into_iter().zip(both.endpoints())
    {
        let members = client.member_list().await.expect("an answer");
        assert_eq!(members.members()[0].client_urls(), [format!("http://{endpoint}")]);
        let before = client.status().await.expect("an answer");
        assert!(before.db_size() > 0 && before.raft_used_db_size() > 0, "{before:?}");
        assert!(before.db_size() >= before.raft_used_db_size(), "{before:?}");
        for _ in 0..64 {
            client.put("large", vec![b'x'; 64 * 1024], None).await.expect("etcd answers");
        }
        // etcd writes it when it gets to it.
        crate::support::eventually(LIMIT, "the database has grown", async || {
            let full = client.clone().status().await.expect("an answer");
            full.db_size() >= before.db_size() + 32 * 64 * 1024
        })
        .await;
        let revision = client.get("large", None).await.expect("an answer").kvs()[0].mod_revision();
        client.compact(revision, Some(CompactionOptions::new().with_physical())).await.expect("it is new");
    }
    // etcd takes its time to free pages.
    let status = both.embedded.status().await.expect("an answer");
    assert!(status.raft_used_db_size() < 256 * 1024 && status.db_size() > 4 * 1024 * 1024, "{status:?}");
    both.embedded.defragment().await.expect("an answer");
    let status = both.embedded.status().await.expect("an answer");
    assert!(status.db_size() < 256 * 1024, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_is_chosen_and_advertised() {
    let first = EmbeddedEtcd::start().await.expect("a free port");
    let port = first.endpoint().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let taken = EmbeddedEtcd::builder().port(port).start().await;
    assert_eq!(taken.err().map(|error| error.kind()), Some(std::io::ErrorKind::AddrInUse));
    drop(first);
    let again = crate::support::eventually(LIMIT, "the port is free again", async || {
        EmbeddedEtcd::builder().port(port).start().await.ok()
    });
    let again = again.await;
    assert_eq!(again.endpoint(), format!("127.0.0.1:{port}"));

    let everywhere =
        EmbeddedEtcd::builder().address((Ipv4Addr::UNSPECIFIED, 0)).start().await.expect("a free port");
    assert!(everywhere.endpoint().starts_with("127.0.0.1:"), "{}", everywhere.endpoint());
    let advertised =
        EmbeddedEtcd::builder().advertise("http://etcd.test:2379").start().await.expect("a free port");
    for (etcd, url) in [
        (&everywhere, format!("http://{}", everywhere.endpoint())),
        (&advertised, "http://etcd.test:2379".into()),
    ] {
        let mut client = Client::connect([etcd.endpoint()], None).await.expect("a connection");
        assert_eq!(client.member_list().await.expect("an answer").members()[0].client_urls(), [url]);
    }
}
