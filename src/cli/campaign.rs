//! `forebay campaign …`: campaigns of a running engine, through its admin listener. The engine checks; nothing is
//! checked here twice.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::client::{AdminArgs, Call, new_idempotency_key};
use super::table::columns;
use super::{EXIT_OK, load, print};
use crate::config::Overrides;

const COLLECTION: &str = "/admin/v1/campaigns";
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');

/// `forebay campaign`
#[derive(Debug, Clone, Args)]
pub struct CampaignArgs {
    #[command(flatten)]
    pub admin: AdminArgs,
    /// Makes a repeated change count once. Default: a new one each time.
    #[arg(long, global = true, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub action: CampaignAction,
}

/// The actions of `forebay campaign`
#[derive(Debug, Clone, Subcommand)]
pub enum CampaignAction {
    /// Create a campaign from a JSON file or from flags.
    Create(Box<CreateArgs>),
    /// List all campaigns.
    List {
        /// Print the engine's JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Show one campaign.
    Show {
        /// The campaign.
        id: String,
    },
    /// Refuse claims for now.
    Pause {
        /// The campaign.
        id: String,
    },
    /// Take claims (again).
    Open {
        /// The campaign.
        id: String,
    },
    /// End it for good.
    Close {
        /// The campaign.
        id: String,
    },
    /// Add units, or take free ones back.
    Restock {
        /// The campaign.
        id: String,
        /// Units (shares of a red packet); negative takes back what is free.
        #[arg(long, value_name = "N", allow_negative_numbers = true)]
        add: i64,
        /// Money for a red packet's added shares, in minor units.
        #[arg(long, value_name = "M", allow_negative_numbers = true)]
        add_total: Option<i64>,
    },
    /// Move the window.
    Rewindow {
        /// The campaign.
        id: String,
        /// RFC 3339, with an offset or Z.
        #[arg(long, value_name = "TIME", required_unless_present = "closes_at")]
        opens_at: Option<String>,
        /// RFC 3339; the campaign takes claims until just before it.
        #[arg(long, value_name = "TIME")]
        closes_at: Option<String>,
    },
}

/// `forebay campaign create`
#[derive(Debug, Clone, Args)]
pub struct CreateArgs {
    /// The campaign as JSON; - reads standard input. Instead of the flags below.
    #[arg(long, value_name = "FILE", conflicts_with = "fields")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub fields: Fields,
}

/// A campaign's fields as flags.
#[derive(Debug, Clone, Args)]
#[group(id = "fields", multiple = true)]
pub struct Fields {
    /// The id, as in /v1/campaigns/{id}.
    #[arg(long, required_unless_present = "file")]
    pub id: Option<String>,
    /// flash_sale, red_packet, coupon or check_in.
    #[arg(long, required_unless_present = "file")]
    pub kind: Option<String>,
    /// For people.
    #[arg(long)]
    pub title: Option<String>,
    /// RFC 3339, with an offset or Z.
    #[arg(long, value_name = "TIME", required_unless_present = "file")]
    pub opens_at: Option<String>,
    /// RFC 3339.
    #[arg(long, value_name = "TIME", required_unless_present = "file")]
    pub closes_at: Option<String>,
    /// Units a buyer may hold.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub per_user_limit: i64,
    /// Units, or a red packet's shares; a check-in has none.
    #[arg(long, value_name = "N")]
    pub stock: Option<i64>,
    /// ISO 4217.
    #[arg(long)]
    pub currency: Option<String>,
    /// Of one unit, in minor units.
    #[arg(long, value_name = "MINOR")]
    pub price: Option<i64>,
    /// Red packet: all shares together, in minor units.
    #[arg(long, value_name = "MINOR")]
    pub total: Option<i64>,
    /// Red packet: the least share.
    #[arg(long, value_name = "MINOR")]
    pub min: Option<i64>,
    /// Red packet: the largest share.
    #[arg(long, value_name = "MINOR")]
    pub max: Option<i64>,
    /// Red packet: random or even.
    #[arg(long)]
    pub split: Option<String>,
    /// Check-in: points a local day.
    #[arg(long, value_name = "N")]
    pub points: Option<i64>,
    /// Check-in: whose calendar counts, such as Asia/Shanghai.
    #[arg(long, value_name = "ZONE")]
    pub time_zone: Option<String>,
    /// A claim that is not settled by then gives its units back, such as 15m.
    #[arg(long, value_name = "DURATION")]
    pub reservation_ttl: Option<String>,
}

impl Fields {
    fn to_json(&self) -> Value {
        let mut out = Map::new();
        let mut put = |name: &str, value: Option<Value>| value.map(|v| out.insert(name.to_owned(), v));
        put("id", self.id.clone().map(Value::from));
        put("kind", self.kind.clone().map(Value::from));
        put("title", self.title.clone().map(Value::from));
        put("opens_at", self.opens_at.clone().map(Value::from));
        put("closes_at", self.closes_at.clone().map(Value::from));
        put("per_user_limit", Some(self.per_user_limit.into()));
        put("stock", self.stock.map(Value::from));
        put("currency", self.currency.clone().map(Value::from));
        put("price", self.price.map(Value::from));
        put("reservation_ttl", self.reservation_ttl.clone().map(Value::from));
        let mut packet = Map::new();
        for (name, amount) in [("total", self.total), ("min", self.min), ("max", self.max)] {
            amount.map(|a| packet.insert(name.to_owned(), a.into()));
        }
        self.split.clone().map(|split| packet.insert("split".to_owned(), split.into()));
        if !packet.is_empty() {
            out.insert("red_packet".to_owned(), packet.into());
        }
        let mut check_in = Map::new();
        self.points.map(|points| check_in.insert("points".to_owned(), points.into()));
        self.time_zone.clone().map(|zone| check_in.insert("time_zone".to_owned(), zone.into()));
        if !check_in.is_empty() {
            out.insert("check_in".to_owned(), check_in.into());
        }
        out.into()
    }
}

/// Asks the engine and prints its answer.
///
/// # Errors
/// The configuration's, the connection's, or the engine's refusal as a sentence.
pub fn run(file: Option<&Path>, args: &CampaignArgs) -> anyhow::Result<u8> {
    let config = load(file, &Overrides::default())?;
    let client = args.admin.client(config)?;
    let answer = client.call(&call(args)?)?;
    match args.action {
        CampaignAction::List { json: false } => print(&table(&answer))?,
        _ => print(&format!("{answer:#}\n"))?,
    }
    Ok(EXIT_OK)
}

fn call(args: &CampaignArgs) -> anyhow::Result<Call> {
    let key = || match &args.idempotency_key {
        Some(key) if key.is_empty() || key.len() > 128 || !key.bytes().all(|b| b.is_ascii_graphic()) => {
            bail!("--idempotency-key {key:?}: expected 1 to 128 visible ASCII characters")
        }
        Some(key) => Ok(key.clone()),
        None => new_idempotency_key(),
    };
    let one = |id: &str| format!("{COLLECTION}/{}", utf8_percent_encode(id, SEGMENT));
    let state = |id: &str, state: &str| Ok(Call::patch(one(id), &json!({ "state": state }), key()?));
    match &args.action {
        CampaignAction::Create(create) => Ok(Call::post(COLLECTION, &definition(create)?, key()?)),
        CampaignAction::List { .. } => Ok(Call::get(COLLECTION)),
        CampaignAction::Show { id } => Ok(Call::get(one(id))),
        CampaignAction::Pause { id } => state(id, "paused"),
        CampaignAction::Open { id } => state(id, "open"),
        CampaignAction::Close { id } => state(id, "closed"),
        CampaignAction::Restock { id, add, add_total } => {
            let mut body = json!({ "add_stock": add });
            if let Some(total) = add_total {
                body["add_total"] = (*total).into();
            }
            Ok(Call::patch(one(id), &body, key()?))
        }
        CampaignAction::Rewindow { id, opens_at, closes_at } => {
            let mut body = Map::new();
            for (name, time) in [("opens_at", opens_at), ("closes_at", closes_at)] {
                time.as_ref().map(|t| body.insert(name.to_owned(), t.as_str().into()));
            }
            Ok(Call::patch(one(id), &body.into(), key()?))
        }
    }
}

fn definition(create: &CreateArgs) -> anyhow::Result<Value> {
    let Some(path) = &create.file else { return Ok(create.fields.to_json()) };
    let mut text = String::new();
    let read = match path.as_os_str() == "-" {
        true => std::io::stdin().read_to_string(&mut text),
        false => std::fs::File::open(path).and_then(|mut f| f.read_to_string(&mut text)),
    };
    read.with_context(|| format!("cannot read --file {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("--file {} is not JSON", path.display()))
}

/// The campaigns as aligned columns.
fn table(answer: &Value) -> String {
    let campaigns = answer.get("campaigns").and_then(Value::as_array);
    columns(
        &["id", "kind", "state", "stock", "free", "opens_at", "closes_at", "title"],
        campaigns.map_or(&[], Vec::as_slice),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;

    fn parse(line: &str) -> Result<CampaignArgs, clap::Error> {
        let words = ["forebay", "campaign"].into_iter().chain(line.split(' '));
        Cli::try_parse_from(words).map(|cli| match cli.command {
            Command::Campaign(args) => args,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn commands_become_requests() {
        let cases = [
            ("list", "GET", "/admin/v1/campaigns", ""),
            ("show a|b", "GET", "/admin/v1/campaigns/a%7Cb", ""),
            ("show ../x", "GET", "/admin/v1/campaigns/..%2Fx", ""),
            ("pause a", "PATCH", "/admin/v1/campaigns/a", r#"{"state":"paused"}"#),
            ("open a", "PATCH", "/admin/v1/campaigns/a", r#"{"state":"open"}"#),
            ("close a", "PATCH", "/admin/v1/campaigns/a", r#"{"state":"closed"}"#),
            ("restock a --add 5", "PATCH", "/admin/v1/campaigns/a", r#"{"add_stock":5}"#),
            ("restock a --add -5", "PATCH", "/admin/v1/campaigns/a", r#"{"add_stock":-5}"#),
            (
                "restock a --add 5 --add-total 900",
                "PATCH",
                "/admin/v1/campaigns/a",
                r#"{"add_stock":5,"add_total":900}"#,
            ),
            ("rewindow a --closes-at T", "PATCH", "/admin/v1/campaigns/a", r#"{"closes_at":"T"}"#),
            (
                "create --id a --kind red_packet --opens-at T --closes-at U --stock 10 --total 100 --split even",
                "POST",
                "/admin/v1/campaigns",
                r#"{"closes_at":"U","id":"a","kind":"red_packet","opens_at":"T","per_user_limit":1,"red_packet":{"split":"even","total":100},"stock":10}"#,
            ),
        ];
        for (line, method, path, body) in cases {
            let args = parse(&format!("{line} --idempotency-key k")).expect(line);
            let shown = format!("{:?}", call(&args).unwrap());
            assert!(shown.contains(&format!("method: {method}, path: {path:?}")), "{line}: {shown}");
            assert!(shown.contains(&format!("body: b{body:?}")), "{line}: {shown}");
            assert_eq!(shown.contains("key: Some(\"k\")"), method != "GET", "{line}: {shown}");
        }
    }

    #[test]
    fn incomplete_or_contradictory_lines_are_refused() {
        for line in [
            "create",
            "create --id a --kind flash_sale",
            "create --file x --id a",
            "create --file x --stock 1",
            "restock a",
            "restock a --add many",
            "rewindow a",
            "show",
            "destroy a",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert!(parse("create --file -").is_ok());
    }

    #[test]
    fn a_change_without_a_key_gets_a_new_one_each_time() {
        let args = parse("pause a").unwrap();
        assert_ne!(format!("{:?}", call(&args).unwrap()), format!("{:?}", call(&args).unwrap()));
    }

    #[test]
    fn the_table_is_aligned_and_free_of_control_characters() {
        let answer = json!({"campaigns": [
            {"id": "sample-sale", "kind": "flash_sale", "state": "open", "stock": 10, "free": 9,
             "opens_at": "T", "closes_at": "U", "title": "\u{1b}[2Jnew"},
            {"id": "b", "kind": "check_in", "state": "paused", "stock": null, "free": null,
             "opens_at": "T", "closes_at": "U", "title": null}]});
        let expected = "\
ID           KIND        STATE   STOCK  FREE  OPENS AT  CLOSES AT  TITLE
sample-sale  flash_sale  open    10     9     T         U          [2Jnew
b            check_in    paused  -      -     T         U          -
";
        assert_eq!(table(&answer), expected);
    }
}
