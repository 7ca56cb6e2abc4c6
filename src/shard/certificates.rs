//! What the TLS port serves with: certificate, key, and whom clients' certificates have to come from.

use std::sync::{Arc, Mutex};

use rustls::{
    RootCertStore, ServerConfig, ServerConnection,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};

use super::{log, shared::lock};

/// Must clients show a certificate?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuthClients {
    /// Whoever has none stays outside.
    Yes,
    /// None is asked for.
    No,
    /// Whoever shows one must have a good one.
    Optional,
}

impl AuthClients {
    /// As CONFIG SET takes it.
    pub fn parse(text: &[u8]) -> Option<Self> {
        match &text.to_ascii_lowercase()[..] {
            b"yes" => Some(Self::Yes),
            b"no" => Some(Self::No),
            b"optional" => Some(Self::Optional),
            _ => None,
        }
    }

    /// As CONFIG GET shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Optional => "optional",
        }
    }
}

/// Where it is, and what is asked of clients. A name of a file that is empty is none.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct CertificateFiles {
    /// The certificate of the node, with those that lead from it to an authority.
    pub cert: String,
    /// Its private key.
    pub key: String,
    /// The authorities that clients' certificates may come from.
    pub ca: String,
    /// What was said of clients, if anything was.
    pub auth: Option<AuthClients>,
}

impl CertificateFiles {
    /// Must clients show a certificate? Said by nobody: where there is an authority to hold it against.
    pub fn auth(&self) -> AuthClients {
        match (self.auth, self.ca.is_empty()) {
            (Some(auth), _) => auth,
            (None, true) => AuthClients::No,
            (None, false) => AuthClients::Yes,
        }
    }

    /// Reads the files.
    ///
    /// # Errors
    /// Which of them is missing or does not fit, and why. Nothing of what is in them.
    pub fn read(&self) -> Result<Certificates, String> {
        self.look_for_own()?;
        let provider = Arc::new(ring::default_provider());
        let clients = self.verifier(&provider)?;
        let own = self.own()?;
        let refused = |why| self.refused(&why);
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(refused)?;
        let config = match clients {
            Some(verifier) => config.with_client_cert_verifier(verifier),
            None => config.with_no_client_auth(),
        };
        let mut config = config
            .with_single_cert(own.chain, own.key)
            .map_err(refused)?;
        // Whoever comes again shows what it was given: nothing is kept here, and cores share nothing.
        config.ticketer = ring::Ticketer::new().map_err(refused)?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Certificates(Arc::new(config)))
    }

    /// Are both files of this node named?
    pub(super) fn look_for_own(&self) -> Result<(), String> {
        if self.cert.is_empty() {
            return Err("No tls-cert-file configured!".into());
        }
        if self.key.is_empty() {
            return Err("No tls-key-file configured!".into());
        }
        Ok(())
    }

    /// Reads what this node shows.
    pub(super) fn own(&self) -> Result<Own, String> {
        let key = PrivateKeyDer::from_pem_file(&self.key);
        let key = key.map_err(|why| format!("Failed to load private key: {}: {why}", self.key))?;
        let chain = certificates(&self.cert)
            .map_err(|why| format!("Failed to load certificate: {}: {why}", self.cert))?;
        Ok(Own { chain, key })
    }

    /// What was read does not go together.
    pub(super) fn refused(&self, why: &rustls::Error) -> String {
        format!("{} with {}: {why}", self.cert, self.key)
    }

    /// Reads the authorities.
    pub(super) fn roots(&self) -> Result<Arc<RootCertStore>, String> {
        let failed = |why| self.no_authority(why);
        let mut roots = RootCertStore::empty();
        let (_, ignored) = roots.add_parsable_certificates(certificates(&self.ca).map_err(failed)?);
        if ignored > 0 {
            log(&format!(
                "TLS: {}: {ignored} certificate(s) of no use",
                self.ca
            ));
        }
        Ok(Arc::new(roots))
    }

    /// They are none that anything can be held against.
    pub(super) fn no_authority(&self, why: String) -> String {
        format!(
            "Failed to configure CA certificate(s) file: {}: {why}",
            self.ca
        )
    }

    /// Who looks at clients' certificates, if anybody does.
    fn verifier(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
        if self.auth() == AuthClients::No {
            return Ok(None);
        }
        if self.ca.is_empty() {
            return Err(
                "tls-ca-cert-file must be specified when tls-auth-clients is enabled!".into(),
            );
        }
        let roots = self.roots()?;
        let builder = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
        let builder = match self.auth() {
            AuthClients::Optional => builder.allow_unauthenticated(),
            AuthClients::Yes | AuthClients::No => builder,
        };
        let verifier = builder.build();
        let verifier = verifier.map_err(|why| self.no_authority(why.to_string()))?;
        Ok(Some(verifier))
    }
}

/// What this node shows.
pub(super) struct Own {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// The certificates in a file, of which there is one at least.
fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).map_err(|why| why.to_string())?;
    let all: Result<Vec<_>, _> = read.collect();
    let all = all.map_err(|why| why.to_string())?;
    match all.is_empty() {
        true => Err("no certificate is in it".into()),
        false => Ok(all),
    }
}

/// What was in the files, ready to serve with.
#[derive(Clone, Debug)]
pub struct Certificates(Arc<ServerConfig>);

impl Certificates {
    /// The machine of one connection.
    ///
    /// # Errors
    /// The library cannot make one.
    pub fn connection(&self) -> Result<ServerConnection, rustls::Error> {
        ServerConnection::new(self.0.clone())
    }
}

/// The client port for TLS.
#[derive(Debug)]
pub struct TlsPort {
    /// Its number.
    pub number: u16,
    /// What new connections are served with; those that are there keep theirs.
    certificates: Mutex<Certificates>,
}

impl TlsPort {
    /// A port that serves with these.
    pub fn new(number: u16, certificates: Certificates) -> Self {
        Self {
            number,
            certificates: Mutex::new(certificates),
        }
    }

    /// From now on it serves with these.
    pub fn renew(&self, certificates: Certificates) {
        *lock(&self.certificates) = certificates;
    }

    /// What it serves with now.
    pub fn certificates(&self) -> Certificates {
        lock(&self.certificates).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_show_certificates_where_there_is_an_authority_unless_told_otherwise() {
        let files = |ca: &str, auth| CertificateFiles {
            ca: ca.into(),
            auth,
            ..CertificateFiles::default()
        };
        assert_eq!(files("", None).auth(), AuthClients::No);
        assert_eq!(files("ca", None).auth(), AuthClients::Yes);
        let optional = AuthClients::parse(b"OPTIONAL");
        assert_eq!(files("ca", optional).auth(), AuthClients::Optional);
        assert_eq!(AuthClients::parse(b"maybe"), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut files = CertificateFiles::default();
        let told = |files: &CertificateFiles| files.read().expect_err("nothing is there");
        assert_eq!(told(&files), "No tls-cert-file configured!");
        files.cert = "no/such.crt".into();
        assert_eq!(told(&files), "No tls-key-file configured!");
        files.key = "no/such.key".into();
        assert!(told(&files).starts_with("Failed to load private key: no/such.key: "));
        files.auth = Some(AuthClients::Optional);
        let want = "tls-ca-cert-file must be specified when tls-auth-clients is enabled!";
        assert_eq!(told(&files), want);
        files.ca = "no/such.ca".into();
        let text = told(&files);
        assert!(text.starts_with("Failed to configure CA certificate(s) file: no/such.ca: "));
    }
}
