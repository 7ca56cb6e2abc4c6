use super::*;
use crate::cmd::{all, testing::Desk};

/// Runs each line; the frames that follow it have to be these, no more and no less.
fn check(lines: &[(&str, &[&str])]) {
    let mut desk = Desk::recording(1);
    for (line, want) in lines {
        let reply = desk.say(line);
        assert_eq!(desk.effects(), *want, "{line} answers {reply}");
    }
}

#[test]
fn every_command_that_writes_has_a_rule() {
    for (_, spec) in all() {
        let has_rule = !matches!(spec.effect, Rule::None);
        // What PFCOUNT remembers in the value is no change for clients.
        let wants = spec.is_write() || spec.name == "PFCOUNT";
        assert_eq!(has_rule, wants, "{}", spec.name);
    }
    for (name, _) in rules::RULES {
        assert!(all().any(|(_, spec)| spec.name == *name), "{name}");
    }
}

#[test]
fn strings() {
    check(&[
        ("set k v", &["SET k v"]),
        ("SET k w NX", &[]),
        ("SET k w XX GET", &["SET k w"]),
        ("SET k v PX 1000", &["SET k v", "PEXPIREAT k 1000000001000"]),
        ("SET k w KEEPTTL", &["SET k w", "PEXPIREAT k 1000000001000"]),
        ("GETEX k", &[]),
        ("GETEX k PERSIST", &["PERSIST k"]),
        ("GETEX k PERSIST", &[]),
        ("GETEX k EX 5", &["PEXPIREAT k 1000000005000"]),
        ("APPEND k x", &["APPEND k x"]),
        ("SETRANGE k 1 y", &["SETRANGE k 1 y"]),
        ("GETSET k 1", &["SET k 1"]),
        ("INCR k", &["INCR k"]),
        ("DECRBY k 3", &["DECRBY k 3"]),
        ("EXPIRE k 7", &["PEXPIREAT k 1000000007000"]),
        (
            "INCRBYFLOAT k 0.5",
            &["SET k -0.5", "PEXPIREAT k 1000000007000"],
        ),
        ("INCR k", &[]),
        ("GETDEL k", &["DEL k"]),
        ("GETDEL k", &[]),
        ("SETEX k 3 v", &["SET k v", "PEXPIREAT k 1000000003000"]),
        ("PSETEX k 3 v", &["SET k v", "PEXPIREAT k 1000000000003"]),
        ("SETNX k v", &[]),
        ("SETNX n v", &["SET n v"]),
        ("MSET a 1 b 2", &["SET a 1", "SET b 2"]),
        ("MSETNX a 1 c 2", &[]),
        ("MSETNX c 1 d 2", &["SET c 1", "SET d 2"]),
        ("SET k v PXAT 5", &["DEL k"]),
        ("SETBIT bits 3 1", &["SETBIT bits 3 1"]),
        ("SETBIT bits 3 1", &[]),
        (
            "BITFIELD bits SET u8 8 7 GET u8 0",
            &["BITFIELD bits SET u8 8 7 GET u8 0"],
        ),
        ("BITFIELD bits GET u8 8", &[]),
        ("BITOP OR k a b", &["SET k 3"]),
        ("BITOP OR k none", &["DEL k"]),
    ]);
}
