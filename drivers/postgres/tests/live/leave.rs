//! Backups that do not come to their end.

use std::time::Duration;

use stillpoint_conformance::memory::RealClock;
use stillpoint_contract::{Clock as _, ErrorKind};

use super::stage::{Stage, back_up};

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
