use crate::constants::*;
use crate::errors::VotingError;
use crate::events::*;
use crate::rules::*;
use crate::state::*;
use crate::{down, up};
use anchor_lang::prelude::*;

/// The busy path: nothing here writes the community, so that votes on different questions run side by side.
#[derive(Accounts)]
pub struct CastVote<'info> {
    #[account(mut)]
    pub voter: Signer<'info>,
    #[account(
        seeds = [MEMBER_SEED, question.community.as_ref(), voter.key().as_ref()],
        bump = member.bump
    )]
    pub member: Box<Account<'info, Member>>,
    #[account(mut)]
    pub question: Box<Account<'info, Question>>,
    #[account(
        init,
        payer = voter,
        space = 8 + Vote::INIT_SPACE,
        seeds = [VOTE_SEED, question.key().as_ref(), voter.key().as_ref()],
        bump
    )]
    pub vote: Box<Account<'info, Vote>>,
    pub system_program: Program<'info, System>,
}

#[derive(Accounts)]
pub struct ChangeVote<'info> {
    pub voter: Signer<'info>,
    #[account(
        seeds = [MEMBER_SEED, question.community.as_ref(), voter.key().as_ref()],
        bump = member.bump
    )]
    pub member: Box<Account<'info, Member>>,
    #[account(mut)]
    pub question: Box<Account<'info, Question>>,
    #[account(mut, seeds = [VOTE_SEED, question.key().as_ref(), voter.key().as_ref()], bump = vote.bump)]
    pub vote: Box<Account<'info, Vote>>,
}

#[derive(Accounts)]
pub struct WithdrawVote<'info> {
    #[account(mut)]
    pub voter: Signer<'info>,
    #[account(mut)]
    pub question: Box<Account<'info, Question>>,
    #[account(
        mut,
        close = voter,
        seeds = [VOTE_SEED, question.key().as_ref(), voter.key().as_ref()],
        bump = vote.bump
    )]
    pub vote: Box<Account<'info, Vote>>,
}

#[derive(Accounts)]
pub struct RevealVote<'info> {
    pub voter: Signer<'info>,
    #[account(mut)]
    pub question: Box<Account<'info, Question>>,
    #[account(mut, seeds = [VOTE_SEED, question.key().as_ref(), voter.key().as_ref()], bump = vote.bump)]
    pub vote: Box<Account<'info, Vote>>,
}

#[derive(Accounts)]
pub struct ReclaimVote<'info> {
    #[account(mut)]
    pub voter: Signer<'info>,
    pub question: Box<Account<'info, Question>>,
    #[account(
        mut,
        close = voter,
        seeds = [VOTE_SEED, question.key().as_ref(), voter.key().as_ref()],
        bump = vote.bump
    )]
    pub vote: Box<Account<'info, Vote>>,
}

fn require_window(question: &Question, timestamp: i64) -> Result<()> {
    require!(question.status == QuestionStatus::Open, VotingError::QuestionNotOpen);
    require!(timestamp >= question.opens_at, VotingError::VotingNotBegun);
    require!(timestamp < question.closes_at, VotingError::VotingEnded);
    Ok(())
}

fn require_voter(member: &Member, question: &Question) -> Result<()> {
    require!(member.standing.status == MemberStatus::Active, VotingError::NotActive);
    require!(
        question.eligibility == Eligibility::ActiveMembers
            || member.standing.activation <= question.activations_before,
        VotingError::NotEligible
    );
    Ok(())
}

fn require_kind(question: &Question, kind: BallotKind) -> Result<()> {
    match (question.ballot_kind, kind) {
        (BallotKind::Sealed, BallotKind::Open) => err!(VotingError::BallotSealed),
        (BallotKind::Open, BallotKind::Sealed) => err!(VotingError::BallotOpen),
        _ => Ok(()),
    }
}

pub fn cast(ctx: Context<CastVote>, selections: Vec<u8>, anonymous: bool) -> Result<()> {
    let timestamp = now()?;
    let voter = ctx.accounts.voter.key();
    let question = &mut ctx.accounts.question;
    require_kind(question, BallotKind::Open)?;
    require_window(question, timestamp)?;
    require_voter(&ctx.accounts.member, question)?;
    check_selections(&selections, question)?;
    count_in(&mut question.tallies, &selections)?;
    up!(question.ballots_cast);
    let bump = ctx.bumps.vote;
    emit!(VoteCast {
        community: question.community,
        timestamp,
        question: question.key(),
        vote: ctx.accounts.vote.key(),
        voter,
        selections: selections.clone(),
        anonymous,
        tallies: question.tallies.clone(),
        ballots_cast: question.ballots_cast,
        bump,
    });
    ctx.accounts.vote.set_inner(Vote {
        question: question.key(),
        voter,
        selections,
        commitment: None,
        revealed: false,
        anonymous,
        cast_at: timestamp,
        updated_at: timestamp,
        changes: 0,
        bump,
    });
    Ok(())
}

