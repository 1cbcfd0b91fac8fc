//! What `format` must not destroy, as the command says it.

use std::fs;

use crate::common::devices::{Mounted, file, run, text};
use crate::common::scene::Scene;

#[test]
fn format_says_what_it_would_destroy() {
    let scene = Scene::formatted(crate::common::memory::steady());
    scene.file("image", 64 << 20);
    run("mkfs.ext4", &["-q", "-L", "data", text(&scene.path("image"))]);
    let before = fs::read(scene.path("image")).unwrap();
    scene.run(&["format", "image"]).expect(73, &["not blank", "a file system, ext4 (data)", "--force overwrites it"]);
    // Whoever looks at it is not told to format it.
    let looked = scene.run(&["status", "image"]).expect(65, &["holds no lockspace", "a file system, ext4 (data)"]);
    assert!(!looked.err.contains("leasehold format"), "{}", looked.err);
    assert!(fs::read(scene.path("image")).unwrap() == before);
    scene.file("blank", 64 << 20);
    scene.run(&["status", "blank"]).expect(65, &["to make it one, if it is the right device: leasehold format blank"]);
    scene.run(&["format", "disk"]).expect(73, &["already holds the lockspace"]);
    scene.run(&["format", "image", "--force"]).expect(0, &[]);
    scene.run(&["status", "image"]).expect(0, &[]);
    let missing = scene.run(&["status", "/dev/no/such/device"]).expect(74, &["is its volume active"]);
    assert!(!missing.err.contains("truncate"), "{}", missing.err);
}

#[test]
fn format_refuses_what_is_mounted_with_force_too() {
    let (folder, image) = file(64 << 20);
    let mounted = Mounted::new(folder.path(), &image, &[]);
    let scene = Scene::empty();
    for force in [&[][..], &["--force"]] {
        scene.run(&[&["format", text(&mounted.device.0)], force].concat()).expect(73, &["in use on this machine"]);
    }
}
