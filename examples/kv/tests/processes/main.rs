//! What `kv` promises, shown with real processes: its contract over HTTP and on the command line,
//! and that nothing acknowledged is lost, whatever happens to processes, disks, ports and links.
//!
//! Every cluster has its own directory and free ports; nothing sleeps for a fixed time, everything
//! that has to come is awaited with a generous bound; what a test started is gone when it ends.

mod backup;
mod bad_input;
mod cli;
mod damage;
mod demo;
mod faults;
mod http;
mod members;
mod memory;
mod observe;
mod overload;
mod partitions;
mod recover;
mod sessions;
mod support;
mod witness;
