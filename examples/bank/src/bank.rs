//! The whole application: accounts, and what deposits, withdrawals and transfers do to them.
//!
//! It knows nothing of retries. A deposit that is applied twice is two deposits; that a client's retry
//! is not applied twice is what sessions are for, and they are in front of any state machine.

use std::collections::BTreeMap;

use quorate::{Committed, Failure, Postcard, Snapshot, StateMachine, async_trait};
use serde::{Deserialize, Serialize};

/// What may be asked of the bank. An account exists from the first deposit on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields' names say it")]
pub enum Command {
    /// Puts money in; new money, from outside.
    Deposit { account: u32, amount: u64 },
    /// Takes money out.
    Withdraw { account: u32, amount: u64 },
    /// Moves money from one account to another.
    Transfer { from: u32, to: u32, amount: u64 },
    /// All balances at one moment. A command like the others, so its answer has its place in the log
    /// between two of them, and a client without a state machine can ask for it.
    Audit,
}

/// What the bank answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Done; what is in the account now, for a transfer in the one that paid.
    Done {
        /// The balance.
        balance: u64,
    },
    /// There is not enough in the account, or more than a balance can hold: nothing was done.
    Refused,
    /// The answer to [`Command::Audit`].
    Balances(BTreeMap<u32, u64>),
}

/// The state machine: balances, none below zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bank {
    accounts: BTreeMap<u32, u64>,
}

impl Bank {
    /// What is in an account; nothing, if there is none.
    pub fn balance(&self, account: u32) -> u64 {
        self.accounts.get(&account).copied().unwrap_or_default()
    }

    /// All accounts there are.
    pub fn balances(&self) -> &BTreeMap<u32, u64> {
        &self.accounts
    }

    /// Does one command.
    pub fn execute(&mut self, command: &Command) -> Response {
        let balance = match *command {
            Command::Deposit { account, amount } => {
                self.set(account, self.balance(account).checked_add(amount))
            }
            Command::Withdraw { account, amount } => {
                self.set(account, self.balance(account).checked_sub(amount))
            }
            Command::Transfer { from, to, amount } => self.transfer(from, to, amount),
            Command::Audit => return Response::Balances(self.accounts.clone()),
        };
        balance.map_or(Response::Refused, |balance| Response::Done { balance })
    }

    fn set(&mut self, account: u32, balance: Option<u64>) -> Option<u64> {
        self.accounts.insert(account, balance?);
        balance
    }

    fn transfer(&mut self, from: u32, to: u32, amount: u64) -> Option<u64> {
        let left = self.balance(from).checked_sub(amount)?;
        if from == to {
            return Some(self.balance(from));
        }
        let received = self.balance(to).checked_add(amount)?;
        self.set(to, Some(received));
        self.set(from, Some(left))
    }
}

#[async_trait]
impl StateMachine for Bank {
    type Command = Command;
    type Response = Response;
    type Codec = Postcard;

    async fn apply(&mut self, entries: Vec<Committed<Command>>) -> Result<Vec<Response>, Failure> {
        Ok(entries.iter().map(|entry| self.execute(&entry.command)).collect())
    }

    async fn snapshot(&mut self) -> Result<Snapshot, Failure> {
        Snapshot::encode(&self.accounts)
    }

    async fn restore(&mut self, snapshot: Snapshot) -> Result<(), Failure> {
        self.accounts = snapshot.decode()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_overdrawn_and_nothing_overflows() {
        let mut bank = Bank::default();
        let (from, to) = (1, 2);
        let done = |balance| Response::Done { balance };
        assert_eq!(bank.execute(&Command::Withdraw { account: 1, amount: 1 }), Response::Refused);
        assert_eq!(bank.execute(&Command::Deposit { account: 1, amount: 5 }), done(5));
        assert_eq!(bank.execute(&Command::Transfer { from, to, amount: 6 }), Response::Refused);
        assert_eq!(bank.execute(&Command::Transfer { from, to, amount: 3 }), done(2));
        assert_eq!(bank.execute(&Command::Transfer { from, to: 1, amount: 2 }), done(2));
        assert_eq!(bank.execute(&Command::Withdraw { account: 1, amount: 2 }), done(0));
        let most = Command::Deposit { account: 2, amount: u64::MAX };
        assert_eq!(bank.execute(&most), Response::Refused);
        assert_eq!(bank.balances(), &BTreeMap::from([(1, 0), (2, 3)]));
    }
}
