//! Ways on which people are told, and what Prometheus is told.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

use serde_json::Value;
use stillpoint_testcontainers::Mail;

use super::ward::{HEAD, Ward};

/// A request, as it came.
#[derive(Clone, Debug)]
struct Request {
    line: String,
    headers: Vec<String>,
    body: String,
}

/// A server that refuses the first of what is posted, and takes the rest.
fn sink() -> (String, Arc<Mutex<Vec<Request>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
    let all = Arc::clone(&seen);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let request = receive(&stream);
            let is_post = |request: &Request| request.line.starts_with("POST");
            let is_first = is_post(&request) && !all.lock().unwrap().iter().any(is_post);
            all.lock().unwrap().push(request);
            let status = if is_first { "503 Unavailable" } else { "204 No Content" };
            let answer =
                format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            (&stream).write_all(answer.as_bytes()).unwrap();
        }
    });
    (url, seen)
}

fn receive(stream: &TcpStream) -> Request {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let length = lines.iter().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().unwrap())
    });
    let mut body = vec![0; length.unwrap_or_default()];
    reader.read_exact(&mut body).unwrap();
    let line = lines.remove(0);
    Request { line, headers: lines, body: String::from_utf8(body).unwrap() }
}

fn header(request: &Request, wanted: &str) -> String {
    let mut pairs = request.headers.iter().filter_map(|line| line.split_once(": "));
    let found = pairs.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
    found.map_or_else(|| panic!("{wanted}: {request:?}"), |(_, value)| value.to_owned())
}

#[test]
fn webhooks_are_signed_and_tried_again_mail_arrives_and_hearts_beat() {
    let Some(mail) = Mail::required() else { return };
    let (url, seen) = sink();
    let ward = Ward::new("");
    let policy = "[policy.default]\nrpo = \"5s\"\nlogs = \"never\"\n";
    let database = "[database.app]\nendpoint = \"sqlite:app.db\"\n";
    let server = mail.url();
    ward.configure(&format!(
        "{HEAD}{policy}{database}[coordinator.mail]\nserver = \"{server}\"\n\
         from = \"stillpoint@example.com\"\n[[alert]]\nname = \"all\"\n\
         to = [{{ webhook = {{ env = \"PAGER_URL\" }} }}, {{ email = \"dba@example.com\" }}]\n\
         sign = {{ env = \"PAGER_KEY\" }}\n\
         heartbeat = {{ url = \"{url}/alive\", every = \"1s\" }}\n"
    ));
    ward.create("app.db");
    let hook = format!("{url}/hook?token=s3cret");
    let serving = ward.serve_with(&[("PAGER_URL", &hook), ("PAGER_KEY", "hunter2")]);
    let posts = || {
        let seen = seen.lock().unwrap().clone();
        seen.into_iter().filter(|request| request.line.starts_with("POST")).collect::<Vec<_>>()
    };
    ward.wait_until("a webhook, twice", || posts().len() >= 2);
    ward.wait_until("mail", || mail.messages().contains("rpo-breached"));
    let posts = posts();
    assert_eq!(posts[0].line, "POST /hook?token=s3cret HTTP/1.1");
    assert_eq!(posts[0].body, posts[1].body, "what was refused is sent again");
    assert_eq!(header(&posts[0], "idempotency-key"), header(&posts[1], "idempotency-key"));
    let notice: Value = serde_json::from_str(&posts[1].body).unwrap();
    assert_eq!(
        (&notice["schema"], &notice["kind"]),
        (&"stillpoint.notice/1".into(), &"raised".into())
    );
    let signature = header(&posts[1], "x-stillpoint-signature");
    assert_eq!(signature, signed("hunter2", &posts[1].body));
    let text = mail.messages();
    for told in ["To: dba@example.com", "From: stillpoint@example.com", "app: rpo-breached"] {
        assert!(text.contains(told), "{told}: {text}");
    }
    let beats = seen.lock().unwrap().iter().filter(|r| r.line.contains("/alive")).count();
    assert!(beats >= 2, "{beats}");
    serving.stop();
    // Row 26: secrets are in no log and in no command line.
    for secret in ["s3cret", "hunter2"] {
        assert!(!ward.said().contains(secret), "{}", ward.said());
    }
}

/// HMAC-SHA256, as another program computes it.
fn signed(key: &str, body: &str) -> String {
    let script = "import hmac, hashlib, sys; print('sha256=' + hmac.new(sys.argv[1].encode(), \
                  sys.argv[2].encode(), hashlib.sha256).hexdigest())";
    let output = Command::new("python3").args(["-c", script, key, body]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn promtool(words: &[&str], folder: &Path, input: &str) -> Option<String> {
    let mut command = Command::new("promtool");
    command.args(words).current_dir(folder).stdin(std::process::Stdio::piped());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(missing) => {
            assert!(std::env::var_os("CI").is_none(), "promtool: {missing}");
            #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
            {
                eprintln!("SKIPPED: promtool is missing: apt-get install prometheus");
            }
            return None;
        }
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "promtool {words:?}: {told}\n{input}");
    Some(told)
}

#[test]
fn the_shipped_alert_rules_fire_when_they_should() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/prometheus");
    let words = ["test", "rules", "stillpoint.rules.test.yml"];
    let Some(told) = promtool(&words, &folder, "") else { return };
    assert!(told.contains("SUCCESS"), "{told}");
}

