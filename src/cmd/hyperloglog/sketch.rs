//! The registers of a HyperLogLog, in the two forms that Redis keeps them in.
//!
//! `HYLL | form (1) | nothing (3) | estimate (8) | registers`. The highest bit of the estimate says that
//! it is out of date. A dense value has 16384 registers of six bits, the lowest bits first. A sparse one
//! has runs: `00llllll` zeros, `01llllll llllllll` zeros, `1vvvvvll` of one value up to 32; lengths and
//! values are one less than what they stand for.

/// Number of registers.
pub const REGISTERS: usize = 1 << INDEX_BITS;

const INDEX_BITS: u32 = 14;
/// Bits of a hash that a register's value is counted in.
const VALUE_BITS: u32 = 64 - INDEX_BITS;
const MAGIC: &[u8] = b"HYLL";
const FORM_AT: usize = 4;
pub const COUNT: std::ops::Range<usize> = 8..HEAD;
const HEAD: usize = 16;
const DENSE: u8 = 0;
const SPARSE: u8 = 1;
const DENSE_LEN: usize = HEAD + REGISTERS * 6 / 8;
/// A sparse value that would grow past this becomes dense: Redis's default `hll-sparse-max-bytes`.
const SPARSE_MAX: usize = 3000;

/// Longest runs of zeros in one byte and in two, and of another value.
const ZEROS_SHORT: usize = 64;
const SAME_MAX: usize = 4;
/// Largest value that a sparse run can have.
const VALUE_MAX: u8 = 32;

/// The runs of a sparse value do not make up all registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Corrupt;

/// Does the string have the outer form of a HyperLogLog?
pub fn is_one(text: &[u8]) -> bool {
    text.len() >= HEAD
        && text.starts_with(MAGIC)
        && (text[FORM_AT] == SPARSE || (text[FORM_AT] == DENSE && text.len() == DENSE_LEN))
}

/// Is it dense?
pub fn is_dense(text: &[u8]) -> bool {
    text[FORM_AT] == DENSE
}

/// Makes an empty string one without elements.
pub fn start(text: &mut Vec<u8>) {
    text.extend_from_slice(MAGIC);
    text.push(SPARSE);
    text.resize(HEAD, 0);
    Run::Zeros(REGISTERS).write(text);
}

/// The estimate, if it was kept since the last change.
pub fn known_count(text: &[u8]) -> Option<u64> {
    let mut count = [0; 8];
    count.copy_from_slice(&text[COUNT]);
    let count = u64::from_le_bytes(count);
    (count >> 63 == 0).then_some(count)
}

/// The estimate, computed.
pub fn count(text: &[u8]) -> Result<u64, Corrupt> {
    let mut with_value = [0u32; 64];
    if is_dense(text) {
        let registers = &text[HEAD..];
        (0..REGISTERS).for_each(|at| with_value[usize::from(dense(registers, at))] += 1);
    } else {
        for run in Runs::of(text) {
            let (value, len) = run?;
            with_value[usize::from(value)] += len as u32;
        }
    }
    Ok(estimate(&with_value))
}

/// The runs of a sparse value as PFDEBUG DECODE shows them.
pub fn show(text: &[u8]) -> String {
    let mut shown = Vec::new();
    let mut rest = &text[HEAD..];
    while let Some((run, len)) = Run::read(rest) {
        rest = &rest[len..];
        shown.push(match run {
            Run::Zeros(zeros) if len == 1 => format!("z:{zeros}"),
            Run::Zeros(zeros) => format!("Z:{zeros}"),
            Run::Same(value, times) => format!("v:{value},{times}"),
        });
    }
    shown.join(" ")
}

/// How many different elements make so many registers have each value. Otmar Ertl, "New cardinality
/// estimation algorithms for HyperLogLog sketches", <https://arxiv.org/abs/1702.01284>.
fn estimate(with_value: &[u32; 64]) -> u64 {
    /// 0.5 / ln 2
    const ALPHA: f64 = 0.721_347_520_444_481_7;
    let m = REGISTERS as f64;
    let mut z = m * tau((m - f64::from(with_value[VALUE_BITS as usize + 1])) / m);
    for count in with_value[1..=VALUE_BITS as usize].iter().rev() {
        z += f64::from(*count);
        z *= 0.5;
    }
    z += m * sigma(f64::from(with_value[0]) / m);
    (ALPHA * m * m / z).round() as u64
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

/// All registers, a byte each.
pub struct Registers(Box<[u8; REGISTERS]>);

impl Default for Registers {
    fn default() -> Self {
        Self(Box::new([0; REGISTERS]))
    }
}

impl Registers {
    /// Raises every register to that of a value.
    pub fn merge(&mut self, text: &[u8]) -> Result<(), Corrupt> {
        if is_dense(text) {
            for (at, register) in self.0.iter_mut().enumerate() {
                *register = (*register).max(dense(&text[HEAD..], at));
            }
            return Ok(());
        }
        let mut at = 0;
        for run in Runs::of(text) {
            let (value, len) = run?;
            if value > 0 {
                for register in &mut self.0[at..at + len] {
                    *register = (*register).max(value);
                }
            }
            at += len;
        }
        Ok(())
    }

    /// The registers in order.
    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        self.0.iter().copied()
    }

    /// The estimate.
    pub fn count(&self) -> u64 {
        let mut with_value = [0; 64];
        self.iter()
            .for_each(|value| with_value[usize::from(value)] += 1);
        estimate(&with_value)
    }
}

