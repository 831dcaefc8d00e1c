//! What happened. Each event begins with the community and the time, and holds the new values and the counters that
//! moved, so that no reader needs an account. The order of fields is part of the interface: new ones go to the end.

use crate::state::*;
use anchor_lang::prelude::*;

/// The founder's membership follows as a `MemberJoined` in the same transaction.
#[event]
pub struct CommunityCreated {
    pub community: Pubkey,
    pub timestamp: i64,
    pub creator: Pubkey,
    pub authority: Pubkey,
    pub id: u64,
    pub settings: CommunitySettings,
    pub counts: CommunityCounts,
    pub bump: u8,
}

#[event]
pub struct CommunityUpdated {
    pub community: Pubkey,
    pub timestamp: i64,
    pub actor: Pubkey,
    pub settings: CommunitySettings,
}

/// Where the new authority was no admin before, a `MemberRoleChanged` follows.
#[event]
pub struct AuthorityTransferred {
    pub community: Pubkey,
    pub timestamp: i64,
    pub previous: Pubkey,
    pub authority: Pubkey,
}

#[event]
pub struct CommunityDissolved {
    pub community: Pubkey,
    pub timestamp: i64,
    pub actor: Pubkey,
}

// The events of membership have one shape: who did it, whose standing, what it is now, and the community's counters.
macro_rules! member_events {
    ($($(#[doc = $doc:literal])* $name:ident),* $(,)?) => {$(
        $(#[doc = $doc])*
        #[event]
        pub struct $name {
            pub community: Pubkey,
            pub timestamp: i64,
            pub member: Pubkey,
            pub wallet: Pubkey,
            pub actor: Pubkey,
            pub standing: Standing,
            pub counts: CommunityCounts,
            pub bump: u8,
        }
    )*};
}

member_events! {
    /// Somebody applied.
    MemberRequested,
    /// Somebody became active without an approval: founder, open community, or accepted invitation.
    MemberJoined,
    MemberInvited,
    MemberApproved,
    /// An application was turned down or an invitation taken back.
    MemberRejected,
    /// An active member left, or a pending wallet took its application back or declined.
    MemberLeft,
    MemberRemoved,
    MemberRoleChanged,
}

#[event]
pub struct QuestionCreated {
    pub community: Pubkey,
    pub timestamp: i64,
    pub question: Pubkey,
    pub author: Pubkey,
    pub index: u32,
    pub text: String,
    pub options: Vec<String>,
    pub ballot_kind: BallotKind,
    pub max_selections: u8,
    pub allow_changes: bool,
    pub quorum: u32,
    pub eligibility: Eligibility,
    pub activations_before: u64,
    pub opens_at: i64,
    pub closes_at: i64,
    pub reveal_until: i64,
    pub counts: CommunityCounts,
    pub bump: u8,
}

#[event]
pub struct QuestionCancelled {
    pub community: Pubkey,
    pub timestamp: i64,
    pub question: Pubkey,
    pub actor: Pubkey,
    pub counts: CommunityCounts,
}

/// Emitted by self-CPI, not by log.
#[event]
pub struct QuestionClosed {
    pub community: Pubkey,
    pub timestamp: i64,
    pub question: Pubkey,
    pub actor: Pubkey,
    pub outcome: Outcome,
    pub winners: Vec<u8>,
    pub tallies: Vec<u32>,
    pub ballots_cast: u32,
    pub ballots_revealed: u32,
    pub counts: CommunityCounts,
}

#[event]
pub struct VoteCast {
    pub community: Pubkey,
    pub timestamp: i64,
    pub question: Pubkey,
    pub vote: Pubkey,
    pub voter: Pubkey,
    pub selections: Vec<u8>,
    pub anonymous: bool,
    pub tallies: Vec<u32>,
    pub ballots_cast: u32,
    pub bump: u8,
}

#[event]
pub struct VoteChanged {
    pub community: Pubkey,
    pub timestamp: i64,
    pub question: Pubkey,
    pub vote: Pubkey,
    pub voter: Pubkey,
    pub previous: Vec<u8>,
    pub selections: Vec<u8>,
    pub anonymous: bool,
    pub changes: u32,
    pub tallies: Vec<u32>,
    pub ballots_cast: u32,
}

/// The account of the vote is gone; `sealed` says that it was a commitment.
#[event]
pub struct VoteWithdrawn {
    pub community: Pubkey,
    pub timestamp: i64,
    pub question: Pubkey,
    pub vote: Pubkey,
    pub voter: Pubkey,
    pub previous: Vec<u8>,
    pub sealed: bool,
    pub tallies: Vec<u32>,
    pub ballots_cast: u32,
}

#[event]
pub struct VoteCommitted {
    pub community: Pubkey,
    pub timestamp: i64,
    pub question: Pubkey,
    pub vote: Pubkey,
    pub voter: Pubkey,
    pub commitment: [u8; 32],
    pub anonymous: bool,
    pub ballots_cast: u32,
    pub bump: u8,
}

#[event]
pub struct CommitmentChanged {
    pub community: Pubkey,
    pub timestamp: i64,
    pub question: Pubkey,
    pub vote: Pubkey,
    pub voter: Pubkey,
    pub commitment: [u8; 32],
    pub anonymous: bool,
    pub changes: u32,
    pub ballots_cast: u32,
}

#[event]
pub struct VoteRevealed {
    pub community: Pubkey,
    pub timestamp: i64,
    pub question: Pubkey,
    pub vote: Pubkey,
    pub voter: Pubkey,
    pub selections: Vec<u8>,
    pub salt: [u8; 32],
    pub tallies: Vec<u32>,
    pub ballots_cast: u32,
    pub ballots_revealed: u32,
}

/// The account of the vote is gone; the vote itself stands in the tallies.
#[event]
pub struct VoteReclaimed {
    pub community: Pubkey,
    pub timestamp: i64,
    pub question: Pubkey,
    pub vote: Pubkey,
    pub voter: Pubkey,
}
