//! Every call of the protocol with every command, by every kind of caller: the snapshot has the answers. A call or a
//! command that a new arrow-flight adds fails this test until it has its rule.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command as Process;
use std::sync::Arc;

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, Any, Command,
    CommandGetCatalogs, CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys,
    CommandGetImportedKeys, CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes,
    CommandGetTables, CommandGetXdbcTypeInfo, CommandPreparedStatementQuery,
    CommandPreparedStatementUpdate, CommandStatementIngest, CommandStatementQuery,
    CommandStatementSubstraitPlan, CommandStatementUpdate, ProstMessageExt, TableDefinitionOptions,
    TableExistsOption, TableNotExistOption, TicketStatementQuery,
};
use arrow_flight::utils::batches_to_flight_data;
use arrow_flight::{
    Action, Criteria, Empty, FlightData, FlightDescriptor, HandshakeRequest, Ticket,
};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use datafusion::arrow::array::{Int64Array, RecordBatch};
use prost::Message as _;
use tonic::transport::Channel;
use tonic::{Code, IntoRequest, Request, Status};

use super::TestServer;
use super::rights::users;
use crate::support::Workspace;

/// The callers: one that has not logged in, and users of each role, the last with rights on some tables only.
const CALLERS: [&str; 5] = ["nobody", "reader", "writer", "admin", "some"];

/// The source of arrow-flight as it was compiled here.
fn source(file: &str) -> String {
    let mut cargo = Process::new(env!("CARGO"));
    let metadata = cargo.args(["metadata", "--format-version", "1", "--offline"]);
    let out = metadata
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let flight = packages
        .iter()
        .find(|package| package["name"] == "arrow-flight");
    let manifest = flight.unwrap()["manifest_path"].as_str().unwrap();
    let folder = std::path::Path::new(manifest).parent().unwrap();
    std::fs::read_to_string(folder.join("src").join(file)).unwrap()
}

/// The protocol: its calls, and the messages of commands.
fn protocol() -> (BTreeSet<String>, BTreeSet<String>) {
    let calls = source("arrow.flight.protocol.rs");
    let calls = calls.lines().filter_map(|line| {
        let call = line
            .trim()
            .strip_prefix("\"/arrow.flight.protocol.FlightService/")?;
        Some(call.strip_suffix("\" => {")?.to_owned())
    });
    let messages = source("sql/mod.rs");
    let (_, list) = messages.split_once("\nprost_message_ext!(").unwrap();
    let (list, _) = list.split_once(");").unwrap();
    let names = list.split(',').map(|name| name.trim().to_owned());
    let asks = |name: &String| name.starts_with("Command") || name.starts_with("Ticket");
    (calls.collect(), names.filter(asks).collect())
}

/// A command of each kind; those that run SQL once to read and once to write.
fn commands(handles: &BTreeMap<&str, bytes::Bytes>) -> Vec<(String, Any)> {
    let query = |sql: &str| {
        let query = sql.to_owned();
        let command = CommandStatementQuery {
            query,
            ..CommandStatementQuery::default()
        };
        command.as_any()
    };
    let update = |sql: &str| {
        let query = sql.to_owned();
        let command = CommandStatementUpdate {
            query,
            ..CommandStatementUpdate::default()
        };
        command.as_any()
    };
    let ingest = CommandStatementIngest {
        table: "secret".to_owned(),
        table_definition_options: Some(TableDefinitionOptions {
            if_not_exist: TableNotExistOption::Fail.into(),
            if_exists: TableExistsOption::Append.into(),
        }),
        ..CommandStatementIngest::default()
    };
    let mut all = vec![
        ("reads", query("SELECT id FROM secret LIMIT 1")),
        ("writes", query("INSERT INTO secret VALUES (1)")),
        (
            "defines",
            query("CREATE OR REPLACE VIEW secret_view AS SELECT 1 AS one"),
        ),
        ("writes", update("INSERT INTO secret VALUES (1)")),
        ("writes", ingest.as_any()),
        ("", CommandStatementSubstraitPlan::default().as_any()),
        ("", CommandGetCatalogs::default().as_any()),
        ("", CommandGetCrossReference::default().as_any()),
        ("", CommandGetDbSchemas::default().as_any()),
        ("", CommandGetExportedKeys::default().as_any()),
        ("", CommandGetImportedKeys::default().as_any()),
        ("", CommandGetPrimaryKeys::default().as_any()),
        ("", CommandGetSqlInfo::default().as_any()),
        ("", CommandGetTableTypes::default().as_any()),
        ("", CommandGetTables::default().as_any()),
        ("", CommandGetXdbcTypeInfo::default().as_any()),
    ];
    for (whose, handle) in handles {
        let query = CommandPreparedStatementQuery {
            prepared_statement_handle: handle.clone(),
        };
        let update = CommandPreparedStatementUpdate {
            prepared_statement_handle: handle.clone(),
        };
        let ticket = TicketStatementQuery {
            statement_handle: handle.clone(),
        };
        let of_handle = [query.as_any(), update.as_any(), ticket.as_any()];
        all.extend(of_handle.map(|any| (*whose, any)));
    }
    let named = |(how, any): (&str, Any)| {
        let name = any.type_url.rsplit('.').next().unwrap();
        (format!("{name} {how}").trim().to_owned(), any)
    };
    all.into_iter().map(named).collect()
}

