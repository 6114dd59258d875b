//! Places on the globe as whole numbers: 26 bits each of latitude and longitude, interleaved, so that a square of the map is
//! a range of numbers. And distances, and which squares a region touches.
//!
//! Pure arithmetic on degrees and metres. Latitudes end where the square map of the Mercator projection does.

/// Degrees: longitude and latitude.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    pub lon: f64,
    pub lat: f64,
}

pub const LON_MAX: f64 = 180.0;
pub const LAT_MAX: f64 = 85.05112878;
/// Bits of each coordinate.
const BITS: u32 = 26;
/// The globe's radius in metres, as Redis has it.
const RADIUS_M: f64 = 6_372_797.560856;
/// Most squares that a region is covered with.
const SQUARES_MAX: u64 = 16;

impl Place {
    /// None where the map has no such place.
    pub fn new(lon: f64, lat: f64) -> Option<Place> {
        let inside = lon.abs() <= LON_MAX && lat.abs() <= LAT_MAX;
        inside.then_some(Place { lon, lat })
    }

    /// The number of a place's square; less than 2^52, so that a score holds it.
    pub fn number(self) -> u64 {
        interleaved(cell(self.lat, LAT_MAX, BITS), cell(self.lon, LON_MAX, BITS))
    }

    /// The middle of a square. A number that no place has, as a score may be, lies beyond the map and is taken for its edge.
    pub fn of_number(number: u64) -> Place {
        let middle = |part: u32, max: f64| {
            let width = 2.0 * max;
            let low = -max + f64::from(part) / f64::from(1u32 << BITS) * width;
            let high = -max + (f64::from(part) + 1.0) / f64::from(1u32 << BITS) * width;
            ((low + high) / 2.0).clamp(-max, max)
        };
        Place { lon: middle(every_other(number >> 1), LON_MAX), lat: middle(every_other(number), LAT_MAX) }
    }

    /// Eleven characters that other systems know, too; the last is always the same.
    pub fn geohash(self) -> String {
        const ALPHABET: &[u8; 32] = b"0123456789bcdefghjkmnpqrstuvwxyz";
        let bits = interleaved(cell(self.lat, 90.0, BITS), cell(self.lon, LON_MAX, BITS));
        let letter = |at: u32| {
            let index = if at == 10 { 0 } else { (bits >> (2 * BITS - (at + 1) * 5)) & 31 };
            char::from(ALPHABET[index as usize])
        };
        (0..11).map(letter).collect()
    }

    /// Metres along the globe.
    pub fn distance(self, other: Place) -> f64 {
        let (lat, other_lat) = (self.lat.to_radians(), other.lat.to_radians());
        let v = ((other.lon.to_radians() - self.lon.to_radians()) / 2.0).sin();
        if v == 0.0 {
            return along_meridian(self.lat, other.lat);
        }
        let u = ((other_lat - lat) / 2.0).sin();
        2.0 * RADIUS_M * (u * u + lat.cos() * other_lat.cos() * v * v).sqrt().asin()
    }
}

fn along_meridian(lat: f64, other: f64) -> f64 {
    RADIUS_M * (other.to_radians() - lat.to_radians()).abs()
}

/// Which of 2^bits equal parts of -max to max a coordinate lies in.
fn cell(coordinate: f64, max: f64, bits: u32) -> u32 {
    let parts = 1u64 << bits;
    let part = (coordinate + max) / (2.0 * max) * parts as f64;
    (part as u64).min(parts - 1) as u32
}

/// Bits of `even` and `odd` in turn, from the lowest on.
fn interleaved(even: u32, odd: u32) -> u64 {
    spread(even) | spread(odd) << 1
}

fn spread(part: u32) -> u64 {
    (0..32).fold(0, |all, bit| all | (u64::from(part) >> bit & 1) << (2 * bit))
}

fn every_other(number: u64) -> u32 {
    (0..u32::BITS).fold(0, |all, bit| all | ((number >> (2 * bit) & 1) as u32) << bit)
}

/// What is searched, in metres.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    Circle { radius: f64 },
    Box { width: f64, height: f64 },
}

impl Shape {
    /// The distance of a place from the centre, if the place lies within.
    pub fn reaches(self, centre: Place, place: Place) -> Option<f64> {
        match self {
            Shape::Circle { radius } => Some(centre.distance(place)).filter(|distance| *distance <= radius),
            Shape::Box { width, height } => {
                let across = Place { lon: centre.lon, lat: place.lat };
                let inside =
                    along_meridian(centre.lat, place.lat) <= height / 2.0 && across.distance(place) <= width / 2.0;
                inside.then(|| centre.distance(place))
            }
        }
    }

