//! A core in its steady state allocates nothing for a GET, and nothing for a SET of a small value over
//! one that is there; nor does what records such commands.
//!
//! The shipped loop runs on the kernel's ring, on a thread whose allocations are counted. It is run with
//! few requests and with many; what the two runs differ by is what the requests cost.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use ringkeep::{
    base::{Position, Rng},
    cmd::{Ctx, Run, Shard, Shards, Table, run},
    journal::Stream,
    mesh,
    resp::{Out, OwnedArgs},
    shard::{Core, Door, Message, Settings, Shared},
};
use uring::{Endpoint, KernelReactor, Reactor, RingConfig, Wake};

const KEYS: usize = 1000;
const VALUE: usize = 64;

/// Runs a core of its own for some rounds of pipelined requests; how often its thread allocated.
fn allocations(pipeline: usize, rounds: usize) -> u64 {
    // A port that was free a moment ago; nobody else takes ports of this machine in that order.
    let at = TcpListener::bind("127.0.0.1:0")
        .and_then(|probe| probe.local_addr())
        .expect("a port is free");
    let client = thread::spawn(move || talk(at, pipeline, rounds));
    let reactor = KernelReactor::new(RingConfig::default()).expect("this kernel has io_uring");
    let waker = Box::new(reactor.waker()) as Box<dyn Wake + Send + Sync>;
    let mesh = mesh::build::<Message>(vec![waker])
        .pop()
        .expect("one was built");
    let settings = Settings {
        port: at.port(),
        bind: "127.0.0.1".into(),
        unix: None,
        cores: 1,
        shards: 1,
        databases: 1,
        spin_us: 0,
        dir: None,
        journals: false,
        replication_port: None,
        segment_len: 1 << 20,
        clients_max: usize::MAX,
        takes_time: true,
        announce: String::new(),
        slots: None,
    };
    let shared = Arc::new(Shared::new(settings, 0, String::new()));
    let mut core = Core::new(reactor, mesh, shared, 7).expect("the Lua state can be made");
    core.listen(&Endpoint::Tcp(at), Door::Plain)
        .expect("the port is still free");
    let mut outcome = Ok(());
    let counted = allocation_counter::measure(|| outcome = core.run());
    outcome.expect("the ring works");
    client.join().expect("the client got its replies");
    counted.count_total
}

fn talk(at: SocketAddr, pipeline: usize, rounds: usize) {
    let mut stream = loop {
        match TcpStream::connect(at) {
            Ok(stream) => break stream,
            Err(_) => thread::yield_now(),
        }
    };
    let value = "v".repeat(VALUE);
    let set =
        |key: usize| format!("*3\r\n$3\r\nSET\r\n$7\r\nkey{key:04}\r\n${VALUE}\r\n{value}\r\n");
    let get = |key: usize| format!("*2\r\n$3\r\nGET\r\n$7\r\nkey{key:04}\r\n");
    for key in 0..KEYS {
        ask(&mut stream, &set(key), "+OK\r\n".len());
    }
    for round in 0..rounds {
        let keys = (0..pipeline).map(|number| (round * 31 + number) % KEYS);
        let gets: String = keys.clone().map(get).collect();
        ask(
            &mut stream,
            &gets,
            pipeline * format!("${VALUE}\r\n{value}\r\n").len(),
        );
        let sets: String = keys.map(set).collect();
        ask(&mut stream, &sets, pipeline * "+OK\r\n".len());
    }
    stream
        .write_all(b"*1\r\n$8\r\nSHUTDOWN\r\n")
        .expect("the node listens");
    let _ = stream.read(&mut [0; 16]);
}

fn ask(stream: &mut TcpStream, requests: &str, reply_len: usize) {
    stream
        .write_all(requests.as_bytes())
        .expect("the node listens");
    let mut reply = vec![0; reply_len];
    stream.read_exact(&mut reply).expect("the node answers");
    assert!(
        reply.starts_with(b"+OK") || reply.starts_with(b"$64"),
        "{:?}",
        String::from_utf8_lossy(&reply)
    );
}

#[test]
fn requests_of_the_steady_state_allocate_nothing() {
    for pipeline in [1, 16] {
        let few = allocations(pipeline, 200);
        let many = allocations(pipeline, 4200);
        let requests = 4000 * 2 * pipeline as u64;
        let more = many.saturating_sub(few);
        // The beat publishes sizes ten times a second, and a longer run has more beats.
        assert!(
            more * 100 < requests,
            "pipeline {pipeline}: {more} allocations for {requests} requests"
        );
    }
}

#[test]
fn recorded_commands_allocate_nothing() {
    let table = Table::build();
    let lines = ["SET key some-value", "INCR number", "HSET hash field value"];
    let commands: Vec<OwnedArgs> = lines
        .iter()
        .map(|line| OwnedArgs::copy(line.split(' ').map(str::as_bytes)))
        .collect();
    let mut shard = Box::new(Shard::new(1, 7));
    let start = Position {
        generation: 1,
        offset: 0,
    };
    shard.stream = Some(Box::new(Stream::new(0, start)));
    let mut shards = Shards::none_of(1);
    shards.put(0, shard);
    let (mut out, mut rng) = (Out::default(), Rng::seeded(1));
    let mut rounds = |count: usize| {
        for _ in 0..count {
            for args in &commands {
                let args = args.as_args();
                let spec = table.find(args.at(0)).expect("a command");
                let Run::Store(function) = spec.run else {
                    panic!("{} is no store command", spec.name)
                };
                let mut ctx = Ctx {
                    shards: &mut shards,
                    db: 0,
                    out: &mut out,
                    now: 1_000_000_000_000,
                    rng: &mut rng,
                    dirty: 0,
                    may_block: false,
                    block: None,
                    from_primary: false,
                    arrived: None,
                };
                run(&mut ctx, spec, function, args).expect("it succeeds");
                assert_eq!(shards.end_unit().len(), 1);
            }
            out.clear();
            // The journal writes what has come and gives the memory back.
            let stream = shards.shard(0).stream.as_mut().expect("it has one");
            let block = stream.take_block().expect("something was recorded");
            stream.reuse(block.into_bytes());
        }
    };
    rounds(1000);
    assert_eq!(allocation_counter::measure(|| rounds(1000)).count_total, 0);
}
