//! Messages of the protocol that arrow-flight does not have: session options, and fields that newer clients read.
//!
//! They are declared twice, here for the server and in `proto/anabranch/v1/flight.proto` for clients; a test compares both. Names and
//! numbers are those of Arrow. A type that Arrow declares within a message is in a module with the message's name.

use std::collections::HashMap;

use bytes::Bytes;

use crate::server::flight::sessions::Settings;

use session_option_value::OptionValue;

/// The answer to the action `CreatePreparedStatement`, with the field that newer clients read.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ActionCreatePreparedStatementResult {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) prepared_statement_handle: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) dataset_schema: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) parameter_schema: Bytes,
    #[prost(bool, optional, tag = "4")]
    pub(crate) is_update: Option<bool>,
}

/// The body of the action `SetSessionOptions`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SetSessionOptionsRequest {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) session_options: HashMap<String, SessionOptionValue>,
}

/// The answer to the action `GetSessionOptions`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct GetSessionOptionsResult {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) session_options: HashMap<String, SessionOptionValue>,
}

impl GetSessionOptionsResult {
    pub(crate) fn of(settings: &Settings) -> Self {
        let option = |(name, value): (&str, String)| {
            let option_value = Some(OptionValue::StringValue(value));
            (name.to_owned(), SessionOptionValue { option_value })
        };
        Self {
            session_options: settings.all().into_iter().map(option).collect(),
        }
    }
}

/// The value of an option, of the type that the client chose.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SessionOptionValue {
    #[prost(oneof = "session_option_value::OptionValue", tags = "1, 2, 3, 4, 5")]
    pub(crate) option_value: Option<session_option_value::OptionValue>,
}

pub(crate) mod session_option_value {
    #[derive(Clone, PartialEq, prost::Oneof)]
    #[allow(
        clippy::enum_variant_names,
        reason = "the names of the protocol's fields"
    )]
    pub(crate) enum OptionValue {
        #[prost(string, tag = "1")]
        StringValue(String),
        #[prost(bool, tag = "2")]
        BoolValue(bool),
        #[prost(sfixed64, tag = "3")]
        Int64Value(i64),
        #[prost(double, tag = "4")]
        DoubleValue(f64),
        #[prost(message, tag = "5")]
        StringListValue(StringListValue),
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct StringListValue {
        #[prost(string, repeated, tag = "1")]
        pub(crate) values: Vec<String>,
    }
}

impl SessionOptionValue {
    /// The value as text, for every type.
    pub(crate) fn text(&self) -> String {
        match &self.option_value {
            None => String::new(),
            Some(OptionValue::StringValue(text)) => text.clone(),
            Some(OptionValue::BoolValue(yes)) => yes.to_string(),
            Some(OptionValue::Int64Value(number)) => number.to_string(),
            Some(OptionValue::DoubleValue(number)) => number.to_string(),
            Some(OptionValue::StringListValue(texts)) => texts.values.join(", "),
        }
    }
}

/// The answer to the action `SetSessionOptions`: the options that were not set.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SetSessionOptionsResult {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) errors: HashMap<String, set_session_options_result::Error>,
}

pub(crate) mod set_session_options_result {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Error {
        #[prost(enumeration = "ErrorValue", tag = "1")]
        pub(crate) value: i32,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
    #[repr(i32)]
    pub(crate) enum ErrorValue {
        Unspecified = 0,
        /// There is no such option.
        InvalidName = 1,
        /// The option does not take the value.
        InvalidValue = 2,
        Error = 3,
    }
}

/// The answer to the action `CloseSession`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CloseSessionResult {
    #[prost(enumeration = "close_session_result::Status", tag = "1")]
    pub(crate) status: i32,
}

pub(crate) mod close_session_result {
    #[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
    #[repr(i32)]
    pub(crate) enum Status {
        Unspecified = 0,
        Closed = 1,
        Closing = 2,
        NotCloseable = 3,
    }
}
