//! `flight.proto` and the messages that the server derives are the same, by name, field, number and type, and on the wire.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};

use crate::server::flight::messages::session_option_value::{OptionValue, StringListValue};
use crate::server::flight::messages::{
    ActionCreatePreparedStatementResult, CloseSessionResult, GetSessionOptionsResult,
    SessionOptionValue, SetSessionOptionsRequest, SetSessionOptionsResult, close_session_result,
    set_session_options_result,
};

const PROTO: &str = include_str!("../../../proto/anabranch/v1/flight.proto");
const RUST: &str = include_str!("messages.rs");
/// What the wire has in the place of a type without a declaration.
const SCALARS: [(&str, WireType); 15] = [
    ("double", WireType::SixtyFourBit),
    ("float", WireType::ThirtyTwoBit),
    ("int32", WireType::Varint),
    ("int64", WireType::Varint),
    ("uint32", WireType::Varint),
    ("uint64", WireType::Varint),
    ("sint32", WireType::Varint),
    ("sint64", WireType::Varint),
    ("fixed32", WireType::ThirtyTwoBit),
    ("fixed64", WireType::SixtyFourBit),
    ("sfixed32", WireType::ThirtyTwoBit),
    ("sfixed64", WireType::SixtyFourBit),
    ("bool", WireType::Varint),
    ("string", WireType::LengthDelimited),
    ("bytes", WireType::LengthDelimited),
];
/// The type of a value of an enumeration.
const VALUE: &str = "value";

/// A message or an enumeration, as one of the two texts declares it.
struct Declaration {
    /// With the messages that it is within: `SetSessionOptionsResult.Error`.
    name: String,
    items: Vec<Item>,
}

/// A field, or a value of an enumeration.
struct Item {
    name: String,
    number: u32,
    /// `optional`, `repeated`, `map of string to`, `one of NAME`, or nothing.
    label: String,
    /// A scalar, [`VALUE`], or the name of a message or an enumeration as seen from where it stands.
    of: String,
}

/// Fields with number and type, by the full name of their message, then by their own.
type Schema = BTreeMap<String, BTreeMap<String, (u32, String)>>;

fn schema(declared: Vec<Declaration>) -> Schema {
    let names: BTreeSet<String> = declared.iter().map(|one| one.name.clone()).collect();
    assert_eq!(names.len(), declared.len(), "a name is declared twice");
    let mut schema = Schema::new();
    for Declaration { name, items } in declared {
        let mut fields = BTreeMap::new();
        let mut numbers = BTreeSet::new();
        for item in items {
            assert!(numbers.insert(item.number), "{name}: {} twice", item.number);
            let of = resolved(&names, &name, &item.of);
            let of = format!("{} {of}", item.label).trim().to_owned();
            let known = fields.insert(item.name.clone(), (item.number, of));
            assert!(known.is_none(), "{name}: {} twice", item.name);
        }
        schema.insert(name, fields);
    }
    schema
}

/// The full name of a type that the message `within` names: its own types come first, then those of the messages around it.
fn resolved(names: &BTreeSet<String>, within: &str, named: &str) -> String {
    if named == VALUE || SCALARS.iter().any(|(scalar, _)| *scalar == named) {
        return named.to_owned();
    }
    let mut scope = within;
    loop {
        let full = format!("{scope}.{named}");
        if names.contains(&full) {
            return full;
        }
        match scope.rsplit_once('.') {
            Some((outer, _)) => scope = outer,
            None => break,
        }
    }
    assert!(names.contains(named), "{within}: there is no type {named}");
    named.to_owned()
}

/// Words and punctuation of a `.proto` file, and where the reader is.
struct Tokens {
    tokens: std::vec::IntoIter<String>,
}

impl Tokens {
    fn new(text: &str) -> Self {
        let mut tokens: Vec<String> = Vec::new();
        for line in text.lines() {
            let mut is_word = false;
            let code = line.split("//").next().unwrap();
            for c in code.chars() {
                let goes_on = c.is_alphanumeric() || "_.\"".contains(c);
                match tokens.last_mut() {
                    Some(word) if goes_on && is_word => word.push(c),
                    _ if c.is_whitespace() => {}
                    _ => tokens.push(c.to_string()),
                }
                is_word = goes_on;
            }
        }
        Self {
            tokens: tokens.into_iter(),
        }
    }

