//! What is left on the disk of owners that are gone, as commands see it: `run` and `status` say the same.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::common::processes::Process;
use crate::common::scene::{Ended, Scene, TRIES, WAIT, ended};
use crate::common::{until, until_some};
use crate::remembering::run;

/// So long after it was stopped no host is gone yet: D is 10.75 s, and its last renewal was up to 0.4 s before.
const STILL_COUNTED: Duration = Duration::from_secs(10);

/// A `run` that has seen nothing before.
fn newcomer(scene: &Scene, options: &[&str]) -> Ended {
    ended(run(scene, "none", options, &["true"]))
}

/// As [`newcomer`], until it gets the resource.
fn gets_it(scene: &Scene, options: &[&str]) {
    until("the resource", || {
        let ended = newcomer(scene, options);
        assert!(ended.code == 0 || ended.is_busy() || ended.code == 75, "{ended:?}");
        ended.code == 0
    });
}

fn owner(scene: &Scene) -> (Value, Value) {
    let status = scene.status();
    let db = &status["resources"].as_array().unwrap()[0];
    (db["state"].clone(), db["owner"]["host_id"].clone())
}

/// D is so long that nobody counts it twice.
#[test]
fn scenario_56_whoever_comes_after_a_takeover_and_a_release_gets_the_resource_at_once() {
    let scene = Scene::with(&["db"]);
    let mut holder: Process = scene.hold(&["db"]);
    holder.signal(Signal::KILL);
    holder.wait();
    gets_it(&scene, &["--wait", WAIT]);
    assert_eq!(owner(&scene), ("free".into(), Value::Null));
    // Each of them lives for much less than D.
    for _ in 0..3 {
        let ended = newcomer(&scene, &["--wait", "1s"]);
        assert!(ended.code == 0 || ended.is_busy(), "{ended:?}");
    }
    assert_eq!(owner(&scene), ("free".into(), Value::Null));
}

#[test]
fn scenario_56_what_was_taken_by_force_is_its_former_owners_until_that_one_is_gone() {
    for _ in 0..TRIES {
        let scene = Scene::with(&["db"]);
        let holder = scene.holder(7, "former", &[], "sleep 1000");
        // So it sees nothing of it.
        holder.signal(Signal::STOP);
        let stopped = Instant::now();
        take_by_force(&scene);
        let (owner_then, answer) = (owner(&scene), answer(&scene));
        // It is gone after D, and on a busy machine that may have been while the others were asked.
        if stopped.elapsed() > STILL_COUNTED {
            continue;
        }
        assert_eq!(owner_then, ("exclusive".into(), 7.into()));
        assert!(answer.code == 75 && answer.err.contains("(former)"), "{answer:?}");
        holder.signal(Signal::KILL);
        holder.signal(Signal::CONT);
        gets_it(&scene, &["--wait", WAIT]);
        assert_eq!(owner(&scene), ("free".into(), Value::Null));
        gets_it(&scene, &[]);
        return;
    }
    panic!("the machine is too busy");
}

/// Takes `db` at the version at which it is held, and gives it back.
fn take_by_force(scene: &Scene) {
    until("the taking", || {
        let version = scene.status()["resources"][0]["version"].to_string();
        let ended = newcomer(scene, &["--take-version", &version]);
        assert!(ended.code == 0 || ended.is_busy(), "{ended:?}");
        ended.code == 0
    });
}

/// What a newcomer is told that does not wait.
fn answer(scene: &Scene) -> Ended {
    until_some("an answer", || Some(newcomer(scene, &[])).filter(|ended| !ended.is_busy()))
}