    /// Ranges of numbers, rising, the ends belonging to them, that hold every place within; perhaps others too.
    pub fn ranges(self, centre: Place) -> Vec<(u64, u64)> {
        // No place within is farther away than this: first along the meridian, then across.
        let reach = match self {
            Shape::Circle { radius } => radius,
            Shape::Box { width, height } => (width + height) / 2.0,
        };
        let angle = reach / RADIUS_M * 1.000_001;
        let (south, north) = (centre.lat - angle.to_degrees(), centre.lat + angle.to_degrees());
        let lats = (south.max(-LAT_MAX), north.min(LAT_MAX));
        let sine = if angle < std::f64::consts::FRAC_PI_2 { angle.sin() / centre.lat.to_radians().cos() } else { 2.0 };
        let whole = [(-LON_MAX, LON_MAX)];
        // Around a pole every longitude is near.
        if north >= 90.0 || south <= -90.0 || sine >= 1.0 {
            return covered(lats, &whole);
        }
        let half = sine.asin().to_degrees();
        let (west, east) = (centre.lon - half, centre.lon + half);
        match (west < -LON_MAX, east > LON_MAX) {
            (false, false) => covered(lats, &[(west, east)]),
            (true, true) => covered(lats, &whole),
            (true, false) => covered(lats, &[(-LON_MAX, east), (west + 360.0, LON_MAX)]),
            (false, true) => covered(lats, &[(-LON_MAX, east - 360.0), (west, LON_MAX)]),
        }
    }
}

/// The squares that these latitudes and longitudes touch, as small as their number allows, next to each other put together.
fn covered(lats: (f64, f64), lons: &[(f64, f64)]) -> Vec<(u64, u64)> {
    let rows = |bits| (cell(lats.0, LAT_MAX, bits), cell(lats.1, LAT_MAX, bits));
    let columns = |lon: &(f64, f64), bits| (cell(lon.0, LON_MAX, bits), cell(lon.1, LON_MAX, bits));
    let count = |bits| {
        let (low, high) = rows(bits);
        let wide: u64 = lons.iter().map(|lon| columns(lon, bits)).map(|(low, high)| u64::from(high - low) + 1).sum();
        wide * (u64::from(high - low) + 1)
    };
    let bits = (1..=BITS).rev().find(|bits| count(*bits) <= SQUARES_MAX).unwrap_or(1);
    let shift = 2 * (BITS - bits);
    let (low, high) = rows(bits);
    let mut squares: Vec<u64> = Vec::new();
    for lon in lons {
        let (west, east) = columns(lon, bits);
        squares.extend((low..=high).flat_map(|row| (west..=east).map(move |column| interleaved(row, column))));
    }
    squares.sort_unstable();
    squares.dedup();
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for square in squares {
        let (first, last) = (square << shift, ((square + 1) << shift) - 1);
        match ranges.last_mut() {
            Some((_, end)) if *end + 1 == first => *end = last,
            _ => ranges.push((first, last)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_found_again_within_a_metre() {
        for (lon, lat) in
            [(13.361389, 38.115556), (-180.0, -LAT_MAX), (180.0, LAT_MAX), (0.0, 0.0), (-73.9454966, 40.747533)]
        {
            let place = Place::new(lon, lat).expect("on the map");
            assert!(place.distance(Place::of_number(place.number())) < 1.0, "{lon} {lat}");
        }
        assert_eq!(Place::new(180.1, 0.0), None);
        assert_eq!(Place::new(0.0, 85.1), None);
        assert_eq!(Place::new(f64::NAN, 0.0), None);
    }

    #[test]
    fn numbers_and_hashes_are_those_of_redis() {
        let number = |lon, lat| Place { lon, lat }.number();
        assert_eq!(number(-74.0131604, 40.7126674), 1791873972053020);
        assert_eq!(number(-73.7858139, 40.6428986), 1791895905559723);
        assert_eq!(Place::of_number(number(-5.6, 42.6)).geohash(), "ezs42e44yx0");
    }

    #[test]
    fn every_place_within_a_shape_lies_in_its_ranges() {
        let mut seed = 7u64;
        let mut random = move |from: f64, to: f64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            from + (seed >> 11) as f64 / (1u64 << 53) as f64 * (to - from)
        };
        let mut found = 0;
        for _ in 0..3000 {
            let centre = Place { lon: random(-180.0, 180.0), lat: random(-85.0, 85.0) };
            let size = 10f64.powf(random(1.0, 7.3));
            let shape = match random(0.0, 2.0) < 1.0 {
                true => Shape::Circle { radius: size },
                false => Shape::Box { width: size, height: size * random(0.01, 2.0) },
            };
            let ranges = shape.ranges(centre);
            assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0));
            let spread = (size / 100_000.0).min(180.0);
            for _ in 0..30 {
                let lat = random(centre.lat - spread, centre.lat + spread).clamp(-LAT_MAX, LAT_MAX);
                let lon = random(centre.lon - 3.0 * spread, centre.lon + 3.0 * spread);
                let lon = (lon + 540.0).rem_euclid(360.0) - 180.0;
                let place = Place { lon, lat };
                if shape.reaches(centre, place).is_some() {
                    found += 1;
                    let number = place.number();
                    assert!(
                        ranges.iter().any(|(low, high)| (*low..=*high).contains(&number)),
                        "{shape:?} {centre:?} {place:?}"
                    );
                }
            }
        }
        assert!(found > 1000, "{found}");
    }
}
