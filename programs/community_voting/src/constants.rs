//! Bounds. Together they keep every instruction inside one 1,232-byte transaction, also with a separate fee payer and
//! two compute-budget instructions. Lengths count UTF-8 bytes, times are seconds.

use anchor_lang::prelude::*;

#[constant]
pub const COMMUNITY_SEED: &[u8] = b"community";
#[constant]
pub const MEMBER_SEED: &[u8] = b"member";
#[constant]
pub const QUESTION_SEED: &[u8] = b"question";
#[constant]
pub const VOTE_SEED: &[u8] = b"vote";

#[constant]
pub const NAME_BYTES_MAX: u16 = 64;
#[constant]
pub const DESCRIPTION_BYTES_MAX: u16 = 256;
#[constant]
pub const TEXT_BYTES_MAX: u16 = 256;
#[constant]
pub const OPTION_BYTES_MAX: u16 = 40;
#[constant]
pub const OPTIONS_MIN: u8 = 2;
#[constant]
pub const OPTIONS_MAX: u8 = 10;
/// The longest voting period, reveal period, and time between asking and opening.
#[constant]
pub const PERIOD_SECONDS_MAX: i64 = 366 * 86_400;
