//! The host's files, through one gate: whatever attribution reads, lists or follows passes here, so that it is bounded,
//! is seen from the host's root, and can be kept in a recording.

use std::{
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{DirEntryExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2, readlinkat},
    sys::{stat::Mode, statvfs::fstatvfs},
};
use serde::{Deserialize, Serialize};

/// No file that names a container is larger; an engine's config with a seccomp profile has about 30 KiB.
pub const FILE_CAP: usize = 1 << 20;
/// A directory with more entries is read this far.
pub const LIST_CAP: usize = 65_536;

/// A file's content and who may have written it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    pub bytes: Vec<u8>,
    pub uid: u32,
    pub mode: u32,
}

/// A directory: its own inode number, its owner, and the directories that it holds, in no order. (Files are left out: a
/// cgroup has dozens, and nothing here looks for a file without knowing its name.)
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    pub inode: u64,
    pub uid: u32,
    pub items: Vec<Item>,
    /// There was more than [`LIST_CAP`].
    pub cut: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub name: String,
    pub inode: u64,
}

/// How full a file system is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    pub total_bytes: u64,
    pub free_bytes: u64,
    /// To others than root.
    pub available_bytes: u64,
    /// 0: it has no fixed number of them.
    pub inodes: u64,
    pub inodes_free: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("no such file")]
    Missing,
    #[error("not a regular file")]
    NotRegular,
    #[error("larger than {FILE_CAP} bytes")]
    TooLarge,
    #[error("it belongs to uid {uid}, who is not trusted with it")]
    Untrusted { uid: u32 },
    #[error("{0}")]
    Failed(String),
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::ENOENT | Errno::ENOTDIR | Errno::ESRCH => Self::Missing,
            Errno::ELOOP => Self::NotRegular,
            errno => Self::Failed(errno.desc().to_owned()),
        }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        error.raw_os_error().map_or_else(|| Self::Failed(error.to_string()), |errno| Errno::from_raw(errno).into())
    }
}

/// Paths are absolute, in the host's mount namespace.
pub trait Files {
    /// A regular file, at most [`FILE_CAP`] bytes. Its last name may be no symbolic link.
    fn read(&self, path: &str) -> Result<Content, Refused>;
    fn list(&self, path: &str) -> Result<Listing, Refused>;
    /// Where a symbolic link points to, unresolved.
    fn link(&self, path: &str) -> Result<String, Refused>;

    /// A file as text, whatever it has in it; `None`: it could not be read.
    fn text(&self, path: &str) -> Option<String> {
        self.read(path).ok().map(|content| String::from_utf8_lossy(&content.bytes).into_owned())
    }

    /// A file that only root, or `owner`, can have written.
    fn read_trusted(&self, path: &str, owner: u32) -> Result<Content, Refused> {
        let content = self.read(path)?;
        let others_write = content.mode & 0o002 != 0;
        if others_write || (content.uid != 0 && content.uid != owner) {
            return Err(Refused::Untrusted { uid: content.uid });
        }
        Ok(content)
    }
}

/// The files themselves.
#[derive(Clone, Debug)]
pub struct HostFiles {
    /// The host's root directory as this process can reach it.
    root: PathBuf,
    /// A proc file system of the host's pid namespace.
    proc: PathBuf,
}

impl HostFiles {
    /// As seen from here: where ctrace itself runs in a container (with the host's pid namespace), the host's files are
    /// those of PID 1.
    pub fn here() -> Self {
        let identity = |path: &str| std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
        let init = identity("/proc/1/root/");
        let root = if init.is_some() && init != identity("/") { "/proc/1/root" } else { "/" };
        Self { root: root.into(), proc: "/proc".into() }
    }

    /// The text of the host's mountinfo: where its cgroups are mounted, in the mount namespace that paths here are of.
    pub fn mountinfo(&self) -> String {
        let whose = if self.root == Path::new("/") { "self" } else { "1" };
        let content = self.read(&format!("/proc/{whose}/mountinfo")).map(|content| content.bytes).unwrap_or_default();
        String::from_utf8_lossy(&content).into_owned()
    }

    /// Below another root, for tests.
    pub fn below(root: &Path) -> Self {
        Self { root: root.to_owned(), proc: root.join("proc") }
    }

