//! The sample campaigns of `serve --sample`: open now, for anybody to try.

use std::net::SocketAddr;
use std::rc::Rc;

use crate::ingest::Door;
use crate::ingest::admin;
use crate::queue::{AdminRefusal, Outcome};
use crate::sale::{Asked, CampaignSpec, Timestamp};

/// How long they stay open.
const OPEN_FOR_MICROS: i64 = 30 * 86_400 * 1_000_000;

/// Makes them where they are missing.
///
/// # Errors
/// Why one could not be made.
pub async fn create(door: &Rc<Door>) -> anyhow::Result<()> {
    let now = door.app.clock.now();
    for json in specs(now) {
        let spec = CampaignSpec::parse(json.to_string().as_bytes())?;
        let (id, asked) = (spec.id, Asked { by: "serve --sample".to_owned(), key: None });
        if door.app.buffer.campaigns().get(&id).is_some() {
            continue;
        }
        match admin::submit_create(door, spec, asked).await {
            Ok(Outcome::Admin(result)) => match *result {
                Ok(_) | Err(AdminRefusal::Exists(_)) => {}
                Err(refusal) => anyhow::bail!("{id} can't be made: {refusal}"),
            },
            other => anyhow::bail!("{id} can't be made: {other:?}"),
        }
    }
    Ok(())
}

fn specs(now: Timestamp) -> [serde_json::Value; 3] {
    let (opens, closes) = (now.to_string(), now.plus_micros(OPEN_FOR_MICROS).to_string());
    [
        serde_json::json!({
            "id": "sample-sale", "kind": "flash_sale", "title": "A sample sale", "opens_at": opens, "closes_at": closes,
            "per_user_limit": 1, "stock": 10_000, "currency": "CNY", "price": 990,
        }),
        serde_json::json!({
            "id": "sample-packet", "kind": "red_packet", "title": "A sample red packet", "opens_at": opens,
            "closes_at": closes, "per_user_limit": 1, "stock": 1_000, "currency": "CNY",
            "red_packet": {"total": 100_000, "min": 1, "max": null, "split": "random"},
        }),
        serde_json::json!({
            "id": "sample-checkin", "kind": "check_in", "title": "A sample daily check-in", "opens_at": opens,
            "closes_at": closes, "check_in": {"points": 10, "time_zone": "Asia/Shanghai"},
        }),
    ]
}

/// A line to paste that claims a unit.
pub fn line(public: SocketAddr) -> String {
    format!(
        "curl -i -H 'Content-Type: application/json' -d '{{\"user\":\"u1\"}}' http://{public}/v1/campaigns/sample-sale/claims"
    )
}
