//! A little world.