    /// A path of the host's as this process can open it, for what is no file: a socket.
    #[cfg(feature = "sockets")]
    pub fn reachable(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Symbolic links on the way resolve in the host's root, not in ours; no descriptor is kept.
    fn open(&self, path: &str, flags: OFlag) -> Result<OwnedFd, Refused> {
        let mut flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        if !flags.contains(OFlag::O_PATH) {
            flags |= OFlag::O_NONBLOCK | OFlag::O_NOCTTY; // a FIFO must not hold us up; openat2 refuses these with O_PATH
        }
        let (root, inside) = self.split(path);
        let top = open(root, OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY, Mode::empty())?;
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let inside = if inside.is_empty() { "." } else { inside };
        match openat2(&top, inside, OpenHow::new().flags(flags).resolve(resolve)) {
            // A seccomp profile may not know the call.
            Err(Errno::ENOSYS | Errno::EPERM) => Ok(open(&root.join(inside), flags, Mode::empty())?),
            opened => Ok(opened?),
        }
    }

    /// How full the file system at a path is, the path as a process sees it (`None`: the host). No link is followed on
    /// the way: nobody inside may lead it elsewhere. Not to be asked of a file system whose server may not answer.
    pub fn space(&self, process: Option<u32>, path: &str) -> Result<Space, Refused> {
        let root = process.map_or_else(|| self.root.clone(), |pid| self.proc.join(format!("{pid}/root")));
        let top = open(&root, OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY, Mode::empty())?;
        let resolve =
            ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let inside = Some(path.trim_start_matches('/')).filter(|inside| !inside.is_empty()).unwrap_or(".");
        let at = openat2(&top, inside, OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve))?;
        let stat = fstatvfs(&at)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
        Ok(Space {
            total_bytes: bytes(stat.blocks()),
            free_bytes: bytes(stat.blocks_free()),
            available_bytes: bytes(stat.blocks_available()),
            inodes: stat.files(),
            inodes_free: stat.files_free(),
        })
    }

    /// What the host has mounted there, a namespace: the caller makes sure of it, and closes it.
    pub fn open_mounted(&self, path: &str) -> Result<OwnedFd, Refused> {
        self.open(path, OFlag::O_RDONLY)
    }

    fn split<'a>(&'a self, path: &'a str) -> (&'a Path, &'a str) {
        match path.strip_prefix("/proc/") {
            Some(inside) => (&self.proc, inside),
            None if path == "/proc" => (&self.proc, ""),
            None => (&self.root, path.trim_start_matches('/')),
        }
    }
}

impl Files for HostFiles {
    fn read(&self, path: &str) -> Result<Content, Refused> {
        let file = File::from(self.open(path, OFlag::O_RDONLY)?);
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(Refused::NotRegular);
        }
        let mut bytes = Vec::new();
        file.take(FILE_CAP as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > FILE_CAP {
            return Err(Refused::TooLarge);
        }
        Ok(Content { bytes, uid: meta.uid(), mode: meta.mode() })
    }

    fn list(&self, path: &str) -> Result<Listing, Refused> {
        let dir = File::from(self.open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?);
        let meta = dir.metadata()?;
        let mut listing = Listing { inode: meta.ino(), uid: meta.uid(), ..Listing::default() };
        for entry in std::fs::read_dir(format!("/proc/self/fd/{}", dir.as_raw_fd()))? {
            if listing.items.len() == LIST_CAP {
                listing.cut = true;
                break;
            }
            let entry = entry?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                listing.items.push(Item { name, inode: entry.ino() });
            }
        }
        Ok(listing)
    }

    fn link(&self, path: &str) -> Result<String, Refused> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = self.open(if parent.is_empty() { "/" } else { parent }, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        Ok(readlinkat(&parent, name)?.to_string_lossy().into_owned())
    }
}

/// Files in memory, of any owner.
#[cfg(test)]
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    pub files: std::collections::BTreeMap<String, Content>,
    pub links: std::collections::BTreeMap<String, String>,
}

#[cfg(test)]
impl Memory {
    pub fn file(&mut self, path: &str, text: &str) {
        self.owned(path, text, 0);
    }

    pub fn owned(&mut self, path: &str, text: &str, uid: u32) {
        self.files.insert(path.to_owned(), Content { bytes: text.into(), uid, mode: 0o100_600 });
    }

