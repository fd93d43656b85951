//! Interface between the Avro codec and a schema registry.

pub(crate) mod http;
#[cfg(test)]
pub(crate) mod stub;

use crate::error::Result;

/// A store of schemas by number, such as Confluent's registry.
///
/// Calls block. They are rare, since a number always stands for the same schema and the client caches it.
pub trait SchemaRegistry: std::fmt::Debug + Send + Sync {
    /// The Avro schema with number `id`, as JSON.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::error::ErrorKind::NotFound) if there is none,
    /// [`Data`](crate::error::ErrorKind::Data) or
    /// [`Unsupported`](crate::error::ErrorKind::Unsupported) if it is no Avro schema that can be
    /// used: these make records bad. Any other kind fails the statement, above all
    /// [`Unavailable`](crate::error::ErrorKind::Unavailable) if the registry does not answer.
    fn schema_by_id(&self, id: u32) -> Result<String>;

    /// The number of `schema` under `subject`. The registry adds the schema as a new version of the subject if it is not there
    /// yet.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::error::ErrorKind::Invalid) if the registry refuses the schema, for one
    /// because it is incompatible with an earlier version.
    fn register(&self, subject: &str, schema: &str) -> Result<u32>;
}
