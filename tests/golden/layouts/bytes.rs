use anchor_lang::{prelude::*, Discriminator, Event};
use ::layouts::*;

fn key(n: u8) -> Pubkey { Pubkey::new_from_array([n; 32]) }
fn hex(b: &[u8]) -> String { b.iter().map(|x| format!("{:02x}", x)).collect() }
fn line(kind: &str, name: &str, b: &[u8]) { println!("{} {} {}", kind, name, hex(b)); }

fn raw<T: Discriminator>(value: &T) -> Vec<u8> {
    // Padding is written as zeros: the value is built inside zeroed memory, field by field, by its own assignments.
    let bytes = unsafe { std::slice::from_raw_parts(value as *const T as *const u8, std::mem::size_of::<T>()) };
    [T::DISCRIMINATOR, bytes].concat()
}
macro_rules! filled { ($t:ty, $($f:ident = $v:expr),*) => {{ let mut z: $t = unsafe { std::mem::zeroed() }; $( z.$f = $v; )* z }} }

fn gappy(x: u8) -> Gappy { let mut g: Gappy = unsafe { std::mem::zeroed() }; g.x = x; g.y = 258; g.flag = x % 2 == 1; g.z = 1 << 40; g.last = -3; g }
macro_rules! put_gappy { ($place:expr, $n:expr) => {{ let g = gappy($n); unsafe {
  let p = std::ptr::addr_of_mut!($place) as *mut u8;
  std::ptr::write_unaligned(p.add(std::mem::offset_of!(Gappy, x)) as *mut u8, g.x);
  std::ptr::write_unaligned(p.add(std::mem::offset_of!(Gappy, y)) as *mut u16, g.y);
  std::ptr::write_unaligned(p.add(std::mem::offset_of!(Gappy, flag)) as *mut bool, g.flag);
  std::ptr::write_unaligned(p.add(std::mem::offset_of!(Gappy, z)) as *mut u64, g.z);
  std::ptr::write_unaligned(p.add(std::mem::offset_of!(Gappy, last)) as *mut i8, g.last); } }} }

fn main() {
    let side = Side::Limit { price: u64::MAX, note: Some("ü\u{0}\u{feff}".into()) };
    let e = Everything {
        a: 255, b: -128, c: 65535, d: -32768, e: u32::MAX, f: i32::MIN, g: u64::MAX, h: i64::MIN, i: u128::MAX, j: i128::MIN,
        k: f32::INFINITY, l: f64::NEG_INFINITY, m: true, n: vec![1, 2, 255], o: "héllo\u{202e}".into(), p: key(7), q: Some(5), r: None,
        s: vec![None, Some(side.clone()), Some(Side::Bid), Some(Side::Pair(3, -4)), Some(Side::Single(vec![Side2::A, Side2::B])), Some(Side::Empty {})],
        t: [[1, 2], [3, 4], [5, 6]], u: [1, 2, 3, 4, 5], v: vec![[1, 2], [3, 4]],
        w: Holder { pair: Pair { first: Pair { first: 9, rest: [true, false] }, rest: [None, Some(77)] }, tuple: Tuple(4, Some(key(3))), unit: Unit },
        x: [Side2::B, Side2::A, Side2::B], y: vec![vec![], vec![-1, 300]], z: [key(1), key(2)],
    };
    line("event", "Everything", &e.data());
    line("event", "Short", &Short { x: 8 }.data());
    line("event", "Longer", &Longer { x: 8 }.data());
    line("instruction", "everything", &anchor_lang::InstructionData::data(&::layouts::instruction::Everything { amount: 1 << 60, note: "".into(), side: Side::Bid, pair: Pair { first: 1, rest: [2, 3, 4] } }));
    line("instruction", "short", &anchor_lang::InstructionData::data(&::layouts::instruction::Short { x: -2 }));
    line("instruction", "longer", &anchor_lang::InstructionData::data(&::layouts::instruction::Longer {}));
    let mut b = Vec::new();
    AccountSerialize::try_serialize(&Borsh { owner: key(200), side, list: vec![Tuple(1, None), Tuple(2, Some(key(9)))] }, &mut b).unwrap();
    line("account", "Borsh", &b);
    line("account", "Plain", &raw(&filled!(Plain, key = key(11), a = u64::MAX - 1, inner = [Inner { x: 1, pad: [1, 2, 3], y: 9 }, Inner { x: 2, pad: [4, 5, 6], y: u32::MAX }], list = [1, 2, 3, 4])));
    let mut p = filled!(Packed, a = 1, b = u64::MAX - 5, c = 1u128 << 100, flag = true);
    put_gappy!(p.gappy, 1);
    line("account", "Packed", &raw(&p));
    line("account", "PackedTwo", &raw(&filled!(PackedTwo, a = 1, b = 2, c = 3, d = 4, tight = Tight { x: 5, y: 6 }, e = 7)));
    line("account", "PackedFour", &raw(&filled!(PackedFour, a = 1, b = 2, c = 3, e = 1u128 << 90, f = 9)));
    let mut a = filled!(Aligned, a = 3, b = 4, f = 1.5);
    put_gappy!(a.gappy[0], 2);
    put_gappy!(a.gappy[1], 3);
    line("account", "Aligned", &raw(&a));
    line("account", "Unsafe", &raw(&filled!(Unsafe, a = 1, b = 2, tight = [Tight { x: 3, y: 4 }, Tight { x: 5, y: 6 }], c = 7)));
    line("account", "Wide", &raw(&filled!(Wide, a = 1, w = 1u128 << 127, b = 2, v = [-1, i128::MIN], c = 4)));
}
