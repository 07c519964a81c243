//! Opens a link's connections and watches over them. It is a task on a thread of the engine's own, which goes
//! on when a caller gives up. It carries out what [`EndpointChoice`]
//! decides.

use super::client::{Rounds, Shared};
use super::connection::{Activity, Connection, dial};
use super::endpoint_choice::{EndpointChoice, Need, Spread, Step};
use super::failure::{Failure, FailureKind, Remedy};
use super::store::{Store, Verdict};
use super::txn_channel::{TxnChannel, TxnChannelBuilder};
use super::{Header, Target, Timeouts, first_key};
use crate::metrics::Meters;
use crate::watch_cell::WatchCellSender;
use etcd_client::{Client, ConnectOptions, GetOptions};
use rand::rngs::StdRng;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// Within this time of its return a member has its share of the links again.
const SPREAD: Duration = Duration::from_secs(10 * 60);

/// Beside the time that a connection and an answer may take, there is this for authentication: etcd hashes
/// passwords one at a time.
const AUTHENTICATION: Duration = Duration::from_secs(20);

pub(super) struct ConnectorSettings {
    pub(super) target: Target,
    pub(super) timeouts: Timeouts,
    pub(super) meters: Meters,
    pub(super) home: usize,
    pub(super) probe: Arc<str>,
    pub(super) store: Arc<Store>,
    pub(super) rng: StdRng,
    pub(super) shared: Arc<Shared>,
    pub(super) answers: WatchCellSender<Rounds>,
}

/// See the [module](self).
pub(crate) struct Connector {
    settings: ConnectorSettings,
    link: EndpointChoice,
    rounds: Rounds,
    /// Connections so far.
    made: u64,
}

impl Connector {
    pub(super) fn new(settings: ConnectorSettings) -> Self {
        use rand::SeedableRng;
        let mut settings = settings;
        let endpoints = match &settings.target {
            Target::Endpoints(endpoints, _) => endpoints.len(),
            Target::Channel(..) => 1,
        };
        let link = EndpointChoice::new(
            endpoints,
            settings.home,
            Spread(SPREAD),
            StdRng::from_rng(&mut settings.rng),
        );
        Self { settings, link, rounds: Rounds::default(), made: 0 }
    }

    /// Until the thread ends.
    pub(crate) async fn run(mut self) {
        loop {
            let now = Instant::now();
            self.look(now);
            if let Some(stale) = self.take_wish_for_token() {
                self.renew_token(stale).await;
                continue;
            }
            match self.link.next(now) {
                Step::Try { endpoint, need, last } => self.attempt(endpoint, need, last).await,
                Step::Wait(until) => self.wait(until).await,
            }
        }
    }

    /// Tells the link what has happened.
    fn look(&mut self, now: Instant) {
        let (wanted, leave) = {
            let mut wishes = self.settings.shared.wishes();
            (std::mem::take(&mut wishes.connection), wishes.leave.take())
        };
        let present = self.settings.shared.replace_if_closed();
        match present {
            Present::None if wanted => {
                self.link.report(Need::Missing, None, now);
            }
            Present::None => {}
            Present::Closed(id) => self.link.report(Need::Missing, Some(id), now),
            Present::Open(id, silent) => {
                if silent && self.is_replaceable() {
                    self.link.report(Need::Silent, Some(id), now);
                }
                if leave == Some(id) {
                    self.link.report(Need::Left, leave, now);
                }
                if wanted {
                    // The connection was lost just before.
                    self.answer(None);
                }
            }
        }
    }

    /// Answers all who wait for a connection.
    fn answer(&mut self, failure: Option<Failure>) {
        self.settings.shared.wishes().connection = false;
        self.rounds.connections += 1;
        self.rounds.failure = failure;
        self.settings.answers.set(self.rounds.clone());
    }

