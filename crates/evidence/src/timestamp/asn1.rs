//! The structures of RFC 3161 section 2.4, as far as they are used.

use std::time::Duration;

use cms::content_info::ContentInfo;
use der::asn1::{Any, BitString, Int, ObjectIdentifier, OctetString};
use der::{DateTime, Sequence, Tag, Tagged as _};
use x509_cert::ext::Extensions;
use x509_cert::spki::AlgorithmIdentifierOwned;

use super::TimestampError;

/// SHA-256, RFC 5754 section 2.
pub(super) const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");

/// `PKIStatus` of an answer with a token.
const GRANTED: [u8; 2] = [0, 1];

/// `MessageImprint`: an algorithm and the hash of what is stamped.
#[derive(Clone, Debug, Eq, Sequence)]
pub(super) struct Imprint {
    algorithm: AlgorithmIdentifierOwned,
    hash: OctetString,
}

impl Imprint {
    pub(super) fn new(sha256: Vec<u8>) -> der::Result<Self> {
        let algorithm = AlgorithmIdentifierOwned { oid: SHA256, parameters: None };
        Ok(Self { algorithm, hash: OctetString::new(sha256)? })
    }
}

/// Equal hashes of the same algorithm; absent parameters and NULL are the same (RFC 5754 section 2).
impl PartialEq for Imprint {
    fn eq(&self, other: &Self) -> bool {
        let plain = |one: &Self| one.algorithm.parameters.as_ref().is_none_or(Any::is_null);
        self.algorithm.oid == other.algorithm.oid
            && plain(self)
            && plain(other)
            && self.hash == other.hash
    }
}

/// `TimeStampReq`.
#[derive(Clone, Debug, Sequence)]
pub(super) struct TimeStampReq {
    version: u8,
    message_imprint: Imprint,
    nonce: Int,
    cert_req: bool,
}

impl TimeStampReq {
    pub(super) fn new(sha256: Vec<u8>, nonce: u64) -> der::Result<Self> {
        let message_imprint = Imprint::new(sha256)?;
        Ok(Self { version: 1, message_imprint, nonce: integer(nonce)?, cert_req: true })
    }
}

/// Encodes a number that is not negative in as few bytes as there can be.
pub(super) fn integer(number: u64) -> der::Result<Int> {
    let bytes = number.to_be_bytes();
    let zeros = bytes.iter().take(7).take_while(|byte| **byte == 0).count();
    let bytes = bytes.get(zeros..).unwrap_or_default();
    // A first bit that is set would be a sign.
    let sign: &[u8] = if bytes.first().is_some_and(|first| *first > 0x7f) { &[0] } else { &[] };
    Int::new(&[sign, bytes].concat())
}

/// `TimeStampResp`.
#[derive(Clone, Debug, Sequence)]
pub(super) struct TimeStampResp {
    status: PkiStatusInfo,
    #[asn1(optional = "true")]
    token: Option<ContentInfo>,
}

#[derive(Clone, Debug, Sequence)]
struct PkiStatusInfo {
    status: u8,
    #[asn1(optional = "true")]
    text: Option<Vec<String>>,
    #[asn1(optional = "true")]
    fail_info: Option<BitString>,
}

impl TimeStampResp {
    /// Returns the token, if the authority granted one.
    pub(super) fn token(&self) -> Result<&ContentInfo, TimestampError> {
        let status = self.status.status;
        match &self.token {
            Some(token) if GRANTED.contains(&status) => Ok(token),
            _ => {
                let text = self.status.text.iter().flatten().map(|text| crate::shown(text));
                let text = text.collect::<Vec<_>>().join("; ");
                Err(TimestampError::Refused { status, text: crate::cut(&text, 200) })
            }
        }
    }
}

/// `TSTInfo`: what the authority signs.
#[derive(Clone, Debug, Sequence)]
pub(super) struct TstInfo {
    pub(super) version: u8,
    pub(super) policy: ObjectIdentifier,
    pub(super) message_imprint: Imprint,
    pub(super) serial_number: Int,
    /// A `GeneralizedTime` that may have a fraction of a second, which DER forbids elsewhere.
    gen_time: Any,
    #[asn1(optional = "true")]
    pub(super) accuracy: Option<Accuracy>,
    #[asn1(default = "Default::default")]
    ordering: bool,
    #[asn1(optional = "true")]
    pub(super) nonce: Option<Int>,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    tsa: Option<Any>,
    #[asn1(context_specific = "1", tag_mode = "IMPLICIT", optional = "true")]
    extensions: Option<Extensions>,
}

