//! Limits that several crates share. Each has a unit in its name and a reason here.

/// Plaintext bytes of a cell: small enough that a ranged read wastes little, large enough that
/// AES-GCM, coding and checksums run at full speed (research: limits §1-2).
pub const CELL_BYTES: usize = 64 * 1024;
/// Bytes that sealing adds to a cell: AES-GCM's tag.
pub const SEAL_BYTES: usize = 16;
/// Bytes that a client's sealing adds to what lies in the metadata of an end-to-end volume: salt and tag.
pub const SEALED_BYTES_MORE: usize = 32;
/// Plaintext bytes of a segment at the most: a piece of it is rebuilt in one go.
pub const SEGMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Objects up to this many bytes are kept in the metadata itself.
pub const INLINE_BYTES_MAX: usize = 4096;
/// Objects above inline size and up to this many bytes share a pack.
pub const PACK_OBJECT_BYTES_MAX: usize = 1024 * 1024;
/// k + m at the most: GF(2^8) allows 255; 64 keeps headers with all roots within one block.
pub const CODE_PIECES_MAX: usize = 64;
/// S3: bytes of a key at the most.
pub const KEY_BYTES_MAX: usize = 1024;
