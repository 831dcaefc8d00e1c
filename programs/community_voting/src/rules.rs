//! Rules without accounts: bounds, distinctness, counters, outcomes. All pure.

use crate::constants::*;
use crate::errors::VotingError;
use crate::state::*;
use anchor_lang::prelude::*;

/// `$counter += 1`, refusing to wrap.
#[macro_export]
macro_rules! up {
    ($counter:expr) => {
        $counter = $counter.checked_add(1).ok_or($crate::errors::VotingError::Overflow)?
    };
}

/// `$counter -= 1`, refusing to wrap.
#[macro_export]
macro_rules! down {
    ($counter:expr) => {
        $counter = $counter.checked_sub(1).ok_or($crate::errors::VotingError::Overflow)?
    };
}

pub fn check_settings(settings: &CommunitySettings) -> Result<()> {
    require!((1..=NAME_BYTES_MAX as usize).contains(&settings.name.len()), VotingError::NameLength);
    require!(settings.description.len() <= DESCRIPTION_BYTES_MAX as usize, VotingError::DescriptionLength);
    require!(
        1 <= settings.voting_period_min
            && settings.voting_period_min <= settings.voting_period_max
            && settings.voting_period_max <= PERIOD_SECONDS_MAX,
        VotingError::PeriodLimits
    );
    require!((OPTIONS_MIN..=OPTIONS_MAX).contains(&settings.max_options), VotingError::OptionLimit);
    Ok(())
}

pub fn check_options(options: &[String], max_options: u8) -> Result<()> {
    require!(
        (OPTIONS_MIN as usize..=max_options as usize).contains(&options.len()),
        VotingError::OptionCount
    );
    for (at, option) in options.iter().enumerate() {
        require!((1..=OPTION_BYTES_MAX as usize).contains(&option.len()), VotingError::OptionLength);
        require!(!options[..at].contains(option), VotingError::OptionRepeated);
    }
    Ok(())
}

/// Checks the schedule and gives the time of opening.
pub fn check_times(params: &QuestionParams, settings: &CommunitySettings, now: i64) -> Result<i64> {
    let horizon = now.checked_add(PERIOD_SECONDS_MAX).ok_or(VotingError::Overflow)?;
    let opens_at = if params.opens_at == 0 { now } else { params.opens_at };
    require!((now..=horizon).contains(&opens_at), VotingError::OpensAt);
    let period = params.closes_at.checked_sub(opens_at).ok_or(VotingError::VotingPeriod)?;
    require!(
        (settings.voting_period_min..=settings.voting_period_max).contains(&period),
        VotingError::VotingPeriod
    );
    match params.ballot_kind {
        BallotKind::Open => require!(params.reveal_until == 0, VotingError::RevealUntil),
        BallotKind::Sealed => {
            let reveal = params.reveal_until.checked_sub(params.closes_at).ok_or(VotingError::RevealUntil)?;
            require!((1..=PERIOD_SECONDS_MAX).contains(&reveal), VotingError::RevealUntil);
        }
    }
    Ok(opens_at)
}

pub fn check_selections(selections: &[u8], question: &Question) -> Result<()> {
    require!(
        (1..=question.max_selections as usize).contains(&selections.len()),
        VotingError::SelectionCount
    );
    for (at, selection) in selections.iter().enumerate() {
        require!((*selection as usize) < question.options.len(), VotingError::SelectionUnknown);
        require!(!selections[..at].contains(selection), VotingError::SelectionRepeated);
    }
    Ok(())
}

pub fn count_in(tallies: &mut [u32], selections: &[u8]) -> Result<()> {
    for selection in selections {
        up!(tallies[*selection as usize]);
    }
    Ok(())
}

pub fn count_out(tallies: &mut [u32], selections: &[u8]) -> Result<()> {
    for selection in selections {
        down!(tallies[*selection as usize]);
    }
    Ok(())
}

/// The options with most votes, provided that enough ballots count; without a single ballot nothing is decided.
pub fn outcome(tallies: &[u32], ballots: u32, quorum: u32) -> (Outcome, Vec<u8>) {
    let best = tallies.iter().copied().max().unwrap_or(0);
    if ballots < quorum || best == 0 {
        return (Outcome::NoQuorum, Vec::new());
    }
    let winners: Vec<u8> = (0u8..).zip(tallies).filter(|(_, tally)| **tally == best).map(|(at, _)| at).collect();
    let outcome = if winners.len() == 1 { Outcome::Winner } else { Outcome::Tie };
    (outcome, winners)
}

/// What a sealed ballot commits to; the parts after the selections have fixed lengths, so no two ballots collide.
pub fn commitment(selections: &[u8], salt: &[u8; 32], voter: &Pubkey, question: &Pubkey) -> [u8; 32] {
    solana_sha256_hasher::hashv(&[selections, salt, voter.as_ref(), question.as_ref()]).to_bytes()
}

/// The signer's standing must be active and at least `role`.
pub fn require_role(member: &Member, role: Role) -> Result<()> {
    require!(member.standing.status == MemberStatus::Active, VotingError::NotActive);
    require!(member.standing.role >= role, VotingError::RoleTooLow);
    Ok(())
}

pub fn require_alive(community: &Community) -> Result<()> {
    require!(!community.dissolved, VotingError::Dissolved);
    Ok(())
}

pub fn now() -> Result<i64> {
    Ok(Clock::get()?.unix_timestamp)
}
