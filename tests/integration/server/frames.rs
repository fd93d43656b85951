//! pandas and polars, through ADBC.

use super::TestServer;
use crate::support::Workspace;

#[test]
fn frames_are_read_and_written() {
    let work = Workspace::new();
    let served = TestServer::start(&work, &[]);
    let said = served.python_with_frames(
        r#"
import pandas, polars
db = connect()
frame = pandas.DataFrame({"id": [1, 2, 3], "name": ["a", "b", None], "half": [0.5, 1.5, 2.5]})
frame.to_sql("from_pandas", db, index=False, if_exists="replace")
frame.to_sql("from_pandas", db, index=False, if_exists="append")
read = pandas.read_sql("SELECT id, count(*) AS n, max(name) AS name FROM from_pandas GROUP BY id ORDER BY id", db)
print(read.to_dict("records"))
print(refused(pandas.read_sql, "SELECT * FROM nowhere", db))
frame = polars.DataFrame({"id": [1, 2], "at": ["x", "y"]})
print(frame.write_database("from_polars", db, if_table_exists="replace"))
print(frame.write_database("from_polars", db, if_table_exists="append"))
read = polars.read_database("SELECT * FROM from_polars ORDER BY id", db)
print(read.shape, read.schema, read["id"].sum())
print(polars.read_database("SELECT * FROM from_polars WHERE id > ? ORDER BY id", db, execute_options={"parameters": [1]}).rows())
"#,
        &[],
    );
    insta::assert_snapshot!(said);
}
