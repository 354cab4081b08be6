//! Turns drafts into leaves and sealed sections. Runs in the caller's task, never in the writer's.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_ledger::disclosure::{Disclosure, SD_ALG, sd_list};
use countersign_ledger::leaf::LEAF_VERSION;
use countersign_ledger::limits::ENTRY_BYTES_MAX;
use countersign_ledger::seal::{
    Fresh, Key, KeyPair, SealedSection, Section, SectionId, open, seal,
};
use countersign_ledger::{Hash, jcs};
use countersign_model::{Draft, Kind, Private, RecordId};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::StoreError;
use crate::batch::record_bytes;
use crate::clock::Hlc;
use crate::db::{Column, Conn, row_sum, with_sum};
use crate::keystore::{Keystore, Random};
use crate::limits::{DISCLOSED_VALUE_BYTES_MAX, LEAF_PLACE_BYTES_MAX};
use crate::subject::Subject;

/// The section with a record's disclosures.
pub(crate) const PRIVATE: &str = "private";

/// What the names of sections with one large value each begin with.
const BLOB: &str = "blob/";

/// The section with a result that is kept for replay.
pub(crate) const RESULT: &str = "result";

/// Bytes of text in one part of a blob, so that its disclosure stays below its limit.
const PART_BYTES: usize = 48 * 1024;

/// Fields of a leaf that the ledger itself writes.
const RESERVED: [&str; 10] =
    ["v", "kind", "record_id", "tenant", "gw", "time", "principal", "idem", "_sd_alg", "_sd"];

/// A record that lacks only its place.
pub(crate) struct Prepared {
    pub(crate) record: RecordId,
    pub(crate) kind: Kind,
    /// The fields that the ledger writes, but `gw` and `time`.
    base: Map<String, Value>,
    frame: Frame,
    sealed: Vec<SealedRow>,
    /// Held until the record is durable: meanwhile the subject's key is not destroyed.
    subject: Option<Subject>,
}

/// A row of `sealed` or `replay`.
pub(crate) struct SealedRow {
    section: String,
    subject: String,
    period: String,
    sealed: SealedSection,
}

/// What sealing needs besides the content.
pub(crate) struct Sealer<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) subject: Subject,
    pub(crate) keys: (Key, Arc<Key>),
    pub(crate) period: String,
}

/// Where a record stands: what only the writer knows of a leaf.
pub(crate) struct Place<'a> {
    pub(crate) replica: &'a str,
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    pub(crate) prev: Hash,
    pub(crate) time: Hlc,
}

/// The canonical bytes of a leaf around the two members that the writer adds, `gw` and `time`.
///
/// RFC 8785 sorts members by name, so everything else can be written in the caller's task, and the
/// one writer only joins five pieces.
struct Frame {
    before_gw: Vec<u8>,
    before_time: Vec<u8>,
    after: Vec<u8>,
}

impl Frame {
    /// Writes the pieces, and refuses what would not fit a leaf before the writer sees it.
    fn of(base: &Map<String, Value>, public: &Map<String, Value>) -> Result<Self, StoreError> {
        if let Some(name) = RESERVED.iter().find(|name| public.contains_key(**name)) {
            return Err(StoreError::invalid(format!("the ledger itself writes field `{name}`")));
        }
        let mut fields: Vec<(&String, &Value)> = base.iter().chain(public).collect();
        // Names of ours are ASCII; of others, the order of RFC 8785 is that of UTF-16.
        fields.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
        let gw = fields.partition_point(|(name, _)| name.as_str() < "gw");
        let time = fields.partition_point(|(name, _)| name.as_str() < "time");
        let (before_time, after) = fields.split_at_checked(time).unwrap_or_default();
        let (before_gw, before_time) = before_time.split_at_checked(gw).unwrap_or_default();
        let (before_gw, before_time, after) =
            (members(before_gw)?, members(before_time)?, members(after)?);
        let bytes = before_gw.len() + before_time.len() + after.len() + LEAF_PLACE_BYTES_MAX;
        if bytes > ENTRY_BYTES_MAX {
            return Err(StoreError::TooLarge { bytes, max: ENTRY_BYTES_MAX });
        }
        Ok(Self { before_gw, before_time, after })
    }