impl TstInfo {
    /// Returns whether it has an extension that a verifier must understand; this one understands none.
    pub(super) fn has_critical_extension(&self) -> bool {
        self.extensions.iter().flatten().any(|extension| extension.critical)
    }

    /// Returns the time since 1970.
    pub(super) fn time(&self) -> Result<Duration, TimestampError> {
        let bad = TimestampError::Invalid("its time is not written as RFC 3161 section 2.4.2 says");
        if self.gen_time.tag() != Tag::GeneralizedTime {
            return Err(bad);
        }
        read_time(self.gen_time.value()).ok_or(bad)
    }
}

/// Reads `YYYYMMDDhhmmss[.s…]Z`.
fn read_time(text: &[u8]) -> Option<Duration> {
    let text = str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (whole, fraction) = text.split_once('.').map_or((text, None), |(a, b)| (a, Some(b)));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() != 14 || !digits(whole) {
        return None;
    }
    let number = |from: usize, to: usize| whole.get(from..to)?.parse::<u8>().ok();
    let year = whole.get(..4)?.parse().ok()?;
    let (month, day) = (number(4, 6)?, number(6, 8)?);
    let time =
        DateTime::new(year, month, day, number(8, 10)?, number(10, 12)?, number(12, 14)?).ok()?;
    let milliseconds = match fraction {
        None => 0,
        // RFC 3161: no empty fraction, and none that ends in 0.
        Some(rest) if rest.is_empty() || rest.len() > 9 || rest.ends_with('0') => return None,
        Some(rest) if !digits(rest) => return None,
        Some(rest) => format!("{rest:0<3}").get(..3)?.parse().ok()?,
    };
    time.unix_duration().checked_add(Duration::from_millis(milliseconds))
}

/// `Accuracy`.
#[derive(Clone, Copy, Debug, Sequence)]
pub(super) struct Accuracy {
    #[asn1(optional = "true")]
    seconds: Option<u32>,
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT", optional = "true")]
    milliseconds: Option<u16>,
    #[asn1(context_specific = "1", tag_mode = "IMPLICIT", optional = "true")]
    microseconds: Option<u16>,
}

impl Accuracy {
    /// Returns it in milliseconds, rounded up.
    pub(super) fn ms(self) -> u64 {
        let of = |part: Option<u16>| u64::from(part.unwrap_or(0));
        u64::from(self.seconds.unwrap_or(0)) * 1_000
            + of(self.milliseconds)
            + of(self.microseconds).div_ceil(1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_may_have_fractions_of_a_second() {
        let second = 1_773_543_607;
        for (text, ms) in [
            ("20260315030007Z", Some(second * 1_000)),
            ("20260315030007.1Z", Some(second * 1_000 + 100)),
            ("20260315030007.1429Z", Some(second * 1_000 + 142)),
            ("20260315030007.Z", None),
            ("20260315030007.10Z", None),
            ("20260315030007.1", None),
            ("20260315030007+0100", None),
            ("20260230030007Z", None),
            ("202603150300Z", None),
            ("2026031503000+Z", None),
            ("20260315030007.+1Z", None),
            ("", None),
        ] {
            let read = read_time(text.as_bytes()).map(|time| time.as_millis());
            assert_eq!(read, ms, "{text}");
        }
    }

    #[test]
    fn numbers_are_encoded_without_a_sign() {
        for (number, bytes) in [
            (0, &[0][..]),
            (0x7f, &[0x7f]),
            (0x80, &[0, 0x80]),
            (0x1_00, &[1, 0]),
            (u64::MAX, &[0, 255, 255, 255, 255, 255, 255, 255, 255]),
        ] {
            assert_eq!(integer(number).unwrap().as_bytes(), bytes);
        }
    }
}
