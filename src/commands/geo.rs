//! GEO: places on the globe as members of a sorted set, whose scores are the numbers of [`super::geohash`].
//!
//! Texts and edge cases are Redis 7.2's. What is not asked to be sorted comes in the order of scores.

use super::geohash::{Place, Shape};
use super::score::float;
use super::sorted::{BASE, bulk, sorted_of};
use super::sorted_range::store;
use super::syntax::{either, is, syntax_error, want_integer};
use super::{Command, Copied, Keys, ReadCommand, Spec, WriteCommand, read, write};
use crate::resp::{Args, Reply};
use crate::state::{EntryRef, Keyspace, SortedRef, SortedValue, View};
use crate::types::Stamp;
use bytes::Bytes;

const GEO: Spec = Spec { family: "geo", since: "3.2.0", ..BASE };

fn want_float(text: &[u8]) -> Result<f64, Reply> {
    float(text).ok_or_else(|| Reply::error("ERR value is not a valid float"))
}

fn want_place(lon: &[u8], lat: &[u8]) -> Result<Place, Reply> {
    let (lon, lat) = (want_float(lon)?, want_float(lat)?);
    let wrong = || Reply::error(format!("ERR invalid longitude,latitude pair {lon:.6},{lat:.6}"));
    Place::new(lon, lat).ok_or_else(wrong)
}

/// Metres in a unit.
fn want_unit(word: &[u8]) -> Result<f64, Reply> {
    match word {
        word if is(word, "m") => Ok(1.0),
        word if is(word, "km") => Ok(1000.0),
        word if is(word, "ft") => Ok(0.3048),
        word if is(word, "mi") => Ok(1609.34),
        _ => Err(Reply::error("ERR unsupported unit provided. please use M, KM, FT, MI")),
    }
}

fn place_of(sorted: SortedRef<'_>, member: &[u8]) -> Option<Place> {
    sorted.score(member).map(|score| Place::of_number(cell_of(score)))
}

/// A distance as Redis writes it.
fn metres(distance: f64) -> Reply {
    Reply::bulk(format!("{distance:.4}"))
}

/// Longitude and latitude with as many digits as Redis writes.
fn coordinates(place: Place) -> Reply {
    let digits = |degrees: f64| {
        let text = format!("{degrees:.17}");
        Reply::bulk(text.trim_end_matches('0').trim_end_matches('.').to_owned())
    };
    Reply::Array(vec![digits(place.lon), digits(place.lat)])
}

// -- Adding and telling

/// GEOADD is a ZADD whose scores are places.
struct Geoadd(Args);

impl WriteCommand for Geoadd {
    const SPEC: Spec = Spec {
        name: "geoadd",
        arity: -5,
        syntax: "GEOADD key [NX | XX] [CH] longitude latitude member [longitude latitude member ...]",
        summary: "Adds places to a sorted set, or moves them; returns how many are new.",
        complexity: "O(N*log(M)), N the number of places given, M that of members there are",
        denyoom: true,
        ..GEO
    };

    fn parse(args: &Args) -> Result<Geoadd, Reply> {
        let (mut nx, mut xx) = (false, false);
        let mut option = |word: &Bytes| {
            nx |= is(word, "nx");
            xx |= is(word, "xx");
            ["nx", "xx", "ch"].iter().any(|name| is(word, name))
        };
        let count = args[2..].iter().take_while(|word| option(word)).count();
        let places = &args[2 + count..];
        if places.is_empty() || !places.len().is_multiple_of(3) || (nx && xx) {
            return Err(syntax_error());
        }
        let mut zadd = vec![Bytes::from_static(b"ZADD")];
        zadd.extend_from_slice(&args[1..2 + count]);
        for place in places.chunks_exact(3) {
            let number = want_place(&place[0], &place[1])?.number();
            zadd.extend([Bytes::from(number.to_string()), place[2].clone()]);
        }
        Ok(Geoadd(zadd.into()))
    }

    fn growth(args: &Args) -> u64 {
        let zadd = Geoadd::parse(args).ok().map(|geoadd| geoadd.0);
        let growth = zadd.and_then(|zadd| Some((super::lookup(&zadd).ok()?.growth)(&zadd)));
        growth.unwrap_or_else(|| super::usual_growth(args))
    }

