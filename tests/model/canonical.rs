//! States reduced to what can still matter: two that differ only in what no machine ever acts on are one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug, Formatter};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use leasehold::Time;
use leasehold::protocol::resource::{Effect, Operation};

/// A part of a state that most steps don't touch: shared by the states that have it, and hashed once.
#[derive(Clone)]
pub(crate) struct Part<T> {
    value: Arc<T>,
    digest: u64,
}

impl<T: Hash + Clone> Part<T> {
    pub(crate) fn new(value: T) -> Part<T> {
        let digest = digest(&value);
        Part { value: Arc::new(value), digest }
    }

    pub(crate) fn change<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        let value = Arc::make_mut(&mut self.value);
        let result = change(value);
        self.digest = digest(value);
        result
    }
}

impl<T> Deref for Part<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Hash for Part<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.digest);
    }
}

impl<T> PartialEq for Part<T> {
    fn eq(&self, other: &Part<T>) -> bool {
        self.digest == other.digest
    }
}

impl<T: Debug> Debug for Part<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

fn digest(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Of the lockspace: no counter gets that far.
pub(crate) const NONCE: u32 = 0xfeed_0001;

/// The round of an effect that is to be carried out.
pub(crate) fn round(effect: &Effect) -> u32 {
    match effect {
        Effect::Read(round)
        | Effect::WriteBlock(round, _)
        | Effect::WriteLeader(round, _)
        | Effect::Scan(round)
        | Effect::Settle(round)
        | Effect::Wait(round, _) => *round,
        Effect::Done(_) => unreachable!("an operation that is over is not kept"),
    }
}

/// Hashes an operation and the effect that it waits for, without the number of the round (it only tells late answers
/// from awaited ones, and there are none here), without the number of aborts and until when to wait (time is not in the
/// model).
pub(crate) fn hash_operation<H: Hasher>(operation: &Operation, effect: &Effect, state: &mut H) {
    let mut recorder = Recorder::default();
    operation.hash(&mut recorder);
    match effect {
        Effect::WriteBlock(_, block) => block.hash(state),
        Effect::WriteLeader(_, leader) => leader.hash(state),
        _ => {}
    }
    std::mem::discriminant(effect).hash(state);
    recorder.words.retain(|(_, number)| *number != NONCE);
    // The last four are `round`, `stood_back`, `short_looks` and `aborts`.
    let [.., (round_at, found), _, _, (aborts_at, _)] = recorder.words[..] else {
        unreachable!("an operation has four counters");
    };
    assert_eq!(found, round(effect), "the fields of `Operation` are no longer in the order that this relies on");
    for at in [round_at, aborts_at] {
        recorder.bytes[at..at + 4].fill(0);
    }
    state.write(&recorder.bytes);
}

/// Keeps what is hashed, and where 32-bit numbers are in it.
#[derive(Default)]
struct Recorder {
    bytes: Vec<u8>,
    words: Vec<(usize, u32)>,
}

impl Hasher for Recorder {
    fn write(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn write_u32(&mut self, number: u32) {
        self.words.push((self.bytes.len(), number));
        self.write(&number.to_ne_bytes());
    }

    fn finish(&self) -> u64 {
        unreachable!("it only records")
    }
}

/// How many numbers after its nonce a delta record has what was left of F.
const LEFT: usize = 10;

/// The numbers that a state hashes, in order.
#[derive(Default)]
pub(crate) struct Tokens(Vec<Token>);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Token {
    Word(u64),
    Half(u32),
    Rest(u64),
}

impl Tokens {
    /// Replaces each time from `start` on by its distance from `now`, which counts up to `horizon`; and in each delta
    /// record, known by `nonce`, the timestamp by whether it is zero, the beginning of its write by its place among
    /// those of the same session, and what was left of F, by which nobody goes here, by nothing.
    pub(crate) fn normalise(&mut self, start: Time, now: Time, horizon: Duration, nonce: u32) {
        let horizon = i64::try_from(horizon.as_nanos()).unwrap();
        let mut timestamp = 0;
        let mut writes: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        let mut places = Vec::new();
        for at in 0..self.0.len() {
            match self.0[at..] {
                // After the timestamp of a record and before its nonce there is no such number.
                [Token::Word(number), ..] if number < start.as_nanos() / 2 => timestamp = at,
                [Token::Word(number), ..] => {
                    let distance = number.cast_signed() - now.as_nanos().cast_signed();
                    self.0[at] = Token::Word(distance.clamp(-horizon, horizon).cast_unsigned());
                }
                // A boot that is known is a number after the mark that it is.
                [Token::Half(first), Token::Half(session), Token::Rest(_), Token::Half(_), Token::Half(begun), ..]
                    if first == nonce =>
                {
                    let Token::Word(seconds) = self.0[timestamp] else { unreachable!("it is where it was found") };
                    self.0[timestamp] = Token::Word(u64::from(seconds != 0));
                    writes.entry(session).or_default().insert(begun);
                    places.push((at + 4, session, begun));
                    assert!(matches!(self.0[at + LEFT], Token::Rest(_)), "the fields of a delta record have moved");
                    self.0[at + LEFT] = Token::Rest(0);
                }
                _ => {}
            }
        }
        for (at, session, begun) in places {
            let place = writes[&session].range(..begun).count();
            self.0[at] = Token::Half(u32::try_from(place).unwrap());
        }
    }
}

impl Hash for Tokens {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl Hasher for Tokens {
    fn write(&mut self, bytes: &[u8]) {
        self.0.push(Token::Rest(digest(&bytes)));
    }

    fn write_u32(&mut self, number: u32) {
        self.0.push(Token::Half(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.0.push(Token::Word(number));
    }

    fn finish(&self) -> u64 {
        unreachable!("it only records")
    }
}
