//! What a process says: answers on standard output, everything else on standard error. Nothing here panics because
//! nobody reads: without a reader the process ends quietly, and what it leaves behind is undone first.

use crate::interrupt;
use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::{Duration, Instant};

/// What a shell reports of a process that SIGPIPE ended.
const READER_IS_GONE: i32 = 128 + libc::SIGPIPE;

/// Ends the process if an answer could not be given: what nobody got must not look done.
fn given(written: io::Result<()>) {
    let Err(error) = written else { return };
    if error.kind() == ErrorKind::BrokenPipe {
        interrupt::leave(READER_IS_GONE);
    }
    note(format_args!("error: standard output: {error}"));
    interrupt::leave(1)
}

/// Prints a line of the answer.
pub(crate) fn line(text: impl Display) {
    given(writeln!(io::stdout(), "{text}"));
}

/// Writes contents that are the answer.
pub(crate) fn contents(bytes: &[u8]) {
    given(io::stdout().write_all(bytes));
}

/// Ends contents.
pub(crate) fn flush() {
    given(io::stdout().flush());
}

/// Says something to people. Who has closed standard error does not want to hear it.
pub(crate) fn note(text: impl Display) {
    let _ = writeln!(io::stderr(), "{}", visible(&text.to_string()));
}

/// Control characters are shown, never sent: a name may hold a line break, or what a terminal takes for a command.
fn visible(text: &str) -> String {
    let show = |letter: char| match letter.is_control() {
        true => letter.escape_default().to_string(),
        false => letter.to_string(),
    };
    text.chars().map(show).collect()
}

/// A line on a terminal that is written over again and again, for anything that takes over a second.
pub(crate) struct Progress {
    shown: bool,
    next: Instant,
    terminal: bool,
}

impl Progress {
    /// Silent for a second, and where stderr is no terminal.
    pub(crate) fn new() -> Self {
        let next = Instant::now() + Duration::from_secs(1);
        Self { shown: false, next, terminal: io::stderr().is_terminal() }
    }

    /// Shows `text`, if it is time.
    pub(crate) fn show(&mut self, text: impl FnOnce() -> String) {
        let now = Instant::now();
        if self.terminal && now >= self.next {
            self.next = now + Duration::from_millis(250);
            self.shown = true;
            draw(&text());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            draw("");
        }
    }
}

fn draw(text: &str) {
    // A terminal that has gone away has nobody before it.
    let _ = write!(io::stderr(), "\r\x1b[K{text}");
}

#[cfg(test)]
mod tests {
    use super::visible;

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(visible("a\nb\x1b[31mc\u{e9}\\"), "a\\nb\\u{1b}[31mc\u{e9}\\");
    }
}
