//! The names and numbers of the system calls, up to Linux 7.0.
//!
//! The numbers are the kernel's; the set of names is libseccomp's, so a name in a profile is known here if it is known
//! there. Names without any number belong to architectures that have no column.

use super::Abi;

/// One system call.
pub(super) struct Syscall {
    /// Its name in profiles.
    name: &'static str,
    /// Its numbers, by [`Abi`].
    numbers: [u16; 6],
    /// On x86: the call that it is a part of, [`SOCKETCALL`] or [`IPC`], and its number there. 0: neither.
    part: u8,
}

/// There is no such call on this architecture.
const __: u16 = 0xffff;
/// x86: one of the calls that `socketcall` combines; its own number came with Linux 4.3, or never.
const SOCKETCALL: u8 = 0x40;
/// x86: one of the calls that `ipc` combines; its own number came with Linux 5.1, or never.
const IPC: u8 = 0x80;

/// Arm's private calls are numbered from here on, and from 0xf000 on in the table.
const ARM_PRIVATE: u32 = 0xf_0000;

/// Where [`Number::index`] puts arm's private calls, so that all numbers of one architecture fit a small array.
const ARM_PRIVATE_INDEX: usize = Number::COUNT - 8;

/// The number of a system call, without the x32 bit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Number(u16);

impl Number {
    /// All indices are below.
    pub(super) const COUNT: usize = 576;

    /// A place in an array of [`Number::COUNT`] that is ordered as the numbers are.
    pub(super) fn index(self) -> usize {
        let n = usize::from(self.0);
        if n < 0xf000 { n } else { ARM_PRIVATE_INDEX + (n & 7) }
    }

    /// The number at an index.
    pub(super) fn at(index: usize) -> u32 {
        let index32 = u32::try_from(index).unwrap_or(u32::MAX);
        match index.checked_sub(ARM_PRIVATE_INDEX) {
            None => index32,
            Some(private) => ARM_PRIVATE + u32::try_from(private).unwrap_or(0),
        }
    }
}

/// A call that x86 also, or only, has as a part of another one.
pub(super) struct Part {
    /// The number of `socketcall` or `ipc`.
    pub(super) of: Number,
    /// Its first argument.
    pub(super) call: u64,
}

impl Syscall {
    /// The number on an architecture.
    pub(super) fn number(&self, abi: Abi) -> Option<Number> {
        self.numbers.get(abi as usize).copied().filter(|n| *n != __).map(Number)
    }

    /// The combined call that this one is a part of there.
    pub(super) fn part(&self, abi: Abi) -> Option<Part> {
        let of = match self.part & (SOCKETCALL | IPC) {
            SOCKETCALL => Number(102),
            IPC => Number(117),
            _ => return None,
        };
        (abi == Abi::X86).then(|| Part { of, call: u64::from(self.part & 0x3f) })
    }
}

/// Finds a system call by its name.
pub(super) fn find(name: &str) -> Option<&'static Syscall> {
    let mut bucket = hash(name.as_bytes());
    loop {
        let entry = SYSCALLS.get(usize::from(*BUCKETS.get(bucket)?))?;
        if entry.name == name {
            return Some(entry);
        }
        bucket = (bucket + 1) % BUCKETS.len();
    }
}

/// FNV-1a, folded to an index of [`BUCKETS`].
const fn hash(name: &[u8]) -> usize {
    let mut hash: u32 = 0x811c_9dc5;
    let mut rest = name;
    while let [byte, tail @ ..] = rest {
        hash = (hash ^ *byte as u32).wrapping_mul(0x0100_0193);
        rest = tail;
    }
    ((hash ^ (hash >> 16)) % BUCKETS.len() as u32) as usize
}

/// An open hash table of indices into [`SYSCALLS`], half empty: an index past its end ends a search.
static BUCKETS: [u16; 1024] = {
    let mut buckets = [u16::MAX; 1024];
    let mut entry = 0;
    while entry < SYSCALLS.len() {
        #[allow(clippy::indexing_slicing, reason = "evaluated by the compiler, which checks the bounds")]
        {
            let mut bucket = hash(SYSCALLS[entry].name.as_bytes());
            while buckets[bucket] != u16::MAX {
                bucket = (bucket + 1) % buckets.len();
            }
            buckets[bucket] = entry as u16;
        }
        entry += 1;
    }
    buckets
};

macro_rules! table {
    ($( ($name:literal, [$($number:tt),*], $part:expr), )*) => {
        &[$( Syscall { name: $name, numbers: [$($number),*], part: $part } ),*]
    };
}

