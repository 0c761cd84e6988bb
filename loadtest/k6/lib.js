// What the scenarios have in common: parameters, thresholds, the requests, and what counts as a right answer to each.
//
// Parameters come from the environment or -e; ../parameters.json says what they are, and loadtest/k6/run gives them all.
// Everything arrives in an open model: an arrival starts when it is due, whether or not earlier ones have been answered.

import http from 'k6/http';
import { check, sleep } from 'k6';
import { Counter, Trend } from 'k6/metrics';
import exec from 'k6/execution';

const KNOWN = JSON.parse(open('../parameters.json'));
const SKUS = 50;
const DURABILITIES = ['disk', 'redis-aof', 'redis', 'memory'];
// Of each virtual user the first answer that is not expected is shown, of this many of them.
const TALKERS = 20;

// --- parameters -----------------------------------------------------------------------------------------------------

function refuse(name, value, expected) {
  throw new Error(`${name} is ${JSON.stringify(value)}, expected ${expected}`);
}

function seconds(text) {
  const found = /^(\d+(?:\.\d+)?)(ms|s|m|h)$/.exec(text);
  return found ? Number(found[1]) * { ms: 0.001, s: 1, m: 60, h: 3600 }[found[2]] : NaN;
}

function between(name, value, number, known, what) {
  if (!(number >= known.min && number <= known.max)) refuse(name, value, what);
  return number;
}

function parameter(name) {
  const known = KNOWN[name];
  const value = __ENV[name] === undefined || __ENV[name] === '' ? String(known.default) : __ENV[name];
  switch (known.kind) {
    case 'number':
      return between(name, value, /^\d+$/.test(value) ? Number(value) : NaN, known,
        `a whole number from ${known.min} to ${known.max}`);
    case 'duration':
      return between(name, value, seconds(value), known,
        `a duration such as 500ms, 30s or 5m, from ${known.min}s to ${known.max}s`);
    case 'choice':
      if (!known.choices.includes(value)) refuse(name, value, `one of ${known.choices.join(', ')}`);
      return value;
    case 'slugs':
      return value.split(',').filter((slug) => slug !== '');
    default:
      return value;
  }
}

