//! HTTP as it is spoken: pipelines, HTTP/2, connections that are many, or cut.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;

use crate::support::http::Connection;
use crate::support::sale::{claim, flash_sale};
use crate::support::{Server, Site};

#[test]
fn pipelined_claims_are_answered_in_their_order() {
    let server = crate::shared();
    server.create(&flash_sale("wire-pipeline", 1_000));
    let mut connection = Connection::open(server.public).unwrap();
    let requests: Vec<u8> = (0..200).flat_map(|no| claim("wire-pipeline", &format!("u{no}")).bytes()).collect();
    // In pieces that cut requests anywhere.
    for piece in requests.chunks(997) {
        connection.send(piece).unwrap();
    }
    let users: Vec<_> = (0..200).map(|_| connection.answer().unwrap().expect("an answer").field("user")).collect();
    let expected: Vec<_> = (0..200).map(|no| format!("u{no}")).collect();
    assert_eq!(users, expected);
    assert_eq!(server.balance("wire-pipeline")["free"], 800);
}

#[test]
fn chunked_bodies_and_expectations_are_understood() {
    let server = crate::shared();
    server.create(&flash_sale("wire-chunks", 10));
    let head = "POST /v1/campaigns/wire-chunks/claims HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";
    let mut connection = Connection::open(server.public).unwrap();
    connection.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\n{{\"use\r\n").as_bytes()).unwrap();
    connection.send(b"9\r\nr\":\"c-1\"}\r\n0\r\n\r\n").unwrap();
    assert_eq!(connection.answer().unwrap().expect("an answer").field("user"), "c-1");
    connection.send(format!("{head}Expect: 100-continue\r\nContent-Length: 14\r\n\r\n").as_bytes()).unwrap();
    connection.send(b"{\"user\":\"c-2\"}").unwrap();
    assert_eq!(connection.answer().unwrap().expect("an answer").field("user"), "c-2");
}

#[test]
fn an_empty_body_is_none_however_it_is_framed() {
    let server = crate::shared();
    server.create(&flash_sale("wire-empty", 10));
    for (what, status) in [("settle", "settled"), ("cancel", "cancelled")] {
        let mut connection = Connection::open(server.public).unwrap();
        for (no, framing, body) in [
            (1, "Transfer-Encoding: chunked", "0\r\n\r\n"),
            (2, "Transfer-Encoding: chunked", "0\r\nTrailer: x\r\n\r\n"),
            (3, "Content-Length: 0", ""),
            (4, "X-Nothing: said", ""),
        ] {
            let claim = server.claimed("wire-empty", &format!("{what}-{no}"));
            let path = format!("/v1/claims/{}/{what}", claim["claim_id"].as_str().unwrap());
            connection.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n").as_bytes()).unwrap();
            // The end of the body comes later than its head.
            connection.send(body.as_bytes()).unwrap();
            let answer = connection.answer().unwrap().expect("an answer");
            assert_eq!((answer.status, answer.field("status")), (200, status.to_owned()), "{framing} {body:?}");
        }
    }
    let claim = server.claimed("wire-empty", "filled");
    let path = format!("/v1/claims/{}/settle", claim["claim_id"].as_str().unwrap());
    for (framing, body) in [("Transfer-Encoding: chunked", "1\r\n \r\n0\r\n\r\n"), ("Content-Length: 1", " ")] {
        let mut connection = Connection::open(server.public).unwrap();
        let request = format!("POST {path} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{body}");
        connection.send(request.as_bytes()).unwrap();
        connection.answer().unwrap().expect("an answer").expect(400, "invalid-request");
    }
}

#[test]
fn http_1_0_and_an_absolute_target_are_served() {
    let server = crate::shared();
    let mut connection = Connection::open(server.public).unwrap();
    connection.send(b"GET http://shop.example/v1/campaigns HTTP/1.1\r\nHost: shop.example\r\n\r\n").unwrap();
    assert_eq!(connection.answer().unwrap().expect("an answer").status, 200);
    let mut old = Connection::open(server.public).unwrap();
    old.send(b"GET /v1/campaigns HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(old.answer().unwrap().expect("an answer").status, 200);
}

/// Claims `users` at once over one HTTP/2 connection; gives each answer's status and body.
async fn over_http_2(server: &Server, campaign: &str, users: usize, media: &'static str) -> Vec<(u16, Value)> {
    let stream = tokio::net::TcpStream::connect(server.public).await.expect("the server listens");
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    let driving = tokio::spawn(connection);
    let mut calls = Vec::new();
    for no in 0..users {
        let mut sender = sender.clone();
        let request = hyper::Request::post(format!("http://{}/v1/campaigns/{campaign}/claims", server.public))
            .header("content-type", media)
            .body(Full::new(Bytes::from(format!("{{\"user\":\"h2-{no}\"}}"))))
            .expect("a request");
        calls.push(tokio::spawn(async move {
            sender.ready().await.expect("room for a stream");
            let answer = sender.send_request(request).await.expect("an answer");
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.expect("a whole body").to_bytes();
            (status, serde_json::from_slice(&body).expect("JSON"))
        }));
    }
    drop(sender);
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.expect("no panic"));
    }
    driving.abort();
    answers
}

#[test]
fn http_2_is_spoken_without_an_upgrade_with_many_claims_at_once() {
    let server = crate::shared();
    server.create(&flash_sale("wire-h2", 1_000));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answers = runtime.block_on(over_http_2(server, "wire-h2", 200, "application/json"));
    for (no, (status, claim)) in answers.iter().enumerate() {
        assert_eq!((*status, claim["user"].as_str()), (202, Some(format!("h2-{no}").as_str())), "{claim}");
    }
    let refused = runtime.block_on(over_http_2(server, "wire-h2", 3, "text/plain"));
    assert!(refused.iter().all(|(status, body)| *status == 415 && body["status"] == 415), "{refused:?}");
    let held = runtime.block_on(over_http_2(server, "wire-h2", 200, "application/json"));
    assert!(held.iter().zip(&answers).all(|((s, b), (_, first))| *s == 409 && b["claim_id"] == first["claim_id"]));
    assert_eq!(server.balance("wire-h2")["free"], 800);
}

#[test]
fn a_client_that_goes_away_has_claimed_once_or_not_at_all() {
    let server = crate::shared();
    server.create(&flash_sale("wire-gone", 100));
    for no in 0..50 {
        let mut connection = Connection::open(server.public).unwrap();
        connection.send(&claim("wire-gone", &format!("u{no}")).bytes()).unwrap();
        // Some go at once, some a little later: before, while and after their claims are decided.
        std::thread::sleep(Duration::from_micros(no * 50));
    }
    for no in 0..50 {
        let answer = server.call(&claim("wire-gone", &format!("u{no}")));
        assert!(answer.status == 202 || answer.slug() == "already-claimed", "{}", answer.text());
    }
    let balance = server.drained("wire-gone");
    assert_eq!((&balance["persisted"], &balance["free"]), (&50.into(), &50.into()));
}

#[test]
fn idle_connections_by_the_thousand_leave_room_for_claims() {
    let site = Site::new();
    let server = site.start();
    server.create(&flash_sale("many", 100));
    let idle: Vec<_> = (0..1_500).map(|_| Connection::open(server.public).expect("a connection")).collect();
    crate::support::eventually("they are counted", || {
        server.metric("forebay_connections").is_some_and(|n| n >= 1_500.0)
    });
    server.claimed("many", "u1");
    drop(idle);
    crate::support::eventually("they are gone", || server.metric("forebay_connections").is_some_and(|n| n < 50.0));
}
