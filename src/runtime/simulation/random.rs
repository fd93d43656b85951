//! Decisions from a seed.

pub(super) use crate::core::random::Random;
