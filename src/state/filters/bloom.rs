//! A bloom filter as a value: what the BF commands work on.
//!
//! A chain of layers, each with its own capacity. When the newest is full another one is added, larger by the
//! expansion and with half the error rate, so that the rates of all layers together stay below the one asked for
//! (Almeida, Baquero, Preguiça and Hutchison, "Scalable Bloom Filters").
//!
//! Invariants:
//! - An item that was added is found.
//! - What is no layer's contents follows from shape and number of layers; replicas compute it alike, because only
//!   operations are used that IEEE 754 defines to the last bit.
//! - A layer holds at most as many items as its capacity.
//!
//! ```text
//! stored   format(1) rate f64 capacity u64 expansion u32 layers u16 (items u64)* bits of the 1st | of the 2nd | ...
//! ```

use super::{FILTER_BYTES_MAX, LAYER_COST, VALUE_COST, take};
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// A rate above this is taken as this.
pub const RATE_CAP: f64 = 0.25;
/// Most layers of a filter.
const LAYERS_MAX: usize = 256;
/// The format written, and the newest that is read.
const FORMAT: u8 = 1;
/// Part of the format: another seed would look for every stored item elsewhere.
const SEED: u64 = 0x4242;

/// The numbers that a filter is reserved with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BloomShape {
    /// Share of absent items that may be found; above 0, at most [`RATE_CAP`].
    rate: f64,
    /// Items that the first layer takes.
    capacity: u64,
    /// How many times more each layer takes than the one before it; 0 for a single layer.
    expansion: u32,
}

/// Size of one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Plan {
    capacity: u64,
    bits: u64,
    hashes: u32,
}

impl BloomShape {
    /// `None` if the rate is so small that no filter can have it. A rate above [`RATE_CAP`] becomes that.
    pub fn new(rate: f64, capacity: u64, expansion: u32) -> Option<BloomShape> {
        let shape = BloomShape { rate: if rate > RATE_CAP { RATE_CAP } else { rate }, capacity, expansion };
        shape.plan(0).map(|_| shape)
    }

    /// Bytes that a new filter of this shape takes.
    pub fn bytes(&self) -> u64 {
        self.plan(0).map_or(u64::MAX, |plan| plan.bits / 8)
    }

    /// What a new filter of this shape weighs.
    pub fn weight(&self) -> u64 {
        self.bytes().saturating_add((VALUE_COST + LAYER_COST) as u64)
    }

    pub fn expansion(&self) -> u32 {
        self.expansion
    }

    /// The size of a layer; `None` if there can be no such layer.
    fn plan(&self, layer: usize) -> Option<Plan> {
        let scales = self.expansion > 0;
        if layer >= LAYERS_MAX || (layer > 0 && !scales) {
            return None;
        }
        let growth = if layer == 0 { 1 } else { u64::from(self.expansion).checked_pow(layer as u32)? };
        let capacity = self.capacity.checked_mul(growth)?;
        // Halves are exact as long as the number is a normal one.
        let rate = (0..layer + usize::from(scales)).fold(self.rate, |rate, _| rate / 2.0);
        if !rate.is_normal() || rate <= 0.0 || capacity == 0 {
            return None;
        }
        let bits_per_item = -ln(rate) / (LN_2 * LN_2);
        let bits = (capacity as f64 * bits_per_item).ceil();
        // Far beyond any limit, and what is below can be counted.
        if bits > (1u64 << 62) as f64 {
            return None;
        }
        Some(Plan { capacity, bits: (bits as u64).next_multiple_of(64), hashes: (LN_2 * bits_per_item).ceil() as u32 })
    }
}

const LN_2: f64 = std::f64::consts::LN_2;

/// The natural logarithm of a normal number above 0, and not near 1. In operations that give the same bits on every machine, which
/// the library's logarithm does not promise: the size of a layer depends on it.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let exponent = (bits >> 52) as i32 - 1023;
    let mantissa = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    // 2 artanh(t); t is at most a third, so that the terms fall by a factor of nine.
    let series = (0..20).rev().fold(0.0, |sum, k| sum * t * t + 1.0 / f64::from(2 * k + 1));
    2.0 * t * series + f64::from(exponent) * LN_2
}

/// See the head of this file.
#[derive(Debug, Clone, PartialEq)]
pub struct BloomValue {
    shape: BloomShape,
    layers: Vec<Layer>,
}

/// The rate is a number, so equality is one.
impl Eq for BloomValue {}

#[derive(Debug, Clone, PartialEq)]
struct Layer {
    plan: Plan,
    items: u64,
    bytes: Vec<u8>,
}

/// Why an item cannot be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BloomFull {
    /// A filter of one layer holds its capacity.
    NoScaling,
    /// Another layer would be one too many, or too large.
    NoLayer,
}

/// Where an item's bits are, before that is cut to a layer's size.
#[derive(Clone, Copy)]
struct Trace {
    start: u64,
    step: u64,
}

impl Trace {
    fn of(item: &[u8]) -> Trace {
        let hash = xxh3_128_with_seed(item, SEED);
        Trace { start: hash as u64, step: (hash >> 64) as u64 | 1 }
    }

    fn bits(self, plan: Plan) -> impl Iterator<Item = u64> {
        let scaled = move |number: u64| ((u128::from(number) * u128::from(plan.bits)) >> 64) as u64;
        (0..plan.hashes).map(move |at| scaled(self.start.wrapping_add(self.step.wrapping_mul(u64::from(at)))))
    }
}

impl Layer {
    fn new(plan: Plan) -> Layer {
        Layer { plan, items: 0, bytes: vec![0; (plan.bits / 8) as usize] }
    }

