//! How clients come to a cluster: openly, with TLS, with a user and a password.

use crate::cluster::impatient;
use etcd_client::{Client, ConnectOptions};

/// Without TLS and without users, unless told.
#[derive(Clone, Default)]
pub struct Access {
    #[cfg(feature = "tls")]
    pub tls: Option<std::sync::Arc<crate::certificates::Certificates>>,
    /// Users are asked for their passwords from when this is set on.
    pub users: bool,
}

/// The password of all users, until a scenario changes it.
pub const PASSWORD: &str = "secret";

impl Access {
    pub fn flags(&self) -> Vec<String> {
        #[cfg(feature = "tls")]
        if let Some(certificates) = &self.tls {
            return certificates.server_flags();
        }
        Vec::new()
    }

    pub fn has_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }

    fn scheme(&self) -> &'static str {
        if self.has_tls() { "https" } else { "http" }
    }

    /// An address as engines are given it.
    pub fn endpoint(&self, address: &str) -> String {
        if self.has_tls() { format!("https://{address}") } else { address.to_owned() }
    }

    fn with_tls(&self, options: ConnectOptions) -> ConnectOptions {
        #[cfg(feature = "tls")]
        if let Some(certificates) = &self.tls {
            return options.with_tls(certificates.client_options());
        }
        options
    }

    /// A client of the administrator.
    pub async fn admin(&self, address: &str) -> Result<Client, etcd_client::Error> {
        let mut options = self.with_tls(impatient());
        if self.users {
            options = options.with_user("root", PASSWORD);
        }
        Client::connect([format!("{}://{address}", self.scheme())], Some(options)).await
    }

    /// A client that does not say who it is: an answer that this is not enough is an answer.
    pub async fn stranger(&self, address: &str) -> Result<Client, etcd_client::Error> {
        let options = self.with_tls(impatient());
        Client::connect([format!("{}://{address}", self.scheme())], Some(options)).await
    }
}
