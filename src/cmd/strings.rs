//! Commands on strings.

use super::{Ctx, Keys, Spec, flag::*};
use crate::{
    resp::{Args, Error},
    store::Str,
};

/// Rows of this family.
pub const COMMANDS: &[Spec] = &[
    Spec::store(
        "GET",
        2,
        READ | FAST,
        Keys::one(1),
        "Returns the string value of a key",
        get,
    ),
    Spec::store(
        "SET",
        -3,
        WRITE | DENY_OOM,
        Keys::one(1),
        "Sets the string value of a key",
        set,
    ),
];

fn get(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    match ctx
        .shards
        .of(ctx.db, args.at(1))
        .string(args.at(1), ctx.now)?
    {
        Some(Str::Inline(bytes)) => ctx.out.bulk(bytes),
        Some(Str::Shared(bytes)) => ctx.out.bulk_shared(bytes),
        None => ctx.out.null(),
    }
    Ok(())
}

fn set(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<(), Error> {
    if args.len() > 3 {
        return Err(Error::SYNTAX);
    }
    ctx.keys(args.at(1))
        .set_string(args.at(1), args.at(2), None);
    ctx.changed();
    ctx.out.ok();
    Ok(())
}
