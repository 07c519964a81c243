//! Opens a link's connections and watches over them. It is a task on a thread of the engine's own, which goes
//! on when a caller gives up. It carries out what [`EndpointChoice`]
//! decides. How one connection is opened is in [`opening`](super::opening).

use super::client::{ClientShared, Rounds};
use super::credential_source::CredentialSource;
use super::endpoint_choice::{ConnectStep, EndpointChoice, Need, Spread};
use super::failure::{Failure, FailureKind, Remedy};
use super::numbers::{ConnectionId, TokenGeneration};
use super::offers::Offer;
use super::store::Store;
use super::{Target, Timeouts};
use crate::metrics::Meters;
use crate::mutants::{Mutant, is_active};
use crate::watch_cell::{WatchCell, WatchCellSender};
use etcd_client::Channel;
use rand::rngs::StdRng;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// When a connection is asked again where it leads, if it has not answered.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

pub(super) struct ConnectorSettings {
    pub(super) target: Target,
    pub(super) timeouts: Timeouts,
    pub(super) meters: Meters,
    pub(super) home: usize,
    pub(super) credentials: Option<Arc<CredentialSource>>,
    /// Within this time of its return a member has its share of the links again.
    pub(super) rebalance: Duration,
    pub(super) store: Arc<Store>,
    pub(super) rng: StdRng,
    pub(super) shared: Arc<ClientShared>,
    pub(super) answers: WatchCellSender<Rounds>,
}

