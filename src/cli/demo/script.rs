//! What happens in the demo, in order.

use std::time::Duration;

use chrono::{DateTime, Utc};
use data_encoding::HEXLOWER;
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    Options,
    customer::{self, Confirmed},
    proof::{self, Audit, Proof},
    shop::{self, Dice},
    stage::{self, Stage},
};
use crate::cli::{
    answer::{Answer, Stamp},
    page::{Page, Tone},
    run::interrupted,
    session::Session,
    units,
};

const CUSTOMERS: usize = 3;
/// How long customers shop before and after the second backup.
const BUSINESS: Duration = Duration::from_secs(4);
/// How long capture may take to reach the moment of the mistake.
const CAPTURE_WAIT: Duration = Duration::from_secs(30);

#[derive(Debug, Serialize)]
struct DemoAnswer {
    folder: String,
    kept: bool,
    steps: Vec<Step>,
    orders_restored: u64,
    orders_expected: u64,
    sum_cents: u64,
    integrity: String,
    restored_to: Stamp,
    database_bytes: u64,
    repository_bytes: u64,
    proven: bool,
}

#[derive(Debug, Serialize)]
struct Step {
    command: String,
    elapsed_ms: u64,
}

impl Answer for DemoAnswer {
    const SCHEMA: &'static str = "demo/1";

    fn write(&self, page: &mut Page<'_>) {
        page.blank();
        let heading = page.paint(Tone::Strong, "In numbers");
        page.line(heading);
        let mut facts = vec![
            ("database".to_owned(), units::bytes(self.database_bytes)),
            (
                "repository".to_owned(),
                format!(
                    "{}: every backup, every commit since",
                    units::bytes(self.repository_bytes)
                ),
            ),
        ];
        let took = |ms: u64| units::duration(Duration::from_millis(ms));
        facts.extend(self.steps.iter().map(|step| (took(step.elapsed_ms), step.command.clone())));
        page.facts(2, &facts);
        page.blank();
        if self.kept {
            page.line(format!("Everything is still in {}", self.folder));
            page.line(
                "  cd there; export STILLPOINT_REPO=repo STILLPOINT_PASSPHRASE_FILE=passphrase.txt",
            );
        } else {
            page.line(format!(
                "Nothing is left running, and {} is removed (--dir DIR keeps it).",
                self.folder
            ));
        }
    }
}

/// Plays the demo. Whatever happens, its processes end and a temporary folder is removed.
pub(crate) async fn run(session: &Session, options: Options) -> Result<()> {
    let mut stage = Stage::build(session, options.dir.as_deref())?;
    let mut stop = session.stop.clone();
    let outcome = tokio::select! {
        outcome = Box::pin(play(session, &mut stage)) => outcome,
        signal = stop.wait_for(Option::is_some) => {
            match signal.ok().and_then(|signal| *signal) {
                Some(signal) => Err(interrupted(signal)),
                None => Err(Error::bug("listen for signals")),
            }
        }
    };
    stage.clear().await;
    session.answer(&outcome?)
}

async fn play(session: &Session, stage: &mut Stage<'_>) -> Result<DemoAnswer> {
    let before = open_shop(session, stage)?;
    protect(session, stage).await?;
    let at = make_the_mistake(session, stage).await?;
    let proof = repair(session, stage, &before, at).await?;
    proof.require()?;
    let steps = stage
        .steps()
        .iter()
        .map(|(command, elapsed_ms)| Step { command: command.clone(), elapsed_ms: *elapsed_ms });
    Ok(DemoAnswer {
        folder: stage.folder().display().to_string(),
        kept: stage.is_kept(),
        steps: steps.collect(),
        orders_restored: proof.audit.orders,
        orders_expected: proof.expected,
        sum_cents: proof.audit.orders_cents,
        integrity: proof.audit.integrity,
        restored_to: Stamp(at),
        database_bytes: stage::size_bytes(&stage.path("shop.db")),
        repository_bytes: stage::size_bytes(&stage.path("repo")),
        proven: true,
    })
}

