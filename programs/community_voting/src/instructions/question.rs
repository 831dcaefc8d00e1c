use crate::constants::*;
use crate::errors::VotingError;
use crate::events::*;
use crate::rules::*;
use crate::state::*;
use crate::{down, up};
use anchor_lang::prelude::*;

#[derive(Accounts)]
pub struct CreateQuestion<'info> {
    #[account(mut)]
    pub author: Signer<'info>,
    #[account(mut)]
    pub community: Box<Account<'info, Community>>,
    #[account(seeds = [MEMBER_SEED, community.key().as_ref(), author.key().as_ref()], bump = author_member.bump)]
    pub author_member: Box<Account<'info, Member>>,
    #[account(
        init,
        payer = author,
        space = 8 + Question::INIT_SPACE,
        seeds = [QUESTION_SEED, community.key().as_ref(), &community.counts.questions.to_le_bytes()],
        bump
    )]
    pub question: Box<Account<'info, Question>>,
    pub system_program: Program<'info, System>,
}

#[derive(Accounts)]
pub struct CancelQuestion<'info> {
    pub actor: Signer<'info>,
    #[account(mut)]
    pub community: Box<Account<'info, Community>>,
    #[account(seeds = [MEMBER_SEED, community.key().as_ref(), actor.key().as_ref()], bump = actor_member.bump)]
    pub actor_member: Box<Account<'info, Member>>,
    #[account(mut, has_one = community)]
    pub question: Box<Account<'info, Question>>,
}

#[event_cpi]
#[derive(Accounts)]
pub struct CloseQuestion<'info> {
    pub actor: Signer<'info>,
    #[account(mut)]
    pub community: Box<Account<'info, Community>>,
    #[account(mut, has_one = community)]
    pub question: Box<Account<'info, Question>>,
}

pub fn create(ctx: Context<CreateQuestion>, params: QuestionParams) -> Result<()> {
    require_alive(&ctx.accounts.community)?;
    require_role(&ctx.accounts.author_member, Role::Member)?;
    let timestamp = now()?;
    let community = &mut ctx.accounts.community;
    require!((1..=TEXT_BYTES_MAX as usize).contains(&params.text.len()), VotingError::TextLength);
    check_options(&params.options, community.settings.max_options)?;
    require!(
        (1..=params.options.len()).contains(&(params.max_selections as usize)),
        VotingError::MaxSelections
    );
    let opens_at = check_times(&params, &community.settings, timestamp)?;
    let index = community.counts.questions;
    up!(community.counts.questions);
    up!(community.counts.open_questions);
    let author = ctx.accounts.author.key();
    let address = ctx.accounts.question.key();
    let question = &mut ctx.accounts.question;
    question.set_inner(Question {
        community: community.key(),
        author,
        index,
        tallies: vec![0; params.options.len()],
        text: params.text,
        options: params.options,
        ballot_kind: params.ballot_kind,
        max_selections: params.max_selections,
        allow_changes: params.allow_changes,
        quorum: params.quorum,
        eligibility: params.eligibility,
        activations_before: community.counts.activations,
        opens_at,
        closes_at: params.closes_at,
        reveal_until: params.reveal_until,
        status: QuestionStatus::Open,
        ballots_cast: 0,
        ballots_revealed: 0,
        outcome: Outcome::Undecided,
        winners: Vec::new(),
        created_at: timestamp,
        settled_at: 0,
        bump: ctx.bumps.question,
    });
    emit!(QuestionCreated {
        community: community.key(),
        timestamp,
        question: address,
        author,
        index,
        text: question.text.clone(),
        options: question.options.clone(),
        ballot_kind: question.ballot_kind,
        max_selections: question.max_selections,
        allow_changes: question.allow_changes,
        quorum: question.quorum,
        eligibility: question.eligibility,
        activations_before: question.activations_before,
        opens_at,
        closes_at: question.closes_at,
        reveal_until: question.reveal_until,
        counts: community.counts,
        bump: question.bump,
    });
    Ok(())
}

pub fn cancel(ctx: Context<CancelQuestion>) -> Result<()> {
    require_alive(&ctx.accounts.community)?;
    let timestamp = now()?;
    let actor = ctx.accounts.actor.key();
    let community = &mut ctx.accounts.community;
    let question = &mut ctx.accounts.question;
    let needed = if question.author == actor { Role::Member } else { Role::Moderator };
    require_role(&ctx.accounts.actor_member, needed)?;
    require!(question.status == QuestionStatus::Open, VotingError::QuestionNotOpen);
    // Later the result is known, or can be, and calling it off would be a veto.
    require!(timestamp < question.closes_at, VotingError::VotingEnded);
    question.status = QuestionStatus::Cancelled;
    question.settled_at = timestamp;
    down!(community.counts.open_questions);
    emit!(QuestionCancelled {
        community: community.key(),
        timestamp,
        question: question.key(),
        actor,
        counts: community.counts,
    });
    Ok(())
}

pub fn close(ctx: Context<CloseQuestion>) -> Result<()> {
    let timestamp = now()?;
    let actor = ctx.accounts.actor.key();
    let community = &mut ctx.accounts.community;
    let question = &mut ctx.accounts.question;
    require!(question.status == QuestionStatus::Open, VotingError::QuestionNotOpen);
    let (over_at, ballots) = match question.ballot_kind {
        BallotKind::Open => (question.closes_at, question.ballots_cast),
        BallotKind::Sealed => (question.reveal_until, question.ballots_revealed),
    };
    require!(timestamp >= over_at, VotingError::TooEarlyToClose);
    let (outcome, winners) = outcome(&question.tallies, ballots, question.quorum);
    question.status = QuestionStatus::Closed;
    question.settled_at = timestamp;
    question.outcome = outcome;
    question.winners = winners.clone();
    down!(community.counts.open_questions);
    let event = QuestionClosed {
        community: community.key(),
        timestamp,
        question: question.key(),
        actor,
        outcome,
        winners,
        tallies: question.tallies.clone(),
        ballots_cast: question.ballots_cast,
        ballots_revealed: question.ballots_revealed,
        counts: community.counts,
    };
    emit_cpi!(event);
    Ok(())
}