    /// A process with a command line of words between blanks.
    pub fn process(&mut self, pid: u32, exe: &str, args: &str, cwd: &str, cgroup: &str, uid: u32) {
        self.links.insert(format!("/proc/{pid}/exe"), exe.to_owned());
        self.links.insert(format!("/proc/{pid}/cwd"), cwd.to_owned());
        self.file(&format!("/proc/{pid}/cmdline"), &(args.replace(' ', "\0") + "\0"));
        self.file(
            &format!("/proc/{pid}/status"),
            &format!("Name:\tx\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nNSpid:\t{pid}\n"),
        );
        self.file(&format!("/proc/{pid}/cgroup"), &format!("0::{cgroup}\n"));
    }
}

#[cfg(test)]
impl Files for Memory {
    fn read(&self, path: &str) -> Result<Content, Refused> {
        let content = self.files.get(path).cloned().ok_or(Refused::Missing)?;
        if content.bytes.len() > FILE_CAP { Err(Refused::TooLarge) } else { Ok(content) }
    }

    fn list(&self, path: &str) -> Result<Listing, Refused> {
        let below = format!("{}/", path.trim_end_matches('/'));
        let inside = self.files.keys().chain(self.links.keys()).filter_map(|file| file.strip_prefix(&below));
        let names: std::collections::BTreeSet<&str> = inside.filter_map(|rest| rest.split('/').next()).collect();
        if names.is_empty() {
            return Err(Refused::Missing);
        }
        let item = |name: &str| Item { name: name.to_owned(), inode: 0 };
        Ok(Listing { items: names.into_iter().map(item).collect(), ..Listing::default() })
    }

    fn link(&self, path: &str) -> Result<String, Refused> {
        self.links.get(path).cloned().ok_or(Refused::Missing)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn reads_are_bounded_and_stay_inside() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("var/run")).expect("writable");
        std::fs::create_dir_all(at("run/x/dir")).expect("writable");
        std::fs::write(at("run/x/small"), "text").expect("writable");
        std::fs::write(at("run/x/huge"), vec![b' '; FILE_CAP + 1]).expect("writable");
        symlink("/run/x", at("var/run/x")).expect("writable");
        symlink("/run/x/small", at("run/x/link")).expect("writable");
        symlink("/etc/passwd", at("run/out")).expect("writable");
        nix::unistd::mkfifo(&at("run/x/fifo"), Mode::S_IRWXU).expect("writable");
        let files = HostFiles::below(dir.path());
        let text = |path: &str| files.read(path).map(|content| String::from_utf8_lossy(&content.bytes).into_owned());
        assert_eq!(text("/run/x/small"), Ok("text".to_owned()));
        assert_eq!(text("/var/run/x/small"), Ok("text".to_owned()), "an absolute link on the way is the host's");
        assert_eq!(text("/../../run/x/small"), Ok("text".to_owned()));
        assert_eq!(text("/run/x/link"), Err(Refused::NotRegular));
        assert_eq!(text("/run/out"), Err(Refused::NotRegular));
        assert_eq!(text("/run/x/huge"), Err(Refused::TooLarge));
        assert_eq!(text("/run/x/fifo"), Err(Refused::NotRegular));
        assert_eq!(text("/run/x"), Err(Refused::NotRegular));
        assert_eq!(text("/etc/passwd"), Err(Refused::Missing));
        assert_eq!(text("/run/a\0b"), Err(Refused::Failed("Invalid argument".to_owned())));
        assert_eq!(files.link("/run/out"), Ok("/etc/passwd".to_owned()));
        let listing = files.list("/run/x").expect("a directory");
        assert_eq!(listing.inode, std::fs::metadata(at("run/x")).expect("there").ino());
        assert_eq!(listing.items.iter().map(|item| item.name.as_str()).collect::<Vec<_>>(), ["dir"]);
    }

    #[test]
    fn trust_follows_the_owner() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        std::fs::write(&path, "x").expect("writable");
        let own = nix::unistd::geteuid().as_raw();
        let files = HostFiles::below(dir.path());
        assert!(files.read_trusted("/file", own).is_ok());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("own file");
        assert_eq!(files.read_trusted("/file", own), Err(Refused::Untrusted { uid: own }));
    }
}
