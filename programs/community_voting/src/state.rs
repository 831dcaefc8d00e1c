//! The accounts. All are PDAs of this program:
//! Community `["community", creator, id]`, Member `["member", community, wallet]`,
//! Question `["question", community, index]`, Vote `["vote", question, voter]`; integers little-endian.

use anchor_lang::prelude::*;

#[derive(AnchorSerialize, AnchorDeserialize, Clone, Copy, Debug, PartialEq, Eq, InitSpace)]
pub enum JoinPolicy {
    Open,
    Approval,
    Closed,
}

/// In rising order of power.
#[derive(AnchorSerialize, AnchorDeserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, InitSpace)]
pub enum Role {
    Member,
    Moderator,
    Admin,
}

#[derive(AnchorSerialize, AnchorDeserialize, Clone, Copy, Debug, PartialEq, Eq, InitSpace)]
pub enum MemberStatus {
    Pending,
    Active,
    Left,
    Removed,
}

#[derive(AnchorSerialize, AnchorDeserialize, Clone, Copy, Debug, PartialEq, Eq, InitSpace)]
pub enum BallotKind {
    Open,
    Sealed,
}

#[derive(AnchorSerialize, AnchorDeserialize, Clone, Copy, Debug, PartialEq, Eq, InitSpace)]
pub enum Eligibility {
    /// Whoever is an active member when voting.
    ActiveMembers,
    /// Whoever has been an active member without a break since before the question was asked.
    MembersBefore,
}

#[derive(AnchorSerialize, AnchorDeserialize, Clone, Copy, Debug, PartialEq, Eq, InitSpace)]
pub enum QuestionStatus {
    Open,
    Closed,
    Cancelled,
}

#[derive(AnchorSerialize, AnchorDeserialize, Clone, Copy, Debug, PartialEq, Eq, InitSpace)]
pub enum Outcome {
    Undecided,
    Winner,
    Tie,
    NoQuorum,
}

/// What an admin may change. Periods in seconds.
#[derive(AnchorSerialize, AnchorDeserialize, Clone, Debug, PartialEq, Eq, InitSpace)]
pub struct CommunitySettings {
    #[max_len(64)]
    pub name: String,
    #[max_len(256)]
    pub description: String,
    pub join_policy: JoinPolicy,
    pub voting_period_min: i64,
    pub voting_period_max: i64,
    pub max_options: u8,
}

/// The counters of a community. `activations` never falls: it numbers the moments at which somebody became active.
#[derive(AnchorSerialize, AnchorDeserialize, Clone, Copy, Debug, Default, PartialEq, Eq, InitSpace)]
pub struct CommunityCounts {
    pub active_members: u32,
    pub pending_members: u32,
    pub questions: u32,
    pub open_questions: u32,
    pub activations: u64,
}

#[account]
#[derive(InitSpace)]
pub struct Community {
    pub creator: Pubkey,
    pub authority: Pubkey,
    pub id: u64,
    pub settings: CommunitySettings,
    pub counts: CommunityCounts,
    pub dissolved: bool,
    pub created_at: i64,
    pub updated_at: i64,
    pub bump: u8,
}

/// A wallet's standing in a community.
#[derive(AnchorSerialize, AnchorDeserialize, Clone, Copy, Debug, PartialEq, Eq, InitSpace)]
pub struct Standing {
    pub role: Role,
    pub status: MemberStatus,
    /// With status pending: an invitation rather than an application.
    pub invited: bool,
    /// When the account was made.
    pub created_at: i64,
    /// When the wallet last became active; 0 when it never was.
    pub active_since: i64,
    /// The community's count of activations when the wallet last became active; 0 when it never was.
    pub activation: u64,
    pub updated_at: i64,
}

#[account]
#[derive(InitSpace)]
pub struct Member {
    pub community: Pubkey,
    pub wallet: Pubkey,
    pub standing: Standing,
    pub bump: u8,
}

#[account]
#[derive(InitSpace)]
pub struct Question {
    pub community: Pubkey,
    pub author: Pubkey,
    pub index: u32,
    #[max_len(256)]
    pub text: String,
    #[max_len(10, 40)]
    pub options: Vec<String>,
    pub ballot_kind: BallotKind,
    pub max_selections: u8,
    pub allow_changes: bool,
    /// Ballots (revealed ones, where sealed) that a decision needs; at least one is always needed.
    pub quorum: u32,
    pub eligibility: Eligibility,
    /// The community's count of activations when the question was asked.
    pub activations_before: u64,
    pub opens_at: i64,
    /// Voting ends before this second begins.
    pub closes_at: i64,
    /// Revealing ends before this second begins; 0 for open ballots.
    pub reveal_until: i64,
    pub status: QuestionStatus,
    /// One count an option.
    #[max_len(10)]
    pub tallies: Vec<u32>,
    /// Votes, or commitments, that stand.
    pub ballots_cast: u32,
    /// Commitments that were revealed; 0 for open ballots.
    pub ballots_revealed: u32,
    pub outcome: Outcome,
    #[max_len(10)]
    pub winners: Vec<u8>,
    pub created_at: i64,
    /// When it was closed or cancelled; 0 before.
    pub settled_at: i64,
    pub bump: u8,
}

#[account]
#[derive(InitSpace)]
pub struct Vote {
    pub question: Pubkey,
    pub voter: Pubkey,
    /// Indexes of options in the voter's order; empty while sealed.
    #[max_len(10)]
    pub selections: Vec<u8>,
    /// Of a sealed ballot; stays after the reveal.
    pub commitment: Option<[u8; 32]>,
    pub revealed: bool,
    /// The voter wishes not to be shown beside the selections. The chain itself hides nothing.
    pub anonymous: bool,
    pub cast_at: i64,
    pub updated_at: i64,
    pub changes: u32,
    pub bump: u8,
}

#[derive(AnchorSerialize, AnchorDeserialize, Clone, Debug)]
pub struct QuestionParams {
    pub text: String,
    pub options: Vec<String>,
    pub ballot_kind: BallotKind,
    pub max_selections: u8,
    pub allow_changes: bool,
    pub quorum: u32,
    pub eligibility: Eligibility,
    /// 0 means now.
    pub opens_at: i64,
    pub closes_at: i64,
    /// 0 for open ballots.
    pub reveal_until: i64,
}
