use super::community::activate;
use crate::constants::*;
use crate::errors::VotingError;
use crate::events::*;
use crate::rules::*;
use crate::state::*;
use crate::{down, up};
use anchor_lang::prelude::*;

#[derive(Accounts)]
pub struct Join<'info> {
    #[account(mut)]
    pub wallet: Signer<'info>,
    #[account(mut)]
    pub community: Box<Account<'info, Community>>,
    #[account(
        init_if_needed,
        payer = wallet,
        space = 8 + Member::INIT_SPACE,
        seeds = [MEMBER_SEED, community.key().as_ref(), wallet.key().as_ref()],
        bump
    )]
    pub member: Box<Account<'info, Member>>,
    pub system_program: Program<'info, System>,
}

#[derive(Accounts)]
pub struct Invite<'info> {
    #[account(mut)]
    pub actor: Signer<'info>,
    #[account(mut)]
    pub community: Box<Account<'info, Community>>,
    #[account(seeds = [MEMBER_SEED, community.key().as_ref(), actor.key().as_ref()], bump = actor_member.bump)]
    pub actor_member: Box<Account<'info, Member>>,
    /// CHECK: any address may be invited; nothing of it is read or written.
    pub wallet: UncheckedAccount<'info>,
    #[account(
        init_if_needed,
        payer = actor,
        space = 8 + Member::INIT_SPACE,
        seeds = [MEMBER_SEED, community.key().as_ref(), wallet.key().as_ref()],
        bump
    )]
    pub member: Box<Account<'info, Member>>,
    pub system_program: Program<'info, System>,
}

/// One member acts upon the standing of another.
#[derive(Accounts)]
pub struct ManageMember<'info> {
    pub actor: Signer<'info>,
    #[account(mut)]
    pub community: Box<Account<'info, Community>>,
    #[account(seeds = [MEMBER_SEED, community.key().as_ref(), actor.key().as_ref()], bump = actor_member.bump)]
    pub actor_member: Box<Account<'info, Member>>,
    #[account(mut, seeds = [MEMBER_SEED, community.key().as_ref(), member.wallet.as_ref()], bump = member.bump)]
    pub member: Box<Account<'info, Member>>,
}

#[derive(Accounts)]
pub struct Leave<'info> {
    pub wallet: Signer<'info>,
    #[account(mut)]
    pub community: Box<Account<'info, Community>>,
    #[account(mut, seeds = [MEMBER_SEED, community.key().as_ref(), wallet.key().as_ref()], bump = member.bump)]
    pub member: Box<Account<'info, Member>>,
}

macro_rules! emit_member {
    ($event:ident, $community:expr, $member:expr, $actor:expr, $timestamp:expr) => {
        emit!($event {
            community: $community.key(),
            timestamp: $timestamp,
            member: $member.key(),
            wallet: $member.wallet,
            actor: $actor,
            standing: $member.standing,
            counts: $community.counts,
            bump: $member.bump,
        })
    };
}

/// A new account of ours is all zeros; it gets its identity here. True when it was new.
fn initialise(member: &mut Member, community: Pubkey, wallet: Pubkey, bump: u8, timestamp: i64) -> bool {
    if member.wallet != Pubkey::default() || member.community != Pubkey::default() {
        return false;
    }
    *member = Member {
        community,
        wallet,
        standing: Standing {
            role: Role::Member,
            status: MemberStatus::Left,
            invited: false,
            created_at: timestamp,
            active_since: 0,
            activation: 0,
            updated_at: timestamp,
        },
        bump,
    };
    true
}

pub fn join(ctx: Context<Join>) -> Result<()> {
    require_alive(&ctx.accounts.community)?;
    let timestamp = now()?;
    let wallet = ctx.accounts.wallet.key();
    let community = &mut ctx.accounts.community;
    let member = &mut ctx.accounts.member;
    initialise(member, community.key(), wallet, ctx.bumps.member, timestamp);
    match member.standing.status {
        MemberStatus::Active => return err!(VotingError::AlreadyActive),
        MemberStatus::Pending if member.standing.invited => {
            down!(community.counts.pending_members);
            activate(community, &mut member.standing, timestamp)?;
            emit_member!(MemberJoined, community, member, wallet, timestamp);
            return Ok(());
        }
        // An application made before the community was opened does not have to wait any more.
        MemberStatus::Pending => {
            require!(community.settings.join_policy == JoinPolicy::Open, VotingError::AlreadyPending);
            down!(community.counts.pending_members);
        }
        MemberStatus::Removed => return err!(VotingError::WasRemoved),
        MemberStatus::Left => {}
    }
    match community.settings.join_policy {
        JoinPolicy::Open => {
            activate(community, &mut member.standing, timestamp)?;
            emit_member!(MemberJoined, community, member, wallet, timestamp);
        }
        JoinPolicy::Approval => {
            up!(community.counts.pending_members);
            member.standing.role = Role::Member;
            member.standing.status = MemberStatus::Pending;
            member.standing.invited = false;
            member.standing.updated_at = timestamp;
            emit_member!(MemberRequested, community, member, wallet, timestamp);
        }
        JoinPolicy::Closed => return err!(VotingError::JoinClosed),
    }
    Ok(())
}

