//! How one connection is opened: with which credentials, what is asked before it is used, and whose store it leads to.

use super::connector::{Connector, ConnectorSettings};
use crate::etcd::connection::{Activity, Connection, dial};
use crate::etcd::credentials::Credentials;
use crate::etcd::endpoint_choice::Need;
use crate::etcd::failure::{Failure, Remedy};
use crate::etcd::offers::Offer;
use crate::etcd::requests::History;
use crate::etcd::store::{Before, StoreVerdict, Testimony};
use crate::etcd::testimony::{name, read_testimony};
use crate::etcd::token_channel::{TokenChannel, TokenChannelBuilder};
use crate::etcd::{Target, Timeouts};
use crate::mutants::{Mutant, is_active};
use etcd_client::{Client, ConnectOptions};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// Beside the time that a connection and an answer may take, there is this for authentication: etcd hashes
/// passwords one at a time.
const AUTHENTICATION: Duration = Duration::from_secs(20);

/// A connection that works, to whichever store.
struct Reached {
    client: Client,
    channel: TokenChannel,
    activity: Arc<Activity>,
    credentials: Option<Arc<Credentials>>,
    testimony: Testimony,
    /// What was known before it was asked.
    before: Before,
}

impl Connector {
    /// Opens a connection, if it leads to the engine's cluster.
    pub(super) async fn open(
        &self,
        endpoint: usize,
        need: Need,
        last: bool,
    ) -> Result<Option<Connection>, Failure> {
        let Some(reached) = self.reach(endpoint, need, last).await? else { return Ok(None) };
        let Reached { client, channel, activity, credentials, testimony, before } = reached;
        let store = &self.settings.store;
        let mut verdict = store.judge(endpoint, &testimony, &before, Instant::now());
        if matches!(verdict, StoreVerdict::Undecided(_)) {
            self.ask_others(endpoint).await;
            verdict = store.judge(endpoint, &testimony, &before, Instant::now());
        }
        let lacks = testimony.history == Some(History::Other);
        match verdict {
            StoreVerdict::Ours => {}
            StoreVerdict::Nameless(identity) => {
                let limit = self.settings.timeouts.request;
                let naming = timeout(limit, Box::pin(name(&client, store, &identity)));
                naming.await.map_err(|_| Failure::timed_out("connect", limit))??;
            }
            StoreVerdict::Undecided(text) | StoreVerdict::Foreign(text) | StoreVerdict::Rewound(text) => {
                // A connection that was let in before that was seen may lead there too. And a channel that the
                // application gave connects again by itself, so that the other links have come to this store.
                if lacks && !is_active(Mutant::SecondLook) || !self.is_replaceable() {
                    store.doubt();
                }
                return Err(Failure::wrong_store("connect", text));
            }
        }
        Ok(Some(Connection {
            number: self.made.next(),
            client,
            channel,
            activity,
            lost: CancellationToken::new(),
            superseded: CancellationToken::new(),
            credentials,
            _counted: store.count(),
        }))
    }

    /// Whether an open connection leads to the engine's store, by what is known now. `None`: it does not answer.
    pub(super) async fn leads_home(&self, endpoint: usize, connection: &Connection) -> Option<bool> {
        let ConnectorSettings { store, timeouts, .. } = &self.settings;
        let before = store.before();
        let Connection { client, channel, .. } = connection;
        let testimony = self.check(client, channel, &before, timeouts.request).await.ok()?;
        let verdict = store.judge(endpoint, &testimony, &before, Instant::now());
        Some(matches!(verdict, StoreVerdict::Ours | StoreVerdict::Nameless(_)))
    }

    /// Asks the other endpoints which cluster they are of, until that is decided.
    async fn ask_others(&self, but: usize) {
        let Target::Endpoints(endpoints, _) = &self.settings.target else { return };
        for endpoint in (0..endpoints.len()).filter(|endpoint| *endpoint != but) {
            // One that can't be reached names none.
            let reached = Box::pin(self.reach(endpoint, Need::Missing, false)).await;
            let Ok(Some(Reached { testimony, before, .. })) = reached else { continue };
            let verdict = self.settings.store.judge(endpoint, &testimony, &before, Instant::now());
            if !matches!(verdict, StoreVerdict::Undecided(_)) {
                return;
            }
        }
    }

