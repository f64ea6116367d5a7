//! What belongs to a cluster beside its rows: configuration, roles, and which programs it needs.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{fs, io::Write as _};

use stillpoint_testcontainers::Postgres;
use tokio_postgres::{Client, NoTls};

use crate::postgres::{Story, connect};

/// Files of the configuration, and what somebody adds to them by hand.
const FILES: [(&str, &str); 4] = [
    ("postgresql.conf", "# tuned in spring\nwork_mem = 6MB # as the application wants it\n"),
    ("postgresql.auto.conf", ""),
    ("pg_hba.conf", "# the desk\nhost other clerk 10.1.2.0/24 scram-sha-256\n"),
    ("pg_ident.conf", "desk /^(.*)@shop\\.example$ \\1\n"),
];

/// Everything about roles, with the hashes of their passwords.
const ROLES: &str = "
    SELECT string_agg(concat_ws(' ', rolname, rolcanlogin, rolconnlimit, rolpassword,
        s.setconfig::text), '; ' ORDER BY rolname)
    FROM pg_authid LEFT JOIN pg_db_role_setting s ON s.setrole = pg_authid.oid";

async fn in_database(server: &Postgres, name: &str) -> Client {
    let conninfo = server.conninfo().replace("dbname=postgres", &format!("dbname={name}"));
    let (client, connection) = tokio_postgres::connect(&conninfo, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn text(client: &Client, query: &str) -> String {
    client.query_one(query, &[]).await.unwrap().get(0)
}

/// Row 38: a restore brings the configuration back byte for byte, and the roles; each backup names
/// the server's exact version, and the extensions of each database with theirs.
#[tokio::test(flavor = "multi_thread")]
async fn row_38_configuration_and_roles_come_back_and_versions_are_named() {
    for major in [15, 17] {
        let Some(story) = Story::begin(major, "sql").await else { continue };
        let client = connect(&story.server).await;
        client.batch_execute("ALTER SYSTEM SET maintenance_work_mem = '77MB'").await.unwrap();
        let roles = "CREATE ROLE clerk LOGIN PASSWORD 'swordfish' CONNECTION LIMIT 7;
            ALTER ROLE clerk SET search_path = 'desk'; CREATE EXTENSION pg_trgm";
        client.batch_execute(roles).await.unwrap();
        client.batch_execute("CREATE DATABASE other").await.unwrap();
        let other = in_database(&story.server, "other").await;
        other.batch_execute("CREATE EXTENSION amcheck").await.unwrap();
        for (file, line) in FILES {
            let path = story.server.data().join(file);
            fs::File::options()
                .append(true)
                .open(path)
                .unwrap()
                .write_all(line.as_bytes())
                .unwrap();
        }
        let written = FILES.map(|(file, _)| fs::read(story.server.data().join(file)).unwrap());
        let made = story.back_up();

        story.ok(&["restore", "shop", "--to", "back"]);
        for ((file, _), written) in FILES.iter().zip(&written) {
            let back = fs::read(story.site.path("back").join(file)).unwrap();
            assert_eq!(String::from_utf8_lossy(&back), String::from_utf8_lossy(written), "{file}");
        }
        let server = Postgres::start_on(major, &story.site.path("back")).unwrap();
        let restored = connect(&server).await;
        assert_eq!(text(&restored, ROLES).await, text(&client, ROLES).await);
        let settings = "SELECT concat_ws(' ', current_setting('work_mem'), \
                        current_setting('maintenance_work_mem'))";
        assert_eq!(text(&restored, settings).await, "6MB 77MB");

        let shown = |id: &str| story.ok(&["show", id]);
        let first = made["backup"]["id"].as_str().unwrap();
        let told = shown(first);
        assert_eq!(told["engine_version"], text(&client, "SHOW server_version").await);
        for (database, client, name) in
            [("postgres", &client, "pg_trgm"), ("other", &other, "amcheck")]
        {
            let query = format!("SELECT extversion FROM pg_extension WHERE extname = '{name}'");
            let extensions = &told["extensions"][database];
            assert_eq!(extensions[name], text(client, &query).await, "{told:#}");
            assert!(extensions["plpgsql"].is_string(), "{told:#}");
        }
        let page = story.page(&["show", first]);
        assert!(page.contains("extensions of other  amcheck "), "{page}");

        // Each backup has an inventory of its own.
        other.batch_execute("DROP EXTENSION amcheck; CREATE EXTENSION citext").await.unwrap();
        let second = story.back_up();
        let second = shown(second["backup"]["id"].as_str().unwrap());
        let of =
            |told: &serde_json::Value, name: &str| told["extensions"]["other"][name].is_string();
        assert!(of(&second, "citext") && !of(&second, "amcheck"), "{second:#}");
        assert!(of(&shown(first), "amcheck") && !of(&shown(first), "citext"));
    }
}
