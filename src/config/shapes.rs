//! Everything that can be configured.

use super::{
    archives::ARCHIVE,
    form::{
        ANY, CRON, LENGTH, NAME, PERIOD, RATE, RUN_ON, SELECTOR, SIZE, SOCKET, TEMPLATE, WINDOW,
        ZONE,
    },
    shape::{Key, Shape},
};
use crate::policy::{Absence, Class, Lifecycle, Mode};

/// Of what somebody can be told.
const CLASSES: &[&str] = &Class::NAMES;

/// Tables of names, which several files may each add to.
pub(super) const SHARED: [&str; 4] = ["repository", "policy", "database", "archive"];

/// A whole configuration.
pub(super) static CONFIGURATION: Shape = Shape::Table(&[
    Key::new("version", Shape::Whole { least: 1, most: 1 }, "the version of this format").must(),
    Key::new("timezone", Shape::Text(&ZONE), "the zone of every calendar that names none")
        .must()
        .alike(&["tz", "time_zone", "zone"]),
    Key::new("coordinator", Shape::Table(COORDINATOR), "the program that runs the policies"),
    Key::new("repository", Shape::Named(&Shape::Table(REPOSITORY)), "where backups are kept")
        .alike(&["repo", "repositories", "storage"]),
    Key::new("policy", Shape::Named(&Shape::Table(POLICY)), "what is promised for databases")
        .alike(&["policies", "tier", "plan"]),
    Key::new("database", Shape::Named(&Shape::Table(DATABASE)), "what is protected").alike(&[
        "databases",
        "db",
        "stanza",
        "server",
        "target",
    ]),
    Key::new(
        "archive",
        Shape::Named(&Shape::Table(ARCHIVE)),
        "which rows are moved out of live tables into files",
    )
    .alike(&["archives", "archiver"]),
    Key::new(
        "discover",
        Shape::List(&Shape::Table(DISCOVER)),
        "who knows which endpoints there are",
    )
    .alike(&["discovery", "sd", "targets"]),
    Key::new("rule", Shape::List(&Shape::Table(RULE)), "which of them belong to which database")
        .alike(&["rules", "match"]),
    Key::new("alert", Shape::List(&Shape::Table(ALERT)), "who is told of what").alike(&[
        "alerts",
        "notify",
        "notification",
    ]),
]);

const DISCOVER: &[Key] = &[
    Key::new("kind", Shape::Word(&["files", "exec", "dns"]), "how it is asked")
        .must()
        .alike(&["type"]),
    Key::new("path", Shape::Text(&ANY), "files: a directory with files in the form of file_sd")
        .alike(&["directory", "dir", "folder"]),
    Key::new(
        "ttl",
        Shape::Text(&LENGTH),
        "how long an endpoint is there without a sign of life [default: until it is taken out]",
    )
    .alike(&["lease"]),
    Key::new(
        "command",
        Shape::List(&Shape::Text(&ANY)),
        "exec: a program that prints what http_sd would answer, with its words",
    )
    .alike(&["exec", "program"]),
    Key::new("every", Shape::Text(&LENGTH), "how often it is asked [default: 1m; files: 2s]")
        .alike(&["period", "interval", "refresh_interval"]),
    Key::new("name", Shape::Text(&NAME), "dns: the name that is looked up").alike(&["names"]),
    Key::new("record", Shape::Word(&["srv", "a"]), "dns: what is looked up [default: \"srv\"]"),
    Key::new("port", Shape::Whole { least: 1, most: 65_535 }, "dns: the port, where none is told"),
    Key::new("server", Shape::Text(&SOCKET), "dns: who is asked [default: as the system does]")
        .alike(&["resolver", "nameserver"]),
    Key::new(
        "labels",
        Shape::Named(&Shape::Text(&ANY)),
        "words that each of its endpoints has, beside its own",
    ),
];

const RULE: &[Key] = &[
    Key::new("select", Shape::Text(&SELECTOR), "which endpoints it is about, by their labels")
        .must()
        .alike(&["selector", "match", "labels"]),
    Key::new("database", Shape::Text(&TEMPLATE), "the name of their database, made of labels")
        .must()
        .alike(&["name"]),
    Key::new(
        "endpoint",
        Shape::Text(&TEMPLATE),
        "how to reach one, made of its target and of labels [default: \"{target}\"]",
    )
    .alike(&["url", "dsn"]),
    ENGINE,
    PASSWORD,
    PROMISE,
    Key::new(
        "repository",
        Shape::Text(&NAME),
        "where its backups are kept [default: the only one]",
    )
    .alike(&["repo"]),
    Key::new(
        "lifecycle",
        LIFECYCLE,
        "whether another server begins another incarnation, or is refused until somebody says \
         that it is right [default: \"ephemeral\"]",
    ),
    Key::new(
        "handoff",
        Shape::Text(&LENGTH),
        "how long it may be without an endpoint before that is told [default: 15m]",
    ),
    Key::new(
        "on_absence",
        Shape::Word(&Absence::NAMES),
        "what follows when there is none for longer [default: \"alert\", when the RPO is broken]",
    ),
];

