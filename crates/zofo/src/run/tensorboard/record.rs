//! TFRecord, the framing of event files, as `tensorflow/core/lib/io/record_writer.h` describes it.

use prost::Message;

/// A message between its length and its checksum: `u64` length, `u32` checksum of the length, the message, `u32` checksum
/// of the message; all little-endian.
pub(super) fn framed(message: &impl Message) -> Vec<u8> {
    let data = message.encode_to_vec();
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &checksum(&length), &data, &checksum(&data)].concat()
}

/// CRC-32C, masked: a checksum of data that hold checksums would be weak otherwise.
fn checksum(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}
