//! Logging in, in every way that servers ask for.

use std::{fs, process::Command};

use stillpoint_contract::{Engine as _, ErrorKind};
use stillpoint_testcontainers::{Authority, PostgresOptions};

use super::stage::{Stage, engine};

/// A server that asks `method` of everybody but the superuser.
async fn stage(major: u32, method: &str) -> Option<Stage> {
    let hba = ["all", "replication"].map(|database| {
        format!("host {database} postgres all trust\nhost {database} all all {method}")
    });
    let options = PostgresOptions { hba: hba.into(), ..PostgresOptions::default() };
    let stage = Stage::open_with(major, &options).await?;
    let encryption = if method == "md5" { "md5" } else { "scram-sha-256" };
    stage
        .run(&format!(
            "SET password_encryption = '{encryption}'; \
             CREATE ROLE alice LOGIN REPLICATION PASSWORD 'it''s secret'"
        ))
        .await;
    Some(stage)
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_open_both_kinds_of_sessions() {
    for method in ["scram-sha-256", "md5"] {
        for major in [13, 18] {
            let Some(stage) = stage(major, method).await else { return };
            let good = r"user=alice password='it\'s secret' method=base_backup";
            stage.back_up(good).await;
            let wrong = engine().connect(&stage.endpoint("user=alice password=guess")).await;
            let wrong = wrong.unwrap_err();
            assert_eq!(wrong.kind(), ErrorKind::Denied);
            assert!(!format!("{wrong:?}").contains("guess"));
            let none = engine().connect(&stage.endpoint("user=alice")).await;
            assert!(none.is_err());
            let file = stage.server.socket_directory().join("pgpass");
            fs::write(&file, r"127.0.0.1:*:*:alice:it's secret").unwrap();
            fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600))
                .unwrap();
            let known = format!("user=alice method=base_backup passfile={}", file.display());
            stage.back_up(&known).await;
        }
    }
}