    fn take(&mut self) -> String {
        self.tokens.next().expect("the file ends too early")
    }

    fn expect(&mut self, expected: &str) {
        assert_eq!(self.take(), expected, "before {:?}", self.tokens.as_slice());
    }

    /// ` = number;`
    fn number(&mut self) -> u32 {
        self.expect("=");
        let number = self.take().parse().unwrap();
        self.expect(";");
        number
    }

    /// The rest of a field, whose type or label is `first`.
    fn field(&mut self, first: String, label: &str) -> Item {
        let (label, of) = match first.as_str() {
            "optional" | "repeated" => (first, self.take()),
            "map" => {
                self.expect("<");
                let key = self.take();
                self.expect(",");
                let value = self.take();
                self.expect(">");
                (format!("map of {key} to"), value)
            }
            _ => (label.to_owned(), first),
        };
        Item {
            name: self.take(),
            number: self.number(),
            label,
            of,
        }
    }

    fn message(&mut self, name: String, declared: &mut Vec<Declaration>) {
        self.expect("{");
        let mut items = Vec::new();
        loop {
            match self.take().as_str() {
                "}" => break,
                "message" => {
                    let inner = format!("{name}.{}", self.take());
                    self.message(inner, declared);
                }
                "enum" => {
                    let inner = format!("{name}.{}", self.take());
                    declared.push(self.enumeration(inner));
                }
                "oneof" => {
                    let label = format!("one of {}", self.take());
                    self.expect("{");
                    loop {
                        match self.take() {
                            end if end == "}" => break,
                            first => items.push(self.field(first, &label)),
                        }
                    }
                }
                first => items.push(self.field(first.to_owned(), "")),
            }
        }
        declared.push(Declaration { name, items });
    }

    fn enumeration(&mut self, name: String) -> Declaration {
        self.expect("{");
        let mut items = Vec::new();
        loop {
            match self.take() {
                end if end == "}" => break,
                name => items.push(Item {
                    name,
                    number: self.number(),
                    label: String::new(),
                    of: VALUE.to_owned(),
                }),
            }
        }
        Declaration { name, items }
    }
}

/// Reads the part of the language that the file is written in; what is beyond it fails.
fn of_proto(text: &str) -> Schema {
    let mut tokens = Tokens::new(text);
    for token in ["syntax", "=", "\"proto3\"", ";"] {
        tokens.expect(token);
    }
    for token in ["package", "anabranch.v1", ";"] {
        tokens.expect(token);
    }
    let mut declared = Vec::new();
    while let Some(token) = tokens.tokens.next() {
        assert_eq!(token, "message");
        let name = tokens.take();
        tokens.message(name, &mut declared);
    }
    schema(declared)
}

/// A type that derives one of prost's traits, with its lines: the attribute `prost` of each, and the line itself.
struct DerivedType {
    /// `Message`, `Oneof` or `Enumeration`.
    kind: &'static str,
    name: String,
    lines: Vec<(Vec<(String, String)>, String)>,
}

