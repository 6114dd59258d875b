//! The cuckoo filter of one unit of a slot: of a key's hash it says "surely absent" or "perhaps present".
//!
//! The map decides and the filter follows: [`UnitFilter::add`] is called for keys that the map took as new,
//! [`UnitFilter::remove`] for keys that the map gave up, in the same apply. So a filter can always be made again from
//! the map's keys, which is how it grows, shrinks and gets out of a dead end.
//!
//! Invariants:
//! - No false negative: every key that was added and not removed is answered with "perhaps".
//! - The size follows from the counts at each call alone, so it is the same on all replicas. With equal
//!   [`Parameters`] two filters over the same keys give equal answers, whatever the order they were filled in: a
//!   fingerprint lies in one of two buckets, either of which leads to the other, and a query looks at both.
//! - A seed under which an insertion finds no room is given up by this replica alone. That changes answers about
//!   absent keys only.
//!
//! Fan, Andersen, Kaminsky and Mitzenmacher, "Cuckoo Filter: Practically Better Than Bloom", with their semi-sorted
//! buckets of four. A bucket is a set, so the order of its fingerprints need not be stored: the four low nibbles are
//! kept sorted and written as their rank among all sorted quadruples, which takes 12 bits instead of 16.
//!
//! ```text
//! bucket of 4 fingerprints of f bits, 4f - 4 bits:
//!   | rank of the low nibbles (12) | f-4 high bits of the 1st | of the 2nd | of the 3rd | of the 4th |
//! buckets lie one after another, bit after bit, lowest bit first; fingerprint 0 is an empty place
//! ```
//!
//! The number of buckets is not a power of two, so that a filter can grow by an eighth: the second bucket of a
//! fingerprint is `h(fingerprint) - first`, modulo the number of buckets, which is its own inverse.

/// False-positive rates that can be had.
pub const RATE_MIN: f64 = 0.001;
pub const RATE_MAX: f64 = 0.05;

/// Fingerprints a bucket.
const PLACES: usize = 4;
/// Fullest that a filter gets, in percent of its places. Cuckoo hashing with buckets of four fails near 98.
const LOAD_PERCENT: u64 = 95;
/// Places that a filter leaves free beside that: small tables have bad luck more often.
const SPARE: u64 = 2;
/// A filter grows by one part in this many.
const STEP: u32 = 12;
/// Smallest number of buckets.
const BUCKETS_MIN: u32 = 4;
/// Up to so many keys are kept as a list, without an allocation.
const FEW: usize = 7;
/// How often a fingerprint may push another one out before the seed is given up.
const KICKS: u32 = 500;
/// Seeds tried before the filter gives up telling keys apart. Only keys with equal hashes lead there.
const SEEDS: u8 = 16;

/// Bits of a fingerprint: the measure of how rarely an absent key is answered with "perhaps".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precision(u8);

impl Default for Precision {
    /// One per cent.
    fn default() -> Precision {
        Precision::for_rate(0.01).expect("1 % is between the bounds")
    }
}

impl Precision {
    const BITS: std::ops::RangeInclusive<u8> = 8..=13;

    /// The shortest fingerprint that keeps the rate, which is a share and not a percentage; `None` if the rate is
    /// not between [`RATE_MIN`] and [`RATE_MAX`].
    pub fn for_rate(rate: f64) -> Option<Precision> {
        // A query compares its fingerprint with those of two buckets.
        let compared = 2.0 * PLACES as f64 * LOAD_PERCENT as f64 / 100.0;
        (RATE_MIN..=RATE_MAX)
            .contains(&rate)
            .then(|| Self::BITS.clone().find(|&bits| compared / f64::from(largest(bits)) <= rate))?
            .map(Precision)
    }

    pub fn bits(self) -> u8 {
        self.0
    }
}

const fn largest(bits: u8) -> u32 {
    (1 << bits) - 1
}

