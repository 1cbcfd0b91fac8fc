//! Which hosts are live, judged only from changes that this observer itself saw in their delta records.
//!
//! Invariants:
//! - A remote timestamp is never compared with a local clock. A change is life; nothing else is.
//! - "Dead" needs D of the *observed* host's own timeouts, stretched for clock rates, from the end of the read that
//!   first showed the present value, and a read started after that which still shows it.
//! - Such a confirming read counts only if it also showed the observer's own latest record: else it may have come from
//!   a stale copy of the disk. It may be as old as that record: until then the observed host must have failed, after F.
//! - "Over" and "dead" are facts about one generation: nothing of it is active from then on, whatever its record shows
//!   later (a lost holder's last write may still change it, and count as life here). "Active" may be out of date.
//! - A record that is free by somebody's word is the end of the generation that it shows, if that has renewed it, and
//!   says nothing of any other: its write may have landed late, over the record of a later one.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::Duration;

use super::declare::declared_by;
use super::delta::may_have_failed;
use super::rules::Rule;
use super::sightings::Sightings;
use super::{Seen, Span};
use crate::format::DeltaRecord;
use crate::timeouts::{Timeouts, stretched};
use crate::types::{Generation, HostId, Owner, Time};

/// What is known of one generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Its record shows it, or a later one, released; or that it was declared dead after it had renewed; or was taken
    /// by a generation that proved it over.
    Over,
    /// It showed no change for D.
    Dead,
    /// It may be active.
    Active {
        /// When it will count as dead if it shows no further change; `None` when its record was not read yet.
        dead_at: Option<Time>,
    },
}

impl Verdict {
    /// Whether nothing of that generation can be active any more.
    pub const fn is_gone(self) -> bool {
        matches!(self, Verdict::Over | Verdict::Dead)
    }
}

/// The state of a host id, as people are shown it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostState {
    /// Nobody holds the id.
    Free,
    /// Not watched for long enough, or its record is damaged.
    Unknown,
    /// Its record changed within F.
    Live,
    /// Its record did change, but not for F: the holder has lost its leases or is about to.
    Failing,
    /// Its record did not change for D.
    Dead,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct View {
    value: Seen<DeltaRecord>,
    /// End of the read that first showed `value`, to this process or one before it.
    first_seen: Time,
    /// By the latest reads that showed `value` together with the observer's own latest record.
    confirmed: Option<Confirmation>,
    /// Whether `value` replaced another one before our eyes.
    changed: bool,
    /// End of the read that first showed the generation of `value`; reads since then showed no other.
    generation_since: Time,
    /// By the latest confirming reads, whatever value they showed.
    mirrored: Option<Confirmation>,
}

/// How far confirming reads reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Confirmation {
    /// Start of the latest one.
    started: Time,
    /// What they showed was on disk then, or later.
    content: Time,
}

impl Confirmation {
    fn later(self, other: Option<Confirmation>) -> Confirmation {
        other.map_or(self, |other| Confirmation {
            started: self.started.max(other.started),
            content: self.content.max(other.content),
        })
    }
}

/// What counts of a host's timeouts.
#[derive(Clone, Copy, Debug)]
struct Spans {
    fail: Duration,
    dead: Duration,
}

impl From<Timeouts> for Spans {
    fn from(timeouts: Timeouts) -> Spans {
        Spans { fail: timeouts.fail(), dead: timeouts.dead() }
    }
}

impl Spans {
    fn longest(self, other: Spans) -> Spans {
        Spans { fail: self.fail.max(other.fail), dead: self.dead.max(other.dead) }
    }
}

/// A generation that somebody asked about and that is newer than the one its record shows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Missing {
    generation: Generation,
    asked: Time,
    /// End of the first read, started after the question, that didn't show it.
    since: Option<Time>,
}

/// Watches the delta records of a lockspace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Observer {
    timeouts: Timeouts,
    views: BTreeMap<HostId, View>,
    missing: BTreeMap<HostId, Missing>,
    /// Of earlier processes.
    sightings: Sightings,
}

impl Observer {
    /// An observer that has seen nothing. `timeouts` are the lockspace's, for records that carry none of their own.
    pub fn new(timeouts: Timeouts) -> Observer {
        let sightings = Sightings::default();
        Observer { timeouts, views: BTreeMap::new(), missing: BTreeMap::new(), sightings }
    }

    /// Counts on from what earlier processes have seen, of records that it has not read itself yet.
    pub fn recall(&mut self, sightings: Sightings) {
        self.sightings = sightings;
    }