pub fn change(ctx: Context<ChangeVote>, selections: Vec<u8>, anonymous: bool) -> Result<()> {
    let timestamp = now()?;
    let question = &mut ctx.accounts.question;
    let vote = &mut ctx.accounts.vote;
    require_kind(question, BallotKind::Open)?;
    require_window(question, timestamp)?;
    require!(question.allow_changes, VotingError::ChangesNotAllowed);
    require_voter(&ctx.accounts.member, question)?;
    check_selections(&selections, question)?;
    count_out(&mut question.tallies, &vote.selections)?;
    count_in(&mut question.tallies, &selections)?;
    up!(vote.changes);
    let previous = std::mem::replace(&mut vote.selections, selections.clone());
    vote.anonymous = anonymous;
    vote.updated_at = timestamp;
    emit!(VoteChanged {
        community: question.community,
        timestamp,
        question: question.key(),
        vote: vote.key(),
        voter: vote.voter,
        previous,
        selections,
        anonymous,
        changes: vote.changes,
        tallies: question.tallies.clone(),
        ballots_cast: question.ballots_cast,
    });
    Ok(())
}

pub fn withdraw(ctx: Context<WithdrawVote>) -> Result<()> {
    let timestamp = now()?;
    let question = &mut ctx.accounts.question;
    let vote = &ctx.accounts.vote;
    require_window(question, timestamp)?;
    require!(question.allow_changes, VotingError::ChangesNotAllowed);
    count_out(&mut question.tallies, &vote.selections)?;
    down!(question.ballots_cast);
    emit!(VoteWithdrawn {
        community: question.community,
        timestamp,
        question: question.key(),
        vote: vote.key(),
        voter: vote.voter,
        previous: vote.selections.clone(),
        sealed: vote.commitment.is_some(),
        tallies: question.tallies.clone(),
        ballots_cast: question.ballots_cast,
    });
    Ok(())
}

pub fn commit(ctx: Context<CastVote>, commitment: [u8; 32], anonymous: bool) -> Result<()> {
    let timestamp = now()?;
    let voter = ctx.accounts.voter.key();
    let question = &mut ctx.accounts.question;
    require_kind(question, BallotKind::Sealed)?;
    require_window(question, timestamp)?;
    require_voter(&ctx.accounts.member, question)?;
    up!(question.ballots_cast);
    let bump = ctx.bumps.vote;
    emit!(VoteCommitted {
        community: question.community,
        timestamp,
        question: question.key(),
        vote: ctx.accounts.vote.key(),
        voter,
        commitment,
        anonymous,
        ballots_cast: question.ballots_cast,
        bump,
    });
    ctx.accounts.vote.set_inner(Vote {
        question: question.key(),
        voter,
        selections: Vec::new(),
        commitment: Some(commitment),
        revealed: false,
        anonymous,
        cast_at: timestamp,
        updated_at: timestamp,
        changes: 0,
        bump,
    });
    Ok(())
}

pub fn change_commitment(ctx: Context<ChangeVote>, commitment: [u8; 32], anonymous: bool) -> Result<()> {
    let timestamp = now()?;
    let question = &ctx.accounts.question;
    let vote = &mut ctx.accounts.vote;
    require_kind(question, BallotKind::Sealed)?;
    require_window(question, timestamp)?;
    require!(question.allow_changes, VotingError::ChangesNotAllowed);
    require_voter(&ctx.accounts.member, question)?;
    up!(vote.changes);
    vote.commitment = Some(commitment);
    vote.anonymous = anonymous;
    vote.updated_at = timestamp;
    emit!(CommitmentChanged {
        community: question.community,
        timestamp,
        question: question.key(),
        vote: vote.key(),
        voter: vote.voter,
        commitment,
        anonymous,
        changes: vote.changes,
        ballots_cast: question.ballots_cast,
    });
    Ok(())
}

pub fn reveal(ctx: Context<RevealVote>, selections: Vec<u8>, salt: [u8; 32]) -> Result<()> {
    let timestamp = now()?;
    let question = &mut ctx.accounts.question;
    let vote = &mut ctx.accounts.vote;
    require_kind(question, BallotKind::Sealed)?;
    require!(question.status == QuestionStatus::Open, VotingError::QuestionNotOpen);
    require!(timestamp >= question.closes_at, VotingError::RevealNotBegun);
    require!(timestamp < question.reveal_until, VotingError::RevealEnded);
    require!(!vote.revealed, VotingError::AlreadyRevealed);
    check_selections(&selections, question)?;
    let expected = commitment(&selections, &salt, &vote.voter, &question.key());
    require!(vote.commitment == Some(expected), VotingError::CommitmentMismatch);
    count_in(&mut question.tallies, &selections)?;
    up!(question.ballots_revealed);
    vote.selections = selections.clone();
    vote.revealed = true;
    vote.updated_at = timestamp;
    emit!(VoteRevealed {
        community: question.community,
        timestamp,
        question: question.key(),
        vote: vote.key(),
        voter: vote.voter,
        selections,
        salt,
        tallies: question.tallies.clone(),
        ballots_cast: question.ballots_cast,
        ballots_revealed: question.ballots_revealed,
    });
    Ok(())
}

pub fn reclaim(ctx: Context<ReclaimVote>) -> Result<()> {
    let question = &ctx.accounts.question;
    let vote = &ctx.accounts.vote;
    require!(question.status != QuestionStatus::Open, VotingError::NotSettled);
    emit!(VoteReclaimed {
        community: question.community,
        timestamp: now()?,
        question: question.key(),
        vote: vote.key(),
        voter: vote.voter,
    });
    Ok(())
}