const LIFECYCLE: Shape = Shape::Word(&Lifecycle::NAMES);

const COORDINATOR: &[Key] = &[
    Key::new(
        "state",
        Shape::Text(&ANY),
        "its state database: sqlite:///PATH, or postgres://... that several coordinators share",
    ),
    Key::new(
        "running",
        Shape::Whole { least: 1, most: 1_000 },
        "how many backups and drills run at once [default: 4]",
    )
    .alike(&["concurrency", "slots", "workers", "parallel"]),
    Key::new(
        "running_per_host",
        Shape::Whole { least: 1, most: 1_000 },
        "how many of them burden one host at once [default: as many as run]",
    ),
    Key::new(
        "sites",
        Shape::List(&Shape::Text(&NAME)),
        "sites at which workers are and no repository is, for `run_on`",
    )
    .alike(&["site", "locations", "regions"]),
    Key::new("metrics", Shape::Text(&SOCKET), "where metrics are served [default: nowhere]")
        .alike(&["listen", "prometheus"]),
    Key::new("mail", Shape::Table(MAIL), "how mail is sent").alike(&["smtp", "email"]),
];

const MAIL: &[Key] = &[
    Key::new("server", Shape::Text(&ANY), "its server: smtp://HOST:PORT, or smtps://HOST").must(),
    Key::new("from", Shape::Text(&ANY), "whom it comes from").must(),
    Key::new("user", Shape::Text(&NAME), "the user that logs in there"),
    Key::new("password", Shape::Choice(SECRET), "the password of that user"),
];

const ALERT: &[Key] = &[
    Key::new("name", Shape::Text(&NAME), "its name").must(),
    Key::new("when", Shape::List(&Shape::Word(CLASSES)), "of what [default: of everything]"),
    Key::new("to", Shape::List(&Shape::Choice(CHANNEL)), "who is told"),
    Key::new("sign", Shape::Choice(SECRET), "the key with which what webhooks get is signed"),
    Key::new(
        "heartbeat",
        Shape::Table(HEARTBEAT),
        "who is told that all is well, and finds out when nobody says so",
    )
    .alike(&["dead_man", "deadman", "ping"]),
];

const CHANNEL: &[Key] = &[
    Key::new("webhook", URL, "a URL that gets each message, as JSON").alike(&["url", "http"]),
    Key::new("email", Shape::Text(&ANY), "an address").alike(&["mail"]),
    Key::new("exec", Shape::List(&Shape::Text(&ANY)), "a program that gets each message, as JSON"),
];

/// A URL, or where it is: some are secrets.
const URL: Shape = Shape::Either(&[Shape::Text(&ANY), Shape::Choice(SECRET)]);

const HEARTBEAT: &[Key] = &[
    Key::new("url", URL, "a URL that is asked as long as all is well").must(),
    Key::new("every", Shape::Text(&LENGTH), "how often [default: 1m]"),
];

const SECRET: &[Key] = &[
    Key::new("file", Shape::Text(&ANY), "a file that holds it; it is read whenever it is needed"),
    Key::new("env", Shape::Text(&NAME), "a variable of the environment that holds it"),
    Key::new("exec", Shape::List(&Shape::Text(&ANY)), "a program that prints it, with its words"),
    Key::new("insecure_literal", Shape::Text(&ANY), "the secret itself, for everybody to read")
        .alike(&["value", "literal", "plain"]),
];