    fn apply(self, keyspace: &mut Keyspace, stamp: &Stamp) -> Reply {
        super::apply(&self.0, keyspace, stamp)
    }
}

/// Of each member something, nil for one that is not there.
fn told(view: &View<'_>, args: &Args, tell: impl Fn(Place) -> Reply, missing: Reply) -> Reply {
    either(sorted_of(view.get(&args[1])).map(|sorted| {
        let one = |member: &Bytes| sorted.and_then(|sorted| place_of(sorted, member)).map_or(missing.clone(), &tell);
        Reply::Array(args[2..].iter().map(one).collect())
    }))
}

struct Geopos(Args);

impl ReadCommand for Geopos {
    const SPEC: Spec = Spec {
        name: "geopos",
        arity: -2,
        syntax: "GEOPOS key [member [member ...]]",
        summary: "Returns longitude and latitude of members, nil for those that are not there.",
        ..GEO
    };

    fn parse(args: &Args) -> Result<Geopos, Reply> {
        Ok(Geopos(args.clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        told(view, &self.0, coordinates, Reply::NilArray)
    }
}

struct Geohash(Args);

impl ReadCommand for Geohash {
    const SPEC: Spec = Spec {
        name: "geohash",
        arity: -2,
        syntax: "GEOHASH key [member [member ...]]",
        summary: "Returns the geohashes of members, nil for those that are not there.",
        ..GEO
    };

    fn parse(args: &Args) -> Result<Geohash, Reply> {
        Ok(Geohash(args.clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        told(view, &self.0, |place| Reply::bulk(place.geohash()), Reply::Nil)
    }
}

struct Geodist {
    key: Bytes,
    members: [Bytes; 2],
    unit: f64,
}

impl ReadCommand for Geodist {
    const SPEC: Spec = Spec {
        name: "geodist",
        arity: -4,
        syntax: "GEODIST key member1 member2 [M | KM | FT | MI]",
        summary: "Returns the distance between two members.",
        ..GEO
    };

    fn parse(args: &Args) -> Result<Geodist, Reply> {
        let unit = match &args[4..] {
            [] => 1.0,
            [unit] => want_unit(unit)?,
            _ => return Err(syntax_error()),
        };
        Ok(Geodist { key: args[1].clone(), members: [args[2].clone(), args[3].clone()], unit })
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(sorted_of(view.get(&self.key)).map(|sorted| {
            let [a, b] = self.members.each_ref().map(|member| sorted.and_then(|sorted| place_of(sorted, member)));
            a.zip(b).map_or(Reply::Nil, |(a, b)| metres(a.distance(b) / self.unit))
        }))
    }
}

// -- Searching

enum Centre {
    Member(Bytes),
    At(Place),
}

#[derive(Clone, Copy, PartialEq)]
enum Order {
    AsFound,
    Near,
    Far,
}

/// GEOSEARCH and its elder kin.
struct Search {
    key: Bytes,
    centre: Centre,
    shape: Shape,
    unit: f64,
    order: Order,
    count: Option<usize>,
    any: bool,
    with_distance: bool,
    with_number: bool,
    with_place: bool,
    /// Where to store what is found, and whether with distances.
    store: Option<(Bytes, bool)>,
}

/// What was found.
struct Found {
    member: Bytes,
    number: u64,
    place: Place,
    /// In metres.
    distance: f64,
}

/// The cell that a score names. Any number may be a score; what one stands for that no cell has is what Redis makes of it on
/// the machines that nearly all run on.
fn cell_of(score: f64) -> u64 {
    const HALF: f64 = (1u64 << 63) as f64;
    let whole = |number: f64| if (-HALF..HALF).contains(&number) { number as i64 } else { i64::MIN };
    if score < HALF { whole(score) as u64 } else { (whole(score - HALF) ^ i64::MIN) as u64 }
}

/// Which command is parsed.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Radius,
    RadiusReadOnly,
    Search,
    SearchStore,
}

fn want_length(text: &[u8], what: &str) -> Result<f64, Reply> {
    float(text).ok_or_else(|| Reply::error(format!("ERR need numeric {what}")))
}

fn circle(radius: &[u8], unit: &[u8]) -> Result<(Shape, f64), Reply> {
    let radius = want_length(radius, "radius")?;
    if radius < 0.0 {
        return Err(Reply::error("ERR radius cannot be negative"));
    }
    let unit = want_unit(unit)?;
    Ok((Shape::Circle { radius: radius * unit }, unit))
}

impl Search {
    /// The options from `at` on; `known` is what the older commands say before them.
    fn parse(args: &Args, mut at: usize, form: Form, known: Option<(Centre, (Shape, f64))>) -> Result<Search, Reply> {
        let key = if form == Form::SearchStore { &args[2] } else { &args[1] };
        let new = matches!(form, Form::Search | Form::SearchStore);
        let (mut centre, mut shape) = known.unzip();
        let (mut order, mut count, mut any) = (Order::AsFound, None, false);
        let (mut with_distance, mut with_number, mut with_place) = (false, false, false);
        let (mut store, mut store_distance) = (None, false);
        while let Some(word) = args.get(at) {
            let left = args.len() - at - 1;
            at += 1;
            match word {
                word if is(word, "withdist") => with_distance = true,
                word if is(word, "withhash") => with_number = true,
                word if is(word, "withcoord") => with_place = true,
                word if is(word, "any") => any = true,
                word if is(word, "asc") => order = Order::Near,
                word if is(word, "desc") => order = Order::Far,
                word if is(word, "count") && left >= 1 => {
                    let wanted = want_integer(&args[at])?;
                    let positive = usize::try_from(wanted).ok().filter(|count| *count > 0);
                    count = Some(positive.ok_or_else(|| Reply::error("ERR COUNT must be > 0"))?);
                    at += 1;
                }
                word if form == Form::Radius && (is(word, "store") || is(word, "storedist")) && left >= 1 => {
                    (store, store_distance) = (Some(args[at].clone()), is(word, "storedist"));
                    at += 1;
                }
                word if form == Form::SearchStore && is(word, "storedist") => store_distance = true,
                word if new && centre.is_none() && is(word, "frommember") && left >= 1 => {
                    centre = Some(Centre::Member(args[at].clone()));
                    at += 1;
                }
                word if new && centre.is_none() && is(word, "fromlonlat") && left >= 2 => {
                    centre = Some(Centre::At(want_place(&args[at], &args[at + 1])?));
                    at += 2;
                }
                word if new && shape.is_none() && is(word, "byradius") && left >= 2 => {
                    shape = Some(circle(&args[at], &args[at + 1])?);
                    at += 2;
                }
                word if new && shape.is_none() && is(word, "bybox") && left >= 3 => {
                    let (width, height) = (want_length(&args[at], "width")?, want_length(&args[at + 1], "height")?);
                    if width < 0.0 || height < 0.0 {
                        return Err(Reply::error("ERR height or width cannot be negative"));
                    }
                    let unit = want_unit(&args[at + 2])?;
                    shape = Some((Shape::Box { width: width * unit, height: height * unit }, unit));
                    at += 3;
                }
                _ => return Err(syntax_error()),
            }
        }
        if form == Form::SearchStore {
            store = Some(args[1].clone());
        }
        if store.is_some() && (with_distance || with_number || with_place) {
            let which = if form == Form::SearchStore { "GEOSEARCHSTORE" } else { "STORE option in GEORADIUS" };
            let text = format!("ERR {which} is not compatible with WITHDIST, WITHHASH and WITHCOORD options");
            return Err(Reply::error(text));
        }
        let name = String::from_utf8_lossy(&args[0]);
        let missing = |what: &str| Reply::error(format!("ERR exactly one of {what} can be specified for {name}"));
        let centre = centre.ok_or_else(|| missing("FROMMEMBER or FROMLONLAT"))?;
        let (shape, unit) = shape.ok_or_else(|| missing("BYRADIUS and BYBOX"))?;
        if any && count.is_none() {
            return Err(Reply::error("ERR the ANY argument requires COUNT argument"));
        }
        // The nearest ones are meant, unless any will do.
        if count.is_some() && !any && order == Order::AsFound {
            order = Order::Near;
        }
        let store = store.map(|to| (to, store_distance));
        let key = key.clone();
        Ok(Search { key, centre, shape, unit, order, count, any, with_distance, with_number, with_place, store })
    }

    fn radius(args: &Args, form: Form) -> Result<Search, Reply> {
        let centre = Centre::At(want_place(&args[2], &args[3])?);
        let circle = circle(&args[4], &args[5])?;
        Search::parse(args, 6, form, Some((centre, circle)))
    }

    fn radius_by_member(args: &Args, form: Form) -> Result<Search, Reply> {
        let circle = circle(&args[3], &args[4])?;
        Search::parse(args, 5, form, Some((Centre::Member(args[2].clone()), circle)))
    }

    fn found(&self, entry: Option<EntryRef<'_>>) -> Result<Vec<Found>, Reply> {
        let Some(sorted) = sorted_of(entry)? else { return Ok(Vec::new()) };
        let centre = match &self.centre {
            Centre::At(place) => *place,
            Centre::Member(member) => {
                place_of(sorted, member).ok_or_else(|| Reply::error("ERR could not decode requested zset member"))?
            }
        };
        let enough = if self.any { self.count.unwrap_or(usize::MAX) } else { usize::MAX };
        let mut found = Vec::new();
        'all: for (low, high) in self.shape.ranges(centre) {
            let range = sorted.below_score(low as f64, false)..sorted.below_score(high as f64, true);
            for here in sorted.range(range) {
                let number = cell_of(here.score);
                let place = Place::of_number(number);
                let Some(distance) = self.shape.reaches(centre, place) else { continue };
                found.push(Found { member: Bytes::copy_from_slice(here.member), number, place, distance });
                if found.len() >= enough {
                    break 'all;
                }
            }
        }
        match self.order {
            Order::AsFound => {}
            Order::Near => found.sort_by(|a, b| a.distance.total_cmp(&b.distance)),
            Order::Far => found.sort_by(|a, b| b.distance.total_cmp(&a.distance)),
        }
        found.truncate(self.count.unwrap_or(usize::MAX));
        Ok(found)
    }

    fn row(&self, found: &Found) -> Reply {
        if !(self.with_distance || self.with_number || self.with_place) {
            return bulk(&found.member);
        }
        let mut row = vec![bulk(&found.member)];
        row.extend(self.with_distance.then(|| metres(found.distance / self.unit)));
        row.extend(self.with_number.then(|| Reply::Int(found.number as i64)));
        row.extend(self.with_place.then(|| coordinates(found.place)));
        Reply::Array(row)
    }

    fn reply(&self, entry: Option<EntryRef<'_>>) -> Result<Reply, Reply> {
        Ok(Reply::Array(self.found(entry)?.iter().map(|found| self.row(found)).collect()))
    }

    /// `event`: what storing is told as.
    fn run(&self, keyspace: &mut Keyspace, event: &'static str) -> Result<Reply, Reply> {
        let Some((to, distances)) = &self.store else { return self.reply(keyspace.get(&self.key)) };
        let found = self.found(keyspace.get(&self.key))?;
        let limits = keyspace.packing().sorted;
        let mut made = SortedValue::new();
        made.expect(found.len(), limits);
        for one in &found {
            let score = if *distances { one.distance / self.unit } else { one.number as f64 };
            made.set(&one.member, score, limits);
        }
        Ok(store(keyspace, event, to, made))
    }
}

/// What of a source may be stored under another key.
const STORED: Option<Copied> = Some(|args, size| size(&args[1]).in_sorted());

struct Georadius(Search);

impl WriteCommand for Georadius {
    const SPEC: Spec = Spec {
        name: "georadius",
        arity: -6,
        keys: Keys::FirstAndStored,
        syntax: "GEORADIUS key longitude latitude radius <M | KM | FT | MI> [WITHCOORD] [WITHDIST] [WITHHASH] [COUNT count [ANY]] [ASC | DESC] [STORE key | STOREDIST key]",
        summary: "Returns or stores the members within a distance of a place.",
        complexity: "O(N+log(M)), N the number of members near it, M that of all",
        denyoom: true,
        ..GEO
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Search::radius(args, Form::Radius).map(Georadius)
    }

    const COPIED: Option<Copied> = STORED;

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.0.run(keyspace, "georadiusstore"))
    }
}

