//! One module a kind of account: the accounts an instruction takes, and what it does.

pub mod community;
pub mod member;
pub mod question;
pub mod vote;

pub use community::*;
pub use member::*;
pub use question::*;
pub use vote::*;
