//! Images of many layers.

use orlop_images::layout::{Layout, Packing};
use orlop_images::recipes::{self, Files};
use orlop_images::tree::{Rules, Tree};
use orlop_integration::long;

use crate::oracle;
use crate::tool::{Backend, Tool};

/// The files of a tree, and no others, with the right content.
#[track_caller]
fn holds(tree: &Tree, files: &Files, what: &str) {
    let found: Vec<_> = tree.nodes.iter().filter(|(_, node)| node.kind == 'f').collect();
    for (name, body) in files {
        let node = tree.nodes.get(name.as_bytes()).unwrap_or_else(|| panic!("{what}: {name} is missing"));
        let digest = orlop_images::layout::digest(body);
        let hex: String = node.content.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(format!("sha256:{hex}"), digest, "{what}: {name} has other content");
    }
    for (name, _) in &found {
        let name = std::str::from_utf8(name).unwrap();
        assert!(files.contains_key(name), "{what}: {name} should not be there");
    }
    assert_eq!(found.len(), files.len());
}

#[test]
fn whiteouts_opaque_folders_and_replacements_hold_through_hundreds_of_layers() {
    let Some(tool) = Tool::new("layers") else { return };
    let counts: &[u32] = if long() { &[1, 2, 64, 127, 128, 129, 500, 501] } else { &[1, 2, 64, 128, 129, 501] };
    for &count in counts {
        let mut layout = Layout::new(tool.dir.join(format!("layout{count}")));
        let (layers, files) = recipes::many_layers(&layout, count, Packing::ALL[count as usize % 3]);
        let image = layout.image("t", &layers, recipes::shell());
        tool.must(&["pull", &layout.name("t")]);
        let mounted = tool.tree(&image.id, Backend::Mount);
        holds(&mounted, &files, &format!("{count} layers mounted"));
        let written = tool.tree(&image.id, Backend::Directory);
        let differences = mounted.differences(&written, &Rules::default());
        assert!(differences.is_empty(), "{count} layers: {differences:#?}");
    }
    tool.assert_sound();
}

#[test]
fn sixty_four_layers_are_what_umoci_unpacks() {
    let Some(tool) = Tool::new("layers-umoci") else { return };
    let mut layout = Layout::new(tool.dir.join("layout"));
    let (layers, files) = recipes::many_layers(&layout, 64, Packing::Gzip);
    let image = layout.image("t", &layers, recipes::shell());
    tool.must(&["pull", &layout.name("t")]);
    let tree = tool.tree(&image.id, Backend::Mount);
    if let Some(other) = oracle::umoci(&tool, &layout, "t") {
        holds(&other, &files, "umoci");
        let differences = other.differences(&tree, &oracle::as_umoci());
        assert!(differences.is_empty(), "{differences:#?}");
    }
}

#[test]
fn a_layer_that_is_there_twice_counts_twice() {
    let Some(tool) = Tool::new("layers-twice") else { return };
    let mut layout = Layout::new(tool.dir.join("layout"));
    let add = layout.layer(Packing::Gzip, |tar| {
        tar.file("a", "there");
    });
    let remove = layout.layer(Packing::Gzip, |tar| {
        tar.file(".wh.a", "");
    });
    let image = layout.image("t", &[add.clone(), remove.clone(), add, remove.clone()], recipes::shell());
    tool.must(&["pull", &layout.name("t")]);
    for backend in Backend::BOTH {
        assert_eq!(tool.tree(&image.id, backend).listing(), [""; 0]);
    }
}
