//! Every command of the family, its forms and its errors.

use crate::{
    base::Rng,
    cmd::{Ctx, Run, Shard, Shards, Table, run, testing::Desk},
    resp::{Out, OwnedArgs, Proto},
};

/// A desk on which these command lines were run.
fn desk(lines: &[&str]) -> Desk {
    let mut desk = Desk::with_shards(3);
    for line in lines {
        let reply = desk.say(line);
        assert!(!reply.starts_with('-'), "{line}: {reply}");
    }
    desk
}

fn expect(desk: &mut Desk, cases: &[(&str, &str)]) {
    for (line, want) in cases {
        assert_eq!(desk.say(line), *want, "{line}");
    }
}

const BAD_ID: &str = "-ERR Invalid stream ID specified as stream command argument";
const NOT_INTEGER: &str = "-ERR value is not an integer or out of range";
const WRONG_TYPE: &str = "-WRONGTYPE Operation against a key holding the wrong kind of value";

#[test]
fn xadd_chooses_and_checks_ids() {
    let mut desk = desk(&[]);
    expect(
        &mut desk,
        &[
            ("XADD s NOMKSTREAM * f v", "$-1"),
            ("XADD s * f v", "$15 1000000000000-0"),
            ("XADD s * f v", "$15 1000000000000-1"),
            ("XADD s 1000000000000-* f v", "$15 1000000000000-2"),
            ("XADD s 1000000000001 f v", "$15 1000000000001-0"),
            (
                "XADD s nomkstream 1000000000001-7 f v",
                "$15 1000000000001-7",
            ),
            ("XLEN s", ":5"),
            (
                "XADD s 5-5 f v",
                "-ERR The ID specified in XADD is equal or smaller than the target stream top item",
            ),
            (
                "XADD n 0-0 f v",
                "-ERR The ID specified in XADD must be greater than 0-0",
            ),
            ("XADD n 0-* f v", "$3 0-1"),
            ("XADD n a-1 f v", BAD_ID),
            ("XADD n - f v", BAD_ID),
            (
                "XADD n * f",
                "-ERR wrong number of arguments for 'xadd' command",
            ),
            (
                "XADD n * f v g",
                "-ERR wrong number of arguments for 'xadd' command",
            ),
            (
                "XADD n 18446744073709551615-18446744073709551615 f v",
                "$41 18446744073709551615-18446744073709551615",
            ),
            (
                "XADD n * f v",
                "-ERR The stream has exhausted the last possible ID, unable to add more items",
            ),
            ("SET str v", "+OK"),
            ("XADD str * f v", WRONG_TYPE),
        ],
    );
}

#[test]
fn trimming_options_are_checked() {
    let mut desk = desk(&["XADD s 1 f v", "XADD s 2 f v", "XADD s 3 f v"]);
    expect(
        &mut desk,
        &[
            ("XTRIM s MAXLEN ~ 1", ":0"),
            ("XTRIM s MAXLEN = 2", ":1"),
            ("XTRIM s MINID 3", ":1"),
            ("XTRIM none MAXLEN 1", ":0"),
            ("XADD s MAXLEN 2 4 f v", "$3 4-0"),
            ("XADD s MINID = 4 5 f v", "$3 5-0"),
            (
                "XRANGE s - +",
                "*2 *2 $3 4-0 *2 $1 f $1 v *2 $3 5-0 *2 $1 f $1 v",
            ),
            (
                "XTRIM s MAXLEN -1",
                "-ERR The MAXLEN argument must be >= 0.",
            ),
            ("XTRIM s MAXLEN x", NOT_INTEGER),
            ("XTRIM s MINID x", BAD_ID),
            ("XTRIM s FOO 1", "-ERR syntax error"),
            (
                "XTRIM s MAXLEN 1 MINID 1",
                "-ERR syntax error, MAXLEN and MINID options at the same time are not compatible",
            ),
            (
                "XTRIM s LIMIT 1",
                "-ERR syntax error, LIMIT cannot be used without specifying a trimming strategy",
            ),
            (
                "XTRIM s MAXLEN 1 LIMIT 1",
                "-ERR syntax error, LIMIT cannot be used without the special ~ option",
            ),
            (
                "XTRIM s MAXLEN ~ 1 LIMIT -1",
                "-ERR The LIMIT argument must be >= 0.",
            ),
            ("XTRIM s MAXLEN ~ 0 LIMIT 1", ":0"),
            ("XTRIM s MAXLEN ~ 0 LIMIT 0", ":2"),
        ],
    );
    assert_eq!(desk.dirty, 1);
    assert_eq!(desk.say("XTRIM s MAXLEN 0"), ":0");
    assert_eq!(desk.dirty, 0);
}

