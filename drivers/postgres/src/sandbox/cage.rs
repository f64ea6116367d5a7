//! What the kernel refuses to the server of a sandbox and to everything that it starts, whatever a
//! function, a trigger or an extension in the restored cluster tries.

use std::{io, path::Path};

use landlock::{
    ABI, Access as _, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

/// The newest rules that are asked for; an older kernel enforces those that it knows.
/// Source: landlock(7), "ABI versions".
const RULES: ABI = ABI::V6;

/// Where a process may write beside its own directory: devices such as `/dev/null`.
const DEVICES: &str = "/dev";

/// What is said where every rule holds.
const WHOLE: &str = "the kernel refuses it connections, files elsewhere, and signals to others";

/// Puts the calling thread, and whatever it starts, into a cage around `directory`: no connection
/// to anything, no sockets but local ones, no file written elsewhere, no signal to others. Says
/// what holds.
///
/// # Errors
///
/// When the kernel cannot keep it from connecting.
pub(super) fn enter(directory: &Path) -> io::Result<&'static str> {
    let files = keep_files(directory).map_err(io::Error::other)?;
    refuse_connections()?;
    Ok(match files {
        RulesetStatus::FullyEnforced => WHOLE,
        RulesetStatus::PartiallyEnforced => {
            "the kernel refuses it connections, and files elsewhere as far as this version can"
        }
        RulesetStatus::NotEnforced => {
            "the kernel refuses it connections; this version cannot keep it from files elsewhere"
        }
    })
}

fn keep_files(directory: &Path) -> Result<RulesetStatus, Box<dyn std::error::Error + Send + Sync>> {
    let writes = AccessFs::from_write(RULES);
    let status = Ruleset::default()
        .handle_access(writes)?
        .scope(Scope::from_all(RULES))?
        .create()?
        .add_rule(PathBeneath::new(PathFd::new(directory)?, writes))?
        .add_rule(PathBeneath::new(PathFd::new(DEVICES)?, AccessFs::WriteFile))?
        .restrict_self()?;
    Ok(status.ruleset)
}

/// A server listens and accepts; it connects to nothing, unless somebody makes it.
fn refuse_connections() -> io::Result<()> {
    let refuse = SeccompAction::Errno(libc::EACCES.cast_unsigned());
    let is_not_local = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Ne,
        u64::from(libc::AF_UNIX.cast_unsigned()),
    );
    let is_not_local = is_not_local.and_then(|condition| SeccompRule::new(vec![condition]));
    let is_not_local = is_not_local.map_err(io::Error::other)?;
    let rules = [
        (libc::SYS_connect, Vec::new()),
        (libc::SYS_socket, vec![is_not_local]),
        // It could connect without that call.
        (libc::SYS_io_uring_setup, Vec::new()),
    ];
    let architecture = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let filter =
        SeccompFilter::new(rules.into_iter().collect(), SeccompAction::Allow, refuse, architecture);
    let program: BpfProgram = filter.and_then(TryInto::try_into).map_err(io::Error::other)?;
    apply_filter(&program).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        net::{TcpListener, TcpStream, UdpSocket},
        os::unix::net::{UnixListener, UnixStream},
        process::Command,
    };

    use super::*;

    /// Runs on a thread of its own, which stays in the cage for ever.
    fn caged<T: Send>(directory: &Path, work: impl FnOnce(&str) -> T + Send) -> T {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let holds = enter(directory).unwrap();
                    work(holds)
                })
                .join()
                .unwrap()
        })
    }

    #[test]
    fn nothing_is_reached_from_a_cage_and_it_may_still_listen_and_write_inside() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let socket = outside.path().join("socket");
        let _local = UnixListener::bind(&socket).unwrap();
        let archive = outside.path().join("archive");
        caged(inside.path(), |_| {
            let denied = io::ErrorKind::PermissionDenied;
            assert_eq!(TcpStream::connect(address).unwrap_err().kind(), denied);
            assert_eq!(UdpSocket::bind("127.0.0.1:0").unwrap_err().kind(), denied);
            assert_eq!(UnixStream::connect(&socket).unwrap_err().kind(), denied);
            assert_eq!(fs::write(&archive, "").unwrap_err().kind(), denied);
            assert_eq!(fs::remove_file(&socket).unwrap_err().kind(), denied);
            UnixListener::bind(inside.path().join("own")).unwrap();
            fs::write(inside.path().join("file"), "x").unwrap();
            fs::write("/dev/null", "x").unwrap();
        });
        assert!(!archive.exists());
        TcpStream::connect(address).unwrap();
    }

    #[test]
    fn what_a_caged_process_starts_is_caged() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let archive = outside.path().join("archive");
        let mut victim = Command::new("sleep").arg("60").spawn().unwrap();
        caged(inside.path(), |holds| {
            let write = format!("echo x > '{}'", archive.display());
            let kill = format!("kill -9 {}", victim.id());
            // Signals can be refused from Linux 6.12 on.
            for script in [Some(write), (holds == WHOLE).then_some(kill)].into_iter().flatten() {
                let status = Command::new("sh").arg("-c").arg(&script).status().unwrap();
                assert!(!status.success(), "{script}");
            }
        });
        assert!(!archive.exists());
        assert!(victim.try_wait().unwrap().is_none(), "it was signalled");
        victim.kill().unwrap();
        victim.wait().unwrap();
    }
}
