//! Roles with few rights, standbys, and later timelines.

use stillpoint_contract::{Engine as _, PartName, Weight};

use super::stage::{Bustle, Restored, Stage, engine};

#[tokio::test(flavor = "multi_thread")]
async fn a_role_made_by_grants_takes_backups_and_lacks_nothing() {
    for major in [13, 18] {
        let Some(stage) =
            Stage::open(major, &["summarize_wal = on"][..usize::from(major > 16)]).await
        else {
            return;
        };
        stage.run(&engine().grants("keeper", Some(major)).unwrap().unwrap()).await;
        for way in ["sql", "local", "base_backup"] {
            let bustle = Bustle::start(&stage).await;
            let copy = stage.back_up(&format!("user=keeper method={way}")).await;
            bustle.end().await;
            Restored::start(major, &copy).unwrap().check().await;
        }
        let findings = stage.driver("user=keeper").await.examine().await.unwrap();
        let lacking: Vec<_> = findings.iter().filter(|f| f.weight == Weight::Lacking).collect();
        assert!(lacking.is_empty(), "{lacking:?}");
        stage.run("CREATE ROLE weak LOGIN").await;
        let findings = stage.driver("user=weak").await.examine().await.unwrap();
        // What it says to run, helps.
        for finding in findings.iter().filter(|f| f.subject.starts_with("may ")) {
            stage.run(finding.statement.as_ref().unwrap()).await;
        }
        stage.back_up("user=weak method=sql").await;
        stage.back_up("user=weak method=base_backup").await;
        let denied = stage.client().await;
        let denied = denied.batch_execute("SET ROLE keeper; SELECT * FROM accounts").await;
        assert!(denied.is_err(), "the role can read tables");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn standbys_are_backed_up_as_well_as_their_primary() {
    let Some(mut stage) = Stage::open(15, &[]).await else { return };
    let standby = Stage { server: stage.server.standby().unwrap() };
    for way in ["sql", "local", "base_backup"] {
        let bustle = Bustle::start(&stage).await;
        let copy = standby.back_up(&format!("method={way}")).await;
        bustle.end().await;
        // A standby's copy waits for more WAL only if it is told to be a standby again.
        let restored = Restored::start_alone(15, &copy).unwrap();
        restored.check().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_timeline_brings_its_history() {
    let Some(mut stage) = Stage::open(17, &["summarize_wal = on"]).await else { return };
    let before = stage.back_up("method=sql").await;
    let standby = Stage { server: stage.server.standby().unwrap() };
    standby.run("SELECT pg_promote()").await;
    for way in ["sql", "local", "base_backup"] {
        let bustle = Bustle::start(&standby).await;
        let copy = standby.back_up(&format!("method={way}")).await;
        bustle.end().await;
        let history = PartName::new("pg_wal/00000002.history").unwrap();
        assert!(copy.parts.bytes(&history).is_some_and(|text| text.starts_with(b"1\t")), "{way}");
        let lineage = copy.evidence.consistent_at.as_ref().unwrap().lineage.as_str().to_owned();
        assert!(lineage.ends_with("/2"), "{way}: {lineage}");
        Restored::start(17, &copy).unwrap().check().await;
        // What changed since a backup on the timeline before is not known.
        let next = standby.try_back_up(&format!("method={way}"), Some(&before)).await.unwrap();
        Restored::start(17, &next).unwrap().check().await;
    }
}
