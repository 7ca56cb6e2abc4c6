//! Publish and subscribe.

use std::time::Duration;

use crate::{
    client::Client,
    node::{Node, ONE, TWO, eventually},
};

fn channels(options: &[&str]) {
    let node = Node::start(options);
    let mut publisher = node.client();
    let mut listeners: Vec<Client> = node.clients(6);
    for (at, listener) in listeners.iter_mut().enumerate() {
        listener.post_line(&format!("SUBSCRIBE all own{at}"));
        assert_eq!(listener.reply(), "[subscribe all :1]");
        assert_eq!(listener.reply(), format!("[subscribe own{at} :2]"));
        assert_eq!(
            listener.say("PSUBSCRIBE o*[0-9]"),
            "[psubscribe o*[0-9] :3]"
        );
        assert!(
            listener
                .say("GET a")
                .starts_with("-ERR Can't execute 'get': only")
        );
        assert_eq!(listener.say("PING"), "[pong ]");
    }
    assert_eq!(publisher.say("PUBLISH all one"), ":6");
    assert_eq!(publisher.say("PUBLISH own3 two"), ":7");
    assert_eq!(publisher.say("PUBLISH nobody three"), ":0");
    for (at, listener) in listeners.iter_mut().enumerate() {
        assert_eq!(listener.reply(), "[message all one]");
        if at == 3 {
            assert_eq!(listener.reply(), "[message own3 two]");
        }
        assert_eq!(listener.reply(), "[pmessage o*[0-9] own3 two]");
    }
    for client in &mut node.clients(4) {
        assert_eq!(
            client.say("PUBSUB NUMSUB all own2 none"),
            "[all :6 own2 :1 none :0]"
        );
        assert_eq!(client.say("PUBSUB NUMPAT"), ":1");
        assert_eq!(client.say("PUBSUB CHANNELS own?").split(' ').count(), 6);
    }
    assert_eq!(listeners[0].say("UNSUBSCRIBE all"), "[unsubscribe all :2]");
    assert_eq!(
        listeners[0].say("PUNSUBSCRIBE"),
        "[punsubscribe o*[0-9] :1]"
    );
    assert_eq!(listeners[0].say("UNSUBSCRIBE"), "[unsubscribe own0 :0]");
    assert_eq!(listeners[0].say("UNSUBSCRIBE"), "[unsubscribe nil :0]");
    assert_eq!(listeners[0].say("GET a"), "nil");
    assert_eq!(listeners[1].say("RESET"), "+RESET");
    drop(listeners.pop());
    eventually("the count falls", || publisher.say("PUBLISH all x") == ":3");
    eventually("the channels end with their listeners", || {
        listeners.truncate(1);
        publisher.say("PUBSUB CHANNELS") == "[]" && publisher.say("PUBSUB NUMPAT") == ":0"
    });
    // With the third protocol everything may be run meanwhile, and messages are pushed.
    let mut third = node.client();
    third.say("HELLO 3");
    assert_eq!(third.say("SUBSCRIBE all"), ">[subscribe all :1]");
    assert_eq!(third.say("SET a 1"), "+OK");
    assert_eq!(publisher.say("PUBLISH all x"), ":1");
    assert_eq!(third.reply(), ">[message all x]");
    third.post_line("PUBLISH all self");
    let (one, two) = (third.reply(), third.reply());
    assert!([&one, &two].contains(&&":1".to_string()), "{one} {two}");
    assert!(
        [&one, &two].contains(&&">[message all self]".to_string()),
        "{one} {two}"
    );
}

#[test]
fn messages_reach_all_listeners_on_one_core() {
    channels(ONE);
}

#[test]
fn messages_reach_all_listeners_on_two_cores() {
    channels(TWO);
}

#[test]
fn messages_of_one_publisher_keep_their_order() {
    let node = Node::start(TWO);
    let mut listeners = node.clients(4);
    for listener in &mut listeners {
        listener.say("SUBSCRIBE stream");
    }
    std::thread::scope(|scope| {
        let mut publisher = node.client();
        scope.spawn(move || {
            for part in 0..20 {
                (0..100).for_each(|at| {
                    publisher.post_line(&format!("PUBLISH stream {}", part * 100 + at));
                });
                (0..100).for_each(|_| assert_eq!(publisher.reply(), ":4"));
            }
        });
        for mut listener in listeners {
            scope.spawn(move || {
                for at in 0..2000 {
                    assert_eq!(listener.reply(), format!("[message stream {at}]"));
                }
            });
        }
    });
}

#[test]
fn a_listener_that_does_not_read_is_closed() {
    let node = Node::start(TWO);
    let mut publisher = node.client();
    let mut lazy = node.clients(2);
    for listener in &mut lazy {
        listener.say("SUBSCRIBE flood");
    }
    let message = vec![b'm'; 1 << 20];
    let mut reads = 0;
    eventually("the lazy ones are closed", || {
        reads += 1;
        publisher.send(&[b"PUBLISH", b"flood", &message]) == ":0"
    });
    assert!(reads > 30, "closed after {reads} messages");
    for listener in &mut lazy {
        listener.set_patience(Duration::from_secs(20));
        assert!(listener.is_closed());
    }
}
