//! In-process measurements, without sockets: `ringkeep-bench [NAME...] [KEYS...] [FOLDER [RECORDS]]`.
//!
//! One module per primitive. In it stands the naive twin, the simplest code that does the same, and before
//! anything is timed the two are held against each other on the inputs that are timed. Without names all
//! run. Two modules have no twin: `store`, for which `KEYS` are the sizes to measure as for `image`, and
//! `disk`, which measures the file system of `FOLDER` (a word with a `/`) and keeps a record in the folder
//! `RECORDS`.
//!
//! Left out because they are private to their crates: the table of operations in flight of `uring`, and the
//! index of deadlines apart from the keyspace that it serves.

mod compose;
mod disk;
mod expiry;
mod image;
mod journal;
mod mailbox;
mod measure;
mod parse;
mod reactor;
mod route;
mod store;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((names, what)) = chosen(&args) else {
        let all: Vec<&str> = PRIMITIVES.iter().map(|(name, _)| *name).collect();
        eprintln!("usage: ringkeep-bench [NAME...] [KEYS...] [FOLDER [RECORDS]]");
        eprintln!("names: {}", all.join(", "));
        return ExitCode::from(2);
    };
    println!("{}", measure::legend());
    for (name, run) in PRIMITIVES {
        if names.is_empty() || names.contains(&name) {
            println!("\n{name}");
            run(&what);
        }
    }
    ExitCode::SUCCESS
}

/// What the modules without a twin are told.
#[derive(PartialEq, Debug, Default)]
struct What {
    sizes: Vec<u64>,
    folders: Vec<PathBuf>,
}

/// Names and the rest apart; `None` if a word is neither name, size nor folder.
fn chosen(args: &[String]) -> Option<(Vec<&'static str>, What)> {
    let (mut names, mut what) = (Vec::new(), What::default());
    for arg in args {
        let named = PRIMITIVES.iter().find(|(name, _)| name == arg);
        match (named, arg.parse()) {
            (Some((name, _)), _) => names.push(*name),
            (None, Ok(size @ 1..)) => what.sizes.push(size),
            _ if arg.contains('/') => what.folders.push(arg.into()),
            _ => return None,
        }
    }
    Some((names, what))
}

type Run = fn(&What);

const PRIMITIVES: [(&str, Run); 11] = [
    ("parse", |_| parse::run()),
    ("compose", |_| compose::run()),
    ("journal", |_| journal::run()),
    ("route", |_| route::run()),
    ("table", |_| table::run()),
    ("expiry", |_| expiry::run()),
    ("image", |what| image::run(&what.sizes)),
    ("mailbox", |_| mailbox::run()),
    ("reactor", |_| reactor::run()),
    ("store", |what| store::run(&what.sizes)),
    ("disk", |what| disk::run(&what.folders)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_names_sizes_or_folders() {
        let read = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
            chosen(&words)
        };
        let what = |sizes: &[u64], folders: &[&str]| What {
            sizes: sizes.to_vec(),
            folders: folders.iter().map(PathBuf::from).collect(),
        };
        assert_eq!(read(&[]), Some((vec![], what(&[], &[]))));
        assert_eq!(
            read(&["store", "1000", "parse"]),
            Some((vec!["store", "parse"], what(&[1000], &[])))
        );
        assert_eq!(
            read(&["disk", "/var/tmp", "./here"]),
            Some((vec!["disk"], what(&[], &["/var/tmp", "./here"])))
        );
        assert_eq!(read(&["stoer"]), None);
        assert_eq!(read(&["store", "0"]), None);
    }
}
