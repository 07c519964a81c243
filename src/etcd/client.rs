//! A link to etcd: how the engine sends requests over it.
//!
//! A request goes over the present connection. If there is none, it waits for the
//! [connector](super::connector), which opens one for all who wait, on a thread of the engine's own. What a
//! failure means is in the table of [errors](super::errors): by that, the link is told to leave the member,
//! or to ask for a newer token, with which the request is sent again until its own time is over.

use super::connection::Connection;
use super::connector::{Connector, ConnectorSettings};
use super::credential_source::CredentialSource;
use super::failure::{Failure, FailureKind, PossibleEffect, Remedy};
use super::numbers::{ConnectionId, TokenGeneration};
use super::store::Store;
use super::token::Token;
use super::{Target, Timeouts};
use crate::metrics::Meters;
use crate::mutants::{Mutant, is_active};
use crate::time::doubled;
use crate::watch_cell::{WatchCell, WatchCellSender, watch_cell};
use etcd_client::Client;
use rand::rngs::StdRng;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// An answer to a request should come in this time, or anything at all.
const PATIENCE: Duration = Duration::from_secs(1);

/// What one of an engine's links is made of.
pub(crate) struct LinkSettings {
    pub(crate) target: Target,
    pub(crate) timeouts: Timeouts,
    pub(crate) meters: Meters,
    /// The endpoint that it stays on if it can, modulo their number.
    pub(crate) home: usize,
    /// Of all links of the engine.
    pub(crate) token: Arc<Token>,
    pub(crate) credentials: Option<Arc<CredentialSource>>,
    /// It is at home again within this time.
    pub(crate) rebalance: Duration,
    pub(crate) store: Arc<Store>,
    pub(crate) rng: StdRng,
}

/// See the [module](self). Cheap to share; requests may go out at the same time.
pub(crate) struct EtcdClient {
    target: Target,
    pub(super) timeouts: Timeouts,
    meters: Meters,
    shared: Arc<ClientShared>,
    rounds: WatchCell<Rounds>,
    pub(super) store: Arc<Store>,
}

/// What a link and its connector share.
pub(super) struct ClientShared {
    present: RwLock<Option<Arc<Connection>>>,
    wishes: Mutex<Wishes>,
    pub(super) wake: Arc<Notify>,
    pub(super) token: Arc<Token>,
}

/// What the connector is asked for.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// Somebody waits for a connection.
    pub(super) connection: bool,
    /// The connection whose member is to be left.
    pub(super) leave: Option<ConnectionId>,
    /// A newer token than this one is needed.
    pub(super) token: Option<TokenGeneration>,
}

/// How often the connector has answered those who wait, and what.
#[derive(Clone, Debug, Default)]
pub(super) struct Rounds {
    pub(super) connections: u64,
    pub(super) failure: Option<Failure>,
    pub(super) tokens: u64,
    pub(super) token_failure: Option<Failure>,
}

impl ClientShared {
    /// The present connection, if it can carry requests.
    pub(super) fn present(&self) -> Option<Arc<Connection>> {
        let present = self.present.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        present.as_ref().filter(|connection| connection.is_open()).cloned()
    }

    /// Puts another one in place of the present connection.
    pub(super) fn replace(&self, connection: Option<Arc<Connection>>) -> Option<Arc<Connection>> {
        let mut present = self.present.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        std::mem::replace(&mut *present, connection)
    }

    pub(super) fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn wish(&self, wish: impl FnOnce(&mut Wishes)) {
        wish(&mut self.wishes());
        self.wake.notify_one();
    }
}

/// How a request is sent.
#[derive(Clone, Copy)]
pub(super) struct Sending {
    pub(super) name: &'static str,
    /// After so long without an answer, or anything else, its connection is silent.
    pub(super) patience: Duration,
    /// It may be sent again although it may have taken effect.
    pub(super) repeatable: bool,
    /// How long it may take in all; the link's own limit, if it is not told.
    pub(super) limit: Option<Duration>,
}

