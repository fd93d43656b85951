import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.sql.*;
import java.util.*;

/**
 * The JDBC driver as client of a server: statements, parameters, metadata, errors. Prints the answers. With two arguments:
 * values of each type, read as objects and bound.
 */
public class Jdbc {
    public static void main(String[] arguments) throws Exception {
        String url = "jdbc:arrow-flight-sql://" + arguments[0] + "/?useEncryption=false";
        if (arguments.length == 2) {
            // Otherwise times are shown in the zone of the machine.
            TimeZone.setDefault(TimeZone.getTimeZone("UTC"));
            values(url + "&anabranch-timestamp-zone=none");
            return;
        }
        if (arguments.length > 2) {
            login(url, arguments[1], arguments[2]);
            return;
        }
        try (Connection connection = DriverManager.getConnection(url, new Properties());
                Statement statement = connection.createStatement()) {
            print(statement.executeQuery(
                    "SELECT 1 AS one, 'x' AS t, TIMESTAMP '2025-01-02T03:04:05Z' AS at, 1.5 AS half, CAST(NULL AS INT) AS nothing"));
            System.out.println(statement.executeUpdate(
                    "CREATE EXTERNAL TABLE people (id BIGINT, name VARCHAR) STORED AS DELTA LOCATION 'people'"));
            System.out.println(statement.executeUpdate("INSERT INTO people VALUES (1, 'a'), (2, 'b')"));
            try (PreparedStatement insert = connection.prepareStatement("INSERT INTO people VALUES (?, ?)")) {
                insert.setLong(1, 3);
                insert.setString(2, "it's");
                System.out.println(insert.executeUpdate());
            }
            try (PreparedStatement query = connection.prepareStatement("SELECT * FROM people WHERE id > ? AND name = ?")) {
                query.setLong(1, 2);
                query.setString(2, "it's");
                print(query.executeQuery());
            }
            metadata(connection.getMetaData());
            for (String wrong : new String[] {"SELECT * FROM nowhere", "SELEC", "SELECT 1 / 0"}) {
                try {
                    print(statement.executeQuery(wrong));
                } catch (SQLException error) {
                    System.out.println(error.getMessage().replaceAll(".*\": ", ""));
                }
            }
        }
    }

    /** The classes that the driver reports for the columns that were read as objects. */
    private static final Set<String> classes = new TreeSet<>();

    /** Columns of each type as objects, with values and without, and bound values as they are read back. */
    static void values(String url) throws Exception {
        String row = "SELECT 1 AS one, true AS yes, CAST(7 AS SMALLINT) AS small, CAST(-8 AS INT) AS whole, 9007199254740993 AS large,"
                + " CAST(1.5 AS REAL) AS half, CAST(0.1 AS DOUBLE) AS tenth, CAST(12.34 AS DECIMAL(10, 2)) AS amount, 'x' AS t,"
                + " X'00ff' AS b, DATE '9999-12-31' AS day, TIMESTAMP '2025-01-02T03:04:05.678901Z' AS at, [1, NULL, 3] AS list,"
                + " named_struct('a', 1, 'b', 'x') AS s, MAP {'k': 1} AS m, INTERVAL '1 day' AS span";
        try (Connection connection = DriverManager.getConnection(url, new Properties());
                Statement statement = connection.createStatement()) {
            objects(statement.executeQuery(row));
            objects(statement.executeQuery("SELECT q.* FROM (SELECT 2 AS two) AS o LEFT JOIN (" + row + ") AS q ON q.one = o.two"));
            statement.executeUpdate("CREATE EXTERNAL TABLE typed (id INT, day DATE, moment TIMESTAMP, amount DECIMAL(18, 4), x DOUBLE,"
                    + " yes BOOLEAN, b BINARY, t VARCHAR) STORED AS DELTA LOCATION 'typed'");
            Timestamp at = Timestamp.valueOf("2025-01-02 03:04:05.678");
            java.math.BigDecimal amount = new java.math.BigDecimal("12345678901234.5678");
            try (PreparedStatement insert = connection.prepareStatement("INSERT INTO typed VALUES (?, ?, ?, ?, ?, ?, ?, ?)")) {
                insert.setInt(1, 1);
                insert.setDate(2, java.sql.Date.valueOf("2024-02-29"));
                insert.setTimestamp(3, at);
                insert.setBigDecimal(4, amount);
                insert.setDouble(5, 0.1);
                insert.setBoolean(6, true);
                insert.setBytes(7, new byte[] {0, -1});
                insert.setString(8, "it's");
                System.out.println(insert.executeUpdate());
                insert.setInt(1, 2);
                for (int i = 2; i <= 8; i++) {
                    insert.setNull(i, Types.NULL);
                }
                System.out.println(insert.executeUpdate());
            }
            objects(statement.executeQuery("SELECT * FROM typed ORDER BY id"));
            for (String sql : new String[] {"SELECT id FROM typed WHERE day = ? AND moment = ? AND amount = ?",
                    "SELECT CAST(? AS DATE) AS day, CAST(? AS TIMESTAMP) AS moment, CAST(? AS DECIMAL(18, 4)) AS amount"}) {
                try (PreparedStatement query = connection.prepareStatement(sql)) {
                    query.setDate(1, java.sql.Date.valueOf("2024-02-29"));
                    query.setTimestamp(2, at);
                    query.setBigDecimal(3, amount);
                    objects(query.executeQuery());
                }
            }
        }
        System.out.println("classes of columns: " + classes);
    }

