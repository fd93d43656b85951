import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.sql.*;
import java.util.*;

/** What the JDBC driver does with a server: statements, parameters, metadata, errors. Prints what it is told. */
public class Jdbc {
    public static void main(String[] arguments) throws Exception {
        String url = "jdbc:arrow-flight-sql://" + arguments[0] + "/?useEncryption=false";
        if (arguments.length > 1) {
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