    async fn wait(&self, until: Option<Instant>) {
        let present = self.settings.shared.present();
        let silent = async {
            match &present {
                Some(connection) if self.is_replaceable() => connection.activity.silent_or_closed().await,
                _ => std::future::pending().await,
            }
            // Silent, but not yet to be replaced.
            if let Some(at) = self.link.not_before().filter(|at| *at > Instant::now())
                && present.as_ref().is_some_and(|connection| connection.is_open())
            {
                sleep_until(at).await;
            }
        };
        let due = async {
            match until {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.settings.shared.wake.notified() => {}
            () = silent => {}
            () = due => {}
        }
    }

    /// The connection is the engine's own, so that there can be another one.
    fn is_replaceable(&self) -> bool {
        matches!(self.settings.target, Target::Endpoints(..))
    }

    fn take_wish_for_token(&self) -> Option<u64> {
        // Without a connection there is nobody to ask: the next one is opened first.
        self.settings.shared.present()?;
        self.settings.shared.wishes().token.take()
    }

    async fn renew_token(&mut self, stale: u64) {
        let Some(connection) = self.settings.shared.present() else { return };
        let start = Instant::now();
        let mut channel = connection.channel.clone();
        let renewing = async {
            let below =
                channel.below().map_err(|_| Failure::not_sent("authenticate", "the connection ended"))?;
            let below = below.clone();
            connection.activity.sent(start, self.settings.timeouts.request);
            self.settings.shared.token.renew(stale, below).await
        };
        let silent = async {
            match self.is_replaceable() {
                true => connection.activity.silent_or_closed().await,
                false => std::future::pending().await,
            }
        };
        let renewed = tokio::select! {
            biased;
            renewed = renewing => renewed,
            () = silent => Err(Failure::not_sent("authenticate", "the connection is silent")),
        };
        let failed = renewed.as_ref().err().map(|failure| failure.kind.name());
        self.settings.meters.etcd_request("connect", failed, start.elapsed());
        if renewed.as_ref().is_err_and(|failure| failure.remedy == Remedy::OtherMember) {
            self.settings.shared.wishes().leave = Some(connection.id);
        }
        self.rounds.tokens += 1;
        self.rounds.token_failure = renewed.err();
        self.settings.answers.set(self.rounds.clone());
    }

    async fn attempt(&mut self, endpoint: usize, need: Need, last: bool) {
        let present = self.settings.shared.present();
        let start = Instant::now();
        let opening = self.open(endpoint, last);
        // A connection that was silent may turn out to be slow.
        let spoken = async {
            match &present {
                Some(connection) if need == Need::Silent => connection.activity.spoken().await,
                _ => std::future::pending().await,
            }
        };
        let opened = tokio::select! {
            biased;
            opened = opening => Some(opened),
            () = spoken => None,
        };
        let now = Instant::now();
        let Some(opened) = opened else { return self.link.spoke(now) };
        let failed = opened.as_ref().err().map(|failure| failure.kind.name());
        self.settings.meters.etcd_request("connect", failed, now - start);
        match opened {
            Ok(connection) => {
                self.made += 1;
                self.link.opened(endpoint, connection.id, now);
                let old = self.settings.shared.replace(Some(Arc::new(connection)));
                if let Some(old) = old {
                    old.superseded.cancel();
                    // Requests that still wait for an answer over this connection would wait in vain.
                    if need == Need::Silent || !old.is_open() {
                        old.lost.cancel();
                    }
                }
                self.answer(None);
            }
            Err(failure) => {
                if self.link.failed(now) {
                    self.answer(Some(failure));
                }
            }
        }
    }

    /// Opens a connection, if it leads to the engine's cluster.
    async fn open(&self, endpoint: usize, last: bool) -> Result<Connection, Failure> {
        let Reached { client, channel, activity, header } = self.reach(endpoint, last).await?;
        let store = &self.settings.store;
        let mut verdict = store.judge(endpoint, header, Instant::now());
        if matches!(verdict, Verdict::Undecided(_)) {
            self.ask_others(endpoint).await;
            verdict = store.judge(endpoint, header, Instant::now());
        }
        match verdict {
            Verdict::Ours => {}
            Verdict::Undecided(text) | Verdict::Foreign(text) | Verdict::Rewound(text) => {
                return Err(Failure::wrong_store("connect", text));
            }
        }
        Ok(Connection {
            id: self.made + 1,
            client,
            channel,
            activity,
            lost: CancellationToken::new(),
            superseded: CancellationToken::new(),
            _counted: store.count(),
        })
    }

    /// Asks the other endpoints which cluster they are of, until that is decided.
    async fn ask_others(&self, but: usize) {
        let Target::Endpoints(endpoints, _) = &self.settings.target else { return };
        for endpoint in (0..endpoints.len()).filter(|endpoint| *endpoint != but) {
            // One that can't be reached names none.
            let Ok(Reached { header, .. }) = Box::pin(self.reach(endpoint, false)).await else { continue };
            let verdict = self.settings.store.judge(endpoint, header, Instant::now());
            if !matches!(verdict, Verdict::Undecided(_)) {
                return;
            }
        }
    }

    /// Opens a connection and checks it: a linearizable read, which also tells whose store it is.
    async fn reach(&self, endpoint: usize, last: bool) -> Result<Reached, Failure> {
        const REQUEST: &str = "connect";
        let ConnectorSettings { target, timeouts, shared, .. } = &self.settings;
        let error = |error: etcd_client::Error| Failure::of_error(REQUEST, &error);
        let activity = Arc::new(Activity::new(Instant::now()));
        let authentication = |limit: Duration| limit.saturating_add(AUTHENTICATION);
        let late = |limit: Duration| move |_| Failure::timed_out(REQUEST, limit);
        let (client, channel) = match target {
            Target::Endpoints(endpoints, options) => {
                let endpoint = &endpoints[endpoint];
                let unreachable = |error: std::io::Error| {
                    let message = format!("{error}; the endpoint is {endpoint}");
                    Failure::not_sent(REQUEST, message)
                };
                let stream = dial(endpoint, timeouts.connect).await.map_err(unreachable)?;
                let (builder, channel) =
                    TxnChannelBuilder::over(stream, activity.clone(), shared.token.clone());
                let options = self.options(options);
                let connecting = Client::connect_with_balanced_channel([endpoint], Some(options), builder);
                let limit = authentication(timeouts.connect);
                (timeout(limit, connecting).await.map_err(late(limit))?.map_err(error)?, channel)
            }
            Target::Channel(given, options) => {
                let channel = TxnChannel::given(given.clone(), shared.token.clone());
                let connecting =
                    Client::from_channel(channel.clone().into_channel(), Some(self.options(options)));
                let limit = authentication(timeouts.request);
                (timeout(limit, connecting).await.map_err(late(limit))?.map_err(error)?, channel)
            }
        };
        // The other endpoints of the round are tried too.
        let limit = if last { timeouts.request } else { timeouts.connect.min(timeouts.request) };
        let header = self.check(&client, &channel, limit).await?;
        Ok(Reached { client, channel, activity, header })
    }

    async fn check(&self, client: &Client, channel: &TxnChannel, limit: Duration) -> Result<Header, Failure> {
        const REQUEST: &str = "connect";
        let ConnectorSettings { probe, shared, .. } = &self.settings;
        loop {
            let token = shared.token.generation();
            let mut kv = client.kv_client();
            let asking = kv.get(first_key(probe), Some(GetOptions::new().with_count_only()));
            let asked = match timeout(limit, asking).await {
                Ok(asked) => asked.map_err(|error| Failure::of_error(REQUEST, &error)),
                Err(_) => Err(Failure::timed_out(REQUEST, limit)),
            };
            match asked {
                Ok(answer) => return Ok(Header::of(answer.0.header.as_ref())),
                // A user without the permission to read this key gets an answer all the same.
                Err(failure) if failure.kind == FailureKind::Permission => return Ok(Header::default()),
                Err(failure) if failure.remedy == Remedy::Authenticate && shared.token.can_be_renewed() => {
                    let mut channel = channel.clone();
                    let over = |_| Failure::not_sent(REQUEST, "the connection ended");
                    let below = channel.below().map_err(over)?.clone();
                    shared.token.renew(token, below).await?;
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

/// A connection that works, to whichever store.
struct Reached {
    client: Client,
    channel: TxnChannel,
    activity: Arc<Activity>,
    header: Header,
}

/// How the present connection is.
pub(super) enum Present {
    None,
    /// It has ended, and is gone with this answer.
    Closed(u64),
    /// With whether it is silent.
    Open(u64, bool),
}

impl Shared {
    fn replace_if_closed(&self) -> Present {
        if let Some(open) = self.present() {
            return Present::Open(open.id, open.activity.is_silent(Instant::now()));
        }
        match self.replace(None) {
            None => Present::None,
            Some(closed) => {
                closed.superseded.cancel();
                closed.lost.cancel();
                Present::Closed(closed.id)
            }
        }
    }
}