#[test]
fn ranges_take_open_ends() {
    let mut desk = desk(&["XADD s 1-1 a 1", "XADD s 1-2 b 2 c 3", "XADD s 2-0 a 4"]);
    let (one, two, three) = (
        "*2 $3 1-1 *2 $1 a $1 1",
        "*2 $3 1-2 *4 $1 b $1 2 $1 c $1 3",
        "*2 $3 2-0 *2 $1 a $1 4",
    );
    expect(
        &mut desk,
        &[
            ("XRANGE s - +", &format!("*3 {one} {two} {three}")),
            ("XRANGE s 1 1", &format!("*2 {one} {two}")),
            ("XRANGE s (1-1 (2-0", &format!("*1 {two}")),
            ("XREVRANGE s + - COUNT 2", &format!("*2 {three} {two}")),
            ("XREVRANGE s 1 (1-1", &format!("*1 {two}")),
            ("XRANGE s - + COUNT 0", "*-1"),
            ("XRANGE none - + COUNT 0", "*0"),
            ("XRANGE s + -", "*0"),
            ("XRANGE s (x +", BAD_ID),
            ("XRANGE s ( +", BAD_ID),
            (
                "XRANGE s (18446744073709551615-18446744073709551615 +",
                "-ERR invalid start ID for the interval",
            ),
            ("XRANGE s - (0-0", "-ERR invalid end ID for the interval"),
            ("XRANGE s - + COUNT", "-ERR syntax error"),
            ("XRANGE s - + COUNT x", NOT_INTEGER),
        ],
    );
}

#[test]
fn deleting_leaves_the_counters() {
    let mut desk = desk(&["XADD s 1 a 1", "XADD s 2 a 2", "XADD s 3 a 3"]);
    expect(
        &mut desk,
        &[
            ("XDEL s 2 x", BAD_ID),
            ("XDEL s 2 2 9", ":1"),
            ("XDEL none 1", ":0"),
            ("XLEN s", ":2"),
            (
                "XINFO STREAM s",
                "*20 $6 length :2 $15 radix-tree-keys :1 $16 radix-tree-nodes :2 $17 \
                 last-generated-id $3 3-0 $20 max-deleted-entry-id $3 2-0 $13 entries-added :3 $23 \
                 recorded-first-entry-id $3 1-0 $6 groups :0 $11 first-entry *2 $3 1-0 *2 $1 a $1 1 \
                 $10 last-entry *2 $3 3-0 *2 $1 a $1 3",
            ),
            ("XDEL s 1 3", ":2"),
            ("XLEN s", ":0"),
            (
                "XADD s 3 f v",
                "-ERR The ID specified in XADD is equal or smaller than the target stream top item",
            ),
        ],
    );
}

