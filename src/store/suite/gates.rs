//! Which gates there are, and what they have in common.

use crate::store::postgres::PostgresStore;
use crate::store::sqlite::SqliteStore;
use crate::store::{Database, GateState, SharedSecrets};

impl From<SqliteStore> for Database {
    fn from(store: SqliteStore) -> Self {
        Self::Sqlite(Box::new(store))
    }
}

impl From<PostgresStore> for Database {
    fn from(store: PostgresStore) -> Self {
        Self::Postgres(Box::new(store))
    }
}

/// Id, state and who said so, of all.
async fn states(store: &Database) -> Vec<(u128, GateState, String)> {
    store.gates().await.unwrap().into_iter().map(|gate| (gate.id, gate.state, gate.by)).collect()
}

pub(in crate::store) async fn a_gate_is_active_until_it_leaves_and_can_come_back<S: Into<Database>>(store: S) {
    let store: Database = store.into();
    let (a, b) = (7, u128::MAX);
    assert_eq!(store.gates().await, Ok(Vec::new()));
    assert_eq!(store.set_gate(b, GateState::Active, "w1").await, Ok(GateState::Active));
    assert_eq!(store.set_gate(a, GateState::Active, "w1").await, Ok(GateState::Active));
    let first = store.gates().await.unwrap();
    assert!(first.iter().all(|gate| gate.first_seen == gate.changed_at && gate.first_seen.0 > 1_763_640_000_000_000));
    // Said again by somebody else: nothing new.
    assert_eq!(store.set_gate(a, GateState::Active, "w2").await, Ok(GateState::Active));
    assert_eq!(store.gates().await.unwrap(), first);
    assert_eq!(store.set_gate(a, GateState::Left, "the gate\0itself").await, Ok(GateState::Left));
    assert_eq!(
        states(&store).await,
        [(a, GateState::Left, "the gate\u{2400}itself".to_owned()), (b, GateState::Active, "w1".to_owned())]
    );
    assert_eq!(store.set_gate(a, GateState::Active, "w2").await, Ok(GateState::Active));
    let back = store.gates().await.unwrap();
    assert_eq!((back[0].first_seen, &back[1]), (first[0].first_seen, &first[1]));
    assert!(back[0].changed_at > first[0].changed_at);
}

pub(in crate::store) async fn a_gate_that_was_dismissed_stays_so<S: Into<Database>>(store: S) {
    let store: Database = store.into();
    // One that nobody had heard of, too: its registration may be on its way.
    for id in [1, 2] {
        if id == 1 {
            assert_eq!(store.set_gate(id, GateState::Active, "w1").await, Ok(GateState::Active));
        }
        assert_eq!(store.set_gate(id, GateState::Dismissed, "ops").await, Ok(GateState::Dismissed));
        for state in [GateState::Active, GateState::Left] {
            assert_eq!(store.set_gate(id, state, "w1").await, Ok(GateState::Dismissed), "{state:?}");
        }
    }
    let dismissed = |id| (id, GateState::Dismissed, "ops".to_owned());
    assert_eq!(states(&store).await, [dismissed(1), dismissed(2)]);
}

pub(in crate::store) async fn of_secrets_the_first_that_came_count<S: Into<Database>>(store: S) {
    let store: Database = store.into();
    let of = |n: u8| SharedSecrets {
        hash_key: [n; 16],
        receipt_keys: vec![n; usize::from(n) * 100],
        identity: u128::MAX - u128::from(n),
    };
    assert_eq!(store.secrets().await, Ok(None));
    // All at once, and nobody gets a mixture.
    let asked = [of(1), of(2), of(3), of(4)];
    let got = futures(&store, &asked).await;
    let first = got[0].clone();
    assert!(asked.contains(&first) && got.iter().all(|each| *each == first), "{got:?}");
    assert_eq!(store.secrets().await, Ok(Some(first.clone())));
    assert_eq!(store.put_secrets(&of(9)).await, Ok(first.clone()));
    assert!(!format!("{first:?}").contains(&format!("{:?}", first.hash_key)));
}

async fn futures(store: &Database, asked: &[SharedSecrets; 4]) -> Vec<SharedSecrets> {
    let [a, b, c, d] = asked;
    let put = async |secrets| store.put_secrets(secrets).await.unwrap();
    let (a, b, c, d) = tokio::join!(put(a), put(b), put(c), put(d));
    vec![a, b, c, d]
}
