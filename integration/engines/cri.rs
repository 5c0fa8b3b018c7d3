//! Kubernetes' side of containerd: what a kubelet asks of the Container Runtime Interface, with orlop behind it.

mod client;
mod node;
mod stream;

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orlop_integration::skip;
use orlop_shim::wire::Message;

use node::{Container, EXITED, IN_RUNCS_PLACE, LOGS, Node, ORLOP, Pod, RUNNING, SANDBOXER, Volume, Whose};
use stream::Channel;

use crate::host::{Release, until};

/// Does the same under each containerd.
fn under_each(topic: &str, test: impl Fn(Node)) {
    for release in [Release::Bookworm, Release::Trixie, Release::Sid] {
        Node::new(release, topic).into_iter().for_each(&test);
    }
}

/// The same, with each handler that it has.
fn with_each_handler(topic: &str, test: impl Fn(&mut Node, &str)) {
    under_each(topic, |mut node| node.handlers().iter().for_each(|handler| test(&mut node, handler)));
}

#[test]
fn a_pod_has_one_shim_from_its_beginning_to_its_end() {
    under_each("a pod's shim", |node| {
        for handler in node.handlers() {
            let pod = Pod { name: "shared", handler, ..Pod::default() };
            let id = node.run(&pod);
            let shims = node.shims();
            assert_eq!(shims.len(), 1, "{:?}", node.host.processes());
            let container = |name| Container { name, ..Container::default() };
            let one = node.start(&id, &pod, &container("one"));
            let two = node.start(&id, &pod, &container("two"));
            assert_eq!(node.shims(), shims);

            node.about("StopContainer", &one);
            node.about("RemoveContainer", &one);
            assert_eq!(node.status(&two).state, RUNNING);
            assert_eq!(node.sh(&two, "hostname"), "shared\n");
            assert_eq!(node.shims(), shims);
            node.remove(&id);
            node.assert_clean();
        }
    });
}

/// A request of `Exec` for a shell's script, with all streams that it can have.
fn exec_request(container: &str, script: &str, terminal: bool) -> Message {
    let words = ["sh", "-c", script];
    let request = words.iter().fold(Message::new().text(1, container), |m, word| m.bytes(2, word.as_bytes()));
    request.flag(3, terminal).flag(4, true).flag(5, true).flag(6, !terminal)
}

/// Likewise of `Attach`.
fn attach_request(container: &str, terminal: bool) -> Message {
    Message::new().text(1, container).flag(2, true).flag(3, terminal).flag(4, true).flag(5, !terminal)
}

#[test]
fn what_is_executed_answers_streams_and_ends_with_its_status() {
    under_each("exec", |node| {
        let pod = Pod { name: "exec", handler: ORLOP, ..Pod::default() };
        let id = node.run(&pod);
        let main = node.start(&id, &pod, &Container { name: "main", ..Container::default() });

        let said = node.exec(&main, "echo out; echo err >&2; exit 7");
        assert_eq!(said, ("out\n".into(), "err\n".into(), 7));
        let request = ["sleep", "60"].iter().fold(Message::new().text(1, &main), |m, word| m.bytes(2, word.as_bytes()));
        let late = node.try_call("ExecSync", &request.number(3, 1u32)).unwrap_err();
        assert!(late.contains("timed out") || late.contains("timeout"), "{late}");
        assert_eq!(node.sh(&main, "ps -o args | grep -c '^sleep 60' || true"), "0\n");
        let missing = ["/nowhere"].iter().fold(Message::new().text(1, &main), |m, word| m.bytes(2, word.as_bytes()));
        let missing = node.try_call("ExecSync", &missing).unwrap_err();
        assert!(missing.contains("no such file or directory"), "{missing}");

        // Without a terminal: three streams, and a status.
        let script = "read line; echo got $line; echo oops >&2; exit 3";
        let mut stream = node.stream("Exec", &exec_request(&main, script, false));
        stream.send(Channel::Stdin, b"something\n");
        let [out, err, end] = stream.rest();
        assert_eq!((out.as_str(), err.as_str()), ("got something\n", "oops\n"));
        assert!(end.contains("\"ExitCode\",\"message\":\"3\""), "{end}");

        // More than any pipe or FIFO holds.
        let mut stream = node.stream("Exec", &exec_request(&main, "seq 1 200000", false));
        let [out, _, end] = stream.rest();
        assert!(out.ends_with("\n199999\n200000\n") && out.lines().count() == 200_000, "{}", out.len());
        assert!(end.contains("Success"), "{end}");

        // With one: its size, before and after a change.
        let script = "while read word && [ $word = again ]; do echo $(stty size).; done";
        let mut stream = node.stream("Exec", &exec_request(&main, script, true));
        for (width, height) in [(99, 33), (120, 44)] {
            stream.send(Channel::Resize, format!("{{\"Width\":{width},\"Height\":{height}}}").as_bytes());
            // The size is not told by the channel that what is typed comes by.
            until("the size", || {
                stream.send(Channel::Stdin, b"again\n");
                stream.expect(Channel::Stdout, ".").contains(&format!("{height} {width}.")).then_some(())
            });
        }
        stream.send(Channel::Stdin, b"enough\n");
        assert!(stream.rest()[2].contains("Success"));
        node.remove(&id);
        node.assert_clean();
    });
}