    /// Takes in one read of `host`'s sector. `content`: what it shows is no older than that; `None` when the same I/O
    /// did not show the observer's own latest record, so that it may be of any age.
    pub fn observe(&mut self, host: HostId, span: Span, content: Option<Time>, value: Seen<DeltaRecord>) {
        if let Some(missing) = self.missing.get_mut(&host) {
            let shown = value.good().is_some_and(|record| record.generation >= missing.generation.get());
            if shown {
                self.missing.remove(&host);
            } else if missing.since.is_none() && span.started >= missing.asked {
                missing.since = Some(span.ended);
            }
        }
        let content = if Rule::ConfirmedByMirror.is_in_force() { content } else { Some(span.started) };
        let confirmed = content.map(|content| Confirmation { started: span.started, content });
        let Some(view) = self.views.get_mut(&host) else {
            let before = value.good().and_then(|record| self.sightings.since(host, record, span.ended));
            let view = View {
                value,
                first_seen: before.unwrap_or(span.ended),
                confirmed,
                changed: false,
                generation_since: span.ended,
                mirrored: confirmed,
            };
            self.views.insert(host, view);
            return;
        };
        view.mirrored = confirmed.map(|confirmed| confirmed.later(view.mirrored)).or(view.mirrored);
        if view.value == value {
            view.confirmed = confirmed.map(|confirmed| confirmed.later(view.confirmed)).or(view.confirmed);
            return;
        }
        let generation = |value: &Seen<DeltaRecord>| value.good().map(|record| record.generation);
        if generation(&view.value) != generation(&value) {
            view.generation_since = span.ended;
        }
        // Damage is no sign of life, but it does restart the count.
        view.changed = matches!(value, Seen::Good(_)) && matches!(view.value, Seen::Good(_));
        view.value = value;
        view.first_seen = span.ended;
        view.confirmed = confirmed;
    }

    /// Judges one generation at `now`. Asking about a generation that is newer than the record shows starts a count
    /// for it: its record may have been read before it joined.
    pub fn judge(&mut self, owner: Owner, now: Time) -> Verdict {
        let largest = self.longest();
        let Some(view) = self.views.get(&owner.host) else {
            return Verdict::Active { dead_at: None };
        };
        let asked = owner.generation.get();
        let Some(record) = view.value.good() else {
            return counted(view.first_seen, view.confirmed, largest);
        };
        let spans = self.spans_of(record);
        // Somebody's word is for one generation. One before it may live: a join that failed may have landed over it.
        let ends_all = declared_by(record).is_none() || !Rule::DeclarationEndsOne.is_in_force();
        if record.generation == asked && is_over(record) || record.generation > asked && record.is_free() && ends_all {
            return Verdict::Over;
        }
        if !Rule::NoRemoteTime.is_in_force() && now.as_timestamp() > record.timestamp + spans.dead.as_secs() {
            return Verdict::Dead;
        }
        if record.generation == asked {
            if !Rule::ConfirmedByLaterRead.is_in_force() && now >= view.first_seen + stretched(spans.dead) {
                return Verdict::Dead;
            }
            // Whoever was hit may be slower.
            let spans = if declared_by(record).is_some() { largest } else { spans };
            return counted(view.first_seen, view.confirmed, spans);
        }
        if record.generation > asked {
            if superseded(record) == Some(asked) || !Rule::SupersededByName.is_in_force() {
                return Verdict::Over;
            }
            return counted(view.generation_since, view.mirrored, largest);
        }
        if !Rule::NewerIsLive.is_in_force() {
            return Verdict::Over;
        }
        let (mirrored, other_since) = (view.mirrored, view.generation_since);
        let missing = self
            .missing
            .entry(owner.host)
            .and_modify(|missing| {
                if missing.generation < owner.generation {
                    *missing = Missing { generation: owner.generation, asked: now, since: None };
                }
            })
            .or_insert(Missing { generation: owner.generation, asked: now, since: None });
        match missing.since {
            Some(since) => counted(since.max(other_since), mirrored, largest),
            None => Verdict::Active { dead_at: None },
        }
    }

    /// Whether no write of that generation is in flight any more: its record shows it released, or shows a later one.
    /// An id that was not released is taken again only by its own machine, when every write of its holder is over.
    pub fn has_ended(&self, owner: Owner) -> bool {
        let record = self.record(owner.host).and_then(Seen::good);
        record.is_some_and(|record| match record.generation.cmp(&owner.generation.get()) {
            Ordering::Less => false,
            Ordering::Equal => is_over(record),
            // A join that failed may have landed over that generation, though it has a larger one.
            Ordering::Greater => superseded(record) == Some(owner.generation.get()) || !is_counted(record),
        })
    }