#[test]
fn xsetid_moves_the_counters() {
    let mut desk = desk(&["XADD s 5 a 1", "XADD s 6 a 1"]);
    expect(
        &mut desk,
        &[
            ("XSETID none 1-1", "-ERR no such key"),
            (
                "XSETID s 5",
                "-ERR The ID specified in XSETID is smaller than the target stream top item",
            ),
            (
                "XSETID s 9 ENTRIESADDED 1",
                "-ERR The entries_added specified in XSETID is smaller than the target stream length",
            ),
            (
                "XSETID s 9 ENTRIESADDED -1",
                "-ERR entries_added must be positive",
            ),
            (
                "XSETID s 9 MAXDELETEDID 10",
                "-ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id",
            ),
            ("XSETID s 9 FOO 1", "-ERR syntax error"),
            ("XSETID s 9 ENTRIESADDED 7 MAXDELETEDID 4", "+OK"),
            ("XADD s 9-* a 1", "$3 9-1"),
        ],
    );
}

#[test]
fn xread_reads_and_waits() {
    let mut desk = desk(&["XADD s 1 a 1", "XADD s 2 a 2", "XADD t 1 b 1"]);
    expect(
        &mut desk,
        &[
            (
                "XREAD COUNT 1 STREAMS s t 0 0",
                "*2 *2 $1 s *1 *2 $3 1-0 *2 $1 a $1 1 *2 $1 t *1 *2 $3 1-0 *2 $1 b $1 1",
            ),
            (
                "XREAD STREAMS s t none 1 1 0",
                "*1 *2 $1 s *1 *2 $3 2-0 *2 $1 a $1 2",
            ),
            ("XREAD STREAMS s 2", "*-1"),
            ("XREAD COUNT 1 s t", "-ERR syntax error"),
            (
                "XREAD STREAMS s t 0",
                "-ERR Unbalanced 'xread' list of streams: for each stream key an ID or '$' must be \
                 specified.",
            ),
            (
                "XREAD BLOCK x STREAMS s 0",
                "-ERR timeout is not an integer or out of range",
            ),
            ("XREAD BLOCK -1 STREAMS s 0", "-ERR timeout is negative"),
            (
                "XREAD STREAMS s >",
                "-ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> \
                 <consumer> option.",
            ),
            (
                "XREAD GROUP g c STREAMS s 0",
                "-ERR The GROUP option is only supported by XREADGROUP. You called XREAD instead.",
            ),
            (
                "XREAD NOACK STREAMS s 0",
                "-ERR The NOACK option is only supported by XREADGROUP. You called XREAD instead.",
            ),
            ("XREAD BLOCK 0 STREAMS s none $ $", ""),
        ],
    );
    assert!(desk.blocked);
    desk.proto = Proto::Three;
    assert_eq!(
        desk.say("XREAD BLOCK 0 STREAMS s 1"),
        "%1 $1 s *1 *2 $3 2-0 *2 $1 a $1 2"
    );
    assert!(!desk.blocked);
    assert_eq!(desk.say("XREAD STREAMS s 2"), "_");
}

#[test]
fn a_waiting_xread_remembers_what_the_end_was() {
    let mut world = World::new();
    world.say("XADD s 7-1 a 1");
    let again = world.block_of("XREAD BLOCK 50 STREAMS s none $ $");
    let again = again.expect("the command has to wait");
    let words: Vec<_> = again.as_args().iter().map(<[u8]>::to_vec).collect();
    assert_eq!(words.join(&b' '), b"XREAD BLOCK 50 STREAMS s none 7-1 0-0");
}