    fn contains(&self, trace: Trace) -> bool {
        trace.bits(self.plan).all(|bit| self.bytes[(bit / 8) as usize] & 1 << (bit % 8) != 0)
    }
}

impl BloomValue {
    /// An empty filter.
    pub fn new(shape: BloomShape) -> BloomValue {
        let plan = shape.plan(0).expect("a shape is made only if its first layer can be");
        BloomValue { shape, layers: vec![Layer::new(plan)] }
    }

    pub fn shape(&self) -> BloomShape {
        self.shape
    }

    /// Items added, as far as they could be told apart.
    pub fn items(&self) -> u64 {
        self.layers.iter().map(|layer| layer.items).sum()
    }

    /// Items that fit without another layer.
    pub fn capacity(&self) -> u64 {
        self.layers.iter().map(|layer| layer.plan.capacity).sum()
    }

    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Bytes for the account.
    pub fn weight(&self) -> usize {
        VALUE_COST + self.layers.iter().map(|layer| LAYER_COST + layer.bytes.len()).sum::<usize>()
    }

    pub fn contains(&self, item: &[u8]) -> bool {
        let trace = Trace::of(item);
        self.layers.iter().rev().any(|layer| layer.contains(trace))
    }

    /// Whether adding the item would change anything; an error if there is no room for it.
    pub fn would_add(&self, item: &[u8]) -> Result<bool, BloomFull> {
        if self.contains(item) {
            return Ok(false);
        }
        let newest = &self.layers[self.layers.len() - 1];
        if newest.items < newest.plan.capacity {
            return Ok(true);
        }
        if self.shape.expansion == 0 {
            return Err(BloomFull::NoScaling);
        }
        self.next_plan().map(|_| true).ok_or(BloomFull::NoLayer)
    }

    fn next_plan(&self) -> Option<Plan> {
        let present: u64 = self.layers.iter().map(|layer| layer.bytes.len() as u64).sum();
        self.shape.plan(self.layers.len()).filter(|plan| present + plan.bits / 8 <= FILTER_BYTES_MAX)
    }

    /// Adds an item; whether it was new.
    pub fn add(&mut self, item: &[u8]) -> Result<bool, BloomFull> {
        if !self.would_add(item)? {
            return Ok(false);
        }
        let newest = &self.layers[self.layers.len() - 1];
        if newest.items >= newest.plan.capacity {
            let plan = self.next_plan().ok_or(BloomFull::NoLayer)?;
            self.layers.push(Layer::new(plan));
        }
        let newest = self.layers.last_mut().expect("a filter has a layer at least");
        for bit in Trace::of(item).bits(newest.plan) {
            newest.bytes[(bit / 8) as usize] |= 1 << (bit % 8);
        }
        newest.items += 1;
        Ok(true)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let BloomShape { rate, capacity, expansion } = self.shape;
        let mut out = Vec::with_capacity(self.weight());
        out.push(FORMAT);
        out.extend(rate.to_bits().to_le_bytes());
        out.extend(capacity.to_le_bytes());
        out.extend(expansion.to_le_bytes());
        out.extend((self.layers.len() as u16).to_le_bytes());
        self.layers.iter().for_each(|layer| out.extend(layer.items.to_le_bytes()));
        self.layers.iter().for_each(|layer| out.extend_from_slice(&layer.bytes));
        out
    }

    /// The value that is stored as these bytes; `None` if none is.
    pub fn from_bytes(mut bytes: &[u8]) -> Option<BloomValue> {
        let [FORMAT] = take(&mut bytes)? else { return None };
        let rate = f64::from_bits(u64::from_le_bytes(take(&mut bytes)?));
        let capacity = u64::from_le_bytes(take(&mut bytes)?);
        let expansion = u32::from_le_bytes(take(&mut bytes)?);
        let shape =
            BloomShape::new(rate, capacity, expansion).filter(|shape| shape.rate.to_bits() == rate.to_bits())?;
        let count = usize::from(u16::from_le_bytes(take(&mut bytes)?));
        let items = (0..count).map(|_| take(&mut bytes).map(u64::from_le_bytes)).collect::<Option<Vec<u64>>>()?;
        let mut layers = Vec::with_capacity(items.len());
        let mut present = 0;
        for (at, items) in items.into_iter().enumerate() {
            let plan = shape.plan(at)?;
            let (contents, rest) = bytes.split_at_checked((plan.bits / 8) as usize)?;
            present += plan.bits / 8;
            // Only the newest may have room, and one that was added has an item. An item sets a bit for each hash at most.
            let (newest, first) = (at + 1 == count, at == 0);
            let bits: u64 = contents.iter().map(|byte| u64::from(byte.count_ones())).sum();
            let sound = (if newest { items <= plan.capacity } else { items == plan.capacity })
                && (items > 0 || first)
                && bits <= items.saturating_mul(plan.hashes.into())
                && (bits > 0 || items == 0)
                && present <= FILTER_BYTES_MAX;
            if !sound {
                return None;
            }
            layers.push(Layer { plan, items, bytes: contents.to_vec() });
            bytes = rest;
        }
        (bytes.is_empty() && !layers.is_empty()).then_some(BloomValue { shape, layers })
    }

    #[cfg(test)]
    pub(super) fn layer_sizes(&self) -> Vec<(u64, u64, u32)> {
        self.layers.iter().map(|layer| (layer.plan.capacity, layer.plan.bits, layer.plan.hashes)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_one() {
        for x in [0.5, 0.25, 0.01, 0.005, 0.001, 1e-6, 1e-300, f64::MIN_POSITIVE, 0.123] {
            let (ours, theirs) = (ln(x), x.ln());
            assert!((ours - theirs).abs() <= theirs.abs() * 1e-14, "{x}: {ours} {theirs}");
        }
    }
}
