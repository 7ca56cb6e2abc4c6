//! Scripts as clients send them.

use std::{cell::Cell, rc::Rc};

use super::*;
use crate::{
    base::Rng,
    cmd::{Shard, Shards},
    resp::Proto,
};

/// An engine with shards of its own and a clock that moves with every look at it.
struct Desk {
    engine: ScriptEngine,
    shards: Shards,
    rng: Rng,
    proto: Proto,
    dirty: u64,
}

impl Desk {
    fn new() -> Self {
        Self::sharing(Scripts::default())
    }

    fn sharing(scripts: Scripts) -> Self {
        let mut shards = Shards::none_of(3);
        for at in 0..3 {
            shards.put(at, Box::new(Shard::new(1, 1)));
        }
        let ticks = Rc::new(Cell::new(0));
        let clock = Box::new(move || {
            ticks.set(ticks.get() + 1);
            Some(ticks.get())
        });
        let limits = Limits {
            alone: true,
            memory: 32 << 20,
        };
        scripts.running().set_busy_ms(50);
        Self {
            engine: ScriptEngine::new(scripts, limits, clock).expect("the prelude is sound"),
            shards,
            rng: Rng::seeded(1),
            proto: Proto::Two,
            dirty: 0,
        }
    }

    fn send(&mut self, args: &[&str]) -> String {
        let args = OwnedArgs::copy(args.iter().map(|arg| arg.as_bytes()));
        let args = args.as_args();
        let mut out = Out::new(self.proto);
        let mut ctx = Ctx {
            shards: &mut self.shards,
            db: 0,
            out: &mut out,
            now: 1_000_000_000_500,
            rng: &mut self.rng,
            dirty: 0,
            may_block: true,
            block: None,
            from_primary: false,
            arrived: None,
        };
        let is = |name: &[u8]| args[0].eq_ignore_ascii_case(name);
        let result = if is(b"SCRIPT") {
            self.engine.script(ctx.out, args)
        } else if is(b"FUNCTION") {
            self.engine.function(ctx.out, &mut StoresOnly, args)
        } else {
            self.engine.run(&mut ctx, &mut StoresOnly, args)
        };
        assert!(ctx.may_block && ctx.block.is_none());
        self.dirty = ctx.dirty;
        if let Err(error) = result {
            assert!(out.is_empty(), "an error comes alone");
            out.error(&error);
        }
        String::from_utf8_lossy(&out.to_vec())
            .trim_end()
            .replace("\r\n", " ")
    }

    fn eval(&mut self, script: &str) -> String {
        self.send(&["EVAL", script, "0"])
    }
}

/// The reply to a script that fails in its first line.
fn at_line_one(text: &str, script: &str) -> String {
    format!(
        "-{text} script: {}, on @user_script:1.",
        Sha::of(script.as_bytes())
    )
}

#[test]
fn commands_are_called_and_counted() {
    let mut desk = Desk::new();
    let script = "redis.call('SET', KEYS[1], ARGV[1]) redis.call('XADD', 's', '1-1', 'f', 2.5) \
                  return {redis.call('GET', KEYS[1]), redis.call('XRANGE', 's', '-', '+'), \
                  redis.call('GET', 'none'), 'x'}";
    assert_eq!(
        desk.send(&["EVAL", script, "1", "k", "v"]),
        "*4 $1 v *1 *2 $3 1-1 *2 $1 f $3 2.5 $-1 $1 x"
    );
    assert_eq!(desk.dirty, 2);
    assert_eq!(desk.eval("return redis.call('SET', 'a', 'b')"), "+OK");
    // What was written before the script failed stays and is counted.
    assert!(
        desk.eval("redis.call('SET', 'a', 'c') error('x')")
            .starts_with("-ERR user_script:1: x")
    );
    assert_eq!(desk.dirty, 1);
    assert_eq!(desk.eval("return redis.call('GET', 'a')"), "$1 c");
}

