//! In-process measurements, without sockets: `ringkeep-bench [NAME...] [KEYS...]`.
//!
//! One module per primitive. In it stands the naive twin, the simplest code that does the same, and before
//! anything is timed the two are held against each other on the inputs that are timed. Without names all
//! run. `KEYS` are the sizes that `store`, the one module without a twin, and `image` measure.
//!
//! Left out because they are private to their crates: the table of operations in flight of `uring`, and the
//! index of deadlines apart from the keyspace that it serves.

mod compose;
mod expiry;
mod image;
mod mailbox;
mod measure;
mod parse;
mod reactor;
mod route;
mod store;
mod table;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((names, sizes)) = chosen(&args) else {
        let all: Vec<&str> = PRIMITIVES.iter().map(|(name, _)| *name).collect();
        eprintln!("usage: ringkeep-bench [NAME...] [KEYS...]");
        eprintln!("names: {}", all.join(", "));
        return ExitCode::from(2);
    };
    println!("{}", measure::legend());
    for (name, run) in PRIMITIVES {
        if names.is_empty() || names.contains(&name) {
            println!("\n{name}");
            run(&sizes);
        }
    }
    ExitCode::SUCCESS
}

/// Names and sizes apart; `None` if a word is neither.
fn chosen(args: &[String]) -> Option<(Vec<&'static str>, Vec<u64>)> {
    let (mut names, mut sizes) = (Vec::new(), Vec::new());
    for arg in args {
        let named = PRIMITIVES.iter().find(|(name, _)| name == arg);
        match (named, arg.parse()) {
            (Some((name, _)), _) => names.push(*name),
            (None, Ok(size @ 1..)) => sizes.push(size),
            _ => return None,
        }
    }
    Some((names, sizes))
}

type Run = fn(sizes: &[u64]);

const PRIMITIVES: [(&str, Run); 9] = [
    ("parse", |_| parse::run()),
    ("compose", |_| compose::run()),
    ("route", |_| route::run()),
    ("table", |_| table::run()),
    ("expiry", |_| expiry::run()),
    ("image", image::run),
    ("mailbox", |_| mailbox::run()),
    ("reactor", |_| reactor::run()),
    ("store", store::run),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_names_or_sizes() {
        let read = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
            chosen(&words)
        };
        assert_eq!(read(&[]), Some((vec![], vec![])));
        assert_eq!(
            read(&["store", "1000", "parse"]),
            Some((vec!["store", "parse"], vec![1000]))
        );
        assert_eq!(read(&["stoer"]), None);
        assert_eq!(read(&["store", "0"]), None);
    }
}
