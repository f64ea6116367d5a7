//! Runs every sentence on every fixture, and keeps the books.

use std::{
    collections::BTreeSet,
    env,
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use libtest_mimic::{Arguments, Failed, Trial};
use stillpoint_contract::{Capabilities, Consistency, Incremental, LogSupply};

use crate::{
    Fixture,
    stage::{Outcome, Stage},
    suite::{Need, SENTENCES, Sentence},
};

/// A sentence that takes longer has come to a standstill.
const PROOF_TIME_MAX: Duration = Duration::from_mins(4);

/// The environment variable that repeats a run with other random choices.
const SEED: &str = "STILLPOINT_SEED";

const SEED_USUAL: u64 = 7;

/// Something a server allows that some test must have used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Claim {
    /// Copies are consistent at the instant they began, or at the instant they ended.
    Consistency,
    /// Unchanged pages are kept.
    Incremental,
    /// Log is captured and replayed.
    Log,
    /// One database is restored without its neighbours.
    SingleDatabase,
    /// A throw-away server is opened on a copy.
    Sandbox,
}

impl Claim {
    fn all(fixture: &dyn Fixture) -> Vec<Self> {
        let Capabilities { consistency, incremental, log, restores_single_database } =
            fixture.capabilities();
        let consistent = match consistency {
            Consistency::AtStart | Consistency::AtEnd => Self::Consistency,
        };
        let claimed = [
            Some(consistent),
            (incremental != Incremental::Never).then_some(Self::Incremental),
            (log != LogSupply::Never).then_some(Self::Log),
            restores_single_database.then_some(Self::SingleDatabase),
            fixture.balances_statement().is_ok().then_some(Self::Sandbox),
        ];
        claimed.into_iter().flatten().collect()
    }
}

/// What became of each sentence on one fixture.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// What every random choice follows from.
    pub(crate) seed: u64,
    lines: Mutex<Vec<(&'static str, Outcome)>>,
    exercised: Mutex<BTreeSet<Claim>>,
}

impl Ledger {
    fn new(seed: u64) -> Self {
        Self { seed, lines: Mutex::default(), exercised: Mutex::default() }
    }

    /// Notes that a claimed capability was really used.
    pub(crate) fn exercise(&self, claim: Claim) {
        self.exercised.lock().unwrap_or_else(PoisonError::into_inner).insert(claim);
    }

    fn note(&self, sentence: &'static str, outcome: Outcome) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push((sentence, outcome));
    }
}

