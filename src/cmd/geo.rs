//! Commands on places: sorted sets whose scores are cells of a grid over the globe.

mod grid;

use super::{Ctx, Keys, Spec, flag::*, int, zsets};
use crate::{
    base::parse_f64,
    resp::{Args, Error, Out, Proto},
    store::{ScoreRange, Zset},
};
use grid::{Extent, Point, Shape};

/// Rows of this family.
pub const COMMANDS: &[Spec] = &[
    Spec::store(
        "GEOADD",
        -5,
        WRITE | DENY_OOM,
        Keys::one(1),
        "Adds members with their places",
        geoadd,
    ),
    Spec::store(
        "GEODIST",
        -4,
        READ,
        Keys::one(1),
        "Returns the distance between two members",
        geodist,
    ),
    Spec::store(
        "GEOHASH",
        -2,
        READ,
        Keys::one(1),
        "Returns the geohash texts of members",
        geohash,
    ),
    Spec::store(
        "GEOPOS",
        -2,
        READ,
        Keys::one(1),
        "Returns the places of members",
        geopos,
    ),
    Spec::store(
        "GEOSEARCH",
        -7,
        READ,
        Keys::one(1),
        "Returns the members inside a circle or box",
        |ctx, args| search(ctx, args, Form::Search),
    ),
    Spec::store(
        "GEOSEARCHSTORE",
        -8,
        WRITE | DENY_OOM,
        Keys::range(1, 2),
        "Stores the members inside a circle or box",
        |ctx, args| search(ctx, args, Form::SearchStore),
    ),
    Spec::store(
        "GEORADIUS",
        -6,
        WRITE | DENY_OOM | MOVABLE_KEYS,
        Keys::GeoStore { first: 1 },
        "Returns or stores the members around a place",
        |ctx, args| search(ctx, args, Form::Radius { may_store: true }),
    ),
    Spec::store(
        "GEORADIUS_RO",
        -6,
        READ,
        Keys::one(1),
        "Returns the members around a place",
        |ctx, args| search(ctx, args, Form::Radius { may_store: false }),
    ),
    Spec::store(
        "GEORADIUSBYMEMBER",
        -5,
        WRITE | DENY_OOM | MOVABLE_KEYS,
        Keys::GeoStore { first: 1 },
        "Returns or stores the members around a member",
        |ctx, args| search(ctx, args, Form::ByMember { may_store: true }),
    ),
    Spec::store(
        "GEORADIUSBYMEMBER_RO",
        -5,
        READ,
        Keys::one(1),
        "Returns the members around a member",
        |ctx, args| search(ctx, args, Form::ByMember { may_store: false }),
    ),
];

const NO_SUCH_MEMBER: Error = Error::fixed("ERR could not decode requested zset member");

fn geoadd(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let mut options = zsets::AddOptions::default();
    let mut first = 2;
    while let Some(word) = args.get(first) {
        let option = match word.to_ascii_lowercase().as_slice() {
            b"nx" => &mut options.only_new,
            b"xx" => &mut options.only_present,
            b"ch" => &mut options.count_changed,
            _ => break,
        };
        *option = true;
        first += 1;
    }
    let triples = args.rest(first);
    let is_odd = triples.is_empty() || !triples.len().is_multiple_of(3);
    if is_odd || (options.only_new && options.only_present) {
        return Err(Error::SYNTAX);
    }
    // A place that cannot be read leaves everything as it was.
    let mut pairs = Vec::with_capacity(triples.len() / 3);
    for at in (0..triples.len()).step_by(3) {
        pairs.push((point(triples, at)?.score(), triples.at(at + 2)));
    }
    options.apply(ctx, args.at(1), pairs.into_iter())
}

fn geodist(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let unit = match args.get(4) {
        None => 1.0,
        Some(_) if args.len() > 5 => return Err(Error::SYNTAX),
        Some(text) => unit(text)?,
    };
    let keys = ctx.shards.of(ctx.db, args.at(1));
    let zset = keys.get::<Zset>(args.at(1), ctx.now)?;
    let place = |at: usize| zset.and_then(|zset| place_of(zset, args.at(at)));
    match (place(2), place(3)) {
        (Some(from), Some(to)) => distance(ctx.out, from.distance(to) / unit),
        _ => ctx.out.null(),
    }
    Ok(())
}

