//! Any bytes, whole and in pieces, give the same requests, and nothing reads past the end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringkeep::resp::{Args, ParseLimits, Parser, Step, peek_argument};

/// The requests in `bytes`, fed in pieces of up to `piece` bytes, and whether the stream was lost.
fn requests(bytes: &[u8], piece: usize) -> (Vec<Vec<Vec<u8>>>, bool) {
    let limits = ParseLimits {
        bulk_len_max: 1 << 16,
        args_max: 1 << 12,
    };
    let (mut parser, mut kept, mut found) = (Parser::default(), Vec::new(), Vec::new());
    for chunk in bytes.chunks(piece) {
        kept.extend_from_slice(chunk);
        let mut from = 0;
        loop {
            match parser.next(&kept, from, &limits) {
                Ok(Step::Request { first, count, end }) => {
                    assert!(end > from && end <= kept.len());
                    let args = Args::new(&kept, &parser.spans()[first..first + count]);
                    found.push(args.iter().map(<[u8]>::to_vec).collect());
                    from = end;
                }
                Ok(Step::Unquoted { args, end }) => {
                    found.push(args.as_args().iter().map(<[u8]>::to_vec).collect());
                    from = end;
                }
                Ok(Step::Empty { end }) => from = end,
                Ok(Step::More { len_min }) => {
                    assert!(len_min > kept.len());
                    break;
                }
                Err(_) => return (found, true),
            }
        }
        parser = parser.split_open(from);
        kept.drain(..from);
    }
    (found, false)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    let whole = requests(bytes, bytes.len().max(1));
    let pieces = requests(bytes, usize::from(piece).max(1));
    assert_eq!(whole, pieces);
    if let (Some(key), Some(first)) = (peek_argument(bytes), whole.0.first())
        && bytes.first() == Some(&b'*')
    {
        assert_eq!(Some(key), first.get(1).map(|arg| &arg[..]));
    }
});
