//! Communities whose members ask questions and vote on them.
//!
//! Every account is a PDA and every change is an event that carries the new values and the counters that moved with
//! them, so that a reader of events alone can rebuild each account. A vote's `anonymous` flag is a wish about display
//! only: the chain is public. Secrecy until closing is what sealed ballots (commit, then reveal) are for.

use anchor_lang::prelude::*;

pub mod constants;
pub mod errors;
pub mod events;
pub mod instructions;
pub mod rules;
pub mod state;

pub use constants::*;
pub use errors::VotingError;
pub use instructions::*;
pub use state::*;

declare_id!("AVWXtuXakrRApQUAdmzpdx3Z1J9QYTVWKWz7HNFYGhYq");

#[program]
pub mod community_voting {
    use super::*;

    /// Found a community; the signer becomes its authority and its first active admin.
    pub fn create_community(ctx: Context<CreateCommunity>, id: u64, settings: CommunitySettings) -> Result<()> {
        instructions::community::create(ctx, id, settings)
    }

    /// Replace the settings of a community (admins).
    pub fn update_community(ctx: Context<UpdateCommunity>, settings: CommunitySettings) -> Result<()> {
        instructions::community::update(ctx, settings)
    }

    /// Hand the authority to another active member, who becomes an admin (the authority).
    pub fn transfer_authority(ctx: Context<TransferAuthority>) -> Result<()> {
        instructions::community::transfer_authority(ctx)
    }

    /// End a community that has no open question, for good (the authority).
    pub fn dissolve_community(ctx: Context<DissolveCommunity>) -> Result<()> {
        instructions::community::dissolve(ctx)
    }

    /// Join an open community, apply to one with approval, or accept an invitation.
    pub fn join(ctx: Context<Join>) -> Result<()> {
        instructions::member::join(ctx)
    }

    /// Invite a wallet; it becomes a member when it joins (moderators).
    pub fn invite(ctx: Context<Invite>) -> Result<()> {
        instructions::member::invite(ctx)
    }

    /// Accept an application (moderators).
    pub fn approve(ctx: Context<ManageMember>) -> Result<()> {
        instructions::member::approve(ctx)
    }

    /// Turn an application down, or take an invitation back (moderators).
    pub fn reject(ctx: Context<ManageMember>) -> Result<()> {
        instructions::member::reject(ctx)
    }

    /// Leave, take an application back, or decline an invitation.
    pub fn leave(ctx: Context<Leave>) -> Result<()> {
        instructions::member::leave(ctx)
    }

    /// Put an active member out; only an invitation brings the wallet back (someone of a higher role).
    pub fn remove(ctx: Context<ManageMember>) -> Result<()> {
        instructions::member::remove(ctx)
    }

    /// Give an active member another role (admins; the role of admin is the authority's to give and to take).
    pub fn change_role(ctx: Context<ManageMember>, role: Role) -> Result<()> {
        instructions::member::change_role(ctx, role)
    }

    /// Ask a question (active members).
    pub fn create_question(ctx: Context<CreateQuestion>, params: QuestionParams) -> Result<()> {
        instructions::question::create(ctx, params)
    }

    /// Call a question off before voting ends (its author, moderators).
    pub fn cancel_question(ctx: Context<CancelQuestion>) -> Result<()> {
        instructions::question::cancel(ctx)
    }

    /// Settle a question whose time is over (anyone).
    pub fn close_question(ctx: Context<CloseQuestion>) -> Result<()> {
        instructions::question::close(ctx)
    }

    /// Vote on an open-ballot question.
    pub fn cast_vote(ctx: Context<CastVote>, selections: Vec<u8>, anonymous: bool) -> Result<()> {
        instructions::vote::cast(ctx, selections, anonymous)
    }

    /// Replace the selections of a vote, where the question allows it.
    pub fn change_vote(ctx: Context<ChangeVote>, selections: Vec<u8>, anonymous: bool) -> Result<()> {
        instructions::vote::change(ctx, selections, anonymous)
    }

    /// Take a vote or a commitment back, where the question allows changes; its rent returns to the voter.
    pub fn withdraw_vote(ctx: Context<WithdrawVote>) -> Result<()> {
        instructions::vote::withdraw(ctx)
    }

    /// Commit to a sealed ballot: sha256(selections, salt, voter, question).
    pub fn commit_vote(ctx: Context<CastVote>, commitment: [u8; 32], anonymous: bool) -> Result<()> {
        instructions::vote::commit(ctx, commitment, anonymous)
    }

    /// Replace a commitment, where the question allows it.
    pub fn change_commitment(ctx: Context<ChangeVote>, commitment: [u8; 32], anonymous: bool) -> Result<()> {
        instructions::vote::change_commitment(ctx, commitment, anonymous)
    }

    /// Open a sealed ballot after voting has ended and before the reveal time is over.
    pub fn reveal_vote(ctx: Context<RevealVote>, selections: Vec<u8>, salt: [u8; 32]) -> Result<()> {
        instructions::vote::reveal(ctx, selections, salt)
    }

    /// Close the account of a vote whose question is settled; its rent returns to the voter.
    pub fn reclaim_vote(ctx: Context<ReclaimVote>) -> Result<()> {
        instructions::vote::reclaim(ctx)
    }
}