struct GeoradiusByMember(Search);

impl WriteCommand for GeoradiusByMember {
    const SPEC: Spec = Spec {
        name: "georadiusbymember",
        arity: -5,
        syntax: "GEORADIUSBYMEMBER key member radius <M | KM | FT | MI> [WITHCOORD] [WITHDIST] [WITHHASH] [COUNT count [ANY]] [ASC | DESC] [STORE key | STOREDIST key]",
        summary: "Returns or stores the members within a distance of a member.",
        ..Georadius::SPEC
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Search::radius_by_member(args, Form::Radius).map(GeoradiusByMember)
    }

    const COPIED: Option<Copied> = STORED;

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.0.run(keyspace, "georadiusstore"))
    }
}

struct GeoradiusReadOnly(Search);

impl ReadCommand for GeoradiusReadOnly {
    const SPEC: Spec = Spec {
        name: "georadius_ro",
        keys: Keys::ONE,
        syntax: "GEORADIUS_RO key longitude latitude radius <M | KM | FT | MI> [WITHCOORD] [WITHDIST] [WITHHASH] [COUNT count [ANY]] [ASC | DESC]",
        summary: "Returns the members within a distance of a place.",
        since: "3.2.10",
        denyoom: false,
        ..Georadius::SPEC
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Search::radius(args, Form::RadiusReadOnly).map(GeoradiusReadOnly)
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(self.0.reply(view.get(&self.0.key)))
    }
}

