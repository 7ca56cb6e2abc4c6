//! Arguments in, node out.

use std::process::ExitCode;

use ringkeep::{
    node::{self, Command, World},
    tools,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let command = node::parse(std::env::args().skip(1), &World::real());
    if let Ok(
        Command::Check(_)
        | Command::Rollback(_)
        | Command::Top(_)
        | Command::Print(_)
        | Command::Help
        | Command::Version,
    ) = command
    {
        node::only_prints();
    }
    match command {
        Ok(Command::Serve(options)) => match node::run(&options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("ringkeep: {error}");
                ExitCode::FAILURE
            }
        },
        Ok(Command::Doctor) => {
            let found = node::doctor();
            // Not before: it has tried sockets out.
            node::only_prints();
            match node::print_doctor(&found) {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            }
        }
        Ok(Command::Import(import)) => report(tools::import(&import)),
        Ok(Command::Export(export)) => report(tools::export(&export)),
        Ok(Command::Check(paths)) => report(tools::check(&paths)),
        Ok(Command::Repair(repair)) => report(tools::repair(&repair)),
        Ok(Command::Reshard(reshard)) => report(tools::reshard(&reshard)),
        Ok(Command::Rollback(paths)) => report(tools::rollback(&paths)),
        Ok(Command::Supervise(asked)) => report(node::supervise(&asked)),
        Ok(Command::Upgrade(asked)) => report(node::upgrade(&asked).map_err(|error| {
            format!(
                "no supervisor can be asked at {}: {error}",
                asked.control.display()
            )
        })),
        Ok(Command::Top(asked)) => report(tools::top(&asked)),
        Ok(Command::Print(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Ok(Command::Help) => {
            print!("{}", node::usage());
            ExitCode::SUCCESS
        }
        Ok(Command::Version) => {
            println!("ringkeep {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ringkeep: {error}");
            ExitCode::from(2)
        }
    }
}

/// How a tool ends: well only if everything was taken.
fn report(result: Result<bool, impl std::fmt::Display>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ringkeep: {error}");
            ExitCode::FAILURE
        }
    }
}
