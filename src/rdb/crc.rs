//! The checksum behind a dumped value and at the end of an RDB file.

/// CRC-64 as Redis computes it (Jones' polynomial, reflected, nothing inverted), continued from `crc`;
/// 0 starts.
pub fn crc64(crc: u64, bytes: &[u8]) -> u64 {
    let mut crc = crc;
    let (blocks, rest) = bytes.as_chunks::<8>();
    for block in blocks {
        let word = (crc ^ u64::from_le_bytes(*block)).to_le_bytes();
        crc = 0;
        for (at, byte) in word.iter().enumerate() {
            crc ^= TABLES[7 - at][usize::from(*byte)];
        }
    }
    for byte in rest {
        crc = TABLES[0][usize::from(crc as u8 ^ byte)] ^ (crc >> 8);
    }
    crc
}

const POLYNOMIAL: u64 = 0xad93_d235_94c9_35a9_u64.reverse_bits();

/// Table `n` advances a byte by `n` more bytes, so that eight are taken in one step.
static TABLES: [[u64; 256]; 8] = tables();

const fn tables() -> [[u64; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ POLYNOMIAL
            } else {
                crc >> 1
            };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = tables[0][(before & 0xff) as usize] ^ (before >> 8);
            byte += 1;
        }
        table += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_redis_wherever_they_are_cut() {
        // The check value of Redis's own test.
        assert_eq!(crc64(0, b"123456789"), 0xe9c6_d914_c4b8_d9ca);
        let text = b"This is a test of the emergency broadcast system.";
        for cut in 0..text.len() {
            let (head, tail) = text.split_at(cut);
            assert_eq!(crc64(crc64(0, head), tail), crc64(0, text));
        }
    }
}
