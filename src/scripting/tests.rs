//! Scripts on a bare keyspace: what they answer, what they do, and how they are stopped.

use super::*;
use crate::commands::effects::Effects;
use crate::resp::{Args, Reply};
use crate::state::{Entry, Keyspace, PackedLimits, Packing, Seen};
use crate::types::{Millis, Stamp};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

#[derive(Clone)]
struct Bare(Rc<RefCell<Keyspace>>);

impl Source for Bare {
    fn entries(&self, keys: &[Bytes], clock: Millis) -> Vec<Option<Entry>> {
        let keyspace = self.0.borrow();
        keys.iter().map(|key| keyspace.get(key).filter(|e| !e.is_dead(clock)).map(|e| e.to_entry())).collect()
    }

    fn with(&self, look: &mut dyn FnMut(&Keyspace)) {
        look(&self.0.borrow());
    }
}

/// Stops a script after so many looks.
struct After(Cell<u32>, Stop);

impl Watch for After {
    fn stop(&self) -> Option<Stop> {
        self.0.set(self.0.get().saturating_sub(1));
        (self.0.get() == 0).then_some(self.1)
    }

    fn seconds(&self) -> f64 {
        1.5
    }
}

const CLOCK: Millis = 1000;

struct Stage {
    keyspace: Bare,
    interpreter: Interpreter,
}

impl Stage {
    fn new() -> Stage {
        let mut keyspace = Keyspace::new(7);
        keyspace.advance(&Stamp { now_ms: CLOCK, seed: 0 });
        let interpreter = Interpreter::new(Limits { memory: 32 << 20 }).unwrap();
        Stage { keyspace: Bare(Rc::new(RefCell::new(keyspace))), interpreter }
    }

    fn run(&mut self, body: &str, keys: &[&'static str], args: &[&'static str]) -> (Ran, Option<Effects>) {
        self.run_with(body, keys, args, Rules::all(), After(Cell::new(10_000), Stop::Time))
    }