#[test]
fn groups_deliver_each_entry_once() {
    let mut desk = desk(&["XADD s 1 a 1", "XADD s 2 a 2", "XGROUP CREATE s g 0"]);
    expect(
        &mut desk,
        &[
            (
                "XREADGROUP GROUP g c COUNT 1 STREAMS s >",
                "*1 *2 $1 s *1 *2 $3 1-0 *2 $1 a $1 1",
            ),
            (
                "XREADGROUP GROUP g d NOACK STREAMS s >",
                "*1 *2 $1 s *1 *2 $3 2-0 *2 $1 a $1 2",
            ),
            ("XREADGROUP GROUP g c STREAMS s >", "*-1"),
            ("XREADGROUP GROUP g c BLOCK 0 STREAMS s >", ""),
            (
                "XREADGROUP GROUP g c STREAMS s 0",
                "*1 *2 $1 s *1 *2 $3 1-0 *2 $1 a $1 1",
            ),
            ("XREADGROUP GROUP g c STREAMS s 1", "*1 *2 $1 s *0"),
            ("XPENDING s g - + 10", "*1 *4 $3 1-0 $1 c :0 :2"),
            ("XDEL s 1", ":1"),
            (
                "XREADGROUP GROUP g c STREAMS s 0",
                "*1 *2 $1 s *1 *2 $3 1-0 *-1",
            ),
            ("XACK s g 1 1 2", ":1"),
            ("XACK s g x", BAD_ID),
            ("XACK s none x", ":0"),
            (
                "XREADGROUP GROUP none c STREAMS s >",
                "-NOGROUP No such key 's' or consumer group 'none' in XREADGROUP with GROUP option",
            ),
            (
                "XREADGROUP COUNT 1 NOACK STREAMS s t > >",
                "-ERR Missing GROUP option for XREADGROUP",
            ),
            (
                "XREADGROUP GROUP g c COUNT 1 STREAMS s",
                "-ERR Unbalanced 'xreadgroup' list of streams: for each stream key an ID or '>' must \
                 be specified.",
            ),
            (
                "XREADGROUP GROUP g c STREAMS s $",
                "-ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the \
                 history of this consumer by specifying a proper ID, or use the > ID to get new \
                 messages. The $ ID would just return an empty result set.",
            ),
        ],
    );
}

#[test]
fn a_read_that_only_waits_makes_its_consumer() {
    let mut desk = desk(&["XGROUP CREATE s g $ MKSTREAM"]);
    assert_eq!(desk.say("XREADGROUP GROUP g c BLOCK 0 STREAMS s >"), "");
    assert!(desk.blocked);
    assert_eq!(desk.dirty, 1);
    desk.now += 5;
    assert_eq!(desk.say("XREADGROUP GROUP g c STREAMS s >"), "*-1");
    assert_eq!(desk.dirty, 0);
    desk.now += 2;
    let want = "*1 *8 $4 name $1 c $7 pending :0 $4 idle :2 $8 inactive :-1";
    assert_eq!(desk.say("XINFO CONSUMERS s g"), want);
    // What a waiting client is answered once its group or stream is gone.
    desk.say("XGROUP DESTROY s g");
    let want = "-NOGROUP No such key 's' or consumer group 'g' in XREADGROUP with GROUP option";
    assert_eq!(desk.say("XREADGROUP GROUP g c BLOCK 0 STREAMS s >"), want);
}

