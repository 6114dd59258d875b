//! Writes the inputs that fuzzing begins with, from what the server itself writes: `cargo run --example seeds` in `fuzz/`.

use bytes::{Bytes, BytesMut};
use hypercache_fuzz::commands;
use hypercache_fuzz::nasty::{Nasty, is_large, table};
use hypercache_fuzz::raft::entry::{Batch, Front, put_record};
use hypercache_fuzz::raft::wire::{self, Hello, Lane, Opcode, Told};
use hypercache_fuzz::raft::{Entry, log_id};
use hypercache_fuzz::resp::{Args, split_words};
use hypercache_fuzz::state::{HashRange, Keyspace, Packing, View};
use hypercache_fuzz::types::{NodeId, Slot, Stamp};
use openraft::EntryPayload;
use std::path::Path;

const LINES: &[&str] = &[
    "set s text",
    "set n 12",
    "incrbyfloat t 1.5",
    "pfadd p a b c",
    "hset h a 1 b 2",
    "hset i a 1 b 2 c 3",
    "hpexpire i 100000 fields 2 a b",
    "rpush l a b c",
    "sadd e 1 2 70000",
    "sadd f a b",
    "zadd z 1 a 2.5 b inf c",
    "xadd x 1-1 a 1",
    "xadd x 5-1 a 1 b 2",
    "xgroup create x a 0",
    "xgroup create x b 1-1 entriesread 1",
    "xreadgroup group a me count 1 streams x >",
    "xreadgroup group a you streams x >",
    "xdel x 1-1",
    "cf.reserve c 8 bucketsize 2 expansion 2",
    "cf.insert c items a b c d e f g h i j k l m n o p q r s t",
    "bf.reserve o 0.1 4 expansion 2",
    "bf.madd o a b c d e f g h",
    "set d v px 1000",
];

/// Name, path and query, body.
const PATHS: &[(&str, &str, &str)] = &[
    ("plain", "/api/cache/user:1?consistency=lease", r#"{"value":"v","ttl":3600}"#),
    ("encoded", "/api/cache/a%20b/%FF%00?consistency=bounded:250&x=1", r#"{"value":"/wA=","encoding":"base64"}"#),
    ("wrong", "/api/cache/%zz?consistency=none", r#"{"value":1}"#),
    ("level", "/api/cache/k?consistency=bounded%3A5", r#"{"value":"\u00e9","ttl":0.0005,"encoding":"utf-8"}"#),
];

fn line(text: &str) -> Args {
    split_words(text.as_bytes()).expect("its quotes balance")
}

fn keyspace(lines: &[&str]) -> Keyspace {
    let mut keyspace = Keyspace::new(7);
    let stamp = Stamp { now_ms: 1_700_000_000_000, seed: 1 };
    keyspace.advance(&stamp);
    for text in lines {
        assert!(!commands::apply(&line(text), &mut keyspace, &stamp).is_error(), "{text}");
    }
    keyspace
}

fn with_length(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).expect("seeds are small").to_le_bytes()[..], bytes].concat()
}

fn without_sum(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len() - 8]
}

fn record(payload: EntryPayload<Batch, NodeId, openraft::impls::EmptyNode>) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_record(&mut out, &Entry { log_id: log_id(3, 1), payload });
    out.to_vec()
}

fn frame(opcode: Opcode, body: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut out = BytesMut::from(&[3u8][..]);
    wire::put_frame(&mut out, opcode, body);
    out.to_vec()
}

fn main() -> std::io::Result<()> {
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(name), bytes)
    };

    write("decoder", "pipeline", b"\x05*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING\r\n\r\n*0\r\n*-1\r\n*1\r\n$0\r\n\r\n")?;
    write("decoder", "inline", b"\x01set \"a\\x41\\n b\" 'it\\'s' c\\d\r\n  \t\nget a\n")?;
    write("decoder", "wrong", b"\x02*1\r\n$3\r\nabc\r\n*1\r\n:1\r\n")?;
    write("decoder", "long", b"\xff*12\r\n$200\r\n")?;

    let full = keyspace(LINES);
    for entry in View::new(&full, None).scan(0, usize::MAX).0 {
        let body = entry.value().to_value().to_bytes();
        let input = [with_length(&body), (0..60u8).map(|n| n.wrapping_mul(37)).collect()].concat();
        write("dumps", &String::from_utf8_lossy(entry.key()), &input)?;
    }

    for (name, lines) in [("all", LINES), ("hash", &LINES[4..7]), ("stream", &LINES[11..18]), ("nothing", &[])] {
        let mut keyspace = keyspace(lines);
        let mut input = with_length(without_sum(&keyspace.begin_cut().to_bytes()));
        for image in std::iter::from_fn(|| keyspace.cut_next(1 << 20)).flatten() {
            input.extend(with_length(without_sum(&image.into_bytes())));
        }
        write("snapshots", name, &input)?;
    }

    let calls: Vec<Args> = LINES.iter().map(|text| line(text)).collect();
    let atomic = [line("hc.atomic 1 s 0 2 incr n 3 set a b"), line("hc.effects 5 6 - 1 s 0 3 set b 2 2 del a")];
    let stamp = Stamp { now_ms: 1_700_000_000_000, seed: 9 };
    let front =
        Front { packing: Some(Packing::default()), evictions: vec![(Bytes::from_static(b"s"), 1)], ..Front::default() };
    let batch = |front: &Front, calls: &[Args]| Batch::encode(stamp, &[HashRange::whole(Slot(5))], front, calls.iter());
    write("entries", "calls", &record(EntryPayload::Normal(batch(&Front::default(), &calls))))?;
    write("entries", "front", &record(EntryPayload::Normal(batch(&front, &calls[..2]).marked())))?;
    write("entries", "atomic", &record(EntryPayload::Normal(batch(&Front::default(), &atomic))))?;
    write("entries", "blank", &record(EntryPayload::Blank))?;

    let hello = Hello { cluster: "c".into(), from: NodeId(1), incarnation: 7, to: NodeId(2), lane: Lane::Forward(1) };
    write("frames", "hello", &frame(Opcode::Hello, |out| wire::put(out, &hello)))?;
    let told = Told { version: 1, hash: Some(5), slots: vec![(Slot(3), 7)] };
    write("frames", "told", &frame(Opcode::Response, |out| wire::put(out, &told)))?;
    write("frames", "propose", &frame(Opcode::Request, |out| wire::put_propose(out, 1, 2, 500, calls.iter(), &[])))?;
    write("frames", "turn", &frame(Opcode::Request, |out| wire::put_ask_turn(out, 2, 9, &calls[0])))?;

    // Bytes with which calls come out that are not all refused.
    let mut random = fastrand::Rng::with_seed(1);
    for number in 0..8 {
        let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(400).collect();
        let args = Nasty::new(hypercache_fuzz::calls::Given(&bytes)).request(&table());
        assert!(!is_large(&args, None));
        write("calls", &format!("random-{number}"), &bytes)?;
    }

    for (name, uri, body) in PATHS {
        write("paths", name, &[with_length(uri.as_bytes()), body.as_bytes().to_vec()].concat())?;
    }

    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    for file in std::fs::read_dir(configs)? {
        let file = file?;
        if file.file_type()?.is_dir() {
            continue;
        }
        write("configuration", &file.file_name().to_string_lossy(), &std::fs::read(file.path())?)?;
    }
    write(
        "configuration",
        "wrong.yaml",
        b"node: {id: \"a\", bind_addr: \"0.0.0.0:99999\"}\ncluster:\n  seeds: [a, 5]\nnope: 1\n",
    )
}
