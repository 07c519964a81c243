//! Servers that end with the suite, however that ends: this same program, told by its environment, becomes the server.

use crate::etcd::without_flags;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The variable with the program and its arguments, as JSON.
const SERVER: &str = "FAULTS_SERVER";

/// A command that runs a program which is killed when its parent ends.
pub fn command(program: &Path, arguments: &[String]) -> Command {
    let program = program.to_str().expect("a path that is text");
    let whole: Vec<&str> = std::iter::once(program).chain(arguments.iter().map(String::as_str)).collect();
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command
        .args(["guard::server_process", "--exact", "--ignored", "--nocapture"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    without_flags(&mut command);
    command.env(SERVER, serde_json::to_string(&whole).expect("a command as JSON"));
    command
}

/// This process is killed when its parent ends, also when it stands still. Only Linux can do that.
pub fn end_with_parent() {
    #[cfg(target_os = "linux")]
    {
        use nix::sys::{prctl::set_pdeathsig, signal::Signal};
        set_pdeathsig(Signal::SIGKILL).expect("a process may end with its parent");
    }
}

#[test]
#[ignore = "the part of a server's process, which the suite starts"]
fn server_process() {
    let Ok(whole) = std::env::var(SERVER) else { return };
    let whole: Vec<String> = serde_json::from_str(&whole).expect("a command");
    end_with_parent();
    let failed = Command::new(&whole[0]).args(&whole[1..]).env_remove(SERVER).exec();
    panic!("{}: {failed}", whole[0]);
}
