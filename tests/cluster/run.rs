//! One scenario: its buyers, its faults, and what must hold when it is over.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::events::{Figures, Said};
use crate::load::{Campaigns, Load};
use crate::orders::{GivenUp, Ledger, Sold, compare};
use crate::support::sale::{flash_sale, limited, red_packet};
use crate::support::{stderr, stdout, within};
use crate::world::{ALL, World};

/// The longest that a refusal may take once a gate knows that it must refuse, and that a gate may go on refusing when
/// everything is back: what is promised is 50 ms and 2 s; the rest is for a machine that runs all of this at once.
const REFUSAL_MAX: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(10);

/// How long and how hard scenarios are.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Operations a second.
    pub rate: u64,
    /// Of buying before, between and after faults.
    pub calm: Duration,
    /// How long something is gone that is noticed at once.
    pub gone: Duration,
    /// How long something stands still.
    pub still: Duration,
    /// How long the database is away while claims come steadily, and how many a second.
    pub steady: (Duration, u64),
    /// How often what can hit many ways is repeated.
    pub times: usize,
}

impl Scale {
    /// All scenarios once, in a few minutes on two cores.
    pub const SHORT: Self = Self {
        rate: 250,
        calm: Duration::from_millis(600),
        gone: Duration::from_millis(1_200),
        still: Duration::from_secs(3),
        steady: (Duration::from_secs(4), 500),
        times: 6,
    };

    /// For hours.
    pub const LONG: Self = Self {
        rate: 800,
        calm: Duration::from_secs(3),
        gone: Duration::from_secs(5),
        still: Duration::from_secs(10),
        steady: (Duration::from_secs(60), 2_000),
        times: 30,
    };
}

/// A name, and what happens.
pub type Scenario = (&'static str, fn(&mut Run<'_>));

/// A scenario under way.
pub struct Run<'a> {
    /// The system.
    pub world: &'a mut World,
    /// The buyers.
    pub load: Load,
    /// How long everything takes.
    pub scale: Scale,
    /// What was measured.
    pub figures: Figures,
    /// For whatever is left to chance.
    pub random: StdRng,
    /// What an operator has given up.
    pub given_up: GivenUp,
    /// Whether every claim must have been taken, or refused because of what others hold.
    pub takes_all: bool,
}

impl<'a> Run<'a> {
    /// Makes the campaigns, whose names begin with `tag`, and starts the buyers.
    pub fn begin(world: &'a mut World, tag: &str, scale: Scale, seed: u64) -> Self {
        let campaigns = Campaigns::named(tag);
        let (sale, keyed, small, packet) = (&campaigns.sale, &campaigns.keyed, &campaigns.small, &campaigns.packet);
        world.create(0, &flash_sale(&sale.id, sale.stock));
        world.create(1, &limited(&keyed.id, keyed.stock, keyed.limit));
        world.create(2, &flash_sale(&small.id, small.stock));
        world.create(0, &red_packet(&packet.id, packet.stock, packet.total.expect("a red packet's")));
        let load = Load::start(world.listeners(), campaigns, scale.rate, seed);
        let random = StdRng::seed_from_u64(seed);
        let (figures, given_up) = (Figures::default(), GivenUp::default());
        Self { world, load, scale, figures, random, given_up, takes_all: false }
    }

    /// Lets buyers buy for a while; some must have been told yes.
    pub fn calm(&self) {
        let before = self.load.acks();
        std::thread::sleep(self.scale.calm);
        let after = self.load.acks();
        assert!(after > before, "nobody was told yes for {:?}", self.scale.calm);
    }

    /// Waits until each of `gates` has refused something that was asked since `since`.
    pub fn refused(&self, gates: &[usize], since: Instant) {
        within(Duration::from_secs(10), &format!("gates {gates:?} refuse"), || {
            self.load.events().first(gates, since, Said::No)
        });
    }

    /// Waits until each of `gates` has said yes to something that was asked since `since`; how long that took.
    pub fn again(&mut self, gates: &[usize], since: Instant) -> Duration {
        let again = within(AGAIN_MAX * 3, &format!("gates {gates:?} serve again"), || {
            self.load.events().first(gates, since, Said::Yes)
        });
        self.figures.time("serving again after", Some(again));
        assert!(again < AGAIN_MAX, "gates {gates:?} served again only {again:?} after everything was back");
        again
    }

    /// Breaks what `gates` need, waits, and mends it: they refuse quickly meanwhile and serve again soon after; other gates
    /// go on all the while.
    pub fn outage(
        &mut self,
        gates: &[usize],
        time: Duration,
        breaks: impl FnOnce(&mut World),
        mends: impl FnOnce(&mut World),
    ) {
        let down = Instant::now();
        breaks(self.world);
        std::thread::sleep(time);
        self.refused(gates, down);
        let end = Instant::now();
        mends(self.world);
        let up = Instant::now();
        self.again(gates, up);
        let events = self.load.events();
        let others: Vec<_> = ALL.into_iter().filter(|gate| !gates.contains(gate)).collect();
        assert!(others.is_empty() || events.count(&others, down, end, Said::Yes) > 0, "gates {others:?} stood still");
        let slowest = events.refusals(gates, down, end);
        self.figures.time("noticed after", events.noticed(gates, down));
        self.figures.time("refusals within", slowest);
        assert!(slowest.unwrap_or_default() < REFUSAL_MAX, "a refusal took {slowest:?}");
    }

