//! Unique identifiers made from content: the same result has the same identifiers everywhere, and any
//! difference gives others.

use sha2::{Digest, Sha256};

/// Collects the content of an object.
#[derive(Clone)]
pub(super) struct Content(Sha256);

impl Content {
    /// Content of this version of medseg: another version is another maker.
    pub fn new() -> Self {
        Self(Sha256::new()).with(concat!("medseg ", env!("CARGO_PKG_VERSION")).as_bytes())
    }

    /// Adds a part. Its length counts too, so that parts cannot run into each other.
    #[must_use]
    pub fn with(mut self, part: &[u8]) -> Self {
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
        self
    }

    /// The identifier of this content in a role: `2.25.` and a UUID as a number (PS3.5 B.2). The UUID is
    /// of version 8, whose bits are ours to choose (RFC 9562).
    pub fn uid(&self, role: &str) -> String {
        let digest = self.clone().with(role.as_bytes()).0.finalize();
        let mut uuid = digest
            .iter()
            .take(16)
            .fold(0_u128, |number, &byte| number << 8 | u128::from(byte));
        uuid &= !(0xf << 76 | 0x3 << 62);
        uuid |= 0x8 << 76 | 0x2 << 62;
        format!("2.25.{uuid}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_and_role_decide() {
        let uid = Content::new().with(b"ab").with(b"c").uid("series");
        assert_eq!(uid, Content::new().with(b"ab").with(b"c").uid("series"));
        assert_ne!(uid, Content::new().with(b"a").with(b"bc").uid("series"));
        assert_ne!(uid, Content::new().with(b"ab").with(b"c").uid("instance"));
        assert!(uid.len() <= 64 && uid.starts_with("2.25."));
        let number: u128 = uid[5..].parse().unwrap();
        assert_eq!((number >> 76 & 0xf, number >> 62 & 3), (8, 2));
    }
}
