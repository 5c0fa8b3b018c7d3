//! An interpreter for the classic BPF programs that seccomp(2) takes.

use orlop_sys::seccomp::Instruction;

/// What a filter sees of a system call: the kernel's `struct seccomp_data`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Call {
    /// The number.
    pub nr: u32,
    /// An `AUDIT_ARCH_*`.
    pub arch: u32,
    /// The arguments.
    pub args: [u64; 6],
}

impl Call {
    /// The word at an offset; the instruction pointer is 0.
    fn word(&self, offset: u32) -> Option<u32> {
        let arg = |at: u32| self.args.get(usize::try_from(at / 8).ok()?).copied();
        match (offset, offset.checked_sub(16)) {
            (0, _) => Some(self.nr),
            (4, _) => Some(self.arch),
            (8 | 12, _) => Some(0),
            (_, Some(at)) if at % 8 == 0 => arg(at).map(|value| value as u32),
            (_, Some(at)) if at % 8 == 4 => arg(at).map(|value| (value >> 32) as u32),
            _ => None,
        }
    }
}

/// The action that the program returns, and how many instructions that took.
///
/// # Errors
///
/// What the kernel would have refused when the program was loaded: a jump or a fall beyond the end, an unknown
/// instruction, a load from elsewhere.
pub fn run(program: &[Instruction], call: &Call) -> Result<(u32, usize), String> {
    let (mut at, mut steps, mut a, mut x, mut memory) = (0usize, 0, 0u32, 0u32, [0u32; 16]);
    loop {
        let i = program.get(at).ok_or_else(|| format!("left the program at {at}"))?;
        let here = at;
        let bad = || format!("instruction {here} is bad: {i:?}");
        at += 1;
        steps += 1;
        let mut jump = |yes: bool| at += usize::from(if yes { i.jt } else { i.jf });
        match i.code {
            0x20 => a = call.word(i.k).ok_or_else(bad)?,
            0x00 => a = i.k,
            0x02 => *memory.get_mut(i.k as usize).ok_or_else(bad)? = a,
            0x60 => a = *memory.get(i.k as usize).ok_or_else(bad)?,
            0x07 => x = a,
            0x87 => a = x,
            0x54 => a &= i.k,
            0x05 => at = at.checked_add(i.k as usize).ok_or_else(bad)?,
            0x15 => jump(a == i.k),
            0x25 => jump(a > i.k),
            0x35 => jump(a >= i.k),
            0x45 => jump(a & i.k != 0),
            0x06 => return Ok((i.k, steps)),
            0x16 => return Ok((a, steps)),
            _ => return Err(bad()),
        }
    }
}
