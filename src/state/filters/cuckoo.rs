//! A cuckoo filter as a value: what the CF commands work on.
//!
//! A chain of layers. An item has one fingerprint of eight bits and, in every layer, two buckets where that may lie;
//! either leads to the other. When no layer has room, a layer is added, so nothing that is stored moves at once.
//!
//! Invariants:
//! - An item that was inserted and not removed is found. Room is looked for before anything is changed
//!   ([`CuckooValue::plan`]), so an insertion that finds none leaves no trace.
//! - `items` of a layer is the number of its fingerprints; only the newest of several layers may be dropped, and it
//!   is dropped when it is empty.
//! - Equal calls leave equal bytes: where a fingerprint goes is decided by the item and the contents alone.
//! - A value that is being loaded answers nothing but [`CuckooValue::load`]: it would not know what is still to come.
//!
//! ```text
//! stored   head | loaded u64 | fingerprints of the 1st layer | of the 2nd | ...
//! head     format(1) buckets u32 bucket size(1) iterations u16 expansion u16 deletes u64 layers u16 (items u64)*
//! dump     position 0: "HCCF" head checksum        position p > 0: "HCCP" format(1) offset u64 items u64 deletes u64
//!          the next position is p + length          fingerprints checksum
//! ```
//!
//! Numbers are little-endian, a checksum is XXH3-64 of everything before it. `items` and `deletes` name the state
//! that a piece was taken from: they never come back to what they were, so pieces of two states do not fit together.

use super::{FILTER_BYTES_MAX, LAYER_COST, VALUE_COST, sealed, take, unsealed};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Most layers of a filter.
const LAYERS_MAX: usize = 32;
/// Most fingerprints in one piece of a dump.
pub const PIECE_MAX: usize = 1 << 20;
/// Fingerprints that one insertion looks at in search of one that can move, whatever the value's own bounds are.
const SEARCHED_MAX: usize = 4096;
/// The format written, and the newest that is read.
const FORMAT: u8 = 1;
const HEAD_MAGIC: &[u8] = b"HCCF";
const PIECE_MAGIC: &[u8] = b"HCCP";
/// Part of the format: another seed would look for every stored item elsewhere.
const SEED: u64 = 0x4343;

/// The numbers that a filter is reserved with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CuckooShape {
    /// Of the first layer; a power of two.
    buckets: u32,
    bucket_size: u8,
    max_iterations: u16,
    /// How many times larger each layer is than the one before it: a power of two, or 0 for a single layer.
    expansion: u16,
}

impl CuckooShape {
    /// `capacity` items, at most 2^30. Buckets and expansion are rounded up to powers of two.
    ///
    /// # Panics
    /// If the bucket size is 0 or the capacity or the expansion is beyond its power of two.
    pub fn new(capacity: u32, bucket_size: u8, max_iterations: u16, expansion: u16) -> CuckooShape {
        CuckooShape {
            buckets: (capacity / u32::from(bucket_size)).max(1).next_power_of_two(),
            bucket_size,
            max_iterations,
            expansion: if expansion == 0 { 0 } else { expansion.next_power_of_two() },
        }
    }

    /// Bytes that a new filter of this shape takes.
    pub fn bytes(&self) -> u64 {
        self.layer_bytes(0).unwrap_or(u64::MAX)
    }

    /// What a new filter of this shape weighs.
    pub fn weight(&self) -> u64 {
        self.bytes().saturating_add((VALUE_COST + LAYER_COST) as u64)
    }

    pub fn buckets(&self) -> u32 {
        self.buckets
    }

    pub fn bucket_size(&self) -> u8 {
        self.bucket_size
    }

    pub fn max_iterations(&self) -> u16 {
        self.max_iterations
    }

    pub fn expansion(&self) -> u16 {
        self.expansion
    }

    /// Length of a layer; `None` if there can be no such layer.
    fn layer_bytes(&self, layer: usize) -> Option<u64> {
        let growth = if layer == 0 { 1 } else { u64::from(self.expansion).checked_pow(layer as u32)? };
        let bytes = u64::from(self.buckets).checked_mul(growth)?.checked_mul(u64::from(self.bucket_size))?;
        (bytes > 0 && layer < LAYERS_MAX).then_some(bytes)
    }

