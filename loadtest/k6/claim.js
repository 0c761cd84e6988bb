// An open-loop sale: claims arrive at a constant rate, however slowly the server answers, each by a new buyer.
//
//   k6 run --no-usage-report -e URL=http://127.0.0.1:8080 -e CAMPAIGN=sample-sale -e RATE=2000 loadtest/k6/claim.js
//
// A request that k6 could not send in time is a dropped iteration, and a single one fails the run: a rate that was not
// really offered proves nothing. A refusal (409 sold-out) is a right answer and counted apart; anything else is a failure.

import http from 'k6/http';
import { check } from 'k6';
import { Counter, Trend } from 'k6/metrics';
import exec from 'k6/execution';

const URL = __ENV.URL || 'http://127.0.0.1:8080';
const CAMPAIGN = __ENV.CAMPAIGN || 'sample-sale';
const RATE = Number(__ENV.RATE || 1000); // claims a second
const DURATION = __ENV.DURATION || '30s';
const P99_MS = Number(__ENV.P99_MS || 50);

const accepted = new Counter('claims_accepted');
const soldOut = new Counter('claims_sold_out');
const other = new Counter('claims_other');
const acceptedMs = new Trend('claim_accepted_ms', true);

export const options = {
  scenarios: {
    sale: {
      executor: 'constant-arrival-rate',
      rate: RATE,
      timeUnit: '1s',
      duration: DURATION,
      // A tenth of a second of arrivals may be under way at once before k6 would have to drop one; all made beforehand,
      // because a virtual user made in mid-run costs k6 the very time it then lacks.
      preAllocatedVUs: Math.max(10, Math.ceil(RATE / 10)),
    },
  },
  thresholds: {
    dropped_iterations: ['count==0'],
    claims_other: ['count==0'],
    checks: ['rate==1'],
    claim_accepted_ms: [`p(99)<${P99_MS}`],
  },
  summaryTrendStats: ['min', 'med', 'p(90)', 'p(99)', 'max'],
};

const params = {
  headers: { 'Content-Type': 'application/json' },
  responseCallback: http.expectedStatuses(202, 409),
  tags: { name: 'claim' },
};

// Runs once: buyers of one run are not those of the run before.
export function setup() {
  return { run: Date.now().toString(36) };
}

export default function (data) {
  const user = `k6-${data.run}-${exec.scenario.iterationInTest}`;
  const reply = http.post(`${URL}/v1/campaigns/${CAMPAIGN}/claims`, JSON.stringify({ user, quantity: 1 }), params);
  if (reply.status === 202) {
    accepted.add(1);
    acceptedMs.add(reply.timings.duration);
    check(reply, { 'the claim is this buyer\'s': (r) => r.json('user') === user });
  } else if (reply.status === 409 && String(reply.json('type')).endsWith('sold-out')) {
    soldOut.add(1);
  } else {
    other.add(1);
    if (exec.scenario.iterationInTest < 10) console.error(`${reply.status} ${reply.error} ${reply.body}`);
  }
}