/// Reads the types of `messages.rs` as rustfmt leaves them. A module has the name of the message that its types are within.
fn derived(text: &str) -> Vec<DerivedType> {
    let is_beside =
        |code: &str| code.is_empty() || code.starts_with("//") || code.starts_with("#[");
    let mut found: Vec<DerivedType> = Vec::new();
    let mut module = String::new();
    let mut kind = None;
    let mut is_within = false;
    let mut field = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line == "}" {
            module.clear();
        }
        let mut code = line.trim().to_owned();
        while code.starts_with("#[") && !code.ends_with(']') {
            code.push_str(lines.next().unwrap().trim());
        }
        if let Some(derives) = code.strip_prefix("#[derive(") {
            kind = ["Message", "Oneof", "Enumeration"]
                .into_iter()
                .find(|kind| derives.contains(&format!("prost::{kind}")));
        } else if let Some(arguments) = code.strip_prefix("#[prost(") {
            field = attribute(arguments.strip_suffix(")]").unwrap());
        } else if is_within && code == "}" {
            is_within = false;
        } else if is_within && !is_beside(&code) {
            let attribute = std::mem::take(&mut field);
            found.last_mut().unwrap().lines.push((attribute, code));
        } else if let Some(name) = code.strip_prefix("pub(crate) mod ") {
            module = camel(name.strip_suffix(" {").unwrap()) + ".";
        } else if !is_beside(&code)
            && let Some(kind) = kind.take()
        {
            let name = code.strip_suffix(" {").unwrap().split(' ').next_back();
            is_within = true;
            found.push(DerivedType {
                kind,
                name: format!("{module}{}", name.unwrap()),
                lines: Vec::new(),
            });
        }
    }
    found
}

/// `map = "string, message", tag = "1"` as pairs; the value of a word alone is empty.
fn attribute(arguments: &str) -> Vec<(String, String)> {
    let mut parts = vec![String::new()];
    let mut is_quoted = false;
    for c in arguments.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => parts.push(String::new()),
            _ => parts.last_mut().unwrap().push(c),
        }
    }
    let pair = |part: &String| match part.split_once('=') {
        Some((key, value)) => (key.trim().to_owned(), value.trim().to_owned()),
        None => (part.trim().to_owned(), String::new()),
    };
    parts
        .iter()
        .filter(|part| !part.trim().is_empty())
        .map(pair)
        .collect()
}

/// A field of the type `rust`, by what its attribute says.
fn derived_field(name: &str, label: &str, attribute: &[(String, String)], rust: &str) -> Item {
    let value = |key: &str| attribute.iter().find(|(known, _)| known == key);
    // The innermost type: `a::B` of `HashMap<String, a::B>`.
    let inner = rust.trim_end_matches(['>', ')', ',']);
    let inner = in_proto(inner.rsplit(['<', ' ', '(']).next().unwrap());
    let (key, argument) = &attribute[0];
    let mut label = label.to_owned();
    let of = match key.as_str() {
        "map" => {
            let (key, of) = argument.split_once(", ").unwrap();
            label = format!("map of {key} to");
            match of {
                "message" => inner,
                scalar => scalar.to_owned(),
            }
        }
        "message" => inner,
        "enumeration" => in_proto(argument),
        scalar => scalar.to_owned(),
    };
    for word in ["optional", "repeated"] {
        // A message is always optional, and the language has no word for it.
        if value(word).is_some() && !(word == "optional" && key == "message") {
            word.clone_into(&mut label);
        }
    }
    Item {
        name: name.to_owned(),
        number: value("tag").unwrap().1.parse().unwrap(),
        label,
        of,
    }
}

/// `set_session_options_result::Error` as `SetSessionOptionsResult.Error`.
fn in_proto(path: &str) -> String {
    let parts: Vec<String> = path
        .split("::")
        .map(|part| match part.starts_with(char::is_uppercase) {
            true => part.to_owned(),
            false => camel(part),
        })
        .collect();
    parts.join(".")
}

fn camel(name: &str) -> String {
    name.split('_')
        .map(|word| word[..1].to_uppercase() + &word[1..])
        .collect()
}

fn snake(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(c.to_lowercase());
    }
    snake
}

