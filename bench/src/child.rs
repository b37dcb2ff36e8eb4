//! The processes of a measurement: started, talked to, and never left over.
//!
//! Each is this program again, under a name that no user types. It is in a process group of its own, so
//! that Ctrl-C in a terminal reaches its parent alone, which then ends it. It ends when its standard
//! input does: when the parent is gone, however it went, so are they.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead as _, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{self, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::failure::{Failure, asked_to_stop};

/// How long a child may take for anything, its end included.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at whether a child has ended.
const LOOK: Duration = Duration::from_millis(2);

/// As much of what a program has printed is looked at for its last words.
const LAST_WORDS_BYTES: u64 = 4096;

/// A running child. Dropping it ends it and returns when it is gone.
pub(crate) struct Child {
    name: String,
    process: process::Child,
    /// Closed first of all: the child then ends by itself.
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Child {
    /// Starts `bench` with this command and these arguments; `name` is for messages. On a runtime.
    pub(crate) fn start(
        name: impl Into<String>,
        command: &str,
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<Self, Failure> {
        let name = name.into();
        let start = || {
            let mut process = Command::new(env::current_exe()?)
                .arg(command)
                .args(arguments)
                .process_group(0)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let input = process.stdin.take().expect("it is piped");
            let output = process.stdout.take().expect("it is piped");
            let input = Some(ChildStdin::from_std(input)?);
            let output = BufReader::new(ChildStdout::from_std(output)?).lines();
            Ok(Self { name: name.clone(), process, input, output })
        };
        start().map_err(|error: io::Error| {
            Failure::new(
                format!("{name} can't be started: {error}"),
                "raise the limit on processes",
            )
        })
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// The next line that it prints.
    pub(crate) async fn line(&mut self) -> Result<String, Failure> {
        let what = match timeout(PATIENCE, self.output.next_line()).await {
            Ok(Ok(Some(line))) => return Ok(line),
            // It has said why, on standard error.
            Ok(Ok(None)) => format!("{} has ended", self.name),
            Ok(Err(error)) => format!("{} can't be heard: {error}", self.name),
            Err(_) => format!("{} has said nothing for {PATIENCE:?}", self.name),
        };
        Err(Failure::new(what, "look at --dir and at what else this machine does"))
    }

    /// Gives it a line to read.
    pub(crate) async fn tell(&mut self, line: &str) -> Result<(), Failure> {
        let input = self.input.as_mut().expect("only `end` closes it");
        let told = input.write_all(format!("{line}\n").as_bytes()).await;
        told.map_err(|error| {
            let what = format!("{} does not listen any more: {error}", self.name);
            Failure::new(what, "look at what it said")
        })
    }

    /// Whether it has not ended.
    pub(crate) fn lives(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Ends it at once, as `kill -9` does, and returns when it is gone.
    pub(crate) fn kill(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }

    /// Lets it end by itself; whoever drops it waits for that. With several of them, first tell all.
    pub(crate) fn end(&mut self) {
        self.input = None;
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
        let begun = Instant::now();
        while matches!(self.process.try_wait(), Ok(None)) {
            if begun.elapsed() > PATIENCE {
                eprintln!("error: {} does not end; it is killed", self.name);
                self.kill();
                return;
            }
            thread::sleep(LOOK);
        }
    }
}

/// What a child is told, line by line, until its parent closes its standard input.
pub(crate) fn told() -> mpsc::UnboundedReceiver<String> {
    let (to, lines) = mpsc::unbounded_channel();
    // A thread of its own, which the end of the process need not wait for.
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if to.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

/// Completes when this child is to end.
pub(crate) async fn to_end(lines: &mut mpsc::UnboundedReceiver<String>) {
    tokio::select! { biased;
        Ok(()) = asked_to_stop() => {}
        () = async { while lines.recv().await.is_some() {} } => {}
    }
}

/// Runs a program that does not look at its standard input, and kills it when that closes. What it
/// prints goes to the file `log`. Of its environment what begins with `hidden` is kept from it.
pub(crate) async fn keep(
    program: &Path,
    arguments: &[OsString],
    log: &Path,
    hidden: &str,
) -> Result<(), Failure> {
    let name = program.display();
    let start = || {
        let log = File::create(log)?;
        let mut command = tokio::process::Command::new(program);
        for (variable, _) in env::vars_os() {
            if variable.to_string_lossy().starts_with(hidden) {
                command.env_remove(variable);
            }
        }
        let command = command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?);
        command.stderr(log).process_group(0).kill_on_drop(true).spawn()
    };
    let mut kept = start().map_err(|error| {
        Failure::new(format!("{name} can't be started: {error}"), "look at its installation")
    })?;
    let mut lines = told();
    let ended = tokio::select! { biased;
        () = to_end(&mut lines) => None,
        ended = kept.wait() => Some(ended),
    };
    match ended {
        None => kept.kill().await.map_err(|error| {
            Failure::new(format!("{name} could not be killed: {error}"), "kill it by hand")
        }),
        Some(ended) => {
            let status = ended.map_or_else(|e| e.to_string(), |status| status.to_string());
            let what = format!("{name} ended with {status}; it last said: {}", last_words(log));
            Err(Failure::new(what, "see what it says when it is started by hand"))
        }
    }
}

fn last_words(log: &Path) -> String {
    let read = || {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(bytes)
    };
    let text = read().unwrap_or_default();
    String::from_utf8_lossy(&text).lines().last().unwrap_or("nothing").to_owned()
}