/// What a filter's answers about absent keys depend on, beside its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// 0 for a filter of few keys, which has no buckets.
    pub buckets: u32,
    /// Bits of a fingerprint.
    pub bits: u8,
    /// Number of the seed in the chain that begins with 0.
    pub seed: u8,
}

/// The filter of one unit. 24 bytes, and nothing on the heap while the unit holds few keys.
#[derive(Debug, Clone)]
pub struct UnitFilter(Store);

const _: () = assert!(size_of::<UnitFilter>() == 24, "a node keeps one for each unit");

#[derive(Debug, Clone)]
enum Store {
    Few { len: u8, prints: [u16; FEW] },
    Table(Table),
}

impl Default for UnitFilter {
    fn default() -> UnitFilter {
        UnitFilter(Store::Few { len: 0, prints: [0; FEW] })
    }
}

impl UnitFilter {
    /// The filter of these keys, given by their hashes, as [`UnitFilter::parameters`] of another one says. `keys`
    /// may be called more than once.
    pub fn build<I: Iterator<Item = u64>>(parameters: Parameters, keys: impl Fn() -> I) -> UnitFilter {
        let mut filter = UnitFilter::default();
        filter.rebuild(parameters, &keys);
        filter
    }

    /// The filter of `count` keys, given by their hashes.
    pub fn of<I: Iterator<Item = u64>>(precision: Precision, count: usize, keys: impl Fn() -> I) -> UnitFilter {
        UnitFilter::build(Parameters::for_count(count, precision), keys)
    }

    /// Follows a key that the map took as new. `count` is the number of the unit's keys with this one, `keys` gives
    /// all their hashes, this one's too, in any order; it is only called when the filter is made anew.
    pub fn add<I: Iterator<Item = u64>>(
        &mut self,
        precision: Precision,
        hash: u64,
        count: usize,
        keys: impl Fn() -> I,
    ) {
        let again = match &mut self.0 {
            Store::Few { len, prints } if usize::from(*len) < FEW => {
                prints[usize::from(*len)] = short_print(hash);
                *len += 1;
                return;
            }
            Store::Table(table) if count as u64 <= capacity(table.parameters.buckets) => {
                if table.is_unsure() || table.insert(table.parameters, hash) {
                    return;
                }
                // What the last kick pushed out is in no bucket now: the table must not be used any more.
                table.parameters.next_seed()
            }
            Store::Few { .. } | Store::Table(_) => Parameters::for_count(count, precision),
        };
        self.rebuild(again, &keys);
    }

    /// Follows a key that the map gave up. `count` and `keys` speak of what the unit holds without it.
    pub fn remove<I: Iterator<Item = u64>>(
        &mut self,
        precision: Precision,
        hash: u64,
        count: usize,
        keys: impl Fn() -> I,
    ) {
        let buckets = self.parameters().buckets;
        if buckets > 0 && count as u64 * 2 < capacity(buckets) {
            // With room for a quarter more: the next few keys must not make it grow at once.
            let fitting = Parameters::for_count(count + count / 4, precision);
            if fitting.buckets < buckets {
                self.rebuild(fitting, &keys);
                return;
            }
        }
        match &mut self.0 {
            Store::Few { len, prints } => {
                let present = &prints[..usize::from(*len)];
                if let Some(at) = present.iter().position(|print| *print == short_print(hash)) {
                    *len -= 1;
                    prints[at] = prints[usize::from(*len)];
                }
            }
            Store::Table(table) => table.remove(hash),
        }
    }

    /// `false`: no key with this hash is in the unit. `true`: there may be one.
    pub fn might_contain(&self, hash: u64) -> bool {
        match &self.0 {
            Store::Few { len, prints } => prints[..usize::from(*len)].contains(&short_print(hash)),
            Store::Table(table) => table.contains(hash),
        }
    }

    pub fn parameters(&self) -> Parameters {
        match &self.0 {
            Store::Few { .. } => Parameters { buckets: 0, bits: u16::BITS as u8, seed: 0 },
            Store::Table(table) => table.parameters,
        }
    }

