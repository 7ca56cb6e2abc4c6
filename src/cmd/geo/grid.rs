//! The grid behind geo scores: 26 bits of latitude and longitude each, interleaved into 52 bits, so
//! that a cell of any size is a range of scores. Constants and the order of the arithmetic are those
//! of Redis, because scores and digits have to be equal.

use std::ops::Range;

/// A place in degrees.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Point {
    pub lon: f64,
    pub lat: f64,
}

/// An interval of degrees.
#[derive(Clone, Copy, Debug)]
struct Span {
    min: f64,
    max: f64,
}

const LON: Span = Span {
    min: -180.0,
    max: 180.0,
};
/// The latitudes of the square web map.
const LAT: Span = Span {
    min: -85.05112878,
    max: 85.05112878,
};
/// The latitudes of the geohashes that others exchange.
const LAT_WHOLE: Span = Span {
    min: -90.0,
    max: 90.0,
};

/// Bits per axis of a score.
const STEPS: u32 = 26;
const LAT_BITS: u64 = 0x5555_5555_5555_5555;
const LON_BITS: u64 = 0xaaaa_aaaa_aaaa_aaaa;
const EARTH_RADIUS_METERS: f64 = 6372797.560856;
const MERCATOR_MAX: f64 = 20037726.37;
const DEGREE: f64 = std::f64::consts::PI / 180.0;
const GEOHASH_DIGITS: &[u8; 32] = b"0123456789bcdefghjkmnpqrstuvwxyz";

impl Point {
    /// Is it on the map?
    pub fn is_valid(self) -> bool {
        (LON.min..=LON.max).contains(&self.lon) && (LAT.min..=LAT.max).contains(&self.lat)
    }

    /// The score that stands for it.
    pub fn score(self) -> f64 {
        Cell::around(self, STEPS, LAT).bits as f64
    }

    /// The middle of the smallest cell that a score stands for.
    pub fn of_score(score: f64) -> Point {
        let cell = Cell {
            bits: bits_of(score),
            steps: STEPS,
        };
        let (lon, lat) = cell.area();
        Point {
            lon: ((lon.min + lon.max) / 2.0).clamp(LON.min, LON.max),
            lat: ((lat.min + lat.max) / 2.0).clamp(LAT.min, LAT.max),
        }
    }

    /// The geohash text of eleven digits; the last would need more bits than there are and is `0`.
    pub fn geohash(self) -> [u8; 11] {
        let bits = Cell::around(self, STEPS, LAT_WHOLE).bits;
        let mut text = [b'0'; 11];
        for (at, digit) in text.iter_mut().take(10).enumerate() {
            let five = bits >> (52 - 5 * (at + 1)) & 0x1f;
            *digit = GEOHASH_DIGITS[five as usize];
        }
        text
    }

    /// Meters to another point along the surface of a sphere.
    pub fn distance(self, other: Point) -> f64 {
        let v = ((other.lon * DEGREE - self.lon * DEGREE) / 2.0).sin();
        if v == 0.0 {
            return lat_distance(self.lat, other.lat);
        }
        let (lat, other_lat) = (self.lat * DEGREE, other.lat * DEGREE);
        let u = ((other_lat - lat) / 2.0).sin();
        let a = u * u + lat.cos() * other_lat.cos() * v * v;
        2.0 * EARTH_RADIUS_METERS * a.sqrt().asin()
    }
}

fn lat_distance(lat: f64, other: f64) -> f64 {
    EARTH_RADIUS_METERS * (other * DEGREE - lat * DEGREE).abs()
}

/// The area of a search.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub center: Point,
    pub extent: Extent,
    /// Meters per unit of the extent.
    pub unit: f64,
}

/// How far a search reaches, in units of its shape.
#[derive(Clone, Copy, Debug)]
pub enum Extent {
    Radius(f64),
    Box { width: f64, height: f64 },
}

impl Shape {
    /// The distance in meters of a point from the center, if it is inside.
    pub fn reaches(&self, point: Point) -> Option<f64> {
        match self.extent {
            Extent::Radius(radius) => {
                let distance = self.center.distance(point);
                // Not the opposite comparison: what is no number is inside, as in Redis.
                let outside = distance > radius * self.unit;
                (!outside).then_some(distance)
            }
            Extent::Box { width, height } => {
                if lat_distance(point.lat, self.center.lat) > height * self.unit / 2.0 {
                    return None;
                }
                let beside = Point {
                    lon: self.center.lon,
                    lat: point.lat,
                };
                if point.distance(beside) > width * self.unit / 2.0 {
                    return None;
                }
                Some(self.center.distance(point))
            }
        }
    }