    /// Lengths of so many layers; `None` if they are too many or too large.
    fn layout(&self, layers: usize) -> Option<Vec<usize>> {
        let lengths: Vec<usize> =
            (0..layers).map(|at| self.layer_bytes(at).map(|n| n as usize)).collect::<Option<_>>()?;
        let total = lengths.iter().try_fold(0u64, |sum, length| sum.checked_add(*length as u64))?;
        (total <= FILTER_BYTES_MAX).then_some(lengths)
    }
}

/// See the head of this file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CuckooValue {
    shape: CuckooShape,
    layers: Vec<Layer>,
    /// Items removed, ever.
    deletes: u64,
    /// Fingerprints that are there; fewer than there are places while the value is being loaded.
    loaded: u64,
    /// Items in the part of a layer that is loaded while the rest is missing. Follows from the rest, and is not stored.
    counted: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Layer {
    /// Bucket after bucket; 0 is an empty place.
    prints: Vec<u8>,
    items: u64,
}

/// An item's fingerprint and its bucket, before that is cut to a layer's size.
#[derive(Clone, Copy)]
struct Trace {
    print: u8,
    bucket: u64,
}

impl Trace {
    fn of(item: &[u8]) -> Trace {
        let hash = xxh3_64_with_seed(item, SEED);
        Trace { print: 1 + (((hash >> 32) * 255) >> 32) as u8, bucket: hash & u64::from(u32::MAX) }
    }

    /// The other bucket; its own inverse, in every layer.
    fn other(self) -> u64 {
        other(self.bucket, self.print)
    }
}

fn other(bucket: u64, print: u8) -> u64 {
    let spread = u64::from(print) * 0x9E37_79B1;
    bucket ^ spread ^ spread >> 13
}

/// Why an item cannot be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CuckooFull {
    /// A filter of one layer has no room.
    NoRoom,
    /// There is no room and another layer would be one too many, or too large.
    NoLayer,
}

/// How an item will be added: valid until the value changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Insertion {
    print: u8,
    layer: usize,
    /// Places of the layer: the first is empty, and each takes what the next one holds. The last takes the item.
    moves: Vec<usize>,
}

impl CuckooValue {
    /// An empty filter.
    pub fn new(shape: CuckooShape) -> CuckooValue {
        let first = Layer { prints: vec![0; shape.bytes() as usize], items: 0 };
        CuckooValue { shape, loaded: first.prints.len() as u64, layers: vec![first], deletes: 0, counted: 0 }
    }

    pub fn shape(&self) -> CuckooShape {
        self.shape
    }

    pub fn items(&self) -> u64 {
        self.layers.iter().map(|layer| layer.items).sum()
    }

    /// Items removed, ever.
    pub fn deletes(&self) -> u64 {
        self.deletes
    }

    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Bytes for the account.
    pub fn weight(&self) -> usize {
        VALUE_COST + self.layers.iter().map(|layer| LAYER_COST + layer.prints.len()).sum::<usize>()
    }

    /// Whether pieces of a dump are still missing.
    pub fn is_loading(&self) -> bool {
        self.loaded < self.places()
    }

    fn places(&self) -> u64 {
        self.layers.iter().map(|layer| layer.prints.len() as u64).sum()
    }

    pub fn contains(&self, item: &[u8]) -> bool {
        let trace = Trace::of(item);
        self.layers.iter().any(|layer| layer.find(self.shape, trace, trace.print).is_some())
    }

    /// How often the item may have been added.
    pub fn count(&self, item: &[u8]) -> u64 {
        let trace = Trace::of(item);
        self.layers.iter().map(|layer| layer.count(self.shape, trace)).sum()
    }

    /// Looks for room, in the newest layer first.
    pub fn plan(&self, item: &[u8]) -> Result<Insertion, CuckooFull> {
        let trace = Trace::of(item);
        for (at, layer) in self.layers.iter().enumerate().rev() {
            if let Some(place) = layer.find(self.shape, trace, 0) {
                return Ok(Insertion { print: trace.print, layer: at, moves: vec![place] });
            }
        }
        let newest = self.layers.len() - 1;
        if let Some(moves) = self.layers[newest].make_room(self.shape, trace) {
            return Ok(Insertion { print: trace.print, layer: newest, moves });
        }
        if self.shape.expansion == 0 {
            return Err(CuckooFull::NoRoom);
        }
        let lengths = self.shape.layout(newest + 2).ok_or(CuckooFull::NoLayer)?;
        let buckets = lengths[newest + 1] / usize::from(self.shape.bucket_size);
        let place = (trace.bucket as usize & (buckets - 1)) * usize::from(self.shape.bucket_size);
        Ok(Insertion { print: trace.print, layer: newest + 1, moves: vec![place] })
    }

