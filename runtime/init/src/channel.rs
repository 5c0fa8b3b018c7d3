//! How parent and child speak: one datagram socket (`SOCK_SEQPACKET`), a byte for what it is, an fd where one is
//! handed over. When either side dies, the other one reads the end of the stream.

use core::mem::MaybeUninit;

use orlop_sys::rustix::io::{IoSlice, IoSliceMut, read, write};
use orlop_sys::rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use orlop_sys::{BorrowedFd, Errno, OwnedFd};

/// What a message is; its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Message {
    /// To the child: the id maps are written.
    Mapped = b'm',
    /// To the child, with an fd: the source of the next mount that has one.
    Source = b's',
    /// To the child: the limits that the parent sets are set.
    Limited = b'd',
    /// To the child: the hooks that run before the root changes have run.
    Hooked = b'h',
    /// To the child: the seccomp listener was fetched.
    Fetched = b'f',
    /// To the child: become the user's program.
    Go = b'g',
    /// To the parent, with a pidfd and a number: the process that the intermediate one made.
    Child = b'c',
    /// To the parent: the mounts are there, the root not yet changed.
    Mounted = b'n',
    /// To the parent, with an fd: the master side of the terminal.
    Terminal = b't',
    /// To the parent, with a number: the seccomp listener's fd in the child.
    Listener = b'l',
    /// To the parent: all is done but `execve`.
    Ready = b'r',
    /// To the parent: see [`Failure`].
    Failed = b'e',
}

/// Where a recipe stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// What was attempted.
    pub step: Step,
    /// The item of the step's list, from 0.
    pub item: u32,
    /// The part of the item: for a mount, the option; from 0.
    pub part: u8,
    /// Why not.
    pub errno: Errno,
}

macro_rules! steps {
    ($( $(#[$doc:meta])* $name:ident, )*) => {
        /// The steps of the recipes; what `item` and `part` count is said where they count something.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Step { $( $(#[$doc])* $name, )* }

        impl Step {
            const ALL: &'static [Self] = &[ $( Self::$name, )* ];
        }
    };
}

steps! {
    /// Before anything else: parent-death signal, dumpable flag.
    Begin,
    /// A message that did not arrive, or arrived out of order.
    Protocol,
    /// Moving into cgroup `item` of the tasks files.
    Cgroup,
    /// Joining namespace `item` of the joins.
    Join,
    /// Joining the user namespace.
    JoinUser,
    /// Becoming root of the user namespace.
    BecomeRoot,
    /// A new cgroup namespace.
    CgroupNamespace,
    /// A new time namespace.
    TimeNamespace,
    /// Its offsets.
    TimeOffsets,
    /// The second process.
    Clone,
    /// A session of its own.
    Session,
    /// The session keyring.
    Keyring,
    /// Bringing up the loopback interface.
    Loopback,
    /// The propagation of all mounts.
    RootPropagation,
    /// The parent mount of the rootfs becomes private.
    ParentPrivate,
    /// Opening the place of the rootfs.
    RootfsPlace,
    /// Mounting the rootfs on it.
    RootfsAttach,
    /// Opening or making the target of mount `item`.
    MountTarget,
    /// The target of mount `item` lies on /proc.
    MountOnProc,
    /// The file system type of mount `item`.
    MountType,
    /// Option `part` of mount `item`.
    MountOption,
    /// Creating the file system of mount `item`.
    MountCreate,
    /// Attributes of mount `item`.
    MountAttributes,
    /// Putting mount `item` in its place.
    MountAttach,
    /// tmpcopyup of mount `item`.
    MountCopyUp,
    /// Symlink `item`.
    Symlink,
    /// Making device `item`.
    Device,
    /// Something else is where device `item` should be.
    DeviceWrong,
    /// A terminal from the container's devpts.
    Terminal,
    /// /dev/console.
    Console,
    /// pivot_root and what belongs to it.
    Pivot,
    /// Detaching the old root.
    DetachOldRoot,
    /// MS_MOVE or chroot.
    Chroot,
    /// The final propagation of the rootfs.
    RootfsPropagation,
    /// Making the root read-only.
    RootfsReadonly,
    /// hostname.
    Hostname,
    /// domainname.
    Domainname,
    /// sysctl `item`.
    Sysctl,
    /// Read-only path `item`.
    ReadonlyPath,
    /// Masked path `item`.
    MaskedPath,
    /// Making the working directory.
    MakeCwd,
    /// Entering the working directory.
    Cwd,
    /// The working directory is outside of the container's root.
    CwdOutside,
    /// AppArmor profile.
    Apparmor,
    /// SELinux label.
    Selinux,
    /// Scheduling policy.
    Scheduler,
    /// I/O priority.
    IoPriority,
    /// CPU affinity.
    Affinity,
    /// Execution domain.
    Personality,
    /// no_new_privs.
    NoNewPrivs,
    /// Loading the seccomp filter.
    Seccomp,
    /// The bounding set.
    Bounding,
    /// Groups.
    Groups,
    /// The gid.
    Gid,
    /// The uid.
    Uid,
    /// The other capability sets.
    Capabilities,
    /// The ambient set.
    Ambient,
    /// Finding the program: there is none.
    NotFound,
    /// Finding the program: it is not one.
    NotExecutable,
    /// Closing and moving fds.
    Files,
    /// Waiting for the start.
    Wait,
    /// execve.
    Exec,
}

impl Failure {
    /// The whole step failed.
    pub fn new(step: Step, errno: Errno) -> Self {
        Self { step, item: 0, part: 0, errno }
    }

    /// As a message: also what is left in a file when nobody listens any more.
    pub fn encode(&self) -> [u8; 12] {
        let [i0, i1, i2, i3] = self.item.to_le_bytes();
        let [e0, e1, e2, e3] = self.errno.raw_os_error().to_le_bytes();
        [Message::Failed as u8, self.step as u8, self.part, 0, i0, i1, i2, i3, e0, e1, e2, e3]
    }

    /// The other way. `None` if that is no failure.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let &[tag, step, part, _, i0, i1, i2, i3, e0, e1, e2, e3] = bytes else { return None };
        let step = *Step::ALL.get(usize::from(step))?;
        let errno = i32::from_le_bytes([e0, e1, e2, e3]);
        (tag == Message::Failed as u8 && (1..4096).contains(&errno)).then(|| Self {
            step,
            item: u32::from_le_bytes([i0, i1, i2, i3]),
            part,
            errno: Errno::from_raw_os_error(errno),
        })
    }
}

/// Adds the step to a bare errno.
pub(crate) trait During<T> {
    fn during(self, step: Step) -> Result<T, Failure>;
    fn at(self, step: Step, item: usize) -> Result<T, Failure>;
}

impl<T> During<T> for Result<T, Errno> {
    fn during(self, step: Step) -> Result<T, Failure> {
        self.map_err(|errno| Failure::new(step, errno))
    }

    fn at(self, step: Step, item: usize) -> Result<T, Failure> {
        self.map_err(|errno| Failure { item: item as u32, ..Failure::new(step, errno) })
    }
}

/// One end of the socket.
#[derive(Debug, Clone, Copy)]
pub struct Channel<'a>(pub BorrowedFd<'a>);

