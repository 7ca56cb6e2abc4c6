//! What is fixed for a data directory, in its file `ringkeep.meta`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian::U32};

use super::segment::{HeaderFault, VERSION, check_header, header_sum};

/// What a directory was made for. A node with other shards or another routing must not open it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta {
    /// Number of shards, at least one.
    pub shard_count: u32,
    /// How keys are placed on shards, as a number.
    pub routing: u32,
}

impl Meta {
    /// The file.
    pub fn compose(&self) -> [u8; META_LEN] {
        let mut layout = Layout {
            magic: META_MAGIC,
            version: VERSION.into(),
            shard_count: self.shard_count.into(),
            routing: self.routing.into(),
            crc: 0.into(),
        };
        layout.crc = header_sum(layout.as_bytes()).into();
        zerocopy::transmute!(layout)
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`HeaderFault`]: the directory cannot be opened.
    pub fn read(bytes: &[u8]) -> Result<Meta, HeaderFault> {
        let (layout, rest) = Layout::ref_from_prefix(bytes).map_err(|_| HeaderFault::Cut)?;
        let version = layout.version.get();
        check_header(layout.as_bytes(), (layout.magic, META_MAGIC), version)?;
        let shard_count = layout.shard_count.get();
        if shard_count == 0 || !rest.is_empty() {
            return Err(HeaderFault::Numbers);
        }
        Ok(Meta {
            shard_count,
            routing: layout.routing.get(),
        })
    }
}

/// Bytes of the file.
pub const META_LEN: usize = size_of::<Layout>();

const META_MAGIC: [u8; 4] = *b"RKJM";

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Layout {
    magic: [u8; 4],
    version: U32,
    shard_count: U32,
    routing: U32,
    crc: U32,
}

const _: () = assert!(META_LEN == 20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_was_written_or_refused() {
        let meta = Meta {
            shard_count: 16,
            routing: 1,
        };
        let bytes = meta.compose();
        assert_eq!(Meta::read(&bytes), Ok(meta));
        assert_eq!(Meta::read(&bytes[..19]), Err(HeaderFault::Cut));
        assert_eq!(
            Meta::read(&[&bytes[..], b"x"].concat()),
            Err(HeaderFault::Numbers)
        );
        assert_eq!(Meta::read(&[0; META_LEN]), Err(HeaderFault::Magic));
        let mut later = bytes;
        later[4] = 2;
        assert_eq!(Meta::read(&later), Err(HeaderFault::Version(2)));
    }
}