#[test]
fn xclaim_changes_the_owner() {
    let mut desk = desk(&[
        "XADD s 1 a 1",
        "XADD s 2 a 2",
        "XADD s 3 a 3",
        "XGROUP CREATE s g 0",
        "XREADGROUP GROUP g c COUNT 2 STREAMS s >",
    ]);
    desk.now += 100;
    expect(
        &mut desk,
        &[
            ("XCLAIM s g d 101 1", "*0"),
            ("XCLAIM s g d 100 1", "*1 *2 $3 1-0 *2 $1 a $1 1"),
            ("XCLAIM s g d 0 2 JUSTID TIME 999999999999", "*1 $3 2-0"),
            (
                "XCLAIM s g d 0 3 9 FORCE RETRYCOUNT 7 IDLE 50 LASTID 3",
                "*1 *2 $3 3-0 *2 $1 a $1 3",
            ),
            (
                "XPENDING s g - + 9 d",
                "*3 *4 $3 1-0 $1 d :0 :2 *4 $3 2-0 $1 d :101 :1 *4 $3 3-0 $1 d :50 :7",
            ),
            ("XPENDING s g IDLE 60 - + 9", "*1 *4 $3 2-0 $1 d :101 :1"),
            ("XPENDING s g", "*4 :3 $3 1-0 $3 3-0 *1 *2 $1 d $1 3"),
            ("XDEL s 2", ":1"),
            ("XCLAIM s g e 1000 2 JUSTID", "*0"),
            ("XPENDING s g - + 9 nobody", "*0"),
            ("XPENDING s g (1 + 9", "*1 *4 $3 3-0 $1 d :50 :7"),
            ("XREADGROUP GROUP g c STREAMS s >", "*-1"),
            (
                "XCLAIM s none d 0 1",
                "-NOGROUP No such key 's' or consumer group 'none'",
            ),
            (
                "XCLAIM s g d x 1",
                "-ERR Invalid min-idle-time argument for XCLAIM",
            ),
            (
                "XCLAIM s g d 0 1 IDLE x",
                "-ERR Invalid IDLE option argument for XCLAIM",
            ),
            (
                "XCLAIM s g d 0 1 TIME x",
                "-ERR Invalid TIME option argument for XCLAIM",
            ),
            (
                "XCLAIM s g d 0 1 RETRYCOUNT x",
                "-ERR Invalid RETRYCOUNT option argument for XCLAIM",
            ),
            ("XCLAIM s g d 0 1 LASTID x", BAD_ID),
            (
                "XCLAIM s g d 0 1 FOO",
                "-ERR Unrecognized XCLAIM option 'FOO'",
            ),
        ],
    );
}

#[test]
fn xautoclaim_goes_on_from_a_cursor() {
    let mut desk = desk(&[
        "XADD s 1 a 1",
        "XADD s 2 a 2",
        "XADD s 3 a 3",
        "XGROUP CREATE s g 0",
        "XREADGROUP GROUP g c STREAMS s >",
        "XDEL s 1",
    ]);
    expect(
        &mut desk,
        &[
            (
                "XAUTOCLAIM s g d 0 - COUNT 2",
                "*3 $3 3-0 *1 *2 $3 2-0 *2 $1 a $1 2 *1 $3 1-0",
            ),
            ("XAUTOCLAIM s g d 0 (2 JUSTID", "*3 $3 0-0 *1 $3 3-0 *0"),
            ("XAUTOCLAIM s g d 5 0", "*3 $3 0-0 *0 *0"),
            (
                "XPENDING s g - + 9",
                "*2 *4 $3 2-0 $1 d :0 :2 *4 $3 3-0 $1 d :0 :1",
            ),
            ("XAUTOCLAIM s g d 0 0 COUNT 0", "-ERR COUNT must be > 0"),
            (
                "XAUTOCLAIM s g d x 0",
                "-ERR Invalid min-idle-time argument for XAUTOCLAIM",
            ),
            ("XAUTOCLAIM s g d 0 x", BAD_ID),
            ("XAUTOCLAIM s g d 0 0 FOO", "-ERR syntax error"),
            (
                "XAUTOCLAIM s none d 0 0",
                "-NOGROUP No such key 's' or consumer group 'none'",
            ),
        ],
    );
}

#[test]
fn xpending_checks_its_form() {
    let mut desk = desk(&["XGROUP CREATE s g 0 MKSTREAM"]);
    expect(
        &mut desk,
        &[
            ("XPENDING s g", "*4 :0 $-1 $-1 *-1"),
            ("XPENDING s g - +", "-ERR syntax error"),
            ("XPENDING s g IDLE 1 - +", "-ERR syntax error"),
            ("XPENDING s g IDLE x - + 1", NOT_INTEGER),
            ("XPENDING s g - + x", NOT_INTEGER),
            ("XPENDING s g - x 1", BAD_ID),
            (
                "XPENDING none g",
                "-NOGROUP No such key 'none' or consumer group 'g'",
            ),
        ],
    );
}

