//! Every refusal has its own code; codes are part of the interface, so new ones go to the end.

use anchor_lang::prelude::*;

#[error_code]
pub enum VotingError {
    #[msg("The name must have 1 to 64 bytes")]
    NameLength,
    #[msg("The description must have at most 256 bytes")]
    DescriptionLength,
    #[msg("Voting periods must satisfy 1 <= min <= max <= 366 days, in seconds")]
    PeriodLimits,
    #[msg("A community must allow 2 to 10 options a question")]
    OptionLimit,
    #[msg("The community is dissolved")]
    Dissolved,
    #[msg("The community still has open questions")]
    QuestionsOpen,
    #[msg("Only the authority of the community may do this")]
    NotAuthority,
    #[msg("The signer's role is too low for this")]
    RoleTooLow,
    #[msg("The signer is not an active member of the community")]
    NotActive,
    #[msg("The target is not an active member of the community")]
    TargetNotActive,
    #[msg("The wallet is an active member already")]
    AlreadyActive,
    #[msg("The wallet's application is pending already")]
    AlreadyPending,
    #[msg("The wallet is invited already")]
    AlreadyInvited,
    #[msg("The community is closed: joining needs an invitation")]
    JoinClosed,
    #[msg("The wallet was removed: coming back needs an invitation")]
    WasRemoved,
    #[msg("There is no pending application")]
    NoApplication,
    #[msg("There is nothing pending")]
    NothingPending,
    #[msg("The wallet is neither a member nor pending")]
    NotAMember,
    #[msg("The authority cannot leave, be removed or change role: transfer the authority first")]
    IsAuthority,
    #[msg("The member has this role already")]
    SameRole,
    #[msg("The wallet has the authority already")]
    SameAuthority,
    #[msg("The text of a question must have 1 to 256 bytes")]
    TextLength,
    #[msg("A question needs at least 2 options, and at most as many as the community allows")]
    OptionCount,
    #[msg("Each option must have 1 to 40 bytes")]
    OptionLength,
    #[msg("Two options are the same")]
    OptionRepeated,
    #[msg("max_selections must be between 1 and the number of options")]
    MaxSelections,
    #[msg("opens_at must be 0 (now) or a time from now to 366 days ahead")]
    OpensAt,
    #[msg("The time between opens_at and closes_at is outside the community's limits")]
    VotingPeriod,
    #[msg("A sealed ballot needs closes_at < reveal_until within 366 days; an open one needs reveal_until = 0")]
    RevealUntil,
    #[msg("The question is not open")]
    QuestionNotOpen,
    #[msg("Voting has not begun")]
    VotingNotBegun,
    #[msg("Voting has ended")]
    VotingEnded,
    #[msg("The question's time is not over")]
    TooEarlyToClose,
    #[msg("The reveal period has not begun")]
    RevealNotBegun,
    #[msg("The reveal period has ended")]
    RevealEnded,
    #[msg("The question takes sealed ballots: commit, then reveal")]
    BallotSealed,
    #[msg("The question takes open ballots: cast a vote")]
    BallotOpen,
    #[msg("The number of selections must be between 1 and max_selections")]
    SelectionCount,
    #[msg("A selection names no option")]
    SelectionUnknown,
    #[msg("Two selections are the same")]
    SelectionRepeated,
    #[msg("Only members who were active before the question was asked may vote on it")]
    NotEligible,
    #[msg("The question does not allow votes to be changed")]
    ChangesNotAllowed,
    #[msg("The ballot is revealed already")]
    AlreadyRevealed,
    #[msg("Selections and salt do not match the commitment")]
    CommitmentMismatch,
    #[msg("The question is not settled: close or cancel it first")]
    NotSettled,
    #[msg("A counter would overflow")]
    Overflow,
}