/// See the [module](self).
pub(crate) struct Connector {
    pub(super) settings: ConnectorSettings,
    link: EndpointChoice,
    rounds: Rounds,
    /// The last connection that was made.
    pub(super) made: ConnectionId,
    /// How often it was doubted that the connections lead to the engine's store.
    doubts: WatchCell<u64>,
    /// Up to which of those it is planned to look.
    doubted: u64,
    /// When the present connection is to be asked where it leads.
    look_at: Option<Instant>,
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
            Spread(settings.rebalance),
            StdRng::from_rng(&mut settings.rng),
        );
        if let Some(source) = &settings.credentials {
            source.wakes(settings.shared.wake.clone());
        }
        let doubts = settings.store.doubts();
        Self {
            settings,
            link,
            rounds: Rounds::default(),
            made: ConnectionId::default(),
            doubts,
            doubted: 0,
            look_at: None,
        }
    }

    /// Until the thread ends.
    pub(crate) async fn run(mut self) {
        loop {
            let now = Instant::now();
            self.report_events(now);
            if let Some(stale) = self.take_wish_for_token() {
                self.renew_token(stale).await;
                continue;
            }
            match self.link.next(now) {
                ConnectStep::Try { endpoint, need, last } => self.attempt(endpoint, need, last).await,
                // What is to be replaced is replaced first: that asks too.
                ConnectStep::Wait(_) if self.look_at.is_some_and(|at| at <= now) => self.look_again().await,
                ConnectStep::Wait(until) => self.wait(until).await,
            }
        }
    }

    /// Asks where the present connection leads, and closes it if that is another store. Without an answer it stays: a
    /// member in trouble is no other store. It is asked again later.
    async fn look_again(&mut self) {
        self.look_at = None;
        let (Some(connection), Some(endpoint)) = (self.settings.shared.present(), self.link.present()) else {
            return;
        };
        connection.activity.sent(Instant::now(), self.settings.timeouts.request);
        let silent = async {
            match self.is_replaceable() {
                true => connection.activity.silent_or_closed().await,
                false => std::future::pending().await,
            }
        };
        let leads_home = tokio::select! {
            biased;
            answer = self.leads_home(endpoint, &connection) => answer,
            // Somebody wants something of the link.
            () = self.settings.shared.wake.notified() => None,
            () = silent => None,
        };
        match leads_home {
            Some(true) => {}
            Some(false) => connection.activity.close(),
            None => self.look_at = Some(Instant::now() + LOOK_AGAIN),
        }
    }

    /// Tells the link what has happened.
    fn report_events(&mut self, now: Instant) {
        let doubts = self.doubts.get();
        if doubts > self.doubted {
            self.doubted = doubts;
            self.look_at = Some(now);
        }
        let (wanted, leave) = {
            let mut wishes = self.settings.shared.wishes();
            (std::mem::take(&mut wishes.connection), wishes.leave.take())
        };
        if let Some(source) = &self.settings.credentials {
            source.retry(now);
        }
        let present = self.settings.shared.replace_if_closed();
        match present {
            Present::None if wanted => {
                self.link.report(Need::Missing, None, now);
            }
            Present::None => {}
            Present::Closed(number) => self.link.report(Need::Missing, Some(number), now),
            Present::Open(number, silent) => {
                if silent && self.is_replaceable() {
                    self.link.report(Need::Silent, Some(number), now);
                }
                if leave == Some(number) && !is_active(Mutant::Leave) {
                    self.link.report(Need::Left, leave, now);
                }
                if self.needs_renewal() {
                    self.link.report(Need::Renew, Some(number), now);
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

    /// The present connection was opened with credentials that are to be replaced.
    pub(super) fn needs_renewal(&self) -> bool {
        let (Some(source), Some(connection)) = (&self.settings.credentials, self.settings.shared.present())
        else {
            return false;
        };
        self.is_replaceable() && source.outdates(connection.credentials.as_deref())
    }

    async fn wait(&self, until: Option<Instant>) {
        let retry = self.settings.credentials.as_ref().and_then(|source| source.retry_at());
        let renew = self.link.not_before().filter(|_| self.needs_renewal());
        let until = [until, retry, renew, self.look_at].into_iter().flatten().min();
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
        let (mut doubts, doubted) = (self.doubts.clone(), self.doubted);
        tokio::select! {
            biased;
            () = self.settings.shared.wake.notified() => {}
            _ = doubts.wait_for(|doubts| *doubts > doubted) => {}
            () = silent => {}
            () = due => {}
        }
    }

    /// The connection is the engine's own, so that there can be another one.
    pub(super) fn is_replaceable(&self) -> bool {
        matches!(self.settings.target, Target::Endpoints(..)) && !is_active(Mutant::Silence)
    }

    fn take_wish_for_token(&self) -> Option<TokenGeneration> {
        // Without a connection there is nobody to ask: the next one is opened first.
        self.settings.shared.present()?;
        self.settings.shared.wishes().token.take()
    }

    async fn renew_token(&mut self, stale: TokenGeneration) {
        let Some(connection) = self.settings.shared.present() else { return };
        let start = Instant::now();
        let mut channel = connection.channel.clone();
        let renewing = async {
            let below =
                channel.below().map_err(|_| Failure::not_sent("authenticate", "the connection ended"))?;
            let below = below.clone();
            // A connection that is not asked yet is not silent.
            let asks = || connection.activity.sent(Instant::now(), self.settings.timeouts.request);
            match self.settings.shared.token.renew(stale, below.clone(), asks).await {
                Err(failure) if failure.kind == FailureKind::Authentication => {
                    self.renew_as_told(stale, failure, below).await
                }
                renewed => renewed,
            }
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
            self.settings.shared.wishes().leave = Some(connection.number);
        }
        self.rounds.tokens += 1;
        self.rounds.token_failure = renewed.err();
        self.settings.answers.set(self.rounds.clone());
    }

    /// The credentials are refused: asks the application for others, and etcd for a token with them.
    async fn renew_as_told(
        &self,
        stale: TokenGeneration,
        refusal: Failure,
        below: Channel,
    ) -> Result<(), Failure> {
        let Some(source) = &self.settings.credentials else { return Err(refusal) };
        let Ok(Offer { first, .. }) = source.offer().await else { return Err(refusal) };
        let Some((name, password)) = first.name_and_password() else { return Err(refusal) };
        match self.settings.shared.token.renew_as(stale, name, password, below).await {
            None => Err(refusal),
            Some(Ok(())) => {
                source.accept_user(&first);
                Ok(())
            }
            Some(Err(failure)) => {
                if failure.kind == FailureKind::Authentication {
                    source.refuse(&first, &failure);
                }
                Err(failure)
            }
        }
    }

    async fn attempt(&mut self, endpoint: usize, need: Need, last: bool) {
        let present = self.settings.shared.present();
        let start = Instant::now();
        let opening = self.open(endpoint, need, last);
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
        let Some(opened) = opened.transpose() else {
            self.link.failed(now);
            return;
        };
        let failed = opened.as_ref().err().map(|failure| failure.kind.name());
        self.settings.meters.etcd_request("connect", failed, now - start);
        match opened {
            Ok(connection) => {
                self.made = connection.number;
                self.link.opened(endpoint, connection.number, now);
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
}

/// How the present connection is.
pub(super) enum Present {
    None,
    /// It has ended, and is gone with this answer.
    Closed(ConnectionId),
    /// With whether it is silent.
    Open(ConnectionId, bool),
}

impl ClientShared {
    fn replace_if_closed(&self) -> Present {
        if let Some(open) = self.present() {
            return Present::Open(open.number, open.activity.is_silent(Instant::now()));
        }
        match self.replace(None) {
            None => Present::None,
            Some(closed) => {
                closed.superseded.cancel();
                closed.lost.cancel();
                Present::Closed(closed.number)
            }
        }
    }
}
