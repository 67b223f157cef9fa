use serde::{Deserialize, Serialize};

use super::container::Owner;

/// A process as the host sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Thread group id in the host's pid namespace.
    pub pid: u32,
    /// The thread that acted, in the host's pid namespace.
    pub tid: u32,
    /// Pid in the innermost pid namespace of the process; `None` where it could not be read.
    pub ns_pid: Option<u32>,
    pub ppid: Option<u32>,
    /// Raw text from the kernel, not escaped.
    pub comm: String,
    /// In the host's user namespace.
    pub uid: Option<u32>,
}

/// A process and the container that it is in (`None`: the host).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessIn {
    pub process: Process,
    pub container: Owner,
}
