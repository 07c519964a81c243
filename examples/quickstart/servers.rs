//! The servers: listeners of this program, their keys, and what happens to them.

use crate::options::{BoxError, Server};
use crate::report::Report;
use etcd_rules::etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, Error, EventType, Txn, TxnOp, WatchOptions,
};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{sleep, timeout};

/// How many servers there are at the start.
const SERVERS: usize = 4;
/// How long etcd may take for one of the requests below.
const ANSWER: Duration = Duration::from_secs(5);
/// The ids are `web-1` and so on. Ids that are taken in a shared etcd are skipped.
const NAME: &str = "web-";

/// True for `/servers/web-…` and `/servers/internal/web-…`, from this or another run of the example.
pub(crate) fn is_of_the_example(key: &str) -> bool {
    let rest = key.strip_prefix("/servers/").unwrap_or(key);
    let (id, _) = rest.strip_prefix("internal/").unwrap_or(rest).split_once('/').unwrap_or((rest, ""));
    id.strip_prefix(NAME).is_some_and(|number| number.parse::<usize>().is_ok())
}

pub(crate) struct Servers {
    client: Client,
    report: Report,
    servers: Vec<Listening>,
    /// The last number in an id.
    last: usize,
    /// The value that this run puts into `/servers/:id/made_by`. Keys are deleted only for servers with this
    /// value.
    maker: String,
    watch: AbortHandle,
    /// Whether to delete the keys at the end. The embedded etcd disappears with its keys.
    clean_up: bool,
}

struct Listening {
    id: String,
    address: String,
    accepting: Option<JoinHandle<()>>,
}

impl Servers {
    /// Opens the first listeners and describes them in etcd.
    pub(crate) async fn open(server: &Server, report: Report) -> Result<Self, BoxError> {
        let client = server.client.clone();
        let watch = tokio::spawn(watch(client.clone(), report.clone())).abort_handle();
        let clean_up = !server.is_embedded();
        let maker = format!("quickstart, process {}", std::process::id());
        let mut servers = Self { client, report, servers: Vec::new(), last: 0, maker, watch, clean_up };
        for _ in 0..SERVERS {
            if let Err(error) = servers.add().await {
                servers.close().await;
                return Err(error);
            }
        }
        Ok(servers)
    }

