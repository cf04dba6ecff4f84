//! Faults that a simulation plants in the replicas of its thread, to see whether it finds them out. Not
//! compiled into anything that ships: only with the feature `lies`.

use std::cell::Cell;

/// What replicas of this thread do wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lie {
    /// Nothing.
    #[default]
    None,
    /// A leader counts replicas that don't answer as having what it sent: it acknowledges before a majority has it.
    Acknowledged,
    /// A leader reads its own rows without asking whether it leads still.
    StaleRead,
}

thread_local! {
    static PLANTED: Cell<Lie> = const { Cell::new(Lie::None) };
}

/// From now on the replicas of this thread do this.
pub fn plant(lie: Lie) {
    PLANTED.set(lie);
}

pub(crate) fn tells(lie: Lie) -> bool {
    PLANTED.get() == lie
}
