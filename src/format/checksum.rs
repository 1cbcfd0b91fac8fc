//! The checksum that every record carries: CRC-32C with the register preset to `0xFFFF_FFFE` and no final inversion.

/// The checksum of `bytes`.
///
/// The `crc32c` crate inverts the register before and after: preset 1 becomes `0xFFFF_FFFE`, and a second inversion
/// takes back the last one.
pub fn checksum(bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(1, bytes)
}

/// The checksum of several stretches as if they were one.
pub(super) fn checksum_of(parts: &[&[u8]]) -> u32 {
    !parts.iter().fold(1, |state, part| crc32c::crc32c_append(state, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_values() {
        assert_eq!(checksum(b"123456789"), 0xe8c7_bb34);
        assert_eq!(checksum(&[0; 48]), 0xcb5a_d842);
        assert_eq!(checksum(b""), 0xffff_fffe);
    }

    #[test]
    fn parts_count_as_one_stretch() {
        assert_eq!(checksum_of(&[b"12", b"", b"3456789"]), checksum(b"123456789"));
    }
}