struct GeoradiusByMemberReadOnly(Search);

impl ReadCommand for GeoradiusByMemberReadOnly {
    const SPEC: Spec = Spec {
        name: "georadiusbymember_ro",
        arity: -5,
        syntax: "GEORADIUSBYMEMBER_RO key member radius <M | KM | FT | MI> [WITHCOORD] [WITHDIST] [WITHHASH] [COUNT count [ANY]] [ASC | DESC]",
        summary: "Returns the members within a distance of a member.",
        ..GeoradiusReadOnly::SPEC
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Search::radius_by_member(args, Form::RadiusReadOnly).map(GeoradiusByMemberReadOnly)
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(self.0.reply(view.get(&self.0.key)))
    }
}

struct Geosearch(Search);

impl ReadCommand for Geosearch {
    const SPEC: Spec = Spec {
        name: "geosearch",
        arity: -7,
        syntax: "GEOSEARCH key <FROMMEMBER member | FROMLONLAT longitude latitude> <BYRADIUS radius <M | KM | FT | MI> | BYBOX width height <M | KM | FT | MI>> [ASC | DESC] [COUNT count [ANY]] [WITHCOORD] [WITHDIST] [WITHHASH]",
        summary: "Returns the members within a circle or a box.",
        complexity: "O(N+log(M)), N the number of members near it, M that of all",
        since: "6.2.0",
        ..GEO
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Search::parse(args, 2, Form::Search, None).map(Geosearch)
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(self.0.reply(view.get(&self.0.key)))
    }
}