    /// Bytes of the filter, itself included. A function of its parameters.
    pub fn bytes(&self) -> usize {
        let table = match &self.0 {
            Store::Table(table) => table.bytes.len(),
            Store::Few { .. } => 0,
        };
        size_of::<UnitFilter>() + table
    }

    /// How many fingerprints there is place for.
    pub fn places(&self) -> u64 {
        match self.parameters().buckets {
            0 => FEW as u64,
            buckets => u64::from(buckets) * PLACES as u64,
        }
    }

    fn rebuild<I: Iterator<Item = u64>>(&mut self, mut parameters: Parameters, keys: &impl Fn() -> I) {
        if parameters.buckets == 0 {
            let (mut len, mut prints) = (0, [0; FEW]);
            let fits = keys().all(|hash| {
                let place = prints.get_mut(usize::from(len)).map(|place| *place = short_print(hash));
                len += u8::from(place.is_some());
                place.is_some()
            });
            self.0 = if fits { Store::Few { len, prints } } else { Store::Table(Table::unsure(parameters)) };
            return;
        }
        let mut open = vec![[0; PLACES]; parameters.buckets as usize];
        while parameters.seed < SEEDS {
            if keys().all(|hash| open.as_mut_slice().insert(parameters, hash)) {
                self.0 = Store::Table(Table::pack(parameters, &open));
                return;
            }
            parameters = parameters.next_seed();
            open.fill([0; PLACES]);
        }
        self.0 = Store::Table(Table::unsure(parameters));
    }
}

impl Parameters {
    /// What a filter that is made for so many keys begins with.
    fn for_count(count: usize, precision: Precision) -> Parameters {
        let mut buckets = BUCKETS_MIN;
        while capacity(buckets) < count as u64 {
            buckets += (buckets / STEP).max(1);
        }
        let buckets = if count <= FEW { 0 } else { buckets };
        Parameters { buckets, bits: precision.bits(), seed: 0 }
    }

    fn next_seed(self) -> Parameters {
        Parameters { seed: self.seed + 1, ..self }
    }

    /// Bits of a bucket.
    fn width(self) -> usize {
        PLACES * usize::from(self.bits) + RANK_BITS as usize - PLACES * NIBBLE as usize
    }

    fn table_bytes(self) -> usize {
        // Buckets are read as eight bytes.
        (self.width() * self.buckets as usize).div_ceil(8).max(8)
    }
}

/// Keys that a filter of so many buckets takes.
fn capacity(buckets: u32) -> u64 {
    (u64::from(buckets) * PLACES as u64 * LOAD_PERCENT / 100).saturating_sub(SPARE)
}

