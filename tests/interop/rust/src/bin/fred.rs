//! The smoke test through the `fred` crate, in RESP2 and RESP3: `fred HOST:PORT`. Empties the server.
//! A pool of connections shared by many tasks, pipelines, transactions, scripts, streams, messages.

use std::{collections::HashMap, fmt::Debug, time::Duration};

use fred::{
    clients::SubscriberClient,
    prelude::*,
    types::{
        RespVersion,
        streams::{XReadResponse, XReadValue},
    },
};

#[derive(Default)]
struct Count {
    passed: u32,
    failed: u32,
    tag: &'static str,
}

impl Count {
    fn same<T: PartialEq + Debug>(&mut self, name: &str, got: FredResult<T>, want: T) {
        match got {
            Ok(got) if got == want => {
                self.passed += 1;
                println!("ok      {} {name}", self.tag);
            }
            other => {
                self.failed += 1;
                println!("FAILED  {} {name}: {other:?}, expected {want:?}", self.tag);
            }
        }
    }
}

async fn run(count: &mut Count, host: &str, port: u16, version: RespVersion) -> FredResult<()> {
    let mut config = Config::from_url(&format!("redis://{host}:{port}"))?;
    config.version = version;
    let pool = Builder::from_config(config.clone())
        .with_performance_config(|performance| {
            performance.default_command_timeout = Duration::from_secs(20)
        })
        .build_pool(4)?;
    pool.init().await?;
    pool.flushall::<()>(false).await?;

    count.same(
        "set",
        pool.set("k", "v", None, None, false).await,
        "OK".to_string(),
    );
    count.same("get", pool.get("k").await, Some("v".to_string()));
    count.same("a missing key", pool.get("none").await, None::<String>);
    let expiry = Some(Expiration::EX(100));
    count.same(
        "set nx",
        pool.set("k", "w", expiry, Some(SetOptions::NX), false)
            .await,
        None::<String>,
    );

    let mut tasks = Vec::new();
    for task in 0..32 {
        let pool = pool.clone();
        tasks.push(tokio::spawn(async move {
            for turn in 0..100 {
                let key = format!("n{}", (task + turn) % 10);
                pool.incr::<i64, _>(key).await?;
            }
            Ok::<_, Error>(())
        }));
    }
    for task in tasks {
        task.await.expect("the task does not panic")?;
    }
    let keys: Vec<String> = (0..10).map(|n| format!("n{n}")).collect();
    let values: Vec<i64> = pool.mget(keys).await?;
    count.same(
        "3200 counts of 32 tasks over 4 connections",
        Ok(values.iter().sum::<i64>()),
        3200,
    );

    let pipeline = pool.next().pipeline();
    for n in 0..1000 {
        pipeline.rpush::<(), _, _>("list", n).await?;
    }
    pipeline.llen::<(), _>("list").await?;
    let replies: Vec<i64> = pipeline.all().await?;
    count.same(
        "a pipeline of 1001",
        Ok(replies.last().copied()),
        Some(1000),
    );

    let transaction = pool.next().multi();
    transaction
        .set::<(), _, _>("a", 1, None, None, false)
        .await?;
    transaction.incr_by::<(), _>("a", 41).await?;
    transaction.get::<(), _>("a").await?;
    count.same(
        "a transaction",
        transaction.exec(true).await,
        ("OK".to_string(), 42, 42),
    );

    pool.hset::<(), _, _>("h", [("f", "1"), ("g", "2")]).await?;
    let hash: HashMap<String, i64> = pool.hgetall("h").await?;
    count.same(
        "hgetall",
        Ok(hash),
        HashMap::from([("f".into(), 1), ("g".into(), 2)]),
    );
    pool.zadd::<(), _, _>("z", None, None, false, false, vec![(1.5, "a"), (0.25, "b")])
        .await?;
    count.same(
        "zrange with scores",
        pool.zrange("z", 0, -1, None, false, None, true).await,
        vec![("b".to_string(), 0.25), ("a".to_string(), 1.5)],
    );
    count.same(
        "a script",
        pool.next()
            .eval("return {KEYS[1], ARGV[1], 7}", vec!["k"], vec!["v"])
            .await,
        ("k".to_string(), "v".to_string(), 7),
    );
    let refused = pool.incr::<i64, _>("k").await;
    let text = refused.expect_err("a word is no number").to_string();
    count.same("errors", Ok(text.contains("not an integer")), true);

    let id: String = pool.xadd("x", false, None, "5-1", vec![("f", "v")]).await?;
    count.same("xadd", Ok(id), "5-1".to_string());
    let read: XReadResponse<String, String, String, String> =
        pool.xread_map(Some(10), None, "x", "0").await?;
    let want: XReadValue<String, String, String> =
        ("5-1".into(), HashMap::from([("f".into(), "v".into())]));
    count.same("xread", Ok(read.get("x").cloned()), Some(vec![want]));

    let waiter = pool.next().clone_new();
    waiter.init().await?;
    let waiting =
        tokio::spawn(async move { waiter.blpop::<(String, String), _>("queue", 10.0).await });
    pool.rpush::<(), _, _>("queue", "job").await?;
    let got = waiting.await.expect("the task does not panic");
    count.same(
        "blpop is served",
        got,
        ("queue".to_string(), "job".to_string()),
    );

    let listener: SubscriberClient = Builder::from_config(config).build_subscriber_client()?;
    listener.init().await?;
    let mut messages = listener.message_rx();
    listener.subscribe("news").await?;
    // `subscribe` of this crate returns before the server has heard of it, on a busy machine long before.
    let arrives = async {
        while pool.next().publish::<i64, _, _>("news", "hello").await? == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok::<_, Error>(())
    };
    tokio::time::timeout(Duration::from_secs(10), arrives)
        .await
        .map_err(|_| Error::new(ErrorKind::Timeout, "nobody listens"))??;
    let message = tokio::time::timeout(Duration::from_secs(10), messages.recv()).await;
    let text = message
        .ok()
        .and_then(Result::ok)
        .and_then(|message| message.value.as_string());
    count.same("a message arrives", Ok(text), Some("hello".to_string()));
    listener.quit().await?;
    pool.quit().await?;
    Ok(())
}

#[tokio::main]
async fn main() {
    let address = std::env::args().nth(1).expect("HOST:PORT");
    let (host, port) = address.rsplit_once(':').expect("HOST:PORT");
    let port = port.parse().expect("a port");
    let mut count = Count::default();
    for (tag, version) in [("resp2", RespVersion::RESP2), ("resp3", RespVersion::RESP3)] {
        count.tag = tag;
        if let Err(error) = run(&mut count, host, port, version).await {
            count.failed += 1;
            println!("FAILED  {tag}: {error}");
        }
    }
    println!("{} passed, {} failed", count.passed, count.failed);
    std::process::exit(i32::from(count.failed > 0));
}
