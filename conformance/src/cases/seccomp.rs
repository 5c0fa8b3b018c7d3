//! System call filters: actions, conditions, flags, and what they hold for.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::check::{allowed, eq, refused};
use crate::scene::{Scene, text};

cases! {
    "config-linux.md, Seccomp" => [
        no_profile_means_no_filter,
        a_filter_is_loaded,
        a_listed_call_fails_with_eperm_by_default,
        a_listed_call_fails_with_the_errno_of_its_rule,
        other_calls_go_on,
        the_default_action_holds_for_calls_that_are_not_listed,
        the_default_action_has_an_errno_of_its_own,
        kill_process_ends_it_with_sigsys,
        kill_thread_of_the_only_thread_ends_the_process,
        trap_sends_sigsys,
        log_lets_the_call_pass,
        a_name_that_the_kernel_does_not_know_is_ignored,
        several_names_may_share_a_rule,
        a_filter_needs_no_new_privileges_set,
        a_filter_with_no_new_privileges_works,
        another_user_gets_the_filter_without_no_new_privileges,
        an_unknown_action_is_refused,
        an_unknown_operator_is_refused,
        an_architecture_list_is_accepted,
        exec_gets_the_filter,
        the_filter_holds_for_children,
    ],
    "config-linux.md, Seccomp: args" => [
        eq_compares_an_argument,
        ne_compares_an_argument,
        lt_and_ge_compare_an_argument,
        gt_and_le_compare_an_argument,
        masked_eq_compares_the_masked_bits,
        arguments_are_compared_in_all_64_bits,
        conditions_of_one_rule_must_all_hold,
        several_rules_for_a_call_are_alternatives,
    ],
    "config-linux.md, Seccomp: flags" => [
        the_log_flag_is_accepted,
        the_spec_allow_flag_is_accepted,
        an_unknown_flag_is_refused,
    ],
    "config-linux.md, Seccomp: listenerPath" => [a_listener_gets_the_notify_fd_with_the_state],
    "runc: ENOSYS for calls newer than the profile" => [
        a_call_newer_than_the_profile_is_unknown,
    ],
}

/// The specification's name of the machine's architecture.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" };

/// An otherwise permissive profile with these rules.
fn profile(scene: &mut Scene, rules: Value) {
    scene.set(
        "/linux/seccomp",
        json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": [ARCHITECTURE], "syscalls": rules }),
    );
}

/// A rule that makes the probe's `memfd` fail.
fn denied(more: &Value) -> Value {
    let mut rule = json!({ "names": ["memfd_create"], "action": "SCMP_ACT_ERRNO" });
    if let (Some(rule), Some(more)) = (rule.as_object_mut(), more.as_object()) {
        rule.extend(more.clone());
    }
    rule
}

fn no_profile_means_no_filter(scene: &mut Scene) -> Result<()> {
    eq("Seccomp", &scene.facts()?["seccomp"], "0")
}

fn a_filter_is_loaded(scene: &mut Scene) -> Result<()> {
    profile(scene, json!([denied(&json!({}))]));
    let facts = scene.facts()?;
    eq("Seccomp", &facts["seccomp"], "2")?;
    eq("Seccomp_filters", &facts["seccomp_filters"], "1")
}

fn a_listed_call_fails_with_eperm_by_default(scene: &mut Scene) -> Result<()> {
    profile(scene, json!([denied(&json!({}))]));
    refused("memfd_create", &scene.ask(&["call", "memfd"])?, &["EPERM"])
}

fn a_listed_call_fails_with_the_errno_of_its_rule(scene: &mut Scene) -> Result<()> {
    profile(scene, json!([denied(&json!({ "errnoRet": 38 }))]));
    refused("memfd_create", &scene.ask(&["call", "memfd"])?, &["ENOSYS"])
}

fn other_calls_go_on(scene: &mut Scene) -> Result<()> {
    profile(scene, json!([denied(&json!({}))]));
    allowed("getcwd", &scene.ask(&["call", "getcwd"])?)
}

/// Every call that the probe and a runtime's last steps make, none of which is under test.
const NEEDED: &[&str] = &["read", "write", "open", "close", "stat", "fstat", "lstat", "poll", "lseek", "mmap", "mprotect", "munmap", "brk", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "ioctl", "pread64", "readv", "writev", "access", "pipe", "pipe2", "sched_yield", "mremap", "madvise", "dup", "dup2", "dup3", "nanosleep", "getpid", "getppid", "socket", "clone", "clone3", "execve", "exit", "exit_group", "wait4", "kill", "uname", "fcntl", "getcwd", "chdir", "fchdir", "readlink", "readlinkat", "capget", "capset", "prctl", "arch_prctl", "gettid", "futex", "futex_waitv", "getdents64", "set_tid_address", "clock_gettime", "clock_nanosleep", "openat", "newfstatat", "statx", "set_robust_list", "prlimit64", "getrandom", "rseq", "sigaltstack", "faccessat", "faccessat2", "epoll_pwait", "close_range", "fstatfs", "tgkill", "openat2", "seccomp", "setgid", "setgroups", "setresgid", "setresuid", "setsid", "setuid", "umask", "fchown", "keyctl", "getuid", "geteuid", "getgid", "getegid", "getgroups", "epoll_create1", "epoll_ctl", "eventfd2", "recvmsg", "sendmsg", "recvfrom", "sendto", "getsockopt", "sched_getaffinity", "getrlimit", "setrlimit"];

