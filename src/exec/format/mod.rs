//! Codecs between the bytes of a record and Arrow columns.
