//! The rules that keep the protocol safe and live, by name.
//!
//! The mutants' build (`--cfg leasehold_mutants`) can put one of them out of force, to see that the simulator then
//! finds a violation. In every other build a rule is the word `true`. It is no feature of the crate: cargo builds a
//! crate once for all that depend on it, with the features that any of them asks for, and none of those may weaken the
//! others.
//!
//! Two of them the system below keeps, and not this code: to switch `LocalLock` or `BootTime` off changes the
//! environment that the simulator makes up. The engine has its local lock and its clock in force always.

macro_rules! rules {
    ($($(#[doc = $text:literal])+ $rule:ident,)+) => {
        /// A rule of the protocol, or one that its caller answers for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $($(#[doc = $text])+ $rule,)+
        }

        impl Rule {
            /// Every rule.
            pub const ALL: &[Rule] = &[$(Rule::$rule,)+];

            /// What the rule says.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Rule::$rule => concat!($($text,)+).trim_ascii(),)+
                }
            }
        }
    };
}

rules! {
    // Ballots.
    /// Phase 1 in the instance of the own block keeps what the block accepted.
    AcceptedValueStays,
    /// Phase 1 in the instance of the own block keeps its released flag.
    ReleaseStays,
    /// Phase 2 proposes what was accepted with the largest ballot.
    LargestAcceptedWins,
    /// A ballot number exceeds all that were seen.
    NumberExceedsAllSeen,
    /// A block of a later instance ends the ballot.
    LaterInstanceEndsBallot,

    // Resources.
    /// While a write of the own block or the leader is in flight, no other is submitted to that sector.
    OneWriteInFlight,
    /// Of several disks, what was submitted last counts though those that were read don't show it.
    SubmittedCounts,
    /// Blocks are read of all ids that a scan younger than a join shows in use.
    CoverageIsFresh,
    /// A damaged block is not an empty one.
    DamagedIsNotEmpty,
    /// A damaged block is in the way while its host may live, when a ballot is planned and as long as it goes on.
    DamagedIsJudged,
    /// The instance that a damaged block may have decided is not used.
    BurnSkipsInstance,
    /// A version that a live host's own block claims is respected, whatever the leader says.
    ClaimsCount,
    /// After phase 1 it is judged again who may hold an earlier version.
    JudgedAfterPhaseOne,
    /// A version that its owner gave up is not held, though a ballot yields it.
    GivenUpIsNotHeld,
    /// The instance is not below that of any block.
    InstanceFromBlocks,
    /// From the submission of phase 2 on an operation ends only when the outcome is taken back or held.
    OutcomeStaysOpen,
    /// "Released" is said when the released flag is durable.
    ReleaseIsDurable,
    /// What an owner's own block says it gave up is free, whatever the leader says.
    ReleasedFlagFrees,

    // Values, requests and events.
    /// A resource is given up or shared when no write of its value is in flight.
    ValueIsSettled,
    /// A request for a version that is not larger than what is held says nothing.
    RequestIsLater,
    /// An event for another generation of the host is not told.
    EventIsForUs,

    // Shared holds.
    /// Who wants a resource alone is refused while somebody shares it.
    SharersCount,
    /// The write that sets the flag of a shared hold gives the version up, too.
    FlagGivesVersionUp,
    /// A flag counts when no owner of a later version can have looked before it.
    FlagIsChecked,
    /// A hold that is shared stays so until it has become exclusive.
    UpgradeKeepsFlag,

    // Forced handover.
    /// A takeover from a version happens only from that one.
    VersionIsExpected,
    /// A live owner that was overridden is waited for by whoever comes after the one that did it.
    EarlierClaimsCount,
    /// A leader says that earlier claims were judged only where its ballot passed over nobody who was live.
    JudgedIsProven,
    /// Claims that were judged are not judged again.
    JudgedClaimsAreOver,
    /// A leader that says so counts only beside a block of its writer that came as far.
    JudgedIsShown,
    /// A sanlock host is not overridden: it would not notice.
    SanlockIsNotForced,
    /// A version that a late leader shows is not held when it was overridden before.
    HeldIsNotTaken,
    /// What can be taken by force is held until F after the start of the last look that showed that it was not.
    LookedAtInTime,
    /// An owner looks whether it was overridden.
    OwnerVerifies,
    /// An owner sees by the blocks, too, that it was overridden.
    FencedByBlocks,
    /// A leader that is lost is rebuilt only when nobody who may be active claims any version.
    RebuildIsJudged,
    /// A leader that is lost is rebuilt far above every version that is seen: its own may have been shown by
    /// nothing else.
    RebuildSkipsVersions,

    // Looking at what is held.
    /// A look at what is held alone that shows another leader than the last good one shows nothing of who has
    /// joined since the last scan of all ids.
    NewcomersAreUnseen,
    /// What is held is lost when the own block is readable and is not the one that this host wrote.
    OwnBlockIsLookedAt,
    /// A look that doesn't show the leader at the version that is held alone is no good one.
    LowerLeaderIsNoGoodLook,
    /// What is read while an own operation is begun says nothing of what is held.
    OwnWorkIsNoLook,
    /// An operation on what is held ends when the own block does not say any more that it is, and is not written
    /// again.
    HoldIsNotMadeUp,
    /// What is held is lost when another host owns the resource that did not see that it is.
    RivalEndsHold,

    // Handover.
    /// A host that runs a ballot to hand a version over says in it that it still holds that.
    AskingHolds,
    /// A host has no right to what it hands over from the submission of its proposal on.
    ProposalCedes,
    /// Nobody is made owner who does not ask for that version.
    DestinationAsks,
    /// Who no longer waits to be handed a version gives it up in advance.
    WithdrawnInAdvance,
    /// Who waits to be handed a resource acquires it in no other way.
    OnlyWhatIsHandedOver,

    // Catalog.
    /// An area in which a resource was made is not cleared.
    MadeIsNotCleared,
    /// Nothing is made in an area while a generation that began to make something there may have a write in flight.
    MakingIsRespected,
    /// What is being made is marked before anything else is written for it.
    MakingIsMarked,

    // Host ids.
    /// A join waits 2T before it checks what it wrote.
    JoinWaits,
    /// A join holds only what the check still shows.
    JoinIsChecked,
    /// A join's write that took longer than T does not count.
    JoinWriteIsPrompt,
    /// An id that was not released is taken again only by the machine that held it.
    SameMachineTakes,
    /// Two processes whose machine can't be known are not of one machine.
    UnknownIsNobody,
    /// A machine that only a part of its identity is known of has none.
    BoardIsKnown,
    /// A process that may share no local lock with the others of its machine has no identity.
    LocksAreShared,
    /// A boot that can't be known is not another one.
    UnknownBootIsNoReboot,
    /// A boot id that is not the kernel's own says nothing of the machine.
    BootIsTheMachines,
    /// A machine takes its id again without waiting for D only when it was rebooted since.
    FastOnlyAfterReboot,
    /// The deadline is counted from the start of the confirmed write.
    DeadlineFromStart,
    /// Nothing is written when the deadline has passed.
    DeadlineBeforeWrite,
    /// A renewal that is confirmed after the deadline revives nothing.
    LostIsLatched,
    /// An own record that this holder did not write is the loss of the id.
    OwnRecordIsVerified,
    /// An id is released only when every write of its holder is over.
    WritesEndBeforeRelease,
    /// A process takes over a machine's id when every write of the one before it is over.
    LocalLock,
    /// A process goes on with the generation of the one before it only before that one's deadline.
    ResumeInTime,
    /// A renewal whose confirmation the holder may not have known of gives its successor no time.
    UnconfirmedGivesNothing,
    /// Time is counted by a clock that goes on in suspend.
    BootTime,

    /// An id that is free by somebody's word is taken only by a caller that vouches for all who held it.
    DeclaredIdIsNamed,
    /// An id that is free by somebody's word is taken only when its record has not changed for D.
    DeclaredIsWatched,
    /// A holding that follows a record which may have landed late has a generation beyond all that were there.
    GenerationsJump,
    /// A record that is mended as free says that it is so by somebody's word.
    MendedIsDeclared,
    /// A declaration is made only of the generation that it names.
    DeclarationNamesGeneration,
    /// A record that is free by somebody's word ends the generation that it shows, and none before it.
    DeclarationEndsOne,
    /// A generation whose record was never renewed is counted, though it is free by somebody's word: a join that
    /// failed may have landed over a holder of the same generation.
    FailedJoinIsCounted,
    /// A host whose record is free by somebody's word is counted where its generation is not known.
    DeclaredHostIsCounted,

    // The device.
    /// What was written in another formatting of the device is neither valid nor empty.
    NonceIsChecked,
    /// A membership ends when a scan of all ids shows that another lockspace stands on the device.
    LockspaceStands,
    /// A write that its procedure justifies up to a moment is submitted before that, or not at all.
    WriteIsInTime,
    /// A lockspace is formatted over only when none of its records has changed for D, but for those of free ids.
    FormatWatches,
    /// Who formats over a lockspace reads the records of all ids, also of those that were never used.
    FormatReadsAllIds,
    /// Where a record was not overwritten within 2T, whoever may have held its id is waited for.
    FormatIsPrompt,
    /// Who has overwritten the records waits until the joins that read them before are over.
    FormatSettles,
    /// A lockspace is there when nobody has written to its records since they were overwritten.
    FormatIsChecked,
    /// The generations of a host id go on when the device is formatted again.
    GenerationsGoOn,
    /// The versions go on when the device is formatted again.
    VersionsGoOn,
    /// The versions go on far above every one that is seen where a leader or a block is lost that may have shown
    /// more.
    LostIsPassedOver,
    /// A format writes the version where it is to stand before it writes over anything that may show it.
    VersionIsNoted,
    /// A block that nobody has used says of which formatting it is.
    BlankHasNonce,
    /// What a format writes of the blocks says after which version, should the leader be lost.
    BlankHasVersion,
    /// A format writes at most a quarter of the host records at once: should that land late, the others outnumber
    /// them.
    PiecesAreSmall,
    /// A lockspace is complete when one of its first two records says so: the first one may be a late write.
    TwoRecordsCommit,
    /// A record of another formatting does not show that its id is free.
    StrangerIsNotFree,

    // Liveness.
    /// A generation newer than its record as last read is live.
    NewerIsLive,
    /// A newer generation ends only the one that it says it superseded.
    SupersededByName,
    /// A host is counted with its own timeouts.
    PeersOwnTimeouts,
    /// D is stretched by what clocks may differ in rate.
    SpansAreStretched,
    /// A timestamp of another host is not compared with the local clock.
    NoRemoteTime,
    /// Dead needs a read that started after D.
    ConfirmedByLaterRead,
    /// Dead needs a read that also showed the observer's own latest record.
    ConfirmedByMirror,
    /// Dead needs a read that, by the observer's own record in it, is no older than F.
    MirrorIsRecent,
    /// What an earlier process has seen counts only for the record that it saw.
    SightingIsOfSameRecord,
    /// What an earlier process has seen counts only in the boot in which it saw that.
    SightingIsOfThisBoot,
}

impl Rule {
    /// Whether the rule is in force: always, but in the mutants' build.
    #[cfg(not(leasehold_mutants))]
    #[inline]
    pub const fn is_in_force(self) -> bool {
        true
    }
}

#[cfg(leasehold_mutants)]
mod switch {
    use std::cell::Cell;

    use super::Rule;

    thread_local! {
        /// The rule that is out of force.
        static OFF: Cell<Option<Rule>> = const { Cell::new(None) };
    }

    impl Rule {
        /// Puts one rule out of force in this thread, or all of them in force again.
        pub fn switch_off(rule: Option<Rule>) {
            OFF.set(rule);
        }

        /// Whether the rule is in force in this thread.
        pub fn is_in_force(self) -> bool {
            OFF.get() != Some(self)
        }
    }
}