const REPOSITORY: &[Key] = &[
    Key::new("url", Shape::Text(&ANY), "a directory, or s3://, az:// or gs:// and a bucket")
        .alike(&["location"]),
    Key::new(
        "kind",
        Shape::Word(&["handoff"]),
        "\"handoff\": a folder in which copies leave complete native files for others to fetch",
    )
    .alike(&["type"]),
    Key::new("path", Shape::Text(&ANY), "handoff: the folder; it is never created").alike(&[
        "directory",
        "dir",
        "folder",
    ]),
    Key::new("encryption", Shape::Choice(ENCRYPTION), "what opens it; nothing, if not encrypted"),
    Key::new("site", Shape::Text(&NAME), "where it is, for `run_on` of copies and drills")
        .alike(&["region", "place"]),
    Key::new("limits", Shape::Table(LIMITS), "what may be asked of it"),
    Key::new("quota", Shape::Text(&SIZE), "handoff: how much it may hold at all; others have none"),
];

const ENCRYPTION: &[Key] = &[
    Key::new("passphrase", Shape::Choice(SECRET), "a passphrase"),
    Key::new("key", Shape::Choice(SECRET), "a key file's content"),
];

const LIMITS: &[Key] = &[
    Key::new(
        "running",
        Shape::Whole { least: 1, most: 1_000 },
        "how many jobs write there at once",
    )
    .alike(&["streams"]),
    Key::new("upload", Shape::Text(&RATE), "how fast copies may be written there"),
    Key::new("window", WINDOWS, "when copies may be written there"),
];

/// One window, or several.
const WINDOWS: Shape = Shape::Either(&[Shape::Text(&WINDOW), Shape::List(&Shape::Text(&WINDOW))]);

/// What is said of a database, whether by itself or by a rule.
const ENGINE: Key =
    Key::new("engine", Shape::Text(&NAME), "its engine, where the endpoint does not say it");
const PASSWORD: Key = Key::new("password", Shape::Choice(SECRET), "the password of its user")
    .alike(&["pass", "secret"]);
const PROMISE: Key =
    Key::new("policy", Shape::Text(&NAME), "what is promised for it [default: \"default\"]")
        .alike(&["tier", "plan"]);

const MODE: Key = Key::new(
    "mode",
    Shape::Word(&Mode::NAMES),
    "\"observe\": nothing is written for it, and it is told whether others keep the promise \
     [default: \"protect\"]",
);

const DATABASE: &[Key] = &[
    Key::new("endpoint", Shape::Text(&ANY), "where it is: sqlite:PATH or postgres://USER@HOST/DB")
        .alike(&["url", "host", "dsn", "path"]),
    ENGINE,
    PASSWORD,
    PROMISE,
    MODE,
    Key::new(
        "repository",
        Shape::Text(&NAME),
        "where its backups are kept [default: the only one that gets no copies]",
    )
    .alike(&["repo"]),
    Key::new(
        "lifecycle",
        LIFECYCLE,
        "whether another server in its place begins another incarnation, or is refused until \
         somebody says that it is right [default: as it was: in its old place it may]",
    ),
    Key::new(
        "agent",
        Shape::Text(&NAME),
        "the agent that reaches it: stillpoint agent --name NAME [default: whoever serves]",
    )
    .alike(&["worker", "runner"]),
    Key::new("labels", Shape::Named(&Shape::Text(&ANY)), "words to choose databases by"),
];

const TIMINGS: &[Shape] = &[
    Shape::Text(&CRON),
    Shape::Table(&[
        Key::new("at", Shape::Text(&CRON), "times of the calendar").must().alike(&["cron"]),
        Key::new("spread", Shape::Text(&LENGTH), "over how long databases are spread after them"),
    ]),
];

const KEEP: &[Key] = &[
    Key::new("last", COUNT, "so many of the newest"),
    Key::new("hourly", COUNT, "one of each of so many hours"),
    Key::new("daily", COUNT, "one of each of so many days").alike(&["days"]),
    Key::new("weekly", COUNT, "one of each of so many weeks").alike(&["weeks"]),
    Key::new("monthly", COUNT, "one of each of so many months").alike(&["months"]),
    Key::new("yearly", COUNT, "one of each of so many years").alike(&["years"]),
    Key::new("for", Shape::Text(&PERIOD), "every one, for so long, or so long after an event"),
    Key::new("after_event", Shape::Text(&NAME), "the event after which `for` begins"),
    Key::new("subject", Shape::Text(&NAME), "whom the event happens to"),
    Key::new(
        "until_ack",
        Shape::Flag,
        "handoff: every one, until whoever fetches it has put `.ack` beside `.ready`",
    )
    .alike(&["until_acknowledged", "ack"]),
];

const COUNT: Shape = Shape::Whole { least: 0, most: 10_000 };

