//! Authentication and rights: users, logins, tokens, roles, grants, and the places that a user may name.

pub(crate) mod access;
pub(crate) mod errors;
pub(crate) mod issuer;
pub(crate) mod layer;
pub(crate) mod locations;
pub(crate) mod login;
pub(crate) mod users;
