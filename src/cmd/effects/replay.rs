//! Effects that run again.

use crate::{
    base::Rng,
    cmd::{self, Ctx, Keys, Run, Shards, Table},
    journal::frame::NOTE,
    resp::{Args, Error, Out},
};

/// Runs frames on shards, as they were written: in order, for each shard its own.
pub struct Replay {
    table: Table,
    out: Out,
    rng: Rng,
}

/// Why a frame cannot be run.
#[derive(Debug)]
pub enum Unplayable {
    /// There is no command of this name that writes to stores and takes so many arguments.
    Unknown,
    /// Its key is one of another shard, or there is no such database.
    Misplaced,
    /// The command failed: what the shard holds is not what the frame was written about.
    Failed(Error),
}

impl Default for Replay {
    fn default() -> Self {
        Self {
            table: Table::build(),
            out: Out::default(),
            // No frame depends on chance.
            rng: Rng::seeded(0),
        }
    }
}

impl Replay {
    /// Runs one frame of shard `shard`, whose frames go to database `db`; SELECT changes that for the
    /// frames behind it. At time 0: nothing expires, what has gone is said by the frames.
    ///
    /// # Errors
    /// Nothing was changed, and the frame will not run another time either.
    pub fn apply(
        &mut self,
        shards: &mut Shards,
        shard: usize,
        db: &mut usize,
        args: Args<'_>,
    ) -> Result<(), Unplayable> {
        let name = args.get(0).ok_or(Unplayable::Unknown)?;
        if name.starts_with(NOTE) {
            let shard = shards.shard(shard);
            let _ = shard.heed(args) || shard.heed_libraries(args);
            return Ok(());
        }
        let spec = self.table.find(name).ok_or(Unplayable::Unknown)?;
        if spec.name == "SELECT" && spec.fits(args.len()) {
            *db = cmd::select(args, shards.databases()).map_err(Unplayable::Failed)?;
            return Ok(());
        }
        let Run::Store(run) = spec.run else {
            return Err(Unplayable::Unknown);
        };
        if !spec.is_write() || !spec.fits(args.len()) {
            return Err(Unplayable::Unknown);
        }
        let mut is_placed = *db < shards.databases();
        spec.keys.for_each(args, |at| {
            is_placed &= shards.shard_of(args.at(at)) == shard
        });
        // Patterns may name any key.
        is_placed &= !matches!(spec.keys, Keys::Sort);
        if !is_placed {
            return Err(Unplayable::Misplaced);
        }
        // A frame on all keys is one on those of its shard.
        shards.narrow(Some(shard));
        let mut ctx = Ctx {
            shards: &mut *shards,
            db: *db,
            out: &mut self.out,
            now: 0,
            rng: &mut self.rng,
            dirty: 0,
            may_block: false,
            block: None,
            from_primary: true,
            arrived: None,
        };
        let result = cmd::run(&mut ctx, spec, run, args);
        shards.narrow(None);
        self.out.clear();
        result.map_err(Unplayable::Failed)
    }
}
