//! The kernel and the hardware: aligned registered buffers, disks on io_uring, cores, clocks, entropy, ties of processes.

pub mod clock;
pub mod cores;
pub mod disk;
pub mod entropy;
pub mod limits;
pub mod pool;
pub mod process;
pub mod secret;
pub mod sim;
pub mod uring;
