//! Invariant 3: a COMMIT that never arrives, and one of which the answer does not.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use async_trait::async_trait;
use stillpoint::{
    archiver::{Step, Witness},
    world::World,
};
use stillpoint_contract::Driver;

use super::{
    chaos::Impatient,
    shop::{InPostgres, Shop, Yard, driver},
};

/// As a client asks for it.
/// Source: PostgreSQL 18 documentation, 54.7, "Message Formats", Query.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// What is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// The COMMIT: the server rolls back.
    Message,
    /// What the server says of it: it is done.
    Answer,
}

#[derive(Debug, Default)]
struct Plan {
    /// What is lost of the next COMMIT.
    next: Option<Loss>,
    /// Whether nobody gets through from then on.
    then_down: bool,
    is_down: bool,
    lost: u32,
}

/// A proxy before a server, which loses something and cuts the connection.
#[derive(Clone, Debug)]
struct Proxy {
    port: u16,
    plan: Arc<Mutex<Plan>>,
}

impl Proxy {
    fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = Self { port: listener.local_addr().unwrap().port(), plan: Arc::default() };
        let plan = Arc::clone(&own.plan);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if plan.lock().unwrap().is_down {
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let is_deaf = Arc::new(AtomicBool::new(false));
                let ends = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (plan, hears) = (Arc::clone(&plan), Arc::clone(&is_deaf));
                thread::spawn(move || pass_questions(ends, &plan, &hears));
                thread::spawn(move || pass_answers((client, server), &is_deaf));
            }
        });
        own
    }

    fn plan(&self, plan: Plan) {
        *self.plan.lock().unwrap() = plan;
    }

    fn lost(&self) -> u32 {
        self.plan.lock().unwrap().lost
    }
}

fn pass_questions(
    (mut client, mut server): (TcpStream, TcpStream),
    plan: &Mutex<Plan>,
    is_deaf: &AtomicBool,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = client.read(&mut buffer) {
        let sent = &buffer[..length];
        if sent.windows(COMMIT.len()).any(|some| some == COMMIT) {
            let mut plan = plan.lock().unwrap();
            let loss = plan.next.take();
            if loss.is_some() {
                plan.lost += 1;
                plan.is_down = plan.then_down;
            }
            if loss == Some(Loss::Message) {
                break;
            }
            is_deaf.store(loss.is_some(), Ordering::SeqCst);
        }
        if server.write_all(sent).is_err() {
            break;
        }
    }
    cut(&client, &server);
}

fn pass_answers((mut client, mut server): (TcpStream, TcpStream), is_deaf: &AtomicBool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = server.read(&mut buffer) {
        // Everything before it was answered, or the client would not have asked for it.
        if is_deaf.load(Ordering::SeqCst) || client.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    cut(&client, &server);
}

fn cut(client: &TcpStream, server: &TcpStream) {
    drop(client.shutdown(Shutdown::Both));
    drop(server.shutdown(Shutdown::Both));
}

/// The shop, as whoever archives it gets to it.
struct Behind<'a> {
    shop: &'a InPostgres,
    proxy: &'a Proxy,
}

#[async_trait]
impl Shop for Behind<'_> {
    async fn driver(&self) -> Box<dyn Driver> {
        let port = self.proxy.port;
        driver("postgres", &format!("//postgres@127.0.0.1:{port}/postgres")).await
    }

    async fn change(&self, statements: &[String]) -> Vec<u64> {
        self.shop.change(statements).await
    }

    async fn try_change(&self, statements: &[String]) -> Option<Vec<u64>> {
        self.shop.try_change(statements).await
    }

    async fn ask(&self, query: &str) -> Vec<String> {
        self.shop.ask(query).await
    }

    fn table(&self, name: &str) -> String {
        self.shop.table(name)
    }
}

/// Has something lost of the first COMMIT of rows that are deleted.
#[derive(Debug)]
struct Trap<'a> {
    proxy: &'a Proxy,
    loss: Loss,
    then_down: bool,
    is_set: AtomicBool,
}

impl Witness for Trap<'_> {
    fn see(&self, step: &Step) {
        let is_it = matches!(step, Step::Committing);
        if is_it && !self.is_set.swap(true, Ordering::Relaxed) {
            let (next, then_down) = (Some(self.loss), self.then_down);
            self.proxy.plan(Plan { next, then_down, ..Plan::default() });
        }
    }
}

/// Waits until the server knows that whoever archived is gone.
async fn settle(shop: &InPostgres) {
    let clock = World::real(1).clock;
    let left = "SELECT pid::text FROM pg_stat_activity WHERE application_name = 'stillpoint'";
    for _ in 0..1_000 {
        if shop.ask(left).await.is_empty() {
            return;
        }
        clock.sleep(Duration::from_millis(10)).await;
    }
    panic!("sessions do not end");
}

async fn lose(loss: Loss) {
    let Some(shop) = InPostgres::new(18).await else { return };
    let proxy = Proxy::before(shop.server.port());
    for then_down in [false, true] {
        shop.reset().await;
        proxy.plan(Plan::default());
        let mut yard = Yard::new(Behind { shop: &shop, proxy: &proxy }, true);
        yard.world.clock = Arc::new(Impatient);
        yard.rule.slice_rows = 3;
        yard.fill(0..12, 1).await;
        let trap = Trap { proxy: &proxy, loss, then_down, is_set: AtomicBool::new(false) };
        let first = yard.run_seen(&trap).await;
        assert_eq!(proxy.lost(), 1, "{first:?}");
        if then_down {
            // Whoever asked for it never hears what became of it.
            assert!(first.is_err(), "{first:?}");
            settle(&shop).await;
            let gone = if loss == Loss::Answer { 3 } else { 0 };
            let live = (yard.live("orders").await.len(), yard.live("items").await.len());
            assert_eq!(live, (12 - gone, 12 - gone));
            let noted = "SELECT rows::text FROM stillpoint.archive_ledger";
            assert_eq!(shop.ask(noted).await, vec!["6"; gone / 3]);
            // Readers see what the ledger says.
            proxy.plan(Plan::default());
            let seen = (yard.archived("orders").await.len(), yard.archived("items").await.len());
            assert_eq!(seen, (gone, gone));
            let second = yard.run().await.unwrap();
            assert!(second.quit.is_done() && second.differences.is_empty(), "{second:?}");
            assert_eq!((second.exported_rows, second.pruned_rows), (0, 24 - 2 * gone as u64));
        } else {
            // The same run begins anew, and finds out.
            let report = first.unwrap();
            assert!(report.quit.is_done() && report.differences.is_empty(), "{report:?}");
        }
        let at = format!("{loss:?}, {then_down}");
        yard.conserves_each(0..12, &at).await;
        assert_eq!((yard.live("orders").await.len(), yard.live("items").await.len()), (0, 0));
        let noted = "SELECT concat(count(*), ' ', sum(rows)) FROM stillpoint.archive_ledger";
        assert_eq!(shop.ask(noted).await, ["4 24"], "{at}");
        yard.agrees(24, &at).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_a_commit_whose_answer_is_lost_counts_once() {
    lose(Loss::Answer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_a_commit_that_never_arrives_does_not_count() {
    lose(Loss::Message).await;
}