type Client = FlightServiceClient<Channel>;

/// A request with the login of a caller.
fn by<T>(caller: &str, message: T) -> Request<T> {
    let mut request = message.into_request();
    if caller != "nobody" {
        let basic = BASE64_STANDARD.encode(format!("{caller}:{caller}-pw"));
        let value = format!("Basic {basic}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    request
}

/// How a call ended, its answer read to its end.
async fn read<T>(answer: Result<tonic::Response<tonic::Streaming<T>>, Status>) -> Code {
    let mut stream = match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) => return status.code(),
    };
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return Code::Ok,
            Err(status) => return status.code(),
        }
    }
}

fn code<T>(answer: Result<T, Status>) -> Code {
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

fn descriptor(command: &Any) -> FlightDescriptor {
    FlightDescriptor::new_cmd(command.encode_to_vec())
}

/// A batch of a client, with the command for it.
fn rows(command: &Any) -> Vec<FlightData> {
    let ids: Arc<Int64Array> = Arc::new(Int64Array::from(vec![7]));
    let batch = RecordBatch::try_from_iter([("id", ids as _)]).unwrap();
    let schema = batch.schema();
    let mut messages = batches_to_flight_data(&schema, vec![batch]).unwrap();
    messages[0].flight_descriptor = Some(descriptor(command));
    messages
}

async fn prepared(client: &mut Client, caller: &str) -> bytes::Bytes {
    let request = ActionCreatePreparedStatementRequest {
        query: "INSERT INTO secret VALUES (1)".to_owned(),
        transaction_id: None,
    };
    let action = Action::new("CreatePreparedStatement", request.as_any().encode_to_vec());
    let answer = client.do_action(by(caller, action)).await.unwrap();
    let result = answer.into_inner().message().await.unwrap().unwrap();
    let any = Any::decode(&*result.body).unwrap();
    match Command::try_from(any).unwrap() {
        Command::ActionCreatePreparedStatementResult(result) => result.prepared_statement_handle,
        other => panic!("{other:?}"),
    }
}

/// The ticket of a query of a caller.
async fn ticket(client: &mut Client, caller: &str) -> Ticket {
    let query = CommandStatementQuery {
        query: "SELECT 1".to_owned(),
        transaction_id: None,
    };
    let info = client.get_flight_info(by(caller, descriptor(&query.as_any())));
    let endpoint = info.await.unwrap().into_inner().endpoint.remove(0);
    endpoint.ticket.unwrap()
}

async fn call(client: &mut Client, rpc: &str, caller: &str, command: &Any) -> Code {
    match rpc {
        "GetFlightInfo" => code(
            client
                .get_flight_info(by(caller, descriptor(command)))
                .await,
        ),
        "PollFlightInfo" => code(
            client
                .poll_flight_info(by(caller, descriptor(command)))
                .await,
        ),
        "GetSchema" => code(client.get_schema(by(caller, descriptor(command))).await),
        "DoGet" => {
            let ticket = Ticket::new(command.encode_to_vec());
            read(client.do_get(by(caller, ticket)).await).await
        }
        "DoPut" => {
            let sent = futures::stream::iter(rows(command));
            read(client.do_put(by_stream(caller, sent)).await).await
        }
        other => panic!("{other}"),
    }
}

/// The same as [`by`] of a stream of messages.
fn by_stream<S>(caller: &str, stream: S) -> Request<S> {
    let mut request = Request::new(stream);
    *request.metadata_mut() = by(caller, ()).metadata().clone();
    request
}

const SETTING: &str = "
admin = connect('admin', 'admin-pw')
rows(admin, \"CREATE EXTERNAL TABLE secret (id BIGINT) STORED AS DELTA LOCATION 'lake/secret'\")
";

#[test]
fn every_call_is_authorized_for_every_caller() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &["--users", users(&work)]);
    served.python(SETTING, &[]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let table = runtime.block_on(async {
        let url = format!("http://{}", served.address);
        let channel = Channel::from_shared(url).unwrap().connect().await;
        let mut client = FlightServiceClient::new(channel.unwrap());
        let mut found: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        for caller in CALLERS {
            let mut add = |rpc: &str, what: &str, code: Code| {
                let of = found.entry((rpc.to_owned(), what.to_owned())).or_default();
                of.push(format!("{caller} {code:?}"));
            };
            let mut handles = BTreeMap::from([("of admin", prepared(&mut client, "admin").await)]);
            if caller != "nobody" {
                handles.insert("own", prepared(&mut client, caller).await);
            }
            for (what, command) in commands(&handles) {
                for rpc in [
                    "GetFlightInfo",
                    "PollFlightInfo",
                    "GetSchema",
                    "DoGet",
                    "DoPut",
                ] {
                    add(rpc, &what, call(&mut client, rpc, caller, &command).await);
                }
            }
            let foreign = ticket(&mut client, "admin").await;
            add(
                "DoGet",
                "a ticket of admin",
                read(client.do_get(by(caller, foreign)).await).await,
            );
            if caller != "nobody" {
                let own = ticket(&mut client, caller).await;
                add(
                    "DoGet",
                    "an own ticket",
                    read(client.do_get(by(caller, own)).await).await,
                );
            }
            // All actions that the server lists.
            let told = client.list_actions(by("admin", Empty {})).await.unwrap();
            let mut told = told.into_inner();
            while let Some(action) = told.message().await.unwrap() {
                let close = ActionClosePreparedStatementRequest {
                    prepared_statement_handle: handles["of admin"].clone(),
                };
                let create = ActionCreatePreparedStatementRequest {
                    query: "INSERT INTO secret VALUES (1)".to_owned(),
                    transaction_id: None,
                };
                let body = match action.r#type.as_str() {
                    "CreatePreparedStatement" => create.as_any().encode_to_vec(),
                    "ClosePreparedStatement" => close.as_any().encode_to_vec(),
                    _ => Vec::new(),
                };
                let asked = Action::new(&action.r#type, body);
                let code = read(client.do_action(by(caller, asked)).await).await;
                add("DoAction", &action.r#type, code);
            }
            // Other users have not closed the statement that admin has prepared.
            if caller != "admin" {
                let left = CommandPreparedStatementQuery {
                    prepared_statement_handle: handles["of admin"].clone(),
                };
                let left = call(&mut client, "GetSchema", "admin", &left.as_any()).await;
                assert_eq!(left, Code::Ok, "{caller}");
            }
            let nothing = Action::new("Nothing", Vec::new());
            add(
                "DoAction",
                "one that is not there",
                read(client.do_action(by(caller, nothing)).await).await,
            );
            add(
                "ListActions",
                "",
                read(client.list_actions(by(caller, Empty {})).await).await,
            );
            add(
                "ListFlights",
                "",
                read(client.list_flights(by(caller, Criteria::default())).await).await,
            );
            let exchange = by_stream(caller, futures::stream::iter([FlightData::default()]));
            add(
                "DoExchange",
                "",
                read(client.do_exchange(exchange).await).await,
            );
            let hello = by_stream(caller, futures::stream::iter([HandshakeRequest::default()]));
            add("Handshake", "", read(client.handshake(hello).await).await);
        }
        found
    });
    let (calls, messages) = protocol();
    let tried: BTreeSet<String> = table.keys().map(|(rpc, _)| rpc.clone()).collect();
    assert_eq!(tried, calls, "a call without a rule");
    let word = |what: &String| what.split(' ').next().unwrap_or_default().to_owned();
    let tried: BTreeSet<String> = table.keys().map(|(_, what)| word(what)).collect();
    let missed: Vec<_> = messages.difference(&tried).collect();
    assert!(missed.is_empty(), "commands without a rule: {missed:?}");
    let mut by_rule: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for ((rpc, what), codes) in table {
        let alike = by_rule.entry(codes.join(", ")).or_default();
        alike.push(format!("    {rpc} {what}").trim_end().to_owned());
    }
    let rules = by_rule
        .into_iter()
        .map(|(rule, calls)| format!("{rule}\n{}\n", calls.join("\n")));
    insta::assert_snapshot!(rules.collect::<String>());
}