    /// Does what was planned.
    pub fn insert(&mut self, plan: &Insertion) {
        if plan.layer == self.layers.len() {
            let length = self.shape.layer_bytes(plan.layer).expect("the plan found that there can be such a layer");
            self.layers.push(Layer { prints: vec![0; length as usize], items: 0 });
            self.loaded += length;
        }
        let layer = &mut self.layers[plan.layer];
        for pair in plan.moves.windows(2) {
            layer.prints[pair[0]] = layer.prints[pair[1]];
        }
        let last = plan.moves.last().expect("a plan names the place of its item");
        layer.prints[*last] = plan.print;
        layer.items += 1;
    }

    /// Removes one copy of an item; whether there was one. Removing what was never added may remove another item.
    pub fn remove(&mut self, item: &[u8]) -> bool {
        let trace = Trace::of(item);
        let shape = self.shape;
        let found = self.layers.iter_mut().rev().find_map(|layer| {
            let place = layer.find(shape, trace, trace.print)?;
            Some((layer, place))
        });
        let Some((layer, place)) = found else { return false };
        layer.prints[place] = 0;
        layer.items -= 1;
        self.deletes = self.deletes.saturating_add(1);
        while self.layers.len() > 1
            && let Some(empty) = self.layers.pop_if(|layer| layer.items == 0)
        {
            self.loaded -= empty.prints.len() as u64;
        }
        true
    }
}

/// The places of a bucket.
type Bucket = std::ops::Range<usize>;

impl Layer {
    /// The places of a bucket.
    fn bucket(&self, shape: CuckooShape, bucket: u64) -> Bucket {
        let size = usize::from(shape.bucket_size);
        let first = (bucket as usize & (self.prints.len() / size - 1)) * size;
        first..first + size
    }

    fn find_in(&self, bucket: Bucket, print: u8) -> Option<usize> {
        let first = bucket.start;
        self.prints[bucket].iter().position(|stored| *stored == print).map(|at| first + at)
    }

    /// The first place in the item's two buckets that holds `print`.
    fn find(&self, shape: CuckooShape, trace: Trace, print: u8) -> Option<usize> {
        self.find_in(self.bucket(shape, trace.bucket), print)
            .or_else(|| self.find_in(self.bucket(shape, trace.other()), print))
    }

    fn count(&self, shape: CuckooShape, trace: Trace) -> u64 {
        let (first, second) = (self.bucket(shape, trace.bucket), self.bucket(shape, trace.other()));
        let count = |bucket: Bucket| self.prints[bucket].iter().filter(|stored| **stored == trace.print).count() as u64;
        count(first.clone()) + if first == second { 0 } else { count(second) }
    }

    /// The shortest way to free a place in the item's full buckets: breadth first, through at most as many buckets as
    /// the shape allows. Being the shortest it comes to no place twice. See [`Insertion`].
    fn make_room(&self, shape: CuckooShape, trace: Trace) -> Option<Vec<usize>> {
        let size = usize::from(shape.bucket_size);
        // Each bucket with the place that leads there, and with the index of the bucket which that place is in.
        let mut reached: Vec<(Bucket, Option<(usize, usize)>)> =
            [trace.bucket, trace.other()].map(|bucket| (self.bucket(shape, bucket), None)).into();
        let (mut at, mut searched) = (0, 0);
        while let Some((bucket, _)) = reached.get(at).cloned() {
            for place in bucket {
                let next = self.bucket(shape, other((place / size) as u64, self.prints[place]));
                if let Some(free) = self.find_in(next.clone(), 0) {
                    let mut moves = vec![free, place];
                    let mut from = at;
                    while let (_, Some((earlier, place))) = reached[from] {
                        moves.push(place);
                        from = earlier;
                    }
                    return Some(moves);
                }
                searched += 1;
                if searched == SEARCHED_MAX {
                    return None;
                }
                if reached.len() < usize::from(shape.max_iterations) {
                    reached.push((next, Some((at, place))));
                }
            }
            at += 1;
        }
        None
    }
}

// -- Bytes

/// Why a piece of a dump is refused. The value is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("the header is damaged, or of a newer version")]
    Header,
    #[error("the filter takes more than {FILTER_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the piece is damaged, of another dump, or not the next one")]
    Piece,
}

/// One answer of a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where to go on. It also goes with the piece when that is loaded.
    pub next: u64,
    pub bytes: Vec<u8>,
}