    /// Waits until the workers have brought more to the database than they had at the beginning of this call.
    pub fn drains_on(&mut self, name: &'static str) {
        let start = Instant::now();
        let before = self.world.retired();
        within(Duration::from_secs(30), "the drain goes on", || (self.world.retired()? > before?).then_some(()));
        self.figures.time(name, Some(start.elapsed()));
    }

    /// Ends the buyers, waits for the drain, and holds everything against everything; gives a line of figures.
    pub fn settle(mut self, folder: &Path) -> Result<String, String> {
        self.world.ready(&ALL);
        let time = self.load.time();
        let longest = self.load.events().longest();
        let campaigns: Vec<Sold> = self.load.campaigns().all().into_iter().cloned().collect();
        let tag = self.load.campaigns().tag.clone();
        let ledger = self.load.finish();
        let drained = self.world.drained();
        assert_eq!(self.world.waiting(), Some(0), "entries wait that nobody made");
        self.world.is_sound();
        let rows = self.world.rows(&tag);
        let mut wrong = compare(&ledger, &rows, &campaigns, &mut self.given_up);
        for campaign in &campaigns {
            wrong.extend(balances(self.world, campaign, &rows.held(&campaign.id)));
        }
        wrong.extend(audit(self.world, &ledger, folder, &self.given_up));
        if self.takes_all {
            wrong.extend(not_taken(&ledger));
        }
        self.figures.time("longest answer", Some(longest));
        self.figures.time("drained after", Some(drained));
        if self.given_up.gate.is_some() {
            self.figures.text("given up", self.given_up.missing);
        }
        let line = line(&ledger, time, rows.count(), &self.figures);
        if wrong.is_empty() {
            return Ok(line);
        }
        let _ = fs::write(folder.join("wrong"), wrong.join("\n"));
        let shown = wrong.iter().take(12).cloned().collect::<Vec<_>>().join("\n");
        Err(format!("{} things are wrong, the first of them:\n{shown}\n{line}", wrong.len()))
    }
}

/// Every gate must say of a campaign what the rows say.
fn balances(world: &World, campaign: &Sold, held: &(i64, i64)) -> Vec<String> {
    let mut wrong = Vec::new();
    for gate in ALL {
        let balance = world.balance(gate, &campaign.id);
        let number = |name: &str| balance[name].as_i64();
        let units = number("persisted").zip(number("settled")).map(|(persisted, settled)| persisted + settled);
        let sound = number("error") == Some(0)
            && balance["money"]["error"].as_i64().is_none_or(|error| error == 0)
            && number("accepted") == Some(0)
            && units == Some(held.0)
            && number("free") == number("stock").map(|stock| stock - held.0 - number("dead").unwrap_or(0));
        if !sound {
            wrong.push(format!("gate {gate} says {balance}, and the rows hold {held:?}"));
        }
    }
    wrong
}

/// What the product says of itself; what was given up is named by it, too.
fn audit(world: &World, ledger: &Ledger, folder: &Path, given_up: &GivenUp) -> Option<String> {
    let path = folder.join("receipts");
    fs::write(&path, ledger.receipts()).expect("a file");
    let arguments = ["audit", "--receipts", path.to_str().expect("a path")];
    let audit = world.gates[0].site.run(arguments.into_iter().take(if given_up.missing == 0 { 3 } else { 1 }));
    (!audit.status.success()).then(|| format!("audit: {}{}", stdout(&audit), stderr(&audit)))
}

/// Claims that were refused though nobody else held anything.
fn not_taken(ledger: &Ledger) -> Option<String> {
    let refused: BTreeMap<_, _> =
        ledger.refused.iter().filter(|(slug, _)| !matches!(slug.as_str(), "sold-out" | "already-claimed")).collect();
    let sound = refused.is_empty() && ledger.lost + ledger.unknown == 0;
    (!sound).then(|| format!("not taken: {refused:?}, {} lost, {} unknown", ledger.lost, ledger.unknown))
}

fn line(ledger: &Ledger, time: Duration, rows: usize, figures: &Figures) -> String {
    let acks = ledger.acks();
    let refused: Vec<_> = ledger.refused.iter().map(|(slug, count)| format!("{slug} {count}")).collect();
    format!(
        "{acks} acks ({:.0} a second), {rows} rows, refused [{}], {} unknown, {} lost, {} resolved, {figures}",
        acks as f64 / time.as_secs_f64(),
        refused.join(", "),
        ledger.unknown,
        ledger.lost,
        ledger.resolved,
    )
}