#[test]
fn a_container_is_attached_to_and_logs_every_line() {
    under_each("attach and logs", |node| {
        let pod = Pod { name: "attach", handler: ORLOP, ..Pod::default() };
        let id = node.run(&pod);
        let script = "echo begin; while read line; do echo got $line; echo $line >&2; done; echo end";
        let plain = Container { name: "plain", script, stdin: true, ..Container::default() };
        let plain = node.start(&id, &pod, &plain);
        let mut stream = node.stream("Attach", &attach_request(&plain, false));
        stream.send(Channel::Stdin, b"one\n");
        stream.expect(Channel::Stdout, "got one\n");
        // Input that may be given once is at its end when its giver leaves.
        drop(stream);
        assert_eq!(node.end(&plain).exit_code, 0);
        let log = fs::read_to_string(node.host.path(&format!("{LOGS}/plain.log"))).unwrap();
        let lines: Vec<_> = log.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        let of = |stream: &str| lines.iter().copied().filter(|line| line.starts_with(stream)).collect::<Vec<_>>();
        assert_eq!(of("stdout"), ["stdout F begin", "stdout F got one", "stdout F end"]);
        assert_eq!(of("stderr"), ["stderr F one"]);

        let terminal =
            Container { name: "terminal", script: "sh", stdin: true, terminal: true, ..Container::default() };
        let terminal = node.start(&id, &pod, &terminal);
        let mut stream = node.stream("Attach", &attach_request(&terminal, true));
        stream.send(Channel::Stdin, b"tty; exit 9\n");
        stream.expect(Channel::Stdout, "/dev/pts/0\r\n");
        assert_eq!(node.end(&terminal).exit_code, 9);
        node.remove(&id);
        node.assert_clean();
    });
}

