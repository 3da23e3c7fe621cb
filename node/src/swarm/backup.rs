//! A backup of the root's key: a PKCS#8 file (RFC 5958), encrypted with a passphrase.
//!
//! PBES2 (RFC 8018) with scrypt (RFC 7914) and AES-256: what `openssl pkey -in FILE` reads, should
//! there ever be no ipdc at hand. The cipher has no checksum of its own: a wrong passphrase is known
//! by what comes out being no key, and a key by the swarm that it is the root of.

use libp2p_identity::Keypair;
use pkcs8::der::asn1::OctetStringRef;
use pkcs8::der::pem::PemLabel as _;
use pkcs8::der::{Decode as _, Encode as _};
use pkcs8::pkcs5::{pbes2, scrypt};
use pkcs8::spki::AlgorithmIdentifierRef;
use pkcs8::{
    EncryptedPrivateKeyInfoRef, LineEnding, ObjectIdentifier, PrivateKeyInfoRef, SecretDocument,
};

/// Ed25519 (RFC 8410).
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// The longest backup that is read, in bytes; a real one has about 400.
pub const BACKUP_LIMIT: u64 = 16 * 1024;

/// The shortest passphrase, in characters.
pub const PASSPHRASE_MIN: usize = 12;

/// scrypt's cost: 16 MiB and five rounds, about 0.3 s for a guess. The memory is what OpenSSL takes at
/// most; OWASP's advice for it is five rounds.
const COST: (u8, u32, u32) = (14, 8, 5);

/// A backup cannot be made or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
pub enum BackupError {
    /// A passphrase that can be guessed protects nothing.
    #[error("the passphrase has fewer than {PASSPHRASE_MIN} characters")]
    #[diagnostic(
        code("IPDC-2011"),
        help("who has the file can try passphrases for years: take several words")
    )]
    Short,
    /// It is no backup of a root's key.
    #[error("the file is no backup of a root's key")]
    #[diagnostic(code("IPDC-2012"), help("`ipdc root export FILE` writes one"))]
    Form,
    /// Nothing sensible came out.
    #[error("the passphrase does not open the backup")]
    #[diagnostic(code("IPDC-2013"), help("check keyboard and case; nothing was changed"))]
    Passphrase,
}

/// `root_key`, encrypted.
///
/// # Errors
/// When the passphrase is too short.
pub fn seal(root_key: &Keypair, passphrase: &str) -> Result<String, BackupError> {
    if passphrase.chars().count() < PASSPHRASE_MIN {
        return Err(BackupError::Short);
    }
    let key = root_key.clone().try_into_ed25519().map_err(|_| BackupError::Form)?;
    let (log_n, r, p) = COST;
    let cost = scrypt::Params::new(log_n, r, p).map_err(|_| BackupError::Form)?;
    let (salt, iv): ([u8; 16], [u8; 16]) = (rand::random(), rand::random());
    let sealed = || -> Result<_, pkcs8::Error> {
        // The key is an octet string in the octet string.
        let seed = OctetStringRef::new(&key.to_bytes()[..32])?.to_der()?;
        let algorithm = AlgorithmIdentifierRef { oid: ED25519, parameters: None };
        let info = PrivateKeyInfoRef::new(algorithm, OctetStringRef::new(&seed)?);
        let parameters = pbes2::Parameters::generate_scrypt_aes256cbc(cost, &salt, iv)?;
        let sealed = info.encrypt_with_params(parameters, passphrase)?;
        Ok(sealed.to_pem(EncryptedPrivateKeyInfoRef::PEM_LABEL, LineEnding::LF)?.to_string())
    };
    sealed().map_err(|_| BackupError::Form)
}

/// The key that `backup` holds.
///
/// # Errors
/// When it is no backup, or the passphrase is not that of it.
pub fn open(backup: &str, passphrase: &str) -> Result<Keypair, BackupError> {
    let (label, sealed) = SecretDocument::from_pem(backup).map_err(|_| BackupError::Form)?;
    EncryptedPrivateKeyInfoRef::validate_pem_label(label).map_err(|_| BackupError::Form)?;
    let sealed =
        EncryptedPrivateKeyInfoRef::try_from(sealed.as_bytes()).map_err(|_| BackupError::Form)?;
    let cost = sealed.encryption_algorithm.pbes2().and_then(|pbes2| pbes2.kdf.scrypt());
    // Another's file could ask for gigabytes.
    if !cost.is_some_and(is_ours) {
        return Err(BackupError::Form);
    }
    let key = || -> Result<_, pkcs8::Error> {
        let plain = sealed.decrypt(passphrase)?;
        let info = PrivateKeyInfoRef::try_from(plain.as_bytes())?;
        info.algorithm.assert_algorithm_oid(ED25519)?;
        Ok(<&OctetStringRef>::from_der(info.private_key.as_bytes())?.as_bytes().to_vec())
    };
    let mut seed = key().map_err(|_| BackupError::Passphrase)?;
    Keypair::ed25519_from_bytes(&mut seed).map_err(|_| BackupError::Passphrase)
}

fn is_ours(cost: &pbes2::ScryptParams) -> bool {
    let (log_n, r, p) = COST;
    let asked = (u32::from(cost.block_size), u32::from(cost.parallelization));
    cost.cost_parameter == 1 << log_n && asked == (r, p)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const WORDS: &str = "seven geese over the fen";

    #[test]
    fn a_backup_opens_with_its_passphrase_only() {
        let key = Keypair::generate_ed25519();
        let backup = seal(&key, WORDS).unwrap();
        assert!(backup.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"), "{backup}");
        let opened = open(&backup, WORDS).unwrap();
        assert_eq!(opened.public(), key.public());
        let wrong = open(&backup, "seven geese over the fin").map(|key| key.public());
        assert_eq!(wrong.unwrap_err(), BackupError::Passphrase);
    }

    #[test]
    fn a_passphrase_that_can_be_guessed_is_refused() {
        let key = Keypair::generate_ed25519();
        assert_eq!(seal(&key, "geese").unwrap_err(), BackupError::Short);
    }

    #[test]
    fn what_is_no_backup_is_refused() {
        let key = Keypair::generate_ed25519();
        let backup = seal(&key, WORDS).unwrap();
        for text in ["", "root", &backup[..100], &backup.replace("ENCRYPTED ", "")] {
            assert_eq!(open(text, WORDS).map(|_| ()), Err(BackupError::Form), "{text}");
        }
    }
}
