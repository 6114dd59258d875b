//! redis-rs against the proxy face, over RESP2 and RESP3. The rules are those of `checks.py`.

use redis::{Commands, Connection, RedisResult, Value, cmd, pipe};

struct Checks(u32);

impl Checks {
    fn is<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, got: T, wanted: T) {
        if got != wanted {
            eprintln!("{what}: got {got:.300?}, expected {wanted:.300?}");
            std::process::exit(1);
        }
        self.0 += 1;
    }

    fn refused(&mut self, what: &str, got: RedisResult<Value>, text: &str) {
        let got = got.map_or_else(|error| error.to_string(), |value| format!("{value:?}"));
        self.is(what, got.contains(text), true);
    }
}

fn open(port: &str, protocol: u8) -> RedisResult<Connection> {
    redis::Client::open(format!("redis://127.0.0.1:{port}/?protocol=resp{protocol}"))?.get_connection()
}

fn run(checks: &mut Checks, ports: &[&str], protocol: u8) -> RedisResult<()> {
    let tag = format!("rs{protocol}");
    let key = |name: &str| format!("{tag}:{name}");
    let mut client = open(ports[0], protocol)?;
    let mut other = open(ports[ports.len() - 1], protocol)?;
    checks.is("PING", cmd("PING").query::<String>(&mut client)?, "PONG".to_owned());
    let _: () = client.set(key("a"), "1")?;
    checks.is("GET", client.get::<_, String>(key("a"))?, "1".to_owned());
    checks.is("GET through another node", other.get::<_, String>(key("a"))?, "1".to_owned());
    checks.is("GET of nothing", client.get::<_, Option<String>>(key("none"))?, None);
    let pair = [format!("{{{tag}}}x"), format!("{{{tag}}}y")];
    let _: () = client.mset(&[(&pair[0], 1), (&pair[1], 2)])?;
    checks.is("MGET in one slot", cmd("MGET").arg(&pair[..]).query::<Vec<i64>>(&mut other)?, vec![1, 2]);
    let keys: Vec<String> = (0..8).map(|n| key(&format!("spread:{n}"))).collect();
    for (n, key) in keys.iter().enumerate() {
        let _: () = client.set(key, n)?;
    }
    let wanted: Vec<usize> = (0..8).collect();
    checks.is("MGET across slots", cmd("MGET").arg(&keys[..]).query::<Vec<usize>>(&mut client)?, wanted);
    for n in 1..=3 {
        checks.is("INCR", client.incr::<_, _, i64>(key("n"), 1)?, n);
    }
    checks.is("EXPIRE", client.expire::<_, bool>(key("a"), 100)?, true);
    checks.is("TTL", (95..=100).contains(&client.ttl::<_, i64>(key("a"))?), true);
    checks.is("DEL across slots", cmd("DEL").arg(&keys[..]).query::<i64>(&mut client)?, 8);

    let mut pipeline = pipe();
    for n in 0..50 {
        pipeline.set(key(&format!("p:{n}")), n).ignore().get(key(&format!("p:{n}")));
    }
    checks.is("pipeline of 100", pipeline.query::<Vec<i64>>(&mut client)?, (0..50).collect());

    let binary: Vec<u8> = (0..=255).chain(*b"\r\n$-1\r\n\0").collect();
    let _: () = client.set(key("bin"), &binary)?;
    checks.is("binary value", other.get::<_, Vec<u8>>(key("bin"))?, binary);
    let large = vec![b'x'; 1 << 20];
    let _: () = client.set(key("large"), &large)?;
    checks.is("1 MB value", other.get::<_, Vec<u8>>(key("large"))? == large, true);

    checks.refused("unknown command", cmd("NOSUCH").arg("a").query(&mut client), "unknown command 'NOSUCH'");
    checks.refused("wrong arity", cmd("GET").query(&mut client), "wrong number of arguments for 'get' command");
    checks.refused("SELECT 1", cmd("SELECT").arg(1).query(&mut client), "SELECT is not allowed");
    let hello: Value = cmd("HELLO").arg(protocol).query(&mut client)?;
    checks.is("HELLO is a map in RESP3 only", matches!(hello, Value::Map(_)), protocol == 3);
    Ok(())
}

fn main() -> RedisResult<()> {
    let ports = std::env::var("HC_PROXY").expect("HC_PROXY is set by the driver");
    let ports: Vec<&str> = ports.split(',').collect();
    let mut checks = Checks(0);
    for protocol in [2, 3] {
        run(&mut checks, &ports, protocol)?;
    }
    println!("{} checks", checks.0);
    Ok(())
}
