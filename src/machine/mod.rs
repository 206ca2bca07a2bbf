//! What this machine has: memory and GPUs, and how much of them is free.
//!
//! Read anew each time; nothing is remembered or decided here. Where a thing cannot be read, it is not known, and the
//! caller says what that means.

mod gpus;
mod memory;

pub use gpus::{GpuTool, Gpus, read as gpus};
pub use memory::read as memory;
