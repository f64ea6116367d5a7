//! Workers of a site beside whoever serves, on a database of SQLite.

use crate::{
    copies::yard::listed,
    serving::ward::{HEAD, Ward},
};

const DR: &str = "[repository.dr]\nurl = \"dr\"\nsite = \"dr\"\n\
    [policy.default]\nlogs = \"never\"\nrpo = \"2d\"\n\
    [[policy.default.copy]]\nname = \"dr\"\nto = \"dr\"\nrun_on = \"site=dr\"\n\
    [database.app]\nendpoint = \"sqlite:app.db\"\n";

/// Row 30: what is bound to a site waits for a worker there, and says so; whoever serves elsewhere
/// does not make the copy, and an agent there does that and nothing else.
#[test]
fn row_30_a_copy_waits_for_a_worker_of_its_site() {
    let ward = Ward::new(&format!("{HEAD}{DR}"));
    drop(ward.create("app.db"));
    let serving = ward.serve();
    ward.wait_for_backups("app", 1);
    let upkeep = || ward.jobs("repository dr").into_iter().next();
    ward.wait_until("what is to be done there", || upkeep().is_some());
    let id = upkeep().unwrap()["id"].as_str().unwrap().to_owned();
    let shown = ward.json(&["jobs", "show", &id])["job"].clone();
    assert_eq!((&shown["state"], &shown["site"]), (&"waiting".into(), &"dr".into()), "{shown}");
    let never = "no worker of site dr was ever heard of";
    assert_eq!(shown["waits"], never, "{shown}");
    assert!(ward.ok(&["jobs", "show", &id]).contains(never));
    ward.wait_until("that its copy waits", || ward.status("app")["copies"][0]["problem"] == never);
    assert!(!ward.path("dr").exists(), "whoever serves makes no copy of another site");

    let elsewhere = ward.start(&["agent", "--name", "clerk", "--site", "lab"], &[]);
    ward.wait_until("a word that nothing is bound there", || ward.said().contains("site.idle"));
    let agent = ward.start(&["agent", "--name", "porter", "--site", "dr"], &[]);
    ward.wait_until("a copy", || {
        ward.path("dr").exists() && ward.status("app")["copies"][0]["backups"] == 1
    });
    assert_eq!(listed(&ward, "dr"), listed(&ward, "repo"));
    ward.wait_until("its upkeep", || upkeep().is_some_and(|job| job["outcome"] == "succeeded"));
    let copies = ward.jobs("app").into_iter().filter(|job| job["kind"] == "copy dr");
    let sites: Vec<_> = copies.map(|job| job["site"].clone()).collect();
    assert!(!sites.is_empty() && sites.iter().all(|site| site == "dr"), "{sites:?}");
    assert_eq!((agent.stop(), elsewhere.stop(), serving.stop()), (143, 143, 143));
    ward.ok(&["audit", "verify"]);
}
