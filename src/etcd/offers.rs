//! Which credentials a link offers: the ones that were loaded last, or the last that were accepted. No I/O, no clock.
//!
//! - They are loaded again at most once a second, and less and less often while loading fails or what was loaded is
//!   refused.
//! - What does not load, and what is refused while others are in use, leaves those in use.
//! - Only where nothing was accepted so far is there nothing to fall back to.

use super::credentials::Credentials;
use crate::time::doubled;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Between two loads.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest pause while there is trouble.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// What a new connection is opened with.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) first: Arc<Credentials>,
    /// The last that were accepted, if they are others.
    pub(super) fallback: Option<Arc<Credentials>>,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Offers {
    latest: Option<Arc<Credentials>>,
    /// The latest were refused while others are in use.
    refused: bool,
    accepted: Option<Arc<Credentials>>,
    /// Loads that failed, and refusals, in a row.
    failures: u32,
    /// Why they did not load.
    missing: Option<String>,
    /// Why the latest were refused, until they are accepted.
    refusal: Option<String>,
    not_before: Option<Instant>,
}

impl Offers {
    /// Whether they are to be loaded now. Then they are not to be loaded again before that can have ended.
    pub(super) fn begin(&mut self, limit: Duration, now: Instant) -> bool {
        let is_due = self.not_before.is_none_or(|at| at <= now);
        if is_due {
            self.not_before = Some(now + limit + PAUSE);
        }
        is_due
    }

    /// Some were accepted, which will do while others are being loaded.
    pub(super) fn has_accepted(&self) -> bool {
        self.accepted.is_some()
    }

    /// What loading them came to.
    pub(super) fn loaded(&mut self, loaded: Result<Credentials, String>, now: Instant) {
        match loaded {
            Ok(credentials) => {
                let known = self.latest.take().filter(|known| **known == credentials);
                let latest = known.unwrap_or_else(|| Arc::new(credentials));
                self.not_before = Some(now + PAUSE);
                self.missing = None;
                if self.accepted.as_ref().is_some_and(|accepted| *accepted == latest) {
                    self.settled();
                }
                // Those that were refused before have another try.
                self.refused = false;
                self.latest = Some(latest);
            }
            Err(text) => {
                self.missing = Some(text);
                self.wait_longer(now);
            }
        }
    }

    pub(super) fn offer(&self) -> Option<Offer> {
        let accepted = || self.accepted.clone();
        let first = self.latest.clone().filter(|_| !self.refused).or_else(accepted)?;
        let fallback = accepted().filter(|accepted| *accepted != first);
        Some(Offer { first, fallback })
    }

    /// A member let these in.
    pub(super) fn accept(&mut self, credentials: &Arc<Credentials>) {
        if self.latest.as_ref() == Some(credentials) {
            self.settled();
        }
        self.accepted = Some(credentials.clone());
    }

    /// A member gave a token for the user of these, over a connection that was opened with others.
    pub(super) fn accept_user(&mut self, credentials: &Arc<Credentials>) {
        let Some(accepted) = &self.accepted else { return };
        if accepted.has_certificates_of(credentials) {
            return self.accept(credentials);
        }
        self.accepted = Some(Arc::new((**accepted).clone().with_user_of(credentials)));
    }

    /// Members that let others in refused these.
    pub(super) fn refuse(&mut self, credentials: &Arc<Credentials>, text: String, now: Instant) {
        let is_latest = self.latest.as_ref() == Some(credentials);
        if is_latest && self.accepted.as_ref().is_some_and(|accepted| accepted != credentials) {
            self.refused = true;
            self.refusal = Some(text);
            self.wait_longer(now);
        }
    }

