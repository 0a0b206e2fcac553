//! How a record lies in bytes: length (u32 LE), CRC-32 of length and payload (u32 LE), payload. Pure.

use std::ops::Range;

use super::RECORD_BYTES_MAX;

/// Length and checksum.
pub(super) const HEADER_BYTES: usize = 8;

/// Frames a payload. The caller has checked its size against [`RECORD_BYTES_MAX`].
pub(super) fn encode(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_le_bytes();
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame.extend_from_slice(&length);
    frame.extend_from_slice(&checksum(&length, payload).to_le_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// The whole records of a log, and what comes after them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scan {
    /// Where each payload lies.
    pub(super) payloads: Vec<Range<usize>>,
    /// Where the last whole record ends.
    pub(super) end: usize,
    /// Bytes from `end` on: a torn append.
    pub(super) torn_bytes: usize,
}

/// Bytes that no torn append explains.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// The first of them.
    pub(super) offset: usize,
    /// Why they cannot be a torn append.
    pub(super) detail: String,
}

/// Reads the longest run of whole records.
///
/// What follows is a torn tail only if no whole record starts anywhere in it: a flipped bit in a length would otherwise
/// make the rest of the log look torn, and it would be thrown away. The search cannot be fooled by a payload: JSON text
/// holds no zero byte, and the length of any record (at most 1 MiB) does.
pub(super) fn scan(bytes: &[u8]) -> Result<Scan, Damage> {
    let mut payloads = Vec::new();
    let mut end = 0;
    while let Some(payload) = payload_at(bytes, end) {
        end = payload.end;
        payloads.push(payload);
    }
    let torn_bytes = bytes.len() - end;
    if let Some(next) = (end + 1..bytes.len()).find(|offset| payload_at(bytes, *offset).is_some()) {
        return Err(Damage {
            offset: end,
            detail: format!("a whole record follows at byte {next}"),
        });
    }
    if torn_bytes >= HEADER_BYTES + RECORD_BYTES_MAX {
        return Err(Damage {
            offset: end,
            detail: format!("{torn_bytes} bytes follow, more than one record has"),
        });
    }
    Ok(Scan {
        payloads,
        end,
        torn_bytes,
    })
}

/// The payload of the whole record at `offset`, if there is one.
fn payload_at(bytes: &[u8], offset: usize) -> Option<Range<usize>> {
    let header = bytes.get(offset..offset + HEADER_BYTES)?;
    let (length, stored) = header.split_first_chunk::<4>()?;
    let size = u32::from_le_bytes(*length) as usize;
    if size == 0 || size > RECORD_BYTES_MAX {
        return None;
    }
    let start = offset + HEADER_BYTES;
    let payload = bytes.get(start..start + size)?;
    let stored = u32::from_le_bytes(*stored.first_chunk::<4>()?);
    (checksum(length, payload) == stored).then_some(start..start + size)
}

/// Over the length too: a flipped bit in it must not pass for a shorter record.
fn checksum(length: &[u8; 4], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(length);
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn log(payloads: &[String]) -> Vec<u8> {
        payloads.iter().flat_map(|payload| encode(payload.as_bytes())).collect()
    }

    fn texts(bytes: &[u8], scan: &Scan) -> Vec<String> {
        scan.payloads
            .iter()
            .map(|range| String::from_utf8_lossy(&bytes[range.clone()]).into_owned())
            .collect()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(payloads in prop::collection::vec("[ -~]{1,80}", 0..12)) {
            let bytes = log(&payloads);
            let scan = scan(&bytes).unwrap();
            prop_assert_eq!(texts(&bytes, &scan), payloads);
            prop_assert_eq!((scan.end, scan.torn_bytes), (bytes.len(), 0));
        }

        #[test]
        fn a_cut_keeps_exactly_the_whole_records(payloads in prop::collection::vec("[ -~]{1,40}", 1..6), cut in any::<prop::sample::Index>()) {
            let bytes = log(&payloads);
            let cut = cut.index(bytes.len() + 1);
            let mut ends = Vec::new();
            for payload in &payloads {
                ends.push(ends.last().unwrap_or(&0) + HEADER_BYTES + payload.len());
            }
            let whole = ends.iter().filter(|end| **end <= cut).count();
            let scan = scan(&bytes[..cut]).unwrap();
            prop_assert_eq!(texts(&bytes, &scan), &payloads[..whole]);
            prop_assert_eq!(scan.end + scan.torn_bytes, cut);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = scan(&bytes);
        }
    }

    #[test]
    fn a_tail_of_zeros_is_torn_and_not_a_record() {
        let mut bytes = encode(b"{}");
        let end = bytes.len();
        bytes.extend_from_slice(&[0; 64]);
        let scan = scan(&bytes).unwrap();
        assert_eq!(
            (texts(&bytes, &scan), scan.end, scan.torn_bytes),
            (vec!["{}".to_owned()], end, 64)
        );
    }

    #[test]
    fn a_tail_longer_than_any_record_is_damage() {
        let bytes = vec![0xff; HEADER_BYTES + RECORD_BYTES_MAX];
        assert_eq!(scan(&bytes).unwrap_err().offset, 0);
        assert!(scan(&bytes[1..]).is_ok());
    }
}
