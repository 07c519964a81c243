//! Events over HTTP, as a test in another process awaits a firing by them.

use crate::support::{Etcd, eventually};
use etcd_rules::http::Endpoint;
use etcd_rules::{BoxError, Engine, EngineBuilder, Firing, Outcome, Reveal, Rule, key};
use serde_json::Value as Json;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

const SECOND: Duration = Duration::from_secs(1);

fn listen() -> Endpoint {
    Endpoint::builder().address(SocketAddr::from(([127, 0, 0, 1], 0))).listen().unwrap()
}

fn engine(etcd: &Etcd, endpoint: &Endpoint) -> EngineBuilder {
    let rule = |id: &str| {
        Rule::new(id).when(key(format!("/{id}/:id")).exists()).run(async |firing: Firing| {
            let pattern = format!("/{}/:id", firing.rule());
            match firing.value(&pattern)?.to_string().as_str() {
                "fail" => Err(format!("no {}", firing.attribute("id")?).into()),
                _ => Ok::<Outcome, BoxError>(firing.commit().delete(&pattern).into()),
            }
        })
    };
    Engine::builder("app", [etcd.endpoint()]).rules([rule("jobs"), rule("other")]).endpoint(endpoint)
}

/// What a client of events is sent.
struct Client(BufReader<TcpStream>);

impl Client {
    async fn connect(endpoint: &Endpoint, query: &str) -> Self {
        let address = endpoint.address();
        let socket = TcpSocket::new_v4().unwrap();
        // Little is kept for a client that does not read.
        socket.set_recv_buffer_size(8 << 10).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        let head = format!("GET /api/events?{query} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        Self(BufReader::new(stream))
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = timeout(20 * SECOND, self.0.read_line(&mut line)).await.expect("within 20 s").ok()?;
        (read > 0).then(|| line.trim_end().to_owned())
    }

    /// The status, and the names of what is in the head.
    async fn head(&mut self) -> (u16, String) {
        let status = self.line().await.unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let mut head = String::new();
        while let Some(line) = self.line().await.filter(|line| !line.is_empty()) {
            head.push_str(&line.to_ascii_lowercase());
            head.push('\n');
        }
        (status, head)
    }

    /// The next event with what it tells. Signs of life, and what is between chunks, are left out.
    async fn next(&mut self) -> Option<(String, Json)> {
        loop {
            let line = self.line().await?;
            if let Some(name) = line.strip_prefix("event: ") {
                let data = self.line().await?;
                return Some((name.to_owned(), serde_json::from_str(data.strip_prefix("data: ")?).unwrap()));
            }
        }
    }
}

async fn listening(endpoint: &Endpoint, query: &str) -> Client {
    let mut client = Client::connect(endpoint, query).await;
    let (status, head) = client.head().await;
    assert!(status == 200 && head.contains("content-type: text/event-stream"), "{status} {head}");
    let (name, told) = client.next().await.unwrap();
    assert_eq!((name.as_str(), &told["engine"]), ("listening", &"app".into()));
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firing_is_awaited_over_http() {
    let (etcd, endpoint) = (Etcd::start().await, listen());
    let running = engine(&etcd, &endpoint).reveal(Reveal::Keys).build().unwrap().start().await.unwrap();
    running.ready().await;
    let mut all = listening(&endpoint, "rule=jobs").await;
    let mut done = listening(&endpoint, "rule=jobs&kind=closed&outcome=done&attr.id=7").await;
    etcd.put("/other/7", "").await;
    etcd.put("/jobs/8", "").await;
    etcd.put("/jobs/7", "").await;
    let (name, told) = done.next().await.unwrap();
    assert_eq!(
        (name.as_str(), &told["rule"], &told["attributes"]["id"]),
        ("closed", &"jobs".into(), &"7".into())
    );
    assert_eq!(told["kind"]["detail"]["outcome"]["kind"], "done");
    assert!(told["kind"]["detail"]["result"]["detail"]["revision"].as_i64().unwrap() > 0, "{told}");
    let mut names = Vec::new();
    while names.last().is_none_or(|name| name != "closed") {
        let (name, told) = all.next().await.unwrap();
        assert_eq!(told["rule"], "jobs");
        names.push(name);
    }
    assert!(names.contains(&"started".into()) && names.contains(&"locked".into()), "{names:?}");
    running.shutdown(5 * SECOND).await.unwrap();
    assert!(done.next().await.is_none(), "it ends with the engine");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_told_is_not_told_by_events() {
    let (etcd, endpoint) = (Etcd::start().await, listen());
    let running = engine(&etcd, &endpoint).build().unwrap().start().await.unwrap();
    running.ready().await;
    let mut client = listening(&endpoint, "kind=closed").await;
    etcd.put("/jobs/secret-id", "fail").await;
    let (_, told) = client.next().await.unwrap();
    assert_eq!(told["kind"]["detail"]["outcome"]["kind"], "failed");
    assert!(!told.to_string().contains("secret") && !told.to_string().contains("fail\""), "{told}");
    for (query, status, part) in [
        ("attr.id=7", 403, "does not reveal keys"),
        ("rule=nothing", 404, "nothing"),
        ("engine=nothing", 404, "nothing"),
        ("kind=nothing", 400, "not_locked"),
        ("outcome=nothing", 400, "retry_after"),
    ] {
        let mut client = Client::connect(&endpoint, query).await;
        assert_eq!(client.head().await.0, status, "{query}");
        let mut body = String::new();
        client.0.read_to_string(&mut body).await.unwrap();
        assert!(body.contains(part), "{query}: {body}");
    }
    running.shutdown(5 * SECOND).await.unwrap();
}

async fn livez(endpoint: &Endpoint) -> bool {
    let mut stream = TcpStream::connect(endpoint.address()).await.unwrap();
    let head = format!("GET /livez HTTP/1.1\r\nHost: {}\r\n\r\n", endpoint.address());
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    timeout(SECOND, stream.read_to_string(&mut text)).await.is_ok_and(|read| read.is_ok())
        && text.contains(" 200 ")
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_miss_events_and_hold_up_nobody() {
    let (etcd, endpoint) = (Etcd::start().await, listen());
    let running = engine(&etcd, &endpoint).event_buffer(64).build().unwrap().start().await.unwrap();
    running.ready().await;
    let mut slow = listening(&endpoint, "").await;
    // They never read.
    let mut others = Vec::new();
    for _ in 0..15 {
        others.push(Client::connect(&endpoint, "").await);
    }
    // As many as may be told events are.
    eventually(10 * SECOND, "one too many", async || {
        Client::connect(&endpoint, "").await.head().await.0 == 503
    })
    .await;
    assert!(livez(&endpoint).await);
    for round in 0..40 {
        for id in 0..100 {
            etcd.put(&format!("/jobs/{id}"), format!("{round}")).await;
        }
        assert!(livez(&endpoint).await, "round {round}");
    }
    eventually(30 * SECOND, "all are done", async || etcd.keys("/jobs/").await.is_empty()).await;
    let mut missed = 0;
    while missed == 0 {
        let (name, data) = slow.next().await.unwrap();
        if name == "lagged" {
            missed = data["missed"].as_u64().unwrap();
        }
    }
    let (name, _) = slow.next().await.unwrap();
    assert_ne!(name, "listening", "after {missed} that were missed it goes on");
    // Who goes makes room.
    drop((slow, others));
    eventually(20 * SECOND, "there is room again", async || {
        Client::connect(&endpoint, "").await.head().await.0 == 200
    })
    .await;
    running.shutdown(5 * SECOND).await.unwrap();
}