    /// Ranges of scores (the end excluded) that cover the shape, in the order of the search: the cell
    /// of the center and those around it that the shape may reach.
    pub fn cover(&self) -> Vec<Range<f64>> {
        let (lon, lat) = self.bounds();
        let mut steps = steps_for(self.radius_meters(), self.center.lat);
        let mut cell = Cell::around(self.center, steps, LAT);
        // Near the edge of a cell the estimate may be too fine for the neighbours to cover all.
        let short = cell.north().area().1.max < lat.max
            || cell.south().area().1.min > lat.min
            || cell.east().area().0.max < lon.max
            || cell.west().area().0.min > lon.min;
        if steps > 1 && short {
            steps -= 1;
            cell = Cell::around(self.center, steps, LAT);
        }
        let (cell_lon, cell_lat) = cell.area();
        // A cell that reaches beyond the shape needs no neighbour on that side. Bounds that are no
        // numbers, near the poles, leave all neighbours in.
        let beyond = |reaches: bool| steps >= 2 && reaches;
        let north = !beyond(cell_lat.max > lat.max);
        let south = !beyond(cell_lat.min < lat.min);
        let east = !beyond(cell_lon.max > lon.max);
        let west = !beyond(cell_lon.min < lon.min);
        let cells = [
            (true, cell),
            (north, cell.north()),
            (south, cell.south()),
            (east, cell.east()),
            (west, cell.west()),
            (north && east, cell.north().east()),
            (north && west, cell.north().west()),
            (south && east, cell.south().east()),
            (south && west, cell.south().west()),
        ];
        let mut ranges = Vec::with_capacity(9);
        // Cells of huge searches meet themselves around the globe; the first is compared with none.
        let mut last = None;
        for (at, (wanted, cell)) in cells.into_iter().enumerate() {
            if !wanted || last == Some(cell.bits) {
                continue;
            }
            ranges.push(cell.scores());
            last = (at > 0).then_some(cell.bits);
        }
        ranges
    }

    fn radius_meters(&self) -> f64 {
        let radius = match self.extent {
            Extent::Radius(radius) => radius,
            Extent::Box { width, height } => {
                let (x, y) = (width / 2.0, height / 2.0);
                (x * x + y * y).sqrt()
            }
        };
        radius * self.unit
    }

    /// Longitudes and latitudes of a box around the shape. A degree of longitude is shorter towards
    /// the poles, so the side that is nearer to a pole decides.
    fn bounds(&self) -> (Span, Span) {
        let (width, height) = match self.extent {
            Extent::Radius(radius) => (radius, radius),
            Extent::Box { width, height } => (width / 2.0, height / 2.0),
        };
        let (width, height) = (width * self.unit, height * self.unit);
        let Point { lon, lat } = self.center;
        let lat_delta = height / EARTH_RADIUS_METERS / DEGREE;
        let edge = if lat < 0.0 {
            lat - lat_delta
        } else {
            lat + lat_delta
        };
        let lon_delta = width / EARTH_RADIUS_METERS / (edge * DEGREE).cos() / DEGREE;
        (
            Span {
                min: lon - lon_delta,
                max: lon + lon_delta,
            },
            Span {
                min: lat - lat_delta,
                max: lat + lat_delta,
            },
        )
    }
}

/// Bits per axis of cells about as large as a search.
fn steps_for(mut radius_meters: f64, lat: f64) -> u32 {
    if radius_meters == 0.0 {
        return STEPS;
    }
    let mut steps = 1i32;
    while radius_meters < MERCATOR_MAX {
        radius_meters *= 2.0;
        steps += 1;
    }
    // Two coarser, so that the neighbours cover most searches; more towards the poles.
    steps -= 2;
    if !(-66.0..=66.0).contains(&lat) {
        steps -= 1;
        if !(-80.0..=80.0).contains(&lat) {
            steps -= 1;
        }
    }
    steps.clamp(1, STEPS as i32) as u32
}

/// A score as 64 bits. No point has a score that is negative or above 52 bits, but a sorted set may; such
/// are taken as the conversion of the processor takes them on which Redis mostly runs.
fn bits_of(score: f64) -> u64 {
    const HALF: f64 = (1u64 << 63) as f64;
    let signed = |value: f64| {
        if (-HALF..HALF).contains(&value) {
            value as i64 as u64
        } else {
            1 << 63
        }
    };
    if score < HALF {
        signed(score)
    } else {
        signed(score - HALF) ^ 1 << 63
    }
}

