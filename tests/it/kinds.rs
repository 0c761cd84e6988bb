//! Coupons and daily check-ins.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::http::Request;
use crate::support::sale::{check_in, claim, coupon, end};
use crate::support::{Site, stdout, within};

#[test]
fn a_coupon_is_claimed_without_an_amount() {
    let server = crate::shared();
    server.create(&coupon("kinds-coupon", 2));
    let held = server.claimed("kinds-coupon", "u1");
    assert_eq!((&held["amount"], &held["currency"]), (&Value::Null, &Value::Null));
    server.call(&claim("kinds-coupon", "u1")).expect(409, "already-claimed");
    server.claimed("kinds-coupon", "u2");
    server.call(&claim("kinds-coupon", "u3")).expect(409, "sold-out");
    let balance = server.drained("kinds-coupon");
    assert_eq!((&balance["persisted"], &balance["money"]["persisted"]), (&json!(2), &json!(0)));
    assert_eq!(server.call(&end(&held, "cancel")).field("status"), "cancelled");
    server.claimed("kinds-coupon", "u3");
}

#[test]
fn a_check_in_gives_points_once_a_day_and_its_balance_is_what_was_acknowledged() {
    let site = Site::new();
    let server = site.start();
    let made = server.create(&check_in("daily", "Asia/Shanghai")).json();
    for (name, value) in [("stock", Value::Null), ("free", Value::Null), ("reservation_ttl", Value::Null)] {
        assert_eq!(made[name], value, "{name}");
    }
    assert_eq!(made["check_in"], json!({"points": 10, "time_zone": "Asia/Shanghai"}));
    let first = server.claimed("daily", "u1");
    assert_eq!((&first["amount"], &first["currency"]), (&json!(10), &Value::Null));
    let again = server.call(&claim("daily", "u1"));
    again.expect(409, "already-claimed");
    assert_eq!(again.field("claim_id"), first["claim_id"].as_str().unwrap());
    (2..200).for_each(|n| drop(server.claimed("daily", &format!("u{n}"))));
    let balance = server.drained("daily");
    for (name, value) in [("stock", Value::Null), ("free", Value::Null), ("persisted", json!(199)), ("error", json!(0))]
    {
        assert_eq!(balance[name], value, "{name}");
    }
    assert_eq!(balance["money"]["persisted"], 1_990);
    let days = site.sql("SELECT DISTINCT local_day FROM points_ledger");
    assert_eq!(days.len(), 1, "{days:?}");
    assert_eq!(site.number("SELECT count(*) FROM points_ledger"), 199);
    assert_eq!(site.number("SELECT sum(points) FROM points_ledger WHERE user_id = 'u7'"), 10);
    let refused = server.call(&end(&first, "cancel"));
    refused.expect(409, "wrong-state");
    assert_eq!(server.metric("forebay_stock_free{campaign=\"daily\"}"), None, "there is no stock to be free");
    server.kill();
    let server = site.start();
    server.call(&claim("daily", "u1")).expect(409, "already-claimed");
    let audit = site.run(["audit"]);
    assert!(audit.status.success(), "{}", stdout(&audit));
    let line = "daily: stock - = free - + accepted 0 + persisted 199 + settled 0 + dead 0, returned 0\n";
    assert!(stdout(&audit).starts_with(line), "{}", stdout(&audit));
    let audit: Value = serde_json::from_str(&stdout(&site.run(["audit", "--json"]))).unwrap();
    let daily = &audit["campaigns"][0];
    assert_eq!((&daily["stock"], &daily["free"], &daily["error"]), (&Value::Null, &Value::Null, &json!(0)), "{daily}");
}

#[test]
fn a_check_in_counts_anew_after_local_midnight() {
    // A day that ends soon somewhere on earth: the zone's offset is whole or half hours, so a server whose clock is that
    // near to one is rare; the property tests cross midnight with a clock of their own. Here two zones a day apart show
    // that the calendar is the campaign's.
    let site = Site::new();
    let server = site.start();
    server.create(&check_in("east", "Pacific/Kiritimati"));
    server.create(&check_in("west", "Pacific/Pago_Pago"));
    server.claimed("east", "u1");
    server.claimed("west", "u1");
    let day = |campaign: &str| {
        let query = format!("SELECT local_day FROM points_ledger WHERE campaign = '{campaign}'");
        within(Duration::from_secs(20), "the points", || site.sql(&query).first().map(|row| row[0].clone()))
    };
    assert!(day("west") < day("east"), "UTC-11 and UTC+14 never have the same date");
}

#[test]
fn what_does_not_fit_a_kind_is_refused_by_the_name_of_its_field() {
    let server = crate::shared();
    let with = |base: Value, name: &str, value: Value| {
        let mut campaign = base;
        campaign[name] = value;
        campaign
    };
    let daily = || check_in("kinds-bad", "Asia/Shanghai");
    for (campaign, field) in [
        (with(daily(), "stock", json!(5)), "stock"),
        (with(daily(), "per_user_limit", json!(2)), "per_user_limit"),
        (with(daily(), "price", json!(5)), "price"),
        (with(daily(), "reservation_ttl", json!("15m")), "reservation_ttl"),
        (with(daily(), "check_in", json!(null)), "check_in"),
        (with(daily(), "check_in", json!({"points": 0, "time_zone": "Asia/Shanghai"})), "check_in.points"),
        (with(daily(), "check_in", json!({"points": 1, "time_zone": "Mars/Olympus"})), "check_in.time_zone"),
        (with(daily(), "check_in", json!({"points": 1})), "check_in.time_zone"),
        (with(coupon("kinds-bad", 5), "price", json!(5)), "price"),
        (with(coupon("kinds-bad", 5), "currency", json!("CNY")), "currency"),
        (with(coupon("kinds-bad", 5), "stock", json!(null)), "stock"),
        (with(coupon("kinds-bad", 5), "reservation_ttl", json!("900")), "reservation_ttl"),
        (with(coupon("kinds-bad", 5), "reservation_ttl", json!("100ms")), "reservation_ttl"),
        (with(coupon("kinds-bad", 5), "reservation_ttl", json!("800h")), "reservation_ttl"),
        (with(coupon("kinds-bad", 5), "kind", json!("lottery")), "kind"),
    ] {
        let answer = server.ask_admin(&Request::post("/admin/v1/campaigns", &campaign));
        answer.expect(400, "invalid-request");
        assert_eq!(answer.field("field"), field, "{campaign}: {}", answer.text());
    }
    let daily = server.create(&check_in("kinds-stockless", "Europe/Berlin"));
    assert_eq!(daily.status, 201);
    let refused = server.change("kinds-stockless", &json!({"add_stock": 5}));
    refused.expect(400, "invalid-request");
    assert_eq!(refused.field("field"), "add_stock");
}