/// The hash under one seed of the chain; its halves are the bucket and the fingerprint.
fn mixed(hash: u64, seed: u8) -> u64 {
    let mut mixed = hash.wrapping_add((u64::from(seed) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ mixed >> 31
}

/// The fingerprint in a list of few keys.
fn short_print(hash: u64) -> u16 {
    (mixed(hash, 0) >> 48) as u16
}

/// `number` out of 2^32 to one out of `range`.
fn scaled(number: u32, range: u32) -> u32 {
    ((u64::from(number) * u64::from(range)) >> 32) as u32
}

impl Parameters {
    /// The fingerprint of a mixed hash and the first of its two buckets.
    fn place(self, mixed: u64) -> (u32, u16) {
        (scaled((mixed >> 32) as u32, self.buckets), 1 + scaled(mixed as u32, largest(self.bits)) as u16)
    }

    /// The other bucket of a fingerprint.
    fn other(self, bucket: u32, print: u16) -> u32 {
        let sum = scaled(u32::from(print).wrapping_mul(0x9E37_79B1), self.buckets);
        if sum >= bucket { sum - bucket } else { sum + self.buckets - bucket }
    }
}

/// Fingerprints of a bucket, in any order; 0 is an empty place.
type Bucket = [u16; PLACES];

/// Buckets in memory: packed to last, or open while a filter is made and every place is written several times.
trait Buckets {
    fn get(&self, bucket: u32) -> Bucket;
    fn set(&mut self, bucket: u32, prints: Bucket);

    /// Puts `new` in the place of one `old`; whether there was one.
    fn replace(&mut self, bucket: u32, old: u16, new: u16) -> bool {
        let mut prints = self.get(bucket);
        let Some(place) = prints.iter_mut().find(|print| **print == old) else { return false };
        *place = new;
        self.set(bucket, prints);
        true
    }

    /// `false`: there was no room, and one fingerprint is lost. The filter must be made anew.
    fn insert(&mut self, parameters: Parameters, hash: u64) -> bool {
        let mixed = mixed(hash, parameters.seed);
        let (mut bucket, mut print) = parameters.place(mixed);
        if self.replace(bucket, 0, print) {
            return true;
        }
        bucket = parameters.other(bucket, print);
        // Whom to push out is drawn from the hash, so that equal calls leave equal buckets.
        let mut draw = mixed | 1;
        for _ in 0..KICKS {
            if self.replace(bucket, 0, print) {
                return true;
            }
            draw ^= draw << 13;
            draw ^= draw >> 7;
            draw ^= draw << 17;
            let mut prints = self.get(bucket);
            std::mem::swap(&mut prints[(draw >> 32) as usize % PLACES], &mut print);
            self.set(bucket, prints);
            bucket = parameters.other(bucket, print);
        }
        false
    }
}

impl Buckets for [Bucket] {
    fn get(&self, bucket: u32) -> Bucket {
        self[bucket as usize]
    }

    fn set(&mut self, bucket: u32, prints: Bucket) {
        self[bucket as usize] = prints;
    }
}

/// Packed buckets. Without bytes no seed of the chain could place the keys: everything is "perhaps" then, until the
/// size changes.
#[derive(Debug, Clone)]
struct Table {
    bytes: Box<[u8]>,
    parameters: Parameters,
}

impl Table {
    fn pack(parameters: Parameters, open: &[Bucket]) -> Table {
        let mut table = Table { bytes: vec![0; parameters.table_bytes()].into(), parameters };
        open.iter().zip(0..).for_each(|(prints, bucket)| table.set(bucket, *prints));
        table
    }

    fn unsure(parameters: Parameters) -> Table {
        Table { bytes: Box::default(), parameters }
    }

    fn is_unsure(&self) -> bool {
        self.bytes.is_empty()
    }

    fn contains(&self, hash: u64) -> bool {
        let (bucket, print) = self.parameters.place(mixed(hash, self.parameters.seed));
        self.is_unsure()
            || self.get(bucket).contains(&print)
            || self.get(self.parameters.other(bucket, print)).contains(&print)
    }

    fn remove(&mut self, hash: u64) {
        let (bucket, print) = self.parameters.place(mixed(hash, self.parameters.seed));
        let _gone = self.is_unsure()
            || self.replace(bucket, print, 0)
            || self.replace(self.parameters.other(bucket, print), print, 0);
    }

    /// The eight bytes that hold a bucket: where they begin, and the bucket's first bit in them.
    fn window(&self, bucket: u32) -> (usize, usize) {
        let bit = bucket as usize * self.parameters.width();
        let start = (bit / 8).min(self.bytes.len() - 8);
        (start, bit - start * 8)
    }

    fn word(&self, start: usize) -> u64 {
        let bytes = self.bytes[start..].first_chunk().expect("a window of eight bytes lies inside the table");
        u64::from_le_bytes(*bytes)
    }
}

impl Buckets for Table {
    fn get(&self, bucket: u32) -> Bucket {
        let (start, bit) = self.window(bucket);
        let packed = self.word(start) >> bit;
        let high_bits = u32::from(self.parameters.bits) - NIBBLE;
        let nibbles = NIBBLES[(packed & 0xFFF) as usize];
        let mut high = packed >> RANK_BITS;
        let mut prints = [0; PLACES];
        for (place, print) in prints.iter_mut().enumerate() {
            *print = (high as u16 & ((1 << high_bits) - 1)) << NIBBLE | nibbles >> (NIBBLE as usize * place) & 0xF;
            high >>= high_bits;
        }
        prints
    }

    fn set(&mut self, bucket: u32, mut prints: Bucket) {
        sort_by_nibble(&mut prints);
        let high_bits = u32::from(self.parameters.bits) - NIBBLE;
        let high = prints.iter().rev().fold(0, |high, print| high << high_bits | u64::from(print >> NIBBLE));
        let packed = high << RANK_BITS | u64::from(rank(prints.map(|print| print & 0xF)));
        let (start, bit) = self.window(bucket);
        let mask = ((1 << self.parameters.width()) - 1) << bit;
        let word = self.word(start) & !mask | packed << bit;
        self.bytes[start..start + 8].copy_from_slice(&word.to_le_bytes());
    }
}

fn sort_by_nibble(prints: &mut Bucket) {
    for (low, high) in [(0, 1), (2, 3), (0, 2), (1, 3), (1, 2)] {
        if prints[low] & 0xF > prints[high] & 0xF {
            prints.swap(low, high);
        }
    }
}

/// Bits of a nibble, and of the rank of a sorted quadruple of them.
const NIBBLE: u32 = 4;
const RANK_BITS: u32 = 12;
/// Sorted quadruples of nibbles.
const QUADRUPLES: usize = 16 * 17 * 18 * 19 / 24;

/// The place of a sorted quadruple among all of them: a number in the combinatorial system, where `{a, b+1, c+2,
/// d+3}` is a set of four different numbers.
const fn rank([a, b, c, d]: Bucket) -> u16 {
    let d = d as u32;
    a + (b + 1) * b / 2 + (c + 2) * (c + 1) * c / 6 + ((d + 3) * (d + 2) * (d + 1) * d / 24) as u16
}

/// The quadruple of each rank, four bits each, the smallest lowest.
static NIBBLES: [u16; 1 << RANK_BITS] = {
    let mut table = [0; 1 << RANK_BITS];
    let mut d = 0;
    while d < 16 {
        let mut c = 0;
        while c <= d {
            let mut b = 0;
            while b <= c {
                let mut a = 0;
                while a <= b {
                    table[rank([a, b, c, d]) as usize] = a | b << 4 | c << 8 | d << 12;
                    a += 1;
                }
                b += 1;
            }
            c += 1;
        }
        d += 1;
    }
    table
};

const _: () = assert!(QUADRUPLES <= 1 << RANK_BITS, "every rank fits");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PERCENT: Precision = Precision(10);

    fn hash(number: u64) -> u64 {
        xxhash_rust::xxh3::xxh3_64_with_seed(&number.to_le_bytes(), 3)
    }

    /// A filter beside what its map holds.
    #[derive(Default)]
    struct Followed {
        keys: Vec<u64>,
        filter: UnitFilter,
    }

    impl Followed {
        fn of(keys: impl IntoIterator<Item = u64>) -> Followed {
            let mut followed = Followed::default();
            keys.into_iter().for_each(|hash| followed.add(hash));
            followed
        }

        fn add(&mut self, hash: u64) {
            self.keys.push(hash);
            let keys = &self.keys;
            self.filter.add(PERCENT, hash, keys.len(), || keys.iter().copied());
        }

        fn remove(&mut self, at: usize) {
            let hash = self.keys.swap_remove(at);
            let keys = &self.keys;
            self.filter.remove(PERCENT, hash, keys.len(), || keys.iter().copied());
        }

        fn missed(&self) -> usize {
            self.keys.iter().filter(|hash| !self.filter.might_contain(**hash)).count()
        }

        /// Fingerprints that are stored: one a key, unless it cannot tell keys apart.
        fn stored(&self) -> usize {
            match &self.filter.0 {
                Store::Few { len, .. } => usize::from(*len),
                Store::Table(table) if table.is_unsure() => self.keys.len(),
                Store::Table(table) => {
                    let buckets = (0..table.parameters.buckets).map(|bucket| table.get(bucket));
                    buckets.flatten().filter(|print| *print != 0).count()
                }
            }
        }
    }

    #[test]
    fn rates_have_their_precision() {
        for (rate, bits) in [(0.001, Some(13)), (0.005, Some(11)), (0.01, Some(10)), (0.03, Some(8)), (0.05, Some(8))] {
            assert_eq!(Precision::for_rate(rate).map(Precision::bits), bits, "{rate}");
        }
        for rate in [0.0, 0.000_999, 0.0501, 1.0, -0.01, f64::NAN, f64::INFINITY] {
            assert_eq!(Precision::for_rate(rate), None, "{rate}");
        }
    }

    /// If this fails, replicas of two versions would disagree about sizes, or answer differently about absent keys.
    #[test]
    fn sizes_and_answers_are_golden() {
        for (count, buckets) in [(7, 0), (8, 4), (13, 4), (14, 5), (100, 28), (610, 173), (10_000, 2_761)] {
            assert_eq!(Parameters::for_count(count, PERCENT).buckets, buckets, "{count}");
        }
        let filter = Followed::of((0..1000).map(hash)).filter;
        let perhaps: Vec<u64> = (1000..).filter(|number| filter.might_contain(hash(*number))).take(8).collect();
        assert_eq!(perhaps, GOLDEN_PERHAPS);
    }

    const GOLDEN_PERHAPS: [u64; 8] = [1336, 1609, 1672, 1743, 2002, 2254, 2281, 2325];

    #[test]
    fn every_bucket_is_packed_and_unpacked() {
        let mut draws = fastrand::Rng::with_seed(1);
        for bits in Precision::BITS {
            let parameters = Parameters { buckets: 37, bits, seed: 0 };
            let mut open = vec![[0; PLACES]; 37];
            let mut table = Table::pack(parameters, &open);
            for _ in 0..20_000 {
                let bucket = draws.u32(..37);
                let prints = [(); PLACES].map(|()| if draws.bool() { draws.u16(..1 << bits) } else { 0 });
                open.set(bucket, prints);
                table.set(bucket, prints);
                for bucket in [bucket, bucket.saturating_sub(1), (bucket + 1).min(36)] {
                    let [mut expected, mut got] = [open[bucket as usize], table.get(bucket)];
                    expected.sort_unstable();
                    got.sort_unstable();
                    assert_eq!(got, expected, "{bits} bits, bucket {bucket}");
                }
            }
        }
    }

    #[test]
    fn the_other_bucket_leads_back() {
        for buckets in [4, 5, 173, 4096, 1_000_003] {
            let parameters = Parameters { buckets, bits: 13, seed: 0 };
            for (bucket, print) in
                (0..buckets.min(300)).flat_map(|bucket| [1, 2, 777, 8191].map(|print| (bucket, print)))
            {
                let other = parameters.other(bucket, print);
                assert!(other < buckets);
                assert_eq!(parameters.other(other, print), bucket);
            }
        }
    }

    #[test]
    fn a_hundred_keys_with_one_hash_hide_no_other_key() {
        let mut followed = Followed::of((0..300).map(hash));
        (0..100).for_each(|_| followed.add(hash(7)));
        assert_eq!(followed.missed(), 0);
        assert!(followed.filter.might_contain(hash(12_345)), "nothing can be told apart any more");
        // The seeds that were tried do not make every further key try them all again.
        let seed = followed.filter.parameters().seed;
        followed.add(hash(1000));
        assert_eq!((followed.filter.parameters().seed, followed.missed()), (seed, 0));

        let mut draws = fastrand::Rng::with_seed(2);
        while followed.keys.len() > 40 {
            // The copies first, so that the others are alone in the end.
            let copy = followed.keys.iter().skip(8).position(|other| *other == hash(7)).map(|at| at + 8);
            followed.remove(copy.unwrap_or_else(|| draws.usize(..followed.keys.len())));
            assert_eq!(followed.missed(), 0);
        }
        let perhaps = (5000..15_000).filter(|number| followed.filter.might_contain(hash(*number))).count();
        assert!(perhaps < 150, "it tells keys apart again: {perhaps} of 10,000");
    }

    #[test]
    fn an_emptied_slot_costs_nothing() {
        let mut followed = Followed::of((0..5000).map(hash));
        let full = followed.filter.bytes();
        while !followed.keys.is_empty() {
            followed.remove(0);
            assert_eq!(followed.missed(), 0);
            let bound = followed.keys.len() * full / 5000 * 2 + 64;
            assert!(followed.filter.bytes() <= bound, "{} keys, {}", followed.keys.len(), followed.filter.bytes());
        }
        assert_eq!(followed.filter.bytes(), size_of::<UnitFilter>());
        assert!(!(0..5000).any(|number| followed.filter.might_contain(hash(number))));
    }

    #[test]
    fn parameters_that_fit_no_key_hide_no_key() {
        for parameters in [(0, 16, 0), (1, 8, 0), (4, 13, SEEDS), (4, 13, 255)] {
            let (buckets, bits, seed) = parameters;
            let keys = || (0..20).map(hash);
            let mut filter = UnitFilter::build(Parameters { buckets, bits, seed }, keys);
            assert!(keys().all(|hash| filter.might_contain(hash)), "{parameters:?}");
            filter.add(PERCENT, hash(20), 21, || (0..21).map(hash));
            assert!((0..21).all(|number| filter.might_contain(hash(number))), "{parameters:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Few different hashes, so that many keys collide; and many, so that the filter grows and shrinks.
        #[test]
        fn no_key_is_missed(
            different in prop_oneof![1..30u64, 1..2000u64],
            steps in prop::collection::vec((any::<bool>(), any::<u32>()), 0..1500),
            bias in 1..8u32,
        ) {
            let mut followed = Followed::default();
            for (step, (add, draw)) in steps.into_iter().enumerate() {
                if add || draw % 8 < bias || followed.keys.is_empty() {
                    followed.add(hash(u64::from(draw) % different));
                } else {
                    followed.remove(draw as usize % followed.keys.len());
                }
                if step % 50 == 0 {
                    prop_assert_eq!((followed.missed(), followed.stored()), (0, followed.keys.len()));
                }
            }
            prop_assert_eq!(followed.missed(), 0);
        }

        #[test]
        fn the_order_of_keys_leaves_no_trace(count in 0..3000u64, seed in any::<u64>()) {
            let mut keys: Vec<u64> = (0..count).map(hash).collect();
            let forward = Followed::of(keys.iter().copied());
            fastrand::Rng::with_seed(seed).shuffle(&mut keys);
            let shuffled = Followed::of(keys.iter().copied());
            let rebuilt = UnitFilter::build(forward.filter.parameters(), || keys.iter().copied());
            for filter in [&shuffled.filter, &rebuilt] {
                prop_assert!(keys.iter().all(|hash| filter.might_contain(*hash)));
                prop_assert_eq!(filter.parameters().buckets, forward.filter.parameters().buckets);
                // A seed is given up by one order and not by another now and then; only then may answers differ.
                if filter.parameters() == forward.filter.parameters() {
                    for stranger in (count..count + 5000).map(hash) {
                        prop_assert_eq!(filter.might_contain(stranger), forward.filter.might_contain(stranger));
                    }
                }
            }
        }
    }
}