fn geohash(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let keys = ctx.shards.of(ctx.db, args.at(1));
    let zset = keys.get::<Zset>(args.at(1), ctx.now)?;
    ctx.out.array(args.len() - 2);
    for member in args.rest(2).iter() {
        match zset.and_then(|zset| place_of(zset, member)) {
            Some(place) => ctx.out.bulk(&place.geohash()),
            None => ctx.out.null(),
        }
    }
    Ok(())
}

fn geopos(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    let keys = ctx.shards.of(ctx.db, args.at(1));
    let zset = keys.get::<Zset>(args.at(1), ctx.now)?;
    ctx.out.array(args.len() - 2);
    for member in args.rest(2).iter() {
        match zset.and_then(|zset| place_of(zset, member)) {
            Some(place) => coordinates(ctx.out, place),
            None => ctx.out.null_array(),
        }
    }
    Ok(())
}

/// What the command's name says of a search.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Search,
    SearchStore,
    Radius { may_store: bool },
    ByMember { may_store: bool },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Nearest,
    Farthest,
}

/// What a search asks for.
#[derive(Default)]
struct Request<'a> {
    center: Option<Center>,
    extent: Option<(Extent, f64)>,
    with_distance: bool,
    with_hash: bool,
    with_place: bool,
    order: Option<Order>,
    /// Most results, 0 for all.
    count: usize,
    /// The first results found will do.
    any: bool,
    target: Option<&'a [u8]>,
    store_distances: bool,
}

/// Where a search starts.
#[derive(Clone, Copy)]
enum Center {
    Place(Point),
    /// A member's place; none if there is no such key, and thus nothing to find.
    Member(Option<Point>),
}

impl Center {
    fn of_member(zset: &Zset, member: &[u8]) -> Result<Self, Error> {
        let place = place_of(zset, member).ok_or(NO_SUCH_MEMBER)?;
        Ok(Center::Member(Some(place)))
    }

    fn point(self) -> Option<Point> {
        match self {
            Center::Place(point) => Some(point),
            Center::Member(point) => point,
        }
    }
}

/// One result.
struct Hit {
    member: Box<[u8]>,
    score: f64,
    place: Point,
    meters: f64,
}

fn search(ctx: &mut Ctx<'_>, args: Args<'_>, form: Form) -> Result<(), Error> {
    let source = args.at(if form == Form::SearchStore { 2 } else { 1 });
    let keys = ctx.shards.of(ctx.db, source);
    let zset = keys.get::<Zset>(source, ctx.now)?;
    let request = Request::parse(args, form, zset)?;
    let mut hits = Vec::new();
    let mut unit = 1.0;
    if let (Some(zset), Some(center), Some((extent, meters))) =
        (zset, request.center.and_then(Center::point), request.extent)
    {
        unit = meters;
        let shape = Shape {
            center,
            extent,
            unit,
        };
        hits = find(zset, &shape, if request.any { request.count } else { 0 });
    }
    // The nearest ones can only be told when all are in order.
    let order = match request.order {
        None if request.count > 0 && !request.any => Some(Order::Nearest),
        order => order,
    };
    match order {
        Some(Order::Nearest) => hits.sort_by(|a, b| a.meters.total_cmp(&b.meters)),
        Some(Order::Farthest) => hits.sort_by(|a, b| b.meters.total_cmp(&a.meters)),
        None => {}
    }
    if request.count > 0 {
        hits.truncate(request.count);
    }
    match request.target {
        Some(target) => {
            let mut result = Zset::default();
            for hit in &hits {
                let score = if request.store_distances {
                    hit.meters / unit
                } else {
                    hit.score
                };
                result.insert(&hit.member, score);
            }
            zsets::store(ctx, target, result);
        }
        None => {
            ctx.out.array(hits.len());
            for hit in &hits {
                request.answer(ctx.out, hit, unit);
            }
        }
    }
    Ok(())
}

