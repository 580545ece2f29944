//! TLS of `SSL_GET`. As keepalived has it, certificates are not looked at, unless `verify` says so.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, version,
};
use tokio_rustls::{TlsConnector, rustls};

use super::net::Trouble;
use crate::agent::config::model::Tls;

/// Makes TLS connections. Files are read with the first one, and again until they can be read.
pub struct Connector {
    how: Tls,
    config: Option<Arc<ClientConfig>>,
}

impl Connector {
    /// In this manner.
    pub fn new(how: Tls) -> Self {
        Self { how, config: None }
    }

    /// Over this connection, to a host of this name if it has one.
    pub async fn connect(
        &mut self,
        host: Option<&str>,
        addr: IpAddr,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, Trouble> {
        let config = match &self.config {
            Some(config) => config.clone(),
            None => self.config.insert(Arc::new(config(&self.how).map_err(Trouble::Local)?)).clone(),
        };
        let name = self.how.sni_name.as_deref().or(host).map(without_port);
        let name = match name.map(|name| ServerName::try_from(name.to_owned())) {
            Some(Ok(name)) => name,
            _ => ServerName::from(addr),
        };
        let connecting = TlsConnector::from(config).connect(name, stream);
        connecting.await.map_err(|error| Trouble::Server(format!("TLS: {error}")))
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn config(how: &Tls) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|error| error.to_string())?;
    let builder = if how.verify {
        builder.with_root_certificates(roots(how.ca.as_deref())?)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider)))
    };
    let mut config = match &how.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| of_file(key, &error))?;
            builder
                .with_client_auth_cert(certificates(certificate)?, key)
                .map_err(|error| error.to_string())?
        }
    };
    config.enable_sni = how.sni;
    Ok(config)
}

fn of_file(file: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{}: {error}", file.display())
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = fs::read(file).map_err(|error| of_file(file, &error))?;
    CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|error| of_file(file, &error))
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let found = match ca {
        Some(file) => certificates(file)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found);
    if added == 0 {
        Err("there are no authorities to verify certificates with".to_owned())
    } else {
        Ok(roots)
    }
}

/// Takes any certificate, as long as whoever shows it has its key.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;

    use super::*;

    /// Connects to a server with a certificate of its own for `a.example`; the name it was asked for.
    async fn connects(how: Tls, host: &str) -> Result<Option<String>, String> {
        let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        fs::write(&ca, made.cert.pem()).unwrap();
        let how = Tls { ca: how.ca.map(|_| ca), ..how };
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let to = listener.local_addr().unwrap();
        let accepts = async {
            let (stream, _) = listener.accept().await.unwrap();
            let stream = TlsAcceptor::from(Arc::new(server)).accept(stream).await.ok()?;
            stream.get_ref().1.server_name().map(str::to_owned)
        };
        let mut connector = Connector::new(how);
        let connecting = async {
            let stream = TcpStream::connect(to).await.unwrap();
            connector.connect(Some(host), to.ip(), stream).await
        };
        match tokio::join!(accepts, connecting) {
            (asked, Ok(_)) => Ok(asked),
            (_, Err(Trouble::Server(why) | Trouble::Local(why))) => Err(why),
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn certificates_count_where_it_says_so() {
        let plain = Tls::default();
        assert_eq!(connects(plain.clone(), "b.example").await, Ok(None));
        let sni = Tls { sni: true, ..plain.clone() };
        assert_eq!(connects(sni.clone(), "b.example:443").await, Ok(Some("b.example".to_owned())));
        let named = Tls { sni_name: Some("c.example".to_owned()), ..sni };
        assert_eq!(connects(named, "b.example").await, Ok(Some("c.example".to_owned())));
        // Where it stands is filled in above.
        let verify = Tls { verify: true, ca: Some("own".into()), ..plain };
        assert_eq!(connects(verify.clone(), "a.example").await, Ok(None));
        let why = connects(verify.clone(), "b.example").await.unwrap_err();
        assert!(why.contains("certificate"), "{why}");
        let strangers = Tls { ca: None, ..verify };
        assert!(connects(strangers, "a.example").await.is_err());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_file_that_is_not_there_is_our_own_fault() {
        let how = Tls { verify: true, ca: Some("/no/such/ca.pem".into()), ..Tls::default() };
        assert_eq!(config(&how).unwrap_err(), "/no/such/ca.pem: No such file or directory (os error 2)");
    }
}