    /// Changes the servers again and again.
    pub(crate) async fn live(&mut self) {
        loop {
            sleep(Duration::from_secs(2)).await;
            self.hang_up(1);

            sleep(Duration::from_secs(5)).await;
            self.listen(1).await;

            sleep(Duration::from_secs(2)).await;
            self.set_state(2, "inactive").await;

            sleep(Duration::from_secs(4)).await;
            self.set_state(2, "active").await;

            sleep(Duration::from_secs(2)).await;
            match self.add().await {
                Err(error) => self.report.note(&format!("no new server: {error}")),
                Ok(()) => {
                    sleep(Duration::from_secs(4)).await;
                    self.remove_last().await;
                }
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// Closes the listeners and deletes every key that was made for them, and by polling them.
    pub(crate) async fn close(mut self) {
        self.watch.abort();
        let made = if self.clean_up { self.last } else { 0 };
        for number in 1..=made {
            if let Err(error) = self.delete(&format!("{NAME}{number}")).await {
                eprintln!(
                    "quickstart: its keys in etcd could not be deleted ({error}); this does it: \
                     etcdctl del --prefix /servers/{NAME}; etcdctl del --prefix /servers/internal/{NAME}"
                );
                return;
            }
        }
    }

    /// A new server with the next free id: its listener, then its keys.
    async fn add(&mut self) -> Result<(), BoxError> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let id = self.free_id().await?;
        self.report.note(&format!("{id} appears, active, at {address}"));
        self.report.changing(&id, "active");
        let put = Txn::new().and_then([
            TxnOp::put(format!("/servers/{id}/address"), address.as_str(), None),
            TxnOp::put(format!("/servers/{id}/state"), "active", None),
        ]);
        if let Err(error) = answer(self.client.txn(put)).await {
            self.report.not_changed(&id);
            return Err(error);
        }
        self.servers.push(Listening { id, address, accepting: Some(accept(listener)) });
        Ok(())
    }

    async fn free_id(&mut self) -> Result<String, BoxError> {
        loop {
            self.last += 1;
            let id = format!("{NAME}{}", self.last);
            // Two programs that start at once may ask at once. Only one of them gets the id.
            let key = format!("/servers/{id}/made_by");
            let claim = Txn::new()
                .when([Compare::create_revision(key.as_str(), CompareOp::Equal, 0)])
                .and_then([TxnOp::put(key.as_str(), self.maker.as_str(), None)]);
            if answer(self.client.txn(claim)).await?.succeeded() {
                return Ok(id);
            }
        }
    }

    fn hang_up(&mut self, which: usize) {
        let server = &mut self.servers[which];
        self.report.note(&format!("{} goes down: its listener is closed", server.id));
        if let Some(accepting) = server.accepting.take() {
            accepting.abort();
        }
    }

    async fn listen(&mut self, which: usize) {
        let server = &mut self.servers[which];
        match TcpListener::bind(&server.address).await {
            Ok(listener) => {
                self.report.note(&format!("{} comes back: it listens again", server.id));
                server.accepting = Some(accept(listener));
            }
            Err(error) => self.report.note(&format!("{} can't listen again: {error}", server.id)),
        }
    }

    async fn set_state(&mut self, which: usize, state: &str) {
        let id = self.servers[which].id.clone();
        self.report.note(&format!("{id} is set to {state}"));
        self.report.changing(&id, state);
        let put = self.client.put(format!("/servers/{id}/state"), state, None);
        if let Err(error) = answer(put).await {
            self.report.not_changed(&id);
            self.report.note(&format!("that failed: {error}"));
        }
    }

    async fn remove_last(&mut self) {
        let Some(server) = self.servers.pop() else { return };
        self.report.note(&format!("{} is removed", server.id));
        if let Err(error) = self.delete(&server.id).await {
            self.report.note(&format!("that failed: {error}"));
            self.servers.push(server);
        } else if let Some(accepting) = server.accepting {
            accepting.abort();
        }
    }

    async fn delete(&mut self, id: &str) -> Result<(), BoxError> {
        let all = || Some(DeleteOptions::new().with_prefix());
        let made_by = format!("/servers/{id}/made_by");
        let ours = Compare::value(made_by, CompareOp::Equal, self.maker.as_str());
        let delete = Txn::new().when([ours]).and_then([
            TxnOp::delete(format!("/servers/{id}/"), all()),
            TxnOp::delete(format!("/servers/internal/{id}/"), all()),
        ]);
        answer(self.client.txn(delete)).await.map(drop)
    }
}

async fn answer<T>(request: impl Future<Output = Result<T, Error>>) -> Result<T, BoxError> {
    match timeout(ANSWER, request).await {
        Ok(Err(Error::GRpcStatus(status))) => Err(status.message().into()),
        Ok(answer) => Ok(answer?),
        Err(_) => Err("etcd does not answer".into()),
    }
}

fn accept(listener: TcpListener) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            // A failed accept is the client's problem. The connection itself isn't used.
            let _ = listener.accept().await;
        }
    })
}

/// Tells the report about changes that this program doesn't make: etcd ends poll delays, and anybody may set
/// states. It is a plain watch, beside those of the engine.
async fn watch(mut client: Client, report: Report) {
    loop {
        let options = WatchOptions::new().with_prefix();
        if let Ok(mut events) = client.watch("/servers/", Some(options)).await {
            while let Ok(Some(response)) = events.message().await {
                for event in response.events() {
                    let key = event.kv().and_then(|kv| Some((kv.key_str().ok()?, kv.value_str().ok()?)));
                    match (
                        key.map(|(key, value)| (key.split('/').collect::<Vec<_>>(), value)),
                        event.event_type(),
                    ) {
                        (Some((key, _)), EventType::Delete) if key.get(2) == Some(&"internal") => {
                            report.delay_ended(key[3]);
                        }
                        (Some((key, state)), EventType::Put) if key.get(3) == Some(&"state") => {
                            report.state_seen(key[2], state);
                        }
                        _ => {}
                    }
                }
            }
        }
        sleep(Duration::from_secs(1)).await;
    }
}
