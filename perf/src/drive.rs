//! One measurement of one running engine, as figures for a row.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::client::{Client, Value, wait_until};
use crate::engines::Running;
use crate::error::Error;
use crate::load::{self, Target};
use crate::probe::{Process, resident_bytes};
use crate::record;
use crate::scenario::{Beside, Fill, Idle, Restart, Setup, Stall};
use crate::spec::{LoadSpec, Sizes, Span};
use crate::stats::Spread;
use crate::sys;

/// Figures by name.
pub type Figures = BTreeMap<String, f64>;

/// An engine under load, and where the load comes from.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// The engine.
    pub server: &'a Running,
    /// CPUs of the generator's threads; left to the scheduler when empty.
    pub cpus: &'a [usize],
}

impl Site<'_> {
    fn target(&self) -> Target {
        Target {
            host: "127.0.0.1".into(),
            port: self.server.port,
            socket: None,
            cpus: self.cpus.to_vec(),
            congestion: Some(CONGESTION.into()),
            server_pid: Some(self.server.pid()),
        }
    }

    /// Puts in what a load works on.
    ///
    /// # Errors
    /// Those of the connection; [`Error::Refused`].
    pub fn preload(&self, load: &LoadSpec) -> Result<(), Error> {
        load::preload(&self.target(), load)
    }

    /// Runs one load, without its preload.
    ///
    /// # Errors
    /// Those of the connection; [`Error::Refused`] when there were error replies; [`Error::Wrong`];
    /// [`Error::Silent`].
    pub fn run(&self, load: &LoadSpec) -> Result<Figures, Error> {
        let load = LoadSpec {
            preload: false,
            ..load.clone()
        };
        let measured = load::run(&self.target(), &load, &mut |_| ())?;
        measured.refused()?;
        if measured.requests == 0 {
            return Err(Error::Silent);
        }
        let mut figures = record::numbers(&measured)?;
        if let Some(rate) = load.rate {
            figures.insert("rate".into(), rate);
        }
        if measured.delivered > 0 {
            let per_second = measured.delivered as f64 / measured.seconds;
            figures.insert("delivered_per_s".into(), per_second);
        }
        Ok(figures)
    }

    /// Inserts every key once.
    ///
    /// # Errors
    /// Those of the connection; [`Error::Refused`]; [`Error::Missing`].
    pub fn fill(&self, fill: &Fill) -> Result<Figures, Error> {
        let load = LoadSpec {
            keys: fill.keys,
            key_size: fill.key_size,
            size: Sizes::fixed(fill.size as u64),
            conns: fill.conns,
            pipeline: fill.pipeline,
            ..LoadSpec::default()
        };
        let report = load::fill(&self.target(), &load, fill.shuffle)?;
        report.refused()?;
        if let Some(stored) = report.keys_stored.filter(|stored| *stored != report.keys) {
            let keys = report.keys;
            return Err(Error::Missing { stored, keys });
        }
        record::numbers(&report)
    }

    /// Sends the commands of a setup.
    ///
    /// # Errors
    /// Those of the connection; [`Error::Refused`].
    pub fn set_up(&self, setup: &Setup) -> Result<Figures, Error> {
        let server = self.server;
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
    pub fn stall(&self, stall: &Stall, seconds: Span) -> Result<Figures, Error> {
        let load = LoadSpec {
            duration: seconds,
            ..stall.load.clone()
        };
        if load.preload {
            self.preload(&load)?;
        }
        let port = self.server.port;
        let delay = load.warmup.0 + seconds.0 / 5;
        std::thread::scope(|scope| {
            let event = (!stall.event.is_empty()).then(|| {
                scope.spawn(move || {
                    let mut client = Client::connect(port)?;
                    std::thread::sleep(delay);
                    let begin = Instant::now();
                    client.done(&stall.event)?;
                    Ok::<f64, Error>(begin.elapsed().as_secs_f64() * 1e3)
                })
            });
            let mut figures = self.run(&load)?;
            if let Some(event) = event {
                let event_ms = event.join().expect("the event's thread does not panic")?;
                figures.insert("event_ms".into(), event_ms);
            }
            Ok(figures)
        })
    }

    /// Runs an open loop, and beside it an event that is begun again whenever it is over.
    ///
    /// # Errors
    /// Those of the connections; [`Error::Refused`].
    pub fn beside(&self, beside: &Beside, load: &LoadSpec) -> Result<Figures, Error> {
        let is_over = AtomicBool::new(false);
        let port = self.server.port;
        std::thread::scope(|scope| {
            let events = scope.spawn(|| {
                let mut client = Client::connect(port)?;
                let mut times = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    // One that the engine began by itself is as good.
                    client.call(&beside.event)?;
                    await_background(&mut client)?;
                    times.push(begin.elapsed().as_secs_f64() * 1e3);
                }
                Ok::<Vec<f64>, Error>(times)
            });
            let figures = self.run(load);
            is_over.store(true, Ordering::Relaxed);
            let times = events.join().expect("the events' thread does not panic")?;
            let mut figures = figures?;
            figures.insert("events".into(), times.len() as f64);
            if let Some(spread) = Spread::of(&times) {
                figures.insert("event_ms".into(), spread.median);
            }
            Ok(figures)
        })
    }

    /// Opens connections, lets each say PING once, and watches the server do nothing.
    ///
    /// # Errors
    /// Those of the connections, among them that the server takes no more.
    pub fn idle(&self, idle: &Idle, seconds: Span) -> Result<Figures, Error> {
        let server = self.server;
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
}

/// Stops an engine that has `keys` keys in order, and starts it again.
///
/// # Errors
/// Those of the connection and of the start; [`Error::Missing`] if it comes back with less.
pub fn restart(server: &mut Running, restart: &Restart, keys: u64) -> Result<Figures, Error> {
    if !restart.event.is_empty() {
        let mut client = Client::connect(server.port)?;
        client.done(&restart.event)?;
        await_background(&mut client)?;
    }
    let seconds = server.restart()?.as_secs_f64();
    let cpu = Process::read(server.pid()).map(|process| process.cpu_ns);
    let stored = match Client::connect(server.port)?.done(&["DBSIZE"])? {
        Value::Text(count) => String::from_utf8_lossy(&count).parse().unwrap_or(0),
        _ => 0,
    };
    if stored != keys {
        return Err(Error::Missing { stored, keys });
    }
    let mut figures = Figures::from([
        ("seconds".to_owned(), seconds),
        ("keys_per_s".to_owned(), keys as f64 / seconds),
    ]);
    if let Some(cpu_ns) = cpu {
        figures.insert("load_cpu_ns".into(), cpu_ns as f64 / keys as f64);
    }
    Ok(figures)
}

/// Waits until nothing is being saved or rewritten any more.
fn await_background(client: &mut Client) -> Result<(), Error> {
    // Some engines tell only at their next tick that it has begun.
    std::thread::sleep(TICK);
    wait_until(Duration::from_secs(60), Duration::from_millis(10), || {
        let Value::Text(info) = client.done(&["INFO", "persistence"])? else {
            return Ok(true);
        };
        Ok(!String::from_utf8_lossy(&info).contains("_in_progress:1"))
    })
}

/// Congestion control of both ends of every connection.
pub const CONGESTION: &str = "cubic";
const TICK: Duration = Duration::from_millis(120);
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than a server spins or keeps buffers of a connection that has just spoken.
const SETTLE: Duration = Duration::from_millis(300);
