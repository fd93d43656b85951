//! Authentication and rights: users, logins, tokens, roles, grants, and the places that a user may name.

pub(crate) mod access;
pub(crate) mod gate;
pub(crate) mod issuer;
pub(crate) mod login;
pub(crate) mod places;
pub(crate) mod refusal;
pub(crate) mod users;
