//! A timestamp authority (RFC 3161) made of OpenSSL's program, with a certificate authority of its own.

use std::fs;
use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the program reads; each section of extensions makes another kind of certificate.
const CONFIG: &str = "
[req]
distinguished_name = name
prompt = no
[name]
CN = Test
[ca]
default_ca = issuing
[issuing]
database = index.txt
new_certs_dir = .
default_md = sha256
rand_serial = yes
unique_subject = no
policy = any
[any]
commonName = supplied
[root]
basicConstraints = critical,CA:true
keyUsage = critical,keyCertSign
[timestamps]
basicConstraints = critical,CA:false
keyUsage = critical,digitalSignature
extendedKeyUsage = critical,timeStamping
[uncritical]
basicConstraints = critical,CA:false
extendedKeyUsage = timeStamping
[two_purposes]
basicConstraints = critical,CA:false
extendedKeyUsage = critical,timeStamping,serverAuth
[no_purpose]
basicConstraints = critical,CA:false
[server]
basicConstraints = critical,CA:false
extendedKeyUsage = critical,serverAuth
[answers]
serial = serial
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha512
accuracy = secs:1, millisecs:500
clock_precision_digits = 3
ess_cert_id_alg = sha256
";

/// A `PKIStatusInfo` that grants: a sequence of the number 0.
const GRANTED: [u8; 5] = [0x30, 3, 2, 1, 0];

/// An authority in a folder, with its keys, its root, and a certificate that expires in 2040.
#[derive(Debug)]
pub struct TimestampAuthority {
    folder: PathBuf,
}

impl TimestampAuthority {
    /// Makes an authority in an existing empty folder, with a key like `rsa:2048` or `ec:P-256`.
    ///
    /// # Errors
    /// If the program `openssl` is not installed, or fails.
    pub fn new(folder: &Path, key: &str) -> Result<Self> {
        let authority = Self { folder: folder.to_owned() };
        fs::write(folder.join("openssl.cnf"), CONFIG)?;
        fs::write(folder.join("index.txt"), "")?;
        fs::write(folder.join("serial"), "01\n")?;
        authority.key("root.key", key)?;
        authority.run(
            "req -x509 -config openssl.cnf -extensions root -subj /CN=Root -days 7300 -key root.key \
             -out root.pem",
        )?;
        authority.key("tsa.key", key)?;
        authority.certify("timestamps", "20250101000000Z", "20400101000000Z")?;
        Ok(authority)
    }

    /// Gives the authority another certificate: of a section of the configuration, for this time.
    ///
    /// # Errors
    /// If the program fails.
    pub fn certify(&self, section: &str, from: &str, to: &str) -> Result<()> {
        self.run("req -new -config openssl.cnf -subj /CN=Authority -key tsa.key -out tsa.csr")?;
        self.run(&format!(
            "ca -batch -notext -config openssl.cnf -extensions {section} -startdate {from} \
             -enddate {to} -cert root.pem -keyfile root.key -in tsa.csr -out tsa.pem"
        ))
    }

    /// The file with the certificate that its own leads to.
    #[must_use]
    pub fn roots(&self) -> PathBuf {
        self.folder.join("root.pem")
    }

    /// Answers a request, as `openssl ts` does.
    ///
    /// # Errors
    /// If the program fails.
    pub fn reply(&self, request: &[u8]) -> Result<Vec<u8>> {
        fs::write(self.folder.join("query.tsq"), request)?;
        self.run(
            "ts -reply -config openssl.cnf -section answers -queryfile query.tsq -signer tsa.pem \
             -inkey tsa.key -out reply.tsr",
        )?;
        fs::read(self.folder.join("reply.tsr"))
    }

    /// Returns what is signed in an answer, the `TSTInfo`.
    ///
    /// # Errors
    /// If the program fails.
    pub fn signed_in(&self, reply: &[u8]) -> Result<Vec<u8>> {
        fs::write(self.folder.join("reply.tsr"), reply)?;
        self.run("ts -reply -config openssl.cnf -in reply.tsr -token_out -out token.der")?;
        self.run("cms -verify -noverify -inform DER -in token.der -out info.der")?;
        fs::read(self.folder.join("info.der"))
    }

    /// Signs any bytes as if they were a `TSTInfo`, also with a certificate that `openssl ts` refuses.
    ///
    /// # Errors
    /// If the program fails.
    pub fn sign(&self, info: &[u8]) -> Result<Vec<u8>> {
        fs::write(self.folder.join("info.der"), info)?;
        self.run(
            "cms -sign -binary -nodetach -cades -md sha256 -econtent_type 1.2.840.113549.1.9.16.1.4 \
             -in info.der -signer tsa.pem -inkey tsa.key -outform DER -out token.der",
        )?;
        let token = fs::read(self.folder.join("token.der"))?;
        let length = u16::try_from(GRANTED.len() + token.len()).map_err(Error::other)?;
        Ok([&[0x30, 0x82], &length.to_be_bytes()[..], &GRANTED, &token].concat())
    }

    /// Returns whether the program itself takes an answer for a timestamp of these bytes.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn openssl_verifies(&self, reply: &[u8], stamped: &[u8]) -> Result<bool> {
        fs::write(self.folder.join("reply.tsr"), reply)?;
        fs::write(self.folder.join("stamped"), stamped)?;
        Ok(self.run("ts -verify -in reply.tsr -data stamped -CAfile root.pem").is_ok())
    }

    fn key(&self, file: &str, kind: &str) -> Result<()> {
        let option = match kind.split_once(':') {
            Some(("rsa", bits)) => format!("RSA -pkeyopt rsa_keygen_bits:{bits}"),
            Some(("ec", curve)) => format!("EC -pkeyopt ec_paramgen_curve:{curve}"),
            _ => return Err(Error::other(format!("`{kind}` is no kind of key"))),
        };
        self.run(&format!("genpkey -algorithm {option} -out {file}"))
    }

    fn run(&self, arguments: &str) -> Result<()> {
        let mut command = Command::new("openssl");
        command.args(arguments.split_whitespace()).current_dir(&self.folder).stdin(Stdio::null());
        let output = command.output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Error::other(format!("openssl {arguments}: {said}")))
    }
}
