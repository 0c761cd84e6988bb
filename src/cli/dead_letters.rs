//! `forebay dead-letters …`: what the database would not take, and what is to become of it, through the admin listener of a
//! running engine.

use std::path::Path;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{AdminArgs, Call, Client, new_idempotency_key};
use super::table::columns;
use super::{EXIT_OK, load, print};
use crate::config::Overrides;
use crate::limits;

const COLLECTION: &str = "/admin/v1/dead-letters";

/// `forebay dead-letters`
#[derive(Debug, Clone, Args)]
pub struct DeadLettersArgs {
    #[command(flatten)]
    pub admin: AdminArgs,
    /// What to do.
    #[command(subcommand)]
    pub action: DeadLettersAction,
}

/// The actions of `forebay dead-letters`
#[derive(Debug, Clone, Subcommand)]
pub enum DeadLettersAction {
    /// List the open ones, oldest first.
    List {
        /// Print one JSON object a line, the payload included, instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Write one as its row, once what was wrong is mended.
    Requeue {
        /// Its number.
        id: u64,
    },
    /// Give one up. A claim is cancelled, and its units are free again.
    Drop {
        /// Its number.
        id: u64,
        /// Why, for the record.
        #[arg(long)]
        reason: String,
    },
    /// Print all open ones as JSON, one object a line, the payload included.
    Export,
}

/// Asks the engine and prints its answer.
///
/// # Errors
/// The configuration's, the connection's, or the engine's refusal as a sentence.
pub fn run(file: Option<&Path>, args: &DeadLettersArgs) -> anyhow::Result<u8> {
    let client = args.admin.client(load(file, &Overrides::default())?)?;
    match &args.action {
        DeadLettersAction::List { json: false } => {
            let all = all(&client)?;
            print(&columns(&["id", "kind", "campaign", "user", "quantity", "amount", "at", "reason"], &all))?;
        }
        DeadLettersAction::List { json: true } | DeadLettersAction::Export => {
            for letter in all(&client)? {
                print(&format!("{letter}\n"))?;
            }
        }
        DeadLettersAction::Requeue { id } => {
            let path = format!("{COLLECTION}/{id}/requeue");
            print(&format!("{:#}\n", client.call(&Call::post(path, &json!({}), new_idempotency_key()?))?))?;
        }
        DeadLettersAction::Drop { id, reason } => {
            let path = format!("{COLLECTION}/{id}/drop");
            let call = Call::post(path, &json!({ "reason": reason }), new_idempotency_key()?);
            print(&format!("{:#}\n", client.call(&call)?))?;
        }
    }
    Ok(EXIT_OK)
}

/// All open letters, page by page.
fn all(client: &Client) -> anyhow::Result<Vec<Value>> {
    let (mut letters, mut cursor) = (Vec::new(), String::new());
    loop {
        let mut page = client.call(&Call::get(format!("{COLLECTION}?limit={}{cursor}", limits::PAGE_MAX)))?;
        if let Some(more) = page["dead_letters"].as_array_mut() {
            letters.append(more);
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(letters),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;

    #[test]
    fn a_letter_is_dropped_with_a_reason_only() {
        let parse = |line: &str| {
            let words = ["forebay", "dead-letters"].into_iter().chain(line.split(' '));
            Cli::try_parse_from(words).map(|cli| match cli.command {
                Command::DeadLetters(args) => args.action,
                other => panic!("{other:?}"),
            })
        };
        assert!(matches!(parse("drop 3 --reason gone"), Ok(DeadLettersAction::Drop { id: 3, .. })));
        assert!(parse("drop 3").is_err());
        assert!(parse("requeue x").is_err());
        assert!(matches!(parse("list --json"), Ok(DeadLettersAction::List { json: true })));
    }
}