/// name, [x86_64, x32, x86, arm, aarch64, riscv64], part of
#[rustfmt::skip]
static SYSCALLS: &[Syscall] = table! {
    ("_llseek", [__, __, 140, 140, __, __], 0),
    ("_newselect", [__, __, 142, 142, __, __], 0),
    ("_sysctl", [156, __, 149, 149, __, __], 0),
    ("accept", [43, 43, __, 285, 202, 202], SOCKETCALL | 5),
    ("accept4", [288, 288, 364, 366, 242, 242], SOCKETCALL | 18),
    ("access", [21, 21, 33, 33, __, __], 0),
    ("acct", [163, 163, 51, 51, 89, 89], 0),
    ("add_key", [248, 248, 286, 309, 217, 217], 0),
    ("adjtimex", [159, 159, 124, 124, 171, 171], 0),
    ("afs_syscall", [183, 183, 137, __, __, __], 0),
    ("alarm", [37, 37, 27, __, __, __], 0),
    ("arch_prctl", [158, 158, 384, __, __, __], 0),
    ("arm_fadvise64_64", [__, __, __, 270, __, __], 0),
    ("arm_sync_file_range", [__, __, __, 341, __, __], 0),
    ("bdflush", [__, __, 134, 134, __, __], 0),
    ("bind", [49, 49, 361, 282, 200, 200], SOCKETCALL | 2),
    ("bpf", [321, 321, 357, 386, 280, 280], 0),
    ("break", [__, __, 17, __, __, __], 0),
    ("breakpoint", [__, __, __, 0xf001, __, __], 0),
    ("brk", [12, 12, 45, 45, 214, 214], 0),
    ("cachectl", [__, __, __, __, __, __], 0),
    ("cacheflush", [__, __, __, 0xf002, __, __], 0),
    ("cachestat", [451, 451, 451, 451, 451, 451], 0),
    ("capget", [125, 125, 184, 184, 90, 90], 0),
    ("capset", [126, 126, 185, 185, 91, 91], 0),
    ("chdir", [80, 80, 12, 12, 49, 49], 0),
    ("chmod", [90, 90, 15, 15, __, __], 0),
    ("chown", [92, 92, 182, 182, __, __], 0),
    ("chown32", [__, __, 212, 212, __, __], 0),
    ("chroot", [161, 161, 61, 61, 51, 51], 0),
    ("clock_adjtime", [305, 305, 343, 372, 266, 266], 0),
    ("clock_adjtime64", [__, __, 405, 405, __, __], 0),
    ("clock_getres", [229, 229, 266, 264, 114, 114], 0),
    ("clock_getres_time64", [__, __, 406, 406, __, __], 0),
    ("clock_gettime", [228, 228, 265, 263, 113, 113], 0),
    ("clock_gettime64", [__, __, 403, 403, __, __], 0),
    ("clock_nanosleep", [230, 230, 267, 265, 115, 115], 0),
    ("clock_nanosleep_time64", [__, __, 407, 407, __, __], 0),
    ("clock_settime", [227, 227, 264, 262, 112, 112], 0),
    ("clock_settime64", [__, __, 404, 404, __, __], 0),
    ("clone", [56, 56, 120, 120, 220, 220], 0),
    ("clone3", [435, 435, 435, 435, 435, 435], 0),
    ("close", [3, 3, 6, 6, 57, 57], 0),
    ("close_range", [436, 436, 436, 436, 436, 436], 0),
    ("connect", [42, 42, 362, 283, 203, 203], SOCKETCALL | 3),
    ("copy_file_range", [326, 326, 377, 391, 285, 285], 0),
    ("creat", [85, 85, 8, 8, __, __], 0),
    ("create_module", [174, __, 127, __, __, __], 0),
    ("delete_module", [176, 176, 129, 129, 106, 106], 0),
    ("dup", [32, 32, 41, 41, 23, 23], 0),
    ("dup2", [33, 33, 63, 63, __, __], 0),
    ("dup3", [292, 292, 330, 358, 24, 24], 0),
    ("epoll_create", [213, 213, 254, 250, __, __], 0),
    ("epoll_create1", [291, 291, 329, 357, 20, 20], 0),
    ("epoll_ctl", [233, 233, 255, 251, 21, 21], 0),
    ("epoll_ctl_old", [214, __, __, __, __, __], 0),
    ("epoll_pwait", [281, 281, 319, 346, 22, 22], 0),
    ("epoll_pwait2", [441, 441, 441, 441, 441, 441], 0),
    ("epoll_wait", [232, 232, 256, 252, __, __], 0),
    ("epoll_wait_old", [215, __, __, __, __, __], 0),
    ("eventfd", [284, 284, 323, 351, __, __], 0),
    ("eventfd2", [290, 290, 328, 356, 19, 19], 0),
    ("execve", [59, 520, 11, 11, 221, 221], 0),
    ("execveat", [322, 545, 358, 387, 281, 281], 0),
    ("exit", [60, 60, 1, 1, 93, 93], 0),
    ("exit_group", [231, 231, 252, 248, 94, 94], 0),
    ("faccessat", [269, 269, 307, 334, 48, 48], 0),
    ("faccessat2", [439, 439, 439, 439, 439, 439], 0),
    ("fadvise64", [221, 221, 250, __, 223, 223], 0),
    ("fadvise64_64", [__, __, 272, __, __, __], 0),
    ("fallocate", [285, 285, 324, 352, 47, 47], 0),
    ("fanotify_init", [300, 300, 338, 367, 262, 262], 0),
    ("fanotify_mark", [301, 301, 339, 368, 263, 263], 0),
    ("fchdir", [81, 81, 133, 133, 50, 50], 0),
    ("fchmod", [91, 91, 94, 94, 52, 52], 0),
    ("fchmodat", [268, 268, 306, 333, 53, 53], 0),
    ("fchmodat2", [452, 452, 452, 452, 452, 452], 0),
    ("fchown", [93, 93, 95, 95, 55, 55], 0),
    ("fchown32", [__, __, 207, 207, __, __], 0),
    ("fchownat", [260, 260, 298, 325, 54, 54], 0),
    ("fcntl", [72, 72, 55, 55, 25, 25], 0),
    ("fcntl64", [__, __, 221, 221, __, __], 0),
    ("fdatasync", [75, 75, 148, 148, 83, 83], 0),
    ("fgetxattr", [193, 193, 231, 231, 10, 10], 0),
    ("file_getattr", [468, 468, 468, 468, 468, 468], 0),
    ("file_setattr", [469, 469, 469, 469, 469, 469], 0),
    ("finit_module", [313, 313, 350, 379, 273, 273], 0),
    ("flistxattr", [196, 196, 234, 234, 13, 13], 0),
    ("flock", [73, 73, 143, 143, 32, 32], 0),
    ("fork", [57, 57, 2, 2, __, __], 0),
    ("fremovexattr", [199, 199, 237, 237, 16, 16], 0),
    ("fsconfig", [431, 431, 431, 431, 431, 431], 0),
    ("fsetxattr", [190, 190, 228, 228, 7, 7], 0),
    ("fsmount", [432, 432, 432, 432, 432, 432], 0),
    ("fsopen", [430, 430, 430, 430, 430, 430], 0),
    ("fspick", [433, 433, 433, 433, 433, 433], 0),
    ("fstat", [5, 5, 108, 108, 80, 80], 0),
    ("fstat64", [__, __, 197, 197, __, __], 0),
    ("fstatat64", [__, __, 300, 327, __, __], 0),
    ("fstatfs", [138, 138, 100, 100, 44, 44], 0),
    ("fstatfs64", [__, __, 269, 267, __, __], 0),
    ("fsync", [74, 74, 118, 118, 82, 82], 0),
    ("ftime", [__, __, 35, __, __, __], 0),
    ("ftruncate", [77, 77, 93, 93, 46, 46], 0),
    ("ftruncate64", [__, __, 194, 194, __, __], 0),
    ("futex", [202, 202, 240, 240, 98, 98], 0),
    ("futex_requeue", [456, 456, 456, 456, 456, 456], 0),
    ("futex_time64", [__, __, 422, 422, __, __], 0),
    ("futex_wait", [455, 455, 455, 455, 455, 455], 0),
    ("futex_waitv", [449, 449, 449, 449, 449, 449], 0),
    ("futex_wake", [454, 454, 454, 454, 454, 454], 0),
    ("futimesat", [261, 261, 299, 326, __, __], 0),
    ("get_kernel_syms", [177, __, 130, __, __, __], 0),
    ("get_mempolicy", [239, 239, 275, 320, 236, 236], 0),
    ("get_robust_list", [274, 531, 312, 339, 100, 100], 0),
    ("get_thread_area", [211, __, 244, __, __, __], 0),
    ("get_tls", [__, __, __, 0xf006, __, __], 0),
    ("getcpu", [309, 309, 318, 345, 168, 168], 0),
    ("getcwd", [79, 79, 183, 183, 17, 17], 0),
    ("getdents", [78, 78, 141, 141, __, __], 0),
    ("getdents64", [217, 217, 220, 217, 61, 61], 0),
    ("getegid", [108, 108, 50, 50, 177, 177], 0),
    ("getegid32", [__, __, 202, 202, __, __], 0),
    ("geteuid", [107, 107, 49, 49, 175, 175], 0),
    ("geteuid32", [__, __, 201, 201, __, __], 0),
    ("getgid", [104, 104, 47, 47, 176, 176], 0),
    ("getgid32", [__, __, 200, 200, __, __], 0),
    ("getgroups", [115, 115, 80, 80, 158, 158], 0),
    ("getgroups32", [__, __, 205, 205, __, __], 0),
    ("getitimer", [36, 36, 105, 105, 102, 102], 0),
    ("getpeername", [52, 52, 368, 287, 205, 205], SOCKETCALL | 7),
    ("getpgid", [121, 121, 132, 132, 155, 155], 0),
    ("getpgrp", [111, 111, 65, 65, __, __], 0),
    ("getpid", [39, 39, 20, 20, 172, 172], 0),
    ("getpmsg", [181, 181, 188, __, __, __], 0),
    ("getppid", [110, 110, 64, 64, 173, 173], 0),
    ("getpriority", [140, 140, 96, 96, 141, 141], 0),
    ("getrandom", [318, 318, 355, 384, 278, 278], 0),
    ("getresgid", [120, 120, 171, 171, 150, 150], 0),
    ("getresgid32", [__, __, 211, 211, __, __], 0),
    ("getresuid", [118, 118, 165, 165, 148, 148], 0),
    ("getresuid32", [__, __, 209, 209, __, __], 0),
    ("getrlimit", [97, 97, 76, __, 163, 163], 0),
    ("getrusage", [98, 98, 77, 77, 165, 165], 0),
    ("getsid", [124, 124, 147, 147, 156, 156], 0),
    ("getsockname", [51, 51, 367, 286, 204, 204], SOCKETCALL | 6),
    ("getsockopt", [55, 542, 365, 295, 209, 209], SOCKETCALL | 15),
    ("gettid", [186, 186, 224, 224, 178, 178], 0),
    ("gettimeofday", [96, 96, 78, 78, 169, 169], 0),
    ("getuid", [102, 102, 24, 24, 174, 174], 0),
    ("getuid32", [__, __, 199, 199, __, __], 0),
    ("getxattr", [191, 191, 229, 229, 8, 8], 0),
    ("getxattrat", [464, 464, 464, 464, 464, 464], 0),
    ("gtty", [__, __, 32, __, __, __], 0),
    ("idle", [__, __, 112, __, __, __], 0),
    ("init_module", [175, 175, 128, 128, 105, 105], 0),
    ("inotify_add_watch", [254, 254, 292, 317, 27, 27], 0),
    ("inotify_init", [253, 253, 291, 316, __, __], 0),
    ("inotify_init1", [294, 294, 332, 360, 26, 26], 0),
    ("inotify_rm_watch", [255, 255, 293, 318, 28, 28], 0),
    ("io_cancel", [210, 210, 249, 247, 3, 3], 0),
    ("io_destroy", [207, 207, 246, 244, 1, 1], 0),
    ("io_getevents", [208, 208, 247, 245, 4, 4], 0),
    ("io_pgetevents", [333, 333, 385, 399, 292, 292], 0),
    ("io_pgetevents_time64", [__, __, 416, 416, __, __], 0),
    ("io_setup", [206, 543, 245, 243, 0, 0], 0),
    ("io_submit", [209, 544, 248, 246, 2, 2], 0),
    ("io_uring_enter", [426, 426, 426, 426, 426, 426], 0),
    ("io_uring_register", [427, 427, 427, 427, 427, 427], 0),
    ("io_uring_setup", [425, 425, 425, 425, 425, 425], 0),
    ("ioctl", [16, 514, 54, 54, 29, 29], 0),
    ("ioperm", [173, 173, 101, __, __, __], 0),
    ("iopl", [172, 172, 110, __, __, __], 0),
    ("ioprio_get", [252, 252, 290, 315, 31, 31], 0),
    ("ioprio_set", [251, 251, 289, 314, 30, 30], 0),
    ("ipc", [__, __, 117, __, __, __], 0),
    ("kcmp", [312, 312, 349, 378, 272, 272], 0),
    ("kexec_file_load", [320, 320, __, 401, 294, 294], 0),
    ("kexec_load", [246, 528, 283, 347, 104, 104], 0),
    ("keyctl", [250, 250, 288, 311, 219, 219], 0),
    ("kill", [62, 62, 37, 37, 129, 129], 0),
    ("landlock_add_rule", [445, 445, 445, 445, 445, 445], 0),
    ("landlock_create_ruleset", [444, 444, 444, 444, 444, 444], 0),
    ("landlock_restrict_self", [446, 446, 446, 446, 446, 446], 0),
    ("lchown", [94, 94, 16, 16, __, __], 0),
    ("lchown32", [__, __, 198, 198, __, __], 0),
    ("lgetxattr", [192, 192, 230, 230, 9, 9], 0),
    ("link", [86, 86, 9, 9, __, __], 0),
    ("linkat", [265, 265, 303, 330, 37, 37], 0),
    ("listen", [50, 50, 363, 284, 201, 201], SOCKETCALL | 4),
    ("listmount", [458, 458, 458, 458, 458, 458], 0),
    ("listns", [470, 470, 470, 470, 470, 470], 0),
    ("listxattr", [194, 194, 232, 232, 11, 11], 0),
    ("listxattrat", [465, 465, 465, 465, 465, 465], 0),
    ("llistxattr", [195, 195, 233, 233, 12, 12], 0),
    ("lock", [__, __, 53, __, __, __], 0),
    ("lookup_dcookie", [212, 212, 253, 249, 18, 18], 0),
    ("lremovexattr", [198, 198, 236, 236, 15, 15], 0),
    ("lseek", [8, 8, 19, 19, 62, 62], 0),
    ("lsetxattr", [189, 189, 227, 227, 6, 6], 0),
    ("lsm_get_self_attr", [459, 459, 459, 459, 459, 459], 0),
    ("lsm_list_modules", [461, 461, 461, 461, 461, 461], 0),
    ("lsm_set_self_attr", [460, 460, 460, 460, 460, 460], 0),
    ("lstat", [6, 6, 107, 107, __, __], 0),
    ("lstat64", [__, __, 196, 196, __, __], 0),
    ("madvise", [28, 28, 219, 220, 233, 233], 0),
    ("map_shadow_stack", [453, 453, 453, 453, 453, 453], 0),
    ("mbind", [237, 237, 274, 319, 235, 235], 0),
    ("membarrier", [324, 324, 375, 389, 283, 283], 0),
    ("memfd_create", [319, 319, 356, 385, 279, 279], 0),
    ("memfd_secret", [447, 447, 447, __, 447, 447], 0),
    ("migrate_pages", [256, 256, 294, 400, 238, 238], 0),
    ("mincore", [27, 27, 218, 219, 232, 232], 0),
    ("mkdir", [83, 83, 39, 39, __, __], 0),
    ("mkdirat", [258, 258, 296, 323, 34, 34], 0),
    ("mknod", [133, 133, 14, 14, __, __], 0),
    ("mknodat", [259, 259, 297, 324, 33, 33], 0),
    ("mlock", [149, 149, 150, 150, 228, 228], 0),
    ("mlock2", [325, 325, 376, 390, 284, 284], 0),
    ("mlockall", [151, 151, 152, 152, 230, 230], 0),
    ("mmap", [9, 9, 90, __, 222, 222], 0),
    ("mmap2", [__, __, 192, 192, __, __], 0),
    ("modify_ldt", [154, 154, 123, __, __, __], 0),
    ("mount", [165, 165, 21, 21, 40, 40], 0),
    ("mount_setattr", [442, 442, 442, 442, 442, 442], 0),
    ("move_mount", [429, 429, 429, 429, 429, 429], 0),
    ("move_pages", [279, 533, 317, 344, 239, 239], 0),
    ("mprotect", [10, 10, 125, 125, 226, 226], 0),
    ("mpx", [__, __, 56, __, __, __], 0),
    ("mq_getsetattr", [245, 245, 282, 279, 185, 185], 0),
    ("mq_notify", [244, 527, 281, 278, 184, 184], 0),
    ("mq_open", [240, 240, 277, 274, 180, 180], 0),
    ("mq_timedreceive", [243, 243, 280, 277, 183, 183], 0),
    ("mq_timedreceive_time64", [__, __, 419, 419, __, __], 0),
    ("mq_timedsend", [242, 242, 279, 276, 182, 182], 0),
    ("mq_timedsend_time64", [__, __, 418, 418, __, __], 0),
    ("mq_unlink", [241, 241, 278, 275, 181, 181], 0),
    ("mremap", [25, 25, 163, 163, 216, 216], 0),
    ("mseal", [462, 462, 462, 462, 462, 462], 0),
    ("msgctl", [71, 71, 402, 304, 187, 187], IPC | 14),
    ("msgget", [68, 68, 399, 303, 186, 186], IPC | 13),
    ("msgrcv", [70, 70, 401, 302, 188, 188], IPC | 12),
    ("msgsnd", [69, 69, 400, 301, 189, 189], IPC | 11),
    ("msync", [26, 26, 144, 144, 227, 227], 0),
    ("multiplexer", [__, __, __, __, __, __], 0),
    ("munlock", [150, 150, 151, 151, 229, 229], 0),
    ("munlockall", [152, 152, 153, 153, 231, 231], 0),
    ("munmap", [11, 11, 91, 91, 215, 215], 0),
    ("name_to_handle_at", [303, 303, 341, 370, 264, 264], 0),
    ("nanosleep", [35, 35, 162, 162, 101, 101], 0),
    ("newfstatat", [262, 262, __, __, 79, 79], 0),
    ("nfsservctl", [180, __, 169, 169, 42, 42], 0),
    ("nice", [__, __, 34, 34, __, __], 0),
    ("oldfstat", [__, __, 28, __, __, __], 0),
    ("oldlstat", [__, __, 84, __, __, __], 0),
    ("oldolduname", [__, __, 59, __, __, __], 0),
    ("oldstat", [__, __, 18, __, __, __], 0),
    ("olduname", [__, __, 109, __, __, __], 0),
    ("open", [2, 2, 5, 5, __, __], 0),
    ("open_by_handle_at", [304, 304, 342, 371, 265, 265], 0),
    ("open_tree", [428, 428, 428, 428, 428, 428], 0),
    ("open_tree_attr", [467, 467, 467, 467, 467, 467], 0),
    ("openat", [257, 257, 295, 322, 56, 56], 0),
    ("openat2", [437, 437, 437, 437, 437, 437], 0),
    ("pause", [34, 34, 29, 29, __, __], 0),
    ("pciconfig_iobase", [__, __, __, 271, __, __], 0),
    ("pciconfig_read", [__, __, __, 272, __, __], 0),
    ("pciconfig_write", [__, __, __, 273, __, __], 0),
    ("perf_event_open", [298, 298, 336, 364, 241, 241], 0),
    ("personality", [135, 135, 136, 136, 92, 92], 0),
    ("pidfd_getfd", [438, 438, 438, 438, 438, 438], 0),
    ("pidfd_open", [434, 434, 434, 434, 434, 434], 0),
    ("pidfd_send_signal", [424, 424, 424, 424, 424, 424], 0),
    ("pipe", [22, 22, 42, 42, __, __], 0),
    ("pipe2", [293, 293, 331, 359, 59, 59], 0),
    ("pivot_root", [155, 155, 217, 218, 41, 41], 0),
    ("pkey_alloc", [330, 330, 381, 395, 289, 289], 0),
    ("pkey_free", [331, 331, 382, 396, 290, 290], 0),
    ("pkey_mprotect", [329, 329, 380, 394, 288, 288], 0),
    ("poll", [7, 7, 168, 168, __, __], 0),
    ("ppoll", [271, 271, 309, 336, 73, 73], 0),
    ("ppoll_time64", [__, __, 414, 414, __, __], 0),
    ("prctl", [157, 157, 172, 172, 167, 167], 0),
    ("pread64", [17, 17, 180, 180, 67, 67], 0),
    ("preadv", [295, 534, 333, 361, 69, 69], 0),
    ("preadv2", [327, 546, 378, 392, 286, 286], 0),
    ("prlimit64", [302, 302, 340, 369, 261, 261], 0),
    ("process_madvise", [440, 440, 440, 440, 440, 440], 0),
    ("process_mrelease", [448, 448, 448, 448, 448, 448], 0),
    ("process_vm_readv", [310, 539, 347, 376, 270, 270], 0),
    ("process_vm_writev", [311, 540, 348, 377, 271, 271], 0),
    ("prof", [__, __, 44, __, __, __], 0),
    ("profil", [__, __, 98, __, __, __], 0),
    ("pselect6", [270, 270, 308, 335, 72, 72], 0),
    ("pselect6_time64", [__, __, 413, 413, __, __], 0),
    ("ptrace", [101, 521, 26, 26, 117, 117], 0),
    ("putpmsg", [182, 182, 189, __, __, __], 0),
    ("pwrite64", [18, 18, 181, 181, 68, 68], 0),
    ("pwritev", [296, 535, 334, 362, 70, 70], 0),
    ("pwritev2", [328, 547, 379, 393, 287, 287], 0),
    ("query_module", [178, __, 167, __, __, __], 0),
    ("quotactl", [179, 179, 131, 131, 60, 60], 0),
    ("quotactl_fd", [443, 443, 443, 443, 443, 443], 0),
    ("read", [0, 0, 3, 3, 63, 63], 0),
    ("readahead", [187, 187, 225, 225, 213, 213], 0),
    ("readdir", [__, __, 89, __, __, __], 0),
    ("readlink", [89, 89, 85, 85, __, __], 0),
    ("readlinkat", [267, 267, 305, 332, 78, 78], 0),
    ("readv", [19, 515, 145, 145, 65, 65], 0),
    ("reboot", [169, 169, 88, 88, 142, 142], 0),
    ("recv", [__, __, __, 291, __, __], SOCKETCALL | 10),
    ("recvfrom", [45, 517, 371, 292, 207, 207], SOCKETCALL | 12),
    ("recvmmsg", [299, 537, 337, 365, 243, 243], SOCKETCALL | 19),
    ("recvmmsg_time64", [__, __, 417, 417, __, __], 0),
    ("recvmsg", [47, 519, 372, 297, 212, 212], SOCKETCALL | 17),
    ("remap_file_pages", [216, 216, 257, 253, 234, 234], 0),
    ("removexattr", [197, 197, 235, 235, 14, 14], 0),
    ("removexattrat", [466, 466, 466, 466, 466, 466], 0),
    ("rename", [82, 82, 38, 38, __, __], 0),
    ("renameat", [264, 264, 302, 329, 38, __], 0),
    ("renameat2", [316, 316, 353, 382, 276, 276], 0),
    ("request_key", [249, 249, 287, 310, 218, 218], 0),
    ("restart_syscall", [219, 219, 0, 0, 128, 128], 0),
    ("riscv_flush_icache", [__, __, __, __, __, 259], 0),
    ("riscv_hwprobe", [__, __, __, __, __, 258], 0),
    ("rmdir", [84, 84, 40, 40, __, __], 0),
    ("rseq", [334, 334, 386, 398, 293, 293], 0),
    ("rseq_slice_yield", [471, 471, 471, 471, 471, 471], 0),
    ("rt_sigaction", [13, 512, 174, 174, 134, 134], 0),
    ("rt_sigpending", [127, 522, 176, 176, 136, 136], 0),
    ("rt_sigprocmask", [14, 14, 175, 175, 135, 135], 0),
    ("rt_sigqueueinfo", [129, 524, 178, 178, 138, 138], 0),
    ("rt_sigreturn", [15, 513, 173, 173, 139, 139], 0),
    ("rt_sigsuspend", [130, 130, 179, 179, 133, 133], 0),
    ("rt_sigtimedwait", [128, 523, 177, 177, 137, 137], 0),
    ("rt_sigtimedwait_time64", [__, __, 421, 421, __, __], 0),
    ("rt_tgsigqueueinfo", [297, 536, 335, 363, 240, 240], 0),
    ("rtas", [__, __, __, __, __, __], 0),
    ("s390_guarded_storage", [__, __, __, __, __, __], 0),
    ("s390_pci_mmio_read", [__, __, __, __, __, __], 0),
    ("s390_pci_mmio_write", [__, __, __, __, __, __], 0),
    ("s390_runtime_instr", [__, __, __, __, __, __], 0),
    ("s390_sthyi", [__, __, __, __, __, __], 0),
    ("sched_get_priority_max", [146, 146, 159, 159, 125, 125], 0),
    ("sched_get_priority_min", [147, 147, 160, 160, 126, 126], 0),
    ("sched_getaffinity", [204, 204, 242, 242, 123, 123], 0),
    ("sched_getattr", [315, 315, 352, 381, 275, 275], 0),
    ("sched_getparam", [143, 143, 155, 155, 121, 121], 0),
    ("sched_getscheduler", [145, 145, 157, 157, 120, 120], 0),
    ("sched_rr_get_interval", [148, 148, 161, 161, 127, 127], 0),
    ("sched_rr_get_interval_time64", [__, __, 423, 423, __, __], 0),
    ("sched_setaffinity", [203, 203, 241, 241, 122, 122], 0),
    ("sched_setattr", [314, 314, 351, 380, 274, 274], 0),
    ("sched_setparam", [142, 142, 154, 154, 118, 118], 0),
    ("sched_setscheduler", [144, 144, 156, 156, 119, 119], 0),
    ("sched_yield", [24, 24, 158, 158, 124, 124], 0),
    ("seccomp", [317, 317, 354, 383, 277, 277], 0),
    ("security", [185, 185, __, __, __, __], 0),
    ("select", [23, 23, 82, __, __, __], 0),
    ("semctl", [66, 66, 394, 300, 191, 191], IPC | 3),
    ("semget", [64, 64, 393, 299, 190, 190], IPC | 2),
    ("semop", [65, 65, __, 298, 193, 193], IPC | 1),
    ("semtimedop", [220, 220, __, 312, 192, 192], IPC | 4),
    ("semtimedop_time64", [__, __, 420, 420, __, __], 0),
    ("send", [__, __, __, 289, __, __], SOCKETCALL | 9),
    ("sendfile", [40, 40, 187, 187, 71, 71], 0),
    ("sendfile64", [__, __, 239, 239, __, __], 0),
    ("sendmmsg", [307, 538, 345, 374, 269, 269], SOCKETCALL | 20),
    ("sendmsg", [46, 518, 370, 296, 211, 211], SOCKETCALL | 16),
    ("sendto", [44, 44, 369, 290, 206, 206], SOCKETCALL | 11),
    ("set_mempolicy", [238, 238, 276, 321, 237, 237], 0),
    ("set_mempolicy_home_node", [450, 450, 450, 450, 450, 450], 0),
    ("set_robust_list", [273, 530, 311, 338, 99, 99], 0),
    ("set_thread_area", [205, __, 243, __, __, __], 0),
    ("set_tid_address", [218, 218, 258, 256, 96, 96], 0),
    ("set_tls", [__, __, __, 0xf005, __, __], 0),
    ("setdomainname", [171, 171, 121, 121, 162, 162], 0),
    ("setfsgid", [123, 123, 139, 139, 152, 152], 0),
    ("setfsgid32", [__, __, 216, 216, __, __], 0),
    ("setfsuid", [122, 122, 138, 138, 151, 151], 0),
    ("setfsuid32", [__, __, 215, 215, __, __], 0),
    ("setgid", [106, 106, 46, 46, 144, 144], 0),
    ("setgid32", [__, __, 214, 214, __, __], 0),
    ("setgroups", [116, 116, 81, 81, 159, 159], 0),
    ("setgroups32", [__, __, 206, 206, __, __], 0),
    ("sethostname", [170, 170, 74, 74, 161, 161], 0),
    ("setitimer", [38, 38, 104, 104, 103, 103], 0),
    ("setns", [308, 308, 346, 375, 268, 268], 0),
    ("setpgid", [109, 109, 57, 57, 154, 154], 0),
    ("setpriority", [141, 141, 97, 97, 140, 140], 0),
    ("setregid", [114, 114, 71, 71, 143, 143], 0),
    ("setregid32", [__, __, 204, 204, __, __], 0),
    ("setresgid", [119, 119, 170, 170, 149, 149], 0),
    ("setresgid32", [__, __, 210, 210, __, __], 0),
    ("setresuid", [117, 117, 164, 164, 147, 147], 0),
    ("setresuid32", [__, __, 208, 208, __, __], 0),
    ("setreuid", [113, 113, 70, 70, 145, 145], 0),
    ("setreuid32", [__, __, 203, 203, __, __], 0),
    ("setrlimit", [160, 160, 75, 75, 164, 164], 0),
    ("setsid", [112, 112, 66, 66, 157, 157], 0),
    ("setsockopt", [54, 541, 366, 294, 208, 208], SOCKETCALL | 14),
    ("settimeofday", [164, 164, 79, 79, 170, 170], 0),
    ("setuid", [105, 105, 23, 23, 146, 146], 0),
    ("setuid32", [__, __, 213, 213, __, __], 0),
    ("setxattr", [188, 188, 226, 226, 5, 5], 0),
    ("setxattrat", [463, 463, 463, 463, 463, 463], 0),
    ("sgetmask", [__, __, 68, __, __, __], 0),
    ("shmat", [30, 30, 397, 305, 196, 196], IPC | 21),
    ("shmctl", [31, 31, 396, 308, 195, 195], IPC | 24),
    ("shmdt", [67, 67, 398, 306, 197, 197], IPC | 22),
    ("shmget", [29, 29, 395, 307, 194, 194], IPC | 23),
    ("shutdown", [48, 48, 373, 293, 210, 210], SOCKETCALL | 13),
    ("sigaction", [__, __, 67, 67, __, __], 0),
    ("sigaltstack", [131, 525, 186, 186, 132, 132], 0),
    ("signal", [__, __, 48, __, __, __], 0),
    ("signalfd", [282, 282, 321, 349, __, __], 0),
    ("signalfd4", [289, 289, 327, 355, 74, 74], 0),
    ("sigpending", [__, __, 73, 73, __, __], 0),
    ("sigprocmask", [__, __, 126, 126, __, __], 0),
    ("sigreturn", [__, __, 119, 119, __, __], 0),
    ("sigsuspend", [__, __, 72, 72, __, __], 0),
    ("socket", [41, 41, 359, 281, 198, 198], SOCKETCALL | 1),
    ("socketcall", [__, __, 102, __, __, __], 0),
    ("socketpair", [53, 53, 360, 288, 199, 199], SOCKETCALL | 8),
    ("splice", [275, 275, 313, 340, 76, 76], 0),
    ("spu_create", [__, __, __, __, __, __], 0),
    ("spu_run", [__, __, __, __, __, __], 0),
    ("ssetmask", [__, __, 69, __, __, __], 0),
    ("stat", [4, 4, 106, 106, __, __], 0),
    ("stat64", [__, __, 195, 195, __, __], 0),
    ("statfs", [137, 137, 99, 99, 43, 43], 0),
    ("statfs64", [__, __, 268, 266, __, __], 0),
    ("statmount", [457, 457, 457, 457, 457, 457], 0),
    ("statx", [332, 332, 383, 397, 291, 291], 0),
    ("stime", [__, __, 25, __, __, __], 0),
    ("stty", [__, __, 31, __, __, __], 0),
    ("subpage_prot", [__, __, __, __, __, __], 0),
    ("swapcontext", [__, __, __, __, __, __], 0),
    ("swapoff", [168, 168, 115, 115, 225, 225], 0),
    ("swapon", [167, 167, 87, 87, 224, 224], 0),
    ("switch_endian", [__, __, __, __, __, __], 0),
    ("symlink", [88, 88, 83, 83, __, __], 0),
    ("symlinkat", [266, 266, 304, 331, 36, 36], 0),
    ("sync", [162, 162, 36, 36, 81, 81], 0),
    ("sync_file_range", [277, 277, 314, __, 84, 84], 0),
    ("sync_file_range2", [__, __, __, __, __, __], 0),
    ("syncfs", [306, 306, 344, 373, 267, 267], 0),
    ("sys_debug_setcontext", [__, __, __, __, __, __], 0),
    ("syscall", [__, __, __, __, __, __], 0),
    ("sysfs", [139, 139, 135, 135, __, __], 0),
    ("sysinfo", [99, 99, 116, 116, 179, 179], 0),
    ("syslog", [103, 103, 103, 103, 116, 116], 0),
    ("sysmips", [__, __, __, __, __, __], 0),
    ("tee", [276, 276, 315, 342, 77, 77], 0),
    ("tgkill", [234, 234, 270, 268, 131, 131], 0),
    ("time", [201, 201, 13, __, __, __], 0),
    ("timer_create", [222, 526, 259, 257, 107, 107], 0),
    ("timer_delete", [226, 226, 263, 261, 111, 111], 0),
    ("timer_getoverrun", [225, 225, 262, 260, 109, 109], 0),
    ("timer_gettime", [224, 224, 261, 259, 108, 108], 0),
    ("timer_gettime64", [__, __, 408, 408, __, __], 0),
    ("timer_settime", [223, 223, 260, 258, 110, 110], 0),
    ("timer_settime64", [__, __, 409, 409, __, __], 0),
    ("timerfd", [__, __, __, __, __, __], 0),
    ("timerfd_create", [283, 283, 322, 350, 85, 85], 0),
    ("timerfd_gettime", [287, 287, 326, 354, 87, 87], 0),
    ("timerfd_gettime64", [__, __, 410, 410, __, __], 0),
    ("timerfd_settime", [286, 286, 325, 353, 86, 86], 0),
    ("timerfd_settime64", [__, __, 411, 411, __, __], 0),
    ("times", [100, 100, 43, 43, 153, 153], 0),
    ("tkill", [200, 200, 238, 238, 130, 130], 0),
    ("truncate", [76, 76, 92, 92, 45, 45], 0),
    ("truncate64", [__, __, 193, 193, __, __], 0),
    ("tuxcall", [184, 184, __, __, __, __], 0),
    ("ugetrlimit", [__, __, 191, 191, __, __], 0),
    ("ulimit", [__, __, 58, __, __, __], 0),
    ("umask", [95, 95, 60, 60, 166, 166], 0),
    ("umount", [__, __, 22, __, __, __], 0),
    ("umount2", [166, 166, 52, 52, 39, 39], 0),
    ("uname", [63, 63, 122, 122, 160, 160], 0),
    ("unlink", [87, 87, 10, 10, __, __], 0),
    ("unlinkat", [263, 263, 301, 328, 35, 35], 0),
    ("unshare", [272, 272, 310, 337, 97, 97], 0),
    ("uprobe", [336, 336, __, __, __, __], 0),
    ("uretprobe", [335, 335, __, __, __, __], 0),
    ("uselib", [134, __, 86, 86, __, __], 0),
    ("userfaultfd", [323, 323, 374, 388, 282, 282], 0),
    ("usr26", [__, __, __, 0xf003, __, __], 0),
    ("usr32", [__, __, __, 0xf004, __, __], 0),
    ("ustat", [136, 136, 62, 62, __, __], 0),
    ("utime", [132, 132, 30, __, __, __], 0),
    ("utimensat", [280, 280, 320, 348, 88, 88], 0),
    ("utimensat_time64", [__, __, 412, 412, __, __], 0),
    ("utimes", [235, 235, 271, 269, __, __], 0),
    ("vfork", [58, 58, 190, 190, __, __], 0),
    ("vhangup", [153, 153, 111, 111, 58, 58], 0),
    ("vm86", [__, __, 166, __, __, __], 0),
    ("vm86old", [__, __, 113, __, __, __], 0),
    ("vmsplice", [278, 532, 316, 343, 75, 75], 0),
    ("vserver", [236, __, 273, 313, __, __], 0),
    ("wait4", [61, 61, 114, 114, 260, 260], 0),
    ("waitid", [247, 529, 284, 280, 95, 95], 0),
    ("waitpid", [__, __, 7, __, __, __], 0),
    ("write", [1, 1, 4, 4, 64, 64], 0),
    ("writev", [20, 516, 146, 146, 66, 66], 0),
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_the_table_is_sorted() {
        for pair in SYSCALLS.windows(2) {
            assert!(pair[0].name < pair[1].name, "{}", pair[1].name);
        }
        for call in SYSCALLS {
            assert!(std::ptr::eq(find(call.name).unwrap(), call), "{}", call.name);
        }
        for name in ["", "no_such_call", "Read", "read "] {
            assert!(find(name).is_none(), "{name:?}");
        }
    }

    #[test]
    fn no_architecture_has_a_number_twice_and_all_fit_the_index() {
        for abi in [Abi::X86_64, Abi::X32, Abi::X86, Abi::Arm, Abi::Aarch64, Abi::Riscv64] {
            let mut seen = vec![""; Number::COUNT];
            for call in SYSCALLS {
                let Some(number) = call.number(abi) else { continue };
                assert_eq!(seen[number.index()], "", "{abi:?} {}", call.name);
                seen[number.index()] = call.name;
                let want = if number.0 < 0xf000 { number.0.into() } else { 0xf_0000 + u32::from(number.0 & 0xff) };
                assert_eq!(Number::at(number.index()), want, "{abi:?} {}", call.name);
            }
        }
    }
}
