// The steady sale of steady.js in a closed model, as most tools offer it: each of USERS_CLOSED virtual users sends its next claim
// only once the last one is answered, at a pace that makes RATE as long as nothing is slow. It is here for loadtest/k6/stall, to
// be compared with the open one, and for nothing else: while the server stands still, it asks nothing and so measures nothing.

import { sleep } from 'k6';
import { DURATION, RATE, claim, options as common, prepare } from './lib.js';

const USERS_CLOSED = 10;
const PACE_SECONDS = USERS_CLOSED / RATE;

export const options = common({
  closed: { executor: 'constant-vus', exec: 'paced', vus: USERS_CLOSED, duration: `${DURATION}s` },
}, ['claim']);

export function paced(data) {
  const start = Date.now();
  claim(data);
  sleep(Math.max(0, PACE_SECONDS - (Date.now() - start) / 1000));
}

export { prepare as setup };
