//! Which process this is.

/// A process, by its number. A child made by `fork` without `exec` has copies of all that its parent has in memory, and
/// shares its open files with their locks; but none of its threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    pub(crate) fn this() -> Process {
        Process(std::process::id())
    }

    /// One that is not this.
    #[cfg(test)]
    pub(crate) const fn another() -> Process {
        Process(0)
    }

    /// Whether what runs here was forked from that process: it has a copy of something that is the other's. Costs one
    /// system call that never waits.
    pub(crate) fn is_parent(self) -> bool {
        self != Process::this()
    }
}
