//! TLS between nodes: what they show each other, and with whom it did not come about.
//!
//! Both sides show a certificate of the same authorities. The name in it is not looked at: nodes are known by
//! addresses that change, and whoever has such a certificate is one of them.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use rustls::{
    AlertDescription, ClientConfig, ClientConnection, DigitallySignedStruct, Error, InvalidMessage,
    RootCertStore, ServerConfig, ServerConnection, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier},
};

use super::super::{
    certificates::{CertificateFiles, Own},
    refusals::{Refusals, machine},
    shared::lock,
};
use crate::base::Ms;

/// What a node without the option says of a link on which TLS comes.
pub(in crate::shard) const NO_TLS_HERE: &str =
    "it speaks TLS, and this node does not (--tls-replication)";

/// And what it says there.
pub(in crate::shard) const NO_TLS_ANSWER: &str =
    "-NOTLS this node speaks without TLS (--tls-replication)\r\n";

/// Why there is no TLS with another node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::shard) enum Fault {
    /// It says something else.
    Plain,
    /// It closed the connection in the handshake.
    Closed,
    /// Its time is up.
    Late,
    /// Its certificate is none of ours, or not good any more.
    Certificate,
    /// It says so of ours.
    Refused,
    /// It does not keep to TLS, or to such as we speak.
    Broken,
    /// Others want to shake hands.
    Crowded,
}

impl Fault {
    /// For logs and INFO.
    pub fn text(self) -> &'static str {
        match self {
            Self::Plain => "it speaks without TLS, and this node has --tls-replication",
            Self::Closed => {
                "closed instead of shaking hands in TLS: it has no --tls-replication, is no ringkeep, or \
                 starts"
            }
            Self::Late => "it has not shaken hands in TLS in time",
            Self::Certificate => "its certificate is not accepted",
            Self::Refused => "it does not accept our certificate",
            Self::Broken => "it does not keep to TLS",
            Self::Crowded => "others want to shake hands in TLS",
        }
    }

    /// What the library says of it.
    pub fn of(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(_) | Error::NoCertificatesPresented => Self::Certificate,
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::Plain,
            Error::AlertReceived(
                AlertDescription::NoCertificate
                | AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::DecryptError
                | AlertDescription::AccessDenied
                | AlertDescription::CertificateRequired,
            ) => Self::Refused,
            _ => Self::Broken,
        }
    }
}

/// The other side of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::shard) enum Peer {
    /// We dialed it.
    Dialed(SocketAddr),
    /// It came to us.
    Came(Option<SocketAddr>),
}

/// What was in the files, ready for both sides of a link.
#[derive(Clone, Debug)]
pub struct NodeCertificates {
    listens: Arc<ServerConfig>,
    dials: Arc<ClientConfig>,
}

impl CertificateFiles {
    /// Reads what links between nodes need.
    ///
    /// # Errors
    /// Which of the files is missing or does not fit, and why. Nothing of what is in them.
    pub fn read_for_nodes(&self) -> Result<NodeCertificates, String> {
        self.look_for_own()?;
        if self.ca.is_empty() {
            return Err(
                "tls-ca-cert-file must be specified when tls-replication is enabled!".into(),
            );
        }
        let roots = self.roots()?;
        if roots.is_empty() {
            return Err(self.no_authority("no certificate in it is of use".into()));
        }
        NodeCertificates::new(self.own()?, roots).map_err(|why| self.refused(&why))
    }
}

impl NodeCertificates {
    /// Of who shows this, and accepts certificates of these authorities.
    fn new(own: Own, roots: Arc<RootCertStore>) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build();
        let verifier = verifier.map_err(|why| Error::General(why.to_string()))?;
        let (chain, key) = (own.chain.clone(), own.key.clone_key());
        let mut listens = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        // Links last long: each shakes hands in full, so that certificates are looked at each time.
        listens.session_storage = Arc::new(NoServerSessionStorage {});
        listens.send_tls13_tickets = 0;
        let of_authority = OfAuthority {
            algorithms: provider.signature_verification_algorithms,
            roots,
        };
        let mut dials = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(of_authority))
            .with_client_auth_cert(own.chain, own.key)?;
        dials.resumption = Resumption::disabled();
        Ok(Self {
            listens: Arc::new(listens),
            dials: Arc::new(dials),
        })
    }
}

/// Accepts whoever has a certificate that an authority has given for this use, whatever the name in it.
#[derive(Debug)]
struct OfAuthority {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for OfAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let cert = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &cert,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Links between nodes are in TLS: with what, and how that goes.
#[derive(Debug)]
pub struct NodeTls {
    /// What new connections are made with; those that are there keep theirs.
    certificates: Mutex<NodeCertificates>,
    /// Connections that did not come about, opened by others and from here.
    refused: AtomicU64,
    failed: AtomicU64,
    /// What was told of them; dialed from here or not, and why.
    refusals: Refusals<(bool, Fault)>,
}

impl NodeTls {
    /// Of a node that shows these.
    pub fn new(certificates: NodeCertificates) -> Self {
        Self {
            certificates: Mutex::new(certificates),
            refused: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            refusals: Refusals::default(),
        }
    }

    /// From now on it shows these.
    pub fn renew(&self, certificates: NodeCertificates) {
        *lock(&self.certificates) = certificates;
    }