fn of_rust(text: &str) -> Schema {
    let derived = derived(text);
    let mut declared = Vec::new();
    let mut oneofs_used = 0;
    for one in &derived {
        let mut items = Vec::new();
        for (attribute, line) in &one.lines {
            match one.kind {
                "Enumeration" => {
                    let (name, number) = line.split_once(" = ").unwrap();
                    items.push(Item {
                        name: snake(name).to_uppercase(),
                        number: number.trim_end_matches(',').parse().unwrap(),
                        label: String::new(),
                        of: VALUE.to_owned(),
                    });
                }
                "Message" if attribute[0].0 == "oneof" => {
                    let name = in_proto(&attribute[0].1);
                    let oneof = derived.iter().find(|one| one.name == name).unwrap();
                    let field = line.strip_prefix("pub(crate) ").unwrap();
                    let label = format!("one of {}", field.split_once(": ").unwrap().0);
                    let first = items.len();
                    for (attribute, line) in &oneof.lines {
                        let (variant, rust) = line.split_once('(').unwrap();
                        items.push(derived_field(&snake(variant), &label, attribute, rust));
                    }
                    let tags: Vec<String> = items[first..]
                        .iter()
                        .map(|item| item.number.to_string())
                        .collect();
                    assert_eq!(attribute[1], ("tags".to_owned(), tags.join(", ")));
                    oneofs_used += 1;
                }
                "Message" => {
                    let field = line.strip_prefix("pub(crate) ").unwrap();
                    let (name, rust) = field.split_once(": ").unwrap();
                    items.push(derived_field(name, "", attribute, rust));
                }
                _ => {}
            }
        }
        if one.kind != "Oneof" {
            let name = one.name.clone();
            declared.push(Declaration { name, items });
        }
    }
    let oneofs = derived.iter().filter(|one| one.kind == "Oneof").count();
    assert_eq!(oneofs, oneofs_used);
    schema(declared)
}

#[test]
fn the_file_declares_what_the_server_derives() {
    let derives =
        RUST.matches("prost::Message)]").count() + RUST.matches("prost::Enumeration)]").count();
    let of_rust = of_rust(RUST);
    assert_eq!(of_rust.len(), derives);
    assert_eq!(of_proto(PROTO), of_rust);
}

#[test]
fn every_difference_from_the_proto_file_is_found() {
    let same = of_proto(PROTO);
    let sees = |read: fn(&str) -> Schema, text: &str, from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        assert_ne!(read(&text.replace(from, to)), same, "{from} to {to}");
    };
    for (from, to) in [
        ("is_update = 4", "is_update = 5"),
        ("optional bool", "bool"),
        ("optional bool is_update = 4;", ""),
        ("sfixed64", "int64"),
        ("repeated string", "string"),
        ("bytes dataset_schema", "string dataset_schema"),
        ("dataset_schema", "data_schema"),
        ("map<string, Error>", "map<string, SessionOptionValue>"),
        ("map<string, Error>", "map<int32, Error>"),
        ("map<string, Error>", "repeated Error"),
        ("oneof option_value", "oneof value"),
        ("ErrorValue value", "int32 value"),
        ("CLOSING = 2", "CLOSING = 4"),
        ("INVALID_NAME", "NO_NAME"),
        ("message CloseSessionResult", "message SessionClosed"),
    ] {
        sees(of_proto, PROTO, from, to);
    }
    for (from, to) in [
        ("optional, tag = \"4\"", "optional, tag = \"5\""),
        ("bool, optional", "bool"),
        ("sfixed64", "int64"),
        ("string, repeated", "string"),
        ("bytes = \"bytes\", tag = \"2\"", "string, tag = \"2\""),
        ("dataset_schema:", "data_schema:"),
        ("set_session_options_result::Error>", "SessionOptionValue>"),
        ("map = \"string, message\"", "map = \"int32, message\""),
        ("option_value: Option<", "value: Option<"),
        ("enumeration = \"ErrorValue\"", "int32"),
        ("Closing = 2", "Closing = 4"),
        ("InvalidName", "NoName"),
        ("struct CloseSessionResult", "struct SessionClosed"),
    ] {
        sees(of_rust, RUST, from, to);
    }
}

/// Numbers and kinds of the fields in bytes that were sent.
fn sent(mut bytes: &[u8]) -> Vec<(u32, WireType)> {
    let mut keys = Vec::new();
    while !bytes.is_empty() {
        let (number, wire) = decode_key(&mut bytes).unwrap();
        skip_field(wire, number, &mut bytes, DecodeContext::default()).unwrap();
        keys.push((number, wire));
    }
    keys
}

