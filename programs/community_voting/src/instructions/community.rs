use crate::constants::*;
use crate::errors::VotingError;
use crate::events::*;
use crate::rules::*;
use crate::state::*;
use crate::up;
use anchor_lang::prelude::*;

#[derive(Accounts)]
#[instruction(id: u64)]
pub struct CreateCommunity<'info> {
    #[account(mut)]
    pub creator: Signer<'info>,
    #[account(
        init,
        payer = creator,
        space = 8 + Community::INIT_SPACE,
        seeds = [COMMUNITY_SEED, creator.key().as_ref(), &id.to_le_bytes()],
        bump
    )]
    pub community: Box<Account<'info, Community>>,
    #[account(
        init,
        payer = creator,
        space = 8 + Member::INIT_SPACE,
        seeds = [MEMBER_SEED, community.key().as_ref(), creator.key().as_ref()],
        bump
    )]
    pub member: Box<Account<'info, Member>>,
    pub system_program: Program<'info, System>,
}

#[derive(Accounts)]
pub struct UpdateCommunity<'info> {
    pub actor: Signer<'info>,
    #[account(mut)]
    pub community: Box<Account<'info, Community>>,
    #[account(seeds = [MEMBER_SEED, community.key().as_ref(), actor.key().as_ref()], bump = actor_member.bump)]
    pub actor_member: Box<Account<'info, Member>>,
}

#[derive(Accounts)]
pub struct TransferAuthority<'info> {
    pub authority: Signer<'info>,
    #[account(mut, has_one = authority @ VotingError::NotAuthority)]
    pub community: Box<Account<'info, Community>>,
    #[account(
        mut,
        seeds = [MEMBER_SEED, community.key().as_ref(), new_member.wallet.as_ref()],
        bump = new_member.bump
    )]
    pub new_member: Box<Account<'info, Member>>,
}

#[derive(Accounts)]
pub struct DissolveCommunity<'info> {
    pub authority: Signer<'info>,
    #[account(mut, has_one = authority @ VotingError::NotAuthority)]
    pub community: Box<Account<'info, Community>>,
}

pub fn create(ctx: Context<CreateCommunity>, id: u64, settings: CommunitySettings) -> Result<()> {
    check_settings(&settings)?;
    let timestamp = now()?;
    let creator = ctx.accounts.creator.key();
    let address = ctx.accounts.community.key();
    let community = &mut ctx.accounts.community;
    community.set_inner(Community {
        creator,
        authority: creator,
        id,
        settings: settings.clone(),
        counts: CommunityCounts { active_members: 1, activations: 1, ..Default::default() },
        dissolved: false,
        created_at: timestamp,
        updated_at: timestamp,
        bump: ctx.bumps.community,
    });
    let standing = Standing {
        role: Role::Admin,
        status: MemberStatus::Active,
        invited: false,
        created_at: timestamp,
        active_since: timestamp,
        activation: 1,
        updated_at: timestamp,
    };
    let member = ctx.accounts.member.key();
    ctx.accounts.member.set_inner(Member { community: address, wallet: creator, standing, bump: ctx.bumps.member });
    emit!(CommunityCreated {
        community: address,
        timestamp,
        creator,
        authority: creator,
        id,
        settings,
        counts: community.counts,
        bump: community.bump,
    });
    emit!(MemberJoined {
        community: address,
        timestamp,
        member,
        wallet: creator,
        actor: creator,
        standing,
        counts: community.counts,
        bump: ctx.bumps.member,
    });
    Ok(())
}

pub fn update(ctx: Context<UpdateCommunity>, settings: CommunitySettings) -> Result<()> {
    require_alive(&ctx.accounts.community)?;
    require_role(&ctx.accounts.actor_member, Role::Admin)?;
    check_settings(&settings)?;
    let timestamp = now()?;
    let community = &mut ctx.accounts.community;
    community.settings = settings.clone();
    community.updated_at = timestamp;
    emit!(CommunityUpdated { community: community.key(), timestamp, actor: ctx.accounts.actor.key(), settings });
    Ok(())
}

pub fn transfer_authority(ctx: Context<TransferAuthority>) -> Result<()> {
    require_alive(&ctx.accounts.community)?;
    let timestamp = now()?;
    let previous = ctx.accounts.authority.key();
    let member_key = ctx.accounts.new_member.key();
    let community = &mut ctx.accounts.community;
    let member = &mut ctx.accounts.new_member;
    require_keys_neq!(member.wallet, previous, VotingError::SameAuthority);
    require!(member.standing.status == MemberStatus::Active, VotingError::TargetNotActive);
    community.authority = member.wallet;
    community.updated_at = timestamp;
    emit!(AuthorityTransferred { community: community.key(), timestamp, previous, authority: member.wallet });
    if member.standing.role != Role::Admin {
        member.standing.role = Role::Admin;
        member.standing.updated_at = timestamp;
        emit!(MemberRoleChanged {
            community: community.key(),
            timestamp,
            member: member_key,
            wallet: member.wallet,
            actor: previous,
            standing: member.standing,
            counts: community.counts,
            bump: member.bump,
        });
    }
    Ok(())
}

pub fn dissolve(ctx: Context<DissolveCommunity>) -> Result<()> {
    require_alive(&ctx.accounts.community)?;
    let timestamp = now()?;
    let community = &mut ctx.accounts.community;
    require!(community.counts.open_questions == 0, VotingError::QuestionsOpen);
    community.dissolved = true;
    community.updated_at = timestamp;
    emit!(CommunityDissolved { community: community.key(), timestamp, actor: community.authority });
    Ok(())
}

/// A wallet becomes active: counters, the ordinal of its activation, and its standing.
pub fn activate(community: &mut Community, standing: &mut Standing, timestamp: i64) -> Result<()> {
    up!(community.counts.active_members);
    up!(community.counts.activations);
    standing.status = MemberStatus::Active;
    standing.role = Role::Member;
    standing.invited = false;
    standing.active_since = timestamp;
    standing.activation = community.counts.activations;
    standing.updated_at = timestamp;
    Ok(())
}