#[test]
fn values_become_replies() {
    let mut desk = Desk::new();
    for (script, two, three) in [
        ("return 3.99", ":3", ":3"),
        ("return -3.99", ":-3", ":-3"),
        ("return 'x'", "$1 x", "$1 x"),
        ("return true", ":1", ":1"),
        ("return false", "$-1", "_"),
        ("return nil", "$-1", "_"),
        ("return {1, 'a', nil, 2}", "*2 :1 $1 a", "*2 :1 $1 a"),
        ("return {ok = 'fine'}", "+fine", "+fine"),
        ("return {err = 'E x'}", "-E x", "-E x"),
        ("return {double = 1.5}", "$3 1.5", ",1.5"),
        ("return {map = {a = 1}}", "*2 $1 a :1", "%1 $1 a :1"),
        ("return {set = {a = true}}", "*1 $1 a", "~1 $1 a"),
        ("return {big_number = '12'}", "$2 12", "(12"),
        ("redis.setresp(3) return true", ":1", "#t"),
        (
            "redis.setresp(3) return redis.call('XREAD', 'STREAMS', 'none', '0') == nil",
            ":1",
            "#t",
        ),
    ] {
        desk.proto = Proto::Two;
        assert_eq!(desk.eval(script), two, "{script}");
        desk.proto = Proto::Three;
        assert_eq!(desk.eval(script), three, "{script}");
    }
}

#[test]
fn errors_name_the_script_and_the_line() {
    let mut desk = Desk::new();
    for (script, text) in [
        (
            "return redis.call('nosuch')",
            "ERR Unknown Redis command called from script",
        ),
        (
            "return redis.call('GET')",
            "ERR Wrong number of args calling Redis command from script",
        ),
        (
            "return redis.call({})",
            "ERR Lua redis lib command arguments must be strings or integers",
        ),
        (
            "return redis.call()",
            "ERR Please specify at least one argument for this redis lib call",
        ),
        (
            "redis.call('SET', 'k', 'v') return redis.call('XLEN', 'k')",
            "WRONGTYPE Operation against a key holding the wrong kind of value",
        ),
        (
            "return foo",
            "ERR user_script:1: Script attempted to access nonexistent global variable 'foo'",
        ),
        (
            "foo = 1",
            "ERR user_script:1: Attempt to modify a readonly table",
        ),
        (
            "string.x = 1",
            "ERR user_script:1: Attempt to modify a readonly table",
        ),
        (
            "redis.call = 1",
            "ERR user_script:1: Attempt to modify a readonly table",
        ),
        (
            "rawset(_G, 'x', 1)",
            "ERR Attempt to modify a readonly table",
        ),
        ("error({err = 'MY fault'})", "MY fault"),
        ("error({})", "ERR unknown error"),
        ("error()", "ERR nil"),
        (
            "return cjson.decode('[1,')",
            "ERR user_script:1: Expected value but found T_END at character 4",
        ),
        (
            "return redis.call('XREAD', 'BLOCK', 0, 'STREAMS', 's', '$')",
            "ERR XREAD command is not allowed with BLOCK option from scripts",
        ),
    ] {
        assert_eq!(desk.eval(script), at_line_one(text, script));
    }
    assert_eq!(
        desk.eval("return x x"),
        "-ERR Error compiling script (new function): user_script:1: '<eof>' expected near 'x'"
    );
    let lines = "\n\nreturn redis.call('nosuch')";
    assert!(desk.eval(lines).ends_with(", on @user_script:3."));
}

#[test]
fn errors_can_be_caught() {
    let mut desk = Desk::new();
    let unknown = "ERR Unknown Redis command called from script";
    for (script, want) in [
        (
            "return redis.pcall('nosuch').err",
            format!("${} {unknown}", unknown.len()),
        ),
        (
            "return select(2, pcall(redis.call, 'nosuch'))",
            format!("${} {unknown}", unknown.len()),
        ),
        (
            "local _, e = xpcall(function() redis.call('nosuch') end, function(e) return e.err end) \
             return e",
            format!("${} {unknown}", unknown.len()),
        ),
        (
            "local co = coroutine.create(function() redis.call('nosuch') end) \
             local _, e = coroutine.resume(co) return e.err",
            format!("${} {unknown}", unknown.len()),
        ),
        ("return redis.pcall('nosuch')", format!("-{unknown}")),
        ("return redis.error_reply('-X y')", "-X y".into()),
        ("return redis.error_reply('y')", "-ERR y".into()),
        ("return redis.status_reply('fine')", "+fine".into()),
    ] {
        assert_eq!(desk.eval(script), want, "{script}");
    }
}