    /// Opens a connection, with the credentials that the application gives, or else those that were accepted last.
    /// `None`: there is no need for it any more.
    async fn reach(&self, endpoint: usize, need: Need, last: bool) -> Result<Option<Reached>, Failure> {
        let Some(source) = &self.settings.credentials else {
            return Box::pin(self.reach_with(endpoint, last, None)).await.map(Some);
        };
        let renews = need == Need::Renew;
        let mut offer = source.offer().await?;
        let mut turn = None;
        if renews || offer.fallback.is_some() {
            turn = source.turn().await;
            offer = source.offer().await?;
        }
        if renews && (turn.is_none() || !self.needs_renewal()) {
            return Ok(None);
        }
        let Offer { mut first, mut fallback } = offer;
        if turn.is_none()
            && let Some(accepted) = fallback.take()
        {
            // Whoever has its turn tries the others.
            first = accepted;
        }
        let failure = match Box::pin(self.reach_with(endpoint, last, Some(&first))).await {
            Ok(reached) => {
                source.accept(&first);
                return Ok(Some(reached));
            }
            Err(failure) => failure,
        };
        let Some(fallback) = fallback else { return Err(failure) };
        // Only if others are let in is it the credentials that are at fault.
        let reached =
            Box::pin(self.reach_with(endpoint, last, Some(&fallback))).await.map_err(|_| failure.clone())?;
        source.refuse(&first, &failure);
        if renews { Err(failure) } else { Ok(Some(reached)) }
    }

    /// Opens a connection and checks it: a linearizable read, which also tells whose store it is.
    async fn reach_with(
        &self,
        endpoint: usize,
        last: bool,
        credentials: Option<&Arc<Credentials>>,
    ) -> Result<Reached, Failure> {
        const REQUEST: &str = "connect";
        let ConnectorSettings { target, timeouts, shared, store, .. } = &self.settings;
        let options_of = |options: &Option<ConnectOptions>| {
            let options = self.options(options);
            credentials.map_or_else(|| options.clone(), |credentials| credentials.apply(options.clone()))
        };
        let error = |error: etcd_client::Error| Failure::of_error(REQUEST, error);
        let activity = Arc::new(Activity::new(Instant::now()));
        let authentication = |limit: Duration| limit.saturating_add(AUTHENTICATION);
        let late = |limit: Duration| move |_| Failure::timed_out(REQUEST, limit);
        let (client, channel) = match target {
            Target::Endpoints(endpoints, options) => {
                let endpoint = &endpoints[endpoint];
                let unreachable = |error: std::io::Error| {
                    let message = format!("{error}; the endpoint is {endpoint}");
                    Failure::not_sent(REQUEST, message).because(error)
                };
                let stream = dial(endpoint, timeouts.connect).await.map_err(unreachable)?;
                let (builder, channel) =
                    TokenChannelBuilder::over(stream, activity.clone(), shared.token.clone());
                let connecting =
                    Client::connect_with_balanced_channel([endpoint], Some(options_of(options)), builder);
                let limit = authentication(timeouts.connect);
                (timeout(limit, connecting).await.map_err(late(limit))?.map_err(error)?, channel)
            }
            Target::Channel(given, options) => {
                let channel = TokenChannel::given(given.clone(), shared.token.clone());
                let connecting =
                    Client::from_channel(channel.clone().into_channel(), Some(options_of(options)));
                let limit = authentication(timeouts.request);
                (timeout(limit, connecting).await.map_err(late(limit))?.map_err(error)?, channel)
            }
        };
        // The other endpoints of the round are tried too.
        let limit = if last { timeouts.request } else { timeouts.connect.min(timeouts.request) };
        let before = store.before();
        let testimony = self.check(&client, &channel, &before, limit).await?;
        Ok(Reached { client, channel, activity, credentials: credentials.cloned(), testimony, before })
    }

    async fn check(
        &self,
        client: &Client,
        channel: &TokenChannel,
        before: &Before,
        limit: Duration,
    ) -> Result<Testimony, Failure> {
        const REQUEST: &str = "connect";
        let ConnectorSettings { store, shared, .. } = &self.settings;
        loop {
            let token = shared.token.generation();
            let asked = match timeout(limit, Box::pin(read_testimony(client, store, before))).await {
                Ok(asked) => asked,
                Err(_) => Err(Failure::timed_out(REQUEST, limit)),
            };
            match asked {
                Ok(testimony) => return Ok(testimony),
                Err(failure) if failure.remedy == Remedy::Authenticate && shared.token.can_be_renewed() => {
                    let mut channel = channel.clone();
                    let over = |_| Failure::not_sent(REQUEST, "the connection ended");
                    let below = channel.below().map_err(over)?.clone();
                    shared.token.renew(token, below, || {}).await?;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    fn options(&self, options: &Option<ConnectOptions>) -> ConnectOptions {
        let Timeouts { connect, keep_alive: (interval, limit), .. } = self.settings.timeouts;
        options
            .clone()
            .unwrap_or_default()
            .with_require_leader(true)
            .with_keep_alive(interval, limit)
            .with_keep_alive_while_idle(true)
            .with_connect_timeout(connect)
    }
}
