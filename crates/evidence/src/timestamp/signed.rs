//! The signature of a token: CMS `SignedData` (RFC 5652) with one signer, as RFC 3161 section 2.4.2 and
//! RFC 5816 want it.

use std::time::Duration;

use aws_lc_rs::digest;
use cms::cert::{CertificateChoices, IssuerAndSerialNumber};
use cms::content_info::ContentInfo;
use cms::signed_data::{SignedData, SignerIdentifier, SignerInfo};
use der::asn1::{Any, ObjectIdentifier, OctetString};
use der::{Decode as _, Encode as _, Sequence};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage};
use x509_cert::Certificate;
use x509_cert::attr::Attributes;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{ExtendedKeyUsage, SubjectKeyIdentifier};
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::AlgorithmIdentifierOwned;

use super::asn1::SHA256;
use super::{TimestampError, at};

const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const TST_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.4");
const CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");
/// `id-aa-signingCertificate`, RFC 2634: by SHA-1.
const SIGNING_CERTIFICATE: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.2.12");
/// `id-aa-signingCertificateV2`, RFC 5035.
const SIGNING_CERTIFICATE_V2: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.2.47");
const SHA1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
const SUBJECT_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.14");
const TIME_STAMPING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.8");
/// The contents of [`TIME_STAMPING`].
const TIME_STAMPING_BYTES: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 8];

/// Whoever signed a token, by a certificate that nobody has checked yet.
pub(super) struct Signer {
    certificate: Certificate,
    others: Vec<CertificateDer<'static>>,
}

/// `SigningCertificate` or `SigningCertificateV2`; the first is the signer's.
#[derive(Clone, Debug, Sequence)]
struct SigningCertificate {
    certs: Vec<Any>,
    #[asn1(optional = "true")]
    policies: Option<Vec<Any>>,
}

/// `ESSCertID`, RFC 2634 section 5.4.1.
#[derive(Clone, Debug, Sequence)]
struct CertId {
    hash: OctetString,
    #[asn1(optional = "true")]
    issuer_serial: Option<IssuerSerial>,
}

/// `ESSCertIDv2`, RFC 5035 section 4: by SHA-256 unless it says otherwise.
#[derive(Clone, Debug, Sequence)]
struct CertIdV2 {
    #[asn1(optional = "true")]
    algorithm: Option<AlgorithmIdentifierOwned>,
    hash: OctetString,
    #[asn1(optional = "true")]
    issuer_serial: Option<IssuerSerial>,
}

#[derive(Clone, Debug, Sequence)]
struct IssuerSerial {
    issuer: Vec<GeneralName>,
    serial: SerialNumber,
}

/// Opens a token: returns what is signed, and the signer whose key signed it.
pub(super) fn open(token: &ContentInfo) -> Result<(Vec<u8>, Signer), TimestampError> {
    const WHAT: &str = "the token";
    if token.content_type != SIGNED_DATA {
        return Err(TimestampError::Invalid("the token is not signed data"));
    }
    let signed: SignedData = token.content.decode_as().map_err(at(WHAT))?;
    let content = match &signed.encap_content_info.econtent {
        Some(content) if signed.encap_content_info.econtent_type == TST_INFO => content,
        _ => return Err(TimestampError::Invalid("what is signed is not a timestamp")),
    };
    let content: OctetString = content.decode_as().map_err(at(WHAT))?;
    let [info] = signed.signer_infos.0.as_slice() else {
        return Err(TimestampError::Invalid("the token has not one signer"));
    };
    let signer = Signer::find(&signed, &info.sid)?;
    let attributes = info.signed_attrs.as_ref();
    let attributes = attributes.ok_or(TimestampError::Invalid("no attributes are signed"))?;
    check_attributes(attributes, content.as_bytes(), &info.digest_alg.oid)?;
    signer.is_named_by(attributes)?;
    signer.signed(info, &attributes.to_der().map_err(at(WHAT))?)?;
    Ok((content.into_bytes(), signer))
}

/// Checks that the signed attributes are about this content (RFC 5652 section 11).
fn check_attributes(
    attributes: &Attributes,
    content: &[u8],
    algorithm: &ObjectIdentifier,
) -> Result<(), TimestampError> {
    let kind: ObjectIdentifier = single(attributes, &CONTENT_TYPE)?
        .ok_or(TimestampError::Invalid("the signed attributes have no content type"))?;
    let digest: OctetString = single(attributes, &MESSAGE_DIGEST)?
        .ok_or(TimestampError::Invalid("the signed attributes have no message digest"))?;
    if kind != TST_INFO {
        return Err(TimestampError::Invalid("the signed attributes are of other content"));
    }
    if *algorithm == SHA1 || hash(algorithm, content)? != digest.as_bytes() {
        return Err(TimestampError::Invalid("the signed digest is not that of the timestamp"));
    }
    Ok(())
}