const COPY: &[Key] = &[
    Key::new("name", Shape::Text(&NAME), "its name").must(),
    Key::new("to", Shape::Text(&NAME), "the repository that gets it").must(),
    Key::new("from", Shape::Text(&NAME), "the copy that it is made of [default: the original]"),
    Key::new("when", Shape::Word(&["verified"]), "which backups may go [default: \"verified\"]"),
    Key::new(
        "class",
        Shape::List(&Shape::Word(&["full", "incremental", "logs"])),
        "what is copied [default: everything; to a handoff, \"full\" and \"incremental\"]",
    ),
    Key::new("keep", Shape::Table(KEEP), "what is kept there [default: as in the policy]"),
    Key::new("window", WINDOWS, "when it may run [default: always]"),
    RUNS_ON,
];

/// By whom something is done that needs no connection to the database.
const RUNS_ON: Key = Key::new(
    "run_on",
    Shape::Text(&RUN_ON),
    "whose workers do it: \"site=NAME\", those that run with --site NAME [default: whoever serves]",
)
.alike(&["site", "runs_on", "worker", "where"]);

const DRILL: &[Key] = &[
    Key::new("every", Shape::Text(&PERIOD), "how often").must(),
    Key::new("from", Shape::Text(&NAME), "the copy that is restored [default: the original]"),
    Key::new(
        "point",
        Shape::Word(&["latest", "random-in-window"]),
        "which point [default: \"random-in-window\"]",
    ),
    Key::new("checks", Shape::List(&Shape::Table(CHECK)), "statements, and what they answer"),
    RUNS_ON,
];

const CHECK: &[Key] = &[
    Key::new("sql", Shape::Text(&ANY), "a statement that answers one value").must(),
    Key::new(
        "expect",
        Shape::Either(&[
            Shape::Text(&ANY),
            Shape::Whole { least: i64::MIN, most: i64::MAX },
            Shape::Flag,
        ]),
        "the value",
    )
    .must(),
];

const MISSED: &[Key] = &[
    Key::new("run", Shape::Word(&["latest", "none", "all"]), "which of them").must(),
    Key::new("within", Shape::Text(&LENGTH), "how old they may be [default: 12h]"),
];

/// What a policy may say.
pub(super) const POLICY: &[Key] = &[
    Key::new("extends", Shape::Text(&NAME), "the policy that says what this one does not")
        .alike(&["inherits", "parent", "base"]),
    Key::new("timezone", Shape::Text(&ZONE), "the zone of its calendar"),
    MODE,
    Key::new("rpo", Shape::Text(&LENGTH), "how old the newest restorable point may be"),
    Key::new("rto", Shape::Text(&LENGTH), "how long a restore may take"),
    Key::new("pitr_window", Shape::Text(&LENGTH), "how far back every instant can be reached")
        .alike(&["window", "pitr"]),
    Key::new("full", Shape::Either(TIMINGS), "when every block is read")
        .alike(&["schedule", "backup", "cron"]),
    Key::new("incremental", Shape::Either(TIMINGS), "when only what changed is read").alike(&[
        "differential",
        "diff",
        "incr",
    ]),
    Key::new(
        "logs",
        Shape::Either(&[
            Shape::Word(&["stream", "never"]),
            Shape::Table(&[Key::new("every", Shape::Text(&LENGTH), "how often").must()]),
        ]),
        "how log is captured",
    )
    .alike(&["wal", "binlog", "log"]),
    Key::new("keep", Shape::Table(KEEP), "which backups are kept beyond the window").alike(&[
        "retention",
        "retain",
        "expire",
    ]),
    Key::new("floor", COUNT, "so many of the newest verified backups are never removed")
        .alike(&["minimum_redundancy", "minimum"]),
    Key::new("missed", Shape::Table(MISSED), "what happens after times when nothing could run"),
    Key::new("blackout", Shape::List(&Shape::Text(&WINDOW)), "when nothing is started"),
    Key::new(
        "blackout_hard",
        Shape::List(&Shape::Text(&WINDOW)),
        "when copies, drills and archiving pause as well",
    ),
    Key::new(
        "priority",
        Shape::Whole { least: 0, most: 100 },
        "who goes first when not all can: the larger number",
    ),
    Key::new("stall", Shape::Text(&LENGTH), "after how long without progress a job is ended"),
    Key::new("copy", Shape::List(&Shape::Table(COPY)), "where else backups are kept")
        .alike(&["copies", "replicate"]),
    Key::new("drill", Shape::Table(DRILL), "how restoring is rehearsed")
        .alike(&["drills", "verify", "test"]),
];