#[test]
fn pods_share_the_network_that_they_asked_for() {
    with_each_handler("networks", |node, handler| {
        let inside = Pod {
            name: "inside",
            handler,
            sysctls: &[("net.ipv4.ip_unprivileged_port_start", "80")],
            ..Pod::default()
        };
        let id = node.run(&inside);
        let address = node.about("PodSandboxStatus", &id).message(1).message(5).text(1);
        assert!(address.starts_with("10.77.0."), "{address}");
        let serve = "mkdir /tmp/www && echo hello >/tmp/www/index.html && exec httpd -f -p 8080 -h /tmp/www";
        let server = node.start(&id, &inside, &Container { name: "server", script: serve, ..Container::default() });
        let client = node.start(&id, &inside, &Container { name: "client", ..Container::default() });
        // By the network that both have, before anybody asks from elsewhere.
        until("an answer", || (node.exec(&client, "wget -qO- http://127.0.0.1:8080/").0 == "hello\n").then_some(()));
        let interfaces = node.sh(&client, "ip -o -4 addr");
        assert!(interfaces.contains("127.0.0.1/8") && interfaces.contains(&address), "{interfaces}");
        assert_eq!(node.sh(&server, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "80\n");
        assert_eq!(node.sh(&server, "hostname"), "inside\n");

        // containerd 2.1 dies of a pod on the host's network that it does not keep itself.
        if handler != SANDBOXER {
            let outside = Pod { name: "outside", handler, network: Whose::Node, ..Pod::default() };
            let other = node.run(&outside);
            let host = node.start(&other, &outside, &Container { name: "host", ..Container::default() });
            assert_eq!(node.sh(&host, &format!("wget -qO- http://{address}:8080/")), "hello\n");
            assert!(node.sh(&host, "ip -o link").contains("pods0"));
            node.remove(&other);
        }
        node.remove(&id);
        node.assert_clean();
    });
}

#[test]
fn containers_of_a_pod_see_each_others_processes_if_they_should() {
    with_each_handler("shared processes", |node, handler| {
        let pod = Pod { name: "pids", handler, ..Pod::default() };
        let id = node.run(&pod);
        let one = node.start(&id, &pod, &Container { name: "one", script: "exec sleep 4711", ..Container::default() });
        let two = node.start(&id, &pod, &Container { name: "two", ..Container::default() });
        assert!(node.sh(&two, "ps -o args").contains("sleep 4711"));
        // A container's end is that of all its processes, though their namespace goes on.
        let request = ["sh", "-c", "sleep 4712 </dev/null >/dev/null 2>&1 &"];
        let request = request.iter().fold(Message::new().text(1, &one), |m, word| m.bytes(2, word.as_bytes()));
        node.call("ExecSync", &request);
        node.about("StopContainer", &one);
        until("the end of its processes", || (!node.sh(&two, "ps -o args").contains("sleep 471")).then_some(()));

        let own = Pod { name: "own", pids: Whose::Container, ..pod };
        let three = node.start(&id, &own, &Container { name: "three", ..Container::default() });
        assert!(!node.sh(&three, "ps -o args").contains("sleep 1000000\nsleep"));
        assert_eq!(node.sh(&three, "readlink /proc/1/exe"), "/bin/busybox\n");
        node.remove(&id);
        node.assert_clean();
    });
}

#[test]
fn a_container_is_measured_limited_and_killed_for_want_of_memory() {
    with_each_handler("resources", |node, handler| {
        let pod = Pod { name: "memory", handler, cgroup: "/kubepods/pod1", pids: Whose::Container, ..Pod::default() };
        let id = node.run(&pod);
        let busy = "while :; do :; done";
        let busy =
            node.start(&id, &pod, &Container { name: "busy", script: busy, memory: 64 << 20, ..Container::default() });
        let measure = || node.about("ContainerStats", &busy).message(1);
        let (cpu, memory) = until("use of the processor", || {
            let stats = measure();
            let (cpu, memory) = (stats.message(2).message(2).number(1), stats.message(3).message(2).number(1));
            (cpu > 50_000_000 && memory > 0).then_some((cpu, memory))
        });
        assert!(memory < 64 << 20, "{memory}");
        until("more use of the processor", || (measure().message(2).message(2).number(1) > cpu).then_some(()));

        let resources = Message::new().number(4, 32u32 << 20).number(10, 32u32 << 20);
        node.call("UpdateContainerResources", &Message::new().text(1, &busy).message(2, &resources));
        let v1 = "/sys/fs/cgroup/memory/memory.limit_in_bytes";
        let limit = format!("cat {v1} 2>/dev/null || cat /sys/fs/cgroup/memory.max");
        assert_eq!(node.sh(&busy, &limit), format!("{}\n", 32 << 20));

        let greedy = "x=x; while :; do x=$x$x; done";
        let greedy = node.start(
            &id,
            &pod,
            &Container { name: "greedy", script: greedy, memory: 16 << 20, ..Container::default() },
        );
        let end = node.end(&greedy);
        assert_eq!((end.exit_code, end.reason.as_str()), (137, "OOMKilled"));
        assert_eq!(node.status(&busy).state, RUNNING);
        node.remove(&id);
        node.host.run(&["sh", "-c", "find /sys/fs/cgroup -depth -type d -path '*kubepods*' -exec rmdir {} +"]);
        node.assert_clean();
    });
}

#[test]
fn pods_outlive_containerd_and_what_happens_meanwhile_is_told() {
    with_each_handler("restart of containerd", |node, handler| {
        let pod = Pod { name: "lasting", handler, ..Pod::default() };
        let id = node.run(&pod);
        let stays = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done";
        let stays = node.start(&id, &pod, &Container { name: "stays", script: stays, ..Container::default() });
        let goes = "while [ ! -e /end ]; do sleep 0.1; done; exit 5";
        let goes = node.start(&id, &pod, &Container { name: "goes", script: goes, ..Container::default() });
        let shims = node.shims();
        node.stop_containerd();
        let waiting =
            || node.host.processes().into_iter().find(|(_, what)| what.contains("-e /end")).map(|(pid, _)| pid);
        // Which may be a child that becomes `sleep` just now.
        until("it to be told", || fs::write(format!("/proc/{}/root/end", waiting()?), "").ok());
        until("the container's end", || waiting().is_none().then_some(()));
        node.start_containerd();
        assert_eq!(node.end(&goes).exit_code, 5);
        assert_eq!(node.status(&stays).state, RUNNING);
        assert_eq!(node.sh(&stays, "hostname"), "lasting\n");
        let log = || fs::read_to_string(node.host.path(&format!("{LOGS}/stays.log"))).unwrap().lines().count();
        let before = log();
        until("more log", || (log() > before).then_some(()));
        assert_eq!(node.shims(), shims);
        // What comes now goes into the same pod.
        let late = node.start(&id, &pod, &Container { name: "late", ..Container::default() });
        assert_eq!(node.shims(), shims);
        assert_eq!(node.sh(&late, "hostname"), "lasting\n");
        node.remove(&id);
        node.assert_clean();
    });
}

#[test]
fn a_pod_whose_shim_is_killed_ends_and_leaves_nothing() {
    with_each_handler("kill of the shim", |node, handler| {
        let pod = Pod { name: "orphan", handler, ..Pod::default() };
        let id = node.run(&pod);
        let main = node.start(&id, &pod, &Container { name: "main", ..Container::default() });
        kill(Pid::from_raw(node.shims()[0]), Signal::SIGKILL).unwrap();
        // What containerd asks the killer's victim first, or what it says if that can't be told.
        assert!([137, 255].contains(&node.end(&main).exit_code));
        until("the pod's end", || (node.about("PodSandboxStatus", &id).message(1).number(3) == 1).then_some(()));
        assert_eq!(node.status(&main).state, EXITED);
        node.remove(&id);
        node.assert_clean();
    });
}

#[test]
fn a_read_only_volume_is_so_to_its_depth() {
    under_each("recursive read-only mounts", |node| {
        let features = node.call("Status", &Message::new()).messages(3);
        if features.is_empty() {
            return skip("recursive read-only mounts: containerd 2 has them");
        }
        // It asks what is known by its own name only, whatever is behind it.
        let handler = features.iter().find(|handler| handler.text(1) == IN_RUNCS_PLACE).unwrap();
        assert_eq!(handler.message(2).number(1), 1, "{handler:?}");
        node.host.must(&["sh", "-ec", "mkdir -p /srv/volume/below && mount -t tmpfs tmpfs /srv/volume/below"]);
        let pod = Pod { name: "volumes", handler: IN_RUNCS_PLACE, ..Pod::default() };
        let id = node.run(&pod);
        let volume = |recursively| Volume { host: "/srv/volume", container: "/volume", readonly: true, recursively };
        let write = "for f in /volume/x /volume/below/x; do touch $f 2>/dev/null && echo $f; done; true";
        for (name, recursively, written) in [("flat", false, "/volume/below/x\n"), ("deep", true, "")] {
            let volumes = [volume(recursively)];
            let container = node.start(&id, &pod, &Container { name, volumes: &volumes, ..Container::default() });
            assert_eq!(node.sh(&container, write), written);
        }
        node.remove(&id);
        node.host.must(&["sh", "-ec", "umount /srv/volume/below"]);
        node.assert_clean();
    });
}

#[test]
fn a_pod_with_users_of_its_own_has_no_power_over_the_hosts() {
    under_each("user namespaces", |node| {
        let features = node.call("Status", &Message::new()).messages(3);
        if features.is_empty() {
            return skip("user namespaces with volumes: containerd 2 has them");
        }
        // It asks what is known by its own name only, whatever is behind it.
        let handler = features.iter().find(|handler| handler.text(1) == IN_RUNCS_PLACE).unwrap();
        assert_eq!(handler.message(2).number(2), 1, "{handler:?}");
        node.host.must(&[
            "sh",
            "-ec",
            "mkdir -p /srv/volume && echo secret >/srv/volume/roots && chmod 600 /srv/volume/roots",
        ]);
        for handler in node.handlers() {
            let pod = Pod { name: "users", handler, users: Some(1_000_000), ..Pod::default() };
            let id = node.run(&pod);
            let volumes = [Volume { host: "/srv/volume", container: "/volume", ..Volume::default() }];
            let main = node.start(&id, &pod, &Container { name: "main", volumes: &volumes, ..Container::default() });
            assert_eq!(node.sh(&main, "tr -s ' ' </proc/self/uid_map"), " 0 1000000 65536\n");
            // The image and the volume are seen as root's, who is somebody else outside.
            assert_eq!(
                node.sh(&main, "id -u; stat -c %u /bin/busybox /volume/roots; cat /volume/roots"),
                "0\n0\n0\nsecret\n"
            );
            node.sh(&main, "echo new >/volume/new && echo new >/tmp/new");
            assert_eq!(node.host.must(&["sh", "-ec", "stat -c %u /srv/volume/new"]), "0\n");
            assert_eq!(node.sh(&main, "hostname; ip -o -4 addr | grep -c 10.77.0."), "users\n1\n");
            let roots = node.host.processes().into_iter().filter(|(_, arguments)| arguments.starts_with("sleep"));
            for (pid, arguments) in roots {
                let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("/proc/{pid}")).unwrap());
                assert_eq!(owner, 1_000_000, "{arguments}");
            }
            node.remove(&id);
            node.assert_clean();
        }
    });
}

