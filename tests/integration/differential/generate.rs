//! Generator of random statements in the dialects of both engines.

use crate::support::Random;

/// The statements that create the tables, in our dialect and theirs.
pub(super) const TABLES: [(&str, &str); 2] = [
    (
        "CREATE TABLE t AS SELECT CAST(column1 AS INT) AS k, CAST(column2 AS INT) AS i, CAST(column3 AS BIGINT) AS b, \
         CAST(column4 AS DECIMAL(18, 4)) AS d, CAST(column5 AS DOUBLE) AS f, CAST(column6 AS VARCHAR) AS s, \
         CAST(column7 AS TIMESTAMP) AS ts, CAST(column8 AS DATE) AS day, CAST(column9 AS BOOLEAN) AS z FROM (VALUES \
         (1, 0, 0, 0, '0', '', '1970-01-01 00:00:00', '1970-01-01', true), \
         (1, 7, -7, 12.5, '1.5', 'a', '2024-02-29 12:34:56.789', '2024-02-29', false), \
         (1, -3, 100000, -0.0001, '-2.25', 'abc', '0001-01-01 00:00:00', '0001-01-01', NULL), \
         (2, 2147483647, 9223372036854775807, 99999999999999.9999, '1e300', 'Z', '9999-12-31 23:59:59.999999', '9999-12-31', true), \
         (2, -2147483648, -9223372036854775807, -99999999999999.9999, '-1e300', 'a', '1677-09-01 01:02:03', '1677-09-21', false), \
         (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL), \
         (3, 1, 1, 1, 'NaN', 'NULL', '2262-04-12 00:00:00', '2262-04-12', true), \
         (3, 5, 9007199254740993, 0.3333, '0.1', 'é', '1969-12-31 23:59:59.999999', '1969-12-31', true), \
         (NULL, 42, 42, 42, '42', 'a%b', '2024-02-29 12:34:56.789', '2024-03-31', false), \
         (NULL, NULL, 3, NULL, 'NaN', NULL, '2000-01-01 00:00:00', NULL, true)) AS v",
        "CREATE TABLE t AS SELECT CAST(column1 AS INT) AS k, CAST(column2 AS INT) AS i, CAST(column3 AS BIGINT) AS b, \
         CAST(column4 AS DECIMAL(18, 4)) AS d, CAST(column5 AS DOUBLE) AS f, CAST(column6 AS VARCHAR) AS s, \
         CAST(column7 AS TIMESTAMP) AS ts, CAST(column8 AS DATE) AS day, CAST(column9 AS BOOLEAN) AS z FROM (VALUES \
         (1, 0, 0, 0, '0', '', '1970-01-01 00:00:00', '1970-01-01', true), \
         (1, 7, -7, 12.5, '1.5', 'a', '2024-02-29 12:34:56.789', '2024-02-29', false), \
         (1, -3, 100000, -0.0001, '-2.25', 'abc', '0001-01-01 00:00:00', '0001-01-01', NULL), \
         (2, 2147483647, 9223372036854775807, 99999999999999.9999, '1e300', 'Z', '9999-12-31 23:59:59.999999', '9999-12-31', true), \
         (2, -2147483648, -9223372036854775807, -99999999999999.9999, '-1e300', 'a', '1677-09-01 01:02:03', '1677-09-21', false), \
         (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL), \
         (3, 1, 1, 1, 'NaN', 'NULL', '2262-04-12 00:00:00', '2262-04-12', true), \
         (3, 5, 9007199254740993, 0.3333, '0.1', 'é', '1969-12-31 23:59:59.999999', '1969-12-31', true), \
         (NULL, 42, 42, 42, '42', 'a%b', '2024-02-29 12:34:56.789', '2024-03-31', false), \
         (NULL, NULL, 3, NULL, 'NaN', NULL, '2000-01-01 00:00:00', NULL, true)) \
         AS v(column1, column2, column3, column4, column5, column6, column7, column8, column9)",
    ),
    (
        "CREATE TABLE u AS SELECT CAST(column1 AS INT) AS k, CAST(column2 AS INT) AS i, CAST(column3 AS DOUBLE) AS f, \
         CAST(column4 AS VARCHAR) AS s FROM (VALUES (1, 7, '1.5', 'a'), (1, NULL, 'NaN', 'b'), (2, 2147483647, '0.1', NULL), \
         (4, 42, NULL, 'abc'), (NULL, 5, '42', 'Z'), (3, 5, '-2.25', 'a')) AS v",
        "CREATE TABLE u AS SELECT CAST(column1 AS INT) AS k, CAST(column2 AS INT) AS i, CAST(column3 AS DOUBLE) AS f, \
         CAST(column4 AS VARCHAR) AS s FROM (VALUES (1, 7, '1.5', 'a'), (1, NULL, 'NaN', 'b'), (2, 2147483647, '0.1', NULL), \
         (4, 42, NULL, 'abc'), (NULL, 5, '42', 'Z'), (3, 5, '-2.25', 'a')) AS v(column1, column2, column3, column4)",
    ),
];