/// The longest message.
pub const MAX_MESSAGE: usize = 16;

impl Channel<'_> {
    /// Sends a message that is nothing but its kind.
    pub fn tell(&self, message: Message) -> Result<(), Errno> {
        self.send(&[message as u8])
    }

    /// Sends bytes. By write(2) and not sendmsg(2), since the process may be under the container's seccomp filter
    /// already, and few filters forbid `write`.
    pub fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        loop {
            match write(self.0, bytes) {
                Err(Errno::INTR) => {}
                other => return other.map(drop),
            }
        }
    }

    /// Sends bytes and an fd.
    pub fn send_fd(&self, bytes: &[u8], fd: BorrowedFd<'_>) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); orlop_sys::rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = [fd];
        if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(Errno::NOBUFS);
        }
        loop {
            match sendmsg(self.0, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                other => return other.map(drop),
            }
        }
    }

    /// The next message and the fd that came with it. No bytes: the other side is gone.
    pub fn receive(&self) -> Result<([u8; MAX_MESSAGE], usize, Option<OwnedFd>), Errno> {
        let mut bytes = [0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); orlop_sys::rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let length = loop {
            match recvmsg(self.0, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                // CONNRESET: the peer died and had not read all. That is said once, before the peer's own last words.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                other => break other?.bytes,
            }
        };
        let mut fd = None;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                fd = fds.last().or(fd);
            }
        }
        Ok((bytes, length, fd))
    }

    /// Waits for `message`; the fd that came with it. EPROTO for another one, EPIPE when the other side is gone.
    pub(crate) fn expect(&self, message: Message) -> Result<Option<OwnedFd>, Failure> {
        let (bytes, length, fd) = self.receive().during(Step::Protocol)?;
        match bytes.first() {
            _ if length == 0 => Err(Failure::new(Step::Protocol, Errno::PIPE)),
            Some(tag) if *tag == message as u8 => Ok(fd),
            _ => Err(Failure::new(Step::Protocol, Errno::PROTO)),
        }
    }

    /// As `expect`, by read(2) alone: for after a seccomp filter.
    pub(crate) fn expect_plain(&self, message: Message) -> Result<(), Failure> {
        let mut byte = [0];
        match read(self.0, &mut byte[..]).during(Step::Protocol)? {
            0 => Err(Failure::new(Step::Protocol, Errno::PIPE)),
            _ if byte == [message as u8] => Ok(()),
            _ => Err(Failure::new(Step::Protocol, Errno::PROTO)),
        }
    }
}
