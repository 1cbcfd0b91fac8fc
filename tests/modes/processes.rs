pub(crate) fn work(task: &[&str]) {
    panic!("no such task: {task:?}")
}
