//! Backups that do not come to their end.

use std::time::Duration;

use stillpoint_conformance::memory::RealClock;
use stillpoint_contract::{Clock as _, Engine as _, ErrorKind};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

use super::stage::{Stage, back_up, engine};

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_backup_leaves_nothing_in_the_server() {
    let Some(stage) = Stage::open(15, &[]).await else { return };
    for way in ["sql", "local", "base_backup"] {
        let driver = stage.driver(&format!("method={way}")).await;
        for delay_ms in [1, 5, 20, 40, 80, 120, 200, 300] {
            let limit = Duration::from_millis(delay_ms);
            let _ = tokio::time::timeout(limit, back_up(driver.as_ref(), None, 3)).await;
            stage.settled().await;
        }
        // And the next one is none the worse for it.
        back_up(driver.as_ref(), None, 3).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_or_a_killed_server_is_a_departure() {
    let Some(mut stage) = Stage::open(17, &[]).await else { return };
    stage
        .run(
            "CREATE TABLE big AS \
         SELECT repeat(md5(n::text), 50) FROM generate_series(1, 40000) AS n",
        )
        .await;
    for way in ["sql", "local", "base_backup"] {
        let driver = stage.driver(&format!("method={way}")).await;
        let cut = async {
            RealClock::new().sleep(Duration::from_millis(60)).await;
            stage
                .run(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                     WHERE application_name = 'stillpoint'",
                )
                .await;
        };
        let (outcome, ()) = tokio::join!(back_up(driver.as_ref(), None, 3), cut);
        if let Err(error) = outcome {
            assert_eq!(error.kind(), ErrorKind::Departed, "{way}: {error:?}");
        }
        stage.settled().await;
    }
    for way in ["sql", "base_backup"] {
        let driver = stage.driver(&format!("method={way}")).await;
        let task = tokio::spawn(async move { back_up(driver.as_ref(), None, 3).await.map(drop) });
        RealClock::new().sleep(Duration::from_millis(100)).await;
        stage.server.kill();
        if let Err(error) = task.await.unwrap() {
            let expected = [ErrorKind::Departed, ErrorKind::Transient];
            assert!(expected.contains(&error.kind()), "{way}: {error:?}");
        }
        stage.server.restart().unwrap();
    }
}

/// A way to the server on which only the first connections get through.
async fn broken_way(stage: &Stage, connections: usize) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (here, there) = (listener.local_addr().unwrap().port(), stage.server.port());
    tokio::spawn(async move {
        for _ in 0..connections {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = TcpStream::connect(("127.0.0.1", there)).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await });
        }
        while let Ok((client, _)) = listener.accept().await {
            drop(client);
        }
    });
    here
}

/// Whichever connection cannot be made: nobody is told to raise limits of the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_not_let_through_is_a_departure() {
    let Some(stage) = Stage::open(15, &[]).await else { return };
    for way in ["sql", "base_backup"] {
        let (mut failed, mut done) = (0, 0);
        for connections in [1, 2, 3, 4, 5, 20] {
            let port = broken_way(&stage, connections).await;
            let endpoint = stage.endpoint(&format!("port={port} sslmode=disable method={way}"));
            let outcome = match engine().connect(&endpoint).await {
                Ok(driver) => back_up(driver.as_ref(), None, 3).await.map(drop),
                Err(error) => Err(error),
            };
            match outcome {
                Ok(()) => done += 1,
                Err(error) => {
                    let expected = [ErrorKind::Departed, ErrorKind::Transient];
                    let kind = error.kind();
                    assert!(expected.contains(&kind), "{way}, {connections}: {error:?}");
                    failed += 1;
                }
            }
        }
        assert!(failed > 1 && done > 0, "{way}: {failed} failed, {done} did not");
        stage.settled().await;
    }
}