    /** Prints the objects of all rows, each with its class, and closes them. */
    static void objects(ResultSet rows) throws SQLException {
        try (rows) {
            ResultSetMetaData columns = rows.getMetaData();
            for (int i = 1; i <= columns.getColumnCount(); i++) {
                classes.add(String.valueOf(columns.getColumnClassName(i)));
            }
            while (rows.next()) {
                for (int i = 1; i <= columns.getColumnCount(); i++) {
                    System.out.println(columns.getColumnLabel(i) + ": " + told(rows.getObject(i)));
                }
            }
        }
    }

    private static String told(Object value) throws SQLException {
        if (value == null) {
            return "nothing";
        } else if (value instanceof byte[] bytes) {
            return "bytes " + Arrays.toString(bytes);
        } else if (value instanceof java.sql.Array array) {
            return "Array " + Arrays.toString((Object[]) array.getArray());
        } else if (value instanceof Map<?, ?> map) {
            return "Map " + map;
        } else if (value.getClass().getName().startsWith("java.")) {
            return value.getClass().getSimpleName() + " " + value;
        }
        // A class of the driver's own.
        return value.getClass().getSimpleName();
    }

    /** With a password, another, a token, and none; a setting lasts as long as the connection. */
    static void login(String url, String user, String token) throws Exception {
        Properties right = new Properties();
        right.setProperty("user", user);
        right.setProperty("password", user + "-pw");
        Properties wrong = new Properties();
        wrong.setProperty("user", user);
        wrong.setProperty("password", "other");
        Properties byToken = new Properties();
        byToken.setProperty("token", token);
        for (Properties given : List.of(right, wrong, byToken, new Properties())) {
            try (Connection connection = DriverManager.getConnection(url, given);
                    Statement statement = connection.createStatement()) {
                print(statement.executeQuery("SELECT 1 AS one"));
                statement.executeUpdate("SET TIME ZONE 'Asia/Tokyo'");
                print(statement.executeQuery("SHOW datafusion.execution.time_zone"));
                statement.executeUpdate("CREATE VIEW v AS SELECT 1 AS one");
            } catch (SQLException error) {
                System.out.println(error.getMessage().replaceAll(".*\": ", ""));
            }
        }
    }

    /** Every question without arguments is answered, and those about tables with tables. */
    static void metadata(DatabaseMetaData about) throws Exception {
        List<String> failed = new ArrayList<>();
        for (Method question : DatabaseMetaData.class.getMethods()) {
            if (question.getParameterCount() > 0 || question.getReturnType() == void.class) {
                continue;
            }
            try {
                if (question.invoke(about) instanceof ResultSet rows) {
                    rows.close();
                }
            } catch (InvocationTargetException error) {
                failed.add(question.getName());
            }
        }
        Collections.sort(failed);
        System.out.println("unanswered: " + failed);
        System.out.println(about.getDatabaseProductName());
        print(about.getTables(null, null, "people", null));
        List<String> columns = new ArrayList<>();
        try (ResultSet found = about.getColumns(null, null, "people", null)) {
            while (found.next()) {
                columns.add(found.getString("COLUMN_NAME") + " " + found.getString("TYPE_NAME"));
            }
        }
        System.out.println(columns);
        print(about.getPrimaryKeys(null, null, "people"));
        print(about.getSchemas());
        print(about.getTableTypes());
    }

    /** Prints all rows and closes them. */
    static void print(ResultSet rows) throws SQLException {
        try (rows) {
            show(rows);
        }
    }

    private static void show(ResultSet rows) throws SQLException {
        ResultSetMetaData columns = rows.getMetaData();
        List<String> names = new ArrayList<>();
        for (int i = 1; i <= columns.getColumnCount(); i++) {
            names.add(columns.getColumnLabel(i) + " " + columns.getColumnTypeName(i));
        }
        System.out.println(names);
        while (rows.next()) {
            List<String> values = new ArrayList<>();
            for (int i = 1; i <= columns.getColumnCount(); i++) {
                values.add(rows.getString(i));
            }
            System.out.println(values);
        }
    }
}