/// Founds the shop and lets its customers in.
fn open_shop(session: &Session, stage: &mut Stage<'_>) -> Result<Audit> {
    stage.say(&format!("Playing in {}", stage.folder().display()))?;
    stage.title("A shop opens")?;
    let path = stage.path("shop.db");
    let mut seed = [0; 8];
    session.world.entropy.fill(&mut seed);
    let seed = u64::from_le_bytes(seed);
    shop::found(&path, &mut Dice::new(seed))?;
    let before = proof::audit(&path)?;
    for number in 1..=CUSTOMERS {
        let (ledger, seed) =
            (format!("ledger-{number}.txt"), seed.wrapping_add(number as u64).to_string());
        let words =
            ["demo-customer", "--database", "shop.db", "--ledger", &ledger, "--seed", &seed];
        stage.start(&words, &format!("customer-{number}.log"))?;
    }
    stage.say(&format!(
        "  shop.db: {} with {}. {CUSTOMERS} processes keep buying until the end\n  \
         and write down every order that was confirmed.",
        units::bytes(stage::size_bytes(&path)),
        units::count(before.orders, "order", "orders")
    ))?;
    Ok(before)
}

/// Repository, log, two backups: all while customers buy.
async fn protect(session: &Session, stage: &mut Stage<'_>) -> Result<()> {
    let mut secret = [0; 16];
    session.world.entropy.fill(&mut secret);
    stage.write_secret("passphrase.txt", format!("{}\n", HEXLOWER.encode(&secret)).as_bytes())?;

    stage.title("Protect it")?;
    stage.show_command("export STILLPOINT_REPO=repo STILLPOINT_PASSPHRASE_FILE=passphrase.txt")?;
    stage.run(&["init"]).await?;
    stage.title("Back it up while customers buy, and stream its log from then on")?;
    stage.show_command("stillpoint logs stream sqlite:shop.db &")?;
    stage.start(&["logs", "stream", "sqlite:shop.db", "--stop-at-eof"], "stream.log")?;
    stage.run(&["backup", "sqlite:shop.db"]).await?;
    session.world.clock.sleep(BUSINESS).await;
    stage.say("\n  A little later. Only what changed is read and stored:")?;
    stage.run(&["backup", "sqlite:shop.db"]).await?;
    session.world.clock.sleep(BUSINESS).await;
    stage.require_running()
}

/// Drops a table. Returns a moment shortly before.
async fn make_the_mistake(session: &Session, stage: &mut Stage<'_>) -> Result<DateTime<Utc>> {
    let clock = &session.world.clock;
    clock.sleep(Duration::from_secs(1)).await;
    let before = clock.now();
    clock.sleep(Duration::from_secs(1)).await;
    shop::drop_precious_table(&stage.path("shop.db"))?;
    let dropped = clock.now();
    stage.title(&format!("At {} somebody makes a mistake", session.zone.show(dropped)))?;
    stage.show_command(&format!("sqlite3 shop.db \"DROP TABLE {}\"", shop::PRECIOUS_TABLE))?;
    stage.say("  The shop is broken now: no order can be paid for.")?;
    wait_for_capture(session, stage, dropped).await?;
    stage.say("\n  What can be restored?")?;
    stage.run(&["timeline", "shop.db"]).await?;
    // To the second: that is how people say it, and this second lies between the two.
    Ok(DateTime::from_timestamp(before.timestamp() + 1, 0).unwrap_or(before).min(dropped))
}

/// Waits until the captured log reaches `moment`.
async fn wait_for_capture(
    session: &Session,
    stage: &mut Stage<'_>,
    moment: DateTime<Utc>,
) -> Result<()> {
    let clock = &session.world.clock;
    let start = clock.elapsed();
    while clock.elapsed().saturating_sub(start) < CAPTURE_WAIT {
        stage.require_running()?;
        let output = stage.quietly(&["logs", "status", "shop.db", "--output", "json"]).await?;
        if captured_until(&output.stdout).is_some_and(|until| until >= moment) {
            return Ok(());
        }
        clock.sleep(Duration::from_millis(200)).await;
    }
    Err(Error::new(ErrorKind::TimedOut, code::BUG, "capture the log in time")
        .with("log of the capture", stage.path("stream.log").display()))
}