#[test]
fn a_pod_that_the_shim_keeps_needs_no_image_and_lacks_nothing() {
    under_each("pods without a pause image", |node| {
        if !node.handlers().contains(&SANDBOXER) {
            return skip("pods that the shim keeps: containerd 2 has them");
        }
        let pod = Pod { name: "kept", handler: SANDBOXER, dns: &["192.0.2.53"], ..Pod::default() };
        let id = node.run(&pod);
        let containers = node.host.must(&["ctr", "-n", "k8s.io", "containers", "list", "-q"]);
        assert_eq!(containers, "", "there is a pause container");
        let one = node.start(&id, &pod, &Container { name: "one", ..Container::default() });
        let two = node.start(&id, &pod, &Container { name: "two", ..Container::default() });
        assert_eq!(node.sh(&one, "cat /etc/resolv.conf /etc/hostname"), "nameserver 192.0.2.53\nkept\n");
        assert_eq!(node.sh(&one, "cat /etc/hosts"), node.host.read("/etc/hosts"));
        node.sh(&one, "echo shared >/dev/shm/file");
        assert_eq!(node.sh(&two, "cat /dev/shm/file; stat -f -c %T /dev/shm"), "shared\ntmpfs\n");
        // With one for all, the pod's process is the first.
        assert_eq!(node.sh(&one, "tr '\\0' ' ' </proc/1/cmdline"), "/pause ");
        for escape in
            ["ls /proc/1/root/usr", "echo >/proc/1/exe", "cat /proc/1/environ", "kill -9 1; ls /proc/1/root/etc"]
        {
            let (out, _, status) = node.exec(&one, escape);
            assert!(out.is_empty() && (status != 0 || escape.contains("environ")), "{escape}: {out}");
        }
        assert_eq!(node.status(&two).state, RUNNING);
        node.remove(&id);
        node.assert_clean();
    });
}