#[test]
fn read_only_scripts_write_nothing() {
    let mut desk = Desk::new();
    let script = "return redis.call('SET', 'a', 'b')";
    let text = "ERR Write commands are not allowed from read-only scripts.";
    assert_eq!(
        desk.send(&["EVAL_RO", script, "0"]),
        at_line_one(text, script)
    );
    let script = "#!lua flags=no-writes\nreturn redis.pcall('SET', 'a', 'b')";
    assert_eq!(desk.eval(script), format!("-{text}"));
    assert_eq!(desk.dirty, 0);
    assert_eq!(
        desk.send(&["eval_ro", "return redis.call('GET', 'a')", "0"]),
        "$-1"
    );
    assert_eq!(
        desk.eval("#!lua flags=x\n"),
        "-ERR Unexpected flag in script shebang: x"
    );
    assert_eq!(
        desk.eval("#!js\n"),
        "-ERR Unexpected engine in script shebang: #!js"
    );
}

#[test]
fn arguments_are_checked() {
    let mut desk = Desk::new();
    for (keys, want) in [
        ("x", "-ERR value is not an integer or out of range"),
        ("-1", "-ERR Number of keys can't be negative"),
        (
            "2",
            "-ERR Number of keys can't be greater than number of args",
        ),
        ("1", "*2 *1 $1 a *0"),
    ] {
        assert_eq!(desk.send(&["EVAL", "return {KEYS, ARGV}", keys, "a"]), want);
    }
}

#[test]
fn sources_are_shared_by_engines() {
    let scripts = Scripts::default();
    let (mut one, mut two) = (
        Desk::sharing(scripts.clone()),
        Desk::sharing(scripts.clone()),
    );
    let sha = Sha::of(b"return 5").to_string();
    let no_script = "-NOSCRIPT No matching script. Please use EVAL.";
    assert_eq!(two.send(&["EVALSHA", &sha, "0"]), no_script);
    assert_eq!(
        one.send(&["SCRIPT", "LOAD", "return 5"]),
        format!("$40 {sha}")
    );
    assert_eq!(two.send(&["EVALSHA", &sha, "0"]), ":5");
    assert_eq!(two.send(&["EVALSHA_RO", &sha.to_uppercase(), "0"]), ":5");
    assert_eq!(two.send(&["SCRIPT", "EXISTS", &sha, "x"]), "*2 :1 :0");
    assert_eq!(scripts.usage(), (1, 8));
    assert_eq!(one.send(&["SCRIPT", "FLUSH"]), "+OK");
    assert_eq!(two.send(&["EVALSHA", &sha, "0"]), no_script);
    assert_eq!(one.send(&["EVAL", "return 5", "0"]), ":5");
    assert_eq!(two.send(&["EVALSHA", &sha, "0"]), ":5");
    assert_eq!(one.send(&["EVALSHA", "abc", "0"]), no_script);
}

#[test]
fn script_subcommands_are_checked() {
    let mut desk = Desk::new();
    for (line, want) in [
        (
            "SCRIPT LOAD",
            "-ERR wrong number of arguments for 'script|load' command",
        ),
        (
            "SCRIPT EXISTS",
            "-ERR wrong number of arguments for 'script|exists' command",
        ),
        (
            "SCRIPT FLUSH FOO",
            "-ERR SCRIPT FLUSH only support SYNC|ASYNC option",
        ),
        ("SCRIPT FLUSH async", "+OK"),
        ("SCRIPT KILL", "-NOTBUSY No scripts in execution right now."),
        (
            "SCRIPT FOO",
            "-ERR unknown subcommand 'FOO'. Try SCRIPT HELP.",
        ),
        (
            "SCRIPT LOAD x",
            "-ERR Error compiling script (new function): user_script:1: '=' expected near '<eof>'",
        ),
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(desk.send(&words), want, "{line}");
    }
}

#[test]
fn endless_scripts_are_stopped() {
    let mut desk = Desk::new();
    for script in [
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        "while true do xpcall(function() while true do end end, function() end) end",
        "local co = coroutine.wrap(function() while true do end end) co()",
        "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
        "local function f() while true do pcall(f) end end f()",
        "redis.call('SET', 'a', 'b') repeat until false",
    ] {
        let reply = desk.eval(script);
        assert!(
            reply.starts_with("-ERR Script stopped after 50 ms"),
            "{script}: {reply}"
        );
    }
    assert_eq!(desk.eval("return redis.call('GET', 'a')"), "$1 b");
}

