//! What the planner promises, as sentences: most of them told of a small machine in a box ([`sim`]).

mod lifecycle;
mod sample;
mod sim;
