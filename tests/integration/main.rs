//! x

mod delta;