#[test]
fn memory_is_bounded() {
    let mut desk = Desk::new();
    let reply = desk.eval("return string.rep('x', 100000000)");
    assert!(reply.contains("not enough memory"), "{reply}");
    let reply = desk.eval("local t = {} for i = 1, 1e9 do t[i] = i .. 'x' end");
    assert!(reply.contains("not enough memory"), "{reply}");
    assert_eq!(desk.eval("return 1"), ":1");
    let deep = "local function f() return 1 + f() end return f()";
    assert!(desk.eval(deep).contains("stack overflow"));
}

#[test]
fn scripts_leave_nothing_behind() {
    let mut desk = Desk::new();
    for script in [
        "getmetatable('').__index = {}",
        "setmetatable(string, {})",
        "getmetatable(_G).__index = nil",
        "KEYS = 1",
        "loadstring('x = 1')()",
        "load(function() return nil end)() y = 1",
    ] {
        assert!(desk.eval(script).starts_with("-ERR"), "{script}");
    }
    assert_eq!(
        desk.eval("return ('x'):upper() .. type(redis.call)"),
        "$9 Xfunction"
    );
    for name in [
        "io", "require", "dofile", "loadfile", "debug", "print", "getfenv", "newproxy",
    ] {
        let reply = desk.eval(&format!("return {name}"));
        assert!(
            reply.contains("nonexistent global variable"),
            "{name}: {reply}"
        );
    }
    let reply = desk.eval("local f, e = loadstring('\\27Lua') return e");
    assert_eq!(reply, "$29 compiled code is not accepted");
    assert_eq!(desk.eval("return os.execute or os.exit"), "$-1");
    // Settings last for one run.
    let encode = "return cjson.encode(1/0)";
    let allow = format!("cjson.encode_invalid_numbers('null') {encode}");
    assert_eq!(desk.eval(&allow), "$4 null");
    assert!(desk.eval(encode).contains("must not be NaN or Inf"));
    // The numbers of redis-server 7.0.15.
    let seeded = "math.randomseed(5) return {math.random(1000), math.random(1000)}";
    assert_eq!(desk.eval(seeded), "*2 :525 :273");
}

#[test]
fn libraries_convert_both_ways() {
    let mut desk = Desk::new();
    for (script, want) in [
        (
            "return cjson.encode({1, 'a', {b = cjson.null}})",
            "$18 [1,\"a\",{\"b\":null}]",
        ),
        (
            "return cjson.encode(cjson.decode('{\"a\":[1,2.5,\"\\\\u00e9\"]}'))",
            "$18 {\"a\":[1,2.5,\"é\"]}",
        ),
        (
            "return {cmsgpack.unpack(cmsgpack.pack(1, -5, 'a', {1, 2}))}",
            "*4 :1 :-5 $1 a *2 :1 :2",
        ),
        (
            "return cmsgpack.unpack(cmsgpack.pack({a = {b = 70000}})).a.b",
            ":70000",
        ),
        ("return bit.band(0xff, bit.lshift(3, 2))", ":12"),
        ("return bit.tohex(255, 4)", "$4 00ff"),
        (
            "return redis.sha1hex('abc')",
            "$40 a9993e364706816aba3e25717850c26c9cd0d89d",
        ),
        ("return redis.call('XLEN', 'none') + math.floor(1.5)", ":1"),
    ] {
        assert_eq!(desk.eval(script), want, "{script}");
    }
}

const REGISTER: &str = "redis.register_function";