    fn leaf(&self, place: &Place<'_>) -> Vec<u8> {
        let Place { replica, epoch, seq, prev, time } = place;
        let (prev, replica) = (prev.to_base64url(), Value::from(*replica));
        let gw =
            format!(r#""gw":{{"epoch":{epoch},"prev":"{prev}","replica":{replica},"seq":{seq}}}"#);
        let time = format!(r#""time":{{"ms":{},"n":{}}}"#, time.ms, time.n);
        let pieces = [
            self.before_gw.as_slice(),
            gw.as_bytes(),
            &self.before_time,
            time.as_bytes(),
            &self.after,
        ];
        let size: usize = pieces.iter().map(|piece| piece.len() + 1).sum();
        let mut leaf = Vec::with_capacity(size + 1);
        for piece in pieces.into_iter().filter(|piece| !piece.is_empty()) {
            leaf.push(if leaf.is_empty() { b'{' } else { b',' });
            leaf.extend_from_slice(piece);
        }
        leaf.push(b'}');
        leaf
    }
}

/// Returns the canonical members of an object, without its braces.
fn members(fields: &[(&String, &Value)]) -> Result<Vec<u8>, StoreError> {
    let invalid = |error: jcs::JcsError| StoreError::invalid(error.to_string());
    let mut bytes = Vec::with_capacity(512);
    for (name, value) in fields {
        if !bytes.is_empty() {
            bytes.push(b',');
        }
        jcs::append_member(&mut bytes, name, value).map_err(invalid)?;
    }
    Ok(bytes)
}

impl Prepared {
    /// Prepares a record that has private fields or concerns a person.
    ///
    /// `idem` is the keyed hash of the call's idempotency key, if it has one.
    pub(crate) fn sealed(
        draft: Draft,
        sealer: &Sealer<'_>,
        idem: Option<&[u8; 32]>,
    ) -> Result<Self, StoreError> {
        let record = draft.record_id;
        let principal = draft.principal.is_some().then(|| sealer.subject.pseudonym.clone());
        let mut disclosures = Vec::with_capacity(draft.private.len());
        let (mut sealed, mut random) = (Vec::new(), Random::new());
        for private in draft.private {
            let (disclosure, blob) = disclose(private, &mut random)?;
            if let Some(blob) = blob {
                let name = format!("{BLOB}{}", disclosure.name().unwrap_or_default());
                sealed.push(sealer.seal(record, &name, blob, &mut random)?);
            }
            disclosures.push(disclosure);
        }
        let digests = sd_list(disclosures.iter().map(Disclosure::digest));
        if !disclosures.is_empty() {
            sealed.push(sealer.seal(record, PRIVATE, disclosures, &mut random)?);
        }
        let subject = (!sealed.is_empty()).then(|| sealer.subject.clone());
        let mut base = base_fields(sealer.tenant, record, draft.kind, principal, digests);
        if let Some(key) = idem {
            base.insert("idem".to_owned(), URL_SAFE_NO_PAD.encode(key).into());
        }
        let frame = Frame::of(&base, &draft.public)?;
        Ok(Self { record, kind: draft.kind, base, frame, sealed, subject })
    }

    /// Prepares a record that has public fields only.
    pub(crate) fn public(draft: &Draft, tenant: &str) -> Result<Self, StoreError> {
        Self::public_keyed(draft, tenant, None)
    }

    /// Prepares a record that has public fields only, and may have an idempotency key's hash.
    pub(crate) fn public_keyed(
        draft: &Draft,
        tenant: &str,
        idem: Option<&[u8; 32]>,
    ) -> Result<Self, StoreError> {
        let mut base = base_fields(tenant, draft.record_id, draft.kind, None, Vec::new());
        if let Some(key) = idem {
            base.insert("idem".to_owned(), URL_SAFE_NO_PAD.encode(key).into());
        }
        let (record, kind) = (draft.record_id, draft.kind);
        let frame = Frame::of(&base, &draft.public)?;
        Ok(Self { record, kind, base, frame, sealed: Vec::new(), subject: None })
    }

    /// Replaces the public fields: a call that lost its claim is recorded as a denial.
    pub(crate) fn set_public(&mut self, public: &Map<String, Value>) -> Result<(), StoreError> {
        self.frame = Frame::of(&self.base, public)?;
        Ok(())
    }

    /// Returns the leaf's bytes at its place.
    pub(crate) fn leaf(&self, place: &Place<'_>) -> Vec<u8> {
        self.frame.leaf(place)
    }

    /// Returns the subject whose row is written with the record: it is not known to be durable.
    pub(crate) fn new_subject(&self) -> Option<&Subject> {
        self.subject.as_ref().filter(|subject| !subject.durable)
    }

    /// Takes the sealed sections for writing.
    pub(crate) fn take_sealed(&mut self) -> Vec<SealedRow> {
        std::mem::take(&mut self.sealed)
    }
}

fn base_fields(
    tenant: &str,
    record: RecordId,
    kind: Kind,
    principal: Option<String>,
    digests: Vec<String>,
) -> Map<String, Value> {
    let mut base = Map::new();
    base.insert("v".to_owned(), LEAF_VERSION.into());
    base.insert("kind".to_owned(), kind.as_str().into());
    base.insert("record_id".to_owned(), record.to_string().into());
    base.insert("tenant".to_owned(), tenant.into());
    if let Some(principal) = principal {
        base.insert("principal".to_owned(), principal.into());
    }
    if !digests.is_empty() {
        base.insert("_sd_alg".to_owned(), SD_ALG.into());
        base.insert("_sd".to_owned(), digests.into());
    }
    base
}

/// Returns the section in which the value of a disclosure is, if it is only referred to.
pub(crate) fn blob_of(disclosure: &Disclosure) -> Option<String> {
    is_reference(disclosure.value())
        .then(|| format!("{BLOB}{}", disclosure.name().unwrap_or_default()))
}

/// Returns whether a value has the form of a reference to a blob.
fn is_reference(value: &Value) -> bool {
    value.as_object().is_some_and(|object| {
        object.len() == 2
            && object.get("sha256").is_some_and(Value::is_string)
            && object.get("len").is_some_and(Value::is_u64)
    })
}

/// Makes a field's disclosure, and the parts of its blob if the value is too large to be disclosed.
fn disclose(
    private: Private,
    random: &mut Random,
) -> Result<(Disclosure, Option<Vec<Disclosure>>), StoreError> {
    let invalid = |error: countersign_ledger::disclosure::DisclosureError| {
        StoreError::invalid(error.to_string())
    };
    let text = private.value.to_string();
    // A value that looks like a reference goes apart, too: so each that looks like one is one.
    if text.len() <= DISCLOSED_VALUE_BYTES_MAX && !is_reference(&private.value) {
        let Private { name, value } = private;
        let disclosure = Disclosure::with_text(&random.array()?, &name, value, &text);
        return Ok((disclosure.map_err(invalid)?, None));
    }
    let salt: [u8; 16] = random.array()?;
    let digest = Hash(Sha256::new().chain_update(salt).chain_update(&text).finalize().into());
    let value = json!({ "sha256": digest.to_base64url(), "len": text.len() });
    let disclosure = Disclosure::new(&random.array()?, &private.name, value).map_err(invalid)?;
    let mut parts = vec![part(URL_SAFE_NO_PAD.encode(salt), random)?];
    parts.extend(text_parts(&text, random)?);
    Ok((disclosure, Some(parts)))
}

fn part(text: String, random: &mut Random) -> Result<Disclosure, StoreError> {
    Disclosure::element(&random.array()?, Value::String(text))
        .map_err(|error| StoreError::invalid(error.to_string()))
}

/// Cuts a text at character boundaries into disclosures that stay within their limit.
pub(crate) fn text_parts(text: &str, random: &mut Random) -> Result<Vec<Disclosure>, StoreError> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        // A character of JSON text takes up to 6 bytes once it is a JSON string again.
        let (head, tail) = rest.split_at(rest.floor_char_boundary(PART_BYTES / 6));
        parts.push(part(head.to_owned(), random)?);
        rest = tail;
    }
    Ok(parts)
}