#[test]
fn xgroup_subcommands() {
    let mut desk = desk(&["XADD s 1 a 1", "XADD s 2 a 2"]);
    let no_stream = "-ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you \
                     may want to use the MKSTREAM option to create an empty stream automatically.";
    expect(
        &mut desk,
        &[
            ("XGROUP CREATE none g $", no_stream),
            ("XGROUP CREATE s g 0 ENTRIESREAD 0", "+OK"),
            (
                "XGROUP CREATE s g 0",
                "-BUSYGROUP Consumer Group name already exists",
            ),
            ("XGROUP CREATE s h x", BAD_ID),
            (
                "XGROUP CREATE s h 0 ENTRIESREAD -2",
                "-ERR value for ENTRIESREAD must be positive or -1",
            ),
            (
                "XGROUP CREATE s h 0 FOO",
                "-ERR unknown subcommand or wrong number of arguments for 'CREATE'. Try XGROUP HELP.",
            ),
            (
                "XGROUP CREATE s h",
                "-ERR wrong number of arguments for 'xgroup|create' command",
            ),
            (
                "XINFO GROUPS s",
                "*1 *12 $4 name $1 g $9 consumers :0 $7 pending :0 $17 last-delivered-id $3 0-0 $12 \
                 entries-read :0 $3 lag :2",
            ),
            ("XGROUP SETID s g 1-5", "+OK"),
            (
                "XINFO GROUPS s",
                "*1 *12 $4 name $1 g $9 consumers :0 $7 pending :0 $17 last-delivered-id $3 1-5 $12 \
                 entries-read $-1 $3 lag $-1",
            ),
            ("XGROUP SETID s g $ ENTRIESREAD 2", "+OK"),
            (
                "XGROUP SETID s h 0",
                "-NOGROUP No such consumer group 'h' for key name 's'",
            ),
            ("XGROUP CREATECONSUMER s g c", ":1"),
            ("XGROUP CREATECONSUMER s g c", ":0"),
            ("XGROUP SETID s g 0", "+OK"),
            (
                "XREADGROUP GROUP g c COUNT 1 STREAMS s >",
                "*1 *2 $1 s *1 *2 $3 1-0 *2 $1 a $1 1",
            ),
            ("XGROUP DELCONSUMER s g c", ":1"),
            ("XGROUP DELCONSUMER s g c", ":0"),
            ("XPENDING s g", "*4 :0 $-1 $-1 *-1"),
            ("XGROUP DESTROY s g", ":1"),
            ("XGROUP DESTROY s g", ":0"),
            ("XGROUP DESTROY none g", no_stream),
            (
                "XGROUP FOO",
                "-ERR unknown subcommand 'FOO'. Try XGROUP HELP.",
            ),
            (
                "XGROUP HELP x",
                "-ERR wrong number of arguments for 'xgroup|help' command",
            ),
            (
                "XGROUP",
                "-ERR wrong number of arguments for 'xgroup' command",
            ),
        ],
    );
    assert!(
        desk.say("XGROUP HELP")
            .starts_with("*17 +XGROUP <subcommand>")
    );
}

