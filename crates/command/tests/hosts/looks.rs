//! An area that is wiped under a `run`.

use std::process::Command;

use crate::common::devices::{disk, file, open, run, text, with_resources};
use crate::common::processes::{Mark, Process, is_busy};
use crate::common::scene::played;
use crate::common::{timeouts, until};

/// As whoever takes the device for another one.
#[test]
fn scenario_51_a_command_whose_resource_is_wiped_is_ended_and_says_why() {
    played(|| {
        let (folder, device) = file(8 << 20);
        with_resources(disk(&device), timeouts([200, 500, 40_000, 5_000, 45_000]), &["vm"]);
        let offset = open(&device).find("vm").unwrap().offset();
        let (mark, began) = (Mark::new(), folder.path().join("began"));
        let script = format!("touch {}; exec sleep 1000", text(&began));
        let mut command = Command::new(env!("CARGO_BIN_EXE_leasehold"));
        command.args(["run", "--device", text(&device), "vm", "--", "sh", "-c", &script]);
        let mut process = Process::start(&mut command, &mark);
        until("a command that runs", || began.exists() || process.ended().is_some());
        if !began.exists() {
            assert!(is_busy(&process.complained()), "{}", process.complained());
            return None;
        }
        let (to, seek) = (format!("of={}", text(&device)), format!("seek={}", offset >> 20));
        run("dd", &["if=/dev/zero", &to, "bs=1M", "count=1", &seek, "conv=notrunc,fsync", "status=none"]);
        assert_eq!(process.code(), 69, "{}", process.complained());
        let why = process.complained();
        assert!(why.contains("its block in the resource's area was erased"), "{why}");
        Some(())
    });
}
