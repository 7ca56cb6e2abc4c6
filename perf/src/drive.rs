//! One measurement of one running engine, as figures for a row.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::engines::Running;
use crate::error::Error;
use crate::keys::KeySpace;
use crate::load::{Generator, Load, Mix, Target};
use crate::probe::{Process, resident_bytes};
use crate::record;
use crate::scenario::{Fill, Idle, Setup, Stall};
use crate::spec::{LoadSpec, Span};
use crate::sys;

/// Figures by name.
pub type Figures = BTreeMap<String, f64>;

/// Puts in what a load reads.
///
/// # Errors
/// Those of the connection; [`Error::Refused`].
pub fn preload(server: &Running, load: &LoadSpec) -> Result<(), Error> {
    connect(server, load.conns)?.preload(space(load)?, load.size.max() as usize)
}

/// Runs one load.
///
/// # Errors
/// Those of the connection; [`Error::Refused`] when there were error replies.
pub fn run(server: &Running, load: &LoadSpec) -> Result<Figures, Error> {
    let mut generator = connect(server, load.conns)?;
    let measured = generator.run(&Load {
        mix: Mix::parse(&load.mix.to_string()).ok_or(Error::Value {
            option: "--mix",
            expected: "get or set",
        })?,
        pipeline: load.pipeline,
        space: space(load)?,
        size: load.size.max() as usize,
        warmup: load.warmup.0,
        duration: load.duration.0,
        rate: load.rate,
    })?;
    generator.refused()?;
    let mut figures = record::numbers(&measured)?;
    if let Some(rate) = load.rate {
        figures.insert("rate".into(), rate);
    }
    Ok(figures)
}

/// Inserts every key once.
///
/// # Errors
/// Those of the connection; [`Error::Refused`].
pub fn fill(server: &Running, fill: &Fill) -> Result<Figures, Error> {
    let space = KeySpace::new(fill.keys, fill.key_size)?;
    let mut generator = connect(server, fill.conns)?;
    let report = generator.fill(space, fill.size, fill.pipeline, fill.shuffle)?;
    generator.refused()?;
    record::numbers(&report)
}

fn space(load: &LoadSpec) -> Result<KeySpace, Error> {
    KeySpace::new(load.keys, load.key_size)
}

fn connect(server: &Running, conns: usize) -> Result<Generator, Error> {
    Generator::connect(&Target {
        host: "127.0.0.1".into(),
        port: server.port,
        conns,
        congestion: Some(CONGESTION.into()),
        server_pid: Some(server.pid()),
    })
}

/// Sends the commands of a setup.
///
/// # Errors
/// Those of the connection; [`Error::Refused`].
pub fn set_up(server: &Running, setup: &Setup) -> Result<Figures, Error> {
    let mut client = Client::connect(server.port)?;
    let before = resident_bytes(server.pid());
    let begin = Instant::now();
    client.send_all(setup.count, setup.maker())?;
    let seconds = begin.elapsed().as_secs_f64();
    let growth = before
        .zip(resident_bytes(server.pid()))
        .map(|(a, b)| b as f64 - a as f64);
    let mut figures = Figures::from([("seconds".to_owned(), seconds)]);
    if let Some(growth) = growth {
        figures.insert("bytes_per_key".into(), growth / setup.count as f64);
    }
    Ok(figures)
}

/// Runs an open loop, and an event in its first third.
///
/// # Errors
/// Those of the connections; [`Error::Refused`].
pub fn stall(server: &Running, stall: &Stall, seconds: Span) -> Result<Figures, Error> {
    let load = LoadSpec {
        duration: seconds,
        ..stall.load.clone()
    };
    if load.preload {
        preload(server, &load)?;
    }
    let load = LoadSpec {
        preload: false,
        ..load
    };
    let delay = load.warmup.0 + seconds.0 / 5;
    std::thread::scope(|scope| {
        let event = (!stall.event.is_empty()).then(|| {
            scope.spawn(move || {
                let mut client = Client::connect(server.port)?;
                std::thread::sleep(delay);
                let begin = Instant::now();
                client.done(&stall.event)?;
                Ok::<f64, Error>(begin.elapsed().as_secs_f64() * 1e3)
            })
        });
        let mut figures = run(server, &load)?;
        if let Some(event) = event {
            let event_ms = event.join().expect("the event's thread does not panic")?;
            figures.insert("event_ms".into(), event_ms);
        }
        Ok(figures)
    })
}

/// Opens connections, lets each say PING once, and watches the server do nothing.
///
/// # Errors
/// Those of the connections, among them that the server takes no more.
pub fn idle(server: &Running, idle: &Idle, seconds: Span) -> Result<Figures, Error> {
    let before = resident_bytes(server.pid());
    let mut open = Vec::with_capacity(idle.conns);
    for _ in 0..idle.conns {
        let mut stream =
            TcpStream::connect(("127.0.0.1", server.port)).map_err(Error::os("connecting"))?;
        let mut reply = [0; 7];
        let answered = stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| stream.write_all(b"*1\r\n$4\r\nPING\r\n"))
            .and_then(|()| stream.read_exact(&mut reply));
        answered.map_err(Error::os("waiting for a PONG"))?;
        if &reply != b"+PONG\r\n" {
            let first = String::from_utf8_lossy(&reply).into_owned();
            return Err(Error::Refused { count: 1, first });
        }
        open.push(stream);
        if sys::is_stopped() {
            return Err(Error::Stopped);
        }
    }
    std::thread::sleep(SETTLE);
    let growth = before
        .zip(resident_bytes(server.pid()))
        .map(|(a, b)| b as f64 - a as f64);
    let (cpu_before, begin) = (Process::read(server.pid()), Instant::now());
    std::thread::sleep(seconds.0);
    let cpu = cpu_before
        .zip(Process::read(server.pid()))
        .map(|(a, b)| b.cpu_ns - a.cpu_ns);
    let elapsed = begin.elapsed().as_secs_f64();
    let mut figures = Figures::from([("seconds".to_owned(), elapsed)]);
    if let Some(growth) = growth {
        figures.insert("bytes_per_conn".into(), growth / idle.conns as f64);
    }
    if let Some(cpu_ns) = cpu {
        figures.insert("server_busy".into(), cpu_ns as f64 / 1e9 / elapsed);
    }
    Ok(figures)
}

/// Congestion control of both ends of every connection.
pub const CONGESTION: &str = "cubic";
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than a server spins or keeps buffers of a connection that has just spoken.
const SETTLE: Duration = Duration::from_millis(300);
