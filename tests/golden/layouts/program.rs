//! Every layout that an Anchor IDL can describe, once.
use anchor_lang::prelude::*;

declare_id!("5zWF1MxmFNPhWMh1h8F5xHnRb6rrcwuQWMLKT1DyzWvT");

#[program]
pub mod layouts {
    use super::*;
    pub fn everything(_ctx: Context<Nothing>, amount: u64, note: String, side: Side, pair: Pair<u8, u16, 3>) -> Result<()> {
        let _ = (amount, note, side, pair);
        Ok(())
    }
    #[instruction(discriminator = [7])]
    pub fn short(_ctx: Context<Nothing>, x: i16) -> Result<()> {
        let _ = x;
        Ok(())
    }
    #[instruction(discriminator = [7, 1])]
    pub fn longer(_ctx: Context<Nothing>) -> Result<()> {
        Ok(())
    }
}

#[derive(Accounts)]
pub struct Nothing<'info> {
    pub payer: Signer<'info>,
    pub plain: AccountLoader<'info, Plain>,
    pub packed: AccountLoader<'info, Packed>,
    pub packed2: AccountLoader<'info, PackedTwo>,
    pub packed4: AccountLoader<'info, PackedFour>,
    pub aligned: AccountLoader<'info, Aligned>,
    pub unsafe_: AccountLoader<'info, Unsafe>,
    pub wide: AccountLoader<'info, Wide>,
    pub borsh: Account<'info, Borsh>,
}

#[derive(AnchorSerialize, AnchorDeserialize, Clone, Debug)]
pub enum Side {
    Bid,
    Limit { price: u64, note: Option<String> },
    Pair(u8, i128),
    Single(Vec<Side2>),
    Empty {},
}

#[derive(AnchorSerialize, AnchorDeserialize, Clone, Copy, Debug)]
pub enum Side2 {
    A,
    B,
}

#[derive(AnchorSerialize, AnchorDeserialize, Clone, Debug)]
pub struct Pair<T: AnchorSerialize + AnchorDeserialize, U: AnchorSerialize + AnchorDeserialize, const N: usize> {
    pub first: T,
    pub rest: [U; N],
}

#[derive(AnchorSerialize, AnchorDeserialize, Clone, Debug)]
pub struct Tuple(pub u8, pub Option<Pubkey>);

#[derive(AnchorSerialize, AnchorDeserialize, Clone, Debug)]
pub struct Unit;

#[derive(AnchorSerialize, AnchorDeserialize, Clone, Debug)]
pub struct Holder {
    pub pair: Pair<Pair<u8, bool, 2>, Option<u32>, 2>,
    pub tuple: Tuple,
    pub unit: Unit,
}

#[event]
pub struct Everything {
    pub a: u8,
    pub b: i8,
    pub c: u16,
    pub d: i16,
    pub e: u32,
    pub f: i32,
    pub g: u64,
    pub h: i64,
    pub i: u128,
    pub j: i128,
    pub k: f32,
    pub l: f64,
    pub m: bool,
    pub n: Vec<u8>,
    pub o: String,
    pub p: Pubkey,
    pub q: Option<u64>,
    pub r: Option<u64>,
    pub s: Vec<Option<Side>>,
    pub t: [[u16; 2]; 3],
    pub u: [u8; 5],
    pub v: Vec<[u8; 2]>,
    pub w: Holder,
    pub x: [Side2; 3],
    pub y: Vec<Vec<i16>>,
    pub z: [Pubkey; 2],
}

#[event(discriminator = [9])]
pub struct Short {
    pub x: u8,
}

#[event(discriminator = [9, 9, 9])]
pub struct Longer {
    pub x: u8,
}

#[account]
pub struct Borsh {
    pub owner: Pubkey,
    pub side: Side,
    pub list: Vec<Tuple>,
}

#[zero_copy]
pub struct Inner {
    pub x: u8,
    pub pad: [u8; 3],
    pub y: u32,
}

#[zero_copy(unsafe)]
#[repr(C)]
pub struct Gappy {
    pub x: u8,
    pub y: u16,
    pub flag: bool,
    pub z: u64,
    pub last: i8,
}

#[zero_copy(unsafe)]
#[repr(C, packed)]
pub struct Tight {
    pub x: u8,
    pub y: u64,
}

#[account(zero_copy)]
pub struct Plain {
    pub key: Pubkey,
    pub a: u64,
    pub inner: [Inner; 2],
    pub list: [u32; 4],
}

#[account(zero_copy(unsafe))]
#[repr(C, packed)]
pub struct Packed {
    pub a: u8,
    pub b: u64,
    pub gappy: Gappy,
    pub c: u128,
    pub flag: bool,
}

#[account(zero_copy(unsafe))]
#[repr(C, packed(2))]
pub struct PackedTwo {
    pub a: u8,
    pub b: u64,
    pub c: u16,
    pub d: u8,
    pub tight: Tight,
    pub e: u32,
}

#[account(zero_copy(unsafe))]
#[repr(C, packed(4))]
pub struct PackedFour {
    pub a: u8,
    pub b: u64,
    pub c: u16,
    pub e: u128,
    pub f: u8,
}

#[account(zero_copy(unsafe))]
#[repr(C, align(32))]
pub struct Aligned {
    pub a: u8,
    pub gappy: [Gappy; 2],
    pub b: u16,
    pub f: f32,
}

#[account(zero_copy(unsafe))]
pub struct Unsafe {
    pub a: u8,
    pub b: u64,
    pub tight: [Tight; 2],
    pub c: u16,
}

// The chain's compiler aligns u128 to 8; packed(8) makes this machine's do the same.
#[account(zero_copy(unsafe))]
#[repr(C, packed(8))]
pub struct Wide {
    pub a: u8,
    pub w: u128,
    pub b: u8,
    pub v: [i128; 2],
    pub c: u32,
}
