// The opening burst: claims that come too early at a tenth of RATE for QUIET, then RATE from one instant to the next, the one
// at which the campaign opens, for DURATION. Right answers: not-open before it; a claim, or sold-out, after it.

import { DURATION, QUIET, RATE, claimAtOpening, options as common, prepareOpening, users } from './lib.js';

const early = Math.max(1, Math.round(RATE / 10));

export const options = common({
  opening: {
    executor: 'ramping-arrival-rate',
    exec: 'claimAtOpening',
    startRate: early,
    timeUnit: '1s',
    preAllocatedVUs: users(RATE, 1, 1),
    stages: [
      { duration: `${QUIET}s`, target: early },
      { duration: '0s', target: RATE },
      { duration: `${DURATION}s`, target: RATE },
    ],
  },
}, ['claim']);

export { claimAtOpening, prepareOpening as setup };
