//! The keys, in a folder apart from the database.
//!
//! | file | key |
//! |---|---|
//! | `log.key` and others | the key that signs checkpoints, unless a process of its own has it: see [`SignerFolder`] |
//! | `log.vkeys` | the public keys that ever signed the log |
//! | `pseudonym.key`, `api-key.key`, `idempotency.key` | HMAC-SHA256 keys |
//! | `tenant.kek` | wraps the keys below |
//! | `periods/<yyyy-mm>-standard.kek` | key of a month and retention class |
//! | `subjects/<shard>.keks` | keys of 256 data subjects, by slot |
//!
//! Files are replaced whole (write, fsync, rename, fsync of the folder), mode 0600 in folders of 0700.
//! A destroyed key is a slot of zeros; a slot is never given twice.
//! A destroyed key of a month is a file that is gone.
//! Out of scope: a key-management service.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_ledger::close::civil;
use countersign_ledger::seal::{Key, WRAPPED_KEY_BYTES, unwrap_key, wrap_key};
use countersign_ledger::{SigningKey, VerifierKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::StoreError;
use crate::files::{Access, AtPath as _, make_folder, read_if_there, write_atomic, write_once};
use crate::signer::{self, SignerFolder};

/// Keys in one shard file.
pub(crate) const SHARD_SLOTS: u32 = 256;

/// The only retention class so far.
const CLASS: &str = "standard";

/// The key that is made last: its presence says that the keystore is complete.
const LAST_MADE: &str = "tenant.kek";

/// Names that the wrapping of keys is bound to.
const PERIOD: &str = "countersign/period";
const SUBJECT: &str = "countersign/subject";

/// Opened keys. It has no readable form; key material is wiped when dropped.
#[expect(missing_debug_implementations, reason = "key material")]
pub struct Keystore {
    folder: PathBuf,
    pseudonym: Key,
    api_key: Key,
    idempotency: Key,
    tenant: Key,
    periods: Mutex<HashMap<String, Arc<Key>>>,
    shards: Mutex<HashMap<u32, Arc<Vec<Option<Key>>>>>,
    /// Held while a file of wrapped keys is looked for and made.
    making: Mutex<()>,
}

/// Random bytes, drawn a few hundred at a time: each draw is a call of the system.
pub(crate) struct Random {
    drawn: Zeroizing<[u8; RANDOM_BYTES]>,
    used: usize,
}

/// Bytes of one draw: enough for the salts, keys and nonces of a usual record.
const RANDOM_BYTES: usize = 256;

impl Random {
    /// Begins without any.
    pub(crate) fn new() -> Self {
        Self { drawn: Zeroizing::new([0; RANDOM_BYTES]), used: RANDOM_BYTES }
    }

    /// Takes bytes that nobody else gets.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        const { assert!(N <= RANDOM_BYTES) };
        if self.drawn.len() - self.used < N {
            getrandom::fill(self.drawn.as_mut_slice())?;
            self.used = 0;
        }
        let bytes = self.drawn.get(self.used..).and_then(|rest| rest.first_chunk());
        self.used += N;
        bytes.copied().ok_or_else(|| StoreError::invalid("a draw is too small"))
    }
}

/// Fills an array with random bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], StoreError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// Returns HMAC-SHA256 over length-prefixed parts.
fn mac(key: &Key, parts: &[&[u8]]) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose()).ok()?;
    for part in parts {
        mac.update(&part.len().to_be_bytes());
        mac.update(part);
    }
    Some(mac)
}

fn keyed_hash(key: &Key, parts: &[&[u8]]) -> Result<[u8; 32], StoreError> {
    let mac = mac(key, parts).ok_or_else(|| StoreError::NoKey("hmac".to_owned()))?;
    Ok(mac.finalize().into_bytes().into())
}

