//! Named tokens of the control plane, each with a role.
//!
//! A token reads `cst_<id>_<secret>`: 16 and 64 lower-case hexadecimal digits, the secret 256 random bits.
//! `control-tokens.json` in the data folder has an HMAC-SHA256 of it under a key that stands in the
//! keystore's folder. Files are replaced whole, for their owner alone. The process that holds the ledger is
//! the only one that writes them, and records every change before it counts.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_evidence::time::{Edge, parse, utc};
use countersign_model::{Draft, Kind, ReasonCode, RecordId};
use countersign_store::{Store, StoreError};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::limits::{TOKEN_NAME_BYTES_MAX, TOKENS_MAX};
use crate::role::{Caller, Rejected, Role};
use crate::token::{PREFIX, SECRET_BYTES, random_hex};

/// The file with the tokens, in the data folder.
const FILE: &str = "control-tokens.json";
/// The file with the key of their hashes, in the keystore's folder.
const KEY_FILE: &str = "control-token.key";
/// Random bytes in a token's id.
const ID_BYTES: usize = 8;
/// Bytes of the key: a block of SHA-256.
const KEY_BYTES: usize = 64;
/// What the hash is bound to.
const DOMAIN: &[u8] = b"countersign/control-token/v1";

/// A token to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NewToken {
    /// A slug that says what uses the token; never given twice.
    pub name: String,
    /// `viewer`, `auditor` or `admin`.
    pub role: String,
    /// When it ends: RFC 3339, or a date (UTC), which is included; never if absent.
    pub expires: Option<String>,
}

/// A token as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct TokenInfo {
    /// Its name.
    pub name: String,
    /// Its public id, `key_id` in records.
    pub id: String,
    /// What it may do.
    pub role: Role,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// When it ends, RFC 3339; never if null.
    #[schema(required)]
    pub expires_at: Option<String>,
    /// When it was revoked, RFC 3339.
    #[schema(required)]
    pub revoked_at: Option<String>,
}

/// A token's text: the only time that it is seen.
pub type TokenText = Zeroizing<String>;

/// Says why a token was not made, found or revoked.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// Fields of the new token are missing.
    #[error("these fields are missing: {}", .0.join(", "))]
    Missing(Vec<&'static str>),
    /// The name is no slug.
    #[error(
        "token name `{0}` may only have lower-case letters, digits and single hyphens between them, at most {TOKEN_NAME_BYTES_MAX}"
    )]
    BadName(String),
    /// There is no such role.
    #[error("`{0}` is no role: expected `viewer`, `auditor` or `admin`")]
    BadRole(String),
    /// The token would have ended already, or its end is no time.
    #[error("the end of the token: {0}")]
    BadExpiry(String),
    /// The name was given before; names are never given twice.
    #[error("the token name `{0}` was given before")]
    NameTaken(String),
    /// There is no token with this name.
    #[error("there is no token `{0}`")]
    Unknown(String),
    /// The token is revoked already.
    #[error("the token `{0}` is revoked already")]
    Revoked(String),
    /// The file is full.
    #[error("there are {TOKENS_MAX} tokens already, revoked ones included")]
    TooMany,
    /// The change cannot be recorded.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file cannot be read or written.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// A file has something else.
    #[error("`{}` is not what this program wrote: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system gives no random numbers.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

/// A token in the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    id: String,
    role: Role,
    /// The keyed hash, base64.
    hash: String,
    created_ms: i64,
    expires_ms: Option<i64>,
    revoked_ms: Option<i64>,
}

/// The whole file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rows {
    v: u32,
    tokens: Vec<Row>,
}

/// The version of the file's format.
const VERSION: u32 = 1;

/// All named tokens.
#[expect(missing_debug_implementations, reason = "key material")]
pub struct Tokens {
    path: PathBuf,
    key: Zeroizing<[u8; KEY_BYTES]>,
    rows: RwLock<Vec<Row>>,
    /// Held during a change, so that changes do not cross.
    changing: tokio::sync::Mutex<()>,
}

