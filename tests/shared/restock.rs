//! A red packet that is filled up while its shares go out.

use forebay::queue::book::change_digest;
use forebay::queue::redis::protocol::{self, Seen};
use forebay::queue::{AdminAction, AdminCommand, AdminDone};
use forebay::sale::campaign::CampaignPatch;
use forebay::sale::{Asked, CampaignId, CampaignNo, Money, Units};

use crate::draws::START;
use crate::gate::{Gate, bytes};
use crate::leases::{claim, gate};
use crate::redis::Redis;

const PACKET: CampaignNo = CampaignNo(0);

fn look(gate: &mut Gate, margin: u32) -> Seen {
    let said = gate.submit(START, 1_000_000, vec![protocol::look_campaign(PACKET, margin)]).expect("open");
    protocol::looked_campaign(&said.answers[0], margin).expect("a campaign").expect("it is there")
}

/// Changes stock and money by what is given; whether the library took it, or the gate has to look again.
fn change(gate: &mut Gate, seen: &Seen, stock: i64, total: i64) -> bool {
    let patch = CampaignPatch { add_stock: Some(stock), add_total: Some(total), ..CampaignPatch::default() };
    let after = seen.changed(&patch).unwrap_or_else(|error| panic!("{error}"));
    let name = gate.lay(&after.shares);
    let id = CampaignId::parse("p").expect("a name");
    let command = AdminCommand { asked: Asked::default(), action: AdminAction::Change(id, patch) };
    let bytes_of = protocol::change(&command, seen, (&patch, &after.spec), change_digest(&patch), &name);
    let said = gate.submit(START, 1_000_000, vec![bytes_of]).expect("open");
    let outcome = protocol::admin_outcome(bytes(&said.answers[0]), &command).expect("an answer");
    assert!(outcome.is_none() || outcome == Some(Ok(AdminDone::Changed(PACKET))), "{outcome:?}");
    outcome.is_some()
}

fn sell(gate: &mut Gate, from: u32, count: u32) {
    gate.submit(START, 1_000_000, (from..from + count).map(claim).collect()).expect("open");
}

#[test]
fn a_packet_is_filled_up_although_shares_go_out_meanwhile() {
    let redis = Redis::start();
    let gate = &mut gate(&redis, "p", 10);
    for (round, (margin, sold, fits)) in
        [(0, 1, false), (64, 65, false), (64, 40, true), (0, 0, true), (2_000, 30, true)].into_iter().enumerate()
    {
        let seen = look(gate, margin);
        let before = gate.shares("s", PACKET);
        assert_eq!(seen.margin, u64::from(margin).min(before.len() as u64));
        assert_eq!(seen.kept, Money(before[..seen.margin as usize].iter().sum()));
        let first = 1_000 * (round as u32 + 1);
        sell(gate, first, sold);
        assert_eq!(change(gate, &seen, 100, 9_000), fits, "{margin} of margin, {sold} sold");
        let (sold, kept) = (sold as usize, seen.margin as usize);
        let after = gate.shares("s", PACKET);
        if !fits {
            assert_eq!(after, before[sold..], "nothing is done");
            continue;
        }
        assert_eq!(after.len(), before.len() - sold + 100);
        assert_eq!(after[..kept - sold], before[sold..kept], "those before the margin's end stay");
        let sum = |shares: &[i64]| shares.iter().sum::<i64>();
        assert_eq!(sum(&after), sum(&before[sold..]) + 9_000);
        assert!(after.iter().all(|share| *share >= 1));
        assert_eq!((gate.field(PACKET, "left"), gate.field(PACKET, "free") as usize), (sum(&after), after.len()));
    }
    let seen = look(gate, 0);
    assert_eq!(seen.campaign.undrawn(), (seen.campaign.left, Units(seen.campaign.free.0)));
}

#[test]
fn shares_that_came_back_do_not_stand_in_the_way_of_a_change() {
    let redis = Redis::start();
    let gate = &mut gate(&redis, "p", 5);
    let entry = gate.waiting(forebay::sale::Seq(1)).remove(1);
    let forebay::sale::Event::Claimed(held) = entry.event else { panic!("a claim waits") };
    let seen = look(gate, 0);
    let back = forebay::queue::MoveCommand {
        claim_id: held.claim_id,
        campaign: PACKET,
        user: held.user,
        to: forebay::sale::Fate::Cancelled,
        by: "orders".into(),
        reason: "".into(),
    };
    gate.submit(START, 1_000_000, vec![protocol::end(&back, &held.user)]).expect("open");
    let share = held.amount.expect("a share").0;
    assert_eq!(gate.shares("r", PACKET), [share]);
    assert!(change(gate, &seen, -100, -9_000));
    let left: i64 = gate.shares("s", PACKET).iter().sum();
    assert_eq!(gate.field(PACKET, "left"), left + share);
    let seen = look(gate, 0);
    assert_eq!(seen.campaign.undrawn(), (Money(left), Units(895)));
}
