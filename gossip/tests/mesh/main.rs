//! Whole machines against each other, over a network, disks and a clock that are all simulated.
// Helpers of tests may unwrap like the tests themselves.
#![allow(clippy::unwrap_used)]

mod cluster;
mod duplicates;
mod economy;
mod hostile;
mod net;
mod pass;
mod pressure;
mod vectors;

/// The shell keeps the machine in a task that moves between threads.
#[test]
fn a_machine_can_be_sent_to_another_thread() {
    fn takes<T: Send>() {}
    takes::<weft_gossip::Mesh>();
}