impl Sending {
    pub(super) fn once(name: &'static str) -> Self {
        Self { name, patience: PATIENCE, repeatable: false, limit: None }
    }

    pub(super) fn repeated(name: &'static str) -> Self {
        Self { repeatable: true, ..Self::once(name) }
    }
}

impl EtcdClient {
    /// A link, and the connector that is to run on a thread of the engine's own.
    pub(crate) fn new(settings: LinkSettings) -> (Self, Connector) {
        let LinkSettings { target, timeouts, meters, home, token, credentials, rebalance, store, rng } =
            settings;
        let shared = Arc::new(ClientShared {
            present: RwLock::new(None),
            wishes: Mutex::default(),
            wake: Arc::default(),
            token,
        });
        let (answers, rounds): (WatchCellSender<Rounds>, WatchCell<Rounds>) = watch_cell(Rounds::default());
        let connector = Connector::new(ConnectorSettings {
            target: target.clone(),
            timeouts,
            meters: meters.clone(),
            home,
            credentials,
            rebalance,
            store: store.clone(),
            rng,
            shared: shared.clone(),
            answers,
        });
        (Self { target, timeouts, meters, shared, rounds, store }, connector)
    }

    /// A link whose connector runs on the present thread.
    #[cfg(all(test, feature = "embedded"))]
    pub(crate) fn for_test(target: Target, timeouts: Timeouts, meters: Meters) -> Arc<Self> {
        use rand::SeedableRng;
        let (client, connector) = Self::new(LinkSettings {
            target,
            timeouts,
            meters,
            home: 0,
            token: Arc::default(),
            credentials: None,
            rebalance: Duration::from_secs(600),
            store: Store::new(Vec::new(), None, (Default::default(), "/etcd-rules/test/"), 1, |_| {}),
            rng: StdRng::seed_from_u64(0),
        });
        tokio::task::spawn_local(connector.run());
        Arc::new(client)
    }