#[test]
fn libraries_are_loaded_called_and_listed() {
    let mut desk = Desk::new();
    let code = format!(
        "#!lua name=lib\nlocal count = 0\n\
         {REGISTER}('f', function(keys, args) count = count + 1 return {{keys, args, count}} end)\n\
         {REGISTER}{{function_name='ro', callback=function() return redis.call('GET', 'a') end, \
         flags={{'no-writes'}}, description='reads'}}"
    );
    assert_eq!(desk.send(&["FUNCTION", "LOAD", &code]), "$3 lib");
    assert_eq!(
        desk.send(&["FCALL", "f", "1", "k", "v"]),
        "*3 *1 $1 k *1 $1 v :1"
    );
    // What a library keeps in its variables stays, and names of functions are found in any case.
    assert_eq!(desk.send(&["fcall", "F", "0"]), "*3 *0 *0 :2");
    assert_eq!(desk.send(&["FCALL_RO", "ro", "0"]), "$-1");
    assert_eq!(
        desk.send(&["FCALL_RO", "f", "0"]),
        "-ERR Can not execute a script with write flag using *_ro command."
    );
    assert_eq!(
        desk.send(&["FUNCTION", "LIST", "LIBRARYNAME", "L*"]),
        "*1 *6 $12 library_name $3 lib $6 engine $3 LUA $9 functions *2 \
         *6 $4 name $1 f $11 description $-1 $5 flags *0 \
         *6 $4 name $2 ro $11 description $5 reads $5 flags *1 +no-writes"
    );
    assert_eq!(
        desk.send(&["FUNCTION", "LOAD", &code]),
        "-ERR Library 'lib' already exists"
    );
    assert_eq!(desk.send(&["FUNCTION", "LOAD", "REPLACE", &code]), "$3 lib");
    assert_eq!(desk.send(&["FCALL", "f", "0"]), "*3 *0 *0 :1");
    assert_eq!(desk.send(&["FUNCTION", "DELETE", "lib"]), "+OK");
    assert_eq!(desk.send(&["FCALL", "f", "0"]), "-ERR Function not found");
}

#[test]
fn libraries_are_shared_by_engines() {
    let scripts = Scripts::default();
    let (mut one, mut two) = (
        Desk::sharing(scripts.clone()),
        Desk::sharing(scripts.clone()),
    );
    let library = |name: &str, says: u32| {
        format!("#!lua name={name}\n{REGISTER}('f', function() return {says} end)")
    };
    assert_eq!(two.send(&["FCALL", "f", "0"]), "-ERR Function not found");
    one.send(&["FUNCTION", "LOAD", &library("a", 1)]);
    assert_eq!(two.send(&["FCALL", "f", "0"]), ":1");
    two.send(&["FUNCTION", "LOAD", "REPLACE", &library("a", 2)]);
    assert_eq!(one.send(&["FCALL", "f", "0"]), ":2");
    assert_eq!(
        one.send(&["FUNCTION", "LOAD", &library("b", 3)]),
        "-ERR Function f already exists"
    );
    assert_eq!(one.send(&["FUNCTION", "FLUSH"]), "+OK");
    assert_eq!(two.send(&["FCALL", "f", "0"]), "-ERR Function not found");
    assert_eq!(two.send(&["FUNCTION", "LOAD", &library("b", 3)]), "$1 b");
    assert_eq!(one.send(&["FCALL", "f", "0"]), ":3");
}

#[test]
fn libraries_leave_nothing_behind() {
    let mut desk = Desk::new();
    for code in [
        "x = 1",
        "redis.x = 1",
        "redis.call('SET', 'a', 'b')",
        "return string.rep('x', 3)",
        "",
    ] {
        let code = format!("#!lua name=a\n{code}");
        let reply = desk.send(&["FUNCTION", "LOAD", &code]);
        assert!(reply.starts_with("-ERR"), "{code}: {reply}");
    }
    assert_eq!(desk.send(&["FUNCTION", "LIST"]), "*0");
    let code = format!(
        "#!lua name=a\nlocal api = redis\n\
         {REGISTER}('leak', function() x = 1 end)\n\
         {REGISTER}('change', function() redis.call = 1 end)\n\
         {REGISTER}('late', function() api.register_function('f', function() end) end)\n\
         {REGISTER}('keys', function() return KEYS end)\n\
         local kept\n{REGISTER}('keep', function() kept = kept or redis.call return kept('PING') end)"
    );
    assert_eq!(desk.send(&["FUNCTION", "LOAD", &code]), "$1 a");
    for name in ["leak", "change", "late", "keys"] {
        let reply = desk.send(&["FCALL", name, "0"]);
        assert!(reply.starts_with("-ERR"), "{name}: {reply}");
    }
    for _ in 0..2 {
        assert_eq!(desk.send(&["FCALL", "keep", "0"]), "+PONG");
    }
    // Scripts see no functions, and functions no scripts.
    assert_eq!(desk.eval("return redis.register_function"), "$-1");
    let script = "return redis.call('FCALL', 'keep', 0)";
    let text = "ERR This Redis command is not allowed from script";
    assert_eq!(desk.eval(script), at_line_one(text, script));
}