/// One statement for both engines.
#[derive(Debug, Clone)]
pub(super) struct Statement {
    pub(super) ours: String,
    pub(super) theirs: String,
    pub(super) exactness: Exactness,
}

/// How near a DOUBLE must be to the other engine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exactness {
    /// Each bit is the same.
    Exact,
    /// It is a quotient of exact numbers: how often it is rounded on the way is not said.
    Quotient,
    /// The last column but one is a sum of DOUBLE, or their average, in any order; the last is the greatest summand without its sign.
    Summed,
}

/// An expression for both engines.
#[derive(Debug, Clone)]
struct Sql {
    ours: String,
    theirs: String,
}

impl Sql {
    fn same(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            ours: text.clone(),
            theirs: text,
        }
    }

    /// `pattern` with `{}` for each part.
    fn of(pattern: &str, parts: &[&Sql]) -> Self {
        Self::both(pattern, pattern, parts)
    }

    fn both(ours: &str, theirs: &str, parts: &[&Sql]) -> Self {
        let fill = |pattern: &str, text: fn(&Sql) -> &str| {
            let mut out = String::new();
            let mut parts = parts.iter();
            for (at, piece) in pattern.split("{}").enumerate() {
                if at > 0 {
                    out.push_str(text(parts.next().unwrap()));
                }
                out.push_str(piece);
            }
            out
        };
        Self {
            ours: fill(ours, |sql| sql.ours.as_str()),
            theirs: fill(theirs, |sql| sql.theirs.as_str()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Int,
    BigInt,
    Decimal,
    Double,
    Text,
    Time,
    Day,
    Bool,
}

const TYPES: [Type; 8] = [
    Type::Int,
    Type::BigInt,
    Type::Decimal,
    Type::Double,
    Type::Text,
    Type::Time,
    Type::Day,
    Type::Bool,
];

/// A source of statements; the same for the same seed.
pub(super) struct Generator {
    random: Random,
    exactness: Exactness,
}

impl Generator {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            exactness: Exactness::Exact,
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random.below(bound)
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// A statement of any kind.
    pub(super) fn statement(&mut self) -> Statement {
        self.exactness = Exactness::Exact;
        let sql = match self.below(12) {
            0..=4 => self.projection(),
            5 | 6 => self.aggregate(),
            7 => self.filtered(),
            8 => self.join(),
            9 => self.window(),
            10 => self.ordered(),
            _ => self.membership(),
        };
        Statement {
            ours: sql.ours,
            theirs: sql.theirs,
            exactness: self.exactness,
        }
    }

    fn projection(&mut self) -> Sql {
        let of = self.one(&TYPES);
        let value = self.value(of, 3);
        match self.below(4) {
            // Few rows: no other row overflows.
            0 => {
                let row = Sql::same(self.one(&["k = 1", "k = 2", "k = 3", "k IS NULL"]));
                Sql::of("SELECT {} AS x FROM t WHERE {}", &[&value, &row])
            }
            _ => Sql::of("SELECT {} AS x FROM t", &[&value]),
        }
    }

    fn filtered(&mut self) -> Sql {
        let condition = self.condition(3);
        Sql::of("SELECT k, i, s FROM t WHERE {}", &[&condition])
    }

    /// The first values of an order, and distinct ones.
    fn ordered(&mut self) -> Sql {
        let of = self.one(&TYPES);
        let value = self.value(of, 1);
        let distinct = self.one(&["", "DISTINCT "]);
        let order = self.one(&["ASC NULLS LAST", "DESC NULLS LAST", "ASC NULLS FIRST"]);
        Sql::of(
            &format!(
                "SELECT {distinct}x FROM (SELECT {{}} AS x FROM t) AS v ORDER BY x {order} LIMIT 4"
            ),
            &[&value],
        )
    }

    /// The columns of a call of an aggregate; `over` is the clause behind it.
    fn call(&mut self, functions: &[&str], over: &Sql) -> Sql {
        let of = self.one(&[Type::Int, Type::BigInt, Type::Decimal, Type::Double]);
        let argument = match self.below(3) {
            0 => self.value(of, 1),
            _ => self.column(of),
        };
        let function = self.one(functions);
        let call = Sql::of(&format!("{function}{{}} AS x"), &[&argument, over]);
        let is_average = function.starts_with("avg");
        if of == Type::Double && (is_average || function.starts_with("sum")) {
            self.exactness = Exactness::Summed;
            let greatest = Sql::of("max(abs({})){} AS greatest", &[&argument, over]);
            return Sql::of("{}, {}", &[&call, &greatest]);
        }
        if is_average {
            self.exactness = Exactness::Quotient;
        }
        call
    }

    fn aggregate(&mut self) -> Sql {
        let over = match self.below(4) {
            0 => {
                let condition = self.condition(1);
                Sql::of(" FILTER (WHERE {})", &[&condition])
            }
            _ => Sql::same(""),
        };
        let functions = [
            "count({})",
            "sum({})",
            "min({})",
            "max({})",
            "avg({})",
            "count(DISTINCT {})",
            "sum(DISTINCT {})",
            "avg(DISTINCT {})",
        ];
        let call = self.call(&functions, &over);
        match self.below(4) {
            0 => Sql::of("SELECT {} FROM t", &[&call]),
            1 => Sql::of("SELECT k, {} FROM t GROUP BY k", &[&call]),
            2 => Sql::of(
                "SELECT k, z, {} FROM t GROUP BY GROUPING SETS ((k), (z), (k, z), ())",
                &[&call],
            ),
            _ => Sql::of(
                "SELECT k, {} FROM t GROUP BY k HAVING count(*) > 1",
                &[&call],
            ),
        }
    }

    /// An aggregate over frames of rows. No two rows are alike in `k` and `i`.
    fn window(&mut self) -> Sql {
        let order = self.one(&[
            "PARTITION BY k ORDER BY i NULLS LAST",
            "PARTITION BY k ORDER BY i DESC NULLS LAST",
            "ORDER BY k NULLS FIRST, i NULLS LAST",
        ]);
        let frame = self.one(&[
            "",
            " ROWS BETWEEN 1 PRECEDING AND CURRENT ROW",
            " ROWS BETWEEN CURRENT ROW AND 2 FOLLOWING",
            " ROWS BETWEEN 2 PRECEDING AND 1 PRECEDING",
            " ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING",
        ]);
        let over = Sql::same(format!(" OVER ({order}{frame})"));
        let functions = ["count({})", "sum({})", "min({})", "max({})", "avg({})"];
        let call = self.call(&functions, &over);
        Sql::of("SELECT k, i, {} FROM t", &[&call])
    }

    fn join(&mut self) -> Sql {
        let kind = self.one(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        let on = self.one(&[
            "t.k = u.k",
            "t.i = u.i",
            "t.f = u.f",
            "t.s = u.s",
            "t.k = u.k AND t.i = u.i",
            "t.k = u.k AND t.s <> u.s",
            "t.k = u.k AND t.i > u.i",
            "t.k IS NOT DISTINCT FROM u.k",
        ]);
        Sql::same(format!(
            "SELECT t.k AS a, t.i AS b, u.k AS c, u.i AS d, u.s AS e FROM t {kind} u ON {on}"
        ))
    }

    fn membership(&mut self) -> Sql {
        let (value, column) = self.one(&[
            ("t.k", "k"),
            ("t.i", "i"),
            ("t.s", "s"),
            ("t.f", "f"),
            ("CAST(5 AS INT)", "i"),
            ("CAST(NULL AS INT)", "k"),
        ]);
        let inner = self.one(&[
            "",
            " WHERE u.k = 1",
            " WHERE u.k = t.k",
            " WHERE u.k > 100",
            " WHERE u.i IS NOT NULL AND u.s IS NOT NULL AND u.f IS NOT NULL AND u.k IS NOT NULL",
            " WHERE u.k < t.i",
        ]);
        let condition = match self.below(9) {
            0 => format!("{value} IN (SELECT u.{column} FROM u{inner})"),
            1 | 2 => format!("{value} NOT IN (SELECT u.{column} FROM u{inner})"),
            3 => format!("NOT ({value} IN (SELECT u.{column} FROM u{inner}))"),
            4 => format!("t.z OR {value} NOT IN (SELECT u.{column} FROM u{inner})"),
            5 => format!("({value} NOT IN (SELECT u.{column} FROM u{inner})) IS NULL"),
            6 => format!("EXISTS (SELECT 1 FROM u WHERE u.{column} = {value})"),
            7 => format!("NOT EXISTS (SELECT 1 FROM u WHERE u.{column} = {value})"),
            _ => format!("NOT (t.z AND {value} IN (SELECT u.{column} FROM u{inner}))"),
        };
        Sql::same(format!(
            "SELECT t.k AS a, t.i AS b, t.s AS c FROM t WHERE {condition}"
        ))
    }

    fn column(&mut self, of: Type) -> Sql {
        Sql::same(match of {
            Type::Int => self.one(&["k", "i"]),
            Type::BigInt => "b",
            Type::Decimal => "d",
            Type::Double => "f",
            Type::Text => "s",
            Type::Time => "ts",
            Type::Day => "day",
            Type::Bool => "z",
        })
    }

    fn literal(&mut self, of: Type) -> Sql {
        let text = match of {
            Type::Int => {
                let value = self.one(&["0", "1", "-1", "2", "7", "100000", "2147483647", "NULL"]);
                format!("CAST({value} AS INT)")
            }
            Type::BigInt => {
                let value = self.one(&[
                    "0",
                    "1",
                    "-1",
                    "3",
                    "9223372036854775807",
                    "4294967296",
                    "NULL",
                ]);
                format!("CAST({value} AS BIGINT)")
            }
            Type::Decimal => {
                let value =
                    self.one(&["0.0000", "1.5000", "-0.3333", "99999999999999.9999", "NULL"]);
                format!("CAST({value} AS DECIMAL(18, 4))")
            }
            Type::Double => {
                let value = self.one(&["0", "0.1", "-2.5", "1e300", "NaN", "1e-310"]);
                format!("CAST('{value}' AS DOUBLE)")
            }
            Type::Text => self
                .one(&["''", "'a'", "'abc'", "'%'", "'é'", "CAST(NULL AS VARCHAR)"])
                .to_owned(),
            Type::Time => {
                let value = self.one(&[
                    "1970-01-01 00:00:00",
                    "9999-12-31 23:59:59.999999",
                    "0001-01-01 00:00:00",
                    "2024-02-29 12:34:56.789",
                ]);
                format!("CAST('{value}' AS TIMESTAMP)")
            }
            Type::Day => {
                let value = self.one(&["1970-01-01", "9999-12-31", "0001-01-01", "2024-02-29"]);
                format!("CAST('{value}' AS DATE)")
            }
            Type::Bool => self
                .one(&["true", "false", "CAST(NULL AS BOOLEAN)"])
                .to_owned(),
        };
        Sql::same(text)
    }

    /// A value of a type; `depth` bounds how deep it is.
    fn value(&mut self, of: Type, depth: usize) -> Sql {
        if depth == 0 || self.below(5) == 0 {
            return match self.below(3) {
                0 => self.literal(of),
                _ => self.column(of),
            };
        }
        if self.below(6) == 0 {
            let (one, other) = (self.value(of, depth - 1), self.value(of, depth - 1));
            let condition = self.condition(1);
            return match self.below(3) {
                0 => Sql::of(
                    "CASE WHEN {} THEN {} ELSE {} END",
                    &[&condition, &one, &other],
                ),
                1 => Sql::of("coalesce({}, {})", &[&one, &other]),
                _ => Sql::of("nullif({}, {})", &[&one, &other]),
            };
        }
        match of {
            Type::Int | Type::BigInt | Type::Decimal | Type::Double => self.number(of, depth),
            Type::Text => {
                let text = self.value(Type::Text, depth - 1);
                match self.below(6) {
                    0 => Sql::of("upper({})", &[&text]),
                    1 => Sql::of("({} || 'x')", &[&text]),
                    2 => Sql::of("substr({}, 1, 2)", &[&text]),
                    3 => {
                        let number = self.value(Type::Int, 0);
                        Sql::of("CAST({} AS VARCHAR)", &[&number])
                    }
                    4 => Sql::of("replace({}, 'a', 'bb')", &[&text]),
                    _ => Sql::of("trim({})", &[&text]),
                }
            }
            Type::Time => {
                let time = self.value(Type::Time, 0);
                match self.below(4) {
                    0 => {
                        let unit = self.one(&[
                            "second", "minute", "hour", "day", "week", "month", "quarter", "year",
                        ]);
                        Sql::of(
                            &format!("CAST(date_trunc('{unit}', {{}}) AS TIMESTAMP)"),
                            &[&time],
                        )
                    }
                    1 => {
                        let day = self.value(Type::Day, 0);
                        Sql::of("CAST({} AS TIMESTAMP)", &[&day])
                    }
                    2 => Sql::both(
                        "date_bin(INTERVAL '15 minutes', {})",
                        "time_bucket(INTERVAL '15 minutes', {}, TIMESTAMP '1970-01-01')",
                        &[&time],
                    ),
                    _ => time,
                }
            }
            Type::Day => {
                let time = self.value(Type::Time, 0);
                Sql::of("CAST({} AS DATE)", &[&time])
            }
            Type::Bool => self.condition(depth - 1),
        }
    }

    fn number(&mut self, of: Type, depth: usize) -> Sql {
        let one = self.value(of, depth - 1);
        let other = match of {
            // Products of three decimals have too many digits.
            Type::Decimal => self.value(of, 0),
            _ => self.value(of, depth - 1),
        };
        match (self.below(8), of) {
            (0 | 1, Type::Decimal) => Sql::of("CAST({} + {} AS DECIMAL(18, 4))", &[&one, &other]),
            (2, Type::Decimal) => Sql::of("CAST({} - {} AS DECIMAL(18, 4))", &[&one, &other]),
            (3, Type::Decimal) => Sql::of(
                "CAST(CAST({} AS DECIMAL(9, 2)) * CAST({} AS DECIMAL(9, 2)) AS DECIMAL(18, 4))",
                &[&one, &other],
            ),
            (_, Type::Decimal) => Sql::of("(- {})", &[&one]),
            (0, _) => Sql::of("({} + {})", &[&one, &other]),
            (1, _) => Sql::of("({} - {})", &[&one, &other]),
            (2, _) => Sql::of("({} * {})", &[&one, &other]),
            (3, Type::Double) => Sql::of("({} / {})", &[&one, &other]),
            (3, _) => Sql::both(
                "({} / nullif({}, 0))",
                "({} // nullif({}, 0))",
                &[&one, &other],
            ),
            (4, Type::Double) => Sql::of("abs({})", &[&one]),
            (4, _) => Sql::of("({} % nullif({}, 0))", &[&one, &other]),
            (5, _) => Sql::of("(- {})", &[&one]),
            (6, _) => Sql::of("abs({})", &[&one]),
            (_, Type::BigInt) => {
                let small = self.value(Type::Int, depth - 1);
                Sql::of("CAST({} AS BIGINT)", &[&small])
            }
            (_, Type::Int) => {
                let large = self.value(Type::BigInt, depth - 1);
                Sql::of("CAST({} AS INT)", &[&large])
            }
            _ => one,
        }
    }

    /// A condition that is never an error.
    fn condition(&mut self, depth: usize) -> Sql {
        if depth > 0 && self.below(3) == 0 {
            let (one, other) = (self.condition(depth - 1), self.condition(depth - 1));
            return match self.below(4) {
                0 => Sql::of("({} AND {})", &[&one, &other]),
                1 => Sql::of("({} OR {})", &[&one, &other]),
                2 => Sql::of("(NOT {})", &[&one]),
                _ => Sql::of("({} IS NOT TRUE)", &[&one]),
            };
        }
        let of = self.one(&TYPES);
        let (one, other) = (self.column(of), self.value(of, 0));
        match self.below(8) {
            0 | 1 => {
                let op = self.one(&["=", "<>", "<", "<=", ">", ">="]);
                Sql::of(&format!("({{}} {op} {{}})"), &[&one, &other])
            }
            2 => Sql::of("({} IS NULL)", &[&one]),
            3 => Sql::of("({} IS NOT DISTINCT FROM {})", &[&one, &other]),
            4 => Sql::of("({} IS DISTINCT FROM {})", &[&one, &other]),
            5 => {
                let more = self.literal(of);
                let not = self.one(&["", "NOT "]);
                Sql::of(
                    &format!("({{}} {not}IN ({{}}, {{}}))"),
                    &[&one, &other, &more],
                )
            }
            6 => {
                let more = self.value(of, 0);
                Sql::of("({} BETWEEN {} AND {})", &[&one, &other, &more])
            }
            _ => Sql::same(self.one(&[
                "(s LIKE 'a%')",
                "(s LIKE '%b')",
                "(s NOT LIKE '_')",
                "(ts >= CAST('2000-01-01' AS DATE))",
                "(day < CAST('2262-05-01 00:00:00' AS TIMESTAMP))",
                "z",
                "(i > 0.5)",
                "(f > 0.5)",
                "(d = 0.3333)",
            ])),
        }
    }
}
