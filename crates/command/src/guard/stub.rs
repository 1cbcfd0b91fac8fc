//! The step between the guard and the command: a process that ties its life to the guard's and then becomes the
//! command. It exists because these things must be done in the child, and only unsafe code can do them between fork and
//! exec.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use super::{EXEC_SUBCOMMAND, messages};

/// The stub, as the guard starts it: `leasehold __exec GUARD_PID COMMAND...`, a socket as standard input.
pub(super) fn command(guard: i32, words: &[OsString], socket: UnixStream) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("leasehold").arg(EXEC_SUBCOMMAND).arg(guard.to_string()).args(words);
    command.stdin(std::os::fd::OwnedFd::from(socket));
    command
}

/// Gives the stub its real standard input.
pub(super) fn send_stdin(socket: &UnixStream, stdin: impl AsFd) -> io::Result<()> {
    messages::send_with_fds(socket, &[0], &[stdin.as_fd()])
}

/// What the stub said before its end of the socket closed: nothing when it became the command, else an error number.
pub(super) fn read_failure(socket: &mut UnixStream) -> io::Result<Option<i32>> {
    let mut errno = [0; 4];
    loop {
        match socket.read_exact(&mut errno) {
            Ok(()) => return Ok(Some(i32::from_le_bytes(errno))),
            Err(error) => match error.kind() {
                io::ErrorKind::UnexpectedEof => return Ok(None),
                // It was killed before it took its standard input. The kernel says so once, and before what it had
                // said.
                io::ErrorKind::ConnectionReset => {}
                _ => return Err(error),
            },
        }
    }
}

/// The hidden subcommand `__exec`. `args` is what follows that word: the guard's process id and the command.
/// Returns only when the command can't be executed.
pub(crate) fn exec_main(args: &[OsString]) -> ExitCode {
    let Some((guard, words)) = args.split_first() else { return ExitCode::from(64) };
    let Some(guard) = guard.to_str().and_then(|guard| guard.parse::<i32>().ok()) else { return ExitCode::from(64) };
    let Some((program, arguments)) = words.split_first() else { return ExitCode::from(64) };
    // A copy that closes when this process becomes the command.
    let Ok(socket) = io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from) else { return ExitCode::from(64) };
    let error = match prepare(&socket, guard) {
        Ok(()) => Command::new(program).args(arguments).exec(),
        Err(error) => error,
    };
    // Nobody is there to hear it when that fails, and then this process is about to be killed.
    let _ = (&socket).write_all(&error.raw_os_error().unwrap_or(rustix::io::Errno::INVAL.raw_os_error()).to_le_bytes());
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 })
}

fn prepare(socket: &UnixStream, guard: i32) -> io::Result<()> {
    // Blocks until the guard sends it; a guard that dies closes the socket.
    let stdin = messages::receive_with_fds(socket)?.and_then(|(_, fds)| fds.into_iter().next());
    let stdin = stdin.ok_or(io::ErrorKind::InvalidData)?;
    rustix::stdio::dup2_stdin(stdin)?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The guard may have died before that call.
    if getppid().is_none_or(|parent| parent.as_raw_nonzero().get() != guard) {
        return Err(rustix::io::Errno::SRCH.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stub_that_ends_before_it_takes_its_input_is_no_failure_of_the_guards() {
        for (said, read) in [(None, None), (Some(2_i32), Some(2))] {
            let (mut socket, mut stub) = UnixStream::pair().expect("a pair of sockets");
            send_stdin(&socket, io::stdin()).expect("a message");
            if let Some(errno) = said {
                stub.write_all(&errno.to_le_bytes()).expect("an answer");
            }
            drop(stub);
            assert_eq!(read_failure(&mut socket).ok(), Some(read));
        }
    }
}