    fn wait_longer(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + doubled(PAUSE, LONGEST_PAUSE, self.failures));
    }

    /// The latest are in use.
    fn settled(&mut self) {
        self.refused = false;
        self.refusal = None;
        if self.missing.is_none() {
            self.failures = 0;
        }
    }

    /// What is wrong.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.missing.as_deref().or(self.refusal.as_deref())
    }

    /// When to load them again although nobody needs them: a moment that may be over.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.not_before.filter(|_| self.trouble().is_some() && self.accepted.is_some())
    }

    /// A connection that was opened with these should be opened anew: the latest have not been tried, or have other
    /// certificates.
    pub(super) fn outdates(&self, opened_with: Option<&Credentials>) -> bool {
        let Some(Offer { first, fallback }) = self.offer() else { return false };
        fallback.is_some() || opened_with.is_none_or(|opened| !opened.has_certificates_of(&first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn user(password: &str) -> Credentials {
        Credentials::new().user("engine", password)
    }

    /// The passwords of an offer.
    fn offered(offers: &Offers) -> (String, Option<String>) {
        let Offer { first, fallback } = offers.offer().expect("an offer");
        let password = |credentials: Arc<Credentials>| credentials.name_and_password().unwrap().1.to_owned();
        (password(first), fallback.map(password))
    }

    fn accepted(now: Instant) -> Offers {
        let mut offers = Offers::default();
        offers.loaded(Ok(user("old")), now);
        offers.accept(&offers.offer().unwrap().first);
        offers
    }

    #[test]
    fn what_was_loaded_is_offered_and_what_was_accepted_is_fallen_back_to() {
        let now = Instant::now();
        let mut offers = Offers::default();
        assert!(offers.offer().is_none() && offers.begin(SECOND, now));
        assert!(!offers.begin(SECOND, now + SECOND), "that is under way");
        offers.loaded(Ok(user("old")), now);
        assert_eq!(offered(&offers), ("old".into(), None));
        offers.accept(&offers.offer().unwrap().first);
        offers.loaded(Ok(user("old")), now + SECOND);
        assert!(!offers.outdates(Some(&user("old"))));
        offers.loaded(Ok(user("new")), now + 2 * SECOND);
        assert_eq!(offered(&offers), ("new".into(), Some("old".into())));
        assert!(offers.outdates(Some(&user("old"))), "nobody has tried them");
        offers.accept(&offers.offer().unwrap().first);
        assert_eq!(offered(&offers), ("new".into(), None));
        assert!(!offers.outdates(Some(&user("old"))), "the certificates are the same");
    }

    #[test]
    fn loads_are_a_second_apart_and_further_while_there_is_trouble() {
        let now = Instant::now();
        let mut offers = accepted(now);
        assert!(!offers.begin(SECOND, now + SECOND / 2) && offers.begin(SECOND, now + SECOND));
        assert_eq!(offers.retry_at(), None);
        for (failed, pause) in [1, 2, 4, 8, 8].into_iter().enumerate() {
            let at = now + 100 * SECOND * failed as u32;
            offers.loaded(Err("no such file".into()), at);
            assert_eq!(offers.retry_at(), Some(at + pause * SECOND));
            assert!(!offers.begin(SECOND, at + pause * SECOND - SECOND / 2));
            assert_eq!(offered(&offers), ("old".into(), None), "they stay in use");
            offers.accept(&offers.offer().unwrap().first);
            assert_eq!(offers.trouble(), Some("no such file"), "although others are good");
        }
        offers.loaded(Ok(user("old")), now);
        assert_eq!((offers.trouble(), offers.retry_at()), (None, None));
    }

    #[test]
    fn what_is_refused_is_not_offered_before_it_is_loaded_again() {
        let now = Instant::now();
        let mut offers = accepted(now);
        for pause in [1, 2, 4, 8, 8] {
            offers.loaded(Ok(user("new")), now);
            let first = offers.offer().unwrap().first;
            offers.refuse(&first, "refused".into(), now);
            assert_eq!(offered(&offers), ("old".into(), None));
            assert_eq!(offers.retry_at(), Some(now + pause * SECOND));
            assert!(!offers.outdates(Some(&user("old"))));
        }
        offers.loaded(Ok(user("new")), now);
        assert_eq!(offers.trouble(), Some("refused"), "until they are accepted");
        offers.accept(&offers.offer().unwrap().first);
        assert_eq!(offers.trouble(), None);
    }

    #[test]
    fn a_refusal_of_what_was_never_accepted_or_is_not_the_latest_changes_nothing() {
        let now = Instant::now();
        let mut offers = Offers::default();
        offers.loaded(Ok(user("first")), now);
        let first = offers.offer().unwrap().first;
        offers.refuse(&first, "refused".into(), now);
        assert_eq!(offered(&offers), ("first".into(), None), "there is nothing else");
        offers.accept(&first);
        offers.loaded(Ok(user("second")), now);
        offers.refuse(&first, "refused".into(), now);
        assert_eq!(offered(&offers), ("second".into(), Some("first".into())));
    }

    #[cfg(any(feature = "tls", feature = "tls-roots"))]
    #[test]
    fn other_certificates_outdate_a_connection_and_another_password_does_not() {
        let now = Instant::now();
        let mut offers = accepted(now);
        let both = user("new").authority("pem");
        offers.loaded(Ok(both.clone()), now);
        let first = offers.offer().unwrap().first;
        offers.accept_user(&first);
        assert_eq!(offered(&offers), ("new".into(), Some("new".into())), "the certificates are untried");
        offers.accept(&first);
        assert!(offers.outdates(Some(&user("new"))) && !offers.outdates(Some(&both)));
        assert!(offers.outdates(None));
    }
}
