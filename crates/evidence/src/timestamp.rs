//! Timestamps of checkpoints by an authority of somebody else: RFC 3161 with RFC 5816.
//!
//! A token is taken for nothing until [`verify`] has checked all of it: the authority's status, the hash of
//! what was stamped, the nonce, the signature over the signed attributes, the certificate that they name,
//! its one purpose, and the chain to roots that the verifier chose, at the time that the token states.
//!
//! Out of scope: sending requests (crate `cli`); revocation of the authority's certificates, for which an
//! offline check has no source.

mod asn1;
mod folder;
mod signed;

use aws_lc_rs::digest;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use thiserror::Error;
use webpki::anchor_from_trusted_cert;
use x509_cert::der::{Decode as _, Encode as _};

pub(crate) use folder::sizes;
pub use folder::stamped_size;
pub use folder::{FOLDER, Stamped, check_folder, token_path};

use asn1::{Imprint, TimeStampReq, TimeStampResp, TstInfo};

/// Size limit of an authority's answer, in bytes.
pub const RESPONSE_BYTES_MAX: usize = 64 * 1024;
/// Size limit of a file with roots, in bytes.
pub const ROOTS_BYTES_MAX: usize = 1 << 20;

/// Why something is no timestamp.
#[derive(Debug, Error)]
pub enum TimestampError {
    /// It has too many bytes.
    #[error("the answer has more than {RESPONSE_BYTES_MAX} bytes")]
    TooLarge,
    /// It is not encoded as the specifications say.
    #[error("{0} is not encoded as RFC 3161 says: {1}")]
    Encoding(&'static str, x509_cert::der::Error),
    /// The authority gave no timestamp.
    #[error("the authority refused, with status {status}: {text}")]
    Refused {
        /// `PKIStatus`, RFC 3161 section 2.4.2.
        status: u8,
        /// What it said, if anything.
        text: String,
    },
    /// The roots cannot be used.
    #[error("the file of roots has no certificates that can be used: {0}")]
    Roots(String),
    /// Something in it does not hold.
    #[error("{0}")]
    Invalid(&'static str),
    /// The certificates do not lead to a root.
    #[error("the authority's certificate is not trusted at the time of the timestamp: {0}")]
    Chain(webpki::Error),
}

/// What a token proves: that something existed at a time.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Timestamp {
    /// When, in Unix milliseconds.
    pub time_ms: i64,
    /// How far off the authority's clock may be, in milliseconds, if it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy_ms: Option<u64>,
    /// The subject of the authority's certificate.
    pub authority: String,
    /// The authority's number of the token, in hexadecimal.
    pub serial: String,
    /// The policy under which it was given, an object identifier.
    pub policy: String,
}

/// The roots that a verifier trusts for timestamps, and for nothing else.
#[derive(Clone, Debug)]
pub struct Roots(Vec<TrustAnchor<'static>>);

impl Roots {
    /// Reads certificates in PEM, one or more.
    ///
    /// # Errors
    /// [`TimestampError::Roots`].
    pub fn parse(pem: &[u8]) -> Result<Self, TimestampError> {
        let bad = |error: &dyn std::fmt::Display| TimestampError::Roots(error.to_string());
        if pem.len() > ROOTS_BYTES_MAX {
            return Err(bad(&format!("it has more than {ROOTS_BYTES_MAX} bytes")));
        }
        let anchors = CertificateDer::pem_slice_iter(pem).map(|certificate| {
            let der = certificate.map_err(|error| bad(&error))?;
            Ok(anchor_from_trusted_cert(&der).map_err(|error| bad(&error))?.to_owned())
        });
        let anchors = anchors.collect::<Result<Vec<_>, TimestampError>>()?;
        if anchors.is_empty() { Err(bad(&"there are none")) } else { Ok(Self(anchors)) }
    }
}

/// Encodes a request to stamp these bytes by their SHA-256, with the authority's certificates in the answer
/// (RFC 3161 section 2.4.1).
///
/// # Errors
/// [`TimestampError::Encoding`], which does not happen.
pub fn request(stamped: &[u8], nonce: u64) -> Result<Vec<u8>, TimestampError> {
    let request = TimeStampReq::new(sha256(stamped), nonce).map_err(at("the request"))?;
    request.to_der().map_err(at("the request"))
}

/// Checks an authority's answer, a `TimeStampResp`, about these bytes; the nonce is that of the request, if
/// one is at hand.
///
/// # Errors
/// [`TimestampError`]: nothing is proven then.
pub fn verify(
    response: &[u8],
    stamped: &[u8],
    nonce: Option<u64>,
    roots: &Roots,
) -> Result<Timestamp, TimestampError> {
    if response.len() > RESPONSE_BYTES_MAX {
        return Err(TimestampError::TooLarge);
    }
    let response = TimeStampResp::from_der(response).map_err(at("the answer"))?;
    let token = response.token()?;
    let (content, signer) = signed::open(token)?;
    let info = TstInfo::from_der(&content).map_err(at("the timestamp"))?;
    if info.version != 1 {
        return Err(TimestampError::Invalid("the timestamp is of another version than 1"));
    }
    if info.has_critical_extension() {
        return Err(TimestampError::Invalid("the timestamp has a critical extension"));
    }
    if info.message_imprint != Imprint::new(sha256(stamped)).map_err(at("the imprint"))? {
        return Err(TimestampError::Invalid("it stamps something else: the imprint differs"));
    }
    if let Some(nonce) = nonce
        && info.nonce != Some(asn1::integer(nonce).map_err(at("the nonce"))?)
    {
        return Err(TimestampError::Invalid("it answers another request: the nonce differs"));
    }
    let time = info.time()?;
    signer.trusted(&roots.0, time)?;
    Ok(Timestamp {
        time_ms: i64::try_from(time.as_millis())
            .map_err(|_| TimestampError::Invalid("the time is too far away"))?,
        accuracy_ms: info.accuracy.map(|accuracy| accuracy.ms()),
        authority: signer.name(),
        serial: info.serial_number.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect(),
        policy: info.policy.to_string(),
    })
}

fn at(what: &'static str) -> impl Fn(x509_cert::der::Error) -> TimestampError {
    move |error| TimestampError::Encoding(what, error)
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes).as_ref().to_vec()
}
