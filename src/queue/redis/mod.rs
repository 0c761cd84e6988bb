//! Admission in Redis, for many gates: the book's rules as a library of functions, and what is said to it.
//!
//! The library decides what the book decides: `tests/shared` runs the same commands through both. It is one text in parts, so
//! that each can be read at once; its functions' names carry a digest of it, so that a newer binary can bring its own while
//! gates of the older one run.

pub mod client;
pub mod facts;
pub mod gate;
pub mod holders;
pub mod kept;
pub mod lane;
pub mod poll;
pub mod poller;
pub mod protocol;
pub mod snapshot;
pub mod wishes;

use std::hash::Hasher;
use std::sync::LazyLock;

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::limits;

/// One chunk of Lua in parts, each of which uses those before it.
const TEXT: &str = concat!(
    include_str!("library/state.lua"),
    include_str!("library/claims.lua"),
    include_str!("library/bundle.lua"),
    include_str!("library/campaigns.lua"),
    include_str!("library/carts.lua"),
    include_str!("library/time.lua"),
    include_str!("library/looks.lua"),
    include_str!("library/calls.lua"),
    include_str!("library/workers.lua"),
    include_str!("library/opening.lua"),
);

/// The library as Redis takes it, and what its functions' names begin with.
#[derive(Debug)]
pub struct Library {
    /// The text for `FUNCTION LOAD`.
    pub text: String,
    /// `forebay_` and a digest; an underscore and the function's own name follow.
    pub prefix: String,
}

/// What the functions share with the binary: bounds, and how the keys are laid out.
fn shared() -> String {
    let (keys, quantity, lines) = (limits::ADMIN_KEYS_MAX, limits::CART_QUANTITY_MAX, limits::CART_LINES_MAX);
    let quoted = |names: &[&str]| names.iter().map(|name| format!("\"{name}\", ")).collect::<String>();
    let (fields, stored) = (quoted(&protocol::layout::FIELDS), quoted(&protocol::layout::STORED));
    format!(
        "local ADMIN_KEYS_MAX, CART_QUANTITY_MAX, CART_LINES_MAX = {keys}, {quantity}, {lines}\n\
         local LAYOUT = \"{}\"\nlocal FIELDS = {{ {fields} }}\nlocal STORED = {{ {stored} }}\n",
        protocol::layout::LAYOUT
    )
}

/// This binary's library.
pub static LIBRARY: LazyLock<Library> = LazyLock::new(|| {
    let text = shared() + TEXT;
    let mut hasher = SipHasher13::new();
    hasher.write(text.as_bytes());
    let prefix = format!("forebay_{:016x}", hasher.finish128().h1);
    let text = format!("#!lua name={prefix}\n{}", text.replace("PREFIX_", &format!("{prefix}_")));
    Library { text, prefix }
});

impl Library {
    /// A function's whole name.
    pub fn function(&self, name: &str) -> String {
        format!("{}_{name}", self.prefix)
    }
}