/// Runs the whole suite on each of `fixtures`; takes the arguments of `cargo test`.
///
/// A fixture whose server is missing is listed by name, and fails the run where `CI` is set.
#[expect(clippy::print_stdout, reason = "the table is what this program is for")]
pub fn run(fixtures: impl IntoIterator<Item = Arc<dyn Fixture>>) -> ExitCode {
    let arguments = Arguments::from_args();
    let seed = env::var_os(SEED).and_then(|seed| seed.to_str()?.parse().ok()).unwrap_or(SEED_USUAL);
    let mut trials = Vec::new();
    let mut books = Vec::new();
    for fixture in fixtures {
        let ledger = Arc::new(Ledger::new(seed));
        for sentence in SENTENCES {
            trials.push(trial(&fixture, sentence, &ledger));
        }
        books.push((fixture, ledger));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if arguments.list {
        return ExitCode::SUCCESS;
    }
    let whole = arguments.filter.is_none() && arguments.skip.is_empty();
    let mut failed = conclusion.has_failed();
    for (fixture, ledger) in books {
        let (table, complaints) = report(fixture.as_ref(), &ledger, whole);
        print!("{table}");
        failed |= !complaints.is_empty();
        for complaint in complaints {
            println!("  FAILED {complaint}");
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn trial(fixture: &Arc<dyn Fixture>, sentence: &'static Sentence, ledger: &Arc<Ledger>) -> Trial {
    let name = format!("{}::{}", fixture.name(), sentence.name);
    let excuse = excuse(fixture.as_ref(), sentence);
    let ignored = excuse.is_some();
    if let Some(why) = excuse {
        ledger.note(sentence.text, Outcome::NotApplicable(why));
    }
    let (fixture, ledger) = (Arc::clone(fixture), Arc::clone(ledger));
    let run = move || -> Result<(), Failed> {
        if ignored {
            return Ok(());
        }
        let proven = catch_unwind(AssertUnwindSafe(|| prove(fixture, sentence, &ledger)));
        let proven = proven.unwrap_or_else(|_| Err("it panicked".into()));
        let outcome = proven.as_ref().cloned().unwrap_or(Outcome::Failed);
        ledger.note(sentence.text, outcome);
        proven.map(|_| ()).map_err(|why| {
            let why = why.message().unwrap_or_default().to_owned();
            format!("{}\n{why}\n{SEED}={}", sentence.text, ledger.seed).into()
        })
    };
    Trial::test(name, run).with_ignored_flag(ignored)
}

/// Why `sentence` cannot be asked of `fixture`, if so.
fn excuse(fixture: &dyn Fixture, sentence: &Sentence) -> Option<String> {
    if let Err(missing) = fixture.available() {
        return Some(format!("not run: {missing}"));
    }
    let capabilities = fixture.capabilities();
    sentence.needs.iter().find_map(|need| match need {
        Need::Log if capabilities.log == LogSupply::Never => Some("it keeps no log".to_owned()),
        Need::NoLog if capabilities.log != LogSupply::Never => Some("it keeps a log".to_owned()),
        Need::Incremental if capabilities.incremental == Incremental::Never => {
            Some("every backup reads everything".to_owned())
        }
        Need::SingleDatabase if !capabilities.restores_single_database => {
            Some("its databases are restored together".to_owned())
        }
        Need::Sandbox => fixture.balances_statement().err().map(str::to_owned),
        Need::NoSandbox => {
            fixture.balances_statement().is_ok().then(|| "it has sandboxes".to_owned())
        }
        Need::Rows => fixture.row_tables().err().map(str::to_owned),
        Need::Scene(scene) => fixture.offers(*scene).err().map(str::to_owned),
        _ => None,
    })
}

fn prove(
    fixture: Arc<dyn Fixture>,
    sentence: &Sentence,
    ledger: &Arc<Ledger>,
) -> Result<Outcome, Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failed::from(error.to_string()))?;
    let proven = runtime.block_on(async {
        let proof = async {
            let stage = Stage::open(fixture, Arc::clone(ledger)).await?;
            (sentence.prove)(&stage).await
        };
        tokio::time::timeout(PROOF_TIME_MAX, proof).await
    });
    runtime.shutdown_background();
    let proven = proven.map_err(|_| Failed::from(format!("no end after {PROOF_TIME_MAX:?}")))?;
    proven.map_err(|failure| Failed::from(failure.to_string()))
}

/// The table of one fixture, and what it has to be blamed for as a whole.
fn report(fixture: &dyn Fixture, ledger: &Ledger, whole: bool) -> (String, Vec<String>) {
    let mut table = format!("\nconformance of {}\n", fixture.name());
    let lines = ledger.lines.lock().unwrap_or_else(PoisonError::into_inner);
    let mut sorted: Vec<_> = lines.iter().collect();
    sorted.sort_by_key(|(text, _)| SENTENCES.iter().position(|s| s.text == *text));
    for (text, outcome) in sorted {
        let line = match outcome {
            Outcome::Proven => format!("  ran            {text}"),
            Outcome::Failed => format!("  FAILED         {text}"),
            Outcome::NotApplicable(why) => format!("  not applicable {text} ({why})"),
        };
        writeln!(table, "{line}").expect("a String grows");
    }
    let mut complaints = Vec::new();
    if let Err(missing) = fixture.available() {
        if env::var_os("CI").is_some() {
            complaints.push(format!("{}: {missing}", fixture.name()));
        }
    } else if whole {
        let exercised = ledger.exercised.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = Claim::all(fixture).into_iter().filter(|c| !exercised.contains(c));
        complaints.extend(idle.map(|claim| {
            format!("{}: {claim:?} is claimed and no test exercised it", fixture.name())
        }));
    }
    (table, complaints)
}
