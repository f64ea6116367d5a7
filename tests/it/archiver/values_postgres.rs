//! Types of PostgreSQL, and values of each that others lost.

/// A type, and values of it.
#[derive(Clone, Copy)]
pub(super) struct Case {
    /// The type.
    pub(super) of: &'static str,
    /// The first major version that has it.
    pub(super) since: u32,
    /// The extension that it belongs to, or `xml`, which a server is built with or not.
    pub(super) needs: &'static str,
    /// Values that files hold in its own form.
    pub(super) usual: &'static [&'static str],
    /// Values for which the column is written in another form.
    pub(super) odd: &'static [&'static str],
}

const fn case(
    of: &'static str,
    usual: &'static [&'static str],
    odd: &'static [&'static str],
) -> Case {
    Case { of, since: 13, needs: "", usual, odd }
}

const fn since(since: u32, case: Case) -> Case {
    Case { since, ..case }
}

const fn needs(needs: &'static str, case: Case) -> Case {
    Case { needs, ..case }
}

/// Types that some of them need.
pub(super) const TYPES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'so, \"happy\"''');
    CREATE DOMAIN price AS numeric(10, 2) CHECK (value > 0);
    CREATE DOMAIN low_price AS price CHECK (value < 100);
    CREATE DOMAIN tags AS text[];
    CREATE DOMAIN instant AS timestamptz;
    CREATE TYPE pair AS (a int, \"B c\" text, d numeric, e timestamptz);
    CREATE TYPE floats AS RANGE (subtype = float8);";

/// Types that can be a key, and whose values then are ends of slices.
pub(super) const KEYS: &[&str] = &[
    "numeric",
    "numeric(12,2)",
    "money",
    "int2",
    "oid",
    "text",
    "varchar(10)",
    "char(5)",
    "name",
    "bytea",
    "bit(5)",
    "bit varying(70)",
    "uuid",
    "date",
    "time",
    "timetz",
    "timestamp",
    "timestamptz",
    "interval",
    "public.mood",
    "public.price",
    "public.instant",
    "inet",
    "cidr",
    "macaddr",
    "pg_lsn",
    "int4range",
    "tsvector",
];

pub(super) const CASES: &[Case] = &[
    case("text", TEXTS, &[]),
    case("varchar(10)", &["", "é", " trailing  ", "😀😀"], &[]),
    case("char(5)", &["ab", "", "a b  "], &[]),
    case("name", &["a name", ""], &[]),
    case("\"char\"", &["x", ""], &["sql:(-1)", "sql:(-128)"]),
    case(
        "numeric",
        &["0.0000", "-0.1", "1e1000", "1e-1000", "123456789012345678901.50", "NaN"],
        &[],
    ),
    since(14, case("numeric(1000,3)", &["0.100", "-5"], &["NaN"])),
    case("numeric(12,2)", &["1.50", "-9999999999.99", "0"], &["NaN"]),
    case("numeric(38,10)", &["9999999999999999999999999999.9999999999", "-1e-10"], &["NaN"]),
    case("numeric(60,20)", &["1234567890123456789012345678901234567890.5", "0"], &["NaN"]),
    since(14, case("numeric(500)", &["1e499"], &[])),
    since(15, case("numeric(3,-2)", &["12300", "-99900"], &["NaN"])),
    since(15, case("numeric(2,5)", &["0.00012", "-0.00099"], &["NaN"])),
    since(14, case("numeric[]", &["{Infinity,-Infinity,NaN,1.0}", "{}"], &[])),
    case("money", &["-92233720368547758.08", "0.01", "92233720368547758.07"], &[]),
    case("int2", &["-32768", "32767"], &[]),
    case("int4", &["-2147483648", "2147483647"], &[]),
    case("int8", &["-9223372036854775808", "9223372036854775807"], &[]),
    case("oid", &["4294967295", "0"], &[]),
    case("bool", &["t", "f"], &[]),
    case("float4", &["16777216", "1e-45", "NaN", "-0", "Infinity", "-Infinity", "0.1"], &[]),
    case(
        "float8",
        &["1.7976931348623157e308", "5e-324", "NaN", "-0", "Infinity", "-Infinity", "0.1"],
        &[],
    ),
    case("date", &["2024-02-29", "0001-01-01 BC", "5874897-12-31"], &["infinity", "-infinity"]),
    case("time", &["23:59:59.999999", "00:00"], &["24:00:00"]),
    case("time(0)", &["12:00:01"], &["24:00:00"]),
    case(
        "timetz",
        &["12:00:00.000001+05:45", "00:00:00+15:59:59", "23:59:59.999999-15:59:59"],
        &["24:00:00-15:59:59", "24:00:00+02"],
    ),
    case(
        "timestamp",
        &["2024-03-10 02:30:00.000001", "4713-01-01 00:00:00 BC", "1969-12-31 23:59:59.999999"],
        &["infinity", "-infinity", "294276-12-31 23:59:59.999999"],
    ),
    case(
        "timestamptz",
        &["2024-11-03 01:30:00-04", "2024-11-03 01:30:00-05", "4713-01-01 00:00:00+00 BC"],
        &["infinity", "-infinity", "294276-12-31 23:59:59.999999+00"],
    ),
    case("timestamp(0)", &["2024-03-10 02:30:01"], &["infinity"]),
    case("timestamp(3) with time zone", &["2024-03-10 02:30:01.123+00"], &["-infinity"]),
    case(
        "interval",
        &[
            "-1 mons 2 days -00:00:00.000001",
            "178000000 years",
            "24:00:00",
            "1 day",
            "-3 years 4 days",
        ],
        &[],
    ),
    since(17, case("interval(3)", &["1.123", "infinity", "-infinity"], &[])),
    case("interval year to month", &["1-2", "-1-2"], &[]),
    case("interval day to second(2)", &["1 2:03:04.05"], &[]),
    case(
        "json",
        &["{\"a\": 1,\"a\":  2 }", "  [1 , 2]\n", "\"\\ud83d\\ude00 \\u0041\"", "1e400"],
        &[],
    ),
    case(
        "jsonb",
        &["{\"n\": 123456789012345678901234567890.1234500}", "\"é\\n\"", "1e400", "[]"],
        &[],
    ),
    case("bytea", &[ALL_BYTES, "", "\\x0a", "\\x00", "\\xff0a"], &[]),
    case("bit(5)", &["10110", "00000"], &[]),
    case("bit varying(70)", &["", "1", "sql:repeat('10', 35)", "000000000"], &[]),
    case(
        "uuid",
        &["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-4fff-bfff-ffffffffffff"],
        &[],
    ),
    case(
        "int4[]",
        &["{1,NULL,3}", "{}", "{NULL}"],
        &["{{1,2},{3,NULL}}", "[0:1]={7,8}", "[-3:-3]={NULL}", "{{{1}}}"],
    ),
    case(
        "text[]",
        &["{\"a,b\",\"NULL\",NULL,\"\",\"\\\\\",\"\\\"\"}", "{}", "{\"line\n\"}"],
        &["{{a,b},{c,\"{}\"}}", "[2:3]={x,y}"],
    ),
    case("numeric(10,2)[]", &["{1.50,NULL,-2}"], &["{NaN}"]),
    case("float8[]", &["{NaN,-0,0.1,5e-324,Infinity}"], &["{{0.1}}"]),
    case("timestamptz[]", &["{2024-01-01 00:00:00+00,NULL}"], &["{infinity,NULL}"]),
    case("date[]", &["{2024-01-01}"], &["{-infinity}"]),
    case("time[]", &["{12:00}"], &["{24:00}"]),
    case("interval[]", &["{1 mon -1 day,NULL}"], &["{{1 day}}"]),
    case("bytea[]", &["{\"\\\\x00ff\",NULL,\"\"}"], &["{{\"\\\\x0a\"}}"]),
    case("jsonb[]", &["{\"{\\\"a\\\": [1, 2]}\",null}"], &["{{1}}"]),
    case(
        "uuid[]",
        &["{00000000-0000-0000-0000-000000000001}"],
        &["{{00000000-0000-0000-0000-000000000001}}"],
    ),
    case("bit(3)[]", &["{101,NULL}"], &["{{101}}"]),
    case("char(3)[]", &["{a,\"b \",NULL}"], &["{{a}}"]),
    case("bool[]", &["{t,f,NULL}"], &["{{t}}"]),
    case("public.mood", &["sad", "so, \"happy\"'"], &[]),
    case("public.mood[]", &["{sad,NULL,\"so, \\\"happy\\\"'\"}", "{{sad}}"], &[]),
    case("public.price", &["1.50", "99999999.99"], &["NaN"]),
    case("public.low_price", &["1.50", "99.99"], &[]),
    case("public.tags", &["{a,NULL}", "{}"], &["{{a},{b}}"]),
    case("public.instant", &["2024-11-03 01:30:00-04"], &["infinity"]),
    case(
        "public.pair",
        &["(1,\"x, \"\"y\"\"\n\",,)", "(,,NaN,infinity)", "(,\"\",1.0,\"2024-11-03 01:30:00-04\")"],
        &[],
    ),
    case("public.pair[]", &["{\"(1,a,2.0,)\",NULL}"], &[]),
    case("int4range", &["[1,5)", "empty", "(,)"], &[]),
    case("numrange", &["(,1.50]", "[1.0,1.00]"], &[]),
    case("tstzrange", &["[2024-11-03 01:30:00-04,infinity]", "(,)"], &[]),
    case("daterange[]", &["{\"[2024-01-01,2024-02-01)\",empty}"], &[]),
    case("public.floats", &["[0.1,5e300)", "[-0,0]"], &[]),
    since(14, case("int4multirange", &["{[1,3),[5,8)}", "{}"], &[])),
    since(14, case("tsmultirange", &["{[2024-01-01,2024-01-02)}"], &[])),
    case("inet", &["10.0.0.1/8", "::1", "::ffff:1.2.3.4/120", "10.0.0.1"], &[]),
    case("cidr", &["192.168.0.0/16", "::/0"], &[]),
    case("macaddr", &["08:00:2b:01:02:03"], &[]),
    case("macaddr8", &["08:00:2b:01:02:03:04:05"], &[]),
    case("tsvector", &["'it''s':1A,2 'a b':3 '\\\\':4", ""], &[]),
    case("tsquery", &["'fat' & ( 'rat':AB | !'cat' ) <2> 'x':*"], &[]),
    case("point", &["(0.1,-0)", "(NaN,1e300)"], &[]),
    case("line", &["{1,0.1,-3}"], &[]),
    case("lseg", &["[(0,0),(0.1,1)]"], &[]),
    case("box", &["(1,1),(0.1,0)"], &[]),
    case("path", &["[(0,0),(0.1,1)]", "((0,0),(1,1))"], &[]),
    case("polygon", &["((0,0),(0.1,1),(1,0))"], &[]),
    case("circle", &["<(0.1,0),5e-324>"], &[]),
    case("pg_lsn", &["16/B374D848", "0/0"], &[]),
    case("xid8", &["18446744073709551615"], &[]),
    case("xid", &["4294967295"], &[]),
    case("tid", &["(4294967295,65535)"], &[]),
    case("txid_snapshot", &["10:20:10,14,15"], &[]),
    case("regclass", &["pg_class", "sql:4294967295"], &[]),
    case("jsonpath", &["$.\"a b\"[*] ? (@ > 1.50)"], &[]),
    case("int2vector", &["1 2 3", ""], &[]),
    case("oidvector", &["1 2 3"], &[]),
    needs("xml", case("xml", &["<a b=\"1\">x</a>", "text &lt; <b/>\n"], &[])),
    needs(
        "hstore",
        case("public.hstore", &["\"a b\"=>\"\", \"n\"=>NULL, \"q\"=>\"\\\"\\\\\"", ""], &[]),
    ),
    needs("citext", case("public.citext", &["MiXed", "", "line\n"], &[])),
    needs("ltree", case("public.ltree", &["Top.a_1", ""], &[])),
    needs("ltree", case("public.lquery", &["Top.*{2}"], &[])),
];

const ALL_BYTES: &str = "sql:(SELECT string_agg(set_byte('\\x00', 0, n), '' ORDER BY n)
    FROM generate_series(0, 255) AS n)";

/// Texts that others lost.
const TEXTS: &[&str] = &[
    "",
    "a newline at the end\n",
    "\n",
    "\r\n",
    "\t",
    "\\",
    "\\N",
    "\\.",
    "NULL",
    "\"",
    "\"quoted\", 'both'",
    "a,b",
    " spaces ",
    "\u{feff}first",
    "\u{1}\u{7f}",
    "\u{2028}",
    "e\u{301} é",
    "😀",
    "=1+1",
    "{\"a\": 1}",
    "sql:repeat('é€😀x', 100000)",
];