impl<'a> Request<'a> {
    fn parse(args: Args<'a>, form: Form, zset: Option<&Zset>) -> Result<Self, Error> {
        let mut request = Request::default();
        let mut at = match form {
            Form::Search => 2,
            Form::SearchStore => {
                request.target = Some(args.at(1));
                3
            }
            Form::Radius { .. } => {
                request.center = Some(Center::Place(point(args, 2)?));
                request.extent = Some(radius(args, 4)?);
                6
            }
            Form::ByMember { .. } => {
                if let Some(zset) = zset {
                    request.center = Some(Center::of_member(zset, args.at(2))?);
                    request.extent = Some(radius(args, 3)?);
                }
                5
            }
        };
        while at < args.len() {
            at += request.option(args, at, form, zset)?;
        }
        request.check(args, form)?;
        Ok(request)
    }

    /// Reads one option; how many arguments it took.
    fn option(
        &mut self,
        args: Args<'a>,
        at: usize,
        form: Form,
        zset: Option<&Zset>,
    ) -> Result<usize, Error> {
        let operands = args.len() - at - 1;
        let is_search = matches!(form, Form::Search | Form::SearchStore);
        let may_store = matches!(
            form,
            Form::Radius { may_store: true } | Form::ByMember { may_store: true }
        );
        match args.at(at).to_ascii_lowercase().as_slice() {
            b"withdist" => self.with_distance = true,
            b"withhash" => self.with_hash = true,
            b"withcoord" => self.with_place = true,
            b"any" => self.any = true,
            b"asc" => self.order = Some(Order::Nearest),
            b"desc" => self.order = Some(Order::Farthest),
            b"count" if operands >= 1 => {
                let count = int(args, at + 1)?;
                if count <= 0 {
                    return Err(Error::fixed("ERR COUNT must be > 0"));
                }
                self.count = count as usize;
                return Ok(2);
            }
            word @ (b"store" | b"storedist") if may_store && operands >= 1 => {
                self.target = Some(args.at(at + 1));
                self.store_distances = word == b"storedist";
                return Ok(2);
            }
            b"storedist" if form == Form::SearchStore => self.store_distances = true,
            b"frommember"
                if is_search && operands >= 1 && !matches!(self.center, Some(Center::Place(_))) =>
            {
                self.center = Some(match zset {
                    None => Center::Member(None),
                    Some(zset) => Center::of_member(zset, args.at(at + 1))?,
                });
                return Ok(2);
            }
            b"fromlonlat"
                if is_search
                    && operands >= 2
                    && !matches!(self.center, Some(Center::Member(_))) =>
            {
                self.center = Some(Center::Place(point(args, at + 1)?));
                return Ok(3);
            }
            b"byradius"
                if is_search
                    && operands >= 2
                    && !matches!(self.extent, Some((Extent::Box { .. }, _))) =>
            {
                self.extent = Some(radius(args, at + 1)?);
                return Ok(3);
            }
            b"bybox"
                if is_search
                    && operands >= 3
                    && !matches!(self.extent, Some((Extent::Radius(_), _))) =>
            {
                self.extent = Some(rectangle(args, at + 1)?);
                return Ok(4);
            }
            _ => return Err(Error::SYNTAX),
        }
        Ok(1)
    }

    fn check(&self, args: Args<'_>, form: Form) -> Result<(), Error> {
        let shows = self.with_distance || self.with_hash || self.with_place;
        if self.target.is_some() && shows {
            let what = match form {
                Form::SearchStore => "GEOSEARCHSTORE",
                _ => "STORE option in GEORADIUS",
            };
            return Err(Error::text(format!(
                "ERR {what} is not compatible with WITHDIST, WITHHASH and WITHCOORD options"
            )));
        }
        if matches!(form, Form::Search | Form::SearchStore) {
            let name = String::from_utf8_lossy(args.at(0));
            if self.center.is_none() {
                return Err(Error::text(format!(
                    "ERR exactly one of FROMMEMBER or FROMLONLAT can be specified for {name}"
                )));
            }
            if self.extent.is_none() {
                return Err(Error::text(format!(
                    "ERR exactly one of BYRADIUS and BYBOX can be specified for {name}"
                )));
            }
        }
        if self.any && self.count == 0 {
            return Err(Error::fixed("ERR the ANY argument requires COUNT argument"));
        }
        Ok(())
    }

