//! The credential of the control plane.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// The start of every control token.
pub(crate) const PREFIX: &str = "cst_";

/// Random bytes in a token.
pub(crate) const SECRET_BYTES: usize = 32;

/// A secret of 256 random bits, written `cst_` and 64 lower-case hexadecimal digits.
///
/// Whoever has it operates the gateway. It has no readable form but [`ControlToken::expose`].
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "key material")]
pub struct ControlToken(Zeroizing<String>);

/// Says why there is no control token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read or written.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The file has something else.
    #[error("`{}` is not a control token", .0.display())]
    Malformed(PathBuf),
    /// The operating system gives no random numbers.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

impl ControlToken {
    /// Reads the token in a file.
    ///
    /// # Errors
    ///
    /// [`TokenError::Io`], [`TokenError::Malformed`].
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let io = |source| TokenError::Io { path: path.to_owned(), source };
        let text = Zeroizing::new(fs::read_to_string(path).map_err(io)?);
        Self::parse(text.trim_end()).ok_or_else(|| TokenError::Malformed(path.to_owned()))
    }

    /// Reads the token in a file, or makes one, readable by its owner alone, if there is no file.
    ///
    /// # Errors
    ///
    /// [`TokenError::Io`], [`TokenError::Malformed`], [`TokenError::Random`].
    pub fn read_or_create(path: &Path) -> Result<Self, TokenError> {
        match Self::read(path) {
            Err(TokenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Self::create(path)
            }
            read => read,
        }
    }

    fn create(path: &Path) -> Result<Self, TokenError> {
        let secret = random_hex::<SECRET_BYTES>()?;
        let text = Zeroizing::new(format!("{PREFIX}{}", secret.as_str()));
        let mut options = File::options();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let write = || {
            let mut file = options.open(path)?;
            file.write_all(text.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()
        };
        write().map_err(|source| TokenError::Io { path: path.to_owned(), source })?;
        Ok(Self(text))
    }

    fn parse(text: &str) -> Option<Self> {
        let secret = text.strip_prefix(PREFIX)?;
        let is_hex = secret.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (is_hex && secret.len() == 2 * SECRET_BYTES).then(|| Self(text.to_owned().into()))
    }

    /// Returns the token's text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Tells whether `presented` is this token, in a time that depends on its length alone.
    #[must_use]
    pub fn fits(&self, presented: &str) -> bool {
        self.0.as_bytes().ct_eq(presented.as_bytes()).into()
    }
}

/// Returns random bytes in lower-case hexadecimal digits.
pub(crate) fn random_hex<const N: usize>() -> Result<Zeroizing<String>, getrandom::Error> {
    let mut bytes = Zeroizing::new([0_u8; N]);
    getrandom::fill(bytes.as_mut_slice())?;
    let mut text = Zeroizing::new(String::with_capacity(2 * N));
    for byte in bytes.iter() {
        for nibble in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(u32::from(nibble), 16));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.token");
        let made = ControlToken::read_or_create(&path).unwrap();
        assert!(made.fits(ControlToken::read_or_create(&path).unwrap().expose()));
        assert!(!made.fits(made.expose().trim_start_matches('c')));
        assert!(!made.fits(""));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_file_with_something_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.token");
        let hex = "0123456789abcdef".repeat(4);
        for (text, ok) in [
            (format!("cst_{hex}\n"), true),
            (format!("cst_{hex}"), true),
            (format!("csk_{hex}"), false),
            (format!("cst_{}", hex.to_uppercase()), false),
            (format!("cst_{hex}00"), false),
            ("cst_".to_owned(), false),
            (String::new(), false),
        ] {
            fs::write(&path, &text).unwrap();
            assert_eq!(ControlToken::read_or_create(&path).is_ok(), ok, "{text:?}");
        }
    }
}
