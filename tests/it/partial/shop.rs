//! A PostgreSQL database with one of everything, and what its state is told by.

use std::{env, fs, path::PathBuf, process::Command};

use serde_json::Value;
use stillpoint_testcontainers::{POSTGRES_USER, POSTGRES_VERSIONS, Postgres};

use crate::postgres::{Story, connect};

/// One of everything that a table can have.
const SCHEMA: &str = r#"
    CREATE ROLE app; CREATE ROLE ghost;
    CREATE SCHEMA audit;
    CREATE TYPE mood AS ENUM ('ok', 'bad');
    CREATE TABLE customers (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL);
    CREATE TABLE orders (
        id serial PRIMARY KEY, customer bigint REFERENCES customers, total numeric(10,2),
        note text, mood mood DEFAULT 'ok', doc json, raw bytea, at timestamptz DEFAULT now(),
        twice numeric GENERATED ALWAYS AS (total * 2) STORED,
        CONSTRAINT not_negative CHECK (total >= 0));
    CREATE INDEX by_note ON orders (lower(note));
    CREATE UNIQUE INDEX orders_pair ON orders (customer, id) WHERE total > 1;
    CREATE STATISTICS orders_stat ON customer, total FROM orders;
    ALTER STATISTICS orders_stat SET STATISTICS 57; ALTER STATISTICS orders_stat OWNER TO ghost;
    COMMENT ON STATISTICS orders_stat IS 'they''re \both';
    COMMENT ON TABLE orders IS 'it''s; -- all';
    COMMENT ON COLUMN orders.note IS 'a
        note;';
    GRANT SELECT ON orders TO app; GRANT UPDATE (note) ON orders TO ghost;
    CREATE TABLE audit.log (t text);
    CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO audit.log VALUES ('x;'); RETURN NEW; END $$;
    CREATE TRIGGER tell AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION told();
    ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON orders TO app USING (customer > 0);
    CREATE TABLE "Order Items" (
        "ID" uuid PRIMARY KEY DEFAULT gen_random_uuid(), "Größe" text,
        "order" int REFERENCES orders);
    CREATE TABLE sales (d date, n int) PARTITION BY RANGE (d);
    CREATE TABLE sales_2025 PARTITION OF sales FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
    CREATE TABLE sales_rest PARTITION OF sales DEFAULT;
    CREATE INDEX ON sales (n);
    CREATE SEQUENCE numbers;
    CREATE TABLE numbered (id int DEFAULT nextval('numbers'), v text);
    CREATE TABLE plain (a int, b text);
    CREATE TABLE pages (id oid PRIMARY KEY, page oid, none oid);
    CREATE TABLE big (id int PRIMARY KEY, v text);
    CREATE VIEW totals AS SELECT sum(total) FROM orders;
    CREATE TABLE account (id int PRIMARY KEY, cents bigint NOT NULL);
    INSERT INTO customers (name) SELECT 'c' || i FROM generate_series(1, 100) i;
    INSERT INTO orders (customer, total, note, doc, raw)
        SELECT i % 100 + 1, i, E'n\\ \n\t''' || i, '{"a":  1}', decode(md5(i::text), 'hex')
        FROM generate_series(1, 1000) i;
    INSERT INTO "Order Items" ("Größe", "order") SELECT 'ö' || i, i FROM generate_series(1, 50) i;
    INSERT INTO sales SELECT '2025-12-01'::date + i, i FROM generate_series(1, 100) i;
    INSERT INTO numbered (v) VALUES ('a'), ('b');
    INSERT INTO plain SELECT i % 7, 'x' FROM generate_series(1, 70) i;
    INSERT INTO big SELECT i, repeat('0123456789abcde' || chr(10), 500000)
        FROM generate_series(1, 3) i;
    INSERT INTO pages SELECT i, lo_from_bytea(0, decode(md5(i::text), 'hex'))
        FROM generate_series(1, 5) i;
    INSERT INTO account SELECT i, 1000 FROM generate_series(1, 50) i;
    SELECT setval('numbers', 41);
