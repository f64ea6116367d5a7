//! TLS as `sslmode` asks for it, on rustls.
//!
//! Source: <https://www.postgresql.org/docs/current/libpq-ssl.html>.

use std::{io, path::Path, sync::Arc, time::Duration};

use aws_lc_rs::digest;
use chrono::{DateTime, NaiveDateTime, SecondsFormat, Utc};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::ParsedCertificate,
};
use stillpoint_contract::{Certificate, Error, ErrorKind, Result, code};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::config::{Config, SslMode};

/// Certificates and keys as their files have them, which others exchange at any time.
#[derive(Debug)]
pub(crate) struct Settings {
    provider: Arc<CryptoProvider>,
    roots: Option<Vec<CertificateDer<'static>>>,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl Settings {
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = config.ssl_root.as_deref().map(certificates).transpose()?;
        let identity = match (&config.ssl_cert, &config.ssl_key) {
            (None, _) => None,
            (Some(_), None) => return Err(bad("find the key of our certificate", "sslkey")),
            (Some(cert), Some(key)) => {
                let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| {
                    bad("read the key of our certificate", key.display()).caused_by(e)
                })?;
                Some((certificates(cert)?, secret))
            }
        };
        Ok(Self { provider, roots, identity })
    }

    /// Encrypts a connection; returns the server's channel binding too.
    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
        name: &str,
        mode: SslMode,
    ) -> Result<(TlsStream<TcpStream>, Option<Vec<u8>>)> {
        let server = ServerName::try_from(name.to_owned())
            .map_err(|e| bad("name the server in TLS", name).caused_by(e))?;
        let connector = TlsConnector::from(Arc::new(self.client(mode)?));
        let stream = connector.connect(server, stream).await;
        let stream = stream.map_err(|cause| refused(name, cause))?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let binding = certificate.and_then(|certificate| end_point(certificate));
        Ok((stream, binding))
    }

    fn client(&self, mode: SslMode) -> Result<ClientConfig> {
        // With an authority at hand, libpq verifies also where only encryption is asked for.
        let mode = match mode {
            SslMode::Require if self.roots.is_some() => SslMode::VerifyCa,
            mode => mode,
        };
        let inner = match mode {
            SslMode::VerifyCa | SslMode::VerifyFull => Some(self.verifier()?),
            _ => None,
        };
        let verifier = Verifier {
            provider: Arc::clone(&self.provider),
            inner,
            roots: self.roots.clone().unwrap_or_default(),
            checks_name: mode == SslMode::VerifyFull,
        };
        let failed = |e: rustls::Error| bad("prepare TLS", "").caused_by(e);
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        match &self.identity {
            None => Ok(builder.with_no_client_auth()),
            Some((chain, key)) => {
                builder.with_client_auth_cert(chain.clone(), key.clone_key()).map_err(failed)
            }
        }
    }

    fn verifier(&self) -> Result<Arc<WebPkiServerVerifier>> {
        let mut store = RootCertStore::empty();
        match &self.roots {
            Some(roots) => store.add_parsable_certificates(roots.iter().cloned()),
            None => store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
        };
        let provider = Arc::clone(&self.provider);
        WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider).build().map_err(
            |e| {
                bad("find certificates to trust", "sslrootcert")
                    .caused_by(e)
                    .next("name the server's authority: sslrootcert=FILE")
            },
        )
    }
}

fn refused(name: &str, cause: io::Error) -> Error {
    let of_server = match cause.get_ref().and_then(|cause| cause.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext {
            not_after,
            ..
        })) => DateTime::from_timestamp(not_after.as_secs().cast_signed(), 0),
        _ => None,
    };
    let error =
        Error::new(ErrorKind::Refused, code::NO_DATABASE, "establish TLS").with("server", name);
    match of_server {
        Some(at) => error
            .why(format!("the server's certificate was valid until {}", instant(at)))
            .next("renew it there: ssl_cert_file, then SELECT pg_reload_conf()"),
        None => error
            .why("the server's certificate or its TLS does not satisfy sslmode")
            .next("trust its authority: sslrootcert=FILE")
            .next("or verify less: sslmode=verify-ca, sslmode=require"),
    }
    .caused_by(cause)
}

/// Names files of ours with certificates that are no longer valid: one of them may be why.
pub(crate) fn explained(error: Error, config: &Config, now: DateTime<Utc>) -> Error {
    let old = ends(config).unwrap_or_default().into_iter().filter(|one| one.ends_at < now);
    old.fold(error, |error, one| {
        let file = one.file.display();
        error.with("certificate", format!("{file} was valid until {}", instant(one.ends_at)))
    })
}

/// An instant, as people are told of it.
pub(crate) fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Until when the certificates in the files of a configuration are valid: of several in one file,
/// the first to end.
pub(crate) fn ends(config: &Config) -> Result<Vec<Certificate>> {
    let mut found = Vec::new();
    for file in [&config.ssl_root, &config.ssl_cert].into_iter().flatten() {
        let ends = certificates(file)?.iter().filter_map(|one| end(one)).min();
        found.extend(ends.map(|ends_at| Certificate { file: file.clone(), ends_at }));
    }
    Ok(found)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let failed = |e| bad("read certificates", path.display()).caused_by(e);
    let found = CertificateDer::pem_file_iter(path).map_err(failed)?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(failed)?;
    if found.is_empty() { Err(bad("find a certificate", path.display())) } else { Ok(found) }
}

fn bad(step: &'static str, what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Config, code::FILE, step).with("given", what)
}

