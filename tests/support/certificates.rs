//! Certificates of a private authority: for the members, which want one of their clients too, and for clients.

use etcd_client::{Certificate, Identity, TlsOptions};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Files of an authority, of servers and of clients.
pub struct Certificates {
    dir: tempfile::TempDir,
    authority: Issuer<'static, KeyPair>,
}

impl Certificates {
    pub fn make() -> Self {
        let dir = tempfile::Builder::new().prefix("etcd-rules-certificates-").tempdir().expect("a folder");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate of an authority");
        write(&dir.path().join("ca.pem"), &certificate.pem());
        let made = Self { dir, authority: Issuer::new(params, key) };
        made.issue("server", None);
        made.issue("client", None);
        made
    }

    /// A new certificate in the place of the old one; with `lives`, one that expires so soon.
    pub fn issue(&self, name: &str, lives: Option<Duration>) {
        let key = KeyPair::generate().expect("a key");
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut params = CertificateParams::new(names).expect("names for a certificate");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        if let Some(lives) = lives {
            #[expect(clippy::disallowed_methods, reason = "certificates have dates")]
            let now = std::time::SystemTime::now();
            params.not_after = (now + lives).into();
        }
        let certificate = params.signed_by(&key, &self.authority).expect("a certificate");
        write(&self.file(&format!("{name}.key")), &key.serialize_pem());
        write(&self.file(&format!("{name}.pem")), &certificate.pem());
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn server_flags(&self) -> Vec<String> {
        let file = |name| self.file(name).display().to_string();
        vec![
            format!("--cert-file={}", file("server.pem")),
            format!("--key-file={}", file("server.key")),
            format!("--trusted-ca-file={}", file("ca.pem")),
            "--client-cert-auth".to_owned(),
        ]
    }

    /// Authority, certificate and key of clients.
    pub fn client_files(&self) -> [PathBuf; 3] {
        ["ca.pem", "client.pem", "client.key"].map(|name| self.file(name))
    }

    pub fn client_options(&self) -> TlsOptions {
        tls_options(&self.client_files())
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a file can be written");
}

/// What these files make of a client.
pub fn tls_options(files: &[PathBuf; 3]) -> TlsOptions {
    let [authority, certificate, key] =
        files.each_ref().map(|file| std::fs::read(file).expect("a file can be read"));
    TlsOptions::new()
        .ca_certificate(Certificate::from_pem(authority))
        .identity(Identity::from_pem(certificate, key))
}