/// A run of registers with one value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Run {
    Zeros(usize),
    Same(u8, usize),
}

impl Run {
    /// The run at the front, and its bytes.
    fn read(bytes: &[u8]) -> Option<(Run, usize)> {
        Some(match *bytes {
            [] => return None,
            [byte @ 0..=0x3f, ..] => (Run::Zeros(usize::from(byte) + 1), 1),
            [byte @ 0x40..=0x7f, ref rest @ ..] => {
                let low = usize::from(*rest.first()?);
                (Run::Zeros((usize::from(byte & 0x3f) << 8 | low) + 1), 2)
            }
            [byte, ..] => (
                Run::Same((byte >> 2 & 0x1f) + 1, usize::from(byte & 3) + 1),
                1,
            ),
        })
    }

    fn len(self) -> usize {
        match self {
            Run::Zeros(len) | Run::Same(_, len) => len,
        }
    }

    fn value(self) -> u8 {
        match self {
            Run::Zeros(_) => 0,
            Run::Same(value, _) => value,
        }
    }

    /// Appends the run, unless it is of no length.
    fn write(self, bytes: &mut impl Extend<u8>) {
        match self {
            Run::Zeros(0) | Run::Same(_, 0) => {}
            Run::Zeros(len) if len <= ZEROS_SHORT => bytes.extend([(len - 1) as u8]),
            Run::Zeros(len) => bytes.extend([0x40 | ((len - 1) >> 8) as u8, (len - 1) as u8]),
            Run::Same(value, len) => bytes.extend([0x80 | (value - 1) << 2 | (len - 1) as u8]),
        }
    }

    /// A run of the same value with another length.
    fn of_len(self, len: usize) -> Run {
        match self {
            Run::Zeros(_) => Run::Zeros(len),
            Run::Same(value, _) => Run::Same(value, len),
        }
    }
}

/// The runs of a sparse value: values and lengths. Fails in the end where they do not make up all
/// registers, and at once where they are too many.
struct Runs<'a> {
    rest: &'a [u8],
    left: usize,
    is_done: bool,
}

impl<'a> Runs<'a> {
    fn of(text: &'a [u8]) -> Self {
        Self {
            rest: &text[HEAD..],
            left: REGISTERS,
            is_done: false,
        }
    }
}

impl Iterator for Runs<'_> {
    type Item = Result<(u8, usize), Corrupt>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        if let Some((run, len)) = Run::read(self.rest)
            && let Some(left) = self.left.checked_sub(run.len())
        {
            (self.rest, self.left) = (&self.rest[len..], left);
            return Some(Ok((run.value(), run.len())));
        }
        self.is_done = true;
        (self.left > 0 || !self.rest.is_empty()).then_some(Err(Corrupt))
    }
}

/// A value that is being changed. It has passed [`is_one`].
pub struct Sketch<'a> {
    text: &'a mut Vec<u8>,
}

impl<'a> Sketch<'a> {
    /// Takes a value to be changed.
    pub fn new(text: &'a mut Vec<u8>) -> Self {
        Self { text }
    }

    /// Adds an element; true if that changed a register.
    pub fn add(&mut self, element: &[u8]) -> Result<bool, Corrupt> {
        let hash = murmur(element, 0xadc8_3b19);
        let at = hash as usize & (REGISTERS - 1);
        // The bit behind the last one ends the count.
        let bits = hash >> INDEX_BITS | 1 << VALUE_BITS;
        self.raise(at, bits.trailing_zeros() as u8 + 1)
    }

    /// Raises a register; true if it was lower.
    pub fn raise(&mut self, at: usize, value: u8) -> Result<bool, Corrupt> {
        if is_dense(self.text) {
            return Ok(self.raise_dense(at, value));
        }
        if value <= VALUE_MAX
            && let Some(raised) = self.raise_sparse(at, value)?
        {
            return Ok(raised);
        }
        self.make_dense()?;
        Ok(self.raise_dense(at, value))
    }

