//! In-process measurements, without sockets: `ringkeep-bench store [KEYS...]`.

mod store;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("store") => {
            let sizes: Vec<u64> = args[1..]
                .iter()
                .filter_map(|size| size.parse().ok())
                .collect();
            if sizes.is_empty() {
                store::run(&[100_000, 1_000_000, 10_000_000]);
            } else {
                store::run(&sizes);
            }
        }
        _ => {
            eprintln!("usage: ringkeep-bench store [KEYS...]");
            std::process::exit(2);
        }
    }
}
