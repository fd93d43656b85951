//! Settings for all tables of Parquet files: how old timestamps are read, and which bounds statistics do not have.

use datafusion::arrow::datatypes::DataType;
use datafusion::config::ConfigOptions;

/// Reads INT96, in which Spark writes timestamps by default, as microseconds in UTC. Nanoseconds end in the year 2262.
pub fn read_int96_in_microseconds(options: &mut ConfigOptions) {
    let parquet = &mut options.execution.parquet;
    parquet.coerce_int96 = Some("us".to_owned());
    parquet.coerce_int96_tz = Some("UTC".to_owned());
}

/// Whether values of the type may hold NaN, which writers of files leave out of the bounds of a column.
pub fn holds_floats(data_type: &DataType) -> bool {
    match data_type {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => true,
        DataType::Struct(fields) => fields.iter().any(|field| holds_floats(field.data_type())),
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => holds_floats(field.data_type()),
        DataType::Dictionary(_, values) => holds_floats(values),
        DataType::RunEndEncoded(_, values) => holds_floats(values.data_type()),
        _ => false,
    }
}
