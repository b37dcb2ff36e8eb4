//! A customer of the bank who writes down what it was told, and the check of all their ledgers against
//! the bank's.
//!
//! A customer has three accounts that nobody else touches. Of those it keeps a [`Bank`] of its own: each
//! answer has to be the one that its own bank gives, so a command that was applied twice, or not at all,
//! is found out by the next one. Further accounts are shared by everybody; what they hold is only known
//! in the end, as the sum of what all were told.

use std::collections::{BTreeMap, BTreeSet};

use quorate::WriteError;

use crate::bank::{Bank, Command, Response};

/// Accounts `0..SHARED` are everybody's.
pub const SHARED: u32 = 2;
/// Accounts of each customer alone.
const OWN: u32 = 3;

/// One customer's books. It asks for one thing at a time.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// From 0 on.
    customer: u32,
    random: u64,
    /// The customer's own accounts, as they must be.
    own: Bank,
    /// What the shared accounts have gained by this customer.
    shared: BTreeMap<u32, i128>,
    /// What it has put in.
    pub deposited: u64,
    /// What it has taken out.
    pub withdrawn: u64,
    /// Commands that were done.
    pub done: u64,
    /// Commands that were refused.
    pub refused: u64,
    /// Commands of which nobody knows what became of them.
    pub unknown: u64,
    /// Answers that were those of an earlier attempt.
    pub repeated: u64,
    /// What should not be, in words.
    pub wrong: Vec<String>,
}

impl Ledger {
    /// The books of a new customer, who asks for the same with the same seed.
    pub fn new(customer: u32, seed: u64) -> Self {
        Self {
            customer,
            random: seed ^ (u64::from(customer) << 32),
            own: Bank::default(),
            shared: BTreeMap::new(),
            deposited: 0,
            withdrawn: 0,
            done: 0,
            refused: 0,
            unknown: 0,
            repeated: 0,
            wrong: Vec::new(),
        }
    }

    /// SplitMix64.
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// One of its own accounts, or every fourth time a shared one.
    fn account(&mut self) -> u32 {
        match self.below(4) {
            0 => self.below(SHARED.into()) as u32,
            _ => SHARED + self.customer * OWN + self.below(OWN.into()) as u32,
        }
    }

    fn is_own(&self, account: u32) -> bool {
        account.checked_sub(SHARED).is_some_and(|own| own / OWN == self.customer)
    }

    /// What it wants next. Often more than there is.
    pub fn next_command(&mut self) -> Command {
        let (account, amount) = (self.account(), 1 + self.below(100));
        match self.below(3) {
            0 => Command::Deposit { account, amount },
            1 => Command::Withdraw { account, amount },
            _ => Command::Transfer { from: account, to: self.account(), amount },
        }
    }

    /// Writes down an answer.
    pub fn answered(&mut self, command: &Command, response: &Response) {
        let (from, to, amount) = match *command {
            Command::Deposit { account, amount } => (None, Some(account), amount),
            Command::Withdraw { account, amount } => (Some(account), None, amount),
            Command::Transfer { from, to, amount } => (Some(from), Some(to), amount),
            Command::Audit => return,
        };
        if [from, to].into_iter().flatten().all(|account| self.is_own(account)) {
            let expected = self.own.execute(command);
            if *response != expected {
                let customer = self.customer;
                self.wrong.push(format!(
                    "customer {customer}: {command:?} was answered {response:?} instead of {expected:?}"
                ));
            }
        } else if matches!(response, Response::Done { .. }) {
            self.book_with_shared(from, to, amount);
        }
        if matches!(response, Response::Done { .. }) {
            self.done += 1;
            self.deposited += if from.is_none() { amount } else { 0 };
            self.withdrawn += if to.is_none() { amount } else { 0 };
        } else {
            self.refused += 1;
        }
    }

    /// Writes down that there was no answer to a command, which in a session there has to be.
    pub fn unanswered(&mut self, command: &Command, error: &WriteError) {
        self.unknown += u64::from(error.may_have_happened());
        self.wrong.push(format!("customer {}: {command:?}: {error}", self.customer));
    }

    /// A command that touches a shared account, and was done.
    fn book_with_shared(&mut self, from: Option<u32>, to: Option<u32>, amount: u64) {
        for (account, gain) in [(from, -i128::from(amount)), (to, i128::from(amount))] {
            let Some(account) = account else { continue };
            if !self.is_own(account) {
                *self.shared.entry(account).or_default() += gain;
                continue;
            }
            let command = match gain {
                ..0 => Command::Withdraw { account, amount },
                _ => Command::Deposit { account, amount },
            };
            if self.own.execute(&command) == Response::Refused {
                self.wrong.push(format!("customer {}: account {account} overdrawn", self.customer));
            }
        }
    }
}

/// Compares what everybody was told with what is in the accounts; what is wrong, in words.
///
/// # Errors
/// Money was lost or made, or an answer was another than it had to be.
pub fn check(ledgers: &[Ledger], balances: &BTreeMap<u32, u64>) -> Result<(), Vec<String>> {
    let mut wrong = Vec::new();
    let mut expected = BTreeMap::<u32, i128>::new();
    for ledger in ledgers {
        wrong.extend(ledger.wrong.iter().cloned());
        for (account, balance) in ledger.own.balances() {
            *expected.entry(*account).or_default() += i128::from(*balance);
        }
        for (account, gain) in &ledger.shared {
            *expected.entry(*account).or_default() += gain;
        }
    }
    let accounts = expected.keys().chain(balances.keys());
    for account in accounts.collect::<BTreeSet<_>>() {
        let expected = expected.get(account).copied().unwrap_or_default();
        let balance = balances.get(account).copied().unwrap_or_default();
        if expected != i128::from(balance) {
            wrong.push(format!("account {account} has {balance}, its customers say {expected}"));
        }
    }
    let deposited: u64 = ledgers.iter().map(|ledger| ledger.deposited).sum();
    let withdrawn: u64 = ledgers.iter().map(|ledger| ledger.withdrawn).sum();
    let sum: u64 = balances.values().sum();
    if deposited.checked_sub(withdrawn) != Some(sum) {
        wrong.push(format!("{deposited} put in, {withdrawn} taken out, {sum} in the accounts"));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn played() -> (Ledger, Bank) {
        let (mut ledger, mut bank) = (Ledger::new(0, 7), Bank::default());
        for _ in 0..200 {
            let command = ledger.next_command();
            let response = bank.execute(&command);
            ledger.answered(&command, &response);
        }
        (ledger, bank)
    }

    #[test]
    fn a_correct_bank_passes() {
        let (ledger, bank) = played();
        assert!(ledger.done > 50 && ledger.refused > 10, "{ledger:?}");
        check(&[ledger], bank.balances()).unwrap();
    }

    #[test]
    fn money_too_much_and_money_too_little_are_found() {
        for account in [0, SHARED] {
            let (ledger, mut bank) = played();
            bank.execute(&Command::Deposit { account, amount: 1 });
            let wrong = check(std::slice::from_ref(&ledger), bank.balances()).unwrap_err();
            assert_eq!(wrong.len(), 2, "the account, and the sum: {wrong:?}");
            bank.execute(&Command::Withdraw { account, amount: 2 });
            check(&[ledger], bank.balances()).unwrap_err();
        }
    }
}
