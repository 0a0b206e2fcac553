//! The three identities that journal and sink share: who drives, what text, which write.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The number of a job's driver: 1 for the first, one more for each that takes over. Higher fences lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(u64);

impl Generation {
    /// The first driver of a job. Nobody can have written before it, so it needs no claim at a destination.
    pub const FIRST: Self = Self(1);

    /// A generation by number; zero counts as the first.
    pub const fn new(number: u64) -> Self {
        Self(if number == 0 { 1 } else { number })
    }

    /// The generation that takes over from this one.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The plain number, at least 1.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// 128 bits of FNV-1a over length-prefixed pieces: stable across builds and machines, which `std`'s hasher is not.
///
/// It tells an edited job from the same job, and one statement from another. It is no defence against a forger: who can
/// write the journal can do worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Fingerprint(u128);

impl Fingerprint {
    const OFFSET_BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

    /// The fingerprint of the pieces in this order. Each piece's length goes in first, so that ("ab", "c") differs from
    /// ("a", "bc").
    pub fn of<P: AsRef<[u8]>>(pieces: impl IntoIterator<Item = P>) -> Self {
        let mut hash = Self::OFFSET_BASIS;
        let mut feed = |bytes: &[u8]| {
            for byte in bytes {
                hash = (hash ^ u128::from(*byte)).wrapping_mul(Self::PRIME);
            }
        };
        for piece in pieces {
            let piece = piece.as_ref();
            feed(&(piece.len() as u64).to_le_bytes());
            feed(piece);
        }
        Self(hash)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

/// A text that is not 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is not a fingerprint of 32 hexadecimal digits")]
pub struct InvalidFingerprint {
    text: String,
}

impl TryFrom<String> for Fingerprint {
    type Error = InvalidFingerprint;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match u128::from_str_radix(&text, 16) {
            Ok(hash) if text.len() == 32 => Ok(Self(hash)),
            Ok(_) | Err(_) => Err(InvalidFingerprint { text }),
        }
    }
}

/// The name of one write of one job: the same for every driver of the job, so that at most one of them can commit it.
///
/// 1 to 64 letters, digits or dashes. It is part of file names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct WriteId(String);

impl WriteId {
    const LENGTH_MAX: usize = 64;

    /// The write of statement `index` (from 0) of one run of a job. `run` must be the same for all drivers of that run
    /// and differ between runs: the run's UID, say. A driver without a journal finds its committed writes by this.
    pub fn for_statement(run: &str, index: u32) -> Self {
        Self(Fingerprint::of([run.as_bytes(), &index.to_le_bytes()]).to_string())
    }

    /// The text of the id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WriteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<WriteId> for String {
    fn from(id: WriteId) -> Self {
        id.0
    }
}

/// A text that cannot be a write id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is not a write id of 1 to 64 letters, digits or dashes")]
pub struct InvalidWriteId {
    text: String,
}

impl TryFrom<String> for WriteId {
    type Error = InvalidWriteId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let fits = (1..=Self::LENGTH_MAX).contains(&text.len());
        if fits && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            Ok(Self(text))
        } else {
            Err(InvalidWriteId { text })
        }
    }
}

impl FromStr for WriteId {
    type Err = InvalidWriteId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::try_from(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_the_published_fnv_1a_and_keeps_pieces_apart() {
        // The 8 zero bytes of an empty piece's length leave only multiplications by the prime.
        let mut hash = Fingerprint::OFFSET_BASIS;
        for _ in 0..8 {
            hash = hash.wrapping_mul(Fingerprint::PRIME);
        }
        assert_eq!(Fingerprint::of([""]), Fingerprint(hash));
        assert_ne!(Fingerprint::of(["ab", "c"]), Fingerprint::of(["a", "bc"]));
        assert_ne!(Fingerprint::of(["a"]), Fingerprint::of(["a", ""]));
    }

    #[test]
    fn a_fingerprint_survives_its_text() {
        let fingerprint = Fingerprint::of(["SELECT 1"]);
        assert_eq!(Fingerprint::try_from(fingerprint.to_string()), Ok(fingerprint));
        assert!(Fingerprint::try_from("12".to_owned()).is_err());
    }

    #[test]
    fn a_write_id_cannot_leave_its_folder() {
        for bad in ["", "a/b", "..", "a.b", "ä", &"x".repeat(65)] {
            assert!(bad.parse::<WriteId>().is_err(), "{bad:?}");
        }
        assert!("0190-abc".parse::<WriteId>().is_ok());
        assert_ne!(WriteId::for_statement("run", 0), WriteId::for_statement("run", 1));
    }
}