/// Each message with all of its fields; one with alternatives once for each.
fn samples() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let list = StringListValue {
        values: vec!["a".to_owned(), "b".to_owned()],
    };
    let values = [
        OptionValue::StringValue("text".to_owned()),
        OptionValue::BoolValue(true),
        OptionValue::Int64Value(-7),
        OptionValue::DoubleValue(0.5),
        OptionValue::StringListValue(list.clone()),
    ];
    let values = values.map(|value| SessionOptionValue {
        option_value: Some(value),
    });
    let session_options = HashMap::from([("time_zone".to_owned(), values[0].clone())]);
    let refused = set_session_options_result::ErrorValue::InvalidValue;
    let error = set_session_options_result::Error {
        value: refused.into(),
    };
    let set = SetSessionOptionsRequest {
        session_options: session_options.clone(),
    };
    let closed = CloseSessionResult {
        status: close_session_result::Status::Closed.into(),
    };
    let errors = SetSessionOptionsResult {
        errors: HashMap::from([("time_zone".to_owned(), error.clone())]),
    };
    vec![
        (
            "ActionCreatePreparedStatementResult",
            vec![prepared().encode_to_vec()],
        ),
        ("SetSessionOptionsRequest", vec![set.encode_to_vec()]),
        (
            "GetSessionOptionsResult",
            vec![GetSessionOptionsResult { session_options }.encode_to_vec()],
        ),
        (
            "SessionOptionValue",
            values.iter().map(Message::encode_to_vec).collect(),
        ),
        (
            "SessionOptionValue.StringListValue",
            vec![list.encode_to_vec()],
        ),
        ("SetSessionOptionsResult", vec![errors.encode_to_vec()]),
        ("SetSessionOptionsResult.Error", vec![error.encode_to_vec()]),
        ("CloseSessionResult", vec![closed.encode_to_vec()]),
    ]
}

fn prepared() -> ActionCreatePreparedStatementResult {
    ActionCreatePreparedStatementResult {
        prepared_statement_handle: Bytes::from_static(b"handle"),
        dataset_schema: Bytes::from_static(b"rows"),
        parameter_schema: Bytes::from_static(b"parameters"),
        is_update: Some(false),
    }
}

#[test]
fn sent_messages_have_the_fields_of_the_proto_file() {
    let schema = of_proto(PROTO);
    let is_enumeration = |name: &str| schema[name].values().all(|(_, of)| of == VALUE);
    let on_the_wire = |of: &str| {
        let of = match of.starts_with("map of ") || of.starts_with("repeated ") {
            // All that are repeated here are texts and messages, each with its length.
            true => "bytes",
            false => of.rsplit(' ').next().unwrap(),
        };
        match SCALARS.iter().find(|(scalar, _)| *scalar == of) {
            Some((_, wire)) => *wire,
            None if is_enumeration(of) => WireType::Varint,
            None => WireType::LengthDelimited,
        }
    };
    let mut messages: BTreeSet<&str> = schema.keys().map(String::as_str).collect();
    messages.retain(|name| !is_enumeration(name));
    let samples = samples();
    let names: BTreeSet<&str> = samples.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, messages);
    for (name, encoded) in samples {
        let found: BTreeMap<u32, u8> = encoded
            .iter()
            .flat_map(|bytes| sent(bytes))
            .map(|(number, wire)| (number, wire as u8))
            .collect();
        let declared: BTreeMap<u32, u8> = schema[name]
            .values()
            .map(|(number, of)| (*number, on_the_wire(of) as u8))
            .collect();
        assert_eq!(found, declared, "{name}");
    }
}

#[test]
fn older_clients_read_the_fields_they_know() {
    let bytes = prepared().encode_to_vec();
    let known = arrow_flight::sql::ActionCreatePreparedStatementResult::decode(&*bytes).unwrap();
    let sent = prepared();
    assert_eq!(
        known.prepared_statement_handle,
        sent.prepared_statement_handle
    );
    assert_eq!(known.dataset_schema, sent.dataset_schema);
    assert_eq!(known.parameter_schema, sent.parameter_schema);
}