export const RATE = parameter('RATE');
export const DURATION = parameter('DURATION');
export const QUIET = parameter('QUIET');
export const WAIT = parameter('WAIT');
const URL = parameter('URL').replace(/\/+$/, '') || 'http://127.0.0.1:8080';
const CAMPAIGN = parameter('CAMPAIGN') || 'sample-sale';
const BUYERS = parameter('BUYERS');
const HOLDERS = parameter('HOLDERS');
const P99_MS = parameter('P99_MS');
const EXPECT = parameter('EXPECT');
const TIMEOUT = parameter('TIMEOUT');
const SKEW_MS = parameter('SKEW_MS');
const VUS = parameter('VUS');
const TOKEN = parameter('TOKEN');
if (!/^https?:\/\/[^/?#]+$/.test(URL)) refuse('URL', URL, 'http://host[:port] or https://host[:port]');

// --- what is measured -------------------------------------------------------------------------------------------------

const accepted = new Counter('claims_accepted');
const refused = {
  'sold-out': new Counter('claims_sold_out'),
  'not-open': new Counter('claims_not_open'),
  'already-claimed': new Counter('claims_already_claimed'),
};
const expectedToo = new Counter('answers_expected_too');
const unexpected = new Counter('answers_unexpected');
const right = new Counter('answers_right');
const claimMs = new Trend('claim_ms', true);
const cartMs = new Trend('cart_ms', true);
const readMs = new Trend('read_ms', true);
const persistedMs = new Trend('persisted_ms', true);

/** Options of a scenario file: its arrivals, and the thresholds on the answers' times of the kinds it makes. */
export function options(scenarios, kinds) {
  // Counters of nothing are right too where nothing is asked: hence a run without a single right answer fails.
  const thresholds = {
    dropped_iterations: ['count==0'],
    answers_unexpected: ['count==0'],
    answers_right: ['count>0'],
    checks: ['rate==1'],
  };
  for (const kind of kinds) thresholds[`${kind}_ms`] = [`p(99)<${P99_MS}`];
  return {
    scenarios,
    thresholds,
    noConnectionReuse: parameter('CONNECTIONS') === 'new',
    summaryTrendStats: ['min', 'med', 'p(90)', 'p(99)', 'max'],
    // The opening is waited for in setup, and it may be a while.
    setupTimeout: '2h',
  };
}

/** Virtual users for a rate: made beforehand, because one made in mid-run costs k6 the very time it then lacks. */
export function users(rate, share, held) {
  return VUS > 0 ? Math.max(1, Math.ceil(VUS * share)) : Math.max(10, Math.ceil(rate * held));
}

/** A share of RATE at a constant rate; `held` is how many seconds an arrival may be under way before one is dropped. */
export function arrivals(name, share = 1, held = 0.5) {
  return {
    executor: 'constant-arrival-rate',
    exec: name,
    // Rates are whole numbers to k6, shares of small ones are not.
    rate: Math.max(1, Math.round(RATE * share * 100)),
    timeUnit: '100s',
    duration: `${DURATION}s`,
    preAllocatedVUs: users(RATE * share, share, held),
  };
}

// --- requests -----------------------------------------------------------------------------------------------------------

// Refusals are right answers of this server; k6's own count of failed requests is left to what never is.
http.setResponseCallback(http.expectedStatuses({ min: 200, max: 499 }));

function params(name, headers = {}, longer = 0) {
  const all = Object.assign({}, headers);
  if (TOKEN) all.Authorization = `Bearer ${TOKEN}`;
  return { headers: all, tags: { name }, timeout: `${TIMEOUT + longer}s` };
}

function post(name, path, body, headers) {
  const all = Object.assign({ 'Content-Type': 'application/json' }, headers);
  return http.post(`${URL}${path}`, JSON.stringify(body), params(name, all));
}

function get(name, path, etag, longer) {
  return http.get(`${URL}${path}`, params(name, etag ? { 'If-None-Match': etag } : {}, longer));
}

function problem(reply) {
  const type = /"type":"urn:forebay:problem:([a-z-]+)"/.exec(reply.body || '');
  return type ? type[1] : '';
}

let told = false;

function surprise(reply, what) {
  unexpected.add(1);
  if (!told && exec.vu.idInTest <= TALKERS) {
    told = true;
    console.error(`unexpected: ${what}: ${reply.status} ${reply.error} ${String(reply.body || '').slice(0, 300)}`);
  }
}

/** Whether the answer is one of these statuses. What it is otherwise is counted: as expected by EXPECT, or not at all. */
function isRight(reply, statuses, what) {
  if (statuses.includes(reply.status)) {
    right.add(1);
    return true;
  }
  if (EXPECT.includes(problem(reply))) expectedToo.add(1);
  else surprise(reply, what);
  return false;
}

/** A name that no other run has, unless it is given. Called in setup, once. */
function newRun() {
  return parameter('RUN') || `${Date.now().toString(36)}-${Math.floor(Math.random() * 0xffff).toString(16)}`;
}

/** The buyer of this arrival: a new one each time, or one of BUYERS. */
function buyer(data) {
  const n = exec.scenario.iterationInTest;
  return `${data.run}-${exec.scenario.name}-${BUYERS > 0 ? n % BUYERS : n}`;
}

function claimOnce(user, headers) {
  return post('claim', `/v1/campaigns/${CAMPAIGN}/claims`, { user, quantity: 1 }, headers);
}

/** Whose claim it is must be right; a refusal must be one of those that can be right here. Gives the claim, or null. */
function judgeClaim(reply, user, refusals) {
  const slug = problem(reply);
  if (reply.status === 409 && refusals.includes(slug)) {
    right.add(1);
    refused[slug].add(1);
    return null;
  }
  if (!isRight(reply, [202], `a claim of ${user}`)) return null;
  accepted.add(1);
  claimMs.add(reply.timings.duration);
  const claim = reply.json();
  check(claim, {
    "the claim is this buyer's": (c) => c.user === user && c.campaign === CAMPAIGN && c.quantity === 1,
    'it says how durable it is': (c) => DURABILITIES.includes(c.durability),
  });
  return claim;
}

function repeats() {
  return BUYERS > 0 ? ['already-claimed'] : [];
}

// --- what arrivals do ---------------------------------------------------------------------------------------------------

/** Claims that are made before the load, in one batch; their ids are what is polled. */
export function prepareHolders() {
  const run = newRun();
  const claims = [];
  for (let n = 0; n < HOLDERS; n++) claims.push({ user: `${run}-holder-${n}` });
  const reply = post('holders', `/v1/campaigns/${CAMPAIGN}/claims:batch`, { claims });
  if (reply.status !== 200) exec.test.abort(`the claims to poll were answered ${reply.status} ${reply.error} ${reply.body}`);
  const made = reply.json('outcomes').filter((outcome) => outcome.claim);
  if (made.length < claims.length) {
    exec.test.abort(`only ${made.length} of ${claims.length} claims to poll were accepted: ${reply.body.slice(0, 500)}`);
  }
  accepted.add(made.length);
  return { run, holders: made.map((outcome) => outcome.claim.claim_id) };
}

export function prepare() {
  return { run: newRun() };
}

/** Waits until QUIET before the campaign opens, which it reads from the campaign itself. */
export function prepareOpening() {
  const reply = get('page', `/v1/campaigns/${CAMPAIGN}`);
  if (reply.status !== 200) exec.test.abort(`campaign ${CAMPAIGN} was answered ${reply.status} ${reply.error} ${reply.body}`);
  const opensAt = Date.parse(reply.json('opens_at'));
  const left = opensAt - QUIET * 1000 - Date.now();
  if (left < 0) {
    exec.test.abort(`campaign ${CAMPAIGN} opens at ${reply.json('opens_at')}: too late for QUIET=${QUIET}s before it, by ${-left} ms`);
  }
  console.log(`waiting ${(left / 1000).toFixed(1)} s: ${QUIET} s of early claims, then the opening at ${reply.json('opens_at')}`);
  sleep(left / 1000);
  return { run: newRun(), opensAt };
}

/** A claim around the opening instant: before it not-open is right, after it a claim or sold-out. */
export function claimAtOpening(data) {
  const user = buyer(data);
  const asked = Date.now();
  const reply = claimOnce(user);
  const answered = Date.now();
  const slug = problem(reply);
  if (reply.status === 202 && answered < data.opensAt - SKEW_MS) {
    surprise(reply, `accepted ${data.opensAt - answered} ms before the opening`);
  } else if (slug === 'not-open' && asked > data.opensAt + SKEW_MS) {
    surprise(reply, `not open ${asked - data.opensAt} ms after the opening`);
  } else {
    judgeClaim(reply, user, ['not-open', 'sold-out'].concat(repeats()));
  }
}

export function claim(data) {
  const user = buyer(data);
  judgeClaim(claimOnce(user), user, ['sold-out'].concat(repeats()));
}

/** A claim, which one buyer in ten sends twice, as after a lost answer: the second answer must be the first again. */
export function claimAndRetry(data) {
  const user = buyer(data);
  const key = { 'Idempotency-Key': `${user}-order` };
  const first = judgeClaim(claimOnce(user, key), user, ['sold-out'].concat(repeats()));
  if (first === null || exec.scenario.iterationInTest % 10 !== 0) return;
  const again = claimOnce(user, key);
  if (!isRight(again, [202], `a repeated claim of ${user}`)) return;
  check(again, {
    'a repeated claim is the same': (r) => r.json('claim_id') === first.claim_id,
    'and says that it is repeated': (r) => r.headers['Idempotency-Replayed'] === 'true',
  });
}

function change(user, n, op) {
  const body = { sku: `sku-${n % SKUS}`, op };
  if (op !== 'remove') body.quantity = 1 + (n % 3);
  const reply = post('cart', `/v1/carts/${user}/items`, body);
  if (!isRight(reply, [202], `a change of the cart of ${user}`)) return null;
  cartMs.add(reply.timings.duration);
  const answer = reply.json();
  check(answer, { "the change is this buyer's": (a) => a.user === user && a.sku === body.sku && a.version > 0 });
  return answer;
}

/** Eight adds, one set and one remove in ten. */
export function changeCart(data) {
  const n = exec.scenario.iterationInTest;
  change(buyer(data), n, n % 10 === 8 ? 'set' : n % 10 === 9 ? 'remove' : 'add');
}

/** An add, and a look at the cart, which must have it; then a second look that has seen it all. */
export function addAndRead(data) {
  const user = buyer(data);
  const added = change(user, exec.scenario.iterationInTest, 'add');
  if (added === null) return;
  const reply = get('read cart', `/v1/carts/${user}`);
  if (!isRight(reply, [200], `the cart of ${user}`)) return;
  readMs.add(reply.timings.duration);
  const cart = reply.json();
  check(cart, {
    'the cart has what was acknowledged': (c) => c.version >= added.version && c.items.some((i) => i.sku === added.sku),
  });
  const same = get('read cart', `/v1/carts/${user}`, reply.headers.Etag);
  // Another visit of a buyer who comes again may have changed it in between.
  if (isRight(same, BUYERS > 0 ? [200, 304] : [304], `the unchanged cart of ${user}`)) readMs.add(same.timings.duration);
}

// What this virtual user last saw of each claim that it polled.
const seen = {};

/** A look at one of the claims made beforehand, with the ETag of the last look where there was one. */
export function poll(data) {
  const id = data.holders[exec.scenario.iterationInTest % data.holders.length];
  const before = seen[id];
  const reply = get('poll', `/v1/claims/${id}`, before && before.etag);
  if (!isRight(reply, before ? [200, 304] : [200], `claim ${id}`)) return;
  readMs.add(reply.timings.duration);
  if (reply.status === 304) return;
  const claim = reply.json();
  check(claim, { 'a claim never goes back': (c) => c.claim_id === id && c.version >= (before ? before.version : 1) });
  seen[id] = { etag: reply.headers.Etag, version: claim.version };
}

/** A buyer who claims and waits until the row is in the database, then looks at the list of their claims. */
export function follow(data) {
  const user = buyer(data);
  const claim = judgeClaim(claimOnce(user), user, ['sold-out']);
  if (claim === null) return;
  const start = Date.now();
  const reply = get('wait', `/v1/claims/${claim.claim_id}?wait=${WAIT}`, null, WAIT);
  if (!isRight(reply, [200], `waiting for claim ${claim.claim_id}`)) return;
  const persisted = check(reply, { 'the claim is in the database within WAIT': (r) => r.json('status') === 'persisted' });
  if (persisted) persistedMs.add(Date.now() - start);
  const list = get('list', `/v1/users/${user}/claims`);
  if (!isRight(list, [200], `the claims of ${user}`)) return;
  readMs.add(list.timings.duration);
  check(list, { "the buyer's list has the claim": (r) => r.json('claims').some((c) => c.claim_id === claim.claim_id) });
}

let pageTag = null;

/** The sale's page: the campaign, with the ETag of the last look. */
export function page() {
  const reply = get('page', `/v1/campaigns/${CAMPAIGN}`, pageTag);
  if (!isRight(reply, pageTag ? [200, 304] : [200], `campaign ${CAMPAIGN}`)) return;
  readMs.add(reply.timings.duration);
  if (reply.status === 200) pageTag = reply.headers.Etag;
}