/// The newest moment that `logs status` says is captured.
fn captured_until(answer: &[u8]) -> Option<DateTime<Utc>> {
    let answer: serde_json::Value = serde_json::from_slice(answer).ok()?;
    answer["databases"][0]["restorable_to"].as_str()?.parse().ok()
}

/// Restores the moment before into a new file, and holds it against what customers wrote down.
async fn repair(
    session: &Session,
    stage: &mut Stage<'_>,
    before: &Audit,
    at: DateTime<Utc>,
) -> Result<Proof> {
    stage.title("Go back to the moment before, in a new file")?;
    let typed = session.zone.local(at).format("%Y-%m-%d %H:%M:%S").to_string();
    stage.run(&["restore", "shop.db", "--at", &typed, "--to", "restored.db"]).await?;
    stage.stop("demo-customer").await;
    stage.stop("logs").await;

    let mut ledger: Vec<Confirmed> = Vec::new();
    for number in 1..=CUSTOMERS {
        ledger.extend(customer::read_ledger(&stage.path(&format!("ledger-{number}.txt")))?);
    }
    let restored = proof::audit(&stage.path("restored.db"))?;
    let proof = proof::hold_against(restored, before, &ledger, at);
    tell(stage, &proof, &ledger)?;
    stage.title("And is what is stored intact?")?;
    stage.run(&["verify"]).await?;
    stage.run(&["list"]).await?;
    Ok(proof)
}

fn tell(stage: &Stage<'_>, proof: &Proof, ledger: &[Confirmed]) -> Result<()> {
    let audit = &proof.audit;
    let euros = |cents: u64| format!("{}.{:02}", units::grouped(cents / 100), cents % 100);
    stage.title("Is it what the customers saw?")?;
    let mut facts = vec![
        ("integrity_check", audit.integrity.clone()),
        (
            "orders",
            format!(
                "{} restored, {} confirmed by then",
                units::grouped(audit.orders),
                units::grouped(proof.expected)
            ),
        ),
        (
            "payments",
            format!("{} sum {}", units::grouped(audit.payments), euros(audit.payments_cents)),
        ),
        (
            "order totals",
            format!("sum {}; {} do not add up", euros(audit.orders_cents), audit.wrong_orders),
        ),
        (
            "customers' ledgers",
            format!("{} in this demo", units::count(ledger.len() as u64, "order", "orders")),
        ),
    ];
    if let Some(before) = proof.last_before {
        let text = format!("confirmed {} ms before the chosen second", before.num_milliseconds());
        facts.push(("last order restored", text));
    }
    let look =
        crate::cli::page::Look { colour: false, width: 80, zone: crate::cli::zone::Zone::UTC };
    let mut page = Page::new(&look);
    page.facts(2, &facts);
    stage.say(page.into_text().trim_end())?;
    let verdict = if proof.objections.is_empty() { "  PROVEN" } else { "  NOT PROVEN" };
    let tone = if proof.objections.is_empty() { Tone::Good } else { Tone::Bad };
    stage.say(&stage.paint(tone, verdict))
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn the_captured_moment_is_read_from_the_answer_of_logs_status() {
        let answer = br#"{"schema":"stillpoint.logs.status/1",
            "databases":[{"restorable_to":"2026-11-21T12:20:05.000001Z"}]}"#;
        assert_eq!(captured_until(answer), Some("2026-11-21T12:20:05.000001Z".parse().unwrap()));
        assert_eq!(captured_until(b"{}"), None);
        assert_eq!(captured_until(b"nonsense"), None);
    }

    #[test]
    fn the_chosen_second_lies_between_before_and_the_mistake() {
        // One second passes between the two, so a whole second begins in between.
        for micros in [0, 1, 500_000, 999_999] {
            let before = DateTime::from_timestamp_micros(5_000_000 + micros).unwrap();
            let dropped = before + TimeDelta::seconds(1);
            let chosen = DateTime::from_timestamp(before.timestamp() + 1, 0).unwrap();
            assert!(before < chosen && chosen <= dropped);
        }
    }
}