impl CuckooValue {
    fn head(&self) -> Vec<u8> {
        let shape = &self.shape;
        let mut out = vec![FORMAT];
        out.extend(shape.buckets.to_le_bytes());
        out.push(shape.bucket_size);
        out.extend(shape.max_iterations.to_le_bytes());
        out.extend(shape.expansion.to_le_bytes());
        out.extend(self.deletes.to_le_bytes());
        out.extend((self.layers.len() as u16).to_le_bytes());
        self.layers.iter().for_each(|layer| out.extend(layer.items.to_le_bytes()));
        out
    }

    /// Bytes of a filter that a header describes, without making it; `None` if it is no header.
    pub fn header_bytes(header: &[u8]) -> Option<u64> {
        let (shape, _, items) = read_head(&mut unsealed(header, HEAD_MAGIC)?)?;
        (0..items.len()).try_fold(0u64, |sum, layer| sum.checked_add(shape.layer_bytes(layer)?))
    }

    /// The value that is stored as these bytes; `None` if none is.
    pub fn from_bytes(mut bytes: &[u8]) -> Option<CuckooValue> {
        let head = read_head(&mut bytes)?;
        let loaded = u64::from_le_bytes(take(&mut bytes)?);
        // Room is made for what is there, not for what is announced.
        if head.0.layout(head.2.len())?.into_iter().sum::<usize>() != bytes.len() {
            return None;
        }
        let mut value = CuckooValue { loaded, ..CuckooValue::from_head(head)? };
        for layer in &mut value.layers {
            let (prints, rest) = bytes.split_at_checked(layer.prints.len())?;
            layer.prints.copy_from_slice(prints);
            bytes = rest;
        }
        let (complete, missing) = match value.locate(value.loaded) {
            Some((layer, at)) => {
                let (there, missing) = value.layers[layer].prints.split_at(at);
                value.counted = filled(there);
                if value.counted > value.layers[layer].items || filled(missing) > 0 {
                    return None;
                }
                (&value.layers[..layer], &value.layers[layer + 1..])
            }
            None if value.loaded == value.places() => (&value.layers[..], &[][..]),
            None => return None,
        };
        let sound = complete.iter().all(|layer| layer.items == filled(&layer.prints))
            && missing.iter().all(|layer| filled(&layer.prints) == 0);
        sound.then_some(value)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.head();
        out.reserve_exact(self.places() as usize + 8);
        out.extend(self.loaded.to_le_bytes());
        self.layers.iter().for_each(|layer| out.extend_from_slice(&layer.prints));
        out
    }

    /// An empty filter of the layers that a head describes.
    fn from_head((shape, deletes, items): Head) -> Option<CuckooValue> {
        let lengths = shape.layout(items.len())?;
        if items.iter().zip(&lengths).any(|(items, length)| *items > *length as u64) {
            return None;
        }
        let layer = |(length, items)| Layer { prints: vec![0; length], items };
        let layers: Vec<Layer> = lengths.into_iter().zip(items).map(layer).collect();
        Some(CuckooValue { shape, layers, deletes, loaded: 0, counted: 0 })
    }

    /// The piece of a dump at a position: 0 is the header, the others follow from the pieces. `None` behind the end,
    /// and for an empty filter, of which there is nothing to tell.
    pub fn dump(&self, position: u64) -> Option<Piece> {
        if self.items() == 0 {
            return None;
        }
        let Some(offset) = position.checked_sub(1) else {
            return Some(Piece { next: 1, bytes: sealed([HEAD_MAGIC, &self.head()].concat()) });
        };
        let (layer, at) = self.locate(offset)?;
        let prints = &self.layers[layer].prints[at..];
        let prints = &prints[..prints.len().min(PIECE_MAX)];
        let mut bytes = Vec::with_capacity(prints.len() + 40);
        bytes.extend_from_slice(PIECE_MAGIC);
        bytes.push(FORMAT);
        [offset, self.items(), self.deletes].iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        bytes.extend_from_slice(prints);
        Some(Piece { next: position + prints.len() as u64, bytes: sealed(bytes) })
    }

    /// The layer of an offset into all fingerprints, and the place in it.
    fn locate(&self, mut offset: u64) -> Option<(usize, usize)> {
        for (at, layer) in self.layers.iter().enumerate() {
            let length = layer.prints.len() as u64;
            if offset < length {
                return Some((at, offset as usize));
            }
            offset -= length;
        }
        None
    }