    /// The machine of a connection that came to a port for nodes, or of a node that came to one for clients.
    pub(in crate::shard) fn of_client(&self) -> Result<ServerConnection, Error> {
        let config = lock(&self.certificates).listens.clone();
        ServerConnection::new(config)
    }

    /// The machine of a connection to another node.
    pub(in crate::shard) fn of_dialed(&self, to: SocketAddr) -> Result<ClientConnection, Error> {
        let config = lock(&self.certificates).dials.clone();
        // An address is no name that the other side is told.
        ClientConnection::new(config, ServerName::from(to.ip()))
    }

    /// Counts a connection that did not come about, and logs it unless there was such a one with the same
    /// machine of late. `detail` is what the library has to say.
    pub(in crate::shard) fn note(&self, peer: Peer, fault: Fault, detail: &str, now: Ms) {
        let (is_dialed, address) = match peer {
            Peer::Dialed(address) => (true, Some(address)),
            Peer::Came(address) => (false, address),
        };
        let (count, how) = match is_dialed {
            true => (&self.failed, "has failed"),
            false => (&self.refused, "is refused"),
        };
        count.fetch_add(1, Relaxed);
        let ip = machine(address.map(|address| address.ip()));
        let place = match (is_dialed, address) {
            (true, Some(address)) => address.to_string(),
            _ => ip.to_string(),
        };
        let detail = match detail {
            "" => String::new(),
            detail => format!(" ({detail})"),
        };
        let line = format!("TLS: the link with {place} {how}: {}{detail}", fault.text());
        self.refusals.note(ip, (is_dialed, fault), &line, "", now);
    }

    /// Connections that did not come about: those that others opened, those from here, and the last of them.
    pub(in crate::shard) fn counts(&self) -> (u64, u64, String) {
        let (refused, failed) = (self.refused.load(Relaxed), self.failed.load(Relaxed));
        (refused, failed, self.refusals.last())
    }
}

#[cfg(test)]
pub(in crate::shard) mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa,
        KeyPair, date_time_ymd,
    };
    use rustls::pki_types::PrivatePkcs8KeyDer;

    use super::*;

    /// An authority for certificates of nodes.
    pub struct Authority(CertifiedIssuer<'static, KeyPair>);

    impl Authority {
        pub fn new() -> Self {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().expect("there is chance");
            Self(CertifiedIssuer::self_signed(params, key).expect("it signs itself"))
        }

        /// What a node has that this authority knows, and that accepts those of another one.
        fn issue(&self, accepts: &Self, change: impl FnOnce(&mut CertificateParams)) -> NodeTls {
            let key = KeyPair::generate().expect("there is chance");
            let mut params = CertificateParams::new(["any name".into()]).expect("it is one");
            change(&mut params);
            let cert = params.signed_by(&key, &self.0).expect("it signs");
            let own = Own {
                chain: vec![cert.der().clone()],
                key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            };
            let mut roots = RootCertStore::empty();
            roots.add(accepts.0.der().clone()).expect("it is one");
            let certificates = NodeCertificates::new(own, Arc::new(roots));
            NodeTls::new(certificates.expect("they fit"))
        }

        pub fn node(&self) -> NodeTls {
            self.issue(self, |_| {})
        }

        pub fn node_that_accepts(&self, other: &Self) -> NodeTls {
            self.issue(other, |_| {})
        }

        pub fn expired_node(&self) -> NodeTls {
            self.issue(self, |params| {
                params.not_before = date_time_ymd(2001, 1, 1);
                params.not_after = date_time_ymd(2002, 1, 1);
            })
        }

        pub fn node_that_may_only(&self, usage: ExtendedKeyUsagePurpose) -> NodeTls {
            self.issue(self, |params| params.extended_key_usages = vec![usage])
        }
    }

    #[test]
    fn every_failure_counts() {
        let tls = Authority::new().node();
        for n in 0..200u8 {
            let from = Some(SocketAddr::from(([10, 0, 0, n], 7)));
            tls.note(Peer::Came(from), Fault::Plain, "", 5);
        }
        let to = SocketAddr::from(([10, 0, 0, 1], 7));
        tls.note(Peer::Dialed(to), Fault::Certificate, "UnknownIssuer", 6);
        let last = "TLS: the link with 10.0.0.1:7 has failed: its certificate is not accepted \
                    (UnknownIssuer)";
        assert_eq!(tls.counts(), (200, 1, last.to_string()));
    }

    #[test]
    fn what_is_missing_for_links_is_named() {
        let mut files = CertificateFiles::default();
        let told = |files: &CertificateFiles| files.read_for_nodes().expect_err("nothing is there");
        assert_eq!(told(&files), "No tls-cert-file configured!");
        files.cert = "no/such.crt".into();
        assert_eq!(told(&files), "No tls-key-file configured!");
        files.key = "no/such.key".into();
        // Whatever clients have to show.
        files.auth = Some(crate::shard::AuthClients::No);
        let want = "tls-ca-cert-file must be specified when tls-replication is enabled!";
        assert_eq!(told(&files), want);
        files.ca = "no/such.ca".into();
        let text = told(&files);
        assert!(text.starts_with("Failed to configure CA certificate(s) file: no/such.ca: "));
    }
}