/// Verifies as much as the mode asks for.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    inner: Option<Arc<WebPkiServerVerifier>>,
    roots: Vec<CertificateDer<'static>>,
    checks_name: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(inner) = &self.inner else { return Ok(ServerCertVerified::assertion()) };
        // A certificate that signed itself and is trusted by name needs no chain.
        if self.roots.iter().any(|root| root.as_ref() == end_entity.as_ref()) {
            if self.checks_name {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        let verified =
            inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.checks_name => Ok(ServerCertVerified::assertion()),
            Err(rustls::Error::InvalidCertificate(CertificateError::Expired)) => {
                Err(expired(end_entity, now).into())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// When a certificate ended that ended before it began, of which rustls does not say it.
fn expired(certificate: &[u8], time: UnixTime) -> CertificateError {
    let Some(end) = end(certificate) else { return CertificateError::Expired };
    let seconds = end.timestamp().max(0).unsigned_abs();
    let not_after = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    CertificateError::ExpiredContext { time, not_after }
}

/// The hash of a certificate that `tls-server-end-point` stands for: that of its own signature, or
/// SHA-256 in place of weaker ones. `None` for signatures without a hash of their own.
///
/// Source: RFC 5929, section 4.1.
fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let algorithm = match signature_oid(certificate)? {
        // PKCS #1: md5, sha1, sha256; ECDSA: sha1, sha256.
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x04 | 0x05 | 0x0b]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02] => &digest::SHA256,
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03] => &digest::SHA384,
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04] => &digest::SHA512,
        _ => return None,
    };
    Some(digest::digest(algorithm, certificate).as_ref().to_vec())
}

/// Until when a certificate is valid.
///
/// Source: RFC 5280, section 4.1.
fn end(certificate: &[u8]) -> Option<DateTime<Utc>> {
    const SEQUENCE: u8 = 0x30;
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (mut fields, _) = element(certificate, SEQUENCE)?;
    if let Some((_, rest)) = element(fields, 0xa0) {
        fields = rest;
    }
    for tag in [0x02, SEQUENCE, SEQUENCE] {
        fields = element(fields, tag)?.1;
    }
    let (validity, _) = element(fields, SEQUENCE)?;
    let time = |der| {
        let short = element(der, 0x17).map(|(text, rest)| (text, rest, true));
        short.or_else(|| element(der, 0x18).map(|(text, rest)| (text, rest, false)))
    };
    let (_, after, _) = time(validity)?;
    let (text, _, is_short) = time(after)?;
    let text = std::str::from_utf8(text).ok()?;
    // Years of two digits end in 2049.
    let century = match (is_short, text.as_bytes().first()?) {
        (false, _) => "",
        (true, b'0'..=b'4') => "20",
        (true, _) => "19",
    };
    let time = NaiveDateTime::parse_from_str(&format!("{century}{text}"), "%Y%m%d%H%M%SZ");
    Some(time.ok()?.and_utc())
}

/// The object identifier of a certificate's signature algorithm.
fn signature_oid(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = element(certificate, 0x30)?;
    let (_, after) = element(certificate, 0x30)?;
    let (algorithm, _) = element(after, 0x30)?;
    Some(element(algorithm, 0x06)?.0)
}

/// One DER element of the given tag: its content, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let digits =
            rest.get(..usize::from(first & 0x7f)).filter(|d| (1..=4).contains(&d.len()))?;
        let length = digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit));
        (length, rest.get(digits.len()..)?)
    };
    (found == tag).then_some(())?;
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_algorithm_is_found_and_damage_is_none() {
        let oid = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
        let mut certificate = vec![0x30, 0x81, 16, 0x30, 0x02, 0x05, 0x00, 0x30, 0x0a];
        certificate.extend(oid);
        certificate.extend([0x03, 0x00]);
        certificate[2] = (certificate.len() - 3) as u8;
        assert_eq!(signature_oid(&certificate), Some(&oid[2..]));
        assert_eq!(end_point(&certificate).map(|hash| hash.len()), Some(48));
        for end in 0..certificate.len() - 2 {
            assert_eq!(end_point(&certificate[..end]), None, "{end}");
        }
    }

    #[test]
    fn the_end_of_a_certificate_is_found_in_both_forms_and_damage_is_none() {
        let wrap = |tag: u8, content: &[u8]| [&[tag, content.len() as u8], content].concat();
        let certificate = |version: &[u8], after: &[u8]| {
            let before = wrap(0x17, b"200101000000Z");
            let fields = [
                version,
                &[0x02, 0x01, 0x07, 0x30, 0x00, 0x30, 0x00],
                &wrap(0x30, &[&before, after].concat()),
            ];
            wrap(0x30, &wrap(0x30, &fields.concat()))
        };
        let version = wrap(0xa0, &[0x02, 0x01, 0x02]);
        let short = wrap(0x17, b"491231235959Z");
        for (der, expected) in [
            (certificate(&version, &short), "2049-12-31T23:59:59Z"),
            (certificate(&[], &wrap(0x17, b"500101000000Z")), "1950-01-01T00:00:00Z"),
            (certificate(&version, &wrap(0x18, b"20500101000000Z")), "2050-01-01T00:00:00Z"),
        ] {
            assert_eq!(end(&der), Some(expected.parse().unwrap()), "{expected}");
            for length in 0..der.len() {
                assert_eq!(end(&der[..length]), None, "{expected}, {length}");
            }
        }
        assert_eq!(end(&certificate(&version, &wrap(0x18, b"soon"))), None);
        assert_eq!(end(&certificate(&version, &[])), None);
    }
}