/// Decodes the only value of an attribute that is there at most once.
fn single<T: for<'a> der::Decode<'a>>(
    attributes: &Attributes,
    oid: &ObjectIdentifier,
) -> Result<Option<T>, TimestampError> {
    let mut found = attributes.iter().filter(|attribute| attribute.oid == *oid);
    let (Some(attribute), None) = (found.next(), found.next()) else {
        let twice = attributes.iter().any(|attribute| attribute.oid == *oid);
        let error = TimestampError::Invalid("a signed attribute is there twice");
        return if twice { Err(error) } else { Ok(None) };
    };
    let [value] = attribute.values.as_slice() else {
        return Err(TimestampError::Invalid("a signed attribute has not one value"));
    };
    let value = value.to_der().and_then(|der| T::from_der(&der));
    value.map(Some).map_err(at("a signed attribute"))
}

fn hash(algorithm: &ObjectIdentifier, bytes: &[u8]) -> Result<Vec<u8>, TimestampError> {
    let algorithm = match *algorithm {
        SHA1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        SHA256 => &digest::SHA256,
        SHA384 => &digest::SHA384,
        SHA512 => &digest::SHA512,
        _ => return Err(TimestampError::Invalid("its hash algorithm is none of the SHA-2 family")),
    };
    Ok(digest::digest(algorithm, bytes).as_ref().to_vec())
}

impl Signer {
    /// Finds the certificate of the signer among those that came along.
    fn find(signed: &SignedData, sid: &SignerIdentifier) -> Result<Self, TimestampError> {
        let sets = signed.certificates.iter().flat_map(|set| set.0.iter());
        let certificates: Vec<&Certificate> = sets
            .filter_map(|choice| match choice {
                CertificateChoices::Certificate(certificate) => Some(certificate),
                CertificateChoices::Other(_) => None,
            })
            .collect();
        let found = certificates.iter().find(|certificate| is_meant(sid, certificate));
        let missing = TimestampError::Invalid("the certificate of the signer is not in the token");
        let certificate = (*found.ok_or(missing)?).clone();
        let der = |one: &&Certificate| Ok(CertificateDer::from(one.to_der()?));
        let others = certificates.iter().map(der).collect::<der::Result<_>>();
        Ok(Self { certificate, others: others.map_err(at("a certificate"))? })
    }

