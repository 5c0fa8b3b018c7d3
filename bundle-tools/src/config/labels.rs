//! `annotations`: the image's facts and labels, and the caller's.
//!
//! An annotation can have power over the host: runtimes, engines and shims read some of them as orders (a systemd
//! property, criu's configuration, a filter, a handler, a group of containers). An image is not to give orders, so its
//! labels pass through a list of names that are known to be descriptions; the caller can let further ones through, but
//! no name with power. What the caller gives as an annotation is the caller's own, and passes whatever it is.

use std::collections::BTreeMap;

use crate::config::Options;
use crate::error::{Error, Result};
use crate::image::ImageConfig;

/// Labels that describe. A name ending in `.` stands for all that begin with it.
pub const DESCRIPTIONS: [&str; 14] = [
    "org.opencontainers.image.",
    "org.label-schema.",
    "maintainer",
    "name",
    "title",
    "summary",
    "description",
    "vendor",
    "version",
    "release",
    "license",
    "licenses",
    "url",
    "architecture",
];

/// Annotations that a runtime, an engine or a shim acts on. Neither a label of an image nor `--label` makes one of
/// these. A name ending in `.`, `/` or `-` stands for all that begin with it.
pub const POWERFUL: [&str; 20] = [
    // runc: written into its state; read as the path of the bundle.
    "bundle",
    // runc, crun: properties of the scope's unit (CVE-2024-3154), criu's configuration file.
    "org.systemd.",
    "org.criu.",
    // crun and its handlers.
    "run.oci.",
    "krun.",
    "module.wasm.",
    // Shims and the services above them (CVE-2026-53488).
    "io.containerd.",
    "containerd.io/",
    "io.kubernetes.",
    "kubernetes.io/",
    "io.cri-o.",
    "cri-o.",
    "io.podman.",
    "io.container.",
    "com.docker.",
    "com.github.containers.",
    "nerdctl/",
    "io.katacontainers.",
    "dev.gvisor.",
    "org.opencontainers.runtime.",
];

fn covers(list: &[&str], name: &str) -> bool {
    list.iter().any(|entry| match entry.ends_with(['.', '/', '-']) {
        true => name.starts_with(entry),
        false => name == *entry,
    })
}

/// True for a name that something may act on. Case is not looked at, and `x.kubernetes.io/` has power as
/// `kubernetes.io/` has.
pub fn is_powerful(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let domain = name.split('/').next().unwrap_or_default();
    let within = |zone: &str| name.contains('/') && (domain == zone || domain.ends_with(&format!(".{zone}")));
    covers(&POWERFUL, &name) || ["kubernetes.io", "k8s.io", "containerd.io", "cri-o.io"].into_iter().any(within)
}

/// True for a label of an image that becomes an annotation, with what the caller `allowed` besides.
fn passes(name: &str, allowed: &[String]) -> bool {
    let named = allowed.iter().any(|rule| match rule.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == rule,
    });
    !is_powerful(name) && (named || covers(&DESCRIPTIONS, name))
}

