//! Starts and upgrades a daemon with the real supervisor of the `handoff` library.
//!
//!     handoff-supervisor CONTROL-SOCKET PORT LISTENERS
//!     handoff-supervisor CONTROL-SOCKET fd DESCRIPTOR..
//!
//! holds so many listeners on one port, or those that it was started with, and reads commands, a line each,
//! which it answers with a line:
//!
//! ```text
//! cold PROGRAM [ARGUMENT]..                              started PID
//! handoff DEADLINE-MS GRACE-MS PROGRAM [ARGUMENT]..      committed MS PID | aborted MS WHY | failed MS WHY
//! reap                                                   ended STATUS.. (of all but the newest process)
//! ```
//!
//! `HANDOFF_CRASH_AT` in its environment makes it crash where the library says so.

use std::{
    error::Error,
    io::{BufRead, Write},
    net::{SocketAddr, TcpListener},
    os::fd::{AsRawFd, RawFd},
    path::Path,
    process::{Child, Command},
    time::{Duration, Instant},
};

use handoff::{SpawnSpec, Supervisor};
use socket2::{Domain, Socket, Type};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, control, port, rest @ ..] = &args[..] else {
        return Err(
            "usage: handoff-supervisor CONTROL-SOCKET PORT LISTENERS | fd DESCRIPTOR..".into(),
        );
    };
    // They are open for as long as the process lives.
    let mut listeners: Vec<TcpListener> = Vec::new();
    let descriptors = match (port.as_str(), rest) {
        ("fd", given) => given.iter().map(|fd| Ok(fd.parse()?)).collect(),
        (port, [count]) => {
            let at = SocketAddr::from(([127, 0, 0, 1], port.parse()?));
            for _ in 0..count.parse()? {
                listeners.push(listen(at)?);
            }
            Ok(listeners
                .iter()
                .map(|listener| listener.as_raw_fd())
                .collect())
        }
        _ => Err("one port, and how many listeners".into()),
    };
    let descriptors: Result<Vec<RawFd>, Box<dyn Error>> = descriptors;
    let named: Vec<(String, RawFd)> = descriptors?
        .into_iter()
        .enumerate()
        .map(|(at, fd)| (format!("resp-{at}"), fd))
        .collect();
    let mut supervisor = Supervisor::new(Path::new(control))?;
    for (name, fd) in &named {
        supervisor = supervisor.with_listener(name, *fd);
    }
    let mut children: Vec<Child> = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match words[..] {
            ["cold", program, ref args @ ..] => {
                let mut command = Command::new(program);
                command.args(args);
                handoff::pass_listener_fds_on_spawn(&mut command, &named, None);
                children.push(command.spawn()?);
                format!("started {}", children[children.len() - 1].id())
            }
            ["handoff", deadline, grace, program, ref args @ ..] => {
                let mut spec = SpawnSpec::new(program);
                spec.args = args.iter().map(ToString::to_string).collect();
                spec.deadline = Duration::from_millis(deadline.parse()?);
                spec.drain_grace = Duration::from_millis(grace.parse()?);
                upgrade(&supervisor, spec, &mut children)
            }
            ["reap"] => {
                let newest = children.pop();
                let mut ended = String::from("ended");
                for mut child in children.drain(..) {
                    let status = child.wait()?.code();
                    ended += &format!(
                        " {}",
                        status.map_or("signal".into(), |code| code.to_string())
                    );
                }
                children.extend(newest);
                ended
            }
            _ => return Err(format!("cannot do '{line}'").into()),
        };
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn upgrade(supervisor: &Supervisor, spec: SpawnSpec, children: &mut Vec<Child>) -> String {
    let began = Instant::now();
    let outcome = supervisor.perform_handoff(spec);
    let ms = began.elapsed().as_millis();
    match outcome {
        Err(error) => format!("failed {ms} {error}"),
        Ok(outcome) => match outcome.child {
            Some(child) => {
                let pid = child.id();
                children.push(child);
                format!("committed {ms} {pid}")
            }
            None => format!("aborted {ms} {}", outcome.abort_reason.unwrap_or_default()),
        },
    }
}

/// A listener that others on the same port may stand beside.
fn listen(at: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&at.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}