    /// The etcd-client of the present connection, for a callback's own requests.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        let deadline = Instant::now() + self.timeouts.request;
        Ok(self.connection("connect", deadline).await?.client.clone())
    }

    /// The present connection, or the next one.
    pub(super) async fn connection(
        &self,
        request: &'static str,
        deadline: Instant,
    ) -> Result<Arc<Connection>, Failure> {
        match self.shared.present() {
            Some(connection) => Ok(connection),
            // This future is rare and large. In a box, it does not make every request as large.
            None => Box::pin(self.next_connection(request, deadline)).await,
        }
    }

    async fn next_connection(
        &self,
        request: &'static str,
        deadline: Instant,
    ) -> Result<Arc<Connection>, Failure> {
        let mut rounds = self.rounds.clone();
        let known = rounds.get().connections;
        self.shared.wish(|wishes| wishes.connection = true);
        match timeout_at(deadline, rounds.wait_for(|rounds| rounds.connections > known)).await {
            Err(_) => Err(Failure::not_sent(request, format!("no connection in time{}", self.endpoints()))),
            Ok(None) => Err(Failure::not_sent(request, "the engine is stopping")),
            Ok(Some(answer)) => self.shared.present().ok_or_else(|| {
                let failure = answer.failure;
                let failure =
                    failure.unwrap_or_else(|| Failure::not_sent(request, "the connection ended at once"));
                Failure { request, effect: PossibleEffect::No, ..failure }
            }),
        }
    }

    /// Waits until there is a newer token than this.
    async fn newer_token(&self, stale: TokenGeneration, deadline: Instant) -> Result<(), Failure> {
        let mut rounds = self.rounds.clone();
        let known = rounds.get().tokens;
        if self.shared.token.generation() > stale {
            return Ok(());
        }
        self.shared.wish(|wishes| wishes.token = wishes.token.max(Some(stale)));
        match timeout_at(deadline, rounds.wait_for(|rounds| rounds.tokens > known)).await {
            Err(_) => {
                Err(Failure::new(FailureKind::Authentication, "authenticate", "no newer token in time"))
            }
            Ok(None) => Err(Failure::not_sent("authenticate", "the engine is stopping")),
            Ok(Some(_)) if self.shared.token.generation() > stale => Ok(()),
            Ok(Some(answer)) => Err(answer.token_failure.unwrap_or_else(|| {
                Failure::new(FailureKind::Authentication, "authenticate", "there is no newer token")
            })),
        }
    }

    /// The member at the other end can't do what it is asked for.
    pub(super) fn leave(&self, connection: &Connection) {
        self.shared.wish(|wishes| wishes.leave = Some(connection.number));
    }

    /// Leaves the member, if that is what a failure calls for.
    pub(super) fn heed<T>(&self, connection: &Connection, result: Result<T, Failure>) -> Result<T, Failure> {
        if result.as_ref().is_err_and(|failure| failure.remedy == Remedy::OtherMember) {
            self.leave(connection);
        }
        result
    }

    /// Sends a request until it is answered, or sending it again is of no use or not allowed.
    pub(super) async fn call<T, F>(
        &self,
        sending: Sending,
        send: impl Fn(Arc<Connection>) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let send = |connection: Arc<Connection>| {
            let sent = send(connection);
            async move { sent.await.map_err(|error| Failure::of_error(sending.name, error)) }
        };
        self.call_checked(sending, send).await
    }

    /// As [`call`](Self::call), of a request whose answer may tell of a failure.
    pub(super) async fn call_checked<T, F>(
        &self,
        sending: Sending,
        send: impl Fn(Arc<Connection>) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        const FIRST: Duration = Duration::from_millis(20);
        const LONGEST: Duration = Duration::from_millis(500);
        let limit = sending.limit.unwrap_or(self.timeouts.request);
        let deadline = Instant::now() + limit;
        let mut failures = 0;
        loop {
            let token = self.shared.token.generation();
            let failure = match self.connection(sending.name, deadline).await {
                // A request with time left goes on waiting; the others get the error.
                Err(failure) if sending.repeatable => failure,
                Err(failure) => return Err(failure),
                Ok(connection) => {
                    let answered =
                        self.send_once(sending, limit, deadline, &connection, send(connection.clone()));
                    match self.heed(&connection, answered.await) {
                        Ok(answer) => return Ok(answer),
                        Err(failure) => failure,
                    }
                }
            };
            match failure.remedy {
                Remedy::Authenticate if self.shared.token.can_be_renewed() && !is_active(Mutant::Token) => {
                    match Box::pin(self.newer_token(token, deadline)).await {
                        Ok(()) => continue,
                        // The password may be about to change.
                        Err(_) if sending.repeatable => {}
                        Err(failure) => return Err(failure),
                    }
                }
                Remedy::OtherMember if failure.is_for_another_member() || sending.repeatable => {}
                _ => return Err(failure),
            }
            failures += 1;
            let pause = doubled(FIRST, LONGEST, failures);
            if Instant::now() + pause >= deadline {
                return Err(failure);
            }
            sleep(pause).await;
        }
    }

    pub(super) async fn send_once<T>(
        &self,
        sending: Sending,
        limit: Duration,
        deadline: Instant,
        connection: &Connection,
        running: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let start = Instant::now();
        connection.activity.sent(start, sending.patience);
        let mut result = tokio::select! {
            biased;
            result = running => result,
            () = connection.lost.cancelled() => {
                Err(Failure::new(FailureKind::Unreachable, sending.name, "the connection was replaced"))
            }
            () = sleep_until(deadline) => Err(Failure::timed_out(sending.name, limit)),
        };
        if let Err(Failure { kind: FailureKind::Unreachable, message, .. }) = &mut result {
            message.push_str(&self.endpoints());
        }
        let failed = result.as_ref().err().map(|failure| failure.kind.name());
        self.meters.etcd_request(sending.name, failed, start.elapsed());
        result
    }

    fn endpoints(&self) -> String {
        match &self.target {
            Target::Endpoints(endpoints, _) => format!("; the endpoints are {}", endpoints.join(", ")),
            Target::Channel(..) => String::new(),
        }
    }
}
