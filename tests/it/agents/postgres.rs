//! An agent beside a server of PostgreSQL, with a state database that it reaches over the network.

use stillpoint_testcontainers::Postgres;

use crate::serving::ward::{HEAD, Ward};

/// Row 2: the agent on the database's host reaches it through a socket, does what is due once, and
/// ends; all that it needs to be told is its name and where the state database is.
#[test]
fn row_2_an_agent_backs_up_through_a_socket_and_ends() {
    let Some(server) = Postgres::required(17) else { return };
    let socket = server.socket_directory().display().to_string().replace('/', "%2F");
    let port = server.port();
    let state = format!("postgres://postgres@127.0.0.1:{port}/postgres");
    let policy = "[policy.default]\nlogs = \"never\"\nrpo = \"2d\"\n";
    let database = format!(
        "[database.app]\nendpoint = \"postgres://postgres@{socket}:{port}/postgres\"\n\
         agent = \"db-7\"\n\
         [database.gone]\nendpoint = \"sqlite:gone.db\"\nagent = \"db-8\"\n"
    );
    let coordinator = format!("[coordinator]\nstate = \"{state}\"\n");
    let ward = Ward::new(&format!("{HEAD}{policy}{database}{coordinator}"));
    let serving = ward.serve();
    ward.wait_until("whoever serves", || ward.said().contains("serve.started"));
    let of = |name| ["agent", "--name", name, "--once", "--state", &state];
    let once = of("db-7");
    // Beside it, one whose job fails: its exit status says so.
    let failing = ward.start(&of("db-8"), &[]);
    let (status, told) = ward.run(&once);
    assert_eq!(status, 0, "{told}");
    assert_eq!((failing.wait(), ward.jobs("gone")[0]["outcome"].as_str()), (8, Some("failed")));
    let (status, told) = ward.run(&of("db-9"));
    assert!(status == 6 && told.contains("no database that was applied names it"), "{told}");
    let jobs = ward.jobs("app");
    let first = (&jobs[0]["kind"], &jobs[0]["outcome"], &jobs[0]["agent"]);
    assert_eq!(first, (&"full".into(), &"succeeded".into(), &"db-7".into()), "{jobs:#?}");
    assert_eq!((jobs.len(), ward.status("app")["backups"].as_u64()), (1, Some(1)));
    drop(server);
    assert_eq!(serving.stop(), 143);
    let (status, told) = ward.run(&once);
    assert_eq!(status, 4, "{told}");
}
