//! What a worker may do: compute. It parses files of strangers and reads private data, so it
//! confines itself before the first request: no network, no other programs, and of the file system
//! only its job directory (to write) and what its libraries read.
//!
//! Linux has two means, each used as far as the kernel has it: Landlock (files, connections) and
//! seccomp (system calls). What is in force is told in the worker's description, so that a node
//! can warn its owner. Memory, processor time and file sizes are limited by the daemon, from
//! outside.
//!
//! Deliberately absent: a list of allowed system calls. What libtorch and drivers need differs by
//! machine and version; those that lead out of a sandbox are refused instead.

use std::path::Path;

use protocol::worker::SandboxStatus;

/// Directories of libraries and of facts about the machine, and devices without content. Nothing
/// of the user's is in them.
#[cfg(target_os = "linux")]
const READABLE: [&str; 12] = [
    "/usr",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/proc/self",
    "/proc/meminfo",
    "/proc/cpuinfo",
    "/proc/stat",
    "/proc/driver",
    "/sys",
    "/dev/null",
    "/dev/urandom",
];

/// Confines this process for good; `writable` is its job directory. With `gpu`, NVIDIA's devices
/// stay open. Call it while there is one thread: Landlock holds for the threads made after it.
#[cfg(target_os = "linux")]
pub fn confine(writable: &Path, gpu: bool) -> SandboxStatus {
    let (landlock_abi, no_connections) = match linux::landlock(writable, gpu) {
        Ok(result) => result,
        Err(error) => {
            tracing::warn!(%error, "Landlock is not in force: this process could read any file");
            (0, false)
        }
    };
    let filtered = match linux::filter() {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "seccomp is not in force: system calls are not filtered");
            false
        }
    };
    SandboxStatus { landlock_abi, no_network: filtered || no_connections, filtered }
}

/// There is no sandbox on this system.
#[cfg(not(target_os = "linux"))]
pub fn confine(_writable: &Path, _gpu: bool) -> SandboxStatus {
    tracing::warn!("this system has no sandbox for the worker: it could read any file");
    SandboxStatus::default()
}

#[cfg(target_os = "linux")]
mod linux {
    use std::path::{Path, PathBuf};

    use landlock::{
        ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset,
        RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
    };
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

    use super::READABLE;

    /// The newest version whose rights are asked for; an older kernel gives what it has.
    const NEWEST: ABI = ABI::V6;

    /// Restricts files and connections. Gives the version in force (0 for none) and whether
    /// that one restricts TCP.
    pub(super) fn landlock(writable: &Path, gpu: bool) -> Result<(u32, bool), RulesetError> {
        let everything = AccessFs::from_all(NEWEST);
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let special: BitFlags<AccessFs> =
            AccessFs::Execute | AccessFs::MakeSock | AccessFs::MakeChar | AccessFs::MakeBlock;
        let mut rules = Ruleset::default()
            .handle_access(everything)?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(Scope::from_all(NEWEST))?
            .create()?;
        // A path that this machine does not have needs no rule.
        let mut grant = |path: PathBuf, access: BitFlags<AccessFs>| -> Result<(), RulesetError> {
            if let Ok(descriptor) = PathFd::new(&path) {
                let access =
                    if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
                (&mut rules).add_rule(PathBeneath::new(descriptor, access))?;
            }
            Ok(())
        };
        for path in READABLE.into_iter().map(PathBuf::from).chain(libraries()) {
            grant(path, read)?;
        }
        grant(writable.to_owned(), everything & !special)?;
        if gpu {
            for path in devices() {
                grant(path, everything & !special)?;
            }
        }
        let status = rules.restrict_self()?;
        let abi = match status.landlock {
            LandlockStatus::Available { effective_abi, .. } => effective_abi as u32,
            _ => 0,
        };
        let in_force = status.ruleset != RulesetStatus::NotEnforced;
        // Connections can be restricted from the fourth version on.
        Ok(if in_force { (abi, abi >= 4) } else { (0, false) })
    }

    /// Folders of this program and of libtorch.
    fn libraries() -> Vec<PathBuf> {
        let own = std::env::current_exe().ok();
        let own = own.as_deref().and_then(Path::parent).map(Path::to_owned);
        // Where the linker found libtorch; its neighbours hold CUDA's libraries.
        let torch = option_env!("LIBTORCH").map(Path::new).and_then(Path::parent);
        own.into_iter().chain(torch.map(Path::to_owned)).collect()
    }

    fn devices() -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir("/dev") else { return Vec::new() };
        let nvidia = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("nvidia"))
        };
        let found = entries.flatten().map(|entry| entry.path()).filter(nvidia);
        found.chain([PathBuf::from("/dev/shm")]).collect()
    }

    /// Refuses the system calls that lead out: sockets, other programs, other processes' memory,
    /// namespaces, mounts, the kernel's own interfaces. They fail with "not permitted".
    pub(super) fn filter() -> Result<(), seccompiler::Error> {
        let refused = [
            libc::SYS_socket,
            libc::SYS_socketpair,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_listen,
            libc::SYS_accept,
            libc::SYS_accept4,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_pidfd_getfd,
            libc::SYS_kcmp,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
            libc::SYS_open_by_handle_at,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_userfaultfd,
            libc::SYS_io_uring_setup,
            libc::SYS_io_uring_enter,
            libc::SYS_io_uring_register,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_request_key,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_kexec_load,
            libc::SYS_reboot,
            libc::SYS_swapon,
            libc::SYS_personality,
        ];
        let rules = refused.into_iter().map(|call| (call, Vec::new())).collect();
        let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
        let architecture = std::env::consts::ARCH.try_into()?;
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture)?;
        let program = BpfProgram::try_from(filter)?;
        seccompiler::apply_filter_all_threads(&program)
    }
}