    /// Judges whatever generation holds `host` now: of a host whose block can't be read.
    pub fn judge_host(&self, host: HostId) -> Verdict {
        let Some(view) = self.views.get(&host) else {
            return Verdict::Active { dead_at: None };
        };
        match view.value.good() {
            // A word may have landed late, over the record of whoever holds the id.
            Some(record) if declared_by(record).is_some() && Rule::DeclaredHostIsCounted.is_in_force() => {
                counted(view.first_seen, view.confirmed, self.longest())
            }
            Some(record) if record.is_free() => Verdict::Over,
            Some(record) => counted(view.first_seen, view.confirmed, self.spans_of(record)),
            None => counted(view.first_seen, view.confirmed, self.longest()),
        }
    }

    /// Until when `host` may act by a lease that was taken from it by force before `now`: it looks at the lease within
    /// F, or has lost it, and what the lease protects stops within G.
    pub fn acts_until(&self, host: HostId, now: Time) -> Time {
        let own = self.timeouts;
        let timeouts = self.record(host).and_then(Seen::good).map_or(own, |record| record.timeouts(own.io()));
        now + stretched(timeouts.fail() + timeouts.fence())
    }

    /// The state of `host` at `now`, for people.
    pub fn state(&self, host: HostId, now: Time) -> HostState {
        let Some((view, record)) = self.views.get(&host).and_then(|view| Some((view, view.value.good()?))) else {
            return HostState::Unknown;
        };
        if record.is_free() {
            return HostState::Free;
        }
        if self.judge_host(host).is_gone() {
            return HostState::Dead;
        }
        let fail = record.timeouts(self.timeouts.io()).fail();
        match view.changed {
            true if now < view.first_seen + fail => HostState::Live,
            true => HostState::Failing,
            false => HostState::Unknown,
        }
    }

    /// End of the read that first showed what `host`'s sector shows, to this process or one before it.
    pub fn first_seen(&self, host: HostId) -> Option<Time> {
        self.views.get(&host).map(|view| view.first_seen)
    }

    /// Whether that was a sign of life: one valid record that replaced another before our eyes.
    pub fn has_changed(&self, host: HostId) -> bool {
        self.views.get(&host).is_some_and(|view| view.changed)
    }

    /// What `host`'s sector showed last.
    pub fn record(&self, host: HostId) -> Option<&Seen<DeltaRecord>> {
        self.views.get(&host).map(|view| &view.value)
    }

    /// The longest that any host in the lockspace takes from one renewal to the end of the next: R + T.
    pub fn longest_renewal(&self) -> Duration {
        let renewal = |timeouts: Timeouts| timeouts.renewal() + timeouts.io();
        self.records()
            .map(|record| renewal(record.timeouts(self.timeouts.io())))
            .fold(renewal(self.timeouts), Duration::max)
    }

    fn records(&self) -> impl Iterator<Item = &DeltaRecord> {
        self.views.values().filter_map(|view| view.value.good())
    }

    /// Every host that was observed.
    pub fn hosts(&self) -> impl Iterator<Item = HostId> + '_ {
        self.views.keys().copied()
    }

    /// F and D of the holder of `record`, as it says.
    fn spans_of(&self, record: &DeltaRecord) -> Spans {
        let own = Spans::from(self.timeouts);
        match Rule::PeersOwnTimeouts.is_in_force() {
            true => own.longest(record.timeouts(self.timeouts.io()).into()),
            false => own,
        }
    }

    /// The longest D of any host in the lockspace.
    pub fn longest_dead(&self) -> Duration {
        self.longest().dead
    }

    /// The longest F and D in the lockspace: for a record that can't say its own.
    fn longest(&self) -> Spans {
        let spans = self.records().map(|record| Spans::from(record.timeouts(self.timeouts.io())));
        spans.fold(self.timeouts.into(), Spans::longest)
    }
}

/// The generation that the record's holder proved to be over when it took the id.
fn superseded(record: &DeltaRecord) -> Option<u64> {
    let distance = u64::from(record.extension.as_ref()?.superseded);
    if distance == 0 { None } else { record.generation.checked_sub(distance) }
}

/// Whether `record` shows that its generation is over: released, or by somebody's word. A holder that a failed join has
/// landed over may have the same generation by chance: the word is not for that.
fn is_over(record: &DeltaRecord) -> bool {
    record.is_free() && !is_counted(record)
}

/// Whether a failed join may have left `record`: of a holder that it has landed over it shows no end.
fn is_counted(record: &DeltaRecord) -> bool {
    may_have_failed(record) && Rule::FailedJoinIsCounted.is_in_force()
}

fn counted(since: Time, confirmed: Option<Confirmation>, Spans { fail, dead }: Spans) -> Verdict {
    let count = |span| since + if Rule::SpansAreStretched.is_in_force() { stretched(span) } else { span };
    let dead_at = count(dead);
    let recent = |content| content >= count(fail) || !Rule::MirrorIsRecent.is_in_force();
    match confirmed {
        Some(Confirmation { started, content }) if started >= dead_at && recent(content) => Verdict::Dead,
        _ => Verdict::Active { dead_at: Some(dead_at) },
    }
}