fn certificate(stage: &Stage, name: &str) -> std::path::PathBuf {
    let data = stage.server.data();
    let (key, cert) = (data.join("server.key"), data.join("server.crt"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=x"])
        .arg("-addext")
        .arg(format!("subjectAltName={name}"))
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    // The server's user must own them.
    for file in [&key, &cert] {
        let _ = std::os::unix::fs::chown(file, Some(65534), Some(65534));
    }
    let copy = stage.server.socket_directory().join(format!("{}.crt", name.replace(':', "-")));
    fs::copy(&cert, &copy).unwrap();
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_verified_as_far_as_sslmode_says() {
    let Some(mut stage) = stage(15, "scram-sha-256").await else { return };
    let good = certificate(&stage, "IP:127.0.0.1");
    stage.run("ALTER SYSTEM SET ssl = on").await;
    stage.server.stop().unwrap();
    stage.server.restart().unwrap();
    let login = r"user=alice password='it\'s secret' method=base_backup";
    let root = format!("sslrootcert={}", good.display());
    for settings in [
        "sslmode=require",
        "sslmode=prefer",
        "sslmode=require channel_binding=require",
        &format!("sslmode=verify-ca {root}"),
        &format!("sslmode=verify-full {root} channel_binding=require"),
    ] {
        stage.back_up(&format!("{login} {settings}")).await;
    }
    let other = certificate(&stage, "DNS:db.example");
    for (settings, why) in [
        ("sslmode=verify-full", "an unknown authority"),
        (&format!("sslmode=verify-ca sslrootcert={}", other.display()), "another authority"),
        ("sslmode=disable channel_binding=require", "no channel to bind to"),
    ] {
        let refused = engine().connect(&stage.endpoint(&format!("{login} {settings}"))).await;
        assert!(refused.is_err(), "{why}");
    }
    stage.server.stop().unwrap();
    stage.server.restart().unwrap();
    let root = format!("sslrootcert={}", other.display());
    stage.back_up(&format!("{login} sslmode=verify-ca {root}")).await;
    let endpoint = stage.endpoint(&format!("{login} sslmode=verify-full {root}"));
    assert!(engine().connect(&endpoint).await.is_err(), "a certificate for another name");
}

/// Gives a certificate to a server, which reads it.
async fn give(authority: &Authority, stage: &Stage, name: &str) {
    authority.give(&stage.server, name).unwrap();
    stage.run("ALTER SYSTEM SET ssl_ca_file = 'root.crt'").await;
    stage.run("ALTER SYSTEM SET ssl = on").await;
    stage.run("SELECT pg_reload_conf()").await;
    // Backends that begin later have read it.
    std::thread::sleep(std::time::Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn row_28_certificates_are_exchanged_at_any_time_and_old_ones_are_named() {
    let Some(stage) = stage(15, "scram-sha-256").await else { return };
    let (first, second) = (Authority::new().unwrap(), Authority::new().unwrap());
    first.issue("good", 2).unwrap();
    give(&first, &stage, "good").await;
    let trusted = first.path("trusted.crt");
    fs::copy(first.path("ca.crt"), &trusted).unwrap();
    let login = r"user=alice password='it\'s secret' method=base_backup sslmode=verify-full";
    let settings = format!("{login} sslrootcert={}", trusted.display());
    let endpoint = stage.endpoint(&settings);
    let driver = engine().connect(&endpoint).await.unwrap();
    driver.probe().await.unwrap();
    let known = engine().certificates(&endpoint).unwrap();
    assert_eq!((known.len(), &known[0].file), (1, &trusted));

    // Another authority: who connects finds it, without being started again.
    second.issue("good", 2).unwrap();
    give(&second, &stage, "good").await;
    assert_eq!(driver.probe().await.unwrap_err().kind(), ErrorKind::Refused);
    fs::copy(second.path("ca.crt"), &trusted).unwrap();
    driver.probe().await.unwrap();
    stage.back_up(&settings).await;

    // One of the server's, and then one of ours, that are too old.
    second.issue("old", -1).unwrap();
    give(&second, &stage, "old").await;
    let refused = driver.probe().await.unwrap_err();
    let why = refused.reason().unwrap_or_default();
    assert!(why.starts_with("the server's certificate was valid until 20"), "{refused:?}");
    give(&second, &stage, "good").await;
    let shown = |name: &str| {
        let (cert, key) = (format!("{name}.crt"), format!("{name}.key"));
        let (cert, key) = (second.path(&cert), second.path(&key));
        fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        format!("{settings} sslcert={} sslkey={}", cert.display(), key.display())
    };
    engine().connect(&stage.endpoint(&shown("good"))).await.unwrap();
    let refused = engine().connect(&stage.endpoint(&shown("old"))).await;
    let refused = refused.unwrap_err();
    let named = refused.facts().into_iter().find(|(label, _)| *label == "certificate");
    let named = named.map(|(_, value)| value.to_owned()).unwrap_or_default();
    let file = second.path("old.crt").display().to_string();
    assert!(named.starts_with(&format!("{file} was valid until 20")), "{refused:?}");
    let driver = engine().connect(&stage.endpoint(&shown("good"))).await.unwrap();
    let findings = driver.examine().await.unwrap();
    let told = findings.iter().filter(|one| one.subject == "certificate");
    assert!(told.map(|one| one.weight).eq([stillpoint_contract::Weight::Advice; 2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_host_that_fits_is_taken() {
    let Some(mut stage) = Stage::open(15, &[]).await else { return };
    let standby = stage.server.standby().unwrap();
    let hosts = |target: &str| {
        let (first, second) = (standby.port(), stage.server.port());
        let mut endpoint = stage.endpoint("");
        endpoint.address = format!(
            "//postgres@127.0.0.1:1,127.0.0.1:{first},127.0.0.1:{second}/postgres\
             ?target_session_attrs={target}"
        );
        endpoint
    };
    for (target, port) in [("any", standby.port()), ("read-write", stage.server.port())] {
        let driver = engine().connect(&hosts(target)).await.unwrap();
        let location = driver.probe().await.unwrap().identity.location;
        assert!(location.starts_with(&format!("127.0.0.1:{port}")), "{target}: {location}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_preferred_wherever_it_is_named() {
    let Some(mut stage) = Stage::open(15, &[]).await else { return };
    let standby = stage.server.standby().unwrap();
    let among = async |ports: [u16; 2]| {
        let mut endpoint = stage.endpoint("");
        endpoint.address = format!(
            "//postgres@127.0.0.1:{},127.0.0.1:{}/postgres?target_session_attrs=prefer-standby",
            ports[0], ports[1]
        );
        let driver = engine().connect(&endpoint).await.unwrap();
        driver.probe().await.unwrap().identity.location
    };
    let (first, second) = (stage.server.port(), standby.port());
    for (ports, expected) in
        [([first, second], second), ([second, first], second), ([first, 1], first)]
    {
        let location = among(ports).await;
        assert!(location.starts_with(&format!("127.0.0.1:{expected}")), "{ports:?}: {location}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_postgresql_is_told_apart() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut socket, b"HTTP/1.1 400\r\n\r\n").await;
        }
    });
    let mut endpoint = stillpoint_contract::Endpoint {
        scheme: "postgres".into(),
        address: format!("//127.0.0.1:{port}/"),
        settings: std::collections::BTreeMap::new(),
    };
    let foreign = engine().connect(&endpoint).await.unwrap_err();
    assert_eq!(foreign.kind(), ErrorKind::Unsupported, "{foreign:?}");
    endpoint.address = "//127.0.0.1:1/".into();
    assert_eq!(engine().connect(&endpoint).await.unwrap_err().kind(), ErrorKind::Transient);
    endpoint.address = "host=/nowhere".into();
    assert_eq!(engine().connect(&endpoint).await.unwrap_err().kind(), ErrorKind::Missing);
}
