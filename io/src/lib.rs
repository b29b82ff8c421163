//! The kernel and the hardware: aligned registered buffers, disks on io_uring, cores, clocks.
