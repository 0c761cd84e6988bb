//! `forebay export`: all campaigns as static JSON, for a CDN that takes the readers off the server.
//!
//! - The document is that of `GET /v1/campaigns`, but what changes with every claim is left out: `free`, in whose place
//!   stands `sold_out`. Otherwise each claim of a sale would be a new file to fetch, for every reader.
//! - It is asked for, and never computed here: state changes by time are the server's to tell.
//! - What is asked for and what is written are apart: the files are `export/files.rs`'s.

mod files;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::Value;

use self::files::{Published, Target};
use super::client::{self, Call, Client};
use super::{EXIT_OK, load, print};
use crate::config::Overrides;
use crate::engine::signals;
use crate::limits;

const HELP: &str = "\
DIR gets campaigns-<hash>.json, the document of GET /v1/campaigns, named by the first 16 hexadecimal
digits of its SHA-256, and campaigns.json, which names it: {\"file\":…,\"sha256\":…,\"generated_at\":…}.
Let a CDN keep the first for ever and the second for a second.

What changes with every claim is left out: a campaign has no \"free\", but \"sold_out\": true or false, so
that a sale makes a new file when it opens, sells out, is restocked or ends, and not at every claim.

Nothing is rewritten when nothing has changed. The three newest documents are kept; other files in DIR
are not touched.";

/// `forebay export`
#[derive(Debug, Clone, Args)]
#[command(after_help = HELP)]
pub struct ExportArgs {
    /// The folder to write to; it is made where it is missing.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Go on, and write again within about a second of every change, until SIGINT or SIGTERM.
    #[arg(long)]
    pub watch: bool,
    /// The admin listener: host:port, http://host:port or unix:/path. Default: ingest.admin_listen.
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<String>,
}

/// Writes the campaigns once, or until a signal.
///
/// # Errors
/// The folder's, the configuration's, the connection's, or the engine's refusal as a sentence.
pub fn run(file: Option<&Path>, args: &ExportArgs) -> anyhow::Result<u8> {
    let config = load(file, &Overrides::default())?;
    let target = match &args.admin {
        Some(text) => client::Target::parse(text)?,
        None => client::Target::configured(&config)?,
    };
    let client = Client { target, token: config.ingest.admin_token, actor: "export".to_owned() };
    let folder = Target::open(&args.dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if args.watch {
        runtime.block_on(watch(&client, &folder))?;
    } else {
        let document = runtime.block_on(document(&client))?;
        tell(&folder.publish(&document)?)?;
    }
    Ok(EXIT_OK)
}

/// What goes wrong in a round of watching: told once, and once when it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Server,
    Folder,
}

impl Trouble {
    fn over(self) -> &'static str {
        match self {
            Self::Server => "the server is back",
            Self::Folder => "the folder can be written again",
        }
    }
}

/// Renews the files until a signal.
async fn watch(client: &Client, folder: &Target) -> anyhow::Result<()> {
    let ended = signals::first();
    tokio::pin!(ended);
    let mut rounds = tokio::time::interval(Duration::from_millis(limits::EXPORT_POLL_MILLIS));
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut trouble = None;
    loop {
        let round = async {
            rounds.tick().await;
            document(client).await
        };
        let asked = tokio::select! {
            biased;
            signal = &mut ended => return signal.map(|_| ()).context("signals can't be heard"),
            asked = round => asked,
        };
        let done = match asked {
            Err(error) => Err((Trouble::Server, error)),
            Ok(document) => folder.publish(&document).map_err(|error| (Trouble::Folder, error)),
        };
        match done {
            Ok(published) => {
                if let Some(over) = trouble.take().map(Trouble::over) {
                    complain(over);
                }
                if !published.is_unchanged() {
                    tell(&published)?;
                }
            }
            Err((kind, _)) if trouble == Some(kind) => {}
            Err((kind, error)) => {
                complain(&format!("{error:#}; what was written stays, and it is tried again"));
                trouble = Some(kind);
            }
        }
    }
}

fn complain(what: &str) {
    use std::io::Write as _;
    // Standard error may be closed, and then there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "forebay export: {what}");
}

fn tell(published: &Published) -> anyhow::Result<()> {
    let state = if published.is_unchanged() { "unchanged" } else { "written" };
    print(&format!("{} {state}\n", published.path().display()))
}

/// The document to export.
async fn document(client: &Client) -> anyhow::Result<Vec<u8>> {
    let answer = client.ask(&Call::get("/admin/v1/campaigns")).await?;
    let document = exported(answer).with_context(|| format!("{}: is --admin right?", client.target))?;
    Ok(document.to_string().into_bytes())
}

/// The campaigns without what changes at every claim. A campaign's ETag counts its versions, its state and `free`; only the
/// last of them does.
fn exported(mut answer: Value) -> anyhow::Result<Value> {
    let Some(campaigns) = answer.get_mut("campaigns").and_then(Value::as_array_mut) else {
        bail!("the answer has no list of campaigns");
    };
    for campaign in campaigns {
        let Some(campaign) = campaign.as_object_mut() else { bail!("a campaign in the answer is not an object") };
        // What has no stock can't be sold out.
        let is_sold_out = campaign.remove("free").is_some_and(|free| free == 0);
        campaign.insert("sold_out".to_owned(), is_sold_out.into());
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_changes_with_every_claim_gives_way_to_whether_it_is_sold_out() {
        for (free, sold_out) in [(json!(0), true), (json!(1), false), (json!(null), false)] {
            let campaign = json!({"id": "a", "stock": 10, "free": free, "state": "open", "version": 3});
            let expected = json!({"id": "a", "stock": 10, "sold_out": sold_out, "state": "open", "version": 3});
            let given = json!({"campaigns": [campaign]});
            assert_eq!(exported(given).unwrap(), json!({"campaigns": [expected]}));
        }
        assert_eq!(exported(json!({"campaigns": []})).unwrap(), json!({"campaigns": []}));
    }

    #[test]
    fn an_answer_that_is_no_list_of_campaigns_is_refused() {
        for answer in [json!({}), json!([]), json!({"campaigns": {}}), json!({"campaigns": [1]})] {
            assert!(exported(answer.clone()).is_err(), "{answer}");
        }
    }
}