pub fn invite(ctx: Context<Invite>) -> Result<()> {
    require_alive(&ctx.accounts.community)?;
    require_role(&ctx.accounts.actor_member, Role::Moderator)?;
    let timestamp = now()?;
    let actor = ctx.accounts.actor.key();
    let wallet = ctx.accounts.wallet.key();
    let community = &mut ctx.accounts.community;
    let member = &mut ctx.accounts.member;
    initialise(member, community.key(), wallet, ctx.bumps.member, timestamp);
    match member.standing.status {
        MemberStatus::Active => return err!(VotingError::AlreadyActive),
        MemberStatus::Pending if member.standing.invited => return err!(VotingError::AlreadyInvited),
        MemberStatus::Pending => return err!(VotingError::AlreadyPending),
        MemberStatus::Left | MemberStatus::Removed => up!(community.counts.pending_members),
    }
    member.standing.role = Role::Member;
    member.standing.status = MemberStatus::Pending;
    member.standing.invited = true;
    member.standing.updated_at = timestamp;
    emit_member!(MemberInvited, community, member, actor, timestamp);
    Ok(())
}

pub fn approve(ctx: Context<ManageMember>) -> Result<()> {
    require_alive(&ctx.accounts.community)?;
    require_role(&ctx.accounts.actor_member, Role::Moderator)?;
    let timestamp = now()?;
    let community = &mut ctx.accounts.community;
    let member = &mut ctx.accounts.member;
    require!(
        member.standing.status == MemberStatus::Pending && !member.standing.invited,
        VotingError::NoApplication
    );
    down!(community.counts.pending_members);
    activate(community, &mut member.standing, timestamp)?;
    emit_member!(MemberApproved, community, member, ctx.accounts.actor.key(), timestamp);
    Ok(())
}

pub fn reject(ctx: Context<ManageMember>) -> Result<()> {
    require_alive(&ctx.accounts.community)?;
    require_role(&ctx.accounts.actor_member, Role::Moderator)?;
    let timestamp = now()?;
    let community = &mut ctx.accounts.community;
    let member = &mut ctx.accounts.member;
    require!(member.standing.status == MemberStatus::Pending, VotingError::NothingPending);
    down!(community.counts.pending_members);
    member.standing.status = MemberStatus::Removed;
    member.standing.invited = false;
    member.standing.updated_at = timestamp;
    emit_member!(MemberRejected, community, member, ctx.accounts.actor.key(), timestamp);
    Ok(())
}

pub fn leave(ctx: Context<Leave>) -> Result<()> {
    require_alive(&ctx.accounts.community)?;
    let timestamp = now()?;
    let wallet = ctx.accounts.wallet.key();
    let community = &mut ctx.accounts.community;
    let member = &mut ctx.accounts.member;
    require_keys_neq!(community.authority, wallet, VotingError::IsAuthority);
    match member.standing.status {
        MemberStatus::Active => down!(community.counts.active_members),
        MemberStatus::Pending => down!(community.counts.pending_members),
        MemberStatus::Left | MemberStatus::Removed => return err!(VotingError::NotAMember),
    }
    member.standing.status = MemberStatus::Left;
    member.standing.role = Role::Member;
    member.standing.invited = false;
    member.standing.updated_at = timestamp;
    emit_member!(MemberLeft, community, member, wallet, timestamp);
    Ok(())
}

pub fn remove(ctx: Context<ManageMember>) -> Result<()> {
    require_alive(&ctx.accounts.community)?;
    let actor = ctx.accounts.actor.key();
    require_role(&ctx.accounts.actor_member, Role::Moderator)?;
    let timestamp = now()?;
    let community = &mut ctx.accounts.community;
    let member = &mut ctx.accounts.member;
    require!(member.standing.status == MemberStatus::Active, VotingError::TargetNotActive);
    require_keys_neq!(member.wallet, community.authority, VotingError::IsAuthority);
    require!(
        actor == community.authority || ctx.accounts.actor_member.standing.role > member.standing.role,
        VotingError::RoleTooLow
    );
    down!(community.counts.active_members);
    member.standing.status = MemberStatus::Removed;
    member.standing.role = Role::Member;
    member.standing.updated_at = timestamp;
    emit_member!(MemberRemoved, community, member, actor, timestamp);
    Ok(())
}

pub fn change_role(ctx: Context<ManageMember>, role: Role) -> Result<()> {
    require_alive(&ctx.accounts.community)?;
    let actor = ctx.accounts.actor.key();
    require_role(&ctx.accounts.actor_member, Role::Admin)?;
    let timestamp = now()?;
    let community = &mut ctx.accounts.community;
    let member = &mut ctx.accounts.member;
    require!(member.standing.status == MemberStatus::Active, VotingError::TargetNotActive);
    require_keys_neq!(member.wallet, community.authority, VotingError::IsAuthority);
    require!(member.standing.role != role, VotingError::SameRole);
    let touches_admin = role == Role::Admin || member.standing.role == Role::Admin;
    require!(!touches_admin || actor == community.authority, VotingError::NotAuthority);
    member.standing.role = role;
    member.standing.updated_at = timestamp;
    emit_member!(MemberRoleChanged, community, member, actor, timestamp);
    Ok(())
}