#[test]
fn xinfo_subcommands() {
    let mut desk = desk(&[
        "XADD s 1 a 1",
        "XADD s 2 a 2",
        "XGROUP CREATE s g 0",
        "XREADGROUP GROUP g c STREAMS s >",
    ]);
    desk.proto = Proto::Three;
    let counters = "$6 length :2 $15 radix-tree-keys :1 $16 radix-tree-nodes :2 $17 \
                    last-generated-id $3 2-0 $20 max-deleted-entry-id $3 0-0 $13 entries-added :2 \
                    $23 recorded-first-entry-id $3 1-0";
    let full = format!(
        "%9 {counters} $7 entries *1 *2 $3 1-0 *2 $1 a $1 1 $6 groups *1 %7 $4 name $1 g $17 \
         last-delivered-id $3 2-0 $12 entries-read :2 $3 lag :0 $9 pel-count :2 $7 pending *1 *4 $3 \
         1-0 $1 c :1000000000000 :1 $9 consumers *1 %5 $4 name $1 c $9 seen-time :1000000000000 $11 \
         active-time :1000000000000 $9 pel-count :2 $7 pending *1 *3 $3 1-0 :1000000000000 :1"
    );
    let misused =
        "-ERR unknown subcommand or wrong number of arguments for 'STREAM'. Try XINFO HELP.";
    expect(
        &mut desk,
        &[
            ("XINFO STREAM s FULL COUNT 1", &full),
            ("XINFO STREAM s FULL COUNT", misused),
            ("XINFO STREAM s FOO", misused),
            ("XINFO STREAM none", "-ERR no such key"),
            (
                "XINFO STREAM",
                "-ERR wrong number of arguments for 'xinfo|stream' command",
            ),
            (
                "XINFO CONSUMERS s h",
                "-NOGROUP No such consumer group 'h' for key name 's'",
            ),
            (
                "XINFO FOO",
                "-ERR unknown subcommand 'FOO'. Try XINFO HELP.",
            ),
        ],
    );
    assert!(desk.say("XINFO HELP").starts_with("*9 +XINFO <subcommand>"));
}

#[test]
fn other_types_are_refused() {
    let mut desk = desk(&["SET s v"]);
    for line in [
        "XLEN s",
        "XRANGE s - +",
        "XDEL s 1",
        "XTRIM s MAXLEN 1",
        "XSETID s 1",
        "XREAD STREAMS s 0",
        "XREADGROUP GROUP g c STREAMS s >",
        "XACK s g 1",
        "XCLAIM s g c 0 1",
        "XAUTOCLAIM s g c 0 0",
        "XPENDING s g",
        "XGROUP CREATE s g 0",
        "XGROUP DESTROY s g",
        "XINFO STREAM s",
    ] {
        assert_eq!(desk.say(line), WRONG_TYPE, "{line}");
    }
}

#[test]
fn clients_cannot_send_what_a_primary_sends() {
    let mut desk = desk(&["XGROUP CREATE s g 0 MKSTREAM"]);
    for line in [
        "XINTERNAL.CONSUMERSEEN s g c 1",
        "XINTERNAL.PENDING s g c 1 1 1-1",
        "XINTERNAL.CATALOG 1",
    ] {
        assert!(desk.say(line).starts_with("-ERR unknown command"), "{line}");
    }
}

#[test]
fn a_replica_follows_the_frames_of_a_kevy_primary() {
    let mut world = World::new();
    for (line, want) in [
        ("XADD x 9-1 a b", "$3 9-1"),
        ("XADD x 9-2 a b", "$3 9-2"),
        ("XGROUP CREATE x g 0", "+OK"),
        ("XGROUP SETID x g 9-1", "+OK"),
        ("XGROUP SETID x g 9-1 ENTRIESREAD 1", "+OK"),
        ("XGROUP CREATECONSUMER x g c", ":1"),
        (
            "XCLAIM x g c 0 9-1 TIME 2000 RETRYCOUNT 3 FORCE JUSTID",
            "*1 $3 9-1",
        ),
        ("XINTERNAL.CONSUMERSEEN x g c 1500 1400", ":0"),
        ("XINTERNAL.CONSUMERSEEN x g d 1600", ":1"),
        ("XINTERNAL.PENDING x g d 1300 5 1-7", ":1"),
        ("XINTERNAL.CONSUMERSEEN x none d 1600", ":0"),
        (
            "XINTERNAL.CONSUMERSEEN x g d z",
            "-ERR malformed internal consumer record",
        ),
        ("XINTERNAL.CATALOG 1 0 a a a", "+OK"),
        (
            "XINFO CONSUMERS x g",
            "*2 *8 $4 name $1 c $7 pending :1 $4 idle :0 $8 inactive :0 *8 $4 name $1 d $7 pending \
             :1 $4 idle :0 $8 inactive :-1",
        ),
        (
            "XINFO STREAM x FULL",
            "*18 $6 length :2 $15 radix-tree-keys :1 $16 radix-tree-nodes :2 $17 last-generated-id \
             $3 9-2 $20 max-deleted-entry-id $3 0-0 $13 entries-added :2 $23 recorded-first-entry-id \
             $3 9-1 $7 entries *2 *2 $3 9-1 *2 $1 a $1 b *2 $3 9-2 *2 $1 a $1 b $6 groups *1 *14 $4 \
             name $1 g $17 last-delivered-id $3 9-1 $12 entries-read :1 $3 lag :1 $9 pel-count :2 $7 \
             pending *2 *4 $3 1-7 $1 d :1300 :5 *4 $3 9-1 $1 c :2000 :3 $9 consumers *2 *10 $4 name \
             $1 c $9 seen-time :1500 $11 active-time :1400 $9 pel-count :1 $7 pending *1 *3 $3 9-1 \
             :2000 :3 *10 $4 name $1 d $9 seen-time :1600 $11 active-time :-1 $9 pel-count :1 $7 \
             pending *1 *3 $3 1-7 :1300 :5",
        ),
        // A primary's approximate trim is exact.
        ("XTRIM x MAXLEN ~ 1", ":1"),
    ] {
        assert_eq!(world.say(line), want, "{line}");
    }
}

