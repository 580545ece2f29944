//! The `lb-user` program; also `ipvsadm`, `ipvsadm-save` and `ipvsadm-restore` when called by those names.

fn main() {}
