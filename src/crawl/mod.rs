//! Reading a whole prefix again and repairing what the watch may have missed.

pub(crate) mod ranges;