/// A kevy primary counts a delivery when a group was set back, not when pending entries are read again;
/// Redis counts the other way round.
#[test]
fn deliveries_are_counted_as_the_sender_counts_them() {
    for (from_primary, counts) in [(true, [":1", ":1", ":2"]), (false, [":1", ":2", ":1"])] {
        let mut world = World::new();
        world.say("XADD s 1-0 f v");
        world.say("XGROUP CREATE s g 0");
        let lines = [
            "XREADGROUP GROUP g c STREAMS s >",
            "XREADGROUP GROUP g c STREAMS s 0",
            "XREADGROUP GROUP g c STREAMS s >",
        ];
        for (at, (line, want)) in lines.into_iter().zip(counts).enumerate() {
            if at == 2 {
                world.say("XGROUP SETID s g 0");
            }
            world.run(line, from_primary);
            let pending = world.say("XPENDING s g - + 1");
            assert!(pending.ends_with(want), "{line}: {pending}");
        }
    }
}

/// One shard that is told what its primary did, at the time 1000.
struct World {
    shards: Shards,
    table: Table,
    rng: Rng,
}

impl World {
    fn new() -> Self {
        let mut shards = Shards::none_of(1);
        shards.put(0, Box::new(Shard::new(1, 1)));
        Self {
            shards,
            table: Table::build(),
            rng: Rng::seeded(1),
        }
    }

    fn say(&mut self, line: &str) -> String {
        self.run(line, true).0
    }

    fn block_of(&mut self, line: &str) -> Option<OwnedArgs> {
        self.run(line, false).1
    }

    fn run(&mut self, line: &str, from_primary: bool) -> (String, Option<OwnedArgs>) {
        let args = OwnedArgs::copy(line.split(' ').map(str::as_bytes));
        let spec = self.table.find(args.as_args().at(0));
        let spec = spec.expect("the command is in the table");
        let Run::Store(function) = spec.run else {
            panic!("{line} is no store command")
        };
        let mut out = Out::new(Proto::Two);
        let mut ctx = Ctx {
            shards: &mut self.shards,
            db: 0,
            out: &mut out,
            now: 1000,
            rng: &mut self.rng,
            dirty: 0,
            may_block: !from_primary,
            block: None,
            from_primary,
            arrived: None,
        };
        let _ = run(&mut ctx, spec, function, args.as_args());
        let again = ctx.block.and_then(|block| block.again);
        let reply = String::from_utf8_lossy(out.as_bytes())
            .trim_end()
            .replace("\r\n", " ");
        (reply, again)
    }
}
