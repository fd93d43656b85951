//! Integration tests: one binary, one link step.

mod delta;
mod errors;
mod kafka;
mod layers;
mod slt;
mod support;
mod walkthroughs;
