//! What ties a process to others: who kills it, whose end is its own, and signals that it was told to ignore.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Has the kernel kill the command's process when the thread that starts it ends, however that comes about: nothing
/// else is left to stop it after a SIGKILL.
pub fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let tie = move || {
        // SAFETY: the call takes two integers and touches no memory of ours.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call takes nothing and touches no memory of ours.
        match unsafe { libc::getppid() } as u32 == parent {
            true => Ok(()),
            // It ended before the tie was made.
            false => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        }
    };
    // SAFETY: between fork and exec the closure makes two async-signal-safe system calls; it allocates and locks nothing.
    unsafe { command.pre_exec(tie) };
}

/// Kills a process with SIGKILL, if it is there and ours to kill.
pub fn kill(process: u32) {
    // SAFETY: the call takes two integers and touches no memory of ours.
    let _ = unsafe { libc::kill(process as libc::pid_t, libc::SIGKILL) };
}

/// Whether a process is there, whoever's it is.
pub fn is_there(process: u32) -> bool {
    // SAFETY: as above; signal 0 is never delivered.
    unsafe {
        libc::kill(process as libc::pid_t, 0) == 0 || io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
    }
}

/// Whether this process was started with a signal ignored, as `nohup` does it: then it should stay ignored.
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: a sigaction is plain integers, for which all zero is valid.
    let mut current: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: without a new action the kernel only fills in the current one.
    let read = unsafe { libc::sigaction(signal, std::ptr::null(), &mut current) };
    read == 0 && current.sa_sigaction == libc::SIG_IGN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tied_process_runs_as_any_other() {
        let mut command = Command::new("true");
        die_with_parent(&mut command);
        assert!(command.status().expect("it runs").success());
        assert!(is_there(std::process::id()));
    }

    #[test]
    fn a_killed_process_is_gone() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("it runs");
        kill(child.id());
        assert!(!child.wait().expect("ended").success());
        assert!(!is_there(child.id()));
    }

    #[test]
    fn an_interrupt_is_not_ignored_unless_it_was_asked_for() {
        // Rust's own start ignores SIGPIPE.
        assert!(is_ignored(libc::SIGPIPE) && !is_ignored(libc::SIGUSR1));
    }
}
