//! The credentials of an engine: a user with a password, a certificate, and whom it trusts.

use etcd_client::ConnectOptions;
#[cfg(any(feature = "tls", feature = "tls-roots"))]
use etcd_client::{Certificate, Identity, TlsOptions};
use std::fmt;

/// What an engine proves with who it is, and by what it knows the members. The function that
/// [`EngineBuilder::credentials`](crate::EngineBuilder::credentials) takes returns it.
///
/// What is not given here is taken from the [`connect_options`](crate::EngineBuilder::connect_options), the user and
/// TLS each as a whole.
///
/// ```
/// use etcd_rules::Credentials;
///
/// let credentials = Credentials::new().user("engine", "a secret");
/// assert!(!format!("{credentials:?}").contains("secret"));
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
#[must_use = "credentials do nothing unless the function for them returns them"]
pub struct Credentials {
    user: Option<(String, String)>,
    #[cfg(any(feature = "tls", feature = "tls-roots"))]
    tls: Tls,
}

/// As PEM.
#[cfg(any(feature = "tls", feature = "tls-roots"))]
#[derive(Clone, Default, PartialEq, Eq)]
struct Tls {
    authority: Option<Vec<u8>>,
    /// The certificate and its key.
    identity: Option<(Vec<u8>, Vec<u8>)>,
    server_name: Option<String>,
}

impl Credentials {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The name and the password of a user of etcd.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some((name.into(), password.into()));
        self
    }

    /// The certificates, as PEM, of the authorities that the members' certificates must be signed by. Several may stand
    /// one after the other, so that the old and the new one are trusted while they change. Without it the system's are,
    /// with the feature `tls-roots`.
    #[cfg(any(feature = "tls", feature = "tls-roots"))]
    pub fn authority(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls.authority = Some(pem.into());
        self
    }

    /// The engine's own certificate, with those between it and the authority, and its key, both as PEM.
    #[cfg(any(feature = "tls", feature = "tls-roots"))]
    pub fn certificate(mut self, pem: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.tls.identity = Some((pem.into(), key.into()));
        self
    }

    /// The name that the members' certificates must have, if it is not the host of the endpoint.
    #[cfg(any(feature = "tls", feature = "tls-roots"))]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.tls.server_name = Some(name.into());
        self
    }

    /// The name and the password.
    pub(super) fn name_and_password(&self) -> Option<(&str, &str)> {
        self.user.as_ref().map(|(name, password)| (name.as_str(), password.as_str()))
    }

    /// Everything but the user is the same: a connection that was opened with these is as good as one with the others.
    pub(super) fn has_certificates_of(&self, other: &Self) -> bool {
        #[cfg(any(feature = "tls", feature = "tls-roots"))]
        return self.tls == other.tls;
        #[cfg(not(any(feature = "tls", feature = "tls-roots")))]
        return self.user.is_some() || other.user.is_some() || self == other;
    }

    /// The same with the user of others.
    pub(super) fn with_user_of(mut self, other: &Self) -> Self {
        self.user.clone_from(&other.user);
        self
    }

    /// Options for a connection.
    pub(super) fn apply(&self, mut options: ConnectOptions) -> ConnectOptions {
        if let Some((name, password)) = &self.user {
            options = options.with_user(name, password);
        }
        #[cfg(any(feature = "tls", feature = "tls-roots"))]
        if let Some(tls) = self.tls.options() {
            options = options.with_tls(tls);
        }
        options
    }
}

#[cfg(any(feature = "tls", feature = "tls-roots"))]
impl Tls {
    fn options(&self) -> Option<TlsOptions> {
        if *self == Self::default() {
            return None;
        }
        let mut options = TlsOptions::new();
        options = match &self.authority {
            Some(pem) => options.ca_certificate(Certificate::from_pem(pem)),
            None => options.with_enabled_roots(),
        };
        if let Some((pem, key)) = &self.identity {
            options = options.identity(Identity::from_pem(pem, key));
        }
        if let Some(name) = &self.server_name {
            options = options.domain_name(name);
        }
        Some(options)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whatever is logged of them, no secret is.
        f.debug_struct("Credentials").field("user", &self.user.is_some()).finish_non_exhaustive()
    }
}