/// The annotations, and the names of the image's labels that are none.
pub(super) fn annotations(
    image: &ImageConfig,
    options: &Options,
    stop_signal: &str,
) -> Result<(BTreeMap<String, String>, Vec<String>)> {
    let platform = &image.platform;
    let ports = image.config.exposed_ports.keys().cloned().collect::<Vec<_>>().join(",");
    // Conversion rules of the image specification: what is not set is not there.
    let facts = [
        ("os", platform.os.as_str()),
        ("architecture", &platform.architecture),
        ("variant", &platform.variant),
        ("os.version", &platform.os_version),
        ("os.features", &platform.os_features.join(",")),
        ("author", &image.author),
        ("created", image.created.as_deref().unwrap_or_default()),
        ("stopSignal", stop_signal),
        ("exposedPorts", &ports),
    ];
    let facts = facts.into_iter().filter(|(_, value)| !value.is_empty());
    let mut all: BTreeMap<_, _> =
        facts.map(|(name, value)| (format!("org.opencontainers.image.{name}"), value.to_owned())).collect();
    let mut left = Vec::new();
    for (name, value) in &image.config.labels {
        if passes(name, &options.allow_label) {
            all.insert(name.clone(), value.clone());
        } else {
            left.push(name.clone());
        }
    }
    // Explicitly given, it is stronger than a label.
    if options.stop_signal.is_some() {
        all.insert("org.opencontainers.image.stopSignal".to_owned(), stop_signal.to_owned());
    }
    for label in &options.label {
        if is_powerful(&label.name) {
            let name = &label.name;
            return Err(Error::invalid(format!("--label {name}: runtimes act on it; if that is meant: --annotation")));
        }
        all.insert(label.name.clone(), label.value.clone());
    }
    for annotation in &options.annotation {
        all.insert(annotation.name.clone(), annotation.value.clone());
    }
    Ok((all, left))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::options;

    #[test]
    fn a_label_passes_if_it_describes_or_was_allowed_and_never_with_power() {
        for (name, flags, meant) in [
            ("org.opencontainers.image.title", "", true),
            ("org.label-schema.name", "", true),
            ("maintainer", "", true),
            ("com.example.team", "", false),
            ("com.example.team", "--allow-label com.example.team", true),
            ("com.example.team", "--allow-label com.example.*", true),
            ("com.example.team", "--allow-label com.example", false),
            ("com.example.team", "--allow-label *", true),
            ("run.oci.handler", "--allow-label *", false),
            ("run.oci.hooks.stdout", "--allow-label run.oci.hooks.stdout", false),
            ("Run.OCI.handler", "--allow-label *", false),
            ("org.systemd.property.ExecStopPost", "--allow-label *", false),
            ("org.criu.config", "--allow-label *", false),
            ("io.containerd.runc.v2.group", "--allow-label *", false),
            ("io.kubernetes.cri.sandbox-id", "--allow-label *", false),
            ("container.apparmor.security.beta.kubernetes.io/x", "--allow-label *", false),
            ("containerd.io/runtime-allow-mounts", "--allow-label *", false),
            ("com.docker.compose.project", "--allow-label *", false),
            ("module.wasm.image/variant", "--allow-label *", false),
            ("krun.cpus", "--allow-label *", false),
            ("bundle", "--allow-label *", false),
            ("bundles", "--allow-label *", true),
        ] {
            assert_eq!(passes(name, &options(flags).allow_label), meant, "{name} {flags}");
        }
    }

    #[test]
    fn the_images_facts_give_way_to_labels_and_those_to_the_caller() {
        let mut image = ImageConfig { author: "a".to_owned(), ..ImageConfig::default() };
        image.platform.os = "linux".to_owned();
        image.platform.os_features = vec!["x".to_owned(), "y".to_owned()];
        image.config.exposed_ports = ["80/tcp", "53/udp"].map(|p| (p.to_owned(), serde_json::json!({}))).into();
        let labels = [("org.opencontainers.image.author", "b"), ("run.oci.handler", "krun"), ("version", "1")];
        image.config.labels = labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let given = options("--label version=2 --annotation run.oci.handler=mine");
        let (made, left) = annotations(&image, &given, "SIGQUIT").unwrap();
        let text: Vec<_> = made.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            text,
            [
                "org.opencontainers.image.author=b",
                "org.opencontainers.image.exposedPorts=53/udp,80/tcp",
                "org.opencontainers.image.os=linux",
                "org.opencontainers.image.os.features=x,y",
                "org.opencontainers.image.stopSignal=SIGQUIT",
                "run.oci.handler=mine",
                "version=2",
            ]
        );
        assert_eq!(left, ["run.oci.handler"]);
        assert!(annotations(&image, &options("--label org.criu.config=/x"), "").is_err());
    }
}