/// Joins what [`text_parts`] cut.
pub(crate) fn joined(parts: &[Disclosure]) -> String {
    parts.iter().filter_map(|part| part.value().as_str()).collect()
}

impl Sealer<'_> {
    /// Seals disclosures as one section of a record.
    pub(crate) fn seal(
        &self,
        record: RecordId,
        section: &str,
        disclosures: Vec<Disclosure>,
        random: &mut Random,
    ) -> Result<SealedRow, StoreError> {
        let invalid =
            |error: countersign_ledger::seal::SealError| StoreError::invalid(error.to_string());
        let content = Section::new(disclosures).map_err(invalid)?;
        let fresh = Fresh {
            dek: Key::new(random.array()?),
            content_nonce: random.array()?,
            subject_nonce: random.array()?,
            period_nonce: random.array()?,
        };
        let record_id = record.to_string();
        let id = SectionId { tenant: self.tenant, record_id: &record_id, section };
        let (subject, period) = &self.keys;
        let keys = KeyPair { subject, period };
        Ok(SealedRow {
            section: section.to_owned(),
            subject: self.subject.name.clone(),
            period: self.period.clone(),
            sealed: seal(&content, &id, keys, &fresh).map_err(invalid)?,
        })
    }
}

impl SealedRow {
    /// Reads a row's columns.
    pub(crate) fn read(
        section: String,
        subject: String,
        period: String,
        nonce: &[u8],
        ciphertext: Vec<u8>,
        dek: &[u8],
    ) -> Option<Self> {
        let (nonce, wrapped_dek) = (nonce.try_into().ok()?, dek.try_into().ok()?);
        let sealed = SealedSection { nonce, wrapped_dek, ciphertext };
        Some(Self { section, subject, period, sealed })
    }

