//! LZF, the compression of strings in RDB files: runs of literal bytes, and references to what was
//! written up to 8 KiB before. <http://oldhome.schmorp.de/marc/liblzf.html>

use super::Damaged;

/// Longest run of literal bytes.
const LITERALS_MAX: usize = 1 << 5;
/// Farthest that a reference reaches back.
const BACK_MAX: usize = 1 << 13;
/// Most bytes that a reference copies.
const COPY_MAX: usize = (1 << 8) + (1 << 3);

/// Where three bytes were seen last. Kept between strings: what it says is a guess that the bytes
/// themselves confirm, so that it need not be emptied.
#[derive(Default)]
pub struct Packer {
    seen: Vec<u32>,
}

impl Packer {
    /// Compresses `text`, with the choices of the library that Redis uses; `None` where that would take
    /// more than `room` bytes.
    pub fn pack(&mut self, text: &[u8], room: usize) -> Option<Vec<u8>> {
        self.seen.resize(1 << 16, 0);
        // One literal run is always open; its length is put before it when it ends.
        let mut packed = Vec::with_capacity(room.min(text.len()));
        packed.push(0);
        let mut literals = 0;
        let mut at = 0;
        while at + 2 < text.len() {
            let from = std::mem::replace(&mut self.seen[slot(text, at)], at as u32) as usize;
            let copied = same_bytes(text, from, at);
            if copied == 0 {
                if packed.len() >= room {
                    return None;
                }
                packed.push(text[at]);
                literals += 1;
                at += 1;
                if literals == LITERALS_MAX {
                    end_run(&mut packed, &mut literals);
                }
                continue;
            }
            if packed.len() - usize::from(literals == 0) + 4 >= room {
                return None;
            }
            if literals == 0 {
                packed.pop();
            } else {
                let start = packed.len() - literals - 1;
                packed[start] = literals as u8 - 1;
                literals = 0;
            }
            let (back, more) = (at - from - 1, copied - 2);
            if more < 7 {
                packed.push((back >> 8) as u8 | (more as u8) << 5);
            } else {
                packed.push((back >> 8) as u8 | 7 << 5);
                packed.push((more - 7) as u8);
            }
            packed.push(back as u8);
            packed.push(0);
            at += copied;
            if at + 2 >= text.len() {
                break;
            }
            for last in [at - 2, at - 1] {
                self.seen[slot(text, last)] = last as u32;
            }
        }
        if packed.len() + 3 > room {
            return None;
        }
        for byte in &text[at..] {
            packed.push(*byte);
            literals += 1;
            if literals == LITERALS_MAX {
                end_run(&mut packed, &mut literals);
            }
        }
        if literals == 0 {
            packed.pop();
        } else {
            let start = packed.len() - literals - 1;
            packed[start] = literals as u8 - 1;
        }
        Some(packed)
    }
}

fn end_run(packed: &mut Vec<u8>, literals: &mut usize) {
    let start = packed.len() - *literals - 1;
    packed[start] = *literals as u8 - 1;
    *literals = 0;
    packed.push(0);
}

/// The library's hash of the three bytes at a place.
fn slot(text: &[u8], at: usize) -> usize {
    let word = u32::from(text[at]) << 16 | u32::from(text[at + 1]) << 8 | u32::from(text[at + 2]);
    ((word >> 8).wrapping_sub(word.wrapping_mul(5)) & 0xffff) as usize
}

/// How many bytes at `from` are those at `at`; 0 where a reference cannot be made. Place 0 stands for
/// "not seen", as in the library.
fn same_bytes(text: &[u8], from: usize, at: usize) -> usize {
    if from == 0 || from >= at || at - from > BACK_MAX || text[from..from + 3] != text[at..at + 3] {
        return 0;
    }
    // The library stops two bytes short of the end, except that it takes the first sixteen steps at once.
    let most = (text.len() - at - 2).min(COPY_MAX);
    let unrolled = if most > 16 { 19 } else { 3 };
    let same = text[from..]
        .iter()
        .zip(&text[at..])
        .take(most.max(unrolled))
        .take_while(|(old, new)| old == new);
    same.count()
}

/// Expands `packed` to exactly `len` bytes. The caller bounds `len`; no more than what the bytes
/// describe is reserved.
///
/// # Errors
/// [`Damaged`] where it does not come to that.
pub fn unpack(packed: &[u8], len: usize) -> Result<Vec<u8>, Damaged> {
    let mut text: Vec<u8> = Vec::with_capacity(len.min(packed.len().saturating_mul(COPY_MAX)));
    let mut rest = packed.iter();
    while let Some(control) = rest.next() {
        let control = usize::from(*control);
        if control < LITERALS_MAX {
            let (run, behind) = rest
                .as_slice()
                .split_at_checked(control + 1)
                .ok_or(Damaged)?;
            text.extend_from_slice(run);
            rest = behind.iter();
        } else {
            let mut copied = control >> 5;
            if copied == 7 {
                copied += usize::from(*rest.next().ok_or(Damaged)?);
            }
            copied += 2;
            let back = ((control & 0x1f) << 8) + usize::from(*rest.next().ok_or(Damaged)?) + 1;
            let mut from = text.len().checked_sub(back).ok_or(Damaged)?;
            // What is copied may reach into what the copy itself makes.
            while copied > 0 {
                let step = copied.min(text.len() - from);
                text.extend_from_within(from..from + step);
                from += step;
                copied -= step;
            }
        }
        if text.len() > len {
            return Err(Damaged);
        }
    }
    if text.len() == len {
        Ok(text)
    } else {
        Err(Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_packed_unpacks(
            texts in prop::collection::vec(prop::collection::vec(0u8..4, 0..600), 1..4),
        ) {
            let mut packer = Packer::default();
            for text in texts {
                if let Some(packed) = packer.pack(&text, text.len()) {
                    prop_assert!(packed.len() <= text.len());
                    prop_assert_eq!(unpack(&packed, text.len()), Ok(text));
                }
            }
        }

        #[test]
        fn any_bytes_unpack_to_what_was_said_or_not_at_all(
            packed in prop::collection::vec(any::<u8>(), 0..200),
            len in 0usize..2000,
        ) {
            if let Ok(text) = unpack(&packed, len) {
                prop_assert_eq!(text.len(), len);
            }
        }
    }

    #[test]
    fn long_runs_become_short() {
        let mut packer = Packer::default();
        let text = vec![b'x'; 100_000];
        let packed = packer
            .pack(&text, text.len() - 4)
            .expect("it is all the same");
        assert!(packed.len() < 1200, "{}", packed.len());
        assert_eq!(unpack(&packed, text.len()), Ok(text));
        let noise: Vec<u8> = (0..200u32)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        assert_eq!(packer.pack(&noise, noise.len() - 4), None);
    }
}
