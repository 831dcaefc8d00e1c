use anchor_lang::prelude::*;
declare_id!("5zWF1MxmFNPhWMh1h8F5xHnRb6rrcwuQWMLKT1DyzWvT");
#[constant]
pub const LIMIT: u8 = 7;
#[program]
pub mod old_layouts {
    use super::*;
    pub fn swap_base_in_v2(_ctx: Context<Nothing>, amount: u64, hist: FeeHistogram<u8>, other: [u16; 4], p: state::Params) -> Result<()> { Ok(()) }
    pub fn init_1(_ctx: Context<Nothing>, o: Option<Pubkey>, f: f64, d: [[u8; 2]; 3], t: Vec<(u8, u16)>) -> Result<()> { Ok(()) }
}
pub const LEN: usize = 4;
#[derive(Accounts)]
pub struct Nothing<'info> { #[account(mut)] pub payer: Signer<'info>, pub group: Group<'info>, pub maybe: Option<Account<'info, Config>> }
#[derive(Accounts)]
pub struct Group<'info> { pub inside: UncheckedAccount<'info> }
#[derive(AnchorSerialize, AnchorDeserialize)]
pub struct FeeHistogram<T> { pub buckets: [u8; 5], pub one: T }
#[derive(AnchorSerialize, AnchorDeserialize)]
pub struct Params { pub a: u8, pub kind: Kind, pub list: Vec<FeeHistogram<u16>>, pub m: std::collections::HashMap<String, u64> }
#[derive(AnchorSerialize, AnchorDeserialize)]
pub enum Kind { One, Two { x: u8 }, Three(u64, Box<Kind>) }
#[derive(AnchorSerialize, AnchorDeserialize)]
pub struct Tup(pub u8, pub u16);
pub type Alias = u64;
#[account(zero_copy)]
#[repr(C)]
pub struct Config { pub a: u8, pub pad: [u8; 7], pub b: u64, pub key: Pubkey }
#[account]
pub struct Plain { pub x: Alias, pub t: Tup, pub e: external::MyStruct, pub r: Vec<u8> }
#[event]
pub struct Moved { pub by: Pubkey, #[index] pub n: u64, pub k: Kind }
#[error_code]
pub enum Oops { #[msg("bad")] Bad, Worse }