fn the_default_action_holds_for_calls_that_are_not_listed(scene: &mut Scene) -> Result<()> {
    scene.set(
        "/linux/seccomp",
        json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{ "names": NEEDED, "action": "SCMP_ACT_ALLOW" }] }),
    );
    let answers = scene.asks(&["call", "memfd", "then", "call", "getcwd"])?;
    refused("memfd_create", &answers[0], &["EPERM"])?;
    allowed("getcwd", &answers[1])
}

fn the_default_action_has_an_errno_of_its_own(scene: &mut Scene) -> Result<()> {
    scene.set(
        "/linux/seccomp",
        json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 36,
            "syscalls": [{ "names": NEEDED, "action": "SCMP_ACT_ALLOW" }],
        }),
    );
    refused("memfd_create", &scene.ask(&["call", "memfd"])?, &["ENAMETOOLONG"])
}

/// 128 and SIGSYS.
const BAD_CALL: i32 = 159;

fn kills(scene: &mut Scene, action: &str) -> Result<()> {
    profile(scene, json!([denied(&json!({ "action": action }))]));
    scene.probes(&["call", "memfd"]).run()?.exits(BAD_CALL).map(drop)
}

fn kill_process_ends_it_with_sigsys(scene: &mut Scene) -> Result<()> {
    kills(scene, "SCMP_ACT_KILL_PROCESS")
}

fn kill_thread_of_the_only_thread_ends_the_process(scene: &mut Scene) -> Result<()> {
    kills(scene, "SCMP_ACT_KILL_THREAD")?;
    kills(scene, "SCMP_ACT_KILL")
}

fn trap_sends_sigsys(scene: &mut Scene) -> Result<()> {
    kills(scene, "SCMP_ACT_TRAP")
}

fn log_lets_the_call_pass(scene: &mut Scene) -> Result<()> {
    profile(scene, json!([denied(&json!({ "action": "SCMP_ACT_LOG" }))]));
    allowed("memfd_create", &scene.ask(&["call", "memfd"])?)
}

fn a_name_that_the_kernel_does_not_know_is_ignored(scene: &mut Scene) -> Result<()> {
    profile(scene, json!([denied(&json!({ "names": ["no_such_call", "memfd_create"] }))]));
    refused("memfd_create", &scene.ask(&["call", "memfd"])?, &["EPERM"])
}

fn several_names_may_share_a_rule(scene: &mut Scene) -> Result<()> {
    profile(scene, json!([denied(&json!({ "names": ["memfd_create", "unshare"], "errnoRet": 5 }))]));
    let answers = scene.asks(&["call", "memfd", "then", "call", "unshare", "uts"])?;
    refused("memfd_create", &answers[0], &["EIO"])?;
    refused("unshare", &answers[1], &["EIO"])
}

fn a_filter_needs_no_new_privileges_set(scene: &mut Scene) -> Result<()> {
    // Root with no CAP_SYS_ADMIN in the container: the filter is loaded while the runtime still has it.
    scene.set("/process/noNewPrivileges", false);
    profile(scene, json!([denied(&json!({}))]));
    let answers = scene.asks(&["facts", "then", "call", "memfd"])?;
    eq("NoNewPrivs", &answers[0]["no_new_privs"], "0")?;
    refused("memfd_create", &answers[1], &["EPERM"])
}

fn a_filter_with_no_new_privileges_works(scene: &mut Scene) -> Result<()> {
    scene.set("/process/noNewPrivileges", true);
    profile(scene, json!([denied(&json!({}))]));
    let answers = scene.asks(&["facts", "then", "call", "memfd"])?;
    eq("NoNewPrivs", &answers[0]["no_new_privs"], "1")?;
    refused("memfd_create", &answers[1], &["EPERM"])
}

fn another_user_gets_the_filter_without_no_new_privileges(scene: &mut Scene) -> Result<()> {
    scene.set("/process/user", json!({ "uid": 1234, "gid": 1235 }));
    profile(scene, json!([denied(&json!({}))]));
    let answers = scene.asks(&["facts", "then", "call", "memfd"])?;
    eq("NoNewPrivs", &answers[0]["no_new_privs"], "0")?;
    refused("memfd_create", &answers[1], &["EPERM"])
}

