//! One day at the bank on each version.

use std::{env, time::Duration};

use stillpoint::repository::store::Dice;

use super::{branch::Branch, havoc::Havoc, ledger::Truth, points::Proof, staff::Staff};
use crate::site::{seed, setting};

const WAYS: [&str; 3] = ["sql", "base_backup", "local"];

/// The ways of capture to try, of which `usual` is the one where time is short.
fn ways(usual: &'static str) -> Vec<&'static str> {
    let wanted = env::var_os("STILLPOINT_BANK_WAYS").map(|value| value.into_string().unwrap());
    match wanted.as_deref() {
        None => vec![usual],
        Some("every") => WAYS.to_vec(),
        Some(list) => {
            let known = |name: &str| *WAYS.iter().find(|way| **way == name).unwrap();
            list.split(',').map(known).collect()
        }
    }
}

async fn bank_on(major: u32, usual: &'static str) {
    for (number, way) in (0_u64..).zip(ways(usual)) {
        let seed = seed();
        println!("PostgreSQL {major}, by {way}, STILLPOINT_SEED={seed}");
        let seed = seed.wrapping_mul(1000) + u64::from(major) * 10 + number;
        let length = Duration::from_secs(setting("STILLPOINT_BANK_SECONDS", 8));
        let targets = setting("STILLPOINT_BANK_TARGETS", 5) as usize;
        let dice = Dice::new(seed);
        let Some(branch) = Branch::open(major, way, &dice).await else { return };
        let first = branch.back_up();
        let mut havoc = Havoc::new(branch, seed).await;
        let staff = Staff::hire(havoc.branch(), seed);
        havoc.run(length).await;
        let (branch, book, tally) = havoc.end(staff).await;
        let truth = Truth::read(&branch, book, first).await;
        println!("{} transfers; {tally}", truth.len());
        Proof::new(branch, truth, Dice::new(seed ^ 0x0ba4)).prove(targets).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_every_point_of_the_past_the_bank_on_13_has_its_money() {
    bank_on(13, "sql").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_every_point_of_the_past_the_bank_on_14_has_its_money() {
    bank_on(14, "local").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_every_point_of_the_past_the_bank_on_15_has_its_money() {
    bank_on(15, "base_backup").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_every_point_of_the_past_the_bank_on_16_has_its_money() {
    bank_on(16, "sql").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_every_point_of_the_past_the_bank_on_17_has_its_money() {
    bank_on(17, "base_backup").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_every_point_of_the_past_the_bank_on_18_has_its_money() {
    bank_on(18, "local").await;
}
