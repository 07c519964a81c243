//! Tokens: given for a password, and forgotten when nobody uses them. Pure: the time is passed in.

use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How long a token lives without being used, as in etcd.
const TTL: Duration = Duration::from_secs(300);

#[derive(Clone, Debug)]
struct Token {
    user: String,
    ends: Instant,
}

/// The tokens of a server. They can be guessed, because they are counted: this server keeps no secrets.
#[derive(Clone, Debug)]
pub(super) struct Tokens {
    tokens: BTreeMap<String, Token>,
    ttl: Duration,
    given: u64,
}

impl Default for Tokens {
    fn default() -> Self {
        Self { tokens: BTreeMap::new(), ttl: TTL, given: 0 }
    }
}

impl Tokens {
    /// Of those given from now on, and of others when they are used.
    pub(super) fn set_ttl(&mut self, ttl: Duration) {
        self.ttl = ttl;
    }

    /// A new token, in the form of etcd's: a word and a number.
    pub(super) fn give(&mut self, user: &str, now: Instant) -> String {
        self.tokens.retain(|_, token| token.ends > now);
        self.given += 1;
        let token = format!("EmbeddedEmbedded.{}", self.given);
        self.tokens.insert(token.clone(), Token { user: user.to_owned(), ends: ends(now, self.ttl) });
        token
    }

    /// Whose token this is. It lives its whole time again.
    pub(super) fn user(&mut self, token: &str, now: Instant) -> Option<String> {
        let ttl = self.ttl;
        let token = self.tokens.get_mut(token).filter(|token| token.ends > now)?;
        token.ends = ends(now, ttl);
        Some(token.user.clone())
    }

    pub(super) fn forget_user(&mut self, user: &str) {
        self.tokens.retain(|_, token| token.user != user);
    }

    /// Forgets all of them, as a restart does.
    pub(super) fn forget(&mut self) {
        self.tokens.clear();
    }
}

fn ends(now: Instant, ttl: Duration) -> Instant {
    now.checked_add(ttl).unwrap_or_else(|| now + Duration::from_secs(100 * 365 * 86_400))
}
