//! seccomp(2).

/// One instruction of a classic BPF program: the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Class, size and mode, or class and operation (`BPF_LD | BPF_W | BPF_ABS` ...).
    pub code: u16,
    /// How many instructions a true comparison skips.
    pub jt: u8,
    /// How many instructions a false comparison skips.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}