fn an_unknown_action_is_refused(scene: &mut Scene) -> Result<()> {
    profile(scene, json!([denied(&json!({ "action": "SCMP_ACT_SULK" }))]));
    scene.try_create()?.refused().map(drop)
}

fn an_unknown_operator_is_refused(scene: &mut Scene) -> Result<()> {
    profile(scene, json!([denied(&json!({ "args": [{ "index": 0, "value": 1, "op": "SCMP_CMP_ALMOST" }] }))]));
    scene.try_create()?.refused().map(drop)
}

fn an_architecture_list_is_accepted(scene: &mut Scene) -> Result<()> {
    profile(scene, json!([denied(&json!({}))]));
    #[cfg(target_arch = "x86_64")]
    scene.set("/linux/seccomp/architectures", json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]));
    refused("memfd_create", &scene.ask(&["call", "memfd"])?, &["EPERM"])
}

fn exec_gets_the_filter(scene: &mut Scene) -> Result<()> {
    profile(scene, json!([denied(&json!({}))]));
    scene.live()?;
    let answer = scene.exec_with(&[], &["call", "memfd"])?.ok()?.answers().pop().unwrap_or_default();
    refused("memfd_create", &answer, &["EPERM"])
}

fn the_filter_holds_for_children(scene: &mut Scene) -> Result<()> {
    profile(scene, json!([denied(&json!({}))]));
    let answer = scene.ask(&["exec", "/probe", "call", "memfd"])?;
    let child: Value = serde_json::from_str(answer["stdout"].as_str().unwrap_or_default().trim())?;
    refused("memfd_create", &child, &["EPERM"])
}

