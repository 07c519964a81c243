//! Probes of the HTTP endpoint are answered at once, whatever others do who can connect to it.
//!
//! One test in a program of its own, because it raises the limit of files of its process, and measures times.

use etcd_rules::embedded::EmbeddedEtcd;
use etcd_rules::http::Endpoint;
use etcd_rules::{Engine, Error, Firing, Reveal, Rule, key};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Connections of clients that do little.
const CLIENTS: usize = 1000;

/// Connections of clients that keep both ends busy. More of them would keep the machine itself from answering.
const BUSY: usize = 50;

/// Probes that are sent while the clients do what they do.
const PROBES: usize = 40;

/// How long an answer may take. A busy machine may take longer for some.
const SOON: Duration = Duration::from_millis(100);
const SOME: usize = PROBES / 10;

/// More than sockets hold that nobody reads from.
const LARGE: usize = 12 << 20;

fn allow_many_files() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // Both ends of each connection are in this process.
    let wanted = (3 * CLIENTS as u64 + 1000).min(hard);
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(wanted), hard).unwrap();
}

async fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

/// What a client does with its connection, until it is told to end.
#[derive(Clone, Copy, Debug)]
enum Client {
    /// It sends nothing.
    Idle,
    /// It sends a byte of a request now and then.
    Slow,
    /// It asks for something large, and does not read it.
    NeverReading,
    /// It asks for something large, reads it, and asks again.
    Greedy,
    /// It connects again whenever its connection is closed.
    Returning,
}

async fn act(client: Client, address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n");
    match client {
        Client::Idle => {}
        Client::Slow => {
            for byte in request.bytes().cycle() {
                stream.write_all(&[byte]).await?;
                sleep(Duration::from_millis(500)).await;
            }
        }
        Client::NeverReading => stream.write_all(request.as_bytes()).await?,
        Client::Greedy => {
            stream.write_all(request.as_bytes()).await?;
            while stream.read(&mut [0; 1 << 16]).await? > 0 {}
            return Ok(());
        }
        Client::Returning => {
            stream.write_all(b"GET /livez HTTP/1.1\r\n").await?;
            let _ = stream.read(&mut [0; 100]).await?;
            return Ok(());
        }
    }
    std::future::pending().await
}

/// Does it, and once more when the connection was closed.
async fn act_again_and_again(client: Client, address: SocketAddr) {
    loop {
        // Whatever ends it is what the endpoint should do.
        let _ = act(client, address).await;
        match client {
            Client::Greedy | Client::Returning => sleep(Duration::from_millis(100)).await,
            Client::Idle | Client::Slow | Client::NeverReading => std::future::pending().await,
        }
    }
}

/// Sends probes one after the other, and fails if more than some are answered late.
async fn probes_are_answered_soon(address: SocketAddr, while_others: &str) {
    let mut late = Vec::new();
    let mut slowest = Duration::ZERO;
    for _ in 0..PROBES {
        let asked = Instant::now();
        let answer = timeout(Duration::from_secs(10), get(address, "/livez")).await.expect("an answer");
        let took = asked.elapsed();
        assert!(answer.unwrap().starts_with("HTTP/1.1 200 "), "while others are {while_others}");
        slowest = slowest.max(took);
        if took > SOON {
            late.push(took);
        }
        sleep(Duration::from_millis(20)).await;
    }
    println!("while others are {while_others}: the slowest of {PROBES} probes took {slowest:?}");
    assert!(late.len() <= SOME, "late while others are {while_others}: {late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_are_answered_at_once_whatever_others_do_who_connect() {
    allow_many_files();
    let blocks = |_: Option<&[u8]>| {
        std::thread::sleep(Duration::from_millis(500));
        false
    };
    let rule = Rule::new("slow")
        .when(key("/slow/:id").compare("blocks", blocks))
        .run(|_: Firing| async { Ok::<(), Error>(()) });
    let metrics = || {
        std::thread::sleep(Duration::from_millis(300));
        "a_metric 1\n".repeat(LARGE / 11)
    };
    let endpoint = Endpoint::builder().address(([127, 0, 0, 1], 0).into()).metrics(metrics).listen().unwrap();
    let address = endpoint.address();
    let etcd = EmbeddedEtcd::in_process();
    let builder = Engine::builder_with_channel("app", etcd.channel()).rule(rule);
    let running = builder.reveal(Reveal::Values).endpoint(&endpoint).build().unwrap().start().await.unwrap();
    running.ready().await;

    for (client, count) in [
        (Client::Idle, CLIENTS),
        (Client::Slow, CLIENTS),
        (Client::NeverReading, CLIENTS),
        (Client::Greedy, BUSY),
        (Client::Returning, BUSY),
    ] {
        let mut clients = JoinSet::new();
        (0..count).for_each(|_| drop(clients.spawn(act_again_and_again(client, address))));
        // So that the probes meet them, and not only their connecting.
        sleep(Duration::from_millis(500)).await;
        probes_are_answered_soon(address, &format!("{client:?}")).await;
        clients.shutdown().await;
    }

    let mut explained = JoinSet::new();
    (0..3).for_each(|id| {
        drop(
            explained
                .spawn(async move { get(address, &format!("/api/explain?rule=slow&attr.id={id}")).await }),
        );
    });
    probes_are_answered_soon(address, "waiting for comparisons that block").await;
    while let Some(answer) = explained.join_next().await {
        let answer = answer.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }

    // Pages are served again.
    let answer = get(address, "/metrics").await.unwrap();
    assert!(answer.len() > LARGE, "{}", &answer[..answer.len().min(200)]);
    running.shutdown(Duration::from_secs(1)).await.unwrap();
}