    fn answer(&self, out: &mut Out, hit: &Hit, unit: f64) {
        let extras = [self.with_distance, self.with_hash, self.with_place];
        let extras = extras.into_iter().filter(|extra| *extra).count();
        if extras > 0 {
            out.array(1 + extras);
        }
        out.bulk(&hit.member);
        if self.with_distance {
            distance(out, hit.meters / unit);
        }
        if self.with_hash {
            out.int(hit.score as i64);
        }
        if self.with_place {
            coordinates(out, hit.place);
        }
    }
}

/// The members inside a shape, in the order in which its cells are searched; at most `limit` of them
/// if that is not 0.
fn find(zset: &Zset, shape: &Shape, limit: usize) -> Vec<Hit> {
    let mut hits = Vec::new();
    for scores in shape.cover() {
        let ranks = zset.score_range(&ScoreRange {
            min: scores.start,
            max: scores.end,
            above_min: false,
            below_max: true,
        });
        for (member, score) in zset.range(ranks, false) {
            let place = Point::of_score(score);
            let Some(meters) = shape.reaches(place) else {
                continue;
            };
            hits.push(Hit {
                member: member.into(),
                score,
                place,
                meters,
            });
            if limit > 0 && hits.len() >= limit {
                return hits;
            }
        }
    }
    hits
}

fn place_of(zset: &Zset, member: &[u8]) -> Option<Point> {
    zset.score(member).map(Point::of_score)
}

/// Longitude and latitude.
fn point(args: Args<'_>, at: usize) -> Result<Point, Error> {
    let point = Point {
        lon: parse_f64(args.at(at)).ok_or(Error::NOT_FLOAT)?,
        lat: parse_f64(args.at(at + 1)).ok_or(Error::NOT_FLOAT)?,
    };
    if !point.is_valid() {
        return Err(Error::text(format!(
            "ERR invalid longitude,latitude pair {:.6},{:.6}",
            point.lon, point.lat
        )));
    }
    Ok(point)
}

/// A radius and the meters of its unit.
fn radius(args: Args<'_>, at: usize) -> Result<(Extent, f64), Error> {
    let radius = parse_f64(args.at(at)).ok_or(Error::fixed("ERR need numeric radius"))?;
    if radius < 0.0 {
        return Err(Error::fixed("ERR radius cannot be negative"));
    }
    Ok((Extent::Radius(radius), unit(args.at(at + 1))?))
}

/// Width, height and the meters of their unit.
fn rectangle(args: Args<'_>, at: usize) -> Result<(Extent, f64), Error> {
    let width = parse_f64(args.at(at)).ok_or(Error::fixed("ERR need numeric width"))?;
    let height = parse_f64(args.at(at + 1)).ok_or(Error::fixed("ERR need numeric height"))?;
    if width < 0.0 || height < 0.0 {
        return Err(Error::fixed("ERR height or width cannot be negative"));
    }
    Ok((Extent::Box { width, height }, unit(args.at(at + 2))?))
}

/// The meters of a unit.
fn unit(text: &[u8]) -> Result<f64, Error> {
    match text.to_ascii_lowercase().as_slice() {
        b"m" => Ok(1.0),
        b"km" => Ok(1000.0),
        b"ft" => Ok(0.3048),
        b"mi" => Ok(1609.34),
        _ => Err(Error::fixed(
            "ERR unsupported unit provided. please use M, KM, FT, MI",
        )),
    }
}

/// A distance with four digits behind the point, half to even.
fn distance(out: &mut Out, distance: f64) {
    let scaled = (distance * 10000.0).round_ties_even() as i64;
    out.bulk_str(&format!("{}.{:04}", scaled / 10000, scaled % 10000));
}