/// A cell: the high bits of the scores in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cell {
    bits: u64,
    steps: u32,
}

impl Cell {
    fn around(point: Point, steps: u32, latitudes: Span) -> Cell {
        let index = |value: f64, span: Span| {
            let share = (value - span.min) / (span.max - span.min);
            (share * (1u64 << steps) as f64) as u32
        };
        let (lat, lon) = (index(point.lat, latitudes), index(point.lon, LON));
        Cell {
            bits: spread(lat) | spread(lon) << 1,
            steps,
        }
    }

    /// Its longitudes and latitudes.
    fn area(self) -> (Span, Span) {
        let cells = (1u64 << self.steps) as f64;
        let side = |index: u32, span: Span| {
            let scale = span.max - span.min;
            Span {
                min: span.min + f64::from(index) / cells * scale,
                max: span.min + f64::from(index.wrapping_add(1)) / cells * scale,
            }
        };
        (
            side(gather(self.bits >> 1), LON),
            side(gather(self.bits), LAT),
        )
    }

    /// The scores in it.
    fn scores(self) -> Range<f64> {
        let shift = 2 * (STEPS - self.steps);
        (self.bits << shift) as f64..((self.bits + 1) << shift) as f64
    }

    fn north(self) -> Cell {
        self.step(LAT_BITS, 1)
    }

    fn south(self) -> Cell {
        self.step(LAT_BITS, -1)
    }

    fn east(self) -> Cell {
        self.step(LON_BITS, 1)
    }

    fn west(self) -> Cell {
        self.step(LON_BITS, -1)
    }

    /// Adds to the index of one axis, around the globe. With ones in the bits of the other axis a carry
    /// runs through them, and a borrow through zeros.
    fn step(self, axis: u64, by: i8) -> Cell {
        let used = u64::MAX >> (64 - 2 * self.steps);
        let (mine, others) = (axis & used, !axis & used);
        let index = if by > 0 {
            (self.bits & mine | others).wrapping_add(1)
        } else {
            // The lowest bit of the axis.
            let one = axis & axis.wrapping_neg();
            (self.bits & mine).wrapping_sub(one)
        };
        Cell {
            bits: index & mine | self.bits & others,
            steps: self.steps,
        }
    }
}

/// Puts the bits of a number at every second place.
fn spread(value: u32) -> u64 {
    let mut bits = u64::from(value);
    for (shift, mask) in [
        (16, 0x0000_ffff_0000_ffff),
        (8, 0x00ff_00ff_00ff_00ff),
        (4, 0x0f0f_0f0f_0f0f_0f0f),
        (2, 0x3333_3333_3333_3333),
        (1, LAT_BITS),
    ] {
        bits = (bits | bits << shift) & mask;
    }
    bits
}

/// Takes every second bit, from the lowest one on.
fn gather(bits: u64) -> u32 {
    let mut value = bits & LAT_BITS;
    for (shift, mask) in [
        (1, 0x3333_3333_3333_3333),
        (2, 0x0f0f_0f0f_0f0f_0f0f),
        (4, 0x00ff_00ff_00ff_00ff),
        (8, 0x0000_ffff_0000_ffff),
        (16, 0x0000_0000_ffff_ffff),
    ] {
        value = (value | value >> shift) & mask;
    }
    value as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bits_are_spread_and_gathered(value in any::<u32>()) {
            prop_assert_eq!(gather(spread(value)), value);
            prop_assert_eq!(spread(value) & LON_BITS, 0);
        }

        #[test]
        fn neighbours_lie_beside_a_cell(lon in 0u32..1 << 10, lat in 0u32..1 << 10) {
            let cell = Cell { bits: spread(lat) | spread(lon) << 1, steps: 10 };
            let at = |cell: Cell| (gather(cell.bits >> 1), gather(cell.bits));
            let wrap = |index: u32| index & 1023;
            prop_assert_eq!(at(cell.north()), (lon, wrap(lat + 1)));
            prop_assert_eq!(at(cell.south()), (lon, wrap(lat.wrapping_sub(1))));
            prop_assert_eq!(at(cell.east()), (wrap(lon + 1), lat));
            prop_assert_eq!(at(cell.west()), (wrap(lon.wrapping_sub(1)), lat));
        }

        #[test]
        fn a_score_is_near_its_point(lon in -180.0..180.0f64, lat in -85.05..85.05f64) {
            let point = Point { lon, lat };
            let back = Point::of_score(point.score());
            prop_assert!(point.distance(back) < 1.0);
            prop_assert_eq!(back.score(), point.score());
        }
    }
}