/// Denies `socket` with EXFULL where the conditions hold, and reports for each domain whether it was denied.
fn denies(scene: &mut Scene, conditions: &Value, domains: &[u32]) -> Result<Vec<bool>> {
    profile(scene, json!([{ "names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 54, "args": conditions }]));
    let texts: Vec<String> = domains.iter().map(u32::to_string).collect();
    let mut args = Vec::new();
    for text in &texts {
        args.extend(["call", "socket", text, "then"]);
    }
    args.pop();
    Ok(scene.asks(&args)?.iter().map(|answer| answer["errno"] == "EXFULL").collect())
}

fn condition(index: u32, value: u64, op: &str) -> Value {
    json!({ "index": index, "value": value, "op": op })
}

fn eq_compares_an_argument(scene: &mut Scene) -> Result<()> {
    eq("denied domains of 1, 2, 16", denies(scene, &json!([condition(0, 2, "SCMP_CMP_EQ")]), &[1, 2, 16])?, [false, true, false])
}

fn ne_compares_an_argument(scene: &mut Scene) -> Result<()> {
    eq("denied domains of 1, 2, 16", denies(scene, &json!([condition(0, 2, "SCMP_CMP_NE")]), &[1, 2, 16])?, [true, false, true])
}

fn lt_and_ge_compare_an_argument(scene: &mut Scene) -> Result<()> {
    let domains = [1, 2, 16];
    eq("denied by < 2", denies(scene, &json!([condition(0, 2, "SCMP_CMP_LT")]), &domains)?, [true, false, false])?;
    eq("denied by >= 2", denies(scene, &json!([condition(0, 2, "SCMP_CMP_GE")]), &domains)?, [false, true, true])
}

fn gt_and_le_compare_an_argument(scene: &mut Scene) -> Result<()> {
    let domains = [1, 2, 16];
    eq("denied by > 2", denies(scene, &json!([condition(0, 2, "SCMP_CMP_GT")]), &domains)?, [false, false, true])?;
    eq("denied by <= 2", denies(scene, &json!([condition(0, 2, "SCMP_CMP_LE")]), &domains)?, [true, true, false])
}

fn masked_eq_compares_the_masked_bits(scene: &mut Scene) -> Result<()> {
    let odd = json!([{ "index": 0, "value": 1, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ" }]);
    eq("denied domains of 1, 2, 3, 16", denies(scene, &odd, &[1, 2, 3, 16])?, [true, false, true, false])
}

fn arguments_are_compared_in_all_64_bits(scene: &mut Scene) -> Result<()> {
    // The offset of lseek is its second argument; its low half is the same in both calls.
    let high = (7_u64 << 32) | 5;
    profile(
        scene,
        json!([{ "names": ["lseek"], "action": "SCMP_ACT_ERRNO", "errnoRet": 54, "args": [condition(1, high, "SCMP_CMP_EQ")] }]),
    );
    let answers = scene.asks(&["call", "seek", &high.to_string(), "then", "call", "seek", "5"])?;
    refused("the call with all bits", &answers[0], &["EXFULL"])?;
    ensure!(answers[1]["errno"] != "EXFULL", "a call with the same low 32 bits was denied");
    profile(
        scene,
        json!([{ "names": ["lseek"], "action": "SCMP_ACT_ERRNO", "errnoRet": 54, "args": [condition(1, 1 << 32, "SCMP_CMP_GE")] }]),
    );
    let answers = scene.asks(&["call", "seek", "4294967295", "then", "call", "seek", "4294967296"])?;
    ensure!(answers[0]["errno"] != "EXFULL", "a value one below the limit was denied");
    refused("the limit", &answers[1], &["EXFULL"])
}

fn conditions_of_one_rule_must_all_hold(scene: &mut Scene) -> Result<()> {
    // The probe asks for stream sockets, type 1, with or without flags in higher bits.
    let both = json!([condition(0, 2, "SCMP_CMP_EQ"), { "index": 1, "value": 15, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ" }]);
    eq("denied with a type that fits", denies(scene, &both, &[1, 2])?, [false, true])?;
    let never = json!([condition(0, 2, "SCMP_CMP_EQ"), { "index": 1, "value": 15, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ" }]);
    eq("denied with a type that does not", denies(scene, &never, &[1, 2])?, [false, false])
}

fn several_rules_for_a_call_are_alternatives(scene: &mut Scene) -> Result<()> {
    let rule = |value: u64| {
        json!({ "names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 54, "args": [condition(0, value, "SCMP_CMP_EQ")] })
    };
    profile(scene, json!([rule(1), rule(16)]));
    let answers = scene.asks(&["call", "socket", "1", "then", "call", "socket", "16", "then", "call", "socket", "2"])?;
    refused("domain 1", &answers[0], &["EXFULL"])?;
    refused("domain 16", &answers[1], &["EXFULL"])?;
    ensure!(answers[2]["errno"] != "EXFULL", "domain 2 was denied");
    Ok(())
}

fn flag(scene: &mut Scene, flag: &str) -> Result<()> {
    profile(scene, json!([denied(&json!({}))]));
    scene.set("/linux/seccomp/flags", json!([flag]));
    refused("memfd_create", &scene.ask(&["call", "memfd"])?, &["EPERM"])
}

fn the_log_flag_is_accepted(scene: &mut Scene) -> Result<()> {
    flag(scene, "SECCOMP_FILTER_FLAG_LOG")
}

fn the_spec_allow_flag_is_accepted(scene: &mut Scene) -> Result<()> {
    flag(scene, "SECCOMP_FILTER_FLAG_SPEC_ALLOW")
}

fn an_unknown_flag_is_refused(scene: &mut Scene) -> Result<()> {
    profile(scene, json!([denied(&json!({}))]));
    scene.set("/linux/seccomp/flags", json!(["SECCOMP_FILTER_FLAG_WAVE"]));
    scene.try_create()?.refused().map(drop)
}

fn a_listener_gets_the_notify_fd_with_the_state(scene: &mut Scene) -> Result<()> {
    let path = scene.path("listener");
    let listener = crate::socket::Listener::bind(&path)?;
    profile(scene, json!([denied(&json!({ "action": "SCMP_ACT_NOTIFY" }))]));
    scene.set("/linux/seccomp/listenerPath", text(&path)).set("/linux/seccomp/listenerMetadata", "for the agent");
    let live = scene.live()?;
    let (message, fds) = listener.accept()?;
    let message: Value = serde_json::from_slice(&message).context("the message is no JSON")?;
    eq("fds", &message["fds"], ["seccompFd"])?;
    eq("metadata", &message["metadata"], "for the agent")?;
    eq("pid", &message["pid"], live.pid)?;
    eq("state: id", &message["state"]["id"], &scene.id)?;
    eq("state: bundle", &message["state"]["bundle"], text(&scene.bundle))?;
    eq("number of fds", fds.len(), 1)?;
    let target = std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fds[0])))?;
    eq("the fd", target, "anon_inode:seccomp notify")
}

fn a_call_newer_than_the_profile_is_unknown(scene: &mut Scene) -> Result<()> {
    // Nothing in this profile is newer than rseq (Linux 4.18); openat2 (5.6) is unlisted.
    let old: Vec<&str> = NEEDED
        .iter()
        .copied()
        .filter(|name| !["clone3", "close_range", "openat2", "faccessat2", "futex_waitv"].contains(name))
        .collect();
    scene.set(
        "/linux/seccomp",
        json!({
            "defaultAction": "SCMP_ACT_ERRNO", "architectures": [ARCHITECTURE],
            "syscalls": [{ "names": old, "action": "SCMP_ACT_ALLOW" }],
        }),
    );
    let answers = scene.asks(&["call", "openat2", "/", "then", "call", "memfd"])?;
    refused("openat2", &answers[0], &["ENOSYS"])?;
    refused("memfd_create, which is older", &answers[1], &["EPERM"])
}
