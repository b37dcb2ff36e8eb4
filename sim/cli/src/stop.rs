//! Ctrl-C and SIGTERM end a run between two seeds, a second one at once; panics of what is simulated
//! are results.

use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

use crate::simulate::{self, SIMULATING};

static STOPPED: AtomicBool = AtomicBool::new(false);

/// Whether the user has asked for an end.
pub(crate) fn is_asked_for() -> bool {
    STOPPED.load(Ordering::Relaxed)
}

/// Listens from now on. Without signals a run can still be ended, less cleanly, so a machine that
/// does not let us listen is no reason to give up.
pub(crate) fn listen() {
    // Closed when the thread listens, or has given up.
    let (listens, heard) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async {
            let streams = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
            let (Ok(mut interrupt), Ok(mut terminate)) = streams else { return };
            drop(listens);
            loop {
                tokio::select! {
                    biased;
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if STOPPED.swap(true, Ordering::Relaxed) {
                    let seeds = simulate::in_progress();
                    eprintln!("error: stopped within seeds {seeds:?}; replay one with --seed");
                    exit(1);
                }
            }
        });
    });
    heard.recv().expect_err("nothing is ever sent");
}

/// An engine that panics is reported with its seed; its backtraces would only be in the way.
pub(crate) fn keep_simulated_panics_quiet() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !SIMULATING.get() {
            usual(panic);
        }
    }));
}