fn coordinates(out: &mut Out, place: Point) {
    out.array(2);
    for degrees in [place.lon, place.lat] {
        // The exact value to 17 digits behind the point.
        let text = format!("{degrees:.17}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        match out.proto {
            Proto::Two => out.bulk_str(text),
            Proto::Three => out.raw(format!(",{text}\r\n").as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{cmd::testing::Desk, resp::Proto};

    #[test]
    fn places_answer_with_the_digits_of_redis() {
        let mut desk = Desk::with_shards(3);
        for (line, want) in [
            (
                "GEOADD Sicily 13.361389 38.115556 Palermo 15.087269 37.502669 Catania",
                ":2",
            ),
            ("ZSCORE Sicily Palermo", "$16 3479099956230698"),
            ("GEODIST Sicily Palermo Catania", "$11 166274.1516"),
            ("GEODIST Sicily Palermo Catania km", "$8 166.2742"),
            ("GEODIST Sicily Palermo Catania MI", "$8 103.3182"),
            ("GEODIST Sicily Foo Bar", "$-1"),
            (
                "GEOHASH Sicily Palermo Catania none",
                "*3 $11 sqc8b49rny0 $11 sqdtr74hyu0 $-1",
            ),
            (
                "GEOPOS Sicily Palermo none",
                "*2 *2 $20 13.36138933897018433 $20 38.11555639549629859 *-1",
            ),
            (
                "GEORADIUS Sicily 15 37 200 km WITHDIST DESC",
                "*2 *2 $7 Palermo $8 190.4424 *2 $7 Catania $7 56.4413",
            ),
            ("GEORADIUS_RO Sicily 15 37 100 km", "*1 $7 Catania"),
            ("GEORADIUSBYMEMBER Sicily Palermo 1 m", "*1 $7 Palermo"),
            (
                "GEORADIUSBYMEMBER Sicily none 1 m",
                "-ERR could not decode requested zset member",
            ),
            ("GEORADIUS Sicily 15 37 200 km STORE d", ":2"),
            ("ZCARD d", ":2"),
            ("GEORADIUS Sicily 15 37 200 km COUNT 1 STOREDIST d", ":1"),
            ("GEORADIUS none 15 37 200 km STORE d", ":0"),
            ("ZCARD d", ":0"),
            (
                "GEORADIUS Sicily 15 37 200 km STORE d WITHDIST",
                "-ERR STORE option in GEORADIUS is not compatible with WITHDIST, WITHHASH and WITHCOORD \
                 options",
            ),
            (
                "GEORADIUS_RO Sicily 15 37 200 km STORE d",
                "-ERR syntax error",
            ),
            (
                "GEOSEARCH Sicily FROMLONLAT 15 37 BYBOX 400 400 km ASC WITHHASH",
                "*2 *2 $7 Catania :3479447370796909 *2 $7 Palermo :3479099956230698",
            ),
            (
                "GEOSEARCH Sicily FROMMEMBER Catania BYRADIUS 1 km",
                "*1 $7 Catania",
            ),
            (
                "GEOSEARCHSTORE d Sicily FROMLONLAT 15 37 BYRADIUS 100 km STOREDIST",
                ":1",
            ),
            (
                "GEOSEARCH Sicily BYRADIUS 1 km ASC ASC",
                "-ERR exactly one of FROMMEMBER or FROMLONLAT can be specified for GEOSEARCH",
            ),
            (
                "GEOSEARCH Sicily FROMMEMBER Catania ASC ASC ASC",
                "-ERR exactly one of BYRADIUS and BYBOX can be specified for GEOSEARCH",
            ),
            (
                "GEOSEARCH Sicily FROMMEMBER Catania BYRADIUS 1 km ANY",
                "-ERR the ANY argument requires COUNT argument",
            ),
            (
                "GEOADD Sicily 181 0 x",
                "-ERR invalid longitude,latitude pair 181.000000,0.000000",
            ),
            ("GEOADD Sicily NX XX 1 0 x", "-ERR syntax error"),
            ("GEOADD Sicily XX CH 1 1 Palermo", ":1"),
        ] {
            assert_eq!(desk.say(line), want, "{line}");
        }
        desk.proto = Proto::Three;
        desk.say("GEOADD p 0 0 zero");
        assert_eq!(
            desk.say("GEOPOS p zero none"),
            "*2 *2 ,0.00000268220901489 ,0.00000126736058093 _"
        );
    }
}