#[test]
fn endless_libraries_are_stopped() {
    let mut desk = Desk::new();
    let code = format!(
        "#!lua name=a\n{REGISTER}('f', function() while true do end end)\nwhile true do end"
    );
    assert_eq!(
        desk.send(&["FUNCTION", "LOAD", &code]),
        "-ERR Error registering functions: ERR FUNCTION LOAD timeout"
    );
    let code = code.replace("\nwhile true do end", "");
    assert_eq!(desk.send(&["FUNCTION", "LOAD", &code]), "$1 a");
    let reply = desk.send(&["FCALL", "f", "0"]);
    assert!(
        reply.ends_with("with one core. script: f, on @user_function:2."),
        "{reply}"
    );
}

#[test]
fn dumped_libraries_are_restored() {
    let mut desk = Desk::new();
    let code = format!("#!lua name=a\n{REGISTER}('f', function() return 'a' end)");
    desk.send(&["FUNCTION", "LOAD", &code]);
    let (_, libraries) = desk.engine.scripts.libraries();
    let payload = payload::write(libraries.values().map(|library| &library.code[..]));
    let restore = |desk: &mut Desk, policy: &str| {
        let words = [&b"FUNCTION"[..], b"RESTORE", &payload, policy.as_bytes()];
        let args = OwnedArgs::copy(words);
        let mut out = Out::new(Proto::Two);
        match desk
            .engine
            .function(&mut out, &mut StoresOnly, args.as_args())
        {
            Ok(()) => String::from_utf8_lossy(&out.to_vec())
                .trim_end()
                .to_string(),
            Err(error) => error.as_str().to_string(),
        }
    };
    assert_eq!(restore(&mut desk, "APPEND"), "ERR Library a already exists");
    assert_eq!(restore(&mut desk, "replace"), "+OK");
    let other = code.replace("name=a", "name=b").replace("'f'", "'g'");
    desk.send(&["FUNCTION", "LOAD", &other]);
    assert_eq!(restore(&mut desk, "FLUSH"), "+OK");
    assert_eq!(desk.send(&["FCALL", "g", "0"]), "-ERR Function not found");
    assert_eq!(desk.send(&["FCALL", "f", "0"]), "$1 a");
    desk.send(&["FUNCTION", "FLUSH"]);
    let other = code.replace("name=a", "name=b");
    desk.send(&["FUNCTION", "LOAD", &other]);
    assert_eq!(
        restore(&mut desk, "REPLACE"),
        "ERR Function f already exists"
    );
    assert_eq!(desk.send(&["FCALL", "f", "0"]), "$1 a");
}

#[test]
fn structs_are_laid_out_as_c_does() {
    let mut desk = Desk::new();
    for (script, want) in [
        ("return struct.pack('>hB', 258, 3)", "$3 \u{1}\u{2}\u{3}"),
        (
            "return {struct.unpack('<i3', '\\255\\255\\255')}",
            "*2 :-1 :4",
        ),
        ("return {struct.unpack('Bc0', '\\3abcdef')}", "*2 $3 abc :5"),
        ("return {struct.unpack('s', 'ab\\0c')}", "*2 $2 ab :4"),
        ("return struct.size('!8bd')", ":16"),
    ] {
        assert_eq!(desk.eval(script), want, "{script}");
    }
    for script in [
        "return struct.unpack('i', 'a')",
        "return struct.unpack('b', 'a', -1)",
        "return struct.unpack('b', 'a', 1e300)",
        "return struct.pack('i33', 1)",
        "return struct.pack('c9', 'a')",
        "return struct.size('c0')",
        "return struct.pack('!3i', 1)",
        "return struct.unpack('c99999999999', 'a')",
    ] {
        assert!(desk.eval(script).starts_with("-ERR"), "{script}");
    }
}