    /// Opens the section with the key in `slot`.
    pub(crate) fn open(
        &self,
        keys: &Keystore,
        tenant: &str,
        record: RecordId,
        slot: u32,
    ) -> Result<Section, StoreError> {
        let (subject, period) = (keys.subject(slot)?, keys.period(&self.period)?);
        let record_id = record.to_string();
        let id = SectionId { tenant, record_id: &record_id, section: &self.section };
        let keys = KeyPair { subject: &subject, period: &period };
        open(&self.sealed, &id, keys).map_err(|_| {
            StoreError::unsealable(record, "the cipher refuses: wrong key or altered bytes")
        })
    }

    pub(crate) fn section(&self) -> &str {
        &self.section
    }

    pub(crate) fn subject(&self) -> &str {
        &self.subject
    }

    pub(crate) fn period(&self) -> &str {
        &self.period
    }

    pub(crate) fn nonce(&self) -> &[u8] {
        &self.sealed.nonce
    }

    pub(crate) fn dek(&self) -> &[u8] {
        &self.sealed.wrapped_dek
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.sealed.ciphertext
    }

    /// Returns the sum of this row in `sealed`.
    pub(crate) fn sum(&self, tenant: &str, record: &[u8]) -> Vec<u8> {
        row_sum("sealed", &self.columns(tenant, record))
    }

    fn columns<'a>(&'a self, tenant: &'a str, record: &'a [u8]) -> [Column<'a>; 8] {
        [
            Column::Text(tenant),
            Column::Blob(record),
            Column::Text(&self.section),
            Column::Text(&self.subject),
            Column::Text(&self.period),
            Column::Blob(&self.sealed.nonce),
            Column::Blob(&self.sealed.ciphertext),
            Column::Blob(&self.sealed.wrapped_dek),
        ]
    }

    /// Writes the row by itself.
    pub(crate) async fn insert(
        &self,
        tx: &mut Conn,
        tenant: &str,
        record: RecordId,
    ) -> Result<(), sqlx::Error> {
        let record = record_bytes(record);
        let columns = self.columns(tenant, &record);
        tx.execute(
            "INSERT INTO sealed
             (tenant, record, section, subject, period, nonce, ciphertext, dek, sum)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            &with_sum(&columns, &row_sum("sealed", &columns)),
        )
        .await?;
        Ok(())
    }

    /// Keeps the row for replay of a call.
    pub(crate) async fn insert_replay(
        &self,
        tx: &mut Conn,
        tenant: &str,
        call: RecordId,
        expires_ms: i64,
    ) -> Result<(), sqlx::Error> {
        let record = record_bytes(call);
        let columns = [
            Column::Text(tenant),
            Column::Blob(&record),
            Column::Int(expires_ms),
            Column::Text(&self.subject),
            Column::Text(&self.period),
            Column::Blob(&self.sealed.nonce),
            Column::Blob(&self.sealed.ciphertext),
            Column::Blob(&self.sealed.wrapped_dek),
        ];
        tx.execute(
            "INSERT INTO replay
             (tenant, record, expires_ms, subject, period, nonce, ciphertext, dek, sum)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             ON CONFLICT (tenant, record) DO UPDATE SET expires_ms = excluded.expires_ms,
             subject = excluded.subject, period = excluded.period, nonce = excluded.nonce,
             ciphertext = excluded.ciphertext, dek = excluded.dek, sum = excluded.sum",
            &with_sum(&columns, &row_sum("replay", &columns)),
        )
        .await?;
        Ok(())
    }
}