    fn run_with(
        &mut self,
        body: &str,
        keys: &[&'static str],
        args: &[&'static str],
        rules: Rules,
        watch: After,
    ) -> (Ran, Option<Effects>) {
        let bytes = |words: &[&'static str]| words.iter().map(|w| Bytes::from_static(w.as_bytes())).collect::<Vec<_>>();
        let sha = sha1_hex(body.as_bytes());
        let overlay = Overlay::new(Box::new(self.keyspace.clone()), CLOCK, 5);
        let caller = Caller::new(overlay, rules);
        if let Err(reply) = self.interpreter.compile(&sha, body.as_bytes()) {
            return (Ran { reply, caller, stopped: None }, None);
        }
        let mut ran = self.interpreter.eval(&sha, &bytes(keys), &bytes(args), caller, Box::new(watch));
        let next = Overlay::new(Box::new(self.keyspace.clone()), CLOCK, 5);
        let used = std::mem::replace(&mut ran.caller, Caller::new(next, Rules::all()));
        let (effects, replies) = used.into_overlay().into_effects();
        let stopped = ran.stopped.is_some();
        if !stopped && !effects.calls.is_empty() {
            let applied = self.apply(&effects);
            assert_eq!(applied, Reply::Array(replies), "{body}: what was applied is not what the script saw");
        }
        (ran, (!stopped).then_some(effects))
    }

    fn apply(&self, effects: &Effects) -> Reply {
        crate::commands::apply(&effects.to_args(), &mut self.keyspace.0.borrow_mut(), &Stamp::default())
    }

    fn command(&self, line: &str) -> Reply {
        let args: Args = crate::resp::split_words(line.as_bytes()).unwrap();
        crate::commands::apply(&args, &mut self.keyspace.0.borrow_mut(), &Stamp { now_ms: CLOCK, seed: 0 })
    }

    fn text(&mut self, body: &str) -> String {
        match self.run(body, &[], &[]).0.reply {
            Reply::Bulk(text) | Reply::Status(text) | Reply::Error(text) => String::from_utf8_lossy(&text).into_owned(),
            other => format!("{other:?}"),
        }
    }
}

/// They were free, and a script could have the server keep as many as it had time for.
#[test]
fn empty_messages_count_too() {
    let mut stage = Stage::new();
    let body = "local n = 0 while n < 100000 do redis.call('publish', '', '') n = n + 1 end return n";
    let (ran, _) = stage.run_with(body, &[], &[], Rules::all(), After(Cell::new(1_000_000), Stop::Time));
    let Reply::Error(text) = ran.reply else { panic!("{:?}", ran.reply) };
    assert!(String::from_utf8_lossy(&text).contains("publishes more than scripts may (8 MiB)"), "{text:?}");
}

#[test]
fn a_script_reads_what_it_wrote_and_its_effects_do_the_same() {
    let mut stage = Stage::new();
    stage.command("set a 5");
    let body = "redis.call('incrby', KEYS[1], ARGV[1]) redis.call('set', KEYS[2], 'x', 'px', 100) \
                redis.call('expire', KEYS[1], 10) return {redis.call('get', KEYS[1]), redis.call('pttl', KEYS[2])}";
    let (ran, effects) = stage.run(body, &["a", "b"], &["7"]);
    assert_eq!(ran.reply, Reply::Array(vec![Reply::bulk("12"), Reply::Int(100)]));
    let effects = effects.unwrap();
    assert_eq!(effects.calls.len(), 3);
    assert_eq!(
        effects.watches,
        [(Bytes::from_static(b"a"), Seen::Version(1)), (Bytes::from_static(b"b"), Seen::Absent)]
    );
    assert_eq!(effects.whole, None);
    // What it saw has changed by now, through itself.
    assert_eq!(stage.apply(&effects), Reply::Nil);
}

/// The group has versions, the copies that a script works on have none: what is drawn must not depend on them.
#[test]
fn a_script_takes_the_members_that_it_drew() {
    for packing in [Packing::default(), Packing { set: PackedLimits { entries: 2, value: 64 }, ..Packing::default() }] {
        let mut stage = Stage::new();
        stage.keyspace.0.borrow_mut().set_packing(packing);
        stage.command("set other 1");
        stage.command("sadd s a b c d e f g h");
        let body = "redis.call('sadd', 'fresh', 'p', 'q', 'r', 's', 't') redis.call('spop', 'fresh', 2) \
                    local one = redis.call('spop', 's') redis.call('rpush', 'out', one) \
                    for _, m in ipairs(redis.call('spop', 's', 3)) do redis.call('rpush', 'out', m) end";
        stage.run(body, &[], &[]);
        for member in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            let left = stage.command(&format!("srem s {member}")) == Reply::Int(1);
            let taken = stage.command(&format!("lrem out 0 {member}")) == Reply::Int(1);
            assert!(left != taken, "{member}: in one place, not in {}", u8::from(left) + u8::from(taken));
        }
    }
}

#[test]
fn keys_that_patterns_of_sort_name_are_copied_and_watched() {
    let mut stage = Stage::new();
    for line in ["rpush l a b c", "set w_a 3", "set w_b 1", "hset h_b x B", "hset h_a x A"] {
        stage.command(line);
    }
    let body = "redis.call('set', 'w_c', 2) \
                return redis.call('sort', 'l', 'by', 'w_*', 'get', 'h_*->x', 'get', '#', 'store', 'd')";
    let (ran, effects) = stage.run(body, &[], &[]);
    assert_eq!(ran.reply, Reply::Int(6));
    let items = ["B", "b", "", "c", "A", "a"].map(Reply::bulk).to_vec();
    assert_eq!(stage.run("return redis.call('lrange', 'd', 0, -1)", &[], &[]).0.reply, Reply::Array(items));
    let watched: Vec<Bytes> = effects.unwrap().watches.into_iter().map(|(key, _)| key).collect();
    assert_eq!(watched, ["d", "h_a", "h_b", "h_c", "l", "w_a", "w_b", "w_c"]);
}

#[test]
fn what_is_random_differs_from_run_to_run_unless_it_was_seeded() {
    let mut stage = Stage::new();
    let mut draw = |body: &str, seed| {
        let sha = sha1_hex(body.as_bytes());
        stage.interpreter.compile(&sha, body.as_bytes()).unwrap();
        let caller = Caller::new(Overlay::new(Box::new(stage.keyspace.clone()), CLOCK, seed), Rules::all());
        stage.interpreter.eval(&sha, &[], &[], caller, Box::new(After(Cell::new(9), Stop::Time))).reply
    };
    let free = "return tostring(math.random()) .. ' ' .. math.random(1000)";
    assert_ne!(draw(free, 1), draw(free, 2));
    let seeded = "math.randomseed(9) return tostring(math.random()) .. ' ' .. math.random(1000)";
    assert_eq!(draw(seeded, 1), draw(seeded, 2));
}

#[test]
fn ends_of_unpack_that_are_far_apart_are_refused() {
    let mut stage = Stage::new();
    let far = [
        "-2, 2147483647",
        "0, 2147483647",
        "-2147483648, -2",
        "-2147483648, 2147483647",
        "1, 1e300",
        "-1e300, 1",
        "1, 8001",
        "1/0, 1/0",
        "0/0, 1",
        "'-5', '2147483647'",
    ];
    for ends in far {
        let text = stage.text(&format!("return {{unpack({{1,2,3}}, {ends})}}"));
        assert!(text.starts_with("ERR user_script:1: too many results to unpack script: "), "{ends}: {text}");
    }
    for (ends, count) in [
        ("-1, -2", 0),
        ("1, -1", 0),
        ("5, -1e300", 0),
        ("-1, 5", 7),
        ("-2147483648, -2147483646", 3),
        ("1, 7000", 7000),
        ("'2'", 2),
    ] {
        let (ran, _) = stage.run(&format!("return select('#', unpack({{1,2,3}}, {ends}))"), &[], &[]);
        assert_eq!(ran.reply, Reply::Int(count), "{ends}");
    }
    assert!(stage.text("return unpack(1)").contains("table expected, got number"));
    // As many as may be, beside two arguments of the call.
    let most = "local a = {} for i = 1, 7999 do a[i] = i end return redis.call('rpush', 'l', unpack(a))";
    assert_eq!(stage.run(most, &[], &[]).0.reply, Reply::Int(7999));
    let more = "local a = {} for i = 1, 8000 do a[i] = i end return select('#', unpack(a))";
    assert!(stage.text(more).starts_with("ERR user_script:1: too many results to unpack"));
}

#[test]
fn what_only_read_or_changed_nothing_has_no_effects() {
    let mut stage = Stage::new();
    let (ran, effects) = stage.run("redis.call('del', 'nothing') return redis.call('get', 'a')", &[], &[]);
    assert_eq!(ran.reply, Reply::Nil);
    assert!(effects.unwrap().calls.is_empty());
}

#[test]
fn commands_about_all_keys_see_the_scripts_own_writes() {
    let mut stage = Stage::new();
    for line in ["set a 1", "set b 2", "set c 3"] {
        stage.command(line);
    }
    let body = "redis.call('del', 'a') redis.call('set', 'd', 4) local k = redis.call('keys', '*') table.sort(k) \
                local s = redis.call('scan', '0', 'count', '100')[2] table.sort(s) \
                return {redis.call('dbsize'), table.concat(k, ' '), table.concat(s, ' ')}";
    let (ran, effects) = stage.run(body, &[], &[]);
    assert_eq!(ran.reply, Reply::Array(vec![Reply::Int(3), Reply::bulk("b c d"), Reply::bulk("b c")]));
    assert_eq!(effects.unwrap().whole, Some(3));
    let body = "redis.call('flushall') redis.call('set', 'e', 1) \
                return {redis.call('dbsize'), redis.call('keys', '*')[1], redis.call('randomkey')}";
    let (ran, _) = stage.run(body, &[], &[]);
    assert_eq!(ran.reply, Reply::Array(vec![Reply::Int(1), Reply::bulk("e"), Reply::bulk("e")]));
    assert_eq!(stage.keyspace.0.borrow().len(), 1);
}

#[test]
fn an_error_keeps_what_was_written_before_it() {
    let mut stage = Stage::new();
    let (ran, effects) = stage.run("redis.call('set', 'a', 'x') redis.call('incr', 'a')", &[], &[]);
    assert!(ran.reply.is_error());
    assert_eq!(effects.unwrap().calls.len(), 1);
    assert!(stage.keyspace.0.borrow().contains(b"a"));
}

#[test]
fn a_script_that_is_stopped_leaves_nothing_and_cannot_prevent_it() {
    for body in [
        "redis.call('set', 'a', 1) while true do end",
        "while true do pcall(function() while true do end end) end",
        "while true do xpcall(function() while true do end end, function(e) return e end) end",
        "while true do local c = coroutine.wrap(function() while true do end end) pcall(c) end",
        "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
    ] {
        let mut stage = Stage::new();
        let (ran, effects) = stage.run_with(body, &[], &[], Rules::all(), After(Cell::new(50), Stop::Killed));
        assert_eq!((ran.stopped, effects), (Some(Stop::Killed), None), "{body}");
        let Reply::Error(text) = ran.reply else { panic!("{body}") };
        let text = String::from_utf8_lossy(&text).into_owned();
        let wanted = format!("ERR Script killed by user with SCRIPT KILL... script: {}", sha1_hex(body.as_bytes()));
        assert!(text.starts_with(&wanted), "{text}");
        assert!(!stage.interpreter.is_sound());
        assert_eq!(stage.keyspace.0.borrow().len(), 0);
    }
}

#[test]
fn a_script_that_takes_too_much_memory_is_stopped() {
    for body in [
        "local t = {} for i = 1, 1e9 do t[i] = {} end",
        "return string.rep('x', 1e9)",
        "local s = 'x' while true do s = s .. s end",
        "return cjson.encode(string.rep('/', 2e7))",
    ] {
        let mut stage = Stage::new();
        let (ran, _) = stage.run_with(body, &[], &[], Rules::all(), After(Cell::new(1_000_000), Stop::Time));
        assert_eq!(ran.stopped, Some(Stop::Memory), "{body}: {:?}", ran.reply);
        assert!(ran.reply.is_error());
    }
}

#[test]
fn nothing_of_a_script_is_left_for_the_next() {
    let mut stage = Stage::new();
    for body in [
        "table.insert(redis, 1)",
        "KEYS[1] = 'x'",
        "cjson.encode_number_precision(3) redis.setresp(3) math.randomseed(9)",
        "collectgarbage('stop')",
    ] {
        let _ = stage.run(body, &["k"], &[]);
        assert_eq!(stage.text("return tostring(redis[1])"), "nil");
        assert_eq!(stage.text("return cjson.encode_number_precision() .. ' ' .. #KEYS"), "14 0");
        assert_eq!(stage.run("return true", &[], &[]).0.reply, Reply::Int(1));
        assert_eq!(stage.text("return math.random(1000000)"), stage.text("return math.random(1000000)"));
    }
}

#[test]
fn read_only_scripts_write_nothing() {
    let mut stage = Stage::new();
    let rules = Rules { read_only: true, ..Rules::all() };
    let (ran, effects) =
        stage.run_with("return redis.pcall('set', 'a', 1)", &[], &[], rules, After(Cell::new(9), Stop::Time));
    assert_eq!(ran.reply, Reply::error("ERR Write commands are not allowed from read-only scripts."));
    assert!(effects.unwrap().calls.is_empty());
}

#[test]
fn the_globals_metatable_is_shown_and_cannot_be_changed() {
    let mut stage = Stage::new();
    for body in ["local g = getmetatable(_G) g.__index = {}", "setmetatable(_G, {})", "getmetatable(redis.call)"] {
        let text = stage.text(body);
        let fine = body.starts_with("getmetatable");
        assert_eq!(text.contains("Attempt to modify a readonly table"), !fine, "{body}: {text}");
    }
}

#[test]
fn keys_of_other_groups_are_refused() {
    let mut stage = Stage::new();
    let mine = crate::slot::slot_of(b"a");
    let rules = |one_slot| Rules {
        owns_all: false,
        one_slot,
        owns: Box::new(move |slot| slot == mine || slot == crate::slot::slot_of(b"b")),
        ..Rules::all()
    };
    let mut last = |body, one_slot| {
        let (ran, _) = stage.run_with(body, &[], &[], rules(one_slot), After(Cell::new(9), Stop::Time));
        ran.reply
    };
    let elsewhere = Reply::error("ERR Script attempted to access a non local key in a cluster node");
    assert_eq!(last("return redis.pcall('get', 'c')", false), elsewhere);
    let denied = Reply::error("ERR BY option of SORT denied in cluster mode.");
    assert_eq!(last("return redis.pcall('sort', 'a', 'get', 'w_*')", false), denied);
    assert_eq!(last("redis.call('get', 'a') return redis.pcall('get', 'b')", false), Reply::Nil);
    let several = Reply::error("ERR Script attempted to access keys that do not hash to the same slot");
    assert_eq!(last("redis.call('get', 'a') return redis.pcall('get', 'b')", true), several);
}

#[test]
fn what_reaches_outside_is_not_there() {
    let mut stage = Stage::new();
    for name in ["io", "require", "dofile", "loadfile", "print", "getfenv", "setfenv", "newproxy", "debug", "module"] {
        let text = stage.text(&format!("return {name}"));
        let wanted = format!("ERR user_script:1: Script attempted to access nonexistent global variable '{name}'");
        assert!(text.starts_with(&wanted), "{text}");
    }
    assert_eq!(stage.text("return tostring(loadstring(string.dump(function() end)))"), "nil");
    assert_eq!(stage.text("return tostring(rawget(_G, 'os') == os)"), "true");
    assert_eq!(stage.text("local n = 0 for k in pairs(redis) do n = n + 1 end return tostring(n > 15)"), "true");
    assert_eq!(stage.text("return tostring(os.clock()) .. type(os.exit)"), "1.5nil");
    assert_eq!(stage.text("return loadstring('return KEYS ~= nil')() and 'yes' or 'no'"), "yes");
}

#[test]
fn replies_of_resp3_are_what_a_script_asks_for() {
    let lua = mlua::Lua::new();
    let reply = Reply::Map(vec![(Reply::bulk("a"), Reply::Double(1.5))]);
    let flat = convert::to_lua(&lua, &reply, false).unwrap();
    let wanted = Reply::Array(vec![Reply::bulk("a"), Reply::bulk("1.5")]);
    assert_eq!(convert::to_reply(&flat, false).unwrap(), wanted);
    for reply in [
        reply,
        Reply::Set(vec![Reply::bulk("m")]),
        Reply::Bool(true),
        Reply::Double(2.5),
        Reply::BigNumber("123".into()),
        Reply::Verbatim { format: *b"txt", text: "hi".into() },
        Reply::Nil,
        Reply::OK,
        Reply::error("ERR no"),
    ] {
        let value = convert::to_lua(&lua, &reply, true).unwrap();
        assert_eq!(convert::to_reply(&value, true).unwrap(), reply);
    }
}
