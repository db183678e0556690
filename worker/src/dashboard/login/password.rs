//! Passwords, tokens and their hashes.

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The minimum length of a password.
pub(crate) const SHORTEST: usize = 8;

/// Hashes a new password with argon2id and a fresh salt. This takes about 20 ms and 19 MiB.
pub(crate) fn hash(password: &str) -> Result<String, String> {
    if password.chars().count() < SHORTEST {
        return Err(format!("the password is too short: use {SHORTEST} characters or more"));
    }
    let hash: PasswordHash = Argon2::default()
        .hash_password(password.as_bytes())
        .map_err(|error| format!("cannot hash the password: {error}"))?;
    Ok(hash.to_string())
}

/// Returns whether `hash` is a hash of this password.
pub(super) fn verify(password: &str, hash: &str) -> bool {
    PasswordHash::new(hash)
        .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

/// True for a text that [`hash`] could have written.
pub(crate) fn is_hash(text: &str) -> bool {
    text.starts_with("$argon2") && PasswordHash::new(text).is_ok()
}

/// Returns an unguessable text: 244 random bits.
pub(crate) fn random_key() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

/// Hashes a [random key](random_key), which does not need a slow hash.
pub(crate) fn fingerprint(key: &str) -> String {
    Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compares secrets without revealing through timing where they differ.
pub(crate) fn is_same(one: &str, other: &str) -> bool {
    // Compare hashes: they have equal length, and an attacker cannot choose where they first differ.
    let (one, other) = (Sha256::digest(one.as_bytes()), Sha256::digest(other.as_bytes()));
    one.iter().zip(other.iter()).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_fits_its_own_hash_only() {
        let hashed = hash("correct horse").expect("a hash");
        assert!(is_hash(&hashed) && hashed.starts_with("$argon2id$"), "{hashed}");
        assert!(verify("correct horse", &hashed) && !verify("correct horsf", &hashed));
        assert_ne!(hash("correct horse").expect("a hash"), hashed, "each has its own salt");
        assert!(!verify("correct horse", "correct horse") && !is_hash("correct horse"));
        assert!(hash("short").expect_err("too short").contains("8 characters"));
    }

    #[test]
    fn keys_differ_and_compare() {
        assert_ne!(random_key(), random_key());
        assert!(is_same("a", "a") && !is_same("a", "b") && !is_same("a", "aa"));
        assert_eq!(fingerprint("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