    /// The value that a dump's header describes, still to be loaded.
    pub fn from_header(header: &[u8]) -> Result<CuckooValue, LoadError> {
        let mut rest = unsealed(header, HEAD_MAGIC).ok_or(LoadError::Header)?;
        let head = read_head(&mut rest).filter(|_| rest.is_empty()).ok_or(LoadError::Header)?;
        if head.0.layout(head.2.len()).is_none() {
            return Err(LoadError::TooLarge);
        }
        CuckooValue::from_head(head).ok_or(LoadError::Header)
    }

    /// Checks a piece: `Ok(true)` if it is the next, `Ok(false)` if it is there already, as when a client repeats what
    /// it had no answer to.
    pub fn check_piece(&self, next: u64, piece: &[u8]) -> Result<bool, LoadError> {
        let (offset, prints) = self.read_piece(piece).ok_or(LoadError::Piece)?;
        let (layer, at) = self.locate(offset).ok_or(LoadError::Piece)?;
        let layer = &self.layers[layer];
        let place = layer.prints.get(at..at + prints.len()).ok_or(LoadError::Piece)?;
        if next.checked_sub(1) != Some(offset + prints.len() as u64) {
            return Err(LoadError::Piece);
        }
        if offset < self.loaded {
            return if place == prints { Ok(false) } else { Err(LoadError::Piece) };
        }
        // With its last piece a layer must hold what the header said.
        let is_last = at + prints.len() == layer.prints.len();
        let sound = !is_last || self.counted + filled(prints) == layer.items;
        if offset == self.loaded && sound { Ok(true) } else { Err(LoadError::Piece) }
    }

    /// Takes the next piece of a dump.
    pub fn load(&mut self, next: u64, piece: &[u8]) -> Result<(), LoadError> {
        if self.check_piece(next, piece)? {
            let (offset, prints) = self.read_piece(piece).ok_or(LoadError::Piece)?;
            let (layer, at) = self.locate(offset).ok_or(LoadError::Piece)?;
            let layer = &mut self.layers[layer].prints;
            layer[at..at + prints.len()].copy_from_slice(prints);
            self.counted = if at + prints.len() == layer.len() { 0 } else { self.counted + filled(prints) };
            self.loaded += prints.len() as u64;
        }
        Ok(())
    }

    /// Offset and fingerprints of a piece that was taken from this state.
    fn read_piece<'a>(&self, piece: &'a [u8]) -> Option<(u64, &'a [u8])> {
        let mut rest = unsealed(piece, PIECE_MAGIC)?;
        let [format] = take(&mut rest)?;
        let offset = u64::from_le_bytes(take(&mut rest)?);
        let items = u64::from_le_bytes(take(&mut rest)?);
        let deletes = u64::from_le_bytes(take(&mut rest)?);
        let fits = !rest.is_empty() && rest.len() <= PIECE_MAX;
        let ours = format == FORMAT && (items, deletes) == (self.items(), self.deletes);
        (fits && ours).then_some((offset, rest))
    }
}

/// Shape, deletes, and the items of each layer.
type Head = (CuckooShape, u64, Vec<u64>);

/// Takes a head off the bytes; `None` if there is none or no value can have it.
fn read_head(bytes: &mut &[u8]) -> Option<Head> {
    let [format] = take(bytes)?;
    let shape = CuckooShape {
        buckets: u32::from_le_bytes(take(bytes)?),
        bucket_size: u8::from_le_bytes(take(bytes)?),
        max_iterations: u16::from_le_bytes(take(bytes)?),
        expansion: u16::from_le_bytes(take(bytes)?),
    };
    let deletes = u64::from_le_bytes(take(bytes)?);
    let layers = usize::from(u16::from_le_bytes(take(bytes)?));
    let sound = format == FORMAT
        && shape.buckets.is_power_of_two()
        && shape.bucket_size > 0
        && shape.max_iterations > 0
        && (shape.expansion == 0 || shape.expansion.is_power_of_two())
        && (1..=LAYERS_MAX).contains(&layers)
        && (layers == 1 || shape.expansion > 0);
    if !sound {
        return None;
    }
    let items = (0..layers).map(|_| take(bytes).map(u64::from_le_bytes)).collect::<Option<Vec<u64>>>()?;
    // An empty one of several was dropped.
    let kept = layers == 1 || items.last().is_some_and(|items| *items > 0);
    kept.then_some((shape, deletes, items))
}

/// Places that are not empty.
fn filled(prints: &[u8]) -> u64 {
    prints.iter().filter(|print| **print != 0).count() as u64
}
