//! The `json` format: one JSON object per message to columns and back.

pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod key_index;
pub(crate) mod value_text;
