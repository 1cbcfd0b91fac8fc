//! What the processes of a run can know of their machines: clones, containers that share one machine, and processes of
//! one machine with the local lock between them.

use leasehold::protocol::delta::Identity;
use leasehold::protocol::identity::{Board, Found, Unidentified, boot, machine, named};
use leasehold::protocol::rules::Rule;
use leasehold::{BootId, HostId, MachineId};

use super::env::{Env, name};
use super::random::Random;
use super::storage::{Io, is_of};

/// What one of the hosts is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A machine that is known.
    Machine,
    /// One of several processes of a machine that is known: they hold different host ids.
    Process,
    /// One of several machines made from one image. Its board differs from theirs, and can't be read.
    Clone,
    /// A container with a network of its own, from an image that others have, too. All containers are on one machine.
    Container(Boot),
    /// A machine that runs sanlock. It has a host id of its own, which no other host is configured with.
    Sanlock,
    /// A container that was told an identity which no other host has. Its processes share a local lock.
    Named(Boot),
}

/// What a process sees where the boot id stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Boot {
    /// That of the kernel.
    Kernels,
    /// One that each process of a container finds new.
    Fresh,
    /// Nothing.
    Hidden,
}

impl Kind {
    /// As many hosts, most of them of one kind.
    pub(super) fn draw(hosts: usize, random: &mut Random) -> Vec<Kind> {
        let any = |random: &mut Random| {
            let boot = [Boot::Kernels, Boot::Fresh, Boot::Hidden][random.below(3) as usize];
            let kinds = [Kind::Machine, Kind::Process, Kind::Clone, Kind::Container(boot), Kind::Named(boot)];
            kinds[random.below(5) as usize]
        };
        // Those that would be taken for one machine if their kernel alone were asked.
        let alike = random.chance(300);
        let most = if alike { Kind::Container(Boot::Kernels) } else { any(random) };
        (0..hosts).map(|_| if random.chance(800) { most } else { any(random) }).collect()
    }

    const fn boot(self) -> Boot {
        match self {
            Kind::Machine | Kind::Process | Kind::Clone | Kind::Sanlock => Boot::Kernels,
            Kind::Container(boot) | Kind::Named(boot) => boot,
        }
    }

    const fn is_container(self) -> bool {
        matches!(self, Kind::Container(_) | Kind::Named(_))
    }
}

/// The inodes of a machine's first namespaces, and of another one.
const FIRST: [u64; 3] = [0xefff_fffc, 0xefff_fffd, 0xefff_fff9];
const ANOTHER: u64 = 0xf000_0001;
/// The machine that has several processes.
const OF_PROCESSES: u64 = 1_000;
/// What copies of one image have.
const IMAGE: &str = "3d1219c7c4c5404aaa1f6d2a48adfda4";
const PROC: &str = "22 27 0:21 / /proc rw - proc proc rw";
const BOOT_ID: &str = "40 22 0:33 /boot_id /proc/sys/kernel/random/boot_id ro - tmpfs tmpfs rw";

impl Env {
    pub(super) fn kind(&self, host: usize) -> Kind {
        self.options.kinds.get(host).copied().unwrap_or(Kind::Machine)
    }

    /// The hosts that lose their power with `host`: those on its machine.
    pub(super) fn on_machine_of(&self, host: usize) -> Vec<usize> {
        let kind = self.kind(host);
        let same = |other: Kind| match kind {
            Kind::Process => other == Kind::Process,
            _ => kind.is_container() && other.is_container(),
        };
        let others = (0..self.options.kinds.len()).filter(|other| *other == host || same(self.kind(*other)));
        if host < self.options.kinds.len() { others.collect() } else { vec![host] }
    }

    /// How many hosts run sanlock.
    pub(super) fn sanlock_hosts(&self) -> usize {
        self.options.kinds.iter().filter(|kind| **kind == Kind::Sanlock).count()
    }

    /// The host id of a host that runs sanlock: one beyond those that others choose from.
    pub(super) fn sanlock_id(&self, host: usize) -> Option<HostId> {
        let before = self.options.kinds.iter().take(host).filter(|kind| **kind == Kind::Sanlock).count();
        if self.kind(host) == Kind::Sanlock { HostId::new(self.ids() + 1 + before as u64) } else { None }
    }

    /// Takes the local lock of a host id for the process that begins on `host`. It keeps it until it is gone and its
    /// writes are over. Whether no other process of the machine has it.
    pub(super) fn lock(&mut self, host: usize, id: HostId) -> bool {
        let has = |other: usize| {
            let machine = &self.machines[other];
            let locked = machine.locked.is_some_and(|(locked, _)| locked == id);
            let runs = machine.locked.is_some_and(|(_, epoch)| epoch == machine.epoch);
            locked && (runs || self.storage.writing(other, |_, _| true))
        };
        let shared = self.kind(host) == Kind::Process && Rule::LocalLock.is_in_force();
        if shared && self.on_machine_of(host).into_iter().any(|other| other != host && has(other)) {
            return false;
        }
        let machine = &mut self.machines[host];
        machine.locked = Some((id, machine.epoch));
        true
    }

    /// Whether a process on `host` may vouch for all who held a host id: no other machine runs as it any more, or has a
    /// write in flight by the right of it.
    pub(super) fn may_vouch(&self, host: usize, id: HostId) -> bool {
        let acts = |other: usize| {
            let machine = &self.machines[other];
            machine.locked == Some((id, machine.epoch)) && self.check.held(other, id)
        };
        let writes = |io: &Io| io.host != host && !io.tag.strays() && io.action.written().any(|at| is_of(id, at));
        let others = (0..self.machines.len()).filter(|other| *other != host);
        !others.into_iter().any(acts) && !self.storage.ios.values().any(writes)
    }

    /// Who a process is that begins on `host`.
    pub(super) fn identity(&mut self, host: usize) -> Identity {
        let (machine, boot) = match self.kind(host) {
            Kind::Machine => (MachineId::new(host as u64 + 1), BootId::new(self.machines[host].boot)),
            Kind::Process => (MachineId::new(OF_PROCESSES), BootId::new(self.machines[host].boot)),
            kind => self.looks(host, kind),
        };
        Identity { name: name(b"host"), machine, boot, session: self.random.next() as u32 }
    }

    /// What a process finds, by the function that judges it in production.
    fn looks(&self, host: usize, kind: Kind) -> (Option<MachineId>, Option<BootId>) {
        let it = &self.machines[host];
        let [pid, user, network] = FIRST;
        let kernel = if kind.is_container() { 0 } else { host + 1 };
        let (boot_id, mounts) = match kind.boot() {
            Boot::Kernels => (Some(format!("{kernel}-{}", it.boot)), PROC.to_owned()),
            Boot::Fresh => (Some(format!("{kernel}-{}-{host}-{}", it.boot, it.epoch)), format!("{PROC}\n{BOOT_ID}")),
            Boot::Hidden => (None, PROC.to_owned()),
        };
        let found = Found {
            machine_id: Some(IMAGE.into()),
            board: if kind == Kind::Clone { Board::Unreadable } else { Board::Missing },
            pid_namespace: Some(if kind.is_container() { ANOTHER } else { pid }),
            user_namespace: Some(user),
            network_namespace: Some(if kind.is_container() { ANOTHER + host as u64 } else { network }),
            first_network_namespace: None,
            time_namespace: None,
            boot_id,
            mounts: Some(mounts),
        };
        let known: Result<MachineId, Unidentified> = match kind {
            Kind::Named(_) => named(&format!("host {host}")),
            _ => machine(&found),
        };
        (known.ok(), boot(&found))
    }
}
