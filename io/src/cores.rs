//! Which cores there are, and staying on one.
#![allow(unsafe_code)]

use std::io;

fn empty_set() -> libc::cpu_set_t {
    // SAFETY: a cpu_set_t is a plain bit array for which all zero is the empty set.
    unsafe { std::mem::zeroed() }
}

/// The cores that this process may run on, in order.
pub fn available() -> io::Result<Vec<usize>> {
    let mut set = empty_set();
    // SAFETY: the kernel fills a set of the size stated.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: every index is below the size of the set.
    Ok((0..libc::CPU_SETSIZE as usize).filter(|core| unsafe { libc::CPU_ISSET(*core, &set) }).collect())
}

/// Binds the calling thread to one core.
pub fn pin(core: usize) -> io::Result<()> {
    if core >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut set = empty_set();
    // SAFETY: the index is below the size of the set.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the kernel reads a set of the size stated.
    match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
