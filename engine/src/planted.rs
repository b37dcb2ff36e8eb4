//! Bugs that can be planted, to prove that the simulator sees them.
//!
//! A checker that never fails proves nothing. So the code carries, at the places where Raft
//! implementations have gone wrong, a question whether it is to go wrong there on purpose:
//! `if !planted::on("no-up-to-date-check") && ...`. Ordinary builds have no such bugs: without the
//! feature `planted-bugs` the answer is the constant `false`, and nothing is left of the question.
//! With it a bug acts only on the thread that has switched it on, one at a time.
//!
//! `sim/mutants`, a package of its own outside the workspace, is the only one that enables the
//! feature; it lists every bug with the hazard it stands for and with what has to catch it. Tests in
//! `core/tests/tidy.rs` hold that no member of the workspace enables it, and that the list and the
//! code name the same bugs.

/// Whether the bug `name` is switched on.
#[cfg(not(feature = "planted-bugs"))]
pub const fn on(_name: &str) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
pub use switch::{Planted, on, switch_on};

#[cfg(feature = "planted-bugs")]
mod switch {
    use std::cell::Cell;
    use std::marker::PhantomData;

    thread_local! {
        static ON: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// Whether the bug `name` is switched on, on this thread.
    pub fn on(name: &str) -> bool {
        ON.get() == Some(name)
    }

    /// Plants a bug on this thread until the answer is dropped.
    ///
    /// # Panics
    /// If one is planted already: what two bugs do together proves nothing about either.
    pub fn switch_on(name: &'static str) -> Planted {
        let before = ON.replace(Some(name));
        assert_eq!(before, None, "one bug at a time");
        Planted(PhantomData)
    }

    /// A bug is planted while this lives.
    #[derive(Debug)]
    pub struct Planted(
        /// Belongs to its thread.
        PhantomData<*const ()>,
    );

    impl Drop for Planted {
        fn drop(&mut self) {
            ON.set(None);
        }
    }
}
