//! The workload: money moves between accounts, and its sum never changes.
//!
//! Transfers commute, so the state is known from how far each writer got, whatever the order in
//! which the server committed them.

/// How many accounts there are, numbered from 0.
pub const ACCOUNTS: u32 = 64;

/// How many writers there are, numbered from 0.
pub const WRITERS: u32 = 4;

/// What every account holds before the first transfer.
pub const OPENING_BALANCE: i64 = 1000;

/// One transaction of the workload. All of it happens, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Who makes it.
    pub writer: u32,
    /// Its number, from 1 on for each writer: the transaction stores it as the writer's progress.
    pub number: u64,
    /// The account that pays.
    pub from: u32,
    /// The account that is paid; never the one that pays.
    pub to: u32,
    /// How much. Accounts may be overdrawn.
    pub amount: i64,
}

impl Transfer {
    /// The transfer that `writer` makes as its `number`th.
    pub fn new(writer: u32, number: u64) -> Self {
        // A fixed scramble: neighbours in time shall not be neighbours in storage.
        let mixed = (u64::from(writer) << 40 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let from = (mixed % u64::from(ACCOUNTS)) as u32;
        let step = 1 + (mixed >> 8) % u64::from(ACCOUNTS - 1);
        let to = (from + step as u32) % ACCOUNTS;
        Self { writer, number, from, to, amount: 1 + i64::from((mixed >> 16) as u8 & 0x3f) }
    }
}

/// What a database holds: every balance, and how far each writer got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bank {
    /// The balance of each account.
    pub balances: Vec<i64>,
    /// The number of the last transfer of each writer; 0 before the first.
    pub progress: Vec<u64>,
}

impl Bank {
    /// The state before the first transfer.
    pub fn opening() -> Self {
        Self::after(&[0; WRITERS as usize])
    }

    /// The state after each writer made as many transfers as `progress` says.
    pub fn after(progress: &[u64]) -> Self {
        let mut balances = vec![OPENING_BALANCE; ACCOUNTS as usize];
        for (writer, &last) in (0..).zip(progress) {
            for transfer in (1..=last).map(|number| Transfer::new(writer, number)) {
                balances[transfer.from as usize] -= transfer.amount;
                balances[transfer.to as usize] += transfer.amount;
            }
        }
        Self { balances, progress: progress.to_vec() }
    }

    /// How many transfers it has seen.
    pub fn transfers(&self) -> u64 {
        self.progress.iter().sum()
    }

    /// Whether it holds whole transactions only: it is what its progress says, in every account.
    pub fn is_whole(&self) -> bool {
        *self == Self::after(&self.progress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_neither_made_nor_lost() {
        let bank = Bank::after(&[100, 3, 0, 7]);
        let sum: i64 = bank.balances.iter().sum();
        assert_eq!(sum, i64::from(ACCOUNTS) * OPENING_BALANCE);
        assert_eq!(bank.transfers(), 110);
        assert!((1..1000).map(|n| Transfer::new(2, n)).all(|t| t.from != t.to && t.amount > 0));
    }

    #[test]
    fn half_a_transfer_is_noticed() {
        let mut bank = Bank::after(&[5, 0, 0, 0]);
        let next = Transfer::new(0, 6);
        bank.balances[next.from as usize] -= next.amount;
        assert!(!bank.is_whole());
        bank.balances[next.to as usize] += next.amount;
        assert!(!bank.is_whole(), "the writer's progress is part of the transaction");
        bank.progress[0] = 6;
        assert!(bank.is_whole());
    }
}
