//! Asks the application for credentials: on its own runtime, within a time limit, and never more often than
//! [`offers`](super::offers) allows.

use super::credentials::Credentials;
use super::failure::{Failure, FailureKind};
use super::offers::{Offer, Offers};
use crate::firing::{BoxError, error_text};
use futures_util::future::BoxFuture;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

/// A new connection waits so long for newer credentials than those that are in use.
const PATIENCE: Duration = Duration::from_secs(1);

/// Is told what is wrong, or that nothing is.
type ReportTrouble = dyn Fn(Option<&str>) + Send + Sync;

/// The application's function.
pub(crate) type LoadCredentials =
    Arc<dyn Fn() -> BoxFuture<'static, Result<Credentials, BoxError>> + Send + Sync>;

/// What an engine keeps of its credentials. It outlives a restart of the actors.
#[derive(Clone)]
pub(crate) struct CredentialsOption {
    load: LoadCredentials,
    offers: Arc<Mutex<Offers>>,
}

impl CredentialsOption {
    pub(crate) fn new(load: LoadCredentials) -> Self {
        Self { load, offers: Arc::default() }
    }
}

/// See the [module](self). Shared by all links of an engine.
pub(crate) struct CredentialSource {
    option: CredentialsOption,
    runtime: Handle,
    limit: Duration,
    /// Told what is wrong whenever that may have changed.
    report: Box<ReportTrouble>,
    /// Held by the one who asks.
    loading: Arc<tokio::sync::Mutex<()>>,
    /// Held by the one who tries what nobody has tried.
    turn: tokio::sync::Mutex<()>,
    /// Of the links.
    wakes: Mutex<Vec<Arc<Notify>>>,
}

impl CredentialSource {
    /// `runtime`: where the function runs, for at most `limit`.
    pub(crate) fn new(
        option: CredentialsOption,
        runtime: Handle,
        limit: Duration,
        report: impl Fn(Option<&str>) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            option,
            runtime,
            limit,
            report: Box::new(report),
            loading: Arc::default(),
            turn: tokio::sync::Mutex::default(),
            wakes: Mutex::default(),
        })
    }

    /// Has a link woken when it may have to change its connection.
    pub(super) fn wakes(&self, wake: Arc<Notify>) {
        self.wakes.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(wake);
    }

    fn offers(&self) -> MutexGuard<'_, Offers> {
        self.option.offers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Changes what is known, and tells of it.
    fn change(&self, change: impl FnOnce(&mut Offers)) {
        let trouble = {
            let mut offers = self.offers();
            change(&mut offers);
            offers.trouble().map(str::to_owned)
        };
        (self.report)(trouble.as_deref());
        let wakes = self.wakes.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        wakes.iter().for_each(|wake| wake.notify_one());
    }

    /// Asks the application, in the background, unless that is under way or not yet to be done.
    fn refresh(self: &Arc<Self>) {
        let Ok(loading) = self.loading.clone().try_lock_owned() else { return };
        if self.offers().begin(self.limit, Instant::now()) {
            let source = self.clone();
            tokio::task::spawn_local(async move {
                let loaded = source.load().await;
                source.change(|offers| offers.loaded(loaded, Instant::now()));
                drop(loading);
            });
        }
    }

    /// Asks the application again if there was trouble.
    pub(super) fn retry(self: &Arc<Self>, now: Instant) {
        if self.retry_at().is_some_and(|at| at <= now) {
            self.refresh();
        }
    }

    async fn load(&self) -> Result<Credentials, String> {
        let load = self.option.load.clone();
        // Not on a thread of the engine's, whatever the function does there.
        let loading = AbortOnDropHandle::new(self.runtime.spawn(async move { load().await }));
        let loaded = match timeout(self.limit, loading).await {
            Err(_) => Err(format!("nothing came within {:?}", self.limit)),
            Ok(Err(ended)) => Err(ended.to_string()),
            Ok(Ok(loaded)) => loaded.map_err(|error| error_text(&*error)),
        };
        loaded.map_err(|text| format!("credentials could not be loaded: {text}"))
    }

    /// What a new connection is to be opened with.
    pub(super) async fn offer(self: &Arc<Self>) -> Result<Offer, Failure> {
        self.refresh();
        let patience = if self.offers().has_accepted() { PATIENCE } else { self.limit + PATIENCE };
        // Those that were accepted will do if it takes longer.
        let _ = timeout(patience, self.loading.lock()).await;
        let offers = self.offers();
        offers.offer().ok_or_else(|| {
            let text = offers.trouble().unwrap_or("there are no credentials");
            Failure::new(FailureKind::Authentication, "connect", text)
        })
    }

    /// The turn to try what nobody has tried: links do that one after the other. `None`: another one takes its time.
    pub(super) async fn turn(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        timeout(PATIENCE, self.turn.lock()).await.ok()
    }

    pub(super) fn accept(&self, credentials: &Arc<Credentials>) {
        self.change(|offers| offers.accept(credentials));
    }

    pub(super) fn accept_user(&self, credentials: &Arc<Credentials>) {
        self.change(|offers| offers.accept_user(credentials));
    }

    pub(super) fn refuse(&self, credentials: &Arc<Credentials>, failure: &Failure) {
        let text = format!("the new credentials are refused, and the old ones are in use: {failure}");
        self.change(|offers| offers.refuse(credentials, text, Instant::now()));
    }

    /// See [`Offers::outdates`].
    pub(super) fn outdates(&self, opened_with: Option<&Credentials>) -> bool {
        self.offers().outdates(opened_with)
    }

    /// See [`Offers::retry_at`].
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.offers().retry_at()
    }
}
