//! All instances together: slots, locks, wake-ups, ends.