    fn der(&self) -> Result<CertificateDer<'static>, TimestampError> {
        Ok(CertificateDer::from(self.certificate.to_der().map_err(at("a certificate"))?))
    }

    /// Checks that the signed attributes name this very certificate.
    fn is_named_by(&self, attributes: &Attributes) -> Result<(), TimestampError> {
        let (algorithm, digest, issuer_serial) = named(attributes)?;
        let other = TimestampError::Invalid("the signed attributes name another certificate");
        if hash(&algorithm, &self.der()?)? != digest.as_bytes() {
            return Err(other);
        }
        let of = &self.certificate.tbs_certificate;
        let issuer = GeneralName::DirectoryName(of.issuer.clone());
        match issuer_serial {
            Some(named) if named.serial != of.serial_number || named.issuer != [issuer] => {
                Err(other)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Checks the signature over the signed attributes.
    fn signed(&self, info: &SignerInfo, attributes: &[u8]) -> Result<(), TimestampError> {
        let der = self.der()?;
        let key = EndEntityCert::try_from(&der).map_err(TimestampError::Chain)?;
        let wanted = signature_algorithm(info)?;
        let mut candidates = ALL_VERIFICATION_ALGS
            .iter()
            .filter(|algorithm| algorithm.signature_alg_id().as_ref() == wanted);
        let signature = info.signature.as_bytes();
        // One of them is for the curve, or for the kind of key, that the certificate has.
        if candidates.any(|one| key.verify_signature(*one, attributes, signature).is_ok()) {
            return Ok(());
        }
        Err(TimestampError::Invalid("the signature is not that of the authority's certificate"))
    }

    /// Checks that the certificate is for timestamps alone, and leads to a root at this time.
    pub(super) fn trusted(
        &self,
        roots: &[TrustAnchor<'static>],
        time: Duration,
    ) -> Result<(), TimestampError> {
        let usage = extension(&self.certificate, &EXTENDED_KEY_USAGE)
            .filter(|(critical, _)| *critical)
            .and_then(|(_, value)| ExtendedKeyUsage::from_der(value).ok());
        if usage.is_none_or(|usage| usage.0 != [TIME_STAMPING]) {
            let reason = "the authority's certificate is not for timestamps alone (RFC 3161, 2.3)";
            return Err(TimestampError::Invalid(reason));
        }
        let der = self.der()?;
        let end = EndEntityCert::try_from(&der).map_err(TimestampError::Chain)?;
        // Authorities above it need not say what they are for.
        let usage = KeyUsage::required_if_present(TIME_STAMPING_BYTES);
        let time = UnixTime::since_unix_epoch(time);
        end.verify_for_usage(ALL_VERIFICATION_ALGS, roots, &self.others, time, usage, None, None)
            .map(drop)
            .map_err(TimestampError::Chain)
    }

    /// Returns the subject of the certificate.
    pub(super) fn name(&self) -> String {
        self.certificate.tbs_certificate.subject.to_string()
    }
}

/// Returns the hash of the signer's certificate that is signed, with its algorithm, and its issuer and
/// number, if they are there.
fn named(
    attributes: &Attributes,
) -> Result<(ObjectIdentifier, OctetString, Option<IssuerSerial>), TimestampError> {
    let first = |list: SigningCertificate| {
        let none = TimestampError::Invalid("no certificate is signed");
        list.certs.into_iter().next().ok_or(none)
    };
    const WHAT: &str = "the signed name of the certificate";
    if let Some(list) = single(attributes, &SIGNING_CERTIFICATE_V2)? {
        let id: CertIdV2 = first(list)?.decode_as().map_err(at(WHAT))?;
        let algorithm = id.algorithm.map_or(SHA256, |algorithm| algorithm.oid);
        return Ok((algorithm, id.hash, id.issuer_serial));
    }
    let list = single(attributes, &SIGNING_CERTIFICATE)?;
    let none = TimestampError::Invalid("the signed attributes name no certificate");
    let id: CertId = first(list.ok_or(none)?)?.decode_as().map_err(at(WHAT))?;
    Ok((SHA1, id.hash, id.issuer_serial))
}

/// Returns whether a certificate is the one that the identifier means.
fn is_meant(sid: &SignerIdentifier, certificate: &Certificate) -> bool {
    let of = &certificate.tbs_certificate;
    match sid {
        SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber {
            issuer,
            serial_number,
        }) => *issuer == of.issuer && *serial_number == of.serial_number,
        SignerIdentifier::SubjectKeyIdentifier(id) => extension(certificate, &SUBJECT_KEY)
            .and_then(|(_, value)| SubjectKeyIdentifier::from_der(value).ok())
            .is_some_and(|own| own == *id),
    }
}

/// Returns an extension that is there once: whether it is critical, and its value.
fn extension<'a>(certificate: &'a Certificate, oid: &ObjectIdentifier) -> Option<(bool, &'a [u8])> {
    let extensions = certificate.tbs_certificate.extensions.iter().flatten();
    let mut found = extensions.filter(|extension| extension.extn_id == *oid);
    let extension = found.next().filter(|_| found.next().is_none())?;
    Some((extension.critical, extension.extn_value.as_bytes()))
}

/// Returns the contents of the `AlgorithmIdentifier` of the signature; a bare RSA takes the hash from beside it.
fn signature_algorithm(info: &SignerInfo) -> Result<Vec<u8>, TimestampError> {
    let mut algorithm = info.signature_algorithm.clone();
    if algorithm.oid == RSA {
        let hash = match info.digest_alg.oid {
            SHA256 => "1.2.840.113549.1.1.11",
            SHA384 => "1.2.840.113549.1.1.12",
            SHA512 => "1.2.840.113549.1.1.13",
            _ => {
                return Err(TimestampError::Invalid(
                    "its hash algorithm is none of the SHA-2 family",
                ));
            }
        };
        let oid = ObjectIdentifier::new_unwrap(hash);
        algorithm = AlgorithmIdentifierOwned { oid, parameters: Some(Any::null()) };
    }
    let encoded = algorithm.oid.to_der().and_then(|mut bytes| {
        bytes.extend(algorithm.parameters.map_or_else(|| Ok(Vec::new()), |any| any.to_der())?);
        Ok(bytes)
    });
    encoded.map_err(at("the signature's algorithm"))
}
