//! Messages of the protocol that arrow-flight does not have: session options, and fields that newer clients read.

use std::collections::HashMap;

use bytes::Bytes;

use crate::server::flight::sessions::Settings;

/// `ActionCreatePreparedStatementResult` with the field that newer clients read.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PreparedResult {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) handle: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) dataset_schema: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) parameter_schema: Bytes,
    #[prost(bool, optional, tag = "4")]
    pub(crate) is_update: Option<bool>,
}

/// `SetSessionOptionsRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SetSessionOptions {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) options: HashMap<String, SessionOption>,
}

/// `GetSessionOptionsResult`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SessionOptions {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) options: HashMap<String, SessionOption>,
}

impl SessionOptions {
    pub(crate) fn of(settings: &Settings) -> Self {
        let option = |(name, value): (&str, String)| {
            let value = Some(SessionOptionValue::Text(value));
            (name.to_owned(), SessionOption { value })
        };
        Self {
            options: settings.all().into_iter().map(option).collect(),
        }
    }
}

/// `SessionOptionValue`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SessionOption {
    #[prost(oneof = "SessionOptionValue", tags = "1, 2, 3, 4, 5")]
    pub(crate) value: Option<SessionOptionValue>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum SessionOptionValue {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Truth(bool),
    #[prost(sfixed64, tag = "3")]
    Whole(i64),
    #[prost(double, tag = "4")]
    Fraction(f64),
    #[prost(message, tag = "5")]
    Texts(Texts),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Texts {
    #[prost(string, repeated, tag = "1")]
    pub(crate) values: Vec<String>,
}

impl SessionOption {
    /// The value as text, for every type.
    pub(crate) fn text(&self) -> String {
        match &self.value {
            None => String::new(),
            Some(SessionOptionValue::Text(text)) => text.clone(),
            Some(SessionOptionValue::Truth(yes)) => yes.to_string(),
            Some(SessionOptionValue::Whole(number)) => number.to_string(),
            Some(SessionOptionValue::Fraction(number)) => number.to_string(),
            Some(SessionOptionValue::Texts(texts)) => texts.values.join(", "),
        }
    }
}

/// `SetSessionOptionsResult`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SessionOptionsSet {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) errors: HashMap<String, SessionOptionRefused>,
}

/// 1: there is no such option; 2: it does not take the value.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SessionOptionRefused {
    #[prost(int32, tag = "1")]
    pub(crate) reason: i32,
}

/// `CloseSessionResult`: closed.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SessionClosed {
    #[prost(int32, tag = "1")]
    pub(crate) status: i32,
}