struct Geosearchstore(Search);

impl WriteCommand for Geosearchstore {
    const SPEC: Spec = Spec {
        name: "geosearchstore",
        arity: -8,
        keys: Keys::Range { first: 1, last: 2, step: 1 },
        syntax: "GEOSEARCHSTORE destination source <FROMMEMBER member | FROMLONLAT longitude latitude> <BYRADIUS radius <M | KM | FT | MI> | BYBOX width height <M | KM | FT | MI>> [ASC | DESC] [COUNT count [ANY]] [STOREDIST]",
        summary: "Stores the members within a circle or a box; returns how many there are.",
        denyoom: true,
        ..Geosearch::SPEC
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Search::parse(args, 3, Form::SearchStore, None).map(Geosearchstore)
    }

    const COPIED: Option<Copied> = Some(|args, size| size(&args[2]).in_sorted());

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.0.run(keyspace, "geosearchstore"))
    }
}

pub(super) static GEO_COMMANDS: &[Command] = &[
    write::<Geoadd>(),
    read::<Geodist>(),
    read::<Geohash>(),
    read::<Geopos>(),
    write::<Georadius>(),
    read::<GeoradiusReadOnly>(),
    write::<GeoradiusByMember>(),
    read::<GeoradiusByMemberReadOnly>(),
    read::<Geosearch>(),
    write::<Geosearchstore>(),
];