    /// Marks the kept estimate as out of date.
    pub fn forget_count(&mut self) {
        self.text[HEAD - 1] |= 0x80;
    }

    /// Keeps the estimate.
    pub fn know_count(&mut self, count: u64) {
        self.text[COUNT].copy_from_slice(&count.to_le_bytes());
    }

    /// Makes a sparse value dense.
    pub fn make_dense(&mut self) -> Result<(), Corrupt> {
        if is_dense(self.text) {
            return Ok(());
        }
        let mut whole = vec![0; DENSE_LEN];
        whole[..HEAD].copy_from_slice(&self.text[..HEAD]);
        whole[FORM_AT] = DENSE;
        let mut at = 0;
        for run in Runs::of(self.text) {
            let (value, len) = run?;
            if value > 0 {
                (at..at + len).for_each(|at| set_dense(&mut whole[HEAD..], at, value));
            }
            at += len;
        }
        *self.text = whole;
        Ok(())
    }

    fn raise_dense(&mut self, at: usize, value: u8) -> bool {
        let registers = &mut self.text[HEAD..];
        let raised = dense(registers, at) < value;
        if raised {
            set_dense(registers, at, value);
        }
        raised
    }

    /// `None` where the value would grow too long. Splits and joins runs as Redis does, so that the bytes
    /// are the same.
    fn raise_sparse(&mut self, at: usize, value: u8) -> Result<Option<bool>, Corrupt> {
        // The run that covers the register, its first register, and the run before it.
        let (mut place, mut first, mut before) = (HEAD, 0, HEAD);
        let (run, run_len) = loop {
            let (run, len) = Run::read(&self.text[place..]).ok_or(Corrupt)?;
            if at < first + run.len() {
                break (run, len);
            }
            (before, place, first) = (place, place + len, first + run.len());
        };
        if run.value() >= value {
            return Ok(Some(false));
        }
        let mut runs = arrayvec::ArrayVec::<u8, 5>::new();
        run.of_len(at - first).write(&mut runs);
        Run::Same(value, 1).write(&mut runs);
        run.of_len(first + run.len() - at - 1).write(&mut runs);
        if runs.len() > run_len && self.text.len() + runs.len() - run_len > SPARSE_MAX {
            return Ok(None);
        }
        self.text.splice(place..place + run_len, runs);
        self.join_runs(before);
        self.forget_count();
        Ok(Some(true))
    }

    /// Joins neighbours of one value among the next five runs.
    fn join_runs(&mut self, from: usize) {
        let mut place = from;
        for _ in 0..5 {
            let Some((run, len)) = Run::read(&self.text[place..]) else {
                return;
            };
            if let Run::Same(value, times) = run
                && let Some((Run::Same(next, more), _)) = Run::read(&self.text[place + len..])
                && next == value
                && times + more <= SAME_MAX
            {
                let joined = 0x80 | (value - 1) << 2 | (times + more - 1) as u8;
                self.text.splice(place..place + 2, [joined]);
            } else {
                place += len;
            }
        }
    }
}

/// A register of a dense value.
fn dense(registers: &[u8], at: usize) -> u8 {
    let (byte, bit) = (at * 6 / 8, at * 6 % 8);
    let high = registers.get(byte + 1).copied().unwrap_or(0);
    (u16::from_le_bytes([registers[byte], high]) >> bit) as u8 & 0x3f
}

fn set_dense(registers: &mut [u8], at: usize, value: u8) {
    let (byte, bit) = (at * 6 / 8, at * 6 % 8);
    let (mask, value) = (
        (0x3f_u16 << bit).to_le_bytes(),
        (u16::from(value) << bit).to_le_bytes(),
    );
    for (step, (mask, value)) in mask.into_iter().zip(value).enumerate() {
        if let Some(byte) = registers.get_mut(byte + step) {
            *byte = *byte & !mask | value;
        }
    }
}

/// MurmurHash2, the 64-bit variant A, over little-endian words.
fn murmur(bytes: &[u8], seed: u64) -> u64 {
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    let mut hash = seed ^ (bytes.len() as u64).wrapping_mul(M);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let mut word = u64::from_le_bytes(*word).wrapping_mul(M);
        word ^= word >> 47;
        hash = (hash ^ word.wrapping_mul(M)).wrapping_mul(M);
    }
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u64::from_le_bytes(last)).wrapping_mul(M);
    }
    hash = (hash ^ hash >> 47).wrapping_mul(M);
    hash ^ hash >> 47
}
