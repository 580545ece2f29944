//! The `lb-user` program; also `ipvsadm`, `ipvsadm-save` and `ipvsadm-restore` when called by those names.

use std::process::ExitCode;

fn main() -> ExitCode {
    lb_user::start::main(std::env::args_os())
}