"#;

/// Begins a story whose database has one of everything, and is backed up.
pub(crate) async fn begin(major: u32) -> Option<Story> {
    let story = Story::begin(major, "local").await?;
    fs::create_dir(story.site.path("scratch")).unwrap();
    connect(&story.server).await.batch_execute(SCHEMA).await.unwrap();
    story.back_up();
    Some(story)
}

/// Where a database of the story's server is.
pub(crate) fn url(story: &Story, database: &str) -> String {
    format!("postgres://{POSTGRES_USER}@127.0.0.1:{}/{database}", story.server.port())
}

/// A partial restore into the database that was backed up, with programs of the server's version.
pub(crate) fn run(story: &Story, words: &[&str]) -> (i32, Value, String) {
    let url = url(story, "postgres");
    let all = ["restore", "shop", "--into", &url, "--scratch", "scratch", "--output", "json"];
    let output = command(story, &[&all[..], words].concat()).output().unwrap();
    let answer = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap_or(-1), answer, String::from_utf8(output.stderr).unwrap())
}

/// Versions that tell most; with `STILLPOINT_VERSIONS=every`, all of them.
pub(crate) fn versions() -> Vec<u32> {
    if env::var_os("STILLPOINT_VERSIONS").is_some_and(|versions| versions == "every") {
        return POSTGRES_VERSIONS.to_vec();
    }
    #[expect(clippy::print_stderr, reason = "what is not run must be seen")]
    {
        eprintln!("run with PostgreSQL 15 and 17; STILLPOINT_VERSIONS=every runs the others, too");
    }
    vec![15, 17]
}

/// The `pg_dump` of a version, or of the next one that is there: it reads older servers.
fn dumper(major: u32) -> PathBuf {
    let mut versions = POSTGRES_VERSIONS.into_iter().filter(|version| *version >= major);
    versions.find_map(|version| Postgres::program(version, "pg_dump").ok()).unwrap()
}

pub(crate) fn command(story: &Story, words: &[&str]) -> Command {
    let mut command = story.site.command(words);
    command.env("PATH", programs(story));
    command
}

/// Where the programs of the server's version are.
pub(crate) fn programs(story: &Story) -> std::ffi::OsString {
    let major = story.server.major();
    let dump = dumper(major);
    let mut places = vec![Postgres::programs(major).unwrap(), dump.parent().unwrap().to_owned()];
    places.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    env::join_paths(places).unwrap()
}

pub(crate) fn ok(story: &Story, words: &[&str]) -> Value {
    let (status, answer, said) = run(story, words);
    assert_eq!(status, 0, "{words:?}\n{said}");
    answer
}

pub(crate) fn fails(story: &Story, words: &[&str], status: i32, said: &[&str]) {
    let (got, answer, err) = run(story, words);
    assert_eq!(got, status, "{words:?} {answer}\n{err}");
    for word in said {
        assert!(err.contains(word), "{words:?}: {word}\n{err}");
    }
}

/// Everything that `pg_dump` says of a database, but what `exclude` fits.
pub(crate) fn dump(story: &Story, database: &str, words: &[&str]) -> String {
    let output = Command::new(dumper(story.server.major()))
        .args(["-h", "127.0.0.1", "-U", POSTGRES_USER, "-p", &story.server.port().to_string()])
        .args(words)
        .arg(database)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let is_stable = |line: &&str| !line.starts_with('\\') || *line == "\\.";
    text.lines().filter(is_stable).collect::<Vec<_>>().join("\n")
}

/// One number or text that a database answers.
pub(crate) async fn ask(story: &Story, query: &str) -> String {
    story.ask(&format!("SELECT ({query})::text")).await
}

/// The rows of a table, as one hash.
pub(crate) async fn rows(story: &Story, table: &str) -> String {
    let query = format!(
        "SELECT count(*) || ' ' || coalesce(md5(string_agg(t::text, ',' ORDER BY t::text)), '') \
         FROM {table} t"
    );
    ask(story, &query).await
}
