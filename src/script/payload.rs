//! The payload of FUNCTION DUMP: sources in the form of Redis's database file, with version and sum.

use crate::resp::Error;

/// The version that is written: that of Redis 7.0, which later versions read.
const VERSION: u16 = 10;
/// The newest version that is read: that of Redis 7.2.
const VERSION_MAX: u16 = 11;
/// Stands before the source of a library.
const FUNCTION: u8 = 245;
/// The same in a form that only release candidates wrote.
const FUNCTION_OLD: u8 = 246;
/// Version and sum.
const FOOTER: usize = 2 + 8;

/// A payload with these sources.
pub fn write<'a>(sources: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    for source in sources {
        out.push(FUNCTION);
        match source.len() {
            len @ 0..0x40 => out.push(len as u8),
            len @ 0x40..0x4000 => out.extend_from_slice(&(len as u16 | 0x4000).to_be_bytes()),
            len => match u32::try_from(len) {
                Ok(len) => {
                    out.push(0x80);
                    out.extend_from_slice(&len.to_be_bytes());
                }
                Err(_) => {
                    out.push(0x81);
                    out.extend_from_slice(&(len as u64).to_be_bytes());
                }
            },
        }
        out.extend_from_slice(source);
    }
    out.extend_from_slice(&VERSION.to_le_bytes());
    let sum = crc64(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

/// The sources in a payload.
///
/// # Errors
/// The reply of Redis.
pub fn read(payload: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    const SPOILED: Error = Error::fixed("ERR DUMP payload version or checksum are wrong");
    let (body, footer) = payload.split_last_chunk::<FOOTER>().ok_or(SPOILED)?;
    let (version, sum) = footer.split_at(2);
    let summed = &payload[..body.len() + 2];
    if u16::from_le_bytes([version[0], version[1]]) > VERSION_MAX
        || crc64(summed).to_le_bytes() != sum
    {
        return Err(SPOILED);
    }
    let mut rest = body;
    let mut sources = Vec::new();
    while let Some((kind, after)) = rest.split_first() {
        rest = after;
        match *kind {
            FUNCTION => {}
            FUNCTION_OLD => {
                return Err(Error::fixed("ERR Pre-GA function format not supported"));
            }
            _ => return Err(Error::fixed("ERR given type is not a function")),
        }
        let source = text(&mut rest);
        sources.push(source.ok_or(Error::fixed("ERR Failed loading library payload"))?);
    }
    Ok(sources)
}

/// Reads a string and moves `rest` behind it; `None` if it is damaged.
fn text(rest: &mut &[u8]) -> Option<Vec<u8>> {
    const INTEGER_8: u8 = 0xc0;
    const INTEGER_16: u8 = 0xc1;
    const INTEGER_32: u8 = 0xc2;
    const PACKED: u8 = 0xc3;
    match *rest.first()? {
        INTEGER_8 => {
            let [_, value] = take(rest)?;
            Some((value as i8).to_string().into_bytes())
        }
        INTEGER_16 => {
            let [_, low, high] = take(rest)?;
            Some(i16::from_le_bytes([low, high]).to_string().into_bytes())
        }
        INTEGER_32 => {
            let [_, bytes @ ..] = take::<5>(rest)?;
            Some(i32::from_le_bytes(bytes).to_string().into_bytes())
        }
        PACKED => {
            *rest = &rest[1..];
            let packed_len = length(rest)?;
            let len = length(rest)?;
            let (packed, after) = rest.split_at_checked(packed_len)?;
            *rest = after;
            unpack(packed, len)
        }
        _ => {
            let len = length(rest)?;
            let (text, after) = rest.split_at_checked(len)?;
            *rest = after;
            Some(text.to_vec())
        }
    }
}

fn length(rest: &mut &[u8]) -> Option<usize> {
    let first = *rest.first()?;
    match first >> 6 {
        0 => {
            *rest = &rest[1..];
            Some(usize::from(first))
        }
        1 => Some(usize::from(u16::from_be_bytes(take(rest)?) & 0x3fff)),
        2 if first == 0x80 => {
            let [_, bytes @ ..] = take::<5>(rest)?;
            Some(u32::from_be_bytes(bytes) as usize)
        }
        2 if first == 0x81 => {
            let [_, bytes @ ..] = take::<9>(rest)?;
            usize::try_from(u64::from_be_bytes(bytes)).ok()
        }
        _ => None,
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*bytes)
}

/// Undoes LZF; `None` unless exactly `len` bytes come out.
fn unpack(packed: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = packed;
    while let Some((control, after)) = rest.split_first() {
        rest = after;
        let control = usize::from(*control);
        if control < 32 {
            // So many plain bytes, and one.
            let (plain, after) = rest.split_at_checked(control + 1)?;
            rest = after;
            out.extend_from_slice(plain);
        } else {
            let mut count = control >> 5;
            if count == 7 {
                let [more] = take(&mut rest)?;
                count += usize::from(more);
            }
            let [low] = take(&mut rest)?;
            let back = ((control & 0x1f) << 8 | usize::from(low)) + 1;
            let from = out.len().checked_sub(back)?;
            // One by one: what is copied may reach into what is being written.
            for at in from..from + count + 2 {
                out.push(out[at]);
            }
        }
        if out.len() > len {
            return None;
        }
    }
    (out.len() == len).then_some(out)
}

/// CRC-64 as Redis computes it (Jones's polynomial, reflected, nothing inverted).
fn crc64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| {
        CRC_TABLE[usize::from(sum as u8 ^ byte)] ^ sum >> 8
    })
}

const CRC_TABLE: [u64; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let mut sum = at as u64;
        let mut bit = 0;
        while bit < 8 {
            let carry = sum & 1;
            sum >>= 1;
            if carry == 1 {
                sum ^= 0x95ac_9329_ac4b_c9b5;
            }
            bit += 1;
        }
        table[at] = sum;
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_redis() {
        assert_eq!(crc64(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
        // FUNCTION DUMP of redis-server 7.0.15 without libraries.
        assert_eq!(
            write(std::iter::empty()),
            b"\n\0\x5d\x9b\x5c\x40\x0f\x7f\xa2\xda"
        );
    }

    #[test]
    fn sources_of_any_length_come_back() {
        for len in [0, 1, 63, 64, 0x3fff, 0x4000, 70_000] {
            let source = vec![b'x'; len];
            let payload = write([&source[..], b"y"].into_iter());
            let read = read(&payload).expect("it was just written");
            assert_eq!(read, [source, b"y".to_vec()]);
        }
    }

    #[test]
    fn a_damaged_payload_is_refused() {
        let payload = write([&b"#!lua name=a\n"[..]].into_iter());
        for at in 0..payload.len() {
            let mut spoiled = payload.clone();
            spoiled[at] ^= 1;
            assert!(read(&spoiled).is_err(), "byte {at}");
            assert!(read(&payload[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn packed_text_is_unpacked() {
        // "abc", then three back for eleven bytes.
        assert_eq!(
            unpack(b"\x02abc\xe0\x02\x02", 14).as_deref(),
            Some(&b"abcabcabcabcab"[..])
        );
        for (packed, len) in [
            (&b"\x02abc\xe0\x02\x02"[..], 13),
            (b"\x02abc\xe0\x02\x03", 14),
            (b"\x02ab", 3),
            (b"\x20\x00", 3),
            (b"\xe0", 3),
        ] {
            assert_eq!(unpack(packed, len), None);
        }
    }
}
