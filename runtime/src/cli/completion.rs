//! `orlop completion SHELL`.
pub(crate) use shell::Shell;
mod shell {
    /// The shells.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Shell {
        /// GNU bash.
        Bash,
        /// zsh.
        Zsh,
        /// fish.
        Fish,
    }
}
impl Shell {
    /// By name.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "bash" => Some(Self::Bash),
            "zsh" => Some(Self::Zsh),
            "fish" => Some(Self::Fish),
            _ => None,
        }
    }
}
