//! The simulated engine keeps the contract in every mode.

use std::{
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::DateTime;
use stillpoint_conformance::{
    ACCOUNTS, Bank, Fixture, Scene, Server, Transfer, WRITERS, memory::TestClock, run,
};
use stillpoint_contract::{
    Capabilities, Clock, Consistency, Endpoint, Engine, Error, ErrorKind, LogSupply, RestorePlan,
    Result, code,
};
use stillpoint_sim::{Layout, Mode, SimEngine, SimServer, Table, Write};

/// Accounts lie on pages of their own and in several extents, among cells that nobody touches.
const CELLS_PER_ACCOUNT: u32 = 6_000;
const PROGRESS: u32 = ACCOUNTS * CELLS_PER_ACCOUNT;
const BALLAST_CELLS: u32 = 420_000;
/// Writes past the ballast, so many that their log exceeds 40 MiB.
const BULK_WRITES: u32 = (40 << 20) / 12 + 1;

fn main() -> ExitCode {
    let logs = [
        ("polled", LogSupply::Poll { period: Duration::from_millis(100) }),
        ("streamed", LogSupply::Stream),
    ];
    let copies = [
        ("snapshot", Layout::Ascending, Consistency::AtStart),
        ("scattered", Layout::Scattered, Consistency::AtStart),
        ("stream", Layout::Stream, Consistency::AtStart),
        ("unsteady", Layout::Ascending, Consistency::AtEnd),
        ("unsteady_scattered", Layout::Scattered, Consistency::AtEnd),
    ];
    let mut modes = vec![("unlogged".to_owned(), Mode { log: LogSupply::Never, ..Mode::SNAPSHOT })];
    for (copy, layout, consistency) in copies {
        for (supply, log) in logs {
            modes.push((format!("{copy}_{supply}"), Mode { layout, consistency, log }));
        }
    }
    run(modes
        .into_iter()
        .map(|(name, mode)| Arc::new(Simulated { name, mode }) as Arc<dyn Fixture>))
}

#[derive(Debug)]
struct Simulated {
    name: String,
    mode: Mode,
}

#[async_trait]
impl Fixture for Simulated {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        self.mode.capabilities()
    }

    fn offers(&self, scene: Scene) -> Result<(), &'static str> {
        match scene {
            Scene::Foreign => Err("no other engine lives in memory"),
            _ => Ok(()),
        }
    }

    fn balances_statement(&self) -> Result<&'static str, &'static str> {
        Err("it is in memory, and has no language for questions")
    }

    async fn start(&self) -> Result<Arc<dyn Server>> {
        static STARTED: AtomicU64 = AtomicU64::new(0);
        let name = format!("sim-{}", STARTED.fetch_add(1, Ordering::Relaxed));
        let clock =
            Arc::new(TestClock::leaping(DateTime::UNIX_EPOCH + Duration::from_secs(1 << 30)));
        let server =
            SimServer::start(name, self.mode, Arc::<TestClock>::clone(&clock), opening()?)?;
        let engine = Arc::new(SimEngine::new());
        engine.add(&server);
        Ok(Arc::new(Simulation { engine, server, clock }))
    }
}

fn opening() -> Result<Table> {
    let mut table = Table::default();
    for cell in 0..BALLAST_CELLS {
        table.set(cell, i64::from(cell) << 20)?;
    }
    write_bank(&Bank::opening()).iter().try_for_each(|write| table.set(write.cell, write.value))?;
    Ok(table)
}

fn write_bank(bank: &Bank) -> Vec<Write> {
    let balances = (0..).zip(&bank.balances);
    let balances = balances.map(|(n, &value)| Write { cell: account(n), value });
    let progress = (0..).zip(&bank.progress);
    let progress =
        progress.map(|(n, &value)| Write { cell: PROGRESS + n, value: value.cast_signed() });
    balances.chain(progress).collect()
}

fn account(number: u32) -> u32 {
    number * CELLS_PER_ACCOUNT
}

fn read_bank(table: &Table) -> Bank {
    Bank {
        balances: (0..ACCOUNTS).map(|n| table.get(account(n))).collect(),
        progress: (0..WRITERS).map(|n| table.get(PROGRESS + n).cast_unsigned()).collect(),
    }
}

#[derive(Debug)]
struct Simulation {
    engine: Arc<SimEngine>,
    server: SimServer,
    clock: Arc<TestClock>,
}

#[async_trait]
impl Server for Simulation {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::<SimEngine>::clone(&self.engine)
    }

    fn endpoint(&self) -> Endpoint {
        at(self.server.name())
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::<TestClock>::clone(&self.clock)
    }

    async fn transact(&self, transfer: Transfer) -> Result<()> {
        let Transfer { writer, number, from, to, amount } = transfer;
        let (from, to) = (account(from), account(to));
        self.server.transact(|table| {
            vec![
                Write { cell: from, value: table.get(from) - amount },
                Write { cell: to, value: table.get(to) + amount },
                Write { cell: PROGRESS + writer, value: number.cast_signed() },
            ]
        })?;
        Ok(())
    }

    async fn bank(&self) -> Result<Bank> {
        Ok(read_bank(&self.server.table()))
    }

    async fn bank_at(&self, target: &Path) -> Result<Bank> {
        let bytes = std::fs::read(target).map_err(|error| {
            Error::new(ErrorKind::Missing, code::FILE, "read the restored file").caused_by(error)
        })?;
        Ok(read_bank(&Table::decode(&bytes)?))
    }

    async fn leftovers(&self) -> Result<Vec<String>> {
        Ok(self.server.holds().into_iter().map(str::to_owned).collect())
    }

    async fn play(&self, scene: Scene) -> Result<()> {
        match scene {
            Scene::Restart | Scene::Crash => self.server.restart(),
            Scene::Discard => self.server.discard(),
            Scene::Succession => self.server.fail_over(0)?,
            Scene::Replacement => self.server.replace(opening()?)?,
            Scene::Departure => self.server.depart(),
            Scene::Bulk => {
                let cells = BALLAST_CELLS..BALLAST_CELLS + BULK_WRITES;
                self.server.transact(|_| cells.map(|cell| Write { cell, value: -1 }).collect())?;
            }
            Scene::Foreign | Scene::Damage => {}
        }
        Ok(())
    }

    fn nowhere(&self) -> Endpoint {
        at("nowhere")
    }

    fn damage(&self, plan: &RestorePlan) -> Result<()> {
        let path = plan.staging.join("table");
        let damaged = std::fs::read(&path).and_then(|mut bytes| {
            bytes[70_000] ^= 4;
            std::fs::write(&path, bytes)
        });
        damaged.map_err(|error| {
            Error::new(ErrorKind::Config, code::FILE, "damage the copy").caused_by(error)
        })
    }
}

fn at(address: &str) -> Endpoint {
    Endpoint {
        scheme: "sim".to_owned(),
        address: address.to_owned(),
        settings: std::collections::BTreeMap::new(),
    }
}
