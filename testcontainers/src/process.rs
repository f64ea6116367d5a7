//! Child processes that cannot outlive the tests.

use std::{
    io,
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus},
    sync::{
        LazyLock, Mutex,
        mpsc::{self, Sender},
    },
    thread,
};

use rustix::process::{Pid, Signal, kill_process_group};

/// A running program, alone in its process group. Dropping it kills the group.
///
/// Should this process be killed, so that nothing is dropped, the kernel kills the program.
#[derive(Debug)]
pub(crate) struct Process(Child);

/// Runs the program unless this process died before the death signal was set, which would then
/// never come.
const UNLESS_ORPHANED: &str = r#"[ "$PPID" = "$0" ] && exec "$@""#;

type Request = (Command, Sender<io::Result<Child>>);

/// The thread that starts every program: it lives as long as this process.
///
/// The death signal is sent when the *thread* that started a program ends, and threads of tests
/// end early. Source: prctl(2), `PR_SET_PDEATHSIG`, "Warning".
static KEEPER: LazyLock<Mutex<Sender<Request>>> = LazyLock::new(|| {
    let (requests, received) = mpsc::channel::<Request>();
    thread::spawn(move || {
        for (mut command, answer) in received {
            // Nobody waits for the answer only when the test is gone; dropping it kills the child.
            let _ = answer.send(command.spawn());
        }
    });
    Mutex::new(requests)
});

impl Process {
    /// Starts `program`; the caller adds arguments, directory and output through `prepare`.
    pub(crate) fn start(
        program: &std::path::Path,
        prepare: impl FnOnce(&mut Command),
    ) -> io::Result<Self> {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", "sh", "-c", UNLESS_ORPHANED])
            .arg(std::process::id().to_string())
            .arg(program)
            .process_group(0);
        prepare(&mut command);
        let (answer, answered) = mpsc::channel();
        let keeper = KEEPER.lock().map_err(|_| io::ErrorKind::Other)?;
        keeper.send((command, answer)).map_err(io::Error::other)?;
        drop(keeper);
        answered.recv().map_err(io::Error::other)?.map(Self)
    }

    /// How the program ended, if it has.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        env, fs,
        io::{BufRead, BufReader},
        path::Path,
        process::Stdio,
        time::Duration,
    };

    use super::*;

    fn sleeper() -> Process {
        Process::start(Path::new("sleep"), |command| {
            command.arg("1000").stdout(Stdio::null()).stderr(Stdio::null());
        })
        .unwrap()
    }

    /// Whether a process exists and is no zombie.
    fn is_alive(id: u32) -> bool {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
    }

    #[test]
    fn a_program_outlives_the_thread_that_asked_for_it_but_not_its_owner() {
        let process = thread::spawn(sleeper).join().unwrap();
        let id = process.0.id();
        assert!(is_alive(id));
        drop(process);
        assert!(!is_alive(id));
    }

    const CHILD: &str = "STILLPOINT_TEST_CHILD";

    #[test]
    fn a_killed_test_takes_its_programs_along() {
        if env::var_os(CHILD).is_some() {
            let process = sleeper();
            println!("sleeper {}", process.0.id());
            thread::park();
        }
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "process::tests::a_killed_test_takes_its_programs_along"])
            .arg("--nocapture")
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let id = lines
            .map_while(Result::ok)
            .find_map(|line| line.split_once("sleeper ")?.1.parse().ok())
            .expect("the child names its program");
        assert!(is_alive(id));
        child.kill().unwrap();
        child.wait().unwrap();
        for _ in 0..200 {
            if !is_alive(id) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("the program of a killed test lives on");
    }
}
