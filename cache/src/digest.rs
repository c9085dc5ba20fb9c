//! The content digest: BLAKE3-256, one spelling.
//!
//! A digest names bytes, never a place. It is written as 64 lowercase hex digits everywhere (file names,
//! records, messages), and parsing accepts nothing else, so that two texts are equal exactly when the digests
//! are. BLAKE3 is a tree hash: a large file is hashed over a memory map on all cores.

use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Above this many bytes, splitting the work over threads is worth its cost.
const PARALLEL_BYTES: usize = 128 * 1024;

/// A BLAKE3-256 digest of content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a text is not a [`Digest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The text is not 64 bytes long.
    #[error("expected 64 hex digits, found {found} bytes")]
    Length {
        /// Length of the text, in bytes.
        found: usize,
    },
    /// A byte is not one of `0-9a-f`.
    #[error("expected lowercase hex digits, found another character at byte {at}")]
    Character {
        /// Offset of the first offending byte.
        at: usize,
    },
}

impl Digest {
    /// The digest of `bytes`; large inputs are hashed on all cores.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        update(&mut hasher, bytes);
        Self::finish(&hasher)
    }

    /// As [`Self::of_bytes`] on the calling thread alone: to start threads costs more than hashing a few megabytes, and the
    /// processor time of all cores is what a run in which nothing is to do should spare.
    pub fn of_bytes_here(bytes: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(bytes);
        Self::finish(&hasher)
    }

    /// The digest of a file's content, over a memory map and on all cores.
    ///
    /// The file must not be truncated meanwhile (the operating system answers that with `SIGBUS`).
    ///
    /// # Errors
    /// Whatever opening or reading the file answers.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_mmap_rayon(path)?;
        Ok(Self::finish(&hasher))
    }

    /// The digest whose raw bytes are given.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 12 hex digits: enough for a person, never for the machine.
    pub fn short(&self) -> String {
        String::from_utf8_lossy(&self.hex()[..12]).into_owned()
    }

    pub(crate) fn finish(hasher: &blake3::Hasher) -> Self {
        Self(*hasher.finalize().as_bytes())
    }

    /// The 64 hex digits, on the stack.
    pub(crate) fn hex(&self) -> [u8; 64] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = [0_u8; 64];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        hex
    }
}

/// A digest of bytes that come in pieces, on this core alone; what [`Digest::of_bytes_here`] says of all of them.
#[derive(Clone, Debug, Default)]
pub struct Pieces(blake3::Hasher);

impl Pieces {
    /// Adds the next piece.
    pub fn add(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The digest of all that was added.
    pub fn digest(&self) -> Digest {
        Digest::finish(&self.0)
    }
}

/// Feeds `bytes` to `hasher`, over several cores when there is enough of them.
pub(crate) fn update(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    if bytes.len() >= PARALLEL_BYTES {
        hasher.update_rayon(bytes);
    } else {
        hasher.update(bytes);
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&String::from_utf8_lossy(&self.hex()))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let hex = text.as_bytes();
        if hex.len() != 64 {
            return Err(DigestError::Length { found: hex.len() });
        }
        let mut bytes = [0_u8; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = (nibble(hex, 2 * i)? << 4) | nibble(hex, 2 * i + 1)?;
        }
        Ok(Self(bytes))
    }
}

fn nibble(hex: &[u8], at: usize) -> Result<u8, DigestError> {
    match hex[at] {
        digit @ b'0'..=b'9' => Ok(digit - b'0'),
        letter @ b'a'..=b'f' => Ok(letter - b'a' + 10),
        _ => Err(DigestError::Character { at }),
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from_utf8_lossy(&self.hex()))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HexText;
        impl Visitor<'_> for HexText {
            type Value = Digest;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a digest of 64 lowercase hex digits")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Digest, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(HexText)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BLAKE3's own test vector for the empty input.
    const EMPTY: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

    #[test]
    fn the_empty_input_has_the_published_digest() {
        assert_eq!(Digest::of_bytes(b"").to_string(), EMPTY);
        assert_eq!(Digest::of_bytes(b"").short(), "af1349b9f5f9");
    }

    #[test]
    fn a_file_has_the_digest_of_its_bytes_at_every_size_class() {
        let dir = tempfile::tempdir().unwrap();
        for len in [0_usize, 1, 1023, 16 * 1024, PARALLEL_BYTES - 1, PARALLEL_BYTES, 3_000_001] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
            let path = dir.path().join(len.to_string());
            std::fs::write(&path, &bytes).unwrap();
            let plain = Digest::from_bytes(*blake3::hash(&bytes).as_bytes());
            assert_eq!(Digest::of_file(&path).unwrap(), plain);
            assert_eq!((Digest::of_bytes(&bytes), Digest::of_bytes_here(&bytes)), (plain, plain));
        }
    }

    #[test]
    fn text_round_trips_and_other_spellings_are_refused() {
        let digest: Digest = EMPTY.parse().unwrap();
        assert_eq!(digest, Digest::of_bytes(b""));
        assert_eq!(serde_json::to_string(&digest).unwrap(), format!("\"{EMPTY}\""));
        assert_eq!("ab".parse::<Digest>(), Err(DigestError::Length { found: 2 }));
        assert_eq!(EMPTY.to_uppercase().parse::<Digest>(), Err(DigestError::Character { at: 0 }));
        let bad = EMPTY.replace("62", "6g");
        assert_eq!(bad.parse::<Digest>(), Err(DigestError::Character { at: 63 }));
        assert!(serde_json::from_str::<Digest>("\"xyz\"").is_err());
    }
}
