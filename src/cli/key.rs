//! `forebay key new`: a service credential. The secret is shown once and kept nowhere; the configuration has its hash.

use std::fmt::Write as _;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};
use rand::TryRngCore as _;
use sha2::{Digest as _, Sha256};

use super::{EXIT_OK, print};
use crate::config::Scope;
use crate::sale::UserId;

/// Begins every key, so that one that leaked is recognised by people and by scanners.
pub const PREFIX: &str = "fbk_";

/// Random bytes of a key: 256 bits, so that one unsalted hash is enough and no slow one is needed a request.
const KEY_BYTES: usize = 32;

/// `forebay key`
#[derive(Debug, Clone, Args)]
pub struct KeyArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: KeyAction,
}

/// The actions of `forebay key`
#[derive(Debug, Clone, Subcommand)]
pub enum KeyAction {
    /// Make a key for a service, and print it with the table to paste into the configuration.
    New(NewKeyArgs),
}

/// `forebay key new`
#[derive(Debug, Clone, Args)]
pub struct NewKeyArgs {
    /// The service's name, for logs.
    #[arg(long)]
    pub name: String,
    /// What it may do: claims:write, claims:settle, carts:write, read; several separated by commas or spaces.
    #[arg(long = "scope", value_name = "SCOPE", required = true, num_args = 1.., value_delimiter = ',', value_parser = scope)]
    pub scopes: Vec<Scope>,
}

fn scope(text: &str) -> Result<Scope, String> {
    let words = || Scope::WORDS.iter().map(|(w, _)| *w).collect::<Vec<_>>().join(", ");
    Scope::parse(text).ok_or_else(|| format!("expected among {}", words()))
}

/// Makes a key and prints it.
///
/// # Errors
/// A name that a configuration would refuse; no randomness from the system.
pub fn run(args: &KeyArgs) -> anyhow::Result<u8> {
    let KeyAction::New(new) = &args.action;
    if let Err(reason) = UserId::parse(&new.name) {
        bail!("--name {:?}: expected {reason}", new.name);
    }
    print(&document(new, &secret()?))?;
    Ok(EXIT_OK)
}

fn secret() -> anyhow::Result<String> {
    let mut bytes = [0; KEY_BYTES];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).context("the system gave no random bytes")?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

fn document(new: &NewKeyArgs, secret: &str) -> String {
    let hash: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
    let mut hex = String::with_capacity(64);
    for byte in hash {
        // Writing to a String can't fail.
        let _ = write!(hex, "{byte:02x}");
    }
    let mut scopes: Vec<_> = new.scopes.iter().map(|s| format!("\"{}\"", s.as_str())).collect();
    let mut seen = std::collections::HashSet::new();
    scopes.retain(|s| seen.insert(s.clone()));
    format!(
        "The key of {name}, to be sent as \"Authorization: Bearer KEY\". Shown once: Forebay keeps only its hash.\n\
         \n\
         {secret}\n\
         \n\
         For the configuration, with ingest.auth = \"service\":\n\
         \n\
         [[service_keys]]\n\
         name = \"{name}\"\n\
         sha256 = \"{hex}\"\n\
         scopes = [{scopes}]\n",
        name = new.name,
        scopes = scopes.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, FileText, Overrides};

    #[test]
    fn what_key_new_prints_is_a_configuration_with_the_hash_of_the_key() {
        let new = NewKeyArgs { name: "orders".into(), scopes: vec![Scope::Read, Scope::ClaimsWrite, Scope::Read] };
        let secret = secret().unwrap();
        assert_eq!(secret.len(), PREFIX.len() + 43, "32 bytes in unpadded base64url");
        let text = document(&new, &secret);
        let (shown, table) = text.split_at(text.find("[[service_keys]]").unwrap());
        assert!(shown.lines().any(|line| line == secret), "{shown}");
        assert!(!table.contains(&secret), "the part to paste must not hold the key itself: {table}");
        let config = Config::from_parts(Some(FileText { name: "f", text: table }), [], &Overrides::default()).unwrap();
        let key = &config.service_keys[0];
        assert_eq!(key.name, "orders");
        assert_eq!(key.sha256, <[u8; 32]>::from(Sha256::digest(secret.as_bytes())));
        assert_eq!(key.scopes, [Scope::Read, Scope::ClaimsWrite]);
    }

    #[test]
    fn two_keys_differ() {
        assert_ne!(secret().unwrap(), secret().unwrap());
    }
}
