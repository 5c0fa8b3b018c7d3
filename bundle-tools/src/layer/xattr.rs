//! Which extended attributes of an image are meant for its files.

/// The longest name, in bytes (the kernel's `XATTR_NAME_MAX`).
pub const MAX_NAME: usize = 255;

/// The longest value, in bytes (the kernel's `XATTR_SIZE_MAX`).
pub const MAX_VALUE: usize = 64 << 10;

/// What is done with an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// It is the file's.
    Keep,
    /// It is left out of the layer: it is the business of the host, of an overlay mount, or of a program that unpacks.
    Drop,
}

/// What is done with an attribute called `name`, on a file or directory (`plain`) or on anything else.
///
/// * `trusted.*` is dropped: only the host's administrator sees it, to set it takes CAP_SYS_ADMIN, and `trusted.overlay.*`
///   would be an overlay mount's own redirections, opaque marks and whiteouts. So would `user.overlay.*`, which is
///   dropped too. Neither is escaped, because no image means it.
/// * `security.selinux`, `security.ima`, `security.evm`, `security.SMACK64*`, `security.apparmor` are labels and
///   signatures of the host that made the layer.
/// * `user.rootlesscontainers` is what an unpacker writes, not what it reads.
/// * `system.*` is dropped but for the two POSIX ACLs: the rest are views of a file system's own (NFSv4 ACLs and such).
/// * `user.*` exists on files and directories only (xattr(7)); elsewhere nobody could set it.
/// * Namespaces that Linux does not have (`com.apple.*`) are dropped.
pub fn policy(name: &[u8], plain: bool) -> Policy {
    const HOST: [&[u8]; 5] =
        [b"security.selinux", b"security.ima", b"security.evm", b"security.apparmor", b"user.rootlesscontainers"];
    const OVERLAY: [&[u8]; 2] = [b"user.overlay.", b"security.SMACK64"];
    const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];
    if HOST.contains(&name) || OVERLAY.iter().any(|prefix| name.starts_with(prefix)) {
        return Policy::Drop;
    }
    let within = |namespace: &[u8]| name.len() > namespace.len() && name.starts_with(namespace);
    let kept = ACLS.contains(&name) || within(b"security.") || (within(b"user.") && plain);
    if kept { Policy::Keep } else { Policy::Drop }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_of_hosts_and_of_overlays_are_dropped() {
        for (name, file, symlink) in [
            ("security.capability", true, true),
            ("user.mime", true, false),
            ("trusted.x", false, false),
            ("system.posix_acl_access", true, true),
            ("system.posix_acl_default", true, true),
            ("system.nfs4_acl", false, false),
            ("security.selinux", false, false),
            ("security.SMACK64EXEC", false, false),
            ("trusted.overlay.opaque", false, false),
            ("trusted.overlay.overlay.opaque", false, false),
            ("user.overlay.whiteout", false, false),
            ("user.overlays", true, false),
            ("user.rootlesscontainers", false, false),
            ("user.", false, false),
            ("com.apple.quarantine", false, false),
            ("", false, false),
        ] {
            assert_eq!(policy(name.as_bytes(), true) == Policy::Keep, file, "{name}");
            assert_eq!(policy(name.as_bytes(), false) == Policy::Keep, symlink, "{name}");
        }
    }
}
