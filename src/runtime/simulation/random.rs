//! Random numbers that follow from a seed.

pub(super) use crate::core::random::Random;
