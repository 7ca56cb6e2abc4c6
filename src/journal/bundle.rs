//! The list of snapshots that count together, or not at all.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U32, U64},
};

use super::segment::{HeaderFault, VERSION, check_header, header_sum};

/// Snapshots of several shards that count from the moment on at which this file is there under its name:
/// each of them is whole then, but may still lack its own name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bundle {
    /// Number of the bundle, as in the name.
    pub seq: u64,
    /// The snapshots by shard and number, ascending by shard.
    pub snapshots: Vec<(u32, u64)>,
}

impl Bundle {
    /// The file.
    pub fn compose(&self) -> Vec<u8> {
        let head = Head {
            magic: BUNDLE_MAGIC,
            version: VERSION.into(),
            seq: self.seq.into(),
            count: (self.snapshots.len() as u32).into(),
        };
        let mut bytes = head.as_bytes().to_vec();
        for (shard, seq) in &self.snapshots {
            let row = Row {
                shard: (*shard).into(),
                seq: (*seq).into(),
            };
            bytes.extend_from_slice(row.as_bytes());
        }
        bytes.extend_from_slice(&[0; SUM_LEN]);
        let sum = header_sum(&bytes).to_le_bytes();
        let at = bytes.len() - SUM_LEN;
        bytes[at..].copy_from_slice(&sum);
        bytes
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`HeaderFault`]: it is damaged, or of a later version.
    pub fn read(bytes: &[u8]) -> Result<Bundle, HeaderFault> {
        let (head, rest) = Head::ref_from_prefix(bytes).map_err(|_| HeaderFault::Cut)?;
        let len = head.count.get() as usize * size_of::<Row>() + SUM_LEN;
        if head.magic == BUNDLE_MAGIC && head.version.get() == VERSION && rest.len() < len {
            return Err(HeaderFault::Cut);
        }
        check_header(bytes, (head.magic, BUNDLE_MAGIC), head.version.get())?;
        let (rows, left) = <[Row]>::ref_from_prefix_with_elems(rest, head.count.get() as usize)
            .map_err(|_| HeaderFault::Cut)?;
        let snapshots: Vec<(u32, u64)> = rows
            .iter()
            .map(|row| (row.shard.get(), row.seq.get()))
            .collect();
        if left.len() != SUM_LEN || !snapshots.is_sorted_by(|one, next| one.0 < next.0) {
            return Err(HeaderFault::Numbers);
        }
        Ok(Bundle {
            seq: head.seq.get(),
            snapshots,
        })
    }
}

const BUNDLE_MAGIC: [u8; 4] = *b"RKSB";
const SUM_LEN: usize = 4;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    magic: [u8; 4],
    version: U32,
    seq: U64,
    count: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Row {
    shard: U32,
    seq: U64,
}

const _: () = assert!(size_of::<Head>() == 20 && size_of::<Row>() == 12);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_was_written_or_refused() {
        let bundle = Bundle {
            seq: 77,
            snapshots: vec![(0, 5), (3, 2)],
        };
        let bytes = bundle.compose();
        assert_eq!(Bundle::read(&bytes), Ok(bundle));
        let longer = [&bytes[..], b"x"].concat();
        assert!(Bundle::read(&longer).is_err());
        let mut later = bytes;
        later[4] = 2;
        assert_eq!(Bundle::read(&later), Err(HeaderFault::Version(2)));
        let unsorted = Bundle {
            seq: 77,
            snapshots: vec![(3, 5), (0, 2)],
        };
        assert_eq!(Bundle::read(&unsorted.compose()), Err(HeaderFault::Numbers));
    }
}
