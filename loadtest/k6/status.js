// Status polling: nine in ten arrivals look at one of HOLDERS claims with the ETag of the last look (200 or 304), the tenth
// claims, waits with ?wait= until its row is in the database, and reads the list of its claims.

import { WAIT, arrivals, follow, options as common, poll, prepareHolders } from './lib.js';

export const options = common({
  polls: arrivals('poll', 0.9),
  follows: arrivals('follow', 0.1, WAIT + 1),
}, ['claim', 'read']);

export { follow, poll, prepareHolders as setup };