impl Keystore {
    /// Makes a keystore with fresh keys, but for the one that signs the log.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if the folder has one; [`StoreError::Io`], [`StoreError::Random`].
    pub fn create(folder: &Path) -> Result<Self, StoreError> {
        Self::must_be_new(folder)?;
        for folder in [folder.to_owned(), folder.join("periods"), folder.join("subjects")] {
            make_folder(&folder)?;
        }
        for name in ["pseudonym.key", "api-key.key", "idempotency.key", LAST_MADE] {
            let key = Zeroizing::new(random::<32>()?);
            let text = Zeroizing::new(format!("{}\n", STANDARD.encode(*key)));
            write_atomic(&folder.join(name), text.as_bytes(), Access::Private)?;
        }
        Self::open(folder)
    }

    /// Refuses a folder that has a whole keystore.
    ///
    /// # Errors
    /// [`StoreError::Exists`].
    pub(crate) fn must_be_new(folder: &Path) -> Result<(), StoreError> {
        let last = folder.join(LAST_MADE);
        if last.exists() { Err(StoreError::Exists(last)) } else { Ok(()) }
    }

    /// Opens a keystore.
    ///
    /// # Errors
    /// [`StoreError::NoKey`] names a missing or malformed file.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let read = |name: &str| read_key(&folder.join(name)).map(|key| Key::new(*key));
        Ok(Self {
            folder: folder.to_owned(),
            pseudonym: read("pseudonym.key")?,
            api_key: read("api-key.key")?,
            idempotency: read("idempotency.key")?,
            tenant: read(LAST_MADE)?,
            periods: Mutex::default(),
            shards: Mutex::default(),
            making: Mutex::default(),
        })
    }

    /// Makes the key that signs the log, unless it is there. Only if no process of its own signs.
    pub(crate) fn make_log_key(folder: &Path) -> Result<(), StoreError> {
        make_folder(folder)?;
        if folder.join(signer::LOG_KEY).exists() {
            return Ok(());
        }
        signer::make_log_key(folder)
    }

    /// Returns the key that signs the checkpoints of `origin`, if it is here.
    ///
    /// # Errors
    /// [`StoreError::NoKey`] if a process of its own has it; [`StoreError::Invalid`] if `origin` cannot name
    /// a key.
    pub fn log_key(&self, origin: &str) -> Result<SigningKey, StoreError> {
        SignerFolder::of_keystore(&self.folder, origin).signing_key()
    }

    /// Returns the public keys that ever signed the log of `origin`, oldest first.
    ///
    /// # Errors
    /// [`StoreError::NoKey`] if they are not known here yet; [`StoreError::Corrupt`], [`StoreError::Invalid`].
    pub fn log_keys(&self, origin: &str) -> Result<Vec<VerifierKey>, StoreError> {
        match signer::read_vkeys(&self.folder, origin)? {
            Some(keys) if !keys.is_empty() => Ok(keys),
            _ => Ok(vec![self.log_key(origin)?.verifier_key()]),
        }
    }

    /// Keeps the public keys that the signer says; it must not have lost one that was known.
    pub(crate) fn keep_log_keys(
        &self,
        origin: &str,
        keys: &[VerifierKey],
    ) -> Result<(), StoreError> {
        let known = signer::read_vkeys(&self.folder, origin)?;
        if known.as_deref() == Some(keys) {
            return Ok(());
        }
        if let Some(lost) = known.iter().flatten().find(|known| !keys.contains(known)) {
            let what = format!("it does not know `{lost}`, which signed this log");
            return Err(StoreError::Signer(what));
        }
        signer::write_vkeys(&self.folder, keys)
    }

    /// Returns where the keys are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the file in which the signer remembers what it signed, if it is here.
    pub(crate) fn signer_memory(&self) -> PathBuf {
        self.folder.join(signer::MEMORY)
    }

    /// Returns the pseudonym of a person.
    ///
    /// # Errors
    /// [`StoreError::NoKey`].
    pub fn pseudonym(&self, id: &str) -> Result<String, StoreError> {
        use base64::engine::general_purpose::URL_SAFE_NO_PAD;
        Ok(URL_SAFE_NO_PAD.encode(keyed_hash(&self.pseudonym, &[id.as_bytes()])?))
    }

    /// Returns the stored form of an API key's secret.
    pub(crate) fn api_key_hash(&self, id: &str, secret: &str) -> Result<[u8; 32], StoreError> {
        keyed_hash(&self.api_key, &[id.as_bytes(), secret.as_bytes()])
    }

    /// Returns whether a secret has this stored form, in constant time.
    pub(crate) fn api_key_fits(&self, id: &str, secret: &str, hash: &[u8]) -> bool {
        mac(&self.api_key, &[id.as_bytes(), secret.as_bytes()])
            .is_some_and(|mac| mac.verify_slice(hash).is_ok())
    }

    /// Returns a keyed hash of something that belongs to an idempotency claim.
    pub(crate) fn idempotency_hash(&self, parts: &[&[u8]]) -> Result<[u8; 32], StoreError> {
        keyed_hash(&self.idempotency, parts)
    }

    /// Returns the key of a period (`2026-11-standard`) if it is there.
    pub(crate) fn period(&self, period: &str) -> Result<Arc<Key>, StoreError> {
        if let Some(key) = lock(&self.periods).get(period) {
            return Ok(Arc::clone(key));
        }
        let path = self.period_path(period)?;
        let wrapped =
            read_if_there(&path)?.ok_or_else(|| StoreError::NoKey(path.display().to_string()))?;
        let key = Arc::new(self.unwrap(&wrapped, &[PERIOD, period], &path)?);
        lock(&self.periods).insert(period.to_owned(), Arc::clone(&key));
        Ok(key)
    }

    /// Returns the key of a period and makes it durable first if there is none. Blocks on the disk.
    pub(crate) fn make_period(&self, period: &str) -> Result<Arc<Key>, StoreError> {
        let _making = lock(&self.making);
        let path = self.period_path(period)?;
        if !path.exists() {
            let wrapped = self.wrap_fresh(&[PERIOD, period])?;
            write_once(&path, &wrapped)?;
        }
        self.period(period)
    }

    /// Returns the periods whose keys are here, oldest first. Blocks on the disk.
    pub(crate) fn periods(&self) -> Result<Vec<String>, StoreError> {
        let folder = self.folder.join("periods");
        let mut found = Vec::new();
        for file in std::fs::read_dir(&folder).at(&folder)? {
            let name = file.at(&folder)?.file_name();
            let period = name.to_str().and_then(|name| name.strip_suffix(".kek"));
            // What else lies there is nobody's key.
            found.extend(period.filter(|name| check_period(name).is_ok()).map(str::to_owned));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Destroys the key of a period, durably; one that is destroyed already stays so. Blocks on the disk.
    pub(crate) fn destroy_period(&self, period: &str) -> Result<(), StoreError> {
        let _making = lock(&self.making);
        let path = self.period_path(period)?;
        if path.exists() {
            let old = File::options().write(true).open(&path).at(&path)?;
            overwrite(old, &[0; WRAPPED_KEY_BYTES]).at(&path)?;
            std::fs::remove_file(&path).at(&path)?;
            crate::files::sync_folder(&self.folder.join("periods"))?;
        }
        lock(&self.periods).remove(period);
        Ok(())
    }

    /// Forgets keys of periods that another process has destroyed.
    pub(crate) fn forget_periods(&self, gone: &HashSet<&str>) {
        lock(&self.periods).retain(|period, _| !gone.contains(period.as_str()));
    }

    /// Returns whether the key is in memory, so that using it takes no disk.
    pub(crate) fn has_period(&self, period: &str) -> bool {
        lock(&self.periods).contains_key(period)
    }

    /// Returns the key in a subject's slot if it is there.
    pub(crate) fn subject(&self, slot: u32) -> Result<Key, StoreError> {
        let shard = self.shard(slot / SHARD_SLOTS)?;
        let place = usize::try_from(slot % SHARD_SLOTS).unwrap_or(usize::MAX);
        let key = shard.get(place).and_then(Option::as_ref);
        key.cloned().ok_or_else(|| StoreError::NoKey(format!("subjects, slot {slot}")))
    }

    /// Returns whether the shard is in memory.
    pub(crate) fn has_shard(&self, shard: u32) -> bool {
        lock(&self.shards).contains_key(&shard)
    }

    /// Makes a shard durable if there is none, and loads it. Blocks on the disk.
    pub(crate) fn make_shard(&self, shard: u32) -> Result<(), StoreError> {
        let _making = lock(&self.making);
        let path = self.shard_path(shard);
        if !path.exists() {
            let mut bytes = Vec::with_capacity(WRAPPED_KEY_BYTES * 256);
            for slot in shard * SHARD_SLOTS..(shard + 1) * SHARD_SLOTS {
                bytes.extend_from_slice(&self.wrap_fresh(&[SUBJECT, &slot.to_string()])?);
            }
            write_once(&path, &bytes)?;
        }
        self.shard(shard).map(|_| ())
    }

    /// Destroys the keys in slots, durably; those that are destroyed already stay so. Blocks on the disk.
    pub(crate) fn destroy_subjects(&self, slots: &[u32]) -> Result<(), StoreError> {
        let mut shards: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for slot in slots {
            shards.entry(slot / SHARD_SLOTS).or_default().push(slot % SHARD_SLOTS);
        }
        let _making = lock(&self.making);
        shards.iter().try_for_each(|(shard, places)| self.destroy_places(*shard, places))
    }

    /// Forgets keys that another process destroys; the next use reads the file again.
    pub(crate) fn forget_subjects(&self, slots: &[u32]) {
        let mut shards = lock(&self.shards);
        for slot in slots {
            shards.remove(&(slot / SHARD_SLOTS));
        }
    }

    fn destroy_places(&self, shard: u32, places: &[u32]) -> Result<(), StoreError> {
        let path = self.shard_path(shard);
        let missing = || StoreError::NoKey(path.display().to_string());
        let mut bytes = read_if_there(&path)?.ok_or_else(missing)?;
        for place in places {
            let place = usize::try_from(*place).map_err(|_| missing())?;
            let key = bytes.chunks_mut(WRAPPED_KEY_BYTES).nth(place).ok_or_else(missing)?;
            key.fill(0);
        }
        let old = File::options().write(true).open(&path).at(&path)?;
        write_atomic(&path, &bytes, Access::Private)?;
        // The next use reads the new file.
        lock(&self.shards).remove(&shard);
        overwrite(old, &bytes).at(&path)
    }

    /// Returns the first slot from `from` on after which no key was destroyed. Blocks on the disk.
    pub(crate) fn after_destroyed(&self, from: u32) -> Result<u32, StoreError> {
        let mut next = from;
        for shard in from / SHARD_SLOTS.. {
            if !self.shard_path(shard).exists() {
                break;
            }
            let keys = self.shard(shard)?;
            let slots = (shard * SHARD_SLOTS..).zip(keys.iter());
            let last = slots.filter(|(_, key)| key.is_none()).map(|(slot, _)| slot).last();
            next = next.max(last.map_or(0, |slot| slot + 1));
        }
        Ok(next)
    }

    fn shard(&self, shard: u32) -> Result<Arc<Vec<Option<Key>>>, StoreError> {
        // Locked until the keys are in memory: what was read before a key was destroyed must not be put
        // there afterwards.
        let mut shards = lock(&self.shards);
        if let Some(keys) = shards.get(&shard) {
            return Ok(Arc::clone(keys));
        }
        let path = self.shard_path(shard);
        let bytes =
            read_if_there(&path)?.ok_or_else(|| StoreError::NoKey(path.display().to_string()))?;
        let slots = (shard * SHARD_SLOTS..).zip(bytes.chunks(WRAPPED_KEY_BYTES));
        let keys: Result<Vec<_>, StoreError> = slots
            .map(|(slot, wrapped)| {
                // A destroyed key is a slot of zeros.
                if wrapped.iter().all(|byte| *byte == 0) {
                    return Ok(None);
                }
                self.unwrap(wrapped, &[SUBJECT, &slot.to_string()], &path).map(Some)
            })
            .collect();
        let keys = Arc::new(keys?);
        shards.insert(shard, Arc::clone(&keys));
        Ok(keys)
    }

    fn wrap_fresh(&self, names: &[&str]) -> Result<[u8; WRAPPED_KEY_BYTES], StoreError> {
        let key = Key::new(random()?);
        wrap_key(&self.tenant, &key, names, &random()?)
            .map_err(|error| StoreError::invalid(error.to_string()))
    }

    fn unwrap(&self, wrapped: &[u8], names: &[&str], path: &Path) -> Result<Key, StoreError> {
        let missing = || StoreError::NoKey(path.display().to_string());
        let wrapped = wrapped.try_into().map_err(|_| missing())?;
        unwrap_key(&self.tenant, wrapped, names).map_err(|_| missing())
    }

    fn period_path(&self, period: &str) -> Result<PathBuf, StoreError> {
        check_period(period)?;
        Ok(self.folder.join("periods").join(format!("{period}.kek")))
    }

    fn shard_path(&self, shard: u32) -> PathBuf {
        self.folder.join("subjects").join(format!("{shard}.keks"))
    }
}

/// Overwrites a file that another one has replaced, so that its blocks do not keep the keys. A file
/// system that writes elsewhere, or a disk that does, may keep them nevertheless.
pub(crate) fn overwrite(mut old: File, bytes: &[u8]) -> std::io::Result<()> {
    old.seek(SeekFrom::Start(0))?;
    old.write_all(bytes)?;
    old.sync_all()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn read_key(path: &Path) -> Result<Zeroizing<[u8; 32]>, StoreError> {
    let missing = || StoreError::NoKey(path.display().to_string());
    let text = Zeroizing::new(read_if_there(path)?.ok_or_else(missing)?);
    let decoded = Zeroizing::new(STANDARD.decode(text.trim_ascii_end()).map_err(|_| missing())?);
    let key: [u8; 32] = decoded.as_slice().try_into().map_err(|_| missing())?;
    Ok(Zeroizing::new(key))
}

/// Returns the name of the period that a time falls in: `<yyyy-mm>-standard`, UTC.
pub(crate) fn period_of(ms: i64) -> String {
    let (year, month, _) = civil(u64::try_from(ms).unwrap_or(0));
    format!("{year:04}-{month:02}-{CLASS}")
}

/// Checks that a name is that of a period, `<yyyy-mm>-standard`: rows name them, and they name files.
///
/// # Errors
/// [`StoreError::Corrupt`].
pub(crate) fn check_period(name: &str) -> Result<(), StoreError> {
    let month = name.strip_suffix(CLASS).and_then(|rest| rest.strip_suffix('-'));
    let digits = |text: &str, n| text.len() == n && text.bytes().all(|b| b.is_ascii_digit());
    match month.and_then(|month| month.split_once('-')) {
        Some((year, month))
            if digits(year, 4) && digits(month, 2) && ("01"..="12").contains(&month) =>
        {
            Ok(())
        }
        _ => Err(StoreError::corrupt(format!("`{name}` is not the name of a period"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_calendar_months() {
        for (ms, period) in [
            (0, "1970-01-standard"),
            (951_868_799_999, "2000-02-standard"),
            (951_868_800_000, "2000-03-standard"),
            (1_767_225_599_999, "2025-12-standard"),
            (1_767_225_600_000, "2026-01-standard"),
        ] {
            assert_eq!(period_of(ms), period, "{ms}");
        }
    }

    #[test]
    fn only_the_name_of_a_period_leads_to_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("keys");
        let keys = Keystore::create(&folder).unwrap();
        keys.make_period("2026-11-standard").unwrap();
        let absolute = folder.join("tenant").display().to_string();
        for name in [
            "../tenant",
            "../periods/2026-11-standard",
            absolute.as_str(),
            "",
            "2026-00-standard",
            "2026-13-standard",
            "+026-11-standard",
            "2026-11-standard/",
            "2026-11-other",
            "2026-11standard",
            "2026-1-1-standard",
        ] {
            assert!(matches!(keys.destroy_period(name), Err(StoreError::Corrupt { .. })), "{name}");
            assert!(matches!(keys.make_period(name), Err(StoreError::Corrupt { .. })), "{name}");
        }
        assert!(folder.join("tenant.kek").metadata().unwrap().len() > 0);
        std::fs::write(folder.join("periods/other.kek"), "x").unwrap();
        assert_eq!(keys.periods().unwrap(), ["2026-11-standard"]);
        keys.destroy_period("2026-11-standard").unwrap();
        assert_eq!(keys.periods().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_destroyed_key_is_gone_and_its_neighbours_stay() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("keys");
        let keys = Keystore::create(&folder).unwrap();
        for shard in 0..3 {
            keys.make_shard(shard).unwrap();
        }
        let (path, before) = (folder.join("subjects/1.keks"), keys.subject(301).unwrap());
        let wrapped = std::fs::read(&path).unwrap()[44 * WRAPPED_KEY_BYTES..][..8].to_vec();
        for _ in 0..2 {
            keys.destroy_subjects(&[300, 2]).unwrap();
        }
        for keys in [keys, Keystore::open(&folder).unwrap()] {
            assert!(matches!(keys.subject(300), Err(StoreError::NoKey(_))));
            assert!(matches!(keys.subject(2), Err(StoreError::NoKey(_))));
            assert_eq!(keys.subject(301).unwrap().expose(), before.expose());
            assert!(keys.subject(3).is_ok());
            assert_eq!(keys.after_destroyed(1).unwrap(), 301);
            assert_eq!(keys.after_destroyed(299).unwrap(), 301);
            assert_eq!(keys.after_destroyed(400).unwrap(), 400);
        }
        let after = std::fs::read(&path).unwrap();
        assert!(!after.windows(8).any(|bytes| bytes == wrapped));
        assert!(Keystore::open(&folder).unwrap().destroy_subjects(&[900]).is_err());
    }

    #[test]
    fn keys_survive_a_restart_and_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("keys");
        let keys = Keystore::create(&folder).unwrap();
        keys.make_shard(1).unwrap();
        keys.make_period("2026-11-standard").unwrap();
        let again = Keystore::open(&folder).unwrap();
        assert_eq!(keys.subject(300).unwrap().expose(), again.subject(300).unwrap().expose());
        assert_ne!(keys.subject(300).unwrap().expose(), keys.subject(301).unwrap().expose());
        let period = "2026-11-standard";
        assert_eq!(keys.period(period).unwrap().expose(), again.period(period).unwrap().expose());
        assert_eq!(keys.pseudonym("a").unwrap(), again.pseudonym("a").unwrap());
        assert!(matches!(Keystore::create(&folder), Err(StoreError::Exists(_))));
        assert!(matches!(keys.log_key("a.example"), Err(StoreError::NoKey(_))));
        Keystore::make_log_key(&folder).unwrap();
        let made = keys.log_key("a.example").unwrap().verifier_key();
        Keystore::make_log_key(&folder).unwrap();
        assert_eq!(again.log_keys("a.example").unwrap(), [made], "it is made once");
        #[cfg(unix)]
        for (name, mode) in [("", 0o700), ("log.key", 0o600), ("subjects/1.keks", 0o600)] {
            use std::os::unix::fs::PermissionsExt as _;
            let found = std::fs::metadata(folder.join(name)).unwrap().permissions().mode();
            assert_eq!(found & 0o777, mode, "{name}");
        }
    }

    #[test]
    fn a_swapped_slot_does_not_open() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("keys");
        Keystore::create(&folder).unwrap().make_shard(0).unwrap();
        let path = folder.join("subjects/0.keks");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.rotate_left(WRAPPED_KEY_BYTES);
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(Keystore::open(&folder).unwrap().subject(0), Err(StoreError::NoKey(_))));
    }
}
