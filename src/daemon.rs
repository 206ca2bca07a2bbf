//! Builds every room, hands each its ends of the channels, runs, shuts down.
