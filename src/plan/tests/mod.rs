//! What the planner promises, as sentences: most of them told of a small machine in a box ([`sim`]).

mod canary;
mod doze;
mod graphs;
mod histories;
mod histories_found;
mod histories_memory;
mod hosts;
mod images;
mod lifecycle;
mod lift;
mod memory;
mod named_canaries;
mod probes;
mod progress;
mod replace;
mod retire;
mod rollout;
mod sample;
mod sandbox;
mod scale;
mod sim;
mod sleep;
mod status;
mod supervise;
mod trained;