impl Tokens {
    /// Reads the tokens of an installation; there need not be any.
    ///
    /// `data` is the data folder, `keys` that of the keystore, which must exist.
    ///
    /// # Errors
    /// [`TokensError::Io`], [`TokensError::Malformed`], [`TokensError::Random`].
    pub fn open(data: &Path, keys: &Path) -> Result<Self, TokensError> {
        let path = data.join(FILE);
        let rows = read_rows(&path)?;
        let key = read_or_create_key(&keys.join(KEY_FILE), rows.is_empty())?;
        Ok(Self { path, key, rows: RwLock::new(rows), changing: tokio::sync::Mutex::default() })
    }

    /// Reads what may be shown of an installation's tokens, oldest first; a gateway may run.
    ///
    /// # Errors
    /// [`TokensError::Io`], [`TokensError::Malformed`].
    pub fn read_list(data: &Path) -> Result<Vec<TokenInfo>, TokensError> {
        Ok(read_rows(&data.join(FILE))?.iter().map(Row::info).collect())
    }

    /// Lists what may be shown of all tokens, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<TokenInfo> {
        self.read().iter().map(Row::info).collect()
    }

    /// Makes a token; the change is recorded under `actor`.
    ///
    /// # Errors
    /// [`TokensError`] says what is wrong with the new token, or that it cannot be recorded or written.
    pub async fn add(
        &self,
        store: &Store,
        new: &NewToken,
        actor: &str,
    ) -> Result<(TokenInfo, TokenText), TokensError> {
        let _changing = self.changing.lock().await;
        let now = store.config().clock.now_ms();
        let (role, expires_ms) = check(new, now)?;
        let mut rows = self.read().clone();
        if rows.iter().any(|row| row.name == new.name) {
            return Err(TokensError::NameTaken(new.name.clone()));
        }
        if rows.len() >= TOKENS_MAX {
            return Err(TokensError::TooMany);
        }
        let (id, secret) = (random_hex::<ID_BYTES>()?, random_hex::<SECRET_BYTES>()?);
        let row = Row {
            hash: STANDARD.encode(self.mac(&id, &secret).finalize().into_bytes()),
            name: new.name.clone(),
            id: id.to_string(),
            role,
            created_ms: now,
            expires_ms,
            revoked_ms: None,
        };
        self.record(store, &row, "added", actor).await?;
        let info = row.info();
        rows.push(row);
        self.replace(rows)?;
        Ok((info, Zeroizing::new(format!("{PREFIX}{}_{}", id.as_str(), secret.as_str()))))
    }

    /// Revokes a token; the change is recorded under `actor`.
    ///
    /// # Errors
    /// [`TokensError::Unknown`], [`TokensError::Revoked`]; or it cannot be recorded or written.
    pub async fn revoke(
        &self,
        store: &Store,
        name: &str,
        actor: &str,
    ) -> Result<TokenInfo, TokensError> {
        let _changing = self.changing.lock().await;
        let mut rows = self.read().clone();
        let row = rows.iter_mut().find(|row| row.name == name);
        let row = row.ok_or_else(|| TokensError::Unknown(name.to_owned()))?;
        if row.revoked_ms.is_some() {
            return Err(TokensError::Revoked(name.to_owned()));
        }
        row.revoked_ms = Some(store.config().clock.now_ms());
        self.record(store, row, "revoked", actor).await?;
        let info = row.info();
        self.replace(rows)?;
        Ok(info)
    }

    /// Tells whose token it is.
    pub(crate) fn authenticate(&self, presented: &str, now_ms: i64) -> Result<Caller, Rejected> {
        let invalid = || Rejected { reason: ReasonCode::CREDENTIAL_INVALID, key_id: None };
        let (id, secret) = parts(presented).ok_or_else(invalid)?;
        let rows = self.read();
        let row = rows.iter().find(|row| row.id == id).ok_or_else(invalid)?;
        // The secret comes first: whoever does not have it learns nothing about the token.
        let hash = STANDARD.decode(&row.hash).map_err(|_| invalid())?;
        self.mac(id, secret).verify_slice(&hash).map_err(|_| invalid())?;
        let rejected = |reason| Rejected { reason, key_id: Some(row.id.clone()) };
        if row.revoked_ms.is_some() {
            return Err(rejected(ReasonCode::CREDENTIAL_INVALID));
        }
        if row.expires_ms.is_some_and(|expires| now_ms >= expires) {
            return Err(rejected(ReasonCode::CREDENTIAL_EXPIRED));
        }
        Ok(Caller::named(&row.name, row.role, &row.id))
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Vec<Row>> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the file, then lets the rows count.
    fn replace(&self, rows: Vec<Row>) -> Result<(), TokensError> {
        let file = Rows { v: VERSION, tokens: rows };
        let text = serde_json::to_string_pretty(&file).map_err(|error| TokensError::Malformed {
            path: self.path.clone(),
            reason: error.to_string(),
        })?;
        write_atomic(&self.path, text.as_bytes()).at(&self.path)?;
        *self.rows.write().unwrap_or_else(PoisonError::into_inner) = file.tokens;
        Ok(())
    }

    async fn record(
        &self,
        store: &Store,
        row: &Row,
        action: &str,
        actor: &str,
    ) -> Result<(), TokensError> {
        let expires = row.expires_ms.map(utc);
        let draft = Draft::new(RecordId((store.config().ids)()), Kind::Change)
            .with("object", "token")
            .with("action", action)
            .with("key_id", row.id.as_str())
            .with("role", row.role.as_str())
            .with_some("expires_at", expires)
            .about(actor)
            .sealed("name", row.name.as_str());
        store.append(draft).await?;
        Ok(())
    }

    /// Begins the keyed hash of a token, over length-prefixed parts.
    fn mac(&self, id: &str, secret: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new((&*self.key).into());
        for part in [DOMAIN, id.as_bytes(), secret.as_bytes()] {
            mac.update(&part.len().to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

impl Row {
    fn info(&self) -> TokenInfo {
        TokenInfo {
            name: self.name.clone(),
            id: self.id.clone(),
            role: self.role,
            created_at: utc(self.created_ms),
            expires_at: self.expires_ms.map(utc),
            revoked_at: self.revoked_ms.map(utc),
        }
    }
}

/// Returns the role and the end of a new token.
fn check(new: &NewToken, now_ms: i64) -> Result<(Role, Option<i64>), TokensError> {
    let missing = [("name", new.name.is_empty()), ("role", new.role.is_empty())];
    let missing: Vec<_> = missing.into_iter().filter_map(|(name, is)| is.then_some(name)).collect();
    if !missing.is_empty() {
        return Err(TokensError::Missing(missing));
    }
    let word = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    if new.name.len() > TOKEN_NAME_BYTES_MAX || !new.name.split('-').all(word) {
        return Err(TokensError::BadName(new.name.clone()));
    }
    let role = Role::named(&new.role).ok_or_else(|| TokensError::BadRole(new.role.clone()))?;
    let Some(expires) = &new.expires else { return Ok((role, None)) };
    let expires_ms =
        parse(expires, Edge::End).map_err(|error| TokensError::BadExpiry(error.to_string()))?;
    if expires_ms <= now_ms {
        return Err(TokensError::BadExpiry(format!("`{expires}` is in the past")));
    }
    Ok((role, Some(expires_ms)))
}

/// Returns id and secret of a token's text.
fn parts(text: &str) -> Option<(&str, &str)> {
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    (id.len() == 2 * ID_BYTES && secret.len() == 2 * SECRET_BYTES).then_some((id, secret))
}

fn read_rows(path: &Path) -> Result<Vec<Row>, TokensError> {
    let malformed = |reason: String| TokensError::Malformed { path: path.to_owned(), reason };
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.at(path)?,
    };
    let file: Rows = serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
    if file.v != VERSION {
        return Err(malformed(format!("its version is {}, expected {VERSION}", file.v)));
    }
    Ok(file.tokens)
}

/// Reads the key, or makes one where no token needs an older one.
fn read_or_create_key(
    path: &Path,
    may_create: bool,
) -> Result<Zeroizing<[u8; KEY_BYTES]>, TokensError> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && may_create => {
            getrandom::fill(key.as_mut_slice())?;
            let text = Zeroizing::new(STANDARD.encode(key.as_slice()) + "\n");
            write_atomic(path, text.as_bytes()).at(path)?;
            return Ok(key);
        }
        read => Zeroizing::new(read.at(path)?),
    };
    match STANDARD.decode_slice(text.trim_ascii_end(), key.as_mut_slice()) {
        Ok(KEY_BYTES) => Ok(key),
        _ => Err(TokensError::Malformed {
            path: path.to_owned(),
            reason: format!("it is no base64 of {KEY_BYTES} bytes"),
        }),
    }
}

/// Replaces a file by one that its owner alone can read: written beside it, synced, renamed.
fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut options = File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

trait AtPath<T> {
    /// Names the file in the error.
    fn at(self, path: &Path) -> Result<T, TokensError>;
}

impl<T> AtPath<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, TokensError> {
        self.map_err(|source| TokensError::Io { path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(name: &str, role: &str, expires: Option<&str>) -> NewToken {
        let expires = expires.map(str::to_owned);
        NewToken { name: name.to_owned(), role: role.to_owned(), expires }
    }

    #[test]
    fn new_tokens_are_checked() {
        let now = parse("2026-11-21", Edge::Start).unwrap();
        for (new, expected) in [
            (new("", "", None), Some("these fields are missing: name, role")),
            (
                new("siem", "owner", None),
                Some("`owner` is no role: expected `viewer`, `auditor` or `admin`"),
            ),
            (
                new("SIEM", "viewer", None),
                Some("token name `SIEM` may only have lower-case letters"),
            ),
            (new("a--b", "viewer", None), Some("token name `a--b` may only have")),
            (
                new("siem", "viewer", Some("soon")),
                Some("the end of the token: `soon` is not a time"),
            ),
            (
                new("siem", "viewer", Some("2026-11-20")),
                Some("the end of the token: `2026-11-20` is in the past"),
            ),
            (new("siem", "viewer", Some("2026-11-21")), None),
            (new("acme-2026", "auditor", None), None),
        ] {
            match (check(&new, now), expected) {
                (Ok(_), None) => {}
                (Err(error), Some(text)) => {
                    assert!(error.to_string().starts_with(text), "{error}");
                }
                (found, expected) => panic!("{new:?}: {found:?}, expected {expected:?}"),
            }
        }
        // A date is included.
        let (_, end) = check(&new("siem", "viewer", Some("2026-11-21")), now).unwrap();
        assert_eq!(end, Some(now + 24 * 60 * 60 * 1_000));
    }

    #[test]
    fn only_texts_of_the_right_shape_are_looked_up() {
        let (id, secret) = ("0123456789abcdef", "0123456789abcdef".repeat(4));
        for (text, ok) in [
            (format!("cst_{id}_{secret}"), true),
            (format!("cst_{secret}"), false),
            (format!("cst_{id}{secret}"), false),
            (format!("csk_{id}_{secret}"), false),
            (format!("cst_{id}_{secret}0"), false),
            (String::new(), false),
        ] {
            assert_eq!(parts(&text).is_some(), ok, "{text}");
        }
    }

    #[test]
    fn a_missing_key_is_not_made_again_while_tokens_need_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        drop(Tokens::open(path, path).unwrap());
        let first = fs::read(path.join(KEY_FILE)).unwrap();
        drop(Tokens::open(path, path).unwrap());
        assert_eq!(fs::read(path.join(KEY_FILE)).unwrap(), first);
        let row = r#"{"name":"a","id":"b","role":"viewer","hash":"","created_ms":0,"expires_ms":null,"revoked_ms":null}"#;
        fs::write(path.join(FILE), format!(r#"{{"v":1,"tokens":[{row}]}}"#)).unwrap();
        assert!(Tokens::open(path, path).is_ok());
        fs::remove_file(path.join(KEY_FILE)).unwrap();
        assert!(matches!(Tokens::open(path, path), Err(TokensError::Io { .. })));
        fs::write(path.join(KEY_FILE), "short").unwrap();
        assert!(matches!(Tokens::open(path, path), Err(TokensError::Malformed { .. })));
        for file in ["{}", r#"{"v":2,"tokens":[]}"#, "x"] {
            fs::write(path.join(FILE), file).unwrap();
            assert!(
                matches!(Tokens::read_list(path), Err(TokensError::Malformed { .. })),
                "{file}"
            );
        }
    }
}