/// What is not known has no sample, and what the rules ask for is there.
#[test]
fn metrics_are_served_where_somebody_asked_for_them() {
    let ward = Ward::new("");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let policy = "[policy.default]\nrto = \"1h\"\n";
    let one = "[database.one]\nendpoint = \"sqlite:one.db\"\n";
    let two = "[database.\"t \\\"w\\\\o\"]\nendpoint = \"sqlite:two.db\"\n";
    let metrics = format!("[coordinator]\nmetrics = \"{port}\"\n");
    ward.configure(&format!("{HEAD}{metrics}{policy}{one}{two}"));
    ward.create("one.db");
    let serving = ward.serve();
    ward.wait_for_backups("one", 1);
    let page = || ask(port, "/metrics");
    ward.wait_until("what is known", || page().contains("ever_succeeded{database=\"one\"} 1"));
    let text = page();
    let body = text.split_once("\r\n\r\n").unwrap().1;
    assert!(text.contains("text/plain; version=0.0.4"), "{text}");
    let newest = "stillpoint_database_restore_point_newest_timestamp_seconds";
    assert!(body.contains(&format!("{newest}{{database=\"one\"}}")), "{body}");
    let escaped = "{database=\"t \\\"w\\\\o\"}";
    assert!(body.contains(&format!("ever_succeeded{escaped} 0")), "{body}");
    assert!(!body.contains(&format!("{newest}{escaped}")), "it is absent when unknown: {body}");
    assert!(
        body.contains("stillpoint_database_rto_target_seconds{database=\"one\"} 3600"),
        "{body}"
    );
    // The second database has no server: its jobs fail, and so does nobody else's.
    ward.wait_until("a job that failed", || page().contains("outcome=\"failed\""));
    let packs = "stillpoint_repository_objects{repo=\"primary\",class=\"packs\"}";
    ward.wait_until("a count", || page().contains(packs));
    let text = page();
    let body = text.split_once("\r\n\r\n").unwrap().1;
    for known in [
        "# TYPE stillpoint_jobs_total counter",
        "stillpoint_jobs_total{kind=\"full\",outcome=\"succeeded\"} 1",
        "# TYPE stillpoint_job_duration_seconds histogram",
        "stillpoint_job_duration_seconds_bucket{kind=\"full\",engine=\"sqlite\",le=\"+Inf\"}",
        "# TYPE stillpoint_schedule_lateness_seconds histogram",
        "stillpoint_database_backup_last_success_timestamp_seconds{database=\"one\",kind=\"full\"}",
        "stillpoint_database_coverage_gap_seconds{database=\"one\"} 0",
        "stillpoint_database_repo_bytes{database=\"one\",copy=\"primary\"}",
        "# TYPE stillpoint_repository_bytes gauge",
        "# TYPE stillpoint_repository_dedup_ratio gauge",
        "# TYPE stillpoint_repository_requests_total counter",
        "stillpoint_verify_corrupt_objects_total 0",
    ] {
        assert!(body.contains(known), "{known}: {body}");
    }
    for unknown in ["drill_rto_seconds", "kind=\"incremental\"", "alerts_suppressed_total"] {
        assert!(!body.contains(unknown), "{unknown}: {body}");
    }
    assert!(ask(port, "/").starts_with("HTTP/1.1 404"));
    promtool(&["check", "metrics"], Path::new("/"), body);
    // Every series that the rules ask for is one that there is, once something is the matter.
    let rules = include_str!("../../../contrib/prometheus/stillpoint.rules.yml");
    let words = rules.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let names: Vec<_> = words.filter(|word| word.starts_with("stillpoint_")).collect();
    assert!(names.len() >= 7);
    // These are about what is the matter, about files that SQLite does not need, and about
    // agents.
    let others = [
        "stillpoint_database_alert",
        "stillpoint_certificate_expiry_timestamp_seconds",
        "stillpoint_agent_last_seen_timestamp_seconds",
    ];
    for name in names.iter().filter(|name| !others.contains(name)) {
        assert!(body.contains(&format!("# TYPE {name} gauge")), "{name}: {body}");
    }
    serving.stop();
}

fn ask(address: std::net::SocketAddr, path: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(address) else { return String::new() };
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap_or_default();
    text
}
